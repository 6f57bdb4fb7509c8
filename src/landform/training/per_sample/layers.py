"""Per-sample gradients layer by layer, from one batched forward and one batched backward pass.

A layer with weight W maps the columns A_i (K × P) of sample i to W A_i; with δ_i (C × P) the gradient of sample i's own
loss at the layer's output, the sample's weight gradient is δ_i A_iᵀ. P is 1 for a linear layer, the number of positions
for a sequence or a convolution (whose columns are its unfolded windows). Hence, without forming the gradient,

    ‖δ_i A_iᵀ‖² = Σ_pq (A_iᵀ A_i)_pq (δ_iᵀ δ_i)_pq        ("ghost norm", cheaper when P² < K·C)
    ⟨δ_i A_iᵀ, δ_j A_jᵀ⟩ = (a_i · a_j)(δ_i · δ_j)           (P = 1)

Biases and the affine weights of normalisation are sums of δ and of δ ⊙ x̂ over positions; an embedding's rows add δ by
token. The forward pass is watched where parameters meet functions (``F.linear``, ``F.conv2d``, …), not by module hooks:
so a parameter that is used twice is summed over its uses, and one that is used in any other way is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from landform.training.linear import linear_by_input
from landform.training.per_sample.alone import clones, instance_norm_alone
from landform.training.vectorised import ELEMENTWISE, has_hooks

Loss = Callable[[Any, Tensor], Tensor]

EVERY = slice(None)


class NotLayerwise(Exception):
    """Why the closed forms do not apply to a model: the message completes "the model …"."""


@dataclass(frozen=True)
class Use:
    """One use of a parameter: where the gradient at the layer's output is to be read, and what it then means."""

    name: str
    shape: torch.Size
    edge: GradientEdge

    def gradient(self, delta: Tensor) -> Tensor:
        """(N, \\*shape), from ``delta``: the gradient of the summed loss at the layer's output."""
        raise NotImplementedError

    def squared_norm(self, delta: Tensor) -> Tensor:
        return self.gradient(delta).flatten(1).square().sum(1)

    def dot(self, delta: Tensor, other: Use, other_delta: Tensor) -> Tensor:
        return self.gradient(delta).flatten(1) @ other.gradient(other_delta).flatten(1).T


@dataclass(frozen=True)
class Summed(Use):
    """A bias, or the weight of a normalisation: δ, times ``factor`` if there is one, summed over ``dims``."""

    dims: tuple[int, ...]
    factor: Callable[[], Tensor] | None = None

    def gradient(self, delta: Tensor) -> Tensor:
        value = delta if self.factor is None else delta * self.factor()
        return value.sum(self.dims) if self.dims else value


@dataclass(frozen=True)
class Product(Use):
    """The weight of a linear layer or a convolution of G groups: δ Aᵀ, with δ (N, G, C, P) and A (N, G, K, P).

    ``columns`` gives A, of some of the samples; ``direct`` gives their products from δ without forming A, where there
    is a faster way.
    """

    rows: Callable[[Tensor], Tensor]
    columns: Callable[[slice], Tensor]
    direct: Callable[[Tensor, slice], Tensor] | None = None

    def gradient(self, delta: Tensor, samples: slice = EVERY) -> Tensor:
        """(n, \\*shape), of some of the samples."""
        if self.direct is not None:
            return self.direct(delta[samples], samples)
        rows, columns = self.rows(delta[samples]), self.columns(samples)
        value = rows * columns.mT if rows.shape[-1] == 1 else rows @ columns.mT
        return value.reshape(-1, *self.shape)

    def squared_norm(self, delta: Tensor) -> Tensor:
        rows, columns = self.rows(delta), self.columns(EVERY)
        positions = rows.shape[-1]
        if positions == 1:
            return (rows.square().sum((2, 3)) * columns.square().sum((2, 3))).sum(1)
        if positions**2 < rows.shape[2] * columns.shape[2]:
            ghost = (rows.mT @ rows) * (columns.mT @ columns)
            return ghost.sum((1, 2, 3))
        return super().squared_norm(delta)

    def dot(self, delta: Tensor, other: Use, other_delta: Tensor) -> Tensor:
        rows, columns = self.rows(delta), self.columns(EVERY)
        if rows.shape[-1] == 1 and isinstance(other, Product):
            other_rows, other_columns = other.rows(other_delta), other.columns(EVERY)
            if other_rows.shape[-1] == 1:
                pairs = "ngcp, mgcp -> nmg"
                products = torch.einsum(pairs, rows, other_rows) * torch.einsum(pairs, columns, other_columns)
                return products.sum(2)
        return super().dot(delta, other, other_delta)


@dataclass(frozen=True)
class Lookup(Use):
    """The table (V, D) of an embedding: δ (N, P, D) added into the rows of the tokens (N, P)."""

    tokens: Tensor
    padding: int | None

    def _delta(self, delta: Tensor) -> Tensor:
        delta = delta.reshape(*self.tokens.shape, -1)
        return delta if self.padding is None else delta * (self.tokens != self.padding).unsqueeze(-1)

    def gradient(self, delta: Tensor) -> Tensor:
        delta = self._delta(delta)
        value = delta.new_zeros(len(delta), *self.shape)
        return value.scatter_add(1, self.tokens.unsqueeze(-1).expand_as(delta), delta)

    def squared_norm(self, delta: Tensor) -> Tensor:
        delta = self._delta(delta)
        same = self.tokens.unsqueeze(1) == self.tokens.unsqueeze(2)
        return ((delta @ delta.mT) * same).sum((1, 2))


class Watch(TorchFunctionMode):
    """Runs a batched forward pass in which each sample is normalised alone, and notes every use of the parameters."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in params.items()}
        self.uses: list[Use] = []
        self.inputs: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        note = NOTES.get(func)
        if note is not None:
            return note(self, *args, **kwargs)
        out = func(*args, **kwargs)
        for name in self._selected((*args, *kwargs.values())):
            if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(out)):
                raise NotLayerwise(
                    f"uses parameter {name!r} in {getattr(func, '__name__', func)}, not in a known layer"
                )
        return out

    def _selected(self, values: Sequence[Any]) -> list[str]:
        flat = [leaf for value in values for leaf in (value if isinstance(value, (list, tuple)) else (value,))]
        return [self.names[id(leaf)] for leaf in flat if id(leaf) in self.names]

    def note(self, kind: type[Use], param: Tensor | None, input: Tensor, out: Tensor, *how: Any) -> None:
        """Note that ``param``, if it is one of the selected, was used on ``input`` and gave ``out``."""
        if id(input) in self.names:
            raise NotLayerwise(f"feeds parameter {self.names[id(input)]!r} to a layer as if it were data")
        if param is None or id(param) not in self.names:
            return
        self.inputs.append((input, input._version))
        if out.requires_grad:
            self.uses.append(kind(self.names[id(param)], param.shape, get_gradient_edge(out), *how))

    def check_inputs(self) -> None:
        """That nothing has written to a layer's input since the layer read it."""
        if any(tensor._version != version for tensor, version in self.inputs):
            raise NotLayerwise("overwrites the input of a layer in place")


def _own(out: Tensor) -> Tensor:
    """``out`` as no view of another tensor: writing to a view in place (ReLU often does) re-routes its gradient."""
    return out.clone() if out._is_view() else out


def _linear(watch: Watch, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = _own(linear_by_input(input, weight, bias))

    def positions_last(x: Tensor) -> Tensor:
        return x.reshape(len(x), 1, -1, x.shape[-1]).mT

    watch.note(Product, weight, input, out, positions_last, lambda samples: positions_last(input.detach()[samples]))
    watch.note(Summed, bias, input, out, tuple(range(1, out.ndim - 1)))
    return out


def _convolution(convolve: Callable[..., Tensor], ndim: int) -> Callable[..., Tensor]:
    def each(value: Any) -> tuple[int, ...]:
        value = (value,) if isinstance(value, int) else tuple(value)
        return value * ndim if len(value) == 1 else value

    def note(
        watch: Watch,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        out = _own(convolve(input, weight, bias, stride, padding, dilation, groups))
        kernel, places = weight.shape[2:], out.shape[2:]
        step, spread = each(stride), each(dilation)
        pads: list[int] = []
        for axis in reversed(range(ndim)):
            if padding == "same":  # an odd total is padded more on the far side, as the convolution itself does
                total = spread[axis] * (kernel[axis] - 1)
                pads += [total // 2, total - total // 2]
            else:
                pads += [0 if padding == "valid" else each(padding)[axis]] * 2

        def windows(samples: slice) -> Tensor:
            x = F.pad(input.detach()[samples], pads)
            batch, channel, *space = x.stride()
            view = x.as_strided(
                (len(x), x.shape[1], *kernel, *places),
                (
                    batch,
                    channel,
                    *(s * d for s, d in zip(space, spread, strict=True)),
                    *(s * d for s, d in zip(space, step, strict=True)),
                ),
            )
            return view.reshape(len(x), groups, -1, places.numel())

        def rows(delta: Tensor) -> Tensor:
            return delta.reshape(len(delta), groups, delta.shape[1] // groups, -1)

        def grouped(delta: Tensor, samples: slice) -> Tensor:
            # One convolution in which every sample is a group: then each sample's weights have a gradient of their own.
            x = input.detach()[samples]
            x = F.pad(x, pads) if uneven else x
            _, gradient, _ = torch.ops.aten.convolution_backward(
                delta.reshape(1, -1, *places),
                x.reshape(1, -1, *x.shape[2:]),
                weight.detach()[:1].expand(len(x) * len(weight), *weight.shape[1:]),  # its values play no part
                None,
                step,
                [0] * ndim if uneven else pads[::-2],
                spread,
                False,
                [0] * ndim,
                len(x) * groups,
                [False, True, False],
            )
            return gradient.view(len(x), *weight.shape)

        uneven = pads[::2] != pads[1::2]
        # With few input channels a group is too small for the library's fast kernels; one place is a plain matrix.
        direct = grouped if weight.shape[1] >= 4 and math.prod(kernel) > 1 else None
        watch.note(Product, weight, input, out, rows, windows, direct)
        watch.note(Summed, bias, input, out, tuple(range(2, out.ndim)))
        return out

    return note


def _embedding(
    watch: Watch,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq:
        raise NotLayerwise("has an embedding with max_norm or scale_grad_by_freq")
    out = _own(F.embedding(input, weight, padding_idx))
    if padding_idx is not None and padding_idx < 0:
        padding_idx += len(weight)
    watch.note(Lookup, weight, input, out, input.reshape(len(input), -1) if input.ndim else input, padding_idx)
    return out


def _affine(
    watch: Watch,
    input: Tensor,
    out: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: tuple[int, ...],
    normalise: Callable[[Tensor], Tensor],
) -> Tensor:
    out = _own(out)
    watch.note(Summed, weight, input, out, dims, lambda: normalise(input.detach()))
    watch.note(Summed, bias, input, out, dims)
    return out


def _layer_norm(
    watch: Watch,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    out = F.layer_norm(input, normalized_shape, weight, bias, eps)
    dims = tuple(range(1, input.ndim - len(normalized_shape)))
    return _affine(watch, input, out, weight, bias, dims, lambda x: F.layer_norm(x, normalized_shape, None, None, eps))


def _rms_norm(
    watch: Watch,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    out = F.rms_norm(input, normalized_shape, weight, eps)
    dims = tuple(range(1, input.ndim - len(normalized_shape)))
    return _affine(watch, input, out, weight, None, dims, lambda x: F.rms_norm(x, normalized_shape, None, eps))


def _group_norm(
    watch: Watch,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    out = F.group_norm(input, num_groups, weight, bias, eps)
    dims = tuple(range(2, input.ndim))
    return _affine(watch, input, out, weight, bias, dims, lambda x: F.group_norm(x, num_groups, None, None, eps))


def _instance_norm(
    watch: Watch,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    def normalise(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return instance_norm_alone(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)

    return _affine(watch, input, normalise(input, weight, bias), weight, bias, tuple(range(2, input.ndim)), normalise)


def _batch_norm(
    watch: Watch,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    def normalise(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if training:  # the statistics of a batch of one: each channel of each sample is a group
            if x[0, 0].numel() == 1:
                raise NotLayerwise("has a batch normalisation in training mode that sees one value a channel")
            return F.group_norm(x, x.shape[1], weight, bias, eps)
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)

    return _affine(watch, input, normalise(input, weight, bias), weight, bias, tuple(range(2, input.ndim)), normalise)


NOTES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d, 1),
    F.conv2d: _convolution(F.conv2d, 2),
    F.conv3d: _convolution(F.conv3d, 3),
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}


class Gradients(Protocol):
    """The gradients of n samples, whether they are formed or not."""

    n: int

    def gradient(self, name: str) -> Tensor: ...

    def squared_norms(self) -> Tensor: ...

    def dot(self, other: Gradients) -> Tensor: ...


class LayerwiseGradients:
    """The gradients of N samples as the uses of each parameter and the gradient at each use's output."""

    def __init__(
        self, uses: Sequence[Use], deltas: Sequence[Tensor | None], params: Mapping[str, Tensor], n: int
    ) -> None:
        self.n = n
        self.params = params
        self.uses: dict[str, list[tuple[Use, Tensor]]] = {name: [] for name in params}
        for use, delta in zip(uses, deltas, strict=True):
            if delta is not None:
                self.uses[use.name].append((use, delta))

    def gradient(self, name: str) -> Tensor:
        """(N, \\*shape): the sum over the parameter's uses, zero where it was not used."""
        total: Tensor | None = None
        for use, delta in self.uses[name]:
            value = use.gradient(delta)
            total = value if total is None else total + value
        return self.params[name].new_zeros(self.n, *self.params[name].shape) if total is None else total

    def squared_norms(self) -> Tensor:
        """(N,): over all parameters. Only a parameter used more than once has its gradient formed."""
        total = next(iter(self.params.values())).new_zeros(self.n)
        for name, uses in self.uses.items():
            if len(uses) == 1:
                use, delta = uses[0]
                total = total + use.squared_norm(delta)
            elif uses:
                total = total + self.gradient(name).flatten(1).square().sum(1)
        return total

    def dot(self, other: Gradients) -> Tensor:
        """(N, M): the inner products with the gradients of M other samples."""
        total = next(iter(self.params.values())).new_zeros(self.n, other.n)
        for name, uses in self.uses.items():
            others = other.uses[name] if isinstance(other, LayerwiseGradients) else []
            if len(uses) == len(others) == 1:
                total = total + uses[0][0].dot(uses[0][1], *others[0])
            elif uses:
                total = total + self.gradient(name).flatten(1) @ other.gradient(name).flatten(1).T
        return total


def layerwise_gradients(
    model: nn.Module,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    *,
    verify: bool,
) -> LayerwiseGradients:
    """The gradients of each sample's loss with respect to ``params``, in a batched pass; see the module's docstring.

    A model whose output for one sample depends on the rest of the batch, or on randomness, or that puts another axis
    first, has no layer-wise form. A sequence of layers known to take samples apart has one; of any other, ``verify``
    runs the first sample alone as well and compares.

    Raises:
        NotLayerwise: the closed forms do not apply, and why.
    """
    frozen = {name: param.detach().requires_grad_() for name, param in params.items() if not param.requires_grad}
    params = {**params, **frozen}

    def forward(x: Tensor) -> tuple[Any, Watch]:
        replaced = {**frozen, **clones(buffers)}
        with Watch(params) as watch:
            return functional_call(model, replaced, (x,)) if replaced else model(x), watch

    with torch.enable_grad():
        output, watch = forward(x)
        total = _losses(loss, output, y).sum()
    watch.check_inputs()
    if verify and not _takes_samples_apart(model):
        with torch.no_grad():
            _verify(output, watch, *forward(x[:1]))
    deltas: Sequence[Tensor | None] = [None] * len(watch.uses)
    if total.requires_grad and watch.uses:
        deltas = torch.autograd.grad(total, [use.edge for use in watch.uses], allow_unused=True)
    return LayerwiseGradients(watch.uses, deltas, params, len(x))


# Layers that treat each sample on the first axis alone; normalisation over the batch is made to, see Watch.
APART = (
    *ELEMENTWISE, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip


def _takes_samples_apart(model: nn.Module) -> bool:
    """Whether a model is a sequence, or sequences of sequences, of such layers and nothing else."""
    return all(
        not has_hooks(module)
        and (
            type(module) in APART
            or type(module).forward is nn.Sequential.forward
            or (type(module) is nn.Flatten and module.start_dim == 1)
        )
        for module in model.modules()
    )


def _verify(output: Any, watch: Watch, output_alone: Any, watch_alone: Watch) -> None:
    if [(1, *x.shape[1:]) for x, _ in watch.inputs] != [tuple(x.shape) for x, _ in watch_alone.inputs]:
        raise NotLayerwise("has a layer whose input does not have the samples on its first axis")
    for together, alone in zip(tree_leaves(output), tree_leaves(output_alone), strict=True):
        if isinstance(together, Tensor) and together.is_floating_point():
            error, size = (together[:1] - alone).abs().max(), alone.abs().max()
            if bool(error > 1e3 * torch.finfo(alone.dtype).eps * size):  # a NaN is left to show in the gradients
                raise NotLayerwise(
                    "gives a sample another output when the batch around it changes, or is random (dropout in "
                    "training mode)"
                )


def _losses(loss: Loss, output: Any, y: Tensor) -> Tensor:
    """(N,): each sample's own loss, whatever reduction the loss applies to a batch."""
    if (
        loss is F.cross_entropy
        and isinstance(output, Tensor)
        and output.ndim == 2
        and y.ndim == 1
        and bool((y >= 0).all())
    ):
        return F.cross_entropy(output, y, reduction="none")  # the same, without the overhead of vmap
    return vmap(lambda o, t: scalar(loss(tree_map(lambda leaf: leaf.unsqueeze(0), o), t.unsqueeze(0))))(output, y)


def scalar(value: Tensor) -> Tensor:
    """A sample's loss as a scalar, if it is one number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: must give one number for a batch of one sample, got {shape}")
    return value.reshape(())
