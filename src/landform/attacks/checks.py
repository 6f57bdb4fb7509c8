"""What an attack refuses before it begins."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

TOLERANCE = 1e-6
"""How far inputs may lie outside [0, 1]."""


def check_models(models: Sequence[nn.Module], name: str = "models") -> None:
    """That there are models, that each is a module, and that none is in training mode where this matters.

    Raises:
        ValueError: no models, or dropout or normalisation in training mode.
        TypeError: not a module.

    Warns about a model in training mode none of whose layers is known to depend on the mode.
    """
    if len(models) == 0:
        raise ValueError(f"{name}: an attack needs at least one model")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name}: {type(model).__name__} is not a torch.nn.Module")
        layer = _mode_dependent_layer(model)
        if layer is not None:
            raise ValueError(f"{name}: {layer} is in training mode; call .eval() on the model before attacking it")
        if model.training:
            warnings.warn(f"{name}: {type(model).__name__} is in training mode; call .eval() on it", stacklevel=4)


def _mode_dependent_layer(model: nn.Module) -> str | None:
    """A layer in training mode that gives something else than it would in evaluation mode, if there is any."""
    for name, layer in model.named_modules():
        if not layer.training:
            continue
        random = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        random |= isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0
        batch = isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
        if random or batch:
            return f"layer {name!r} ({type(layer).__name__})" if name else type(layer).__name__
    return None


def check_batch(x: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"] | None) -> None:
    """That inputs are finite, in [0, 1] (up to ``TOLERANCE``) and float32 or float64, with a label each, zero or more.

    Raises:
        ValueError, TypeError: what is wrong.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x is {x.dtype}; must be float32 or float64, in [0, 1]")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; must be (batch, ...), not empty")
    low, high = (float(bound) for bound in x.detach().aminmax())
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN too
        raise ValueError(
            f"x lies in [{low:g}, {high:g}]; must be finite and in [0, 1]. "
            "A model that wants other inputs normalises them itself: see Normalized"
        )
    if y is None:
        return
    _check_label_type(y)
    if y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}; must be ({len(x)},), a label for each of x")
    if int(y.min()) < 0:
        raise ValueError(f"y holds the label {int(y.min())}; labels are 0 … classes − 1")


def check_logits(logits: Float[Tensor, "batch classes"], x: Tensor) -> None:
    """That a model gave one row of logits for each input.

    Raises:
        ValueError: it gave something else.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: gave {found} for {len(x)} inputs; must be logits ({len(x)}, classes ≥ 2)")


def check_labels(logits: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"]) -> None:
    """That the model has a class for each label, and finite logits.

    Raises:
        ValueError: it has not.
        TypeError: labels that are not int64.
    """
    _check_label_type(y)
    for label in y.aminmax():
        if not 0 <= int(label) < logits.shape[1]:
            raise ValueError(f"y holds the label {int(label)}, but the model has {logits.shape[1]} classes")
    if not all_finite(logits):
        raise ValueError("model: gave logits that are not finite")


def _check_label_type(y: Tensor) -> None:
    if y.dtype != torch.int64:
        raise TypeError(f"y is {y.dtype}; labels are whole numbers, int64")


def check_positive(**values: float | None) -> None:
    """That numbers (those that are not None) are positive and finite."""
    _check_numbers(values, "must be positive and finite", lambda value: value > 0)


def check_nonnegative(**values: float | None) -> None:
    """That numbers (those that are not None) are zero or more, and finite."""
    _check_numbers(values, "must be zero or more, and finite", lambda value: value >= 0)


def _check_numbers(values: dict[str, Any], allowed: str, right: Callable[[float], bool]) -> None:
    for name, value in values.items():
        if value is not None and not (right(value) and value < float("inf")):
            raise ValueError(f"{name}={value}: {allowed}")


def check_count(**values: int) -> None:
    """That counts are whole numbers of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value}: must be a whole number of at least 1")


def check_found(found: Tensor) -> Tensor:
    """Gradients, or the examples that came of them, detached.

    Raises:
        ValueError: some are not finite.
    """
    found = found.detach()
    if not all_finite(found):
        raise ValueError("model: gave gradients that are not finite")
    return found


def all_finite(numbers: Tensor) -> bool:
    """Whether no number is NaN or infinite; in one pass, which ``isfinite().all()`` is not."""
    low, high = numbers.detach().aminmax()  # NaN if any number is
    return math.isfinite(low.item()) and math.isfinite(high.item())
