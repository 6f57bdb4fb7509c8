"""Sharpness-aware optimisers: wrappers of any base optimiser that look at the loss near the weights, not only there."""

from landform.losses.gradient_variance import GradientVarianceInconsistency, last_layer_sample_grads
from landform.optim.sharpness.curve import sharpness
from landform.optim.sharpness.gsam import GSAM
from landform.optim.sharpness.norm_stats import frozen_norm_stats
from landform.optim.sharpness.perturb import perturb_inputs
from landform.optim.sharpness.sagm import SAGM
from landform.optim.sharpness.sam import SAM
from landform.optim.sharpness.udim import UDIM

__all__ = [
    "GSAM",
    "SAGM",
    "SAM",
    "UDIM",
    "GradientVarianceInconsistency",
    "frozen_norm_stats",
    "last_layer_sample_grads",
    "perturb_inputs",
    "sharpness",
]
