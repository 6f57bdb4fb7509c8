"""GPICL: a causal transformer that is meta-trained to be a learning algorithm."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.meta.in_context.learner import ClassHead, InContextLearner, check_position, tokens
from landform.models.mlp import check_sizes
from landform.models.transformer import Block


class ICLTransformer(InContextLearner):
    """A causal transformer over labelled examples: one token an example, pre-LayerNorm, no dropout.

        h_t = W [x_t, onehot(y_{t−1})] + P_t;   h += A(LN(h)), h += M(LN(h)) in every layer;   logits = U LN(h) + b

    A is causal multi-head attention and M = W2 GELU(W1 ·), as in :class:`landform.models.ByteTransformer`. Its state
    are the keys and values of what it read, 2 n_layer d_model numbers a position.

    P is learned, and starts at the sinusoids of arXiv 1706.03762: a label comes one position after its example, and
    "one before" is then the same linear map at every position. From a random table it has to be found for each alone.

    Arguments:
        d_model: width, a multiple of ``n_head``.
        n_layer, n_head: numbers of layers, and of heads a layer.
        d_ff: hidden width of M.
        max_len: the longest sequence, for the learned table of positions P.

    Raises:
        ValueError: sizes below 1 or that do not divide; a sequence longer than ``max_len``.

    Source: arXiv 2212.04458, section 3 and appendix.

    >>> model = ICLTransformer(d_model=16, n_layer=2, n_head=2, d_ff=32, max_len=10)
    >>> model(torch.randn(3, 10, 5), torch.zeros(3, 10, 4)).shape
    torch.Size([3, 10, 4])
    >>> model.state_size(10)
    640
    """

    def __init__(self, d_model: int, n_layer: int, n_head: int, d_ff: int, max_len: int) -> None:
        super().__init__()
        check_sizes(d_model=d_model, n_layer=n_layer, n_head=n_head, d_ff=d_ff, max_len=max_len)
        if d_model % n_head:
            raise ValueError(f"d_model={d_model}: must be a multiple of n_head={n_head}")
        self.d_model = d_model
        self.max_len = max_len
        self.embed = nn.LazyLinear(d_model)
        self.positions = nn.Parameter(sinusoids(max_len, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_head, d_ff) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d_model)
        self.head = ClassHead()

    def features(self, x: Tensor, prev_y: Tensor) -> Tensor:
        length = x.shape[1]
        if length > self.max_len:
            raise ValueError(f"x has {length} positions; max_len={self.max_len}")
        h = self.embed(tokens(x, prev_y)) + self.positions[:length]
        for block in self.blocks:
            h = block(h, None)
        return self.norm(h)

    def state_size(self, t: int) -> int:
        check_position(t)
        return 2 * len(self.blocks) * self.d_model * t


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """sin and cos of position · 10000^(−2i/width), side by side for every i."""
    frequency = 10_000.0 ** (-2 * (torch.arange(width) // 2) / width)
    angle = torch.arange(length).unsqueeze(1) * frequency
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())
