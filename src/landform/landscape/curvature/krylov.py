"""Lanczos' process: an orthonormal basis grown by products, and the small matrix that the operator is within it."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from landform.landscape.curvature.operators import SKEWED, Symmetric, SymmetricOperator, as_operator, skewed

Array = NDArray[np.float64]


class Lanczos(NamedTuple):
    """What Lanczos' process found. It unpacks to ``(alpha, beta, Q)``.

    ``alpha`` (m,) and ``beta`` (m,) are float64 on the CPU. ``T = diag(alpha) + diag(beta[:-1], ±1)``, and ``beta[-1]``
    is the norm of the vector that would come next: H Q = Q T + beta[-1] q_{m+1} e_mᵀ. ``Q`` (P, m) has the basis in its
    columns.
    """

    alpha: Float[Tensor, " m"]
    beta: Float[Tensor, " m"]
    Q: Float[Tensor, "P m"]


def lanczos(
    op: Symmetric,
    steps: int,
    v0: Float[Tensor, " P"] | None = None,
    reorthogonalize: bool = True,
    generator: torch.Generator | None = None,
) -> Lanczos:
    """Lanczos' tridiagonalisation: T = Qᵀ H Q with ``steps`` products.

        r = H q_j − beta_{j−1} q_{j−1},   alpha_j = q_jᵀ r,   r ← r − alpha_j q_j,   beta_j = ‖r‖,   q_{j+1} = r/beta_j

    Each r is orthogonalised twice against the whole basis before beta_j is taken. The process ends early where beta_j
    falls below 1e-12 of the operator's scale (ten units of rounding, in a coarser precision): the basis is then
    invariant, and the eigenvalues of T are exact.

    Arguments:
        op: an operator or a symmetric matrix.
        steps: the products to make; at most P are.
        v0: where to start; by default a Gaussian vector.
        reorthogonalize: False gives the three-term recurrence as it stands, whose basis loses orthogonality and whose T
            repeats converged eigenvalues.
        generator: draws the start; by default one seeded with 0.

    Raises:
        ValueError: no steps, or a start of another shape or of norm zero.
        FloatingPointError: a product that is not finite.

    Source: Lanczos 1950; Paige 1972; arXiv 1706.04454.

    >>> alpha, beta, Q = lanczos(torch.diag(torch.tensor([1.0, 2.0, 4.0])), 3, v0=torch.ones(3))
    >>> torch.linalg.eigvalsh(torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1))
    tensor([1.0000, 2.0000, 4.0000], dtype=torch.float64)
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    operator = as_operator(op)
    krylov = Krylov(operator, steps, starting(operator, v0, generator), reorthogonalize)
    while krylov.size < krylov.capacity and not krylov.invariant:
        krylov.expand()
    m = krylov.size
    return Lanczos(
        torch.from_numpy(krylov.projected.diagonal()[:m].copy()),
        torch.tensor([*krylov.projected.diagonal(1)[: m - 1], krylov.beta], dtype=torch.float64),
        krylov.basis[:m].T,
    )


def ritz(found: Lanczos) -> tuple[Array, Array]:
    """Eigenvalues of T, ascending, and its eigenvectors in columns."""
    from scipy.linalg import eigh_tridiagonal

    values, vectors = eigh_tridiagonal(found.alpha.numpy(), found.beta[:-1].numpy())
    return np.asarray(values, np.float64), np.asarray(vectors, np.float64)


class Krylov:
    """A growing orthonormal basis of at most ``capacity`` vectors, with the operator projected on it.

    ``basis`` holds one vector a row, ``projected`` is Qᵀ H Q, and ``beta`` the norm of what the last product had beside
    the basis. The basis is allocated once; a product needs a few vectors beyond it, a restart those that it keeps. The
    vectors before ``first`` are
    only kept orthogonal to: the process has been renewed since.
    """

    def __init__(
        self, op: SymmetricOperator, capacity: int, start: Float[Tensor, " P"], reorthogonalize: bool = True
    ) -> None:
        self.op = op
        self.capacity = min(capacity, op.shape[0])
        self.basis = torch.empty(self.capacity, op.shape[0], dtype=op.dtype, device=op.device)
        self.projected: Array = np.zeros((self.capacity, self.capacity))
        self.reorthogonalize = reorthogonalize
        self.first = 0
        self.size = 0
        self.beta = 0.0
        self.scale = 0.0
        # What the inner products of the basis with the next product must be, as the operator is symmetric.
        self.coupling: Array = np.empty(0)
        self.warned = False
        self.following = start / start.norm()

    @property
    def full(self) -> bool:
        return self.size == self.capacity

    @property
    def invariant(self) -> bool:
        """Whether the last product lay within the basis."""
        rounding = 10 * torch.finfo(self.op.dtype).eps
        return self.size > self.first and self.beta <= max(1e-12, rounding) * self.scale

    def expand(self) -> None:
        """Take the following vector into the basis, with one product."""
        j = self.size
        self.basis[j] = self.following
        product = self.op.matvec(self.basis[j])
        start = 0 if self.reorthogonalize else max(0, j - 1)
        against = self.basis[start : j + 1]
        inner = against @ product
        product = product.addmv(against.T, inner, alpha=-1)
        if self.reorthogonalize:
            again = against @ product
            product.addmv_(against.T, again, alpha=-1)
            inner += again
        row = inner.double().cpu().numpy()
        self.projected[j, start : j + 1] = self.projected[start : j + 1, j] = row
        if self.reorthogonalize:
            self._check_symmetry(row[self.first : j])
        self.size += 1
        self.beta = float(product.norm())
        self.scale = max(self.scale, float(np.abs(row).max()), self.beta)
        self.coupling = np.append(np.zeros(j - self.first), self.beta)
        if not self.invariant:
            self.following = product.div_(self.beta)

    def eigh(self) -> tuple[Array, Array]:
        """Ritz values, ascending, and their coordinates in columns."""
        inner = self.projected[self.first : self.size, self.first : self.size]
        values, coordinates = torch.linalg.eigh(torch.from_numpy(inner))  # keeps to torch's number of threads
        return values.numpy(), coordinates.numpy()

    def vectors(self, coordinates: Float[Array, "m k"]) -> Float[Tensor, "k P"]:
        """The Ritz vectors of these coordinates, one a row."""
        change = torch.from_numpy(np.ascontiguousarray(coordinates.T)).to(self.basis)
        return change @ self.basis[self.first : self.size]

    def restart(self, values: Float[Array, " k"], coordinates: Float[Array, "m k"]) -> None:
        """Shrink the basis to these Ritz vectors. The vector that would have come next still does (a thick restart)."""
        stop = self.first + len(values)
        self.basis[self.first : stop] = self.vectors(coordinates)
        self.projected[self.first :, self.first :] = 0
        self.projected[self.first : stop, self.first : stop] = np.diag(values)
        self.coupling = self.coupling @ coordinates
        self.size = stop

    def hold(self, vectors: Float[Tensor, "k P"]) -> None:
        """Let the basis be these orthonormal vectors, only to be kept orthogonal to."""
        self.basis[: len(vectors)] = vectors
        self.first = self.size = len(vectors)
        self.coupling = np.empty(0)

    def renew(self, start: Float[Tensor, " P"]) -> None:
        """Begin a new process in what the basis has left of the space."""
        basis = self.basis[: self.size]
        for _ in range(2):
            start = start.addmv(basis.T, basis @ start, alpha=-1)
        self.following = start / start.norm()
        self.first = self.size
        self.coupling = np.empty(0)
        self.projected[self.first :, self.first :] = 0

    def _check_symmetry(self, inner: Array) -> None:
        """Warn, once, where the products so far cannot be those of one symmetric matrix."""
        skew = float(np.abs(inner - self.coupling).max(initial=0.0))
        scale = max(self.scale, float(np.abs(inner).max(initial=0.0)))
        if not self.warned and skewed(skew, scale, self.op.dtype):
            self.warned = True
            warnings.warn(f"{SKEWED}: two inner products differ by {skew:.2g} of {scale:.2g}", RuntimeWarning, 4)


def starting(
    op: SymmetricOperator, v0: Float[Tensor, " P"] | None, generator: torch.Generator | None
) -> Float[Tensor, " P"]:
    """The start given, or a Gaussian one."""
    size = op.shape[0]
    if v0 is None:
        return gaussian(op, seeded(generator))
    if v0.shape != (size,):
        raise ValueError(f"v0 has shape {tuple(v0.shape)}; the operator takes ({size},)")
    v0 = v0.detach().to(dtype=op.dtype, device=op.device)
    norm = float(v0.norm())
    if not 0 < norm < float("inf"):
        raise ValueError(f"v0 has norm {norm}; a start must be finite and not zero")
    return v0


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """The generator given, or one seeded with 0."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def gaussian(op: SymmetricOperator, generator: torch.Generator) -> Float[Tensor, " P"]:
    """A vector of independent normal numbers, the same on every device."""
    drawn = torch.randn(op.shape[0], generator=generator, dtype=op.dtype, device=generator.device)
    return drawn.to(op.device)
