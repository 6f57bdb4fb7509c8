"""How the loss is minimised: learning-rate schedules and exact optimisation on quadratics."""

from landform.optim import quadratic, schedules
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

__all__ = [
    "QuadraticProblem",
    "chebyshev_residual",
    "chebyshev_steps",
    "quadratic",
    "quadratic_problem",
    "residual_curve",
    "schedules",
    "second_moments",
    "worst_case_residual",
    *_schedules,
]
