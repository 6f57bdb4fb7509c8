"""Reading a spectrum: outliers, bulk, and how much of it is next to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Rule = Literal["gap", "edge"]

NOTHING = 1e-12
"""Eigenvalues below this share of the largest are zero but for rounding, in double precision."""


@dataclass(frozen=True)
class Spectrum:
    """A spectrum in two: ``outliers`` and ``bulk``, both descending, and the ``count`` of outliers.

    ``gap`` is the ratio of the last outlier to the first of the bulk, 1 where there is no outlier.
    """

    outliers: Float[Tensor, " count"]
    bulk: Float[Tensor, " rest"]
    count: int
    gap: float


def split_spectrum(
    eigs: ArrayLike | Float[Tensor, " P"], n_classes: int, rule: Rule = "gap", *, factor: float = 2.0
) -> Spectrum:
    """Outliers and bulk.

    ``"gap"``: with λ_1 ≥ λ_2 ≥ …, the outliers are the first j eigenvalues, j = argmax λ_j/|λ_{j+1}| over 1 … 2K, where
    |λ_{j+1}| counts as at least 1e-12 λ_1.
    ``"edge"``: the outliers are the eigenvalues above ``factor`` times the bulk's edge, the 95 % quantile of the
    positive eigenvalues that are left without the 2K largest.

    Arguments:
        eigs: all eigenvalues (or, for ``"gap"``, at least the 2K + 1 largest), in any order.
        n_classes: K.
        rule: ``"gap"`` or ``"edge"``.
        factor: how far above the edge an outlier lies.

    Raises:
        ValueError: fewer than two eigenvalues, none positive, values that are not finite, fewer than two classes, an
            unknown rule, a factor below 1, or no positive eigenvalue beyond the 2K largest to take an edge from.

    Source: arXiv 1706.04454 counts by eye; both rules are ours.

    >>> split_spectrum([0.01, 5.0, 0.1, 3.0, -0.02], n_classes=3).count
    2
    """
    values = _descending(eigs)
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes}: must be at least 2")
    if rule not in get_args(Rule):
        raise ValueError(f"rule={rule!r}: must be one of {get_args(Rule)}")
    if not factor >= 1:
        raise ValueError(f"factor={factor}: must be at least 1")
    if len(values) < 2 or values[0] <= 0:
        raise ValueError(f"eigs has {len(values)} values, the largest {values[:1]}: it must have two, one positive")
    ratios = values[:-1] / np.maximum(np.abs(values[1:]), NOTHING * values[0])
    if rule == "gap":
        count = int(np.argmax(ratios[: 2 * n_classes])) + 1
    else:
        rest = values[2 * n_classes :]
        if not (rest > 0).any():
            raise ValueError(f"eigs has no positive value beyond the {2 * n_classes} largest, so there is no edge")
        count = int((values > factor * np.quantile(rest[rest > 0], 0.95)).sum())
    gap = float(ratios[count - 1]) if count else 1.0
    return Spectrum(torch.from_numpy(values[:count]), torch.from_numpy(values[count:]), count, gap)


def near_zero_fraction(eigs: ArrayLike | Float[Tensor, " P"], rel: float = 1e-3) -> float:
    """The share of eigenvalues with |λ| < rel · max |λ|, and 1 where all are zero.

    Raises:
        ValueError: no eigenvalues, values that are not finite, or a ``rel`` outside (0, 1].

    >>> near_zero_fraction([10.0, 1.0, 0.001, -0.002])
    0.5
    """
    if not 0 < rel <= 1:
        raise ValueError(f"rel={rel}: must lie in (0, 1]")
    size = np.abs(_descending(eigs))
    return float((size < rel * size.max()).mean()) if size.max() > 0 else 1.0


def _descending(eigs: ArrayLike | Tensor) -> NDArray[np.float64]:
    values = np.asarray(eigs.detach().cpu() if isinstance(eigs, Tensor) else eigs, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"eigs has shape {values.shape}; it must be a vector of at least one eigenvalue")
    if not np.isfinite(values).all():
        raise ValueError("eigs has values that are not finite")
    return np.sort(values)[::-1].copy()
