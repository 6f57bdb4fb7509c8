"""A recurrent learner whose state is a matrix, so that it grows faster than its parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.meta.in_context.learner import ClassHead, InContextLearner, check_position, tokens
from landform.models.mlp import check_sizes


class OuterProductLSTM(InContextLearner):
    """An LSTM with a matrix for a cell, written to by outer products (fast weights).

        c_t = f_t ∘ c_{t−1} + (i_t ∘ g_t) k_tᵀ;   r_t = c_t q_t;   logits = U [r_t, x_t] + b

    with c of (rows, cols), and f, i (sigmoids) and g (tanh) of ``rows`` numbers, so that each row is forgotten and
    written as a whole, and unit vectors k and q of ``cols`` numbers. All five are linear in [x_t, onehot(y_{t−1}),
    r_{t−1}]. Forget gates start open, at sigmoid(1) where the rest of their argument is 0. Its state are c and r,
    rows · cols + rows numbers.

    The paper names this baseline and leaves its gates open. These are the LSTM's, with the outer product in place of
    the candidate; k and q have norm 1, so that what is read is no larger than what was written.

    Arguments:
        rows, cols: the shape of the cell.

    Raises:
        ValueError: sizes below 1.

    Source: arXiv 2212.04458, section 4.

    >>> OuterProductLSTM(rows=16, cols=8).state_size(100)
    144
    """

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        check_sizes(rows=rows, cols=cols)
        self.rows, self.cols = rows, cols
        self.embed = nn.LazyLinear(3 * rows + 2 * cols)
        self.recur = nn.Linear(rows, 3 * rows + 2 * cols, bias=False)
        self.forget_bias = nn.Parameter(torch.ones(rows))
        self.head = ClassHead()

    def features(self, x: Tensor, prev_y: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        driven = self.embed(tokens(x, prev_y))
        cell, read = driven.new_zeros(batch, self.rows, self.cols), driven.new_zeros(batch, self.rows)
        reads = []
        for t in range(length):
            gates = (driven[:, t] + self.recur(read)).split([self.rows] * 3 + [self.cols] * 2, dim=1)
            forget, write, value, key, query = gates
            written = write.sigmoid() * value.tanh()
            cell = (forget + self.forget_bias).sigmoid().unsqueeze(2) * cell + torch.einsum(
                "bm,bn->bmn", written, F.normalize(key, dim=1)
            )
            read = torch.einsum("bmn,bn->bm", cell, F.normalize(query, dim=1))
            reads.append(read)
        return torch.cat([torch.stack(reads, dim=1), x], dim=2)

    def state_size(self, t: int) -> int:
        check_position(t)
        return self.rows * self.cols + self.rows
