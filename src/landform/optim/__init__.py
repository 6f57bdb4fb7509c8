"""How the loss is minimised: learning-rate schedules, sharpness-aware optimisers, exact optimisation on quadratics."""

from landform.optim import quadratic, schedules, sharpness
from landform.optim.quadratic import (
    QuadraticProblem,
    chebyshev_residual,
    chebyshev_steps,
    quadratic_problem,
    residual_curve,
    second_moments,
    worst_case_residual,
)
from landform.optim.schedules import *  # noqa: F403
from landform.optim.schedules import __all__ as _schedules
from landform.optim.sharpness import GSAM, SAGM, SAM, UDIM, perturb_inputs

__all__ = [
    "GSAM",
    "SAGM",
    "SAM",
    "UDIM",
    "QuadraticProblem",
    "chebyshev_residual",
    "chebyshev_steps",
    "perturb_inputs",
    "quadratic",
    "quadratic_problem",
    "residual_curve",
    "schedules",
    "second_moments",
    "sharpness",
    "worst_case_residual",
    *_schedules,
]
