"""Gradients of each sample's own loss, their norms and their inner products."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from landform.training.memory import keep_freed_memory
from landform.training.per_sample.alone import AloneStatistics, clones
from landform.training.per_sample.layers import Gradients, Loss, NotLayerwise, layerwise_gradients, scalar
from landform.training.vectorised import failing_layer

Method = Literal["auto", "exact", "layerwise"]


def per_sample_gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    *,
    params: Collection[str] | None = None,
    chunk_size: int | None = None,
    method: Method = "auto",
) -> dict[str, Float[Tensor, "n ..."]]:
    """The gradient of every sample's own loss, exact: what N backward passes over batches of one would give.

        g_i = ∂ loss(model(x_i), y_i) / ∂ θ

    The model is left as it was (parameters, gradients, buffers, mode) and runs in the mode that it is in. In training
    mode batch normalisation uses each sample's own spatial statistics, as it would on a batch of one, and does not
    update its running averages; dropout draws its mask anew for each sample.

    Arguments:
        model: called on batches; its parameters may be of any floating dtype.
        x, y: the N samples and their targets, on the first axis.
        loss: ``loss(model(x), y)``, one number for a batch of one; its reduction over a batch does not matter.
        params: names of the parameters wanted; every one that requires a gradient if None.
        chunk_size: how many samples to hold at a time, which bounds the memory of the pass (not of the result).
        method: ``"exact"`` vectorises the backward pass over samples (``torch.func``): any model without
            data-dependent control flow. ``"layerwise"`` runs one batched backward pass and applies each layer's closed
            form, which is faster; it needs every parameter to be that of a linear, convolution, embedding or
            normalisation layer, and refuses a model whose output for one sample changes with the rest of the batch
            (checked on the first). ``"auto"`` is ``"layerwise"`` where that applies, else ``"exact"``; the two agree
            to rounding.

    Returns:
        name → (N, \\*shape), zeros for a parameter that the loss does not depend on.

    Raises:
        ValueError: unknown or no parameters, N = 0, x and y of different lengths, a loss that is not one number, a
            layer that cannot be vectorised (named), or ``"layerwise"`` for a model without such a form.

    >>> model = torch.nn.Linear(3, 2)
    >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    >>> grads = per_sample_gradients(model, x, y, torch.nn.functional.cross_entropy)
    >>> {name: tuple(g.shape) for name, g in grads.items()}
    {'weight': (5, 2, 3), 'bias': (5, 2)}
    """
    work = _Samples(model, loss, params, chunk_size, method)
    pieces = [{name: chunk.gradient(name) for name in work.wanted} for chunk in work.chunks(x, y)]
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in work.wanted}


def per_sample_grad_norms(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    *,
    params: Collection[str] | None = None,
    chunk_size: int | None = None,
    method: Method = "auto",
) -> Float[Tensor, " n"]:
    """The Euclidean norm ‖g_i‖ of every sample's gradient, over all the parameters together.

    ``method="layerwise"`` never forms the N gradients: ‖δ aᵀ‖² = ‖δ‖²‖a‖² for a linear layer, "ghost norms" for
    sequences and convolutions where these are cheaper (see ``landform.training.per_sample.layers``). Arguments and
    errors as in :func:`per_sample_gradients`.
    """
    work = _Samples(model, loss, params, chunk_size, method)
    return torch.cat([chunk.squared_norms() for chunk in work.chunks(x, y)]).sqrt()


def per_sample_grad_dot(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    *,
    other: tuple[Tensor, Tensor] | None = None,
    params: Collection[str] | None = None,
    chunk_size: int | None = None,
    method: Method = "auto",
) -> Float[Tensor, "n m"]:
    """The inner products ⟨g_i, g_j⟩ of the samples' gradients with one another, or with those of ``other`` samples.

    ``other=(x, y)`` holds M samples; without it M = N and the result is the Gram matrix. With ``chunk_size`` the other
    samples' gradients are computed again for each chunk, so that at most two chunks are held. Arguments and errors as
    in :func:`per_sample_gradients`.
    """
    work = _Samples(model, loss, params, chunk_size, method)
    if other is None and (chunk_size is None or chunk_size >= len(x)):
        (chunk,) = work.chunks(x, y)
        return chunk.dot(chunk)
    columns = (x, y) if other is None else other
    return torch.cat([torch.cat([row.dot(c) for c in work.chunks(*columns)], dim=1) for row in work.chunks(x, y)])


class _Formed:
    """Gradients held in full."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values
        self.n = len(next(iter(values.values())))

    def gradient(self, name: str) -> Tensor:
        return self.values[name]

    def squared_norms(self) -> Tensor:
        return torch.stack([value.flatten(1).square().sum(1) for value in self.values.values()]).sum(0)

    def dot(self, other: Gradients) -> Tensor:
        return torch.stack(
            [value.flatten(1) @ other.gradient(name).flatten(1).T for name, value in self.values.items()]
        ).sum(0)


class _Samples:
    """What to differentiate, by which method; gives the gradients of samples chunk by chunk."""

    def __init__(
        self, model: nn.Module, loss: Loss, params: Collection[str] | None, chunk_size: int | None, method: Method
    ) -> None:
        every = dict(model.named_parameters())
        if params is None:
            params = [name for name, param in every.items() if param.requires_grad]
        elif isinstance(params, str):
            raise TypeError(f"params={params!r}: give a collection of names, not one string")
        unknown = sorted(set(params) - set(every))
        if unknown:
            raise ValueError(f"params: the model has no parameter {unknown[0]!r}; it has {', '.join(every)}")
        self.wanted = {name: param for name, param in every.items() if name in set(params)}
        if not self.wanted:
            raise ValueError("params: no parameter to differentiate is selected")
        self.rest = {name: param.detach() for name, param in every.items() if name not in self.wanted}
        self.buffers = dict(model.named_buffers())
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: must be at least 1, or None for all samples at once")
        if method not in ("auto", "exact", "layerwise"):
            raise ValueError(f"method={method!r}: must be 'auto', 'exact' or 'layerwise'")
        self.model, self.loss, self.chunk_size, self.method = model, loss, chunk_size, method
        self.verified = False

    def chunks(self, x: Tensor, y: Tensor) -> Iterator[Gradients]:
        if x.device.type == "cpu":
            keep_freed_memory()
        if len(x) != len(y):
            raise ValueError(f"x and y: {len(x)} samples but {len(y)} targets")
        if len(x) == 0:
            raise ValueError("x: there must be at least one sample")
        size = self.chunk_size or len(x)
        for x_chunk, y_chunk in zip(x.split(size), y.split(size), strict=True):
            yield self._gradients(x_chunk, y_chunk)

    def _gradients(self, x: Tensor, y: Tensor) -> Gradients:
        if self.method != "exact":
            try:
                found = layerwise_gradients(
                    self.model, self.wanted, self.buffers, x, y, self.loss, verify=not self.verified
                )
                self.verified = True
                return found
            except NotLayerwise as reason:
                if self.method == "layerwise":
                    raise ValueError(f"method='layerwise': the model {reason}; use method='exact'") from reason
                self.method = "exact"
        return _Formed(self._exact(x, y))

    def _exact(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        wanted = {name: param.detach() for name, param in self.wanted.items()}

        def one(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            with AloneStatistics():
                output = functional_call(self.model, {**self.rest, **params, **clones(self.buffers)}, (x.unsqueeze(0),))
            return scalar(self.loss(output, y.unsqueeze(0)))

        def forward() -> Tensor:
            return vmap(one, in_dims=(None, 0, 0), randomness="different")(wanted, x, y)

        try:
            return vmap(grad(one), in_dims=(None, 0, 0), randomness="different")(wanted, x, y)
        except (RuntimeError, ValueError) as error:
            layer = failing_layer(self.model, forward)
            if layer is None:
                raise
            raise ValueError(f"model: {layer} cannot be vectorised over samples: {error}") from error
