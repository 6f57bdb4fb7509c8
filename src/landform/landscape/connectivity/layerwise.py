"""How the loss changes when a single layer, or a growing set of layers, moves from one network to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from landform.landscape.connectivity.checks import check_choice, check_count
from landform.landscape.connectivity.curves import path_points
from landform.landscape.connectivity.evaluation import Loader, LossFn, Metric, Points, evaluate, placed
from landform.landscape.connectivity.states import (
    State,
    difference,
    dot,
    module_groups,
    selected,
    weights,
)

Base = Literal["a", "b", "mean"]
Cumulative = Literal["shallow", "deep", "random"]
Against = Literal["full", "swapped"]
Grouping = Literal["module"] | Mapping[str, Iterable[str]]
Direction = Literal["other", "random"]


def layerwise_barrier(
    model: nn.Module,
    a: State,
    b: State,
    loader: Loader,
    loss_fn: LossFn,
    grouping: Grouping = "module",
    base: Base = "a",
    cumulative: Cumulative | None = None,
    *,
    against: Against = "full",
    metric: Metric = "loss",
    n_points: int = 25,
    recalibrate_bn: bool = True,
    recalibrate_on: Loader | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> dict[str, float]:
    """The barrier of every layer S: only its weights move from ``a`` to ``b``, all others stay.

        barrier_S = max_t { L(S at (1 - t) A + t B, rest at the base) - [(1 - t) L_0 + t L_1] }

    Against ``"full"`` networks L_0 = L(A) and L_1 = L(B), whatever the base, as layer-wise connectivity is published;
    an end of the path at which one layer alone is exchanged can then be a barrier by itself. Against ``"swapped"`` L_0
    and L_1 are the losses at the path's own ends, so that only what rises above them counts.

    Arguments:
        model, a, b, loader, loss_fn, recalibrate_bn, recalibrate_on, chunk_size: as in :func:`interpolation_curve`.
        grouping: ``"module"`` takes all tensors of one module as a layer; or a mapping from names of your own to the
            names of modules or tensors.
        base: where the other layers stay: at ``"a"`` (variant 0), at ``"b"`` (variant 1), or the mean of both barriers.
        cumulative: let S grow by a layer at a time from the ``"shallow"``, the ``"deep"`` or a ``"random"`` end; each
            result is that of all layers up to its own, in the order of growth.
        against: what a barrier rises above.
        metric: ``"loss"`` or ``"error"``.
        n_points: of each path.
        generator: draws the random order.

    Returns:
        The barrier by layer; never negative.

    Raises:
        ValueError: as :func:`interpolation_curve`, or an unknown grouping, base, order or reference.

    Source: arXiv 2307.06966 (layer-wise linear mode connectivity); arXiv 2406.16300.
    """
    check_choice("base", base, get_args(Base))
    check_choice("against", against, get_args(Against))
    if cumulative is not None:
        check_choice("cumulative", cumulative, get_args(Cumulative))
    check_count("n_points", n_points, 3)
    a, b = placed(model, {"a": a, "b": b})
    groups = layer_groups(a, grouping)
    if cumulative is not None:
        groups = _growing(groups, cumulative, generator)
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)

    def values(points: Points) -> Tensor:
        found = evaluate(
            model,
            points,
            loader,
            loss_fn,
            (metric,),
            recalibrate_bn=recalibrate_bn,
            recalibrate_on=recalibrate_on,
            chunk_size=chunk_size,
        )
        return found[metric]

    if against == "full":
        start, end = values(path_points(a, b, t[[0, -1]]))
    barriers = {}
    bases = [a, b] if base == "mean" else [{"a": a, "b": b}[base]]
    for name, keys in groups.items():
        heights = []
        for rest in bases:
            curve = values(path_points(a, b, t, layers=keys, rest=rest))
            if against == "swapped":
                start, end = curve[0], curve[-1]
            heights.append(float((curve - torch.lerp(start, end, t)).max()))
        barriers[name] = sum(heights) / len(heights)
    return barriers


def layerwise_increase(
    model: nn.Module,
    a: State,
    b: State,
    loader: Loader,
    loss_fn: LossFn,
    grouping: Grouping = "module",
    *,
    direction: Direction = "other",
    metric: Metric = "loss",
    recalibrate_bn: bool = True,
    recalibrate_on: Loader | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> dict[str, float]:
    """How much the loss rises when one layer S goes half the way to the other network, averaged over both bases.

        ½ [L(A + Δ_S/2) - L(A)] + ½ [L(B - Δ_S/2) - L(B)],   Δ_S = B - A within S and 0 elsewhere

    This is what :func:`layerwise_estimate` predicts from the ends alone.

    Arguments:
        direction: ``"other"``, or ``"random"``, the baseline: a Gaussian direction of the norm of Δ_S, one for each
            base.
        generator: draws random directions.
        others: as in :func:`layerwise_barrier`.

    Source: arXiv 2406.16300; the baseline is that of arXiv 2307.06966.
    """
    check_choice("direction", direction, get_args(Direction))
    a, b = placed(model, {"a": a, "b": b})
    groups = layer_groups(a, grouping)
    rises: dict[str, list[float]] = {name: [] for name in groups}
    for base, other in ((a, b), (b, a)):
        moved = [{}, *(_step(base, other, keys, direction, generator) for keys in groups.values())]
        moving = [key for key in base if any(key in step for step in moved)]

        shared = {key: tensor for key, tensor in base.items() if key not in moving}
        points = Points(len(moved), partial(_stacked, base, moved, moving), shared)
        losses = evaluate(
            model,
            points,
            loader,
            loss_fn,
            (metric,),
            recalibrate_bn=recalibrate_bn,
            recalibrate_on=recalibrate_on,
            chunk_size=chunk_size,
        )[metric]
        for name, loss in zip(groups, losses[1:], strict=True):
            rises[name].append(float(loss - losses[0]))
    return {name: sum(both) / len(both) for name, both in rises.items()}


def layer_groups(state: State, grouping: Grouping) -> dict[str, list[str]]:
    """The keys of every layer.

    Raises:
        ValueError: an unknown grouping, or a group with nothing to move.
    """
    if isinstance(grouping, Mapping):
        groups = {name: selected(state, layers) for name, layers in grouping.items()}
        if not groups:
            raise ValueError("grouping is empty: it names no layer")
    else:
        check_choice("grouping", grouping, ("module",))
        groups = module_groups(state)
    for name, keys in groups.items():
        if not weights(state, keys):
            raise ValueError(f"grouping[{name!r}] holds no weights, only {keys}")
    return groups


def _growing(
    groups: dict[str, list[str]], order: Cumulative, generator: torch.Generator | None
) -> dict[str, list[str]]:
    names = list(groups)
    if order == "deep":
        names.reverse()
    elif order == "random":
        names = [names[i] for i in torch.randperm(len(names), generator=generator)]
    return {name: [key for each in names[: place + 1] for key in groups[each]] for place, name in enumerate(names)}


def _stacked(base: State, moved: Sequence[State], keys: Sequence[str], chunk: slice) -> dict[str, Tensor]:
    """Copies of ``base``, each with its own tensors in place of those that moved."""
    return {key: torch.stack([each.get(key, base[key]) for each in moved[chunk]]) for key in keys}


def _step(
    base: State, other: State, keys: list[str], direction: Direction, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """The tensors of a layer half a difference away from ``base``."""
    moving = weights(base, keys)
    step = difference(base, other, moving)
    if direction == "random":
        drawn = {key: torch.randn(base[key].shape, generator=generator).to(base[key]) for key in moving}
        scale = (dot(step, step) / dot(drawn, drawn)) ** 0.5
        step = {key: scale * tensor for key, tensor in drawn.items()}
    return {key: base[key] + step[key] / 2 for key in moving}
