"""Products with the Hessian and the Gauss–Newton matrix, without forming either.

Both are differentiated twice in reverse. The first derivative is taken once, with its graph; a product is then one more
pass back through that graph, so that any number of products share the passes before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landform.landscape.curvature.parameters import ParameterVector

Criterion = Callable[[Any, Any], Tensor]
Product = Callable[[Float[Tensor, "k P"]], Float[Tensor, "k P"]]
Params = TypeVar("Params", Tensor, Mapping[str, Tensor])
Named = Literal["ce", "mse"]

BLOCK_BYTES = 2**26
"""Vectors go through a graph together as long as what they would keep of it stays below this."""


def hvp(loss_fn: Callable[[Any, Any], Tensor], params: Params, batch: Any, v: Params) -> Params:
    """Hessian-vector product of a loss: H v = ∇_w (∇_w L(w)ᵀ v), exact.

    Arguments:
        loss_fn: ``loss_fn(params, batch)`` gives a scalar.
        params: where to differentiate: a flat vector ``(P,)``, or tensors by name.
        batch: handed to ``loss_fn`` as it is.
        v: the vector, in the form of ``params``.

    Returns:
        H v, in the form of ``params``.

    Raises:
        ValueError: a loss that is not a scalar or does not depend on ``params``; a ``v`` of other names or shapes.
        FloatingPointError: a loss or a product that is not finite.

    Source: Pearlmutter 1994; arXiv 1706.04454.

    >>> w, v = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    >>> hvp(lambda w, batch: (w**3).sum(), w, None, v)
    tensor([6., 0.])
    """
    layout, w, direction = _flat(params, v)
    with double_differentiable():
        product = hessian_product(loss_fn(_like(params, layout, w), batch), w)
    return _like(params, layout, finite(product(direction[None])[0], "the Hessian-vector product"))


def ggn_vp(
    model: nn.Module | Callable[[Any, Any], Tensor],
    params: Params,
    batch: tuple[Any, Any],
    v: Params,
    loss: Named | Criterion = "ce",
) -> Params:
    """Gauss–Newton-vector product of a loss of a network's outputs.

        G v = (1/n) Σ_i J_iᵀ A_i J_i v,   J_i = ∂f(x_i)/∂w,   A_i = ∂²l/∂f²

    Arguments:
        model: a network, run in the mode it is in, or a function ``model(params, inputs)``.
        params: where to differentiate: tensors by name (for a network, names of its parameters), or a flat vector
            ``(P,)`` (for a network, of those that require a gradient, in the network's order).
        batch: the inputs and the targets.
        v: the vector, in the form of ``params``.
        loss: ``"ce"`` is the mean cross-entropy of logits, A_i = diag(p_i) − p_i p_iᵀ; ``"mse"`` is half the squared
            error, summed over outputs and averaged over samples, A_i = I. Or a scalar ``loss(outputs, targets)``.

    Returns:
        G v, in the form of ``params``.

    Raises:
        ValueError: an unknown loss, a loss that is not a scalar, outputs that do not depend on ``params``; a ``v`` of
            other names or shapes.
        FloatingPointError: a loss or a product that is not finite.

    Source: arXiv 1706.04454; Schraudolph 2002.

    >>> x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]])
    >>> w, v = torch.zeros(2), torch.tensor([1.0, 0.0])
    >>> ggn_vp(lambda w, x: x @ w[:, None], w, (x, y), v, loss="mse")
    tensor([1., 2.])
    """
    if isinstance(model, nn.Module) and isinstance(params, Tensor):
        named = ParameterVector.of(model)
        product_by_name = ggn_vp(model, named.unflatten(params), batch, named.unflatten(v), loss)
        return named.flatten(product_by_name)
    loss_fn = criterion(loss)
    inputs, targets = batch
    layout, w, direction = _flat(params, v)
    with double_differentiable():
        given = _like(params, layout, w)
        outputs = call(model, given, inputs) if isinstance(model, nn.Module) else model(given, inputs)
        product = gauss_newton_product(outputs, lambda f: loss_fn(f, targets), w)
    return _like(params, layout, finite(product(direction[None])[0], "the Gauss–Newton-vector product"))


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ ‖f − y‖², averaged over samples: the squared error whose second derivative in f is the identity."""
    return 0.5 * (outputs - targets).square().sum() / len(outputs)


def criterion(loss: str | Criterion) -> Criterion:
    """A loss by its short name, or the loss itself."""
    if callable(loss):
        return loss
    if loss not in get_args(Named):
        raise ValueError(f"loss={loss!r}: must be one of {get_args(Named)}, or a function of outputs and targets")
    return F.cross_entropy if loss == "ce" else half_squared_error


def call(model: nn.Module, state: Mapping[str, Tensor], inputs: Any) -> Any:
    """What a network gives with the tensors of ``state`` in place of its own: for one input, a tuple or a dict."""
    if isinstance(inputs, Mapping):
        return functional_call(model, dict(state), (), dict(inputs))
    return functional_call(model, dict(state), tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))


@contextmanager
def double_differentiable() -> Iterator[None]:
    """Within it gradients are on, and attention is computed by the one kernel that can be differentiated twice."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def hessian_product(loss: Tensor, w: Float[Tensor, " P"], block: int = 1) -> Product:
    """The map V -> V H for the Hessian of ``loss`` in ``w``, through a graph that lasts as long as the map."""
    _check_loss(loss, "the loss")
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on the parameters, or was computed without gradients")
    gradient = _gradient(loss, w)
    if not gradient.requires_grad:  # the loss is linear in w
        return torch.zeros_like
    return lambda rows: pull_back(gradient, w, rows, block)


def gauss_newton_product(
    outputs: Tensor, loss_of: Callable[[Tensor], Tensor], w: Float[Tensor, " P"], block: int = 1
) -> Product:
    """The map V -> V G for the Gauss–Newton matrix of ``loss_of(outputs)`` in ``w``."""
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the model gave a {type(outputs).__name__}; a Gauss–Newton matrix needs outputs in one tensor")
    if not outputs.requires_grad:
        raise ValueError("the outputs do not depend on the parameters, or were computed without gradients")
    detached = outputs.detach().requires_grad_()
    loss = loss_of(detached)
    _check_loss(loss, "the loss")
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on the model's outputs")
    slope = _gradient(loss, detached)
    if not slope.requires_grad:  # the loss is linear in the outputs
        return torch.zeros_like
    # Jᵀ c is linear in c: its own derivative in c, times v, is J v.
    cotangent = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, w, cotangent, create_graph=True, materialize_grads=True)

    def product(rows: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        forward = pull_back(pulled, cotangent, rows, block)
        return pull_back(outputs, w, pull_back(slope, detached, forward, block), block)

    return product


def pull_back(output: Tensor, input: Tensor, cotangents: Float[Tensor, "k ..."], block: int = 1) -> Tensor:
    """Derivative of ``output`` in ``input``, transposed, times each cotangent: ``block`` of them at a time."""
    if not output.requires_grad:
        return cotangents.new_zeros(len(cotangents), *input.shape)
    if block > 1 and len(cotangents) > 1:
        try:
            return torch.cat([_pull(output, input, part, together=True) for part in cotangents.split(block)])
        except RuntimeError:
            pass  # some backward function cannot be vectorised: one at a time, then
    return torch.stack([_pull(output, input, cotangent) for cotangent in cotangents])


def _pull(output: Tensor, input: Tensor, cotangent: Tensor, together: bool = False) -> Tensor:
    (found,) = torch.autograd.grad(
        output, input, cotangent, retain_graph=True, is_grads_batched=together, materialize_grads=True
    )
    return found


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what a forward pass keeps for its backward pass: about what each further vector costs in memory."""

    def __init__(self) -> None:
        self.total = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        self.total += tensor.numel() * tensor.element_size()
        # Detached: a graph that keeps an output of its own with its history would keep itself alive for ever.
        return tensor.detach()

    @property
    def block(self) -> int:
        """How many vectors may go through the graph at once."""
        return max(1, BLOCK_BYTES // max(1, self.total))


def finite(tensor: Tensor, what: str) -> Tensor:
    """The tensor itself, or FloatingPointError."""
    if not torch.isfinite(tensor).all():
        raise FloatingPointError(f"{what} has {int((~torch.isfinite(tensor)).sum())} values that are not finite")
    return tensor


def _gradient(loss: Tensor, at: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, at, create_graph=True, materialize_grads=True)
    return gradient


def _check_loss(loss: Any, what: str) -> None:
    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"{what} is {found}; curvature is that of a scalar (reduction='mean' or 'sum')")
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{what} is {loss.item()}")


def _flat(
    params: Tensor | Mapping[str, Tensor], v: Tensor | Mapping[str, Tensor]
) -> tuple[ParameterVector, Tensor, Tensor]:
    """The layout of ``params``, their flat copy to differentiate in, and ``v`` flat."""
    if isinstance(params, Tensor) != isinstance(v, Tensor):
        raise TypeError(f"v is a {type(v).__name__}, params a {type(params).__name__}: both must be of one form")
    named = {"params": params} if isinstance(params, Tensor) else params
    direction = {"params": v} if isinstance(v, Tensor) else v
    layout = ParameterVector(named)
    w = layout.flatten({name: tensor.detach() for name, tensor in named.items()})
    flat = layout.flatten(direction).to(w)
    if flat.shape != w.shape:
        raise ValueError(f"v has shape {tuple(flat.shape)} when flat; params has {tuple(w.shape)}")
    return layout, finite(w, "params").clone().requires_grad_(), flat


def _like(params: Params, layout: ParameterVector, w: Tensor) -> Any:
    """The flat vector ``w`` in the form of ``params``."""
    return w.view(params.shape) if isinstance(params, Tensor) else layout.unflatten(w)
