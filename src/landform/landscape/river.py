"""River valleys: losses with steep hillsides over a floor that slopes gently along a curve, and what SGD does there.

In closed form: how fast the floor is followed, how high noise holds the iterate up the hillsides at each rate, and the
decay of the rate that brings it down soonest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from landform.optim.quadratic import check_etas, second_moments

Kind = Literal["straight", "curved"]


@dataclass(frozen=True, eq=False)
class RiverValley:
    """A loss on points w = (x, y_1, …, y_n), one coordinate along the river and n up the hillsides.

        L(x, y) = −s x + ½ Σ_i h_i (y_i − c(x))²,   c(x) = A sin(omega x)

    Its river, as h → ∞, is y = c(x), which gradient flow follows at the speed dx/dtau = s/(1 + n c'(x)²). With A = 0 it
    is straight, and everything about SGD on it is known exactly. All methods take ``(*batch, 1 + n)`` and compute in
    float64.

    Attributes:
        curvatures: h, all positive.
        slope: s.
        amplitude, omega: A and omega.
        noise: sigma, the standard deviation of the gradient's noise in each of the hill coordinates.

    Source: arXiv 2410.05192, whose river is the curve where the gradient is an eigenvector of the Hessian for its
    smallest eigenvalue; the closed forms are derived.
    """

    curvatures: Float[Tensor, " n"]
    slope: float
    amplitude: float
    omega: float
    noise: float

    @property
    def dim_hill(self) -> int:
        return len(self.curvatures)

    def floor(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """c(x), where every hill coordinate has its least loss."""
        return self.amplitude * torch.sin(self.omega * torch.as_tensor(x, dtype=torch.float64))

    def river(self, x: Float[Tensor, "*batch"] | float) -> Float[Tensor, "*batch dim"]:
        """The point of the river at x: (x, c(x), …, c(x))."""
        x = torch.as_tensor(x, dtype=torch.float64)
        return torch.cat([x[..., None], self.floor(x)[..., None].expand(*x.shape, self.dim_hill)], dim=-1)

    def project(self, w: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """How far along the river w is, x, and its hill loss ½ Σ_i h_i (y_i − c(x))²."""
        x, height = self._split(w)
        return x, (self.curvatures * height**2).sum(-1) / 2

    def loss(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        x, hill = self.project(w)
        return hill - self.slope * x

    def grad(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The gradient, without noise."""
        x, height = self._split(w)
        pull = self.curvatures * height
        along = -self.slope - pull.sum(-1) * self._tilt(x)
        return torch.cat([along[..., None], pull], dim=-1)

    def hessian(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim dim"]:
        x, height = self._split(w)
        tilt = self._tilt(x)
        bend = -(self.omega**2) * self.floor(x)
        matrix = torch.zeros(*x.shape, self.dim_hill + 1, self.dim_hill + 1, dtype=torch.float64)
        matrix[..., 1:, 1:] = torch.diag(self.curvatures)
        matrix[..., 0, 1:] = matrix[..., 1:, 0] = -self.curvatures * tilt[..., None]
        matrix[..., 0, 0] = (self.curvatures * (tilt[..., None] ** 2 - height * bend[..., None])).sum(-1)
        return matrix

    def misalignment(self, w: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """The sine of the angle between the gradient and the Hessian's flattest direction: 0 exactly on the river."""
        gradient = self.grad(w)
        return (gradient - self._along(w, gradient)).norm(dim=-1) / gradient.norm(dim=-1)

    def projected_flow(
        self, start: Float[Tensor, "*batch dim"], time: float, steps: int = 1000
    ) -> Float[Tensor, "points *batch dim"]:
        """The flow along the river, dw/dtau = −P(w) grad L(w), P projecting on the Hessian's flattest direction.

        Integrated by the classical Runge-Kutta method; entry 0 of ``points`` = steps + 1 is the start.
        """
        return self._integrated(lambda w: -self._along(w, self.grad(w)), start, time, steps)

    def gradient_flow(
        self, start: Float[Tensor, "*batch dim"], time: float, steps: int = 1000
    ) -> Float[Tensor, "points *batch dim"]:
        """dw/dtau = −grad L(w), integrated likewise: stable if time/steps · max h is below 2.7."""
        return self._integrated(lambda w: -self.grad(w), start, time, steps)

    def river_time(self, x: Float[Tensor, "*batch"] | float) -> Float[Tensor, "*batch"]:
        """The time tau that the river takes from 0 to x, in the limit h → ∞.

        tau = (1/s) ∫₀ˣ (1 + n c'(u)²) du = (1/s) [x + n A² omega² (x/2 + sin(2 omega x)/(4 omega))]
        """
        x = torch.as_tensor(x, dtype=torch.float64)
        detour = x / 2 + torch.sin(2 * self.omega * x) / (4 * self.omega)
        return (x + self.dim_hill * (self.amplitude * self.omega) ** 2 * detour) / self.slope

    def river_progress(self, time: Float[Tensor, "*batch"] | float) -> Float[Tensor, "*batch"]:
        """Where the river is at that time: the inverse of :meth:`river_time`, by bisection."""
        time = torch.as_tensor(time, dtype=torch.float64)
        # The speed lies between s/(1 + n A² omega²) and s.
        slow = 1 + self.dim_hill * (self.amplitude * self.omega) ** 2
        low, high = torch.minimum(time, time / slow) * self.slope, torch.maximum(time, time / slow) * self.slope
        for _ in range(60):
            middle = (low + high) / 2
            early = self.river_time(middle) < time
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2

    def sgd(
        self,
        start: Float[Tensor, "*batch dim"],
        etas: ArrayLike | Float[Tensor, "*batch T"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "updates *batch dim"]:
        """The iterates of w <- w − eta_t (grad L(w) + sigma xi), xi standard normal in the hill coordinates, else 0.

        Arguments:
            start: one point a run.
            etas: the rates, of every run or (leading axes) of each.
            generator: draws xi.

        Returns: entry 0 along ``updates`` = T + 1 is the start.
        """
        w = start.double()
        self._split(w)
        path = [w]
        for eta in check_etas(etas)[..., None].unbind(-2):
            xi = torch.randn(w.shape, dtype=torch.float64, generator=generator)
            xi[..., 0] = 0
            w = w - eta * (self.grad(w) + self.noise * xi)
            path.append(w)
        return torch.stack(path)

    def sgd_moments(
        self, etas: ArrayLike | Float[Tensor, "*batch T"], start: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, "*batch updates n"]:
        """E y_i² before and after each of T updates of SGD, exactly; only of a straight valley.

            v_i <- (1 − eta_t h_i)² v_i + eta_t² sigma²

        Arguments:
            etas: the rates; leading axes are independent runs.
            start: E y_i² before the first update; 0 unless given.

        Raises:
            ValueError: a curved valley.
        """
        self._check_straight("sgd_moments")
        start = torch.zeros_like(self.curvatures) if start is None else torch.as_tensor(start, dtype=torch.float64)
        return second_moments(self.curvatures, etas, self.noise, start)

    def expected_hill_loss(
        self, etas: ArrayLike | Float[Tensor, "*batch T"], start: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, "*batch updates"]:
        """½ Σ_i h_i E y_i² before and after each update, see :meth:`sgd_moments`."""
        return (self.curvatures * self.sgd_moments(etas, start)).sum(-1) / 2

    def expected_progress(self, etas: ArrayLike | Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch updates"]:
        """E x_t − x_0 = s Σ eta: in a straight valley, progress depends on the sum of the rates alone."""
        self._check_straight("expected_progress")
        sums = check_etas(etas).cumsum(-1)
        return self.slope * torch.cat([torch.zeros_like(sums[..., :1]), sums], dim=-1)

    def stationary_moments(self, eta: float) -> Float[Tensor, " n"]:
        """E y_i² that a constant rate settles at in a straight valley: eta sigma²/(h_i (2 − eta h_i)).

        Raises:
            ValueError: a curved valley, or a rate at which SGD diverges, eta h_i ≥ 2.
        """
        self._check_straight("stationary_moments")
        return eta * self.noise**2 / (self.curvatures * (2 - self._stable(eta) * self.curvatures))

    def stationary_hill_loss(self, eta: float) -> float:
        """Σ_i eta sigma²/(2 (2 − eta h_i)), about eta sigma² n/4: see :meth:`stationary_moments`."""
        return float((self.curvatures * self.stationary_moments(eta)).sum()) / 2

    def _split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """x, and the heights y − c(x)."""
        if w.ndim == 0 or w.shape[-1] != self.dim_hill + 1:
            raise ValueError(f"w has shape {tuple(w.shape)}; the last axis must be 1 + dim_hill = {self.dim_hill + 1}")
        w = w.double()
        return w[..., 0], w[..., 1:] - self.floor(w[..., 0])[..., None]

    def _tilt(self, x: Tensor) -> Tensor:
        """c'(x)."""
        return self.amplitude * self.omega * torch.cos(self.omega * x)

    def _along(self, w: Tensor, vector: Tensor) -> Tensor:
        """The part of ``vector`` in the Hessian's flattest direction."""
        flattest = torch.linalg.eigh(self.hessian(w)).eigenvectors[..., 0]
        return (flattest * vector).sum(-1, keepdim=True) * flattest

    def _integrated(self, velocity: Callable[[Tensor], Tensor], start: Tensor, time: float, steps: int) -> Tensor:
        if not 0 < time < math.inf:
            raise ValueError(f"time={time}: must be positive and finite")
        if steps < 1:
            raise ValueError(f"steps={steps}: must be at least 1")
        step = time / steps
        w = start.double()
        path = [w]
        for _ in range(steps):
            k1 = velocity(w)
            k2 = velocity(w + step / 2 * k1)
            k3 = velocity(w + step / 2 * k2)
            k4 = velocity(w + step * k3)
            w = w + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            path.append(w)
        return torch.stack(path)

    def _stable(self, eta: float) -> float:
        steepest = float(self.curvatures.max())
        if not 0 < eta < 2 / steepest:
            raise ValueError(f"eta={eta}: must be positive, and below 2/max h = {2 / steepest:.4g} to settle")
        return eta

    def _check_straight(self, what: str) -> None:
        if self.amplitude:
            raise ValueError(f"amplitude={self.amplitude}: {what} is known in closed form only for a straight valley")


def river_valley(
    kind: Kind = "straight",
    dim_hill: int = 1,
    curvatures: float | Sequence[float] | Float[Tensor, " n"] = 50.0,
    slope: float = 1.0,
    amplitude: float = 1.0,
    omega: float = 0.5,
    *,
    noise: float = 0.0,
) -> RiverValley:
    """A straight or curved river valley; see :class:`RiverValley`.

    Arguments:
        kind: "straight" ignores amplitude and omega.
        dim_hill: n, the number of hill coordinates.
        curvatures: h of each, or one for all.
        slope: s, of the river's descent.
        amplitude, omega: of its bends c(x) = amplitude · sin(omega x).
        noise: sigma, of the gradient in the hill coordinates.

    Raises:
        ValueError: an unknown kind, no hill, curvatures that are not as many or not positive, a slope or omega that is
            not positive, a negative noise.

    >>> valley = river_valley("straight", dim_hill=2, curvatures=[10.0, 20.0], noise=1.0)
    >>> round(valley.stationary_hill_loss(0.05), 6)
    0.041667
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: must be one of {get_args(Kind)}")
    if isinstance(dim_hill, bool) or not isinstance(dim_hill, int) or dim_hill < 1:
        raise ValueError(f"dim_hill={dim_hill!r}: must be a whole number, at least 1")
    h = torch.as_tensor(curvatures, dtype=torch.float64)
    if h.ndim == 0:
        h = h.repeat(dim_hill)
    if h.shape != (dim_hill,):
        raise ValueError(f"curvatures have shape {tuple(h.shape)}; must be one, or dim_hill={dim_hill} of them")
    if not bool(((h > 0) & h.isfinite()).all()):
        raise ValueError(f"curvatures={h.tolist()}: must be positive and finite")
    for name, value in (("slope", slope), ("omega", omega)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be positive and finite")
    if not math.isfinite(amplitude):
        raise ValueError(f"amplitude={amplitude}: must be finite")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise}: a standard deviation is finite and at least 0")
    return RiverValley(h, float(slope), float(amplitude) if kind == "curved" else 0.0, float(omega), float(noise))


def optimal_rates(
    curvature: float, noise: float, moment: float, steps: int
) -> tuple[Float[Tensor, " steps"], Float[Tensor, " updates"]]:
    """The rates that minimise E y² on a noisy quadratic after every one of so many updates, and E y² at each.

        eta_k = h v_k/(h² v_k + sigma²),   1/v_{k+1} = 1/v_k + h²/sigma²

    Greedy is best here: the least v_{k+1} grows with v_k. So 1/eta and 1/v are linear in time, 1/eta_k = 1/eta_0 + h k.

    Arguments:
        curvature: h.
        noise: sigma, positive.
        moment: v_0 = E y² before the first update, positive.

    Returns: the rates, and the moments before and after each update (steps + 1 of them), float64.

    Raises:
        ValueError: an argument that is not positive and finite, fewer than 1 step.

    Source: arXiv 2410.05192, which derives the inverse decay so.

    >>> rates, moments = optimal_rates(curvature=2.0, noise=1.0, moment=0.5, steps=3)
    >>> 1 / rates, 1 / moments
    (tensor([3.0000, 5.0000, 7.0000], dtype=torch.float64), tensor([ 2.,  6., 10., 14.], dtype=torch.float64))
    """
    for name, value in (("curvature", curvature), ("noise", noise), ("moment", moment)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be positive and finite")
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    k = torch.arange(steps + 1, dtype=torch.float64)
    moments = 1 / (1 / moment + k * (curvature / noise) ** 2)
    rates = curvature * moments[:-1] / (curvature**2 * moments[:-1] + noise**2)
    return rates, moments


def optimal_decay(eta: float, curvature: float, steps: int) -> Float[Tensor, " steps"]:
    """The best rates to decay with where a constant rate has settled: eta_k = eta/(2 + eta h k), k = 0, 1, …

    They are :func:`optimal_rates` from the stationary moment of ``eta``, whatever the noise.

    Raises:
        ValueError: a curvature that is not positive, a rate that does not settle (eta h ≥ 2), fewer than 1 step.

    >>> optimal_decay(0.5, 2.0, 3).tolist()
    [0.25, 0.16666666666666666, 0.125]
    """
    if not 0 < curvature < math.inf:
        raise ValueError(f"curvature={curvature}: must be positive and finite")
    if not 0 < eta * curvature < 2:
        raise ValueError(f"eta={eta}: must be positive, and below 2/h = {2 / curvature:.4g} to settle")
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    return eta / (2 + eta * curvature * torch.arange(steps, dtype=torch.float64))


def valley_depth(profile: ArrayLike | Float[Tensor, " n"]) -> float:
    """How far a loss profile between two models dips below both of its ends: min(ends) − min(inside), at least 0.

    Positive between two models on opposite hillsides of one valley: the way between them crosses the river. Profiles
    are measured by :func:`landform.landscape.connectivity.interpolation_curve`.

    Raises:
        ValueError: fewer than 3 values, or values that are not finite.

    >>> valley_depth([1.0, 0.5, 0.75, 0.8]), valley_depth([1.0, 0.9, 0.8])
    (0.30000000000000004, 0.0)
    """
    values = torch.as_tensor(profile, dtype=torch.float64)
    if values.ndim != 1 or len(values) < 3:
        raise ValueError(f"profile has shape {tuple(values.shape)}; it must be a vector of at least 3 losses")
    if not bool(values.isfinite().all()):
        raise ValueError("profile: has values that are not finite")
    ends = torch.minimum(values[0], values[-1])
    return max(float(ends - values.min()), 0.0)


def is_valley_shaped(profile: ArrayLike | Float[Tensor, " n"], tolerance: float = 0.0) -> bool:
    """Whether a loss profile lies strictly below both ends somewhere inside, and nowhere above both of them.

    Arguments:
        profile: losses at even points from one model to the other.
        tolerance: by how much it must dip, and may rise above.

    Source: arXiv 2410.05192, the interpolation between two checkpoints of the stable phase.

    >>> is_valley_shaped([1.0, 0.5, 0.8]), is_valley_shaped([1.0, 0.9, 0.8]), is_valley_shaped([1.0, 2.0, 0.5, 0.8])
    (True, False, False)
    """
    values = torch.as_tensor(profile, dtype=torch.float64)
    return valley_depth(values) > tolerance and float(values.max() - torch.maximum(values[0], values[-1])) <= tolerance
