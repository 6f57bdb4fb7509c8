"""Pairs of populations: many sets of points, and each after something has happened to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from landform.data.glyphs import ink
from landform.data.split import check_count

EM = 100
"""Pixels an em at which letters become points."""
HALF_SIDE = 3.0
"""Letters reach from −3 to 3 along their longer side."""


@dataclass(frozen=True, eq=False, repr=False)
class PointPopulations:
    """E environments, each a population of points before (``x0``) and after (``x1``).

    Arguments:
        x0: (E, n, d) the source populations, finite.
        x1: (E, m, d) the target populations; where points are paired, n = m and pairs have one position.
        treatment: (E, c) what was done to each, such as a one-hot drug.
        node_features: (E, n, f) what else is known of each source point, such as its one-hot cell type.
        mask0, mask1: (E, n) and (E, m), true where a point is there; for populations of different sizes, padded.
        fields: integer metadata of each environment, (E,) each, such as the letter that it shows.
        names: what the integers of each field mean.

    Raises:
        ValueError: shapes that do not fit together, values that are not finite, or a population without a point.

    >>> populations = PointPopulations(torch.zeros(4, 10, 2), torch.ones(4, 12, 2))
    >>> populations
    PointPopulations(4 of 10 and 12 points in 2 dimensions)
    >>> len(populations[torch.tensor([0, 2])])
    2
    """

    x0: Float[Tensor, "envs n d"]
    x1: Float[Tensor, "envs m d"]
    treatment: Float[Tensor, "envs c"] | None = None
    node_features: Float[Tensor, "envs n f"] | None = None
    mask0: Bool[Tensor, "envs n"] | None = None
    mask1: Bool[Tensor, "envs m"] | None = None
    fields: Mapping[str, Int64[Tensor, " envs"]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        x0, x1 = self.x0, self.x1
        if x0.ndim != 3 or x1.ndim != 3 or x0.shape[::2] != x1.shape[::2] or not x0.numel() or not x1.numel():
            raise ValueError(
                f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)}: must be (E, n, d) and (E, m, d) of one E and d, "
                "with at least one point each"
            )
        for name, value, lead in (
            ("treatment", self.treatment, x0.shape[:1]),
            ("node_features", self.node_features, x0.shape[:2]),
            ("mask0", self.mask0, x0.shape[:2]),
            ("mask1", self.mask1, x1.shape[:2]),
            *((f"fields[{name!r}]", values, x0.shape[:1]) for name, values in self.fields.items()),
        ):
            if value is not None and value.shape[: len(lead)] != lead:
                raise ValueError(f"{name} has shape {tuple(value.shape)}: must begin with {tuple(lead)}")
        for name, points in (("x0", x0), ("x1", x1)):
            if not bool(torch.isfinite(points).all()):
                raise ValueError(f"{name} holds values that are not finite (pad with zeros)")
        for name, mask in (("mask0", self.mask0), ("mask1", self.mask1)):
            if mask is not None and not bool(mask.any(1).all()):
                raise ValueError(f"{name}: a population has no point")

    def __len__(self) -> int:
        return len(self.x0)

    def __repr__(self) -> str:
        sizes = f"{self.x0.shape[1]} and {self.x1.shape[1]}"
        return f"PointPopulations({len(self)} of {sizes} points in {self.x0.shape[2]} dimensions)"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> PointPopulations:
        """The environments at ``index``: positions, booleans or a slice."""
        where = index if isinstance(index, slice) else torch.as_tensor(index, device=self.x0.device)
        return self._each(lambda values: values[where])

    def to(self, device: str | torch.device) -> PointPopulations:
        """The same populations on ``device``."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> PointPopulations:
        def changed(values: Tensor | None) -> Tensor | None:
            return None if values is None else change(values)

        return PointPopulations(
            change(self.x0),
            change(self.x1),
            treatment=changed(self.treatment),
            node_features=changed(self.node_features),
            mask0=changed(self.mask0),
            mask1=changed(self.mask1),
            fields={name: change(values) for name, values in self.fields.items()},
            names=self.names,
        )

    @classmethod
    def from_glyphs(
        cls,
        characters: str,
        faces: Sequence[str] = ("DejaVu Sans",),
        noise: float = 0.5,
        rotations: int = 10,
        n_points: int = 700,
        generator: torch.Generator | None = None,
        *,
        max_angle: float = 180.0,
        jitter: float = 0.05,
    ) -> PointPopulations:
        """Letters whose points have diffused: what is to be learned is to draw them together again.

        The target is a letter as a cloud: ``n_points`` of the pixels that its drawing at 100 pixels an em touches
        (with repetition only where there are fewer), scaled to [−3, 3] along its longer side, jittered, and turned by
        a random angle. The source is the target plus N(0, noise²) on each point: pairs have one position.

        Arguments:
            characters: each is drawn in each of ``faces`` and turned ``rotations`` times.
            faces: names of typefaces, see ``glyphs``.
            noise: standard deviation of the diffusion.
            rotations: environments of one character and face.
            max_angle: angles are uniform between plus and minus this, in degrees; 180 is any.
            jitter: standard deviation of the noise on the target itself, which hides the grid of pixels.

        Returns: environments in order of character, face and rotation, with the fields ``character`` and ``face``.

        Raises:
            ValueError: no character or face, one that cannot be drawn, or an amount out of range.

        Source: arXiv 2408.14608, Section 5.1, with the typefaces of ``glyphs`` in place of Arial.
        """
        if not characters or not faces:
            raise ValueError(f"characters={characters!r}, faces={faces!r}: there must be at least one of each")
        check_count("rotations", rotations, 1)
        check_count("n_points", n_points, 1)
        for name, value in (("noise", noise), ("jitter", jitter), ("max_angle", max_angle)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must be zero or more, and finite")
        clouds = [_sample(letter_pixels(c, f), rotations, n_points, generator) for c in characters for f in faces]
        x1 = torch.cat(clouds)
        x1 = x1 + jitter * torch.randn(x1.shape, generator=generator)
        angle = math.radians(max_angle) * (2 * torch.rand(len(x1), generator=generator) - 1)
        x1 = rotate(x1, angle)
        x0 = x1 + noise * torch.randn(x1.shape, generator=generator)
        character, face = torch.meshgrid(torch.arange(len(characters)), torch.arange(len(faces)), indexing="ij")
        return PointPopulations(
            x0,
            x1,
            fields={
                "character": character.flatten().repeat_interleave(rotations),
                "face": face.flatten().repeat_interleave(rotations),
            },
            names={"character": tuple(characters), "face": tuple(faces)},
        )


class InteractingPopulations(PointPopulations):
    """Populations that contract about their own centre, which no single point knows.

        x1 = μ + contraction · R(angle) (x0 − μ) + noise · N(0, I),   μ = the mean of x0, uniform in a square

    A population is a ring, a bar, two blobs or a capital letter, about 2 across, turned at random. How a point moves
    depends on where the whole population lies: a field of the point alone cannot be right.

    Arguments:
        count: how many environments.
        n_points: points of each.
        centre: μ is uniform in [−centre, centre]².
        contraction, angle: what happens about μ; the angle in degrees.
        noise: standard deviation of each target coordinate.
        generator: draws everything (PyTorch's global one if None).

    The field ``shape`` says which one it is.

    Raises:
        ValueError: an amount out of range.

    >>> populations = InteractingPopulations(3, n_points=50, noise=0.0)
    >>> torch.allclose(populations.x0.mean(1), populations.x1.mean(1), atol=1e-5)
    True
    """

    def __init__(
        self,
        count: int,
        n_points: int = 128,
        *,
        centre: float = 2.0,
        contraction: float = 0.5,
        angle: float = 90.0,
        noise: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        check_count("count", count, 1)
        check_count("n_points", n_points, 2)
        for name, value in (("centre", centre), ("contraction", contraction), ("noise", noise)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must be zero or more, and finite")
        if not math.isfinite(angle):
            raise ValueError(f"angle={angle}: must be finite")
        shape = torch.randint(len(SHAPES), (count,), generator=generator)
        x = torch.empty(count, n_points, 2)
        for number, draw in enumerate(SHAPES.values()):
            chosen = shape == number
            x[chosen] = draw(int(chosen.sum()), n_points, generator)
        x = rotate(x, 2 * math.pi * torch.rand(count, generator=generator))
        x = x - x.mean(1, keepdim=True)
        mu = centre * (2 * torch.rand(count, 1, 2, generator=generator) - 1)
        after = contraction * rotate(x, torch.full((count,), math.radians(angle)))
        after = after + noise * torch.randn(x.shape, generator=generator)
        super().__init__(mu + x, mu + after, fields={"shape": shape}, names={"shape": tuple(SHAPES)})


def rotate(x: Float[Tensor, "envs n 2"], angle: Float[Tensor, " envs"]) -> Float[Tensor, "envs n 2"]:
    """Each population turned about the origin by its own angle, in radians, counter-clockwise."""
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return x @ turn.mT


@cache
def letter_pixels(character: str, face: str) -> Float[Tensor, "pixels 2"]:
    """Where a character's drawing has ink, as points (x to the right, y up) within [−3, 3] along its longer side."""
    rows, columns = np.nonzero(np.flipud(ink(character, face, EM)))
    points = torch.from_numpy(np.stack([columns, rows], axis=1)).float()
    points = points - (points.amin(0) + points.amax(0)) / 2
    return HALF_SIDE * points / points.amax()


def _sample(points: Tensor, count: int, n: int, generator: torch.Generator | None) -> Tensor:
    """``count`` random subsets of n points each, without repetition where there are enough."""
    weights = torch.ones(count, len(points))
    return points[torch.multinomial(weights, n, replacement=n > len(points), generator=generator)]


# The shapes of InteractingPopulations, about the origin.


def _ring(count: int, n: int, generator: torch.Generator | None) -> Tensor:
    angle = 2 * math.pi * torch.rand(count, n, generator=generator)
    radius = 1 + 0.05 * torch.randn(count, n, generator=generator)
    return radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], dim=-1)


def _bar(count: int, n: int, generator: torch.Generator | None) -> Tensor:
    return (2 * torch.rand(count, n, 2, generator=generator) - 1) * torch.tensor([1.2, 0.2])


def _blobs(count: int, n: int, generator: torch.Generator | None) -> Tensor:
    side = 2.0 * torch.randint(2, (count, n), generator=generator) - 1
    return 0.25 * torch.randn(count, n, 2, generator=generator) + torch.stack([0.8 * side, 0 * side], dim=-1)


def _letters(count: int, n: int, generator: torch.Generator | None) -> Tensor:
    number = torch.randint(26, (count,), generator=generator)
    x = torch.empty(count, n, 2)
    for letter in number.unique().tolist():
        chosen = number == letter
        pixels = letter_pixels(chr(ord("A") + letter), "DejaVu Sans") / HALF_SIDE
        x[chosen] = _sample(pixels, int(chosen.sum()), n, generator)
    return x


SHAPES = {"ring": _ring, "bar": _bar, "blobs": _blobs, "letter": _letters}
