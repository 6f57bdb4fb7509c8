"""The `tabular` worlds: scikit-learn's bundled tables, and two synthetic ones whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sklearn import datasets

from landform.data.split import Split, divide, limited


def tabular(
    name: str = "", /, *, test_fraction: float = 0.25, seed: int = 0, limit: int | None = None
) -> dict[str, Split]:
    """A table: x is float32 ``(N, D)`` and y a class or a quantity.

    x is not standardised; :func:`landform.data.standardise` does it by the training split's statistics.

    Arguments:
        name: one of :data:`TABLES`; ``breast_cancer`` when empty.
        test_fraction: the share of (each class's) samples that the test split holds.
        seed: draws the split (and the samples that ``limit`` keeps); the synthetic tables themselves never change.
        limit: at most so many samples a split.

    Raises:
        ValueError: an unknown table, or a fraction outside (0, 1).
    """
    name = name or "breast_cancer"
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; allowed: {', '.join(TABLES)}")
    return limited(divide(TABLES[name](), test_fraction, seed), limit, seed)


def _bundled(load: Callable[[], object]) -> Split:
    """One of the tables that scikit-learn brings along."""
    bunch: dict[str, np.ndarray] = load()  # type: ignore[assignment]
    classes = tuple(map(str, bunch.get("target_names", ())))
    return _table(bunch["data"], bunch["target"], classes, tuple(map(str, bunch["feature_names"])))


def _diabetes_high() -> Split:
    """Diabetes progression above its median, as two classes (the median itself counts as low)."""
    whole = _bundled(datasets.load_diabetes)
    high = whole.y > whole.y.double().quantile(0.5)
    return replace(whole, y=high.long(), classes=("low", "high"))


def _hastie() -> Split:
    """Ten standard normal columns; the class is whether the sum of their squares exceeds 9.34, chi-squared's median."""
    x, y = datasets.make_hastie_10_2(n_samples=12_000, random_state=0)
    return _table(x, y > 0, ("inside", "outside"))


def _madelon() -> Split:
    """Madelon's recipe: 5 informative columns (clusters on a hypercube's corners), 15 mixtures of them, 480 noisy."""
    x, y = datasets.make_classification(
        n_samples=4_400,
        n_features=500,
        n_informative=5,
        n_redundant=15,
        n_clusters_per_class=16,
        class_sep=2.0,
        flip_y=0.01,
        shuffle=False,
        random_state=0,
    )
    columns = [f"informative {j}" for j in range(5)] + [f"mixture {j}" for j in range(15)]
    return _table(x, y, ("0", "1"), (*columns, *(f"noise {j}" for j in range(480))))


def _table(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], columns: tuple[str, ...] = ()) -> Split:
    target = torch.from_numpy(np.asarray(y)).to(torch.int64 if classes else torch.float32)
    columns = columns or tuple(f"x{j}" for j in range(x.shape[1]))
    return Split(torch.from_numpy(x).to(torch.float32), target, classes, names={"columns": columns})


TABLES: dict[str, Callable[[], Split]] = {
    "breast_cancer": lambda: _bundled(datasets.load_breast_cancer),
    "wine": lambda: _bundled(datasets.load_wine),
    "iris": lambda: _bundled(datasets.load_iris),
    "diabetes": lambda: _bundled(datasets.load_diabetes),
    "diabetes-high": _diabetes_high,
    "hastie": _hastie,
    "madelon": _madelon,
}
