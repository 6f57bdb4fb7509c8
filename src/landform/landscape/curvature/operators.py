"""Symmetric linear operators: what can be multiplied with a vector, though its matrix is too large to write down."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from landform.landscape.curvature.parameters import ParameterVector, trainable
from landform.landscape.curvature.products import (
    Criterion,
    Product,
    SavedBytes,
    call,
    criterion,
    double_differentiable,
    finite,
    gauss_newton_product,
    hessian_product,
)
from landform.models.folding import Folding, fold_batch_norm
from landform.training.memory import keep_freed_memory

Kind = Literal["hessian", "ggn", "residual"]


SKEWED = (
    "the products are not those of one symmetric matrix (does the data change from pass to pass, or has a function in "
    "the model a wrong second derivative, as torch's weight_norm has?)"
)


def skewed(skew: float, scale: float, dtype: torch.dtype) -> bool:
    """Whether a difference that symmetry forbids is beyond rounding."""
    return skew > torch.finfo(dtype).eps ** 0.5 * scale


class SymmetricOperator(ABC):
    """A symmetric matrix known by its products. It has ``shape``, ``matvec``, ``matmat`` and ``@`` as SciPy's have."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (size, size)
        self.dtype = dtype
        self.device = device

    @abstractmethod
    def rows(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        """The product with each row, for vectors already known to fit."""

    def matvec(self, v: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """The product with one vector.

        Raises:
            ValueError: a vector of another shape.
            FloatingPointError: a product that is not finite.
        """
        if v.shape != self.shape[:1]:
            raise ValueError(f"v has shape {tuple(v.shape)}; the operator takes ({self.shape[0]},)")
        return self._product(v[None])[0]

    def matmat(self, vectors: Float[Tensor, "P k"]) -> Float[Tensor, "P k"]:
        """The product with every column. Products with several vectors together share what they can.

        Raises:
            ValueError: columns of another length.
            FloatingPointError: a product that is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[0] != self.shape[0]:
            raise ValueError(f"vectors has shape {tuple(vectors.shape)}; the operator takes ({self.shape[0]}, k)")
        return self._product(vectors.T).T

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matvec(other) if other.ndim == 1 else self.matmat(other)

    def to_dense(self, max_params: int = 6000) -> Float[Tensor, "P P"]:
        """The whole matrix, symmetrised: (M + Mᵀ)/2. Memory P² and P products.

        Raises:
            ValueError: more than ``max_params`` rows.
        """
        size = self.shape[0]
        if size > max_params:
            raise ValueError(
                f"the matrix would be {size} × {size}; max_params={max_params} is the limit. "
                "Use top_eigenpairs or spectral_density, or raise max_params"
            )
        dense = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for start in range(0, size, 256):
            stop = min(start + 256, size)
            unit = torch.zeros(stop - start, size, dtype=self.dtype, device=self.device)
            unit[:, start:stop].fill_diagonal_(1)
            dense[start:stop] = self._product(unit)
        skew, scale = float((dense - dense.T).abs().max()), float(dense.abs().max())
        if skewed(skew, scale, self.dtype):
            warnings.warn(f"{SKEWED}: two entries differ by {skew:.2g} of {scale:.2g}", RuntimeWarning, stacklevel=2)
        return (dense + dense.T) / 2

    def _product(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        if not len(vectors):
            raise ValueError("no vectors to multiply with")
        product = self.rows(vectors.to(dtype=self.dtype, device=self.device))
        return finite(product, f"a product with the {type(self).__name__}")


class SymmetricMatrix(SymmetricOperator):
    """A symmetric matrix that is written down.

    Raises:
        ValueError: not square, not symmetric (to a relative 1e-5) or empty.
        TypeError: not of real floating-point numbers.
        FloatingPointError: entries that are not finite.
    """

    def __init__(self, matrix: Float[Tensor, "P P"]) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}; it must be square and not empty")
        if not matrix.is_floating_point():
            raise TypeError(f"matrix is {matrix.dtype}; it must be of floating-point numbers")
        finite(matrix, "matrix")
        skew = float((matrix - matrix.T).abs().max())
        if skew > 1e-5 * float(matrix.abs().max()):
            raise ValueError(f"matrix is not symmetric: it differs from its transpose by {skew:g}")
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = matrix

    def rows(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        return vectors @ self.matrix


@runtime_checkable
class HasProducts(Protocol):
    """What another library's operator must have: a shape, and products with a torch vector."""

    @property
    def shape(self) -> Any: ...
    def matvec(self, v: Tensor, /) -> Tensor: ...


class _Foreign(SymmetricOperator):
    def __init__(self, op: HasProducts) -> None:
        size = tuple(op.shape)
        if len(size) != 2 or size[0] != size[1] or not size[0]:
            raise ValueError(f"the operator has shape {size}; it must be square and not empty")
        dtype = getattr(op, "dtype", None)
        device = getattr(op, "device", None)
        super().__init__(
            size[0],
            dtype if isinstance(dtype, torch.dtype) else torch.get_default_dtype(),
            device if isinstance(device, torch.device) else torch.device("cpu"),
        )
        self.op = op

    def rows(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        return torch.stack([self.op.matvec(v) for v in vectors])


Symmetric = SymmetricOperator | HasProducts | Tensor


def as_operator(op: Symmetric) -> SymmetricOperator:
    """An operator of ours, a symmetric matrix, or anything with ``shape`` and ``matvec``, as an operator of ours."""
    if isinstance(op, SymmetricOperator):
        return op
    if isinstance(op, Tensor):
        return SymmetricMatrix(op)
    if isinstance(op, HasProducts):
        return _Foreign(op)
    raise TypeError(f"op is a {type(op).__name__}; it must be a symmetric matrix or have shape and matvec")


class CurvatureOperator(SymmetricOperator):
    """The Hessian of a network's loss on given data, its Gauss–Newton part, or what remains.

        L(w) = (1/n) Σ_i l(f(w, x_i), y_i),   H = ∇²L = G + R,
        G = (1/n) Σ_i J_iᵀ A_i J_i (``kind="ggn"``),   R = (1/n) Σ_i Σ_k (∂l/∂f_k) ∇²f_k (``kind="residual"``)

    It measures the weights as they are when it is made; later training does not change it. By default the network is
    measured in eval mode, so that batch normalisation uses its running statistics and dropout is off; every module's
    own mode is restored, and running statistics are never written to.

    Batch normalisation in evaluation mode is folded into the layer before it where that is possible (see
    :func:`~landform.models.folding.fold_batch_norm`): the same function of the same weights, with shorter derivatives.

    A batch that is taken in one piece keeps its graph, and a product costs one pass back through it. Data in several
    pieces is streamed: each product makes the passes of every piece anew and holds one piece's graph at a time.

    Arguments:
        model: any network whose derivative can be differentiated.
        loss_fn: ``loss_fn(outputs, targets)`` gives a scalar: the mean over samples, or the sum if it says
            ``reduction="sum"``; or one of the names ``"ce"`` and ``"mse"`` of :func:`ggn_vp`.
        data: one batch ``(inputs, targets)``, or batches that can be gone through again and again (a list, a
            DataLoader). The inputs may be a tensor, or a tuple or dict of them that the network takes as arguments.
            Several batches count by their numbers of samples.
        kind: ``"hessian"``, ``"ggn"`` or ``"residual"``.
        chunk: take at most so many samples at a time, to bound memory.
        dtype: compute in this precision; float64 resolves eigenvalues below 1e-6 of the largest. By default that of
            the parameters.
        parameters: names of the parameters to differentiate in; by default all that require a gradient.
        eval_mode: False measures every module in the mode in which it stands, so that batch normalisation in training
            mode uses the statistics of each batch, as the training loss does.

    Attributes:
        layout: the :class:`ParameterVector` that turns eigenvectors into tensors by name.
        weights: the flat weights at which curvature is measured.

    Raises:
        ValueError: an unknown kind, no data, an empty batch, a loss that is not a scalar, a network without parameters
            to differentiate in, or, with ``eval_mode=False``, one that draws random numbers or whose batch statistics
            ``chunk`` would change.
        TypeError: data that can be gone through only once, or that is no batch.
        FloatingPointError: weights, a loss or a product that are not finite.

    Source: arXiv 1706.04454.

    >>> model = nn.Linear(3, 2)
    >>> hessian = CurvatureOperator(model, nn.CrossEntropyLoss(), (torch.randn(8, 3), torch.randint(2, (8,))))
    >>> hessian.shape, hessian.matvec(torch.ones(8)).shape
    ((8, 8), torch.Size([8]))
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: str | Criterion,
        data: tuple[Any, Any] | Iterable[tuple[Any, Any]],
        kind: Kind = "hessian",
        *,
        chunk: int | None = None,
        dtype: torch.dtype | None = None,
        parameters: Collection[str] | None = None,
        eval_mode: bool = True,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind={kind!r}: must be one of {get_args(Kind)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk={chunk}: must be at least 1, or None for no limit")
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype={dtype}: must be a floating-point type")
        chosen = trainable(model, parameters)
        self.layout = ParameterVector(chosen)
        weights = self.layout.flatten({name: p.detach() for name, p in chosen.items()})
        weights = finite(weights.to(dtype or weights.dtype, copy=True), "the model's parameters")
        super().__init__(self.layout.size, weights.dtype, weights.device)
        self.kind: Kind = kind
        self.weights = weights
        self._model = model
        self._loss_fn = criterion(loss_fn)
        self._sum = getattr(self._loss_fn, "reduction", "mean") == "sum"
        self._chunk = chunk
        self._eval_mode = eval_mode
        self._fixed = {
            name: self._cast(tensor.detach().clone())
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if name not in chosen
        }
        self._batches = _batches(data)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._kept: Product | None = None
        self._folding: Folding | Literal["untried"] | None = "untried"
        if not eval_mode:
            self._check_mode()

    def rows(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        if isinstance(self._batches, list) and len(self._batches) == 1:
            n = _count(self._batches[0])
            if self._chunk is None or n <= self._chunk:
                self._kept = self._kept or self._product_on(*self._batches[0])
                return self._kept(vectors)
        total, count = torch.zeros_like(vectors), 0
        for inputs, targets in self._pieces():
            n = 1 if self._sum else len(targets)
            total.add_(self._product_on(inputs, targets)(vectors), alpha=n)
            count += n
        if not count:
            raise ValueError("data has no batches")
        return total if self._sum else total / count

    def _pieces(self) -> Iterator[tuple[Any, Any]]:
        """The batches, cut into pieces of at most ``chunk`` samples."""
        for batch in self._batches:
            n = _count(batch)
            step = self._chunk or n
            if step >= n:
                yield batch[0], batch[1]
            else:
                for start in range(0, n, step):
                    cut = partial(_samples, n=n, at=slice(start, start + step))
                    yield _each_tensor(batch[0], cut), cut(batch[1])

    def _product_on(self, inputs: Any, targets: Any) -> Product:
        """The product on one piece of data, holding that piece's graph."""
        w = self.weights.clone().requires_grad_()
        targets = _each_tensor(targets, self._cast)
        saved = SavedBytes()
        with double_differentiable():
            with saved:
                outputs = self.outputs(w, inputs)
                loss = self._loss_fn(outputs, targets)
            if self.kind == "hessian":
                return hessian_product(loss, w, saved.block)
            part = gauss_newton_product(outputs, lambda f: self._loss_fn(f, targets), w, saved.block)
            if self.kind == "ggn":
                return part
            whole = hessian_product(loss, w, saved.block)
            return lambda rows: whole(rows) - part(rows)

    def outputs(self, w: Float[Tensor, " P"], inputs: Any) -> Any:
        """What the model gives for these inputs with the flat weights ``w``, differentiable in them."""
        # In training mode a forward pass writes running statistics: into copies, so that every product sees the same.
        fixed = self._fixed if self._eval_mode else {name: tensor.clone() for name, tensor in self._fixed.items()}
        with evaluating(self._model, self._eval_mode), double_differentiable():
            state, inputs = {**fixed, **self.layout.unflatten(w)}, _each_tensor(inputs, self._cast)
            if self._folding == "untried" or (self._folding and not self._folding.fits(self._model)):
                self._folding = fold_batch_norm(self._model, state, partial(call, inputs=inputs))
            if self._folding is None:
                return call(self._model, state, inputs)
            return call(self._folding.module, self._folding.state(state), inputs)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype if tensor.is_floating_point() else None)

    def _check_mode(self) -> None:
        """Refuse what would make two products with one vector differ."""
        cut = self._chunk is not None and any(_count(batch) > self._chunk for batch in self._batches)
        for name, module in self._model.named_modules():
            if cut and module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise ValueError(
                    f"chunk={self._chunk} would change the batch statistics of {name!r}, which is in training mode; "
                    "leave chunk out, or measure in eval mode"
                )
        piece = next(self._pieces(), None)
        if piece is None:
            raise ValueError("data has no batches")
        targets = _each_tensor(piece[1], self._cast)
        first, second = (self._loss_fn(self.outputs(self.weights, piece[0]), targets) for _ in range(2))
        if not torch.allclose(first, second, rtol=1e-5, atol=0):
            raise ValueError(
                f"two passes over the same batch gave the losses {first.item():.6g} and {second.item():.6g}: the model "
                "draws random numbers in the mode it is in (dropout?), so it has no one curvature; measure in eval mode"
            )


@contextmanager
def evaluating(model: nn.Module, active: bool = True) -> Iterator[None]:
    """While open, every module is in eval mode; afterwards each is in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    try:
        if active:
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def _batches(data: Any) -> Iterable[tuple[Any, Any]]:
    """Batches to go through: a list where they are all at hand."""
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor):
        data = [data]
    if isinstance(data, Iterator):
        raise TypeError("data can be gone through only once, but every product needs it: pass a list or a DataLoader")
    if not isinstance(data, Iterable) or isinstance(data, Tensor | Mapping):
        raise TypeError(f"data is a {type(data).__name__}; it must be a batch (inputs, targets), or a list of batches")
    if isinstance(data, tuple | list):
        if not data:
            raise ValueError("data has no batches")
        for batch in data:
            _count(batch)
        return list(data)
    return data


def _count(batch: Any) -> int:
    """How many samples a batch has, once it is known to be one."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise TypeError(f"a batch must be (inputs, targets) with targets in a tensor, not a {type(batch).__name__}")
    inputs, targets = batch
    if not targets.ndim or not len(targets):
        raise ValueError(f"the batch is empty: its targets have shape {tuple(targets.shape)}")
    if isinstance(inputs, Tensor) and (not inputs.ndim or len(inputs) != len(targets)):
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}, but there are {len(targets)} targets")
    return len(targets)


def _samples(tensor: Tensor, n: int, at: slice) -> Tensor:
    """The samples ``at``, of a tensor that has one row a sample."""
    return tensor[at] if tensor.ndim and len(tensor) == n else tensor


def _each_tensor(data: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``data`` with every tensor in it changed; tuples, lists and dicts are gone into."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, data)
