"""Per-sample gradients: exact, by layer-wise closed forms, their norms and products, and random projections of them."""

from landform.training.per_sample.gradients import per_sample_grad_dot, per_sample_grad_norms, per_sample_gradients
from landform.training.per_sample.projection import random_projection

__all__ = [
    "per_sample_grad_dot",
    "per_sample_grad_norms",
    "per_sample_gradients",
    "random_projection",
]
