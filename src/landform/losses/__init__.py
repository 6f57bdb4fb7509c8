"""What is minimised: losses as ``nn.Module``s, ``(prediction, target) -> scalar``."""

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

__all__ = [
    "BinaryFocalLoss",
    "BoxCoxSchedule",
    "EnsLoss",
    "ExponentialLoss",
    "HingeLoss",
    "LogisticLoss",
    "MarginLoss",
    "MulticlassEnsLoss",
    "TailedHingeLoss",
    "calibrated_derivatives",
    "calibration_violations",
    "inverse_box_cox",
    "is_calibrated_sequence",
    "one_vs_rest_margins",
    "pairwise_margins",
    "signed_margins",
]
