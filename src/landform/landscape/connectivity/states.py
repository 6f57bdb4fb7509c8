"""State dicts as points in weight space: what makes two of them comparable, and which of their tensors move."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Layers = Iterable[str] | None

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What normalisation layers measure rather than learn: no coordinates of weight space."""

LISTED = 8
"""At most so many differences are spelt out in an error."""


def check_states(states: Mapping[str, State], model: nn.Module | None = None) -> None:
    """Refuse state dicts that are not points of one weight space; they are given by name, ``{"a": a, "b": b}``.

    Raises:
        TypeError: something that is not a mapping from names to tensors.
        ValueError: keys, shapes or dtypes that differ (each is named) from those of the first state or of ``model``; no
            weights at all; weights that are not finite.
    """
    for name, state in states.items():
        if not isinstance(state, Mapping):
            raise TypeError(f"{name} is a {type(state).__name__}; it must be a state dict, as model.state_dict() gives")
        for key, tensor in state.items():
            if not isinstance(key, str) or not isinstance(tensor, Tensor):
                raise TypeError(f"{name}[{key!r}] is a {type(tensor).__name__}; a state dict maps names to tensors")
    first = next(iter(states))
    reference, whose = (states[first], first) if model is None else (model.state_dict(), "the model")
    for name, state in states.items():
        if state is not reference:
            _check_alike(name, state, whose, reference)
        if not weights(state):
            raise ValueError(f"{name} holds no floating-point weights; its keys are {sorted(state)}")
        for key, tensor in state.items():
            if not torch.isfinite(tensor).all():
                count = int((~torch.isfinite(tensor)).sum())
                raise ValueError(f"{name}[{key!r}] has {count} of {tensor.numel()} values that are not finite")


def _check_alike(name: str, state: State, whose: str, reference: State) -> None:
    wrong = [f"{key!r} is missing" for key in reference if key not in state]
    wrong += [f"{key!r} is not in {whose}" for key in state if key not in reference]
    for key in reference.keys() & state.keys():
        ours, theirs = state[key], reference[key]
        if ours.shape != theirs.shape:
            wrong.append(f"{key!r} has shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
        elif ours.is_floating_point() != theirs.is_floating_point():
            wrong.append(f"{key!r} is {ours.dtype}, not {theirs.dtype}")
    if wrong:
        more = f"; and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise ValueError(f"{name} does not match {whose}: {'; '.join(sorted(wrong)[:LISTED])}{more}")


def is_statistic(key: str) -> bool:
    """Whether a tensor is a running statistic by its name."""
    return key.rpartition(".")[2] in STATISTICS


def weights(state: State, layers: Layers = None) -> list[str]:
    """The keys of the coordinates of weight space: floating-point tensors but for running statistics."""
    return [key for key in selected(state, layers) if state[key].is_floating_point() and not is_statistic(key)]


def selected(state: State, layers: Layers) -> list[str]:
    """The keys that lie under one of the module names ``layers`` (or are one of them); all of them if None.

    Raises:
        TypeError: one text rather than several names.
        ValueError: no names, or a name under which there is nothing.
    """
    if layers is None:
        return list(state)
    if isinstance(layers, str):
        raise TypeError(f"layers={layers!r}: give several names, as in [{layers!r}]")
    names = [name.removesuffix(".") for name in layers]
    if not names:
        raise ValueError("layers is empty: there is nothing to move")
    for name in names:
        if not any(_under(key, name) for key in state):
            raise ValueError(f"layers: nothing lies under {name!r}; there are {', '.join(module_groups(state))}")
    return [key for key in state if any(_under(key, name) for name in names)]


def _under(key: str, name: str) -> bool:
    return key == name or name == "" or key.startswith(f"{name}.")


def module_groups(state: State) -> dict[str, list[str]]:
    """The keys of every layer, by module name in the order of the state dict: all tensors that share the prefix.

    A module without weights (such as a normalisation without scale and shift) is no layer.
    """
    groups: dict[str, list[str]] = {}
    for key in state:
        groups.setdefault(key.rpartition(".")[0], []).append(key)
    moving = set(weights(state))
    return {name: keys for name, keys in groups.items() if moving.intersection(keys)}


def difference(a: State, b: State, keys: Collection[str]) -> dict[str, Tensor]:
    """b - a in the tensors of ``keys``."""
    return {key: b[key] - a[key] for key in keys}


def dot(u: State, v: State) -> float:
    """The inner product of two points of weight space, in float64."""
    return sum(float(u[key].double().flatten() @ v[key].double().flatten()) for key in u)
