"""What losses share: checks of what they are given, reductions, and the base of losses on class scores.

Values are looked at only where that is free of side effects: neither while ``torch.compile`` traces, where it would
break the graph, nor on the meta device, where there are none. Shapes and dtypes are checked everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Reduction = Literal["mean", "sum", "none"]


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError that names what is allowed, unless ``value`` is."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, allowed))}")


def check_argument(name: str, value: object, holds: bool, allowed: str) -> None:
    """Raise a ValueError that names the argument and says what is allowed, unless that ``holds``."""
    if not holds:
        raise ValueError(f"{name}={value!r}: must be {allowed}")


def readable(*tensors: Tensor) -> bool:
    """Whether the values of tensors can be looked at."""
    return not torch.compiler.is_compiling() and not any(t.is_meta for t in tensors)


def check_scores(scores: Tensor) -> Tensor:
    """``scores`` in at least float32, once they are found to be floating, present and finite."""
    if not scores.is_floating_point():
        raise TypeError(f"scores have dtype {scores.dtype}: they must be floating point")
    if scores.numel() == 0:
        raise ValueError(f"scores of shape {tuple(scores.shape)} are empty: a loss needs at least one sample")
    # The least and the greatest are NaN if any is; to ask of each whether it is finite takes ten times as long.
    if readable(scores) and not torch.isfinite(torch.stack(scores.detach().aminmax())).all():
        raise ValueError("scores contain NaN or infinite values")
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def check_logits(
    logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
    """Scores of K classes in at least float32 and class numbers in int64, once they are found to fit together.

    Raises:
        TypeError: logits are not floating point, or targets not integers.
        ValueError: shapes that do not fit, fewer than two classes, an empty or non-finite batch, a class out of range.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(targets.shape)}: "
            "must be (B, K) with K at least 2, and (B,)"
        )
    logits = check_scores(logits)
    check_integers("targets", targets, logits.shape[1])
    return logits, targets.long()


def check_index(index: Int[Tensor, " batch"], size: int, targets: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Positions of samples in a table of ``size`` rows in int64, once they are found to be that and one a target."""
    if index.shape != targets.shape:
        raise ValueError(f"index of shape {tuple(index.shape)}: must be {tuple(targets.shape)}, one for each target")
    check_integers("index", index, size)
    return index.long()


def check_integers(name: str, values: Tensor, size: int) -> None:
    """Raise a TypeError or ValueError unless ``values`` are integers in 0 … size − 1."""
    if values.is_floating_point() or values.dtype == torch.bool or values.is_complex():
        raise TypeError(f"{name} have dtype {values.dtype}: they must be integers")
    if readable(values):
        outside = (values < 0) | (values >= size)
        if outside.any():
            raise ValueError(f"{name} contain {values[outside][0].item()}: must be in 0..{size - 1}")


def reduce(values: Float[Tensor, "*batch"], reduction: Reduction) -> Tensor:
    """The mean, the sum, or each of the samples' values."""
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values


def products(
    points: Float[Tensor, "*batch n dim"], others: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch n m"]:
    """Inner products in full precision under autocast too: a distance is what is left of far larger squares."""
    device = points.device.type
    if not torch.amp.is_autocast_available(device):
        return points @ others.mT
    with torch.autocast(device, enabled=False):
        return points @ others.mT


def of_class(values: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Each sample's value at its own class."""
    return values.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def own_class(targets: Int[Tensor, "*batch"], classes: int) -> Bool[Tensor, "*batch classes"]:
    """Where k = y."""
    return targets.unsqueeze(-1) == torch.arange(classes, device=targets.device)


class ClassificationLoss(nn.Module, ABC):
    """A loss of class scores: forward(f, y) is the reduced psi(f, y), for logits f (B, K) and classes y (B,).

    Half precision is widened to float32, as autocast does for PyTorch's own losses.

    Arguments:
        reduction: ``"mean"`` over samples (default), ``"sum"``, or ``"none"`` for a value a sample.

    Raises:
        ValueError, TypeError: an unknown reduction; a batch as :func:`check_logits` refuses it.
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        self.reduction: Reduction = reduction

    @abstractmethod
    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The loss of each sample: over any leading dimensions, free of checks, fit for ``torch.func.vmap``."""

    def forward(self, logits: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"]) -> Tensor:
        logits, target = check_logits(logits, target)
        return reduce(self.psi(logits, target), self.reduction)
