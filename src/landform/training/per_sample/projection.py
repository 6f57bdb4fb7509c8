"""Random projections of gradients that are too long to store a matrix for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

# Rows that share a place in the counter-based stream. Part of the definition: the matrix must depend on the seed alone.
ROWS = 64


class random_projection:
    """x ↦ Pᵀx with a random (d × p) matrix P that is drawn in blocks of rows when needed and never stored whole.

    Entries are ±1/√p ("rademacher") or normal with variance 1/p ("gaussian"), so that E‖Pᵀx‖² = ‖x‖² with relative
    standard deviation ≈ √(2/p). The matrix is a function of the seed alone: not of d (a longer vector has more rows),
    nor of the block size, the device or the order of use (rows come from a counter-based generator).

    Arguments:
        dim: p, the length of a projection.
        seed: names the matrix.
        kind: the distribution of the entries.
        block_size: rows drawn at a time, which bounds the memory at block_size × p numbers.

    Raises:
        ValueError: dim, block_size or seed out of range, or an unknown kind.

    Source: Johnson–Lindenstrauss projections, as TRAK (arXiv 2303.14186, section 3.2) applies them to gradients.

    >>> project = random_projection(8, seed=1)
    >>> tuple(project(torch.randn(5, 1000)).shape)
    (5, 8)
    """

    def __init__(
        self,
        dim: int,
        seed: int = 0,
        kind: Literal["rademacher", "gaussian"] = "rademacher",
        *,
        block_size: int = 4096,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim={dim}: a projection needs at least one dimension")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed}: must be between 0 and 2**64 - 1")
        if kind not in ("rademacher", "gaussian"):
            raise ValueError(f"kind={kind!r}: must be 'rademacher' or 'gaussian'")
        if block_size < 1:
            raise ValueError(f"block_size={block_size}: must be at least 1")
        self.dim, self.seed, self.kind, self.block_size = dim, seed, kind, block_size

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows p"]:
        """Rows start … stop − 1 of P, in float64."""
        first, last = start // ROWS, -(-stop // ROWS)
        drawn = np.concatenate([self._draw(block) for block in range(first, last)])
        return torch.from_numpy(drawn)[start - first * ROWS : stop - first * ROWS] / self.dim**0.5

    def _draw(self, block: int) -> NDArray[np.floating[Any]]:
        stream = np.random.Philox(key=self.seed, counter=np.array([0, 0, block, 0], dtype=np.uint64))
        if self.kind == "gaussian":
            return np.random.Generator(stream).standard_normal((ROWS, self.dim))
        bits = np.unpackbits(stream.random_raw(ROWS * -(-self.dim // 64)).view(np.uint8)).reshape(ROWS, -1)
        return 2.0 * bits[:, : self.dim] - 1.0

    def __call__(
        self, vectors: Float[Tensor, "n d"] | Mapping[str, Float[Tensor, "n ..."]], *, offset: int = 0
    ) -> Float[Tensor, "n p"]:
        """Project N vectors, given as rows or as the per-sample gradients of several parameters (in their order).

        A vector may come in pieces: the projection of the whole is the sum of the projections of the pieces, with
        ``offset`` the number of coordinates before each. Computed in the vectors' dtype and on their device.
        """
        if offset < 0:
            raise ValueError(f"offset={offset}: must be zero or more")
        if isinstance(vectors, Mapping):
            if not vectors:
                raise ValueError("vectors: there is nothing to project")
            pieces = [piece.flatten(1) for piece in vectors.values()]
        else:
            pieces = [vectors]
        for piece in pieces:
            if piece.ndim != 2 or not piece.is_floating_point():
                raise ValueError(
                    f"vectors: need floating-point vectors of shape (N, d), not {tuple(piece.shape)} {piece.dtype}"
                )
        out = pieces[0].new_zeros(len(pieces[0]), self.dim)
        for piece in pieces:
            for block in piece.split(self.block_size, dim=1):
                out += block @ self.rows(offset, offset + block.shape[1]).to(block)
                offset += block.shape[1]
        return out
