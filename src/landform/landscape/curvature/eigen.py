"""The extreme eigenvalues of an operator, with their eigenvectors."""

from __future__ import annotations

import math
import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landform.landscape.curvature.krylov import Array, Krylov, gaussian, seeded, starting
from landform.landscape.curvature.operators import Symmetric, as_operator

Which = Literal["LA", "LM", "SA"]


class Eigenpairs(NamedTuple):
    """Eigenvalues ``values`` (k,), float64 on the CPU, the wanted end first, and eigenvectors ``vectors`` (P, k)."""

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "P k"]


def top_eigenpairs(
    op: Symmetric,
    k: int = 1,
    which: Which = "LA",
    tol: float = 1e-3,
    *,
    repeated: bool = False,
    v0: Float[Tensor, " P"] | None = None,
    max_products: int | None = None,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """The k extreme eigenpairs, by Lanczos' process with full reorthogonalisation.

    A pair is done when ‖H u − θ u‖ ≤ tol |θ|. As H is symmetric an eigenvalue then lies within tol |θ| of θ, and mostly
    far closer, within (tol θ)²/gap; the vector is off by an angle of about tol θ/gap.

    From one start the process sees a repeated eigenvalue once, as nothing in it can tell two eigenvectors apart.
    Hessians repeat eigenvalues at symmetric points only, such as a softmax regression at zero. With ``repeated=True``
    the process begins anew from a random vector in what its basis has left of the space, until it has found an
    eigenvalue beyond the k-th, or would have found one but with a probability below 1 % (six products or more). An
    operator of up to max(2k + 20, 40) rows is resolved completely, whatever is repeated.

    Memory: a basis of at most max(2k + 20, 40) vectors. A full basis is shrunk to its best Ritz vectors.

    Arguments:
        op: an operator or a symmetric matrix.
        k: how many.
        which: the largest (``"LA"``), the largest in modulus (``"LM"``) or the smallest (``"SA"``).
        tol: the relative residual at which a pair is done.
        repeated: look for repeated eigenvalues too.
        v0: where to start, such as an eigenvector of a moment ago; by default a Gaussian vector.
        max_products: warn, and return what there is, after so many; by default 20 (k + 10).
        generator: draws the random vectors; by default one seeded with 0.

    Raises:
        ValueError: a k outside 1 … P, an unknown ``which``, a tolerance outside (0, 1), or a bad start.
        FloatingPointError: a product that is not finite.

    Source: Parlett 1980, chapters 11 and 13 (bounds, the process); Wu and Simon 2000 (shrinking the basis); Kuczyński
    and Woźniakowski 1992 (the probability).

    >>> values, vectors = top_eigenpairs(torch.diag(torch.tensor([5.0, 5.0, 2.0, -9.0])), k=2)
    >>> values
    tensor([5.0000, 5.0000], dtype=torch.float64)
    """
    operator = as_operator(op)
    size = operator.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"k={k}: must be between 1 and the operator's size, {size}")
    if which not in get_args(Which):
        raise ValueError(f"which={which!r}: must be one of {get_args(Which)}")
    if not 0 < tol < 1:
        raise ValueError(f"tol={tol}: must lie between 0 and 1")
    limit = 20 * (k + 10) if max_products is None else max_products
    if limit < k:
        raise ValueError(f"max_products={max_products}: {k} eigenpairs need at least {k}")
    generator = seeded(generator)
    krylov = Krylov(operator, max(2 * k + 20, 40), starting(operator, v0, generator))
    search = _Search(krylov, k, which, tol)
    for left in reversed(range(limit)):
        krylov.expand()
        if search.process_is_done():
            beyond = search.take() > 0
            # A process that ends by itself, short of all dimensions, has met repeated eigenvalues.
            repeated = repeated or krylov.invariant
            complete = len(search.values) == k and krylov.capacity < size and not (beyond and repeated)
            if complete or krylov.size == size:
                break
            search.make_room()
            krylov.renew(gaussian(operator, generator))
        elif krylov.full and left:
            search.shrink()
    else:
        search.take()
        warnings.warn(
            f"after {limit} products not all of the {k} eigenpairs have a residual below tol={tol:g} of their value; "
            "raise max_products",
            RuntimeWarning,
            stacklevel=2,
        )
    return Eigenpairs(torch.from_numpy(search.values), search.vectors.T)


class _Search:
    """The best k pairs of all processes so far, and what the process under way would add to them."""

    ROOM = 10
    """A new process finds room in the basis for at least so many vectors."""

    MISSED = 1e-2
    """The probability with which an eigenvalue beyond the k-th may be overlooked."""

    def __init__(self, krylov: Krylov, k: int, which: Which, tol: float) -> None:
        self.krylov, self.k, self.which, self.tol = krylov, k, which, tol
        self.values: Array = np.empty(0)
        self.vectors = krylov.basis[:0]
        self.low, self.high = np.inf, -np.inf

    def process_is_done(self) -> bool:
        """Whether the process has found all that it will add to the best k."""
        krylov, k = self.krylov, self.k
        self.ritz, coordinates = krylov.eigh()
        self.low, self.high = min(self.low, self.ritz[0]), max(self.high, self.ritz[-1])
        order = np.argsort(-self._score(self.ritz), kind="stable")
        self.ritz, self.coordinates = self.ritz[order], coordinates[:, order]
        # A pair joins the best k when fewer than k are ahead of it. One found before is only overtaken by a clear lead,
        # unless everything will be found, exactly.
        clear = 0.0 if krylov.capacity == krylov.op.shape[0] else self.tol
        lead = self._score(self.values) + clear * np.abs(self.values)
        ahead = (lead[:, None] >= self._score(self.ritz[:k])).sum(axis=0) + np.arange(len(self.ritz[:k]))
        self.joining = int((ahead < k).sum())
        if krylov.invariant or krylov.size == krylov.op.shape[0]:
            return True
        if krylov.capacity == krylov.op.shape[0] or len(self.values) + self.joining < k:
            return False
        residuals = krylov.beta * np.abs(self.coordinates[-1, :k])
        rounding = torch.finfo(krylov.op.dtype).eps ** (2 / 3) * max(-self.low, self.high)
        done = residuals <= np.maximum(self.tol * np.abs(self.ritz[:k]), rounding)
        return bool(done[: self.joining].all() and (self.joining or done[0] or self._chance_of_more() < self.MISSED))

    def take(self) -> int:
        """Add what the process has found to the best k; how many joined."""
        vectors = self.krylov.vectors(self.coordinates[:, : self.joining])
        values = np.concatenate([self.values, self.ritz[: self.joining]])
        order = np.argsort(-self._score(values), kind="stable")[: self.k]
        self.vectors = torch.cat([self.vectors, vectors])[torch.from_numpy(order).to(vectors.device)]
        self.values = values[order]
        return self.joining

    def make_room(self) -> None:
        """See that a new process has room in the basis."""
        krylov = self.krylov
        if krylov.size + self.ROOM <= krylov.capacity or krylov.capacity == krylov.op.shape[0]:
            return
        if krylov.first == 0:
            self.shrink()
        else:
            krylov.hold(self.vectors)

    def shrink(self) -> None:
        """Shrink the process under way to the better half of its Ritz vectors, the basis that it has room for."""
        keep = max(1, (self.krylov.capacity - self.krylov.first) // 2)
        self.krylov.restart(self.ritz[:keep], self.coordinates[:, :keep])

    def _score(self, values: Array) -> Array:
        """Large for what is wanted."""
        return {"LA": values, "LM": np.abs(values), "SA": -values}[self.which]

    def _chance_of_more(self) -> float:
        """A bound on the probability that an eigenvalue beyond the k-th would not have shown itself by now.

        From a random start in n dimensions j steps leave the largest Ritz value below λ_max − ε (λ_max − λ_min) with a
        probability of at most 1.648 √n exp(−√ε (2j − 1)).
        """
        last = self.values[-1]
        top, bottom = (abs(last), -abs(last)) if self.which == "LM" else (last, last)
        nothing = np.finfo(np.float64).tiny
        above = (top - self.ritz.max()) / max(top - self.low, nothing)
        below = (self.ritz.min() - bottom) / max(self.high - bottom, nothing)
        gap = {"LA": above, "SA": below, "LM": min(above, below)}[self.which]
        j = self.krylov.size - self.krylov.first
        n = self.krylov.op.shape[0] - self.krylov.first
        return 1.648 * math.sqrt(n) * math.exp(-math.sqrt(max(0.0, gap)) * (2 * j - 1))
