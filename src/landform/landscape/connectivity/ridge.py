"""A surface in the plane on which mountainsides and ridges can be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from landform.landscape.connectivity.checks import check_count


@dataclass(frozen=True)
class MountainRidge2D:
    """A summit from which m valleys descend, with a ridge between neighbours.

        T(x, y) = a (1 - |z|²/R²)² + b (|z|^m - Re z^m)/R^m,   z = x + i y

    The summit is at 0 with T = a, the m minima with T = 0 lie at |z| = R at the angles 2πj/m, and the ridges at the
    angles half-way. Between neighbouring minima T rises to a sin⁴(π/m) + 2 b cos^m(π/m), between opposite ones to a.

    The construction is landform's own: the toy surface of the paper's last section is not known to us.

    Arguments:
        valleys: m, even.
        a: the height of the summit.
        b: how high the ridges stand.
        radius: R, how far out the minima lie.

    Raises:
        ValueError: an odd number of valleys, or values that are not positive.

    >>> surface = MountainRidge2D()
    >>> surface.loss(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([1., 0.])
    >>> round(surface.height_between(1), 6)
    0.4
    """

    valleys: int = 4
    a: float = 1.0
    b: float = 0.3
    radius: float = 1.0

    def __post_init__(self) -> None:
        check_count("valleys", self.valleys, 2)
        if self.valleys % 2:
            raise ValueError(f"valleys={self.valleys}: must be even, so that each valley has an opposite one")
        for name in ("a", "b", "radius"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive and finite")

    @property
    def minima(self) -> Float[Tensor, "valleys 2"]:
        angles = torch.arange(self.valleys, dtype=torch.float64) * (2 * math.pi / self.valleys)
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=-1)

    def height_between(self, apart: int) -> float:
        """T half-way between two minima that are ``apart`` valleys from each other."""
        half = math.pi * apart / self.valleys
        # z^m at the middle lies on a ridge where an odd number of them is between the two, else in a valley.
        ridge = 2 * math.cos(half) ** self.valleys if apart % 2 else 0.0
        return self.a * math.sin(half) ** 4 + self.b * ridge

    def loss(self, xy: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points"]:
        """T at every point."""
        z, square = self._complex(xy)
        ridge = square ** (self.valleys // 2) - (z**self.valleys).real
        return self.a * (1 - square / self.radius**2) ** 2 + self.b * ridge / self.radius**self.valleys

    def grad(self, xy: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 2"]:
        """The gradient of T at every point."""
        z, square = self._complex(xy)
        bowl = -4 * self.a / self.radius**2 * (1 - square / self.radius**2)
        # Re z^m has the gradient m (Re z^(m-1), -Im z^(m-1)).
        turned = (z ** (self.valleys - 1)).conj()
        scale = self.b * self.valleys / self.radius**self.valleys
        ridge = square[..., None] ** (self.valleys // 2 - 1) * xy - torch.view_as_real(turned.resolve_conj())
        return bowl[..., None] * xy + scale * ridge

    def simulate(
        self,
        common_steps: int,
        steps: int = 150,
        pairs: int = 400,
        *,
        lr: float = 0.05,
        sigma: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "time pairs 2 2"]:
        """Pairs of noisy gradient descents from the summit that go ``common_steps`` together and ``steps`` apart.

            θ <- θ - η ∇T(θ) + σ √η ξ,   ξ ~ N(0, I)

        Returns:
            Positions at times 0 ... common_steps + steps, in float64: (time, pair, which of the two, xy).

        Raises:
            ValueError: steps, pairs or rates out of range.
        """
        check_count("common_steps", common_steps, 0)
        check_count("steps", steps, 1)
        check_count("pairs", pairs, 1)
        for name, value in {"lr": lr, "sigma": sigma}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: must be positive and finite")
        place = torch.zeros(pairs, 2, 2, dtype=torch.float64)
        path = [place]
        for step in range(common_steps + steps):
            noise = torch.randn(pairs, 1 if step < common_steps else 2, 2, generator=generator, dtype=torch.float64)
            place = place - lr * self.grad(place) + sigma * math.sqrt(lr) * noise
            path.append(place)
        return torch.stack(path)

    def barrier(
        self, a: Float[Tensor, "*pairs 2"], b: Float[Tensor, "*pairs 2"], n_points: int = 25
    ) -> Float[Tensor, "*pairs"]:
        """The ``max_deviation`` barrier of T on the straight line between points."""
        check_count("n_points", n_points, 3)
        t = torch.linspace(0, 1, n_points, dtype=a.dtype)
        values = self.loss(torch.lerp(a[..., None, :], b[..., None, :], t[:, None]))
        return (values - torch.lerp(values[..., :1], values[..., -1:], t)).amax(-1)

    def _complex(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        if not xy.is_floating_point() or xy.ndim < 1 or xy.shape[-1] != 2:
            raise ValueError(f"xy is {xy.dtype} {tuple(xy.shape)}; it must be floats (..., 2)")
        return torch.view_as_complex(xy.contiguous()), xy.square().sum(-1)
