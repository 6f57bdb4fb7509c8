"""Sharpness-aware optimisers: wrappers of any base optimiser that look at the loss near the weights, not only there."""

from landform.optim.sharpness.gsam import GSAM
from landform.optim.sharpness.norm_stats import frozen_norm_stats
from landform.optim.sharpness.sagm import SAGM
from landform.optim.sharpness.sam import SAM

__all__ = ["GSAM", "SAGM", "SAM", "frozen_norm_stats"]
