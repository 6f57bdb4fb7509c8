"""The order of hidden units: which axes of which tensors it runs along, and networks with their units reordered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor, nn

from landform.landscape.connectivity.states import State, is_statistic
from landform.models.resnet import BasicBlock, Bottleneck, ResNet

Permutation = Mapping[str, Int[Tensor, " units"]]

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Threshold, nn.Hardtanh,
    nn.Hardsigmoid, nn.Hardswish, nn.Dropout, nn.AlphaDropout, nn.Identity,
)  # fmt: skip
OVER_SPACE = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Upsample, nn.ZeroPad2d,
)  # fmt: skip
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BY_CHANNEL = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)  # fmt: skip


@dataclass(frozen=True)
class PermutationSpec:
    """Which permutation, by name, each axis of each tensor carries: None for one that is in fixed order.

    Two axes with one name are reordered together. In a residual network all blocks that add to one stream share its
    permutation. An axis may be a multiple of the permutation long, as that of a linear layer behind a flattened image
    is: each unit then owns a block of neighbouring places. Running statistics are listed too, so that they follow
    their units; matching takes no account of them.

    Arguments:
        axes: ``{"0.weight": ("P0", None), "0.bias": ("P0",), "2.weight": (None, "P0"), "2.bias": (None,)}``. Trailing
            Nones may be left out; a tensor that is not listed is left as it is.

    Raises:
        ValueError: no permutations, or one that is carried twice by one tensor.
    """

    axes: Mapping[str, tuple[str | None, ...]]

    def __post_init__(self) -> None:
        if not self.carried:
            raise ValueError("axes: no tensor carries a permutation, so there is nothing to reorder")
        for key, names in self.axes.items():
            named = [name for name in names if name is not None]
            if len(set(named)) < len(named):
                raise ValueError(f"axes[{key!r}]={names}: one tensor cannot carry a permutation along two axes")

    @cached_property
    def carried(self) -> dict[str, list[tuple[str, int]]]:
        """The (tensor, axis) pairs that carry each permutation."""
        found: dict[str, list[tuple[str, int]]] = {}
        for key, names in self.axes.items():
            for axis, name in enumerate(names):
                if name is not None:
                    found.setdefault(name, []).append((key, axis))
        return found

    def sizes(self, state: State) -> dict[str, int]:
        """How many units each permutation orders, in networks of this state dict's shapes.

        Raises:
            ValueError: a tensor that is missing or has too few axes, or axes of one permutation whose lengths do not
                fit.
        """
        sizes = {}
        for name, places in self.carried.items():
            lengths = {}
            for key, axis in places:
                if key not in state:
                    raise ValueError(f"the specification names {key!r}; the state dict has {', '.join(state)}")
                if axis >= state[key].ndim:
                    raise ValueError(f"{key!r} has shape {tuple(state[key].shape)}: no axis {axis} to carry {name!r}")
                lengths[key, axis] = state[key].shape[axis]
            sizes[name] = min(lengths.values())
            for (key, axis), length in lengths.items():
                if length % sizes[name]:
                    raise ValueError(
                        f"permutation {name!r} orders {sizes[name]} units, but axis {axis} of {key!r} is {length} long"
                    )
        return sizes

    @classmethod
    def of_sequential(cls, model: nn.Module) -> PermutationSpec:
        """The specification of a perceptron or convolutional network made with ``nn.Sequential`` (nested or not).

        Each hidden linear or convolutional layer gets a permutation, by its name. Normalisations by channel, layer
        normalisation over the features, elementwise activations, pooling, dropout and flattening may stand between.

        Raises:
            ValueError: a layer of another kind, named, or fewer than two layers with weights.
            TypeError: not an ``nn.Sequential``.

        >>> spec = PermutationSpec.of_sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> spec.axes["2.weight"]
        (None, '0')
        """
        if not isinstance(model, nn.Sequential):
            raise TypeError(
                f"model is a {type(model).__name__}; only nn.Sequential tells the order of its layers. "
                "Write the axes of others by hand: PermutationSpec({...})"
            )
        layers = list(_leaves(model))
        producing = [name for name, layer in layers if isinstance(layer, nn.Linear) or _mixes(layer)]
        if len(producing) < 2:
            raise ValueError(
                f"model has {len(producing)} linear or convolutional layers; without two no unit is hidden"
            )
        axes: dict[str, tuple[str | None, ...]] = {}
        current: str | None = None
        has_space = False
        for name, layer in layers:
            has_space = isinstance(layer, CONVOLUTIONS) or (has_space and not isinstance(layer, nn.Linear | nn.Flatten))
            if has_space and isinstance(layer, nn.LayerNorm):
                raise ValueError(f"layer {name!r} (LayerNorm) normalises over space, not over units")
            if name in producing:
                after = name if name != producing[-1] else None
                axes[f"{name}.weight"] = (after, current)
                if layer.bias is not None:
                    axes[f"{name}.bias"] = (after,)
                current = after
            elif current is not None:
                axes.update({f"{name}.{key}": (current,) for key in _by_unit(name, layer)})
        return cls(axes)

    @classmethod
    def of_resnet(cls, model: nn.Module) -> PermutationSpec:
        """The specification of a :class:`landform.models.resnet.ResNet` with norms by channel or without.

        One permutation for each stage's stream, shared by all its blocks (and by the stem, where the first stage adds
        to it), and one for each layer within a block.

        Raises:
            TypeError: not a ResNet.
            ValueError: norms that do not treat each channel alike.
        """
        if not isinstance(model, ResNet):
            raise TypeError(f"model is a {type(model).__name__}, not a landform.models.resnet.ResNet")
        axes: dict[str, tuple[str | None, ...]] = {}

        def chain(prefix: str, layers: nn.Module, before: str | None, inside: list[str]) -> None:
            """A convolution and what follows it, over and over: its outputs carry the names ``inside`` in turn."""
            current, names = before, iter(inside)
            for place, layer in layers.named_children():
                if isinstance(layer, CONVOLUTIONS):
                    current, previous = next(names), current
                    axes[f"{prefix}.{place}.weight"] = (current, previous)
                elif current is not None:
                    axes.update({f"{prefix}.{place}.{key}": (current,) for key in _by_unit(f"{prefix}.{place}", layer)})

        stream = "stem"
        chain("stem", model.stem, None, [stream])
        for number, stage in enumerate(model.stages):
            assert isinstance(stage, nn.Sequential)
            for place, block in enumerate(stage):
                assert isinstance(block, BasicBlock | Bottleneck)
                prefix, before = f"stages.{number}.{place}", stream
                if not isinstance(block.shortcut, nn.Identity):
                    stream = f"stages.{number}"
                    chain(f"{prefix}.shortcut", block.shortcut, before, [stream])
                hidden = 2 if isinstance(block, Bottleneck) else 1
                chain(f"{prefix}.residual", block.residual, before, [*(f"{prefix}.{i}" for i in range(hidden)), stream])
        axes["head.weight"] = (None, stream)
        return cls(axes)


def apply_permutation(spec: PermutationSpec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """The same network with its hidden units in another order: unit i is the one that was ``permutation[name][i]``.

    Arguments:
        permutation: the order of each permutation of the specification; those left out keep theirs.

    Raises:
        ValueError: a name that the specification lacks, an order that is none of 0 ... n - 1, tensors that do not fit.

    >>> spec = PermutationSpec({"in": ("P",), "out": (None, "P")})
    >>> apply_permutation(spec, {"P": torch.tensor([1, 0])}, {"in": torch.tensor([5, 7]), "out": torch.eye(2)})
    {'in': tensor([7, 5]), 'out': tensor([[0., 1.], [1., 0.]])}
    """
    sizes = spec.sizes(state)
    orders = checked(permutation, sizes)
    return {key: permuted(spec, orders, sizes, key, tensor) for key, tensor in state.items()}


def checked(permutation: Permutation, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The orders as they were given, once they are known to be such."""
    for name, order in permutation.items():
        if name not in sizes:
            raise ValueError(f"permutation {name!r} is not in the specification, which has {', '.join(sizes)}")
        order = torch.as_tensor(order)
        if order.is_floating_point() or order.ndim != 1 or order.sort().values.tolist() != list(range(sizes[name])):
            raise ValueError(f"permutation[{name!r}] must hold each of 0 ... {sizes[name] - 1} once, not {order}")
    return {name: torch.as_tensor(order).long() for name, order in permutation.items()}


def permuted(
    spec: PermutationSpec,
    orders: Permutation,
    sizes: Mapping[str, int],
    key: str,
    tensor: Tensor,
    but: int | None = None,
) -> Tensor:
    """A tensor with every axis but ``but`` in order."""
    for axis, name in enumerate(spec.axes.get(key, ())):
        if name is None or axis == but or name not in orders:
            continue
        order = orders[name].to(tensor.device)
        block = tensor.shape[axis] // sizes[name]
        places = order if block == 1 else (order[:, None] * block + torch.arange(block, device=order.device)).flatten()
        tensor = tensor.index_select(axis, places)
    return tensor


def matched(spec: PermutationSpec, name: str) -> list[tuple[str, int]]:
    """The (tensor, axis) pairs of a permutation that are weights."""
    return [(key, axis) for key, axis in spec.carried[name] if not is_statistic(key)]


def _leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested sequences, in order."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _mixes(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that makes new units of all those before it."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == 1


def _by_unit(name: str, layer: nn.Module) -> list[str]:
    """The tensors of a layer that treats every unit by itself, which have the units on their first axis."""
    held = [key for key, tensor in layer.state_dict().items() if tensor.ndim]
    if isinstance(layer, ELEMENTWISE + OVER_SPACE + BY_CHANNEL + (nn.Flatten,)):
        return held
    if isinstance(layer, nn.PReLU):
        return held if layer.num_parameters > 1 else []
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return held
    if isinstance(layer, nn.GroupNorm) and layer.num_groups in (1, layer.num_channels):
        return held
    if isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels == layer.out_channels:
        return held
    raise ValueError(
        f"layer {name!r} ({type(layer).__name__}) is not known to treat every unit by itself; write the axes by hand"
    )
