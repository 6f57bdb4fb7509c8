"""What is minimised: losses as ``nn.Module``s, ``(prediction, target) -> scalar``."""

from landform.losses.active_passive import ActivePassiveLoss, NCEandAGCELoss, NCEandAULLoss, NCEandRCELoss
from landform.losses.adaptive_ldr import AdaptiveLDRKLLoss
from landform.losses.base import ClassificationLoss
from landform.losses.binary import (
    BinaryFocalLoss,
    ExponentialLoss,
    HingeLoss,
    LogisticLoss,
    MarginLoss,
    TailedHingeLoss,
    signed_margins,
)
from landform.losses.ensloss import (
    BoxCoxSchedule,
    EnsLoss,
    MulticlassEnsLoss,
    calibrated_derivatives,
    calibration_violations,
    inverse_box_cox,
    is_calibrated_sequence,
    one_vs_rest_margins,
    pairwise_margins,
)
from landform.losses.episodic import BatchHardTripletLoss, ICNNLoss, ProtoTripletLoss, PrototypicalLoss
from landform.losses.gradient_variance import GradientVarianceInconsistency, last_layer_sample_grads
from landform.losses.ldr import LDRKLLoss, general_ldr, soft_maximum
from landform.losses.margin_control import MarginControlLoss, margin_penalty
from landform.losses.multiclass_margin import CrammerSingerLoss, WestonWatkinsLoss
from landform.losses.noise_robust import (
    GCELoss,
    JSLoss,
    MAELoss,
    MSELoss,
    RLLLoss,
    SCELoss,
    TruncatedGCELoss,
    log_likelihood,
)
from landform.losses.reciprocal import ReciprocalPointLoss, confusing_sample_entropy
from landform.losses.selective_distillation import SelectiveDistillationLoss
from landform.losses.smoothing import LabelSmoothingCrossEntropy

__all__ = [
    "ActivePassiveLoss",
    "AdaptiveLDRKLLoss",
    "BatchHardTripletLoss",
    "BinaryFocalLoss",
    "BoxCoxSchedule",
    "ClassificationLoss",
    "CrammerSingerLoss",
    "EnsLoss",
    "ExponentialLoss",
    "GCELoss",
    "GradientVarianceInconsistency",
    "HingeLoss",
    "ICNNLoss",
    "JSLoss",
    "LDRKLLoss",
    "LabelSmoothingCrossEntropy",
    "LogisticLoss",
    "MAELoss",
    "MSELoss",
    "MarginControlLoss",
    "MarginLoss",
    "MulticlassEnsLoss",
    "NCEandAGCELoss",
    "NCEandAULLoss",
    "NCEandRCELoss",
    "ProtoTripletLoss",
    "PrototypicalLoss",
    "RLLLoss",
    "ReciprocalPointLoss",
    "SCELoss",
    "SelectiveDistillationLoss",
    "TailedHingeLoss",
    "TruncatedGCELoss",
    "WestonWatkinsLoss",
    "calibrated_derivatives",
    "calibration_violations",
    "confusing_sample_entropy",
    "general_ldr",
    "inverse_box_cox",
    "is_calibrated_sequence",
    "last_layer_sample_grads",
    "log_likelihood",
    "margin_penalty",
    "one_vs_rest_margins",
    "pairwise_margins",
    "signed_margins",
    "soft_maximum",
]
