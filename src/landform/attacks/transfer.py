"""How often examples made on some models fool others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from landform.attacks.balls import Batch
from landform.attacks.checks import check_batch, check_labels, check_logits, check_models
from landform.attacks.losses import Labels

if TYPE_CHECKING:
    import pandas as pd

Predictions = Int[Tensor, " batch"]
EnsembleAttack = Callable[[Sequence[nn.Module], Batch, Labels], Batch]
"""(surrogates, x, y) → x_adv, such as a ``partial`` of :func:`~landform.attacks.common_weakness_attack`."""


def attack_success_rate(
    clean_pred: Predictions,
    adv_pred: Predictions,
    y: Labels,
    on: Literal["clean_correct", "all"] = "clean_correct",
) -> float:
    """The share of examples that are misclassified: of the images classified correctly when clean, or ``on="all"``.

    On all images a model's clean errors count as the attack's successes: that rate is 1 − accuracy. Without any image
    to count it is NaN.

    Raises:
        ValueError: shapes that differ, or an unknown ``on``.

    >>> y = torch.tensor([0, 0, 1, 1])
    >>> attack_success_rate(torch.tensor([0, 0, 1, 0]), torch.tensor([1, 0, 1, 0]), y)
    0.3333333333333333
    """
    if not clean_pred.shape == adv_pred.shape == y.shape or y.ndim != 1:
        shapes = [tuple(t.shape) for t in (clean_pred, adv_pred, y)]
        raise ValueError(f"clean_pred, adv_pred, y: have shapes {shapes}; must be classes (batch,)")
    if on not in ("clean_correct", "all"):
        raise ValueError(f"on={on!r}: must be 'clean_correct' or 'all'")
    counted = clean_pred == y if on == "clean_correct" else torch.ones_like(y, dtype=torch.bool)
    fooled = int(((adv_pred != y) & counted).sum())
    return fooled / int(counted.sum()) if bool(counted.any()) else math.nan


@dataclass(frozen=True)
class Transfer:
    """One cell: examples of one attack on one set of surrogates, tried on one target.

    ``success`` is the rate among the ``clean_correct`` images; ``success_all`` the rate among all ``images``. ``seed``
    is which of the data sets they were.
    """

    attack: str
    surrogate: str
    target: str
    seed: int
    success: float
    clean_correct: int
    success_all: float
    images: int


@dataclass(frozen=True)
class TransferTable:
    """Every attack from every set of surrogates on every target, for every data set."""

    rows: tuple[Transfer, ...]

    def frame(self) -> pd.DataFrame:
        """The rows as a data frame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


def transfer_matrix(
    attacks: Mapping[str, EnsembleAttack],
    surrogates: Mapping[str, Sequence[nn.Module] | nn.Module],
    targets: Mapping[str, nn.Module],
    data: Sequence[tuple[Batch, Labels]] | tuple[Tensor, Tensor],
) -> TransferTable:
    """Make examples with every attack on every set of surrogates, and try them on every target.

    Arguments:
        attacks: by name, (models, x, y) → x_adv.
        surrogates: by name, the models that an attack sees.
        targets: by name, the models that the examples are tried on.
        data: (x, y), or one such pair for each seed.

    Raises:
        ValueError, TypeError: an empty argument, inputs or models that :func:`~landform.attacks.pgd` would refuse, or
            an attack that does not give examples in x's shape.
    """
    if not data:
        raise ValueError("data: is empty")
    pairs = cast("list[tuple[Tensor, Tensor]]", [data] if isinstance(data[0], Tensor) else list(data))
    for name, given in (("attacks", attacks), ("surrogates", surrogates), ("targets", targets)):
        if not given:
            raise ValueError(f"{name}: is empty")
    ensembles = {k: [v] if isinstance(v, nn.Module) else list(v) for k, v in surrogates.items()}
    for models in (*ensembles.values(), list(targets.values())):
        check_models(models)
    for x, y in pairs:
        check_batch(x, y)
    rows = []
    for seed, (x, y) in enumerate(pairs):
        clean = {name: _predicted(target, x, y) for name, target in targets.items()}
        for surrogate, models in ensembles.items():
            for attack, make in attacks.items():
                x_adv = make(models, x, y)
                if x_adv.shape != x.shape:
                    raise ValueError(f"attacks: {attack!r} gave shape {tuple(x_adv.shape)} for {tuple(x.shape)}")
                for target, model in targets.items():
                    before, after = clean[target], _predicted(model, x_adv, y)
                    rows.append(
                        Transfer(
                            attack,
                            surrogate,
                            target,
                            seed,
                            attack_success_rate(before, after, y),
                            int((before == y).sum()),
                            attack_success_rate(before, after, y, on="all"),
                            len(y),
                        )
                    )
    return TransferTable(tuple(rows))


@torch.no_grad()
def _predicted(model: nn.Module, x: Batch, y: Labels) -> Predictions:
    logits = model(x)
    check_logits(logits, x)
    check_labels(logits, y)
    return logits.argmax(1)
