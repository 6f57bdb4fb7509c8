"""Which hidden unit of one network is which of another: by their weights, or by what they respond to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

from landform.landscape.connectivity.checks import check_count
from landform.landscape.connectivity.data import batches_of, check_loader
from landform.landscape.connectivity.evaluation import Loader, device_of, placed
from landform.landscape.connectivity.permutations import PermutationSpec, matched, permuted
from landform.landscape.connectivity.states import State, check_states
from landform.landscape.curvature.operators import evaluating

TOLERANCE = 1e-12
"""Relative to what a layer's units have in common: less is rounding, and no progress."""


def weight_matching(
    spec: PermutationSpec,
    a: State,
    b: State,
    max_sweeps: int = 100,
    generator: torch.Generator | None = None,
) -> dict[str, Int[Tensor, " units"]]:
    """Orders of the units of ``b`` that bring its weights close to those of ``a``: coordinate ascent over the layers.

        maximise Σ_k <A_k, perm(B)_k> over all tensors, which minimises ‖A - perm(B)‖

    For one permutation P, all others held, this is a linear assignment of maximal <C, P>: C (units × units) sums, over
    the tensor axes that carry P, A_axis B_axisᵀ with that axis in front, the rest flattened and every other axis of B
    in its present order. Layers are visited in random order, until a sweep improves none of them. Costs are in float64,
    and an order changes only for a better one, so that the distance never increases and ties do not cycle.

    Arguments:
        spec: of both networks. Running statistics take no part.
        max_sweeps: over all layers, at most.
        generator: draws the order of the layers; the result is a local optimum, which depends on it.

    Returns:
        For each permutation the unit of ``b`` that stands for each unit of ``a``: hand them to
        :func:`apply_permutation` with ``b``.

    Raises:
        ValueError: state dicts that differ in keys or shapes (each is named), are not finite or do not fit ``spec``.

    Source: arXiv 2209.04836, algorithm 1; the cost of an MLP's layer is its equation for C with biases.

    >>> spec = PermutationSpec({"in": ("P",), "out": (None, "P")})
    >>> a = {"in": torch.tensor([1.0, 2.0]), "out": torch.ones(3, 2)}
    >>> b = {"in": torch.tensor([2.0, 1.0]), "out": torch.ones(3, 2)}
    >>> weight_matching(spec, a, b)
    {'P': tensor([1, 0])}
    """
    check_count("max_sweeps", max_sweeps, 1)
    check_states({"a": a, "b": b})
    sizes = spec.sizes(a)
    left, right = (
        {key: state[key].detach().double().cpu() for name in sizes for key, _ in matched(spec, name)}
        for state in (a, b)
    )
    orders = {name: torch.arange(size) for name, size in sizes.items()}
    names = list(sizes)
    for _ in range(max_sweeps):
        progress = False
        for place in torch.randperm(len(names), generator=generator).tolist():
            name = names[place]
            units = sizes[name]
            common = torch.zeros(units, units, dtype=torch.float64)
            for key, axis in matched(spec, name):
                others = permuted(spec, orders, sizes, key, right[key], but=axis)
                common += _by_unit(left[key], axis, units) @ _by_unit(others, axis, units).T
            better = assignment(common)
            gain = _worth(common, better) - _worth(common, orders[name])
            if gain > TOLERANCE * max(1.0, float(common.abs().sum(1).max())):
                orders[name] = better
                progress = True
        if not progress:
            break
    return orders


def activation_matching(
    spec: PermutationSpec,
    model: nn.Module,
    a: State,
    b: State,
    loader: Loader,
    *,
    normalise: bool = False,
) -> dict[str, Int[Tensor, " units"]]:
    """Orders of the units of ``b`` whose responses to data go with those of ``a``: one assignment for each layer.

        C = Z_Aᵀ Z_B, with Z (samples × units) the centred activations; divided by their deviations if normalised

    Activations are those that the layers fed by the units read (after the nonlinearity), in eval mode; every place of
    an image is a sample. Where several layers read one stream of a residual network their C are added. A unit that
    never changes correlates with none.

    Arguments:
        spec: of both networks.
        model: of the architecture; its own weights do not matter.
        loader: batches ``(inputs, targets)``, whose targets are not looked at.
        normalise: match by correlation rather than covariance.

    Returns:
        As :func:`weight_matching`.

    Raises:
        ValueError: as :func:`weight_matching`, or a permutation whose units no linear or convolutional layer reads.

    Source: arXiv 2209.04836, section 3.1.
    """
    check_loader(loader)
    a, b = placed(model, {"a": a, "b": b})
    sizes = spec.sizes(a)
    readers = _readers(spec, model)
    # Sums over samples of z_A, z_B, z_A², z_B² and z_A z_Bᵀ: enough for every covariance, whatever the batches.
    sums: dict[tuple[str, str], list[Tensor]] = {}
    counts: dict[tuple[str, str], int] = {}
    with torch.no_grad(), evaluating(model), _listening(model, readers) as heard:
        for inputs, _ in batches_of(loader, device_of(model)):
            responses = []
            for state in (a, b):
                functional_call(model, state, (inputs,), tie_weights=False)
                responses.append({pair: _samples(z, model, pair[1], sizes[pair[0]]) for pair, z in heard.items()})
                heard.clear()
            for pair, x in responses[0].items():
                y = responses[1][pair]
                found = [x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0), x.T @ y]
                sums[pair] = [s + new for s, new in zip(sums[pair], found, strict=True)] if pair in sums else found
                counts[pair] = counts.get(pair, 0) + len(x)
    common = {name: torch.zeros(size, size, dtype=torch.float64) for name, size in sizes.items()}
    for pair, (x, y, xx, yy, xy) in sums.items():
        n = counts[pair]
        covariance = xy / n - torch.outer(x / n, y / n)
        if normalise:
            spread = torch.outer(
                (xx / n - (x / n) ** 2).clamp(min=0).sqrt(), (yy / n - (y / n) ** 2).clamp(min=0).sqrt()
            )
            covariance = torch.where(spread > 1e-12, covariance / spread, 0.0)
        common[pair[0]] += covariance.cpu()
    return {name: assignment(matrix) for name, matrix in common.items()}


def assignment(worth: Float[Tensor, "units units"]) -> Int[Tensor, " units"]:
    """The column for each row, each once, of greatest total worth."""
    return torch.as_tensor(linear_sum_assignment(worth.numpy(), maximize=True)[1]).long()


def _worth(common: Float[Tensor, "units units"], order: Int[Tensor, " units"]) -> float:
    return float(common.gather(1, order[:, None]).sum())


def _by_unit(tensor: Tensor, axis: int, units: int) -> Float[Tensor, "units rest"]:
    """The units of one axis in front (with the block of places that each owns), everything else flattened."""
    return tensor.movedim(axis, 0).reshape(units, -1)


def _readers(spec: PermutationSpec, model: nn.Module) -> dict[str, list[str]]:
    """For each module the permutations of the units that it reads: those that the second axis of its weight carries."""
    modules = dict(model.named_modules())
    readers: dict[str, list[str]] = {}
    for name in spec.carried:
        found = {key.rpartition(".")[0] for key, axis in matched(spec, name) if axis == 1}
        found &= modules.keys()
        if not found:
            raise ValueError(f"permutation {name!r}: no layer of the model reads its units, so it has no activations")
        for module in found:
            readers.setdefault(module, []).append(name)
    return readers


@contextmanager
def _listening(model: nn.Module, readers: dict[str, list[str]]) -> Iterator[dict[tuple[str, str], Tensor]]:
    """What each of these modules is given, by (permutation, module)."""
    heard: dict[tuple[str, str], Tensor] = {}
    modules = dict(model.named_modules())

    def hook_of(module: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            for name in readers[module]:
                heard[name, module] = inputs[0]

        return hook

    handles = [modules[module].register_forward_pre_hook(hook_of(module)) for module in readers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _samples(z: Tensor, model: nn.Module, module: str, units: int) -> Float[Tensor, "samples units"]:
    """Activations with the units last and all else, the places of a unit's block included, as samples."""
    channels = z.ndim - 1 if isinstance(model.get_submodule(module), nn.Linear) else 1
    return z.double().movedim(channels, -1).unflatten(-1, (units, -1)).movedim(-2, -1).reshape(-1, units)
