"""A decoder-only transformer over bytes, the language model of every scaling, schedule and re-weighting study."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Positions = Literal["learned", "rotary"]
Counted = Literal["non_embedding", "total"]

INIT_STD = 0.02
ROTARY_BASE = 10_000.0


class ByteTransformer(nn.Module):
    """Next-byte logits from a pre-LayerNorm, causal transformer without dropout.

        h = E[token] (+ P[position]);   h += A(LN(h)), h += M(LN(h)) in every layer;   logits = U LN(h)

    with A multi-head causal scaled dot-product attention (rotary positions turn its queries and keys instead of adding
    P) and M = W2 GELU(W1 ·). Linear layers have biases but for the unembedding U.

    Initialisation: weights and tables N(0, 0.02), biases 0, norms 1; the output projections of A and of M, which
    all add to one stream, N(0, 0.02/sqrt(2 n_layer)). The loss at the start is therefore close to ln(vocab).

    Arguments:
        d_model: width, a multiple of ``n_head`` (an even multiple for rotary positions).
        n_layer, n_head: numbers of layers, and of heads a layer.
        context: the most tokens that it reads.
        vocab: number of tokens.
        d_ff: hidden width of M, 4 d_model unless given.
        positions: "learned" table or "rotary".
        tie: whether U is E.

    Raises:
        ValueError, TypeError: an argument out of its range, by name.

    Source: Radford et al. 2019 (the layout and the initialisation); arXiv 2104.09864 (rotary positions).

    >>> model = ByteTransformer(d_model=16, n_layer=2, n_head=2, context=8)
    >>> model(torch.zeros(3, 8, dtype=torch.long)).shape
    torch.Size([3, 8, 256])
    """

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        n_head: int,
        context: int,
        vocab: int = 256,
        d_ff: int | None = None,
        positions: Positions = "learned",
        tie: bool = False,
    ) -> None:
        super().__init__()
        d_ff = 4 * d_model if d_ff is None else d_ff
        sizes = {
            "d_model": d_model,
            "n_layer": n_layer,
            "n_head": n_head,
            "context": context,
            "vocab": vocab,
            "d_ff": d_ff,
        }
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name}={size!r}: must be an int")
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if d_model % n_head:
            raise ValueError(f"d_model={d_model}: must be a multiple of n_head={n_head}")
        if positions not in get_args(Positions):
            raise ValueError(f"positions={positions!r}: must be one of {get_args(Positions)}")
        if positions == "rotary" and d_model // n_head % 2:
            raise ValueError(f"d_model={d_model}: rotary positions need an even width a head, not {d_model // n_head}")
        self.context = context
        self.d_head = d_model // n_head
        self.tokens = nn.Embedding(vocab, d_model)
        self.positions = nn.Embedding(context, d_model) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(d_model, n_head, d_ff) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab, bias=False)
        if tie:
            self.unembed.weight = self.tokens.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, Block):
                for projection in (module.attention.out, module.narrow):
                    nn.init.normal_(projection.weight, std=INIT_STD / math.sqrt(2 * len(self.blocks)))

    def forward(self, tokens: Int[Tensor, "*batch time"]) -> Float[Tensor, "*batch time vocab"]:
        """Logits of the token that follows each position; those at position t depend on tokens 0, …, t alone.

        Raises:
            TypeError: tokens are not integers.
            ValueError: no token, or more than ``context``.
        """
        if tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
            raise TypeError(f"tokens: must be integers, not {tokens.dtype}")
        time = tokens.shape[-1] if tokens.ndim else 0
        if not 1 <= time <= self.context:
            raise ValueError(f"tokens: {time} of them along the last axis; must be 1 to context={self.context}")
        h = self.tokens(tokens.long())
        turn = None
        if self.positions is None:
            turn = rotation(time, self.d_head, h)
        else:
            h = h + self.positions.weight[:time]
        for block in self.blocks:
            h = block(h, turn)
        return self.unembed(self.norm(h))


class Block(nn.Module):
    """One pre-norm layer: attention, then the MLP, each added to the stream."""

    def __init__(self, d_model: int, n_head: int, d_ff: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, n_head)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.widen = nn.Linear(d_model, d_ff)
        self.narrow = nn.Linear(d_ff, d_model)

    def forward(self, h: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        h = h + self.attention(self.norm_attention(h), turn)
        return h + self.narrow(F.gelu(self.widen(self.norm_mlp(h))))


class CausalAttention(nn.Module):
    """Multi-head attention in which no position sees a later one."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self, x: Float[Tensor, "*batch time d_model"], turn: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*batch time d_model"]:
        # *batch, head, time, d_head
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_head, -1)).transpose(-4, -2).unbind(-3)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-3, -2).flatten(-2))


def rotation(time: int, d_head: int, like: Tensor) -> tuple[Float[Tensor, "time half"], Float[Tensor, "time half"]]:
    """Cosines and sines of position · base^(−2i/d_head), in the dtype and on the device of ``like``."""
    frequency = ROTARY_BASE ** (-torch.arange(0, d_head, 2, dtype=torch.float64, device=like.device) / d_head)
    angle = torch.arange(time, dtype=torch.float64, device=like.device)[:, None] * frequency
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x: Float[Tensor, "*batch time d_head"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "*batch time d_head"]:
    """Turn each pair (x_i, x_{i + d_head/2}) by its angle, so that products of queries and keys see distances alone."""
    cosine, sine = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def count_parameters(model: ByteTransformer, kind: Counted = "non_embedding") -> int:
    """The number of parameters: all, or without the token, position and unembedding tables (the N of scaling laws).

    Without them it is n_layer (4 d² + 2 d d_ff + 9 d + d_ff) + 2 d, which is 12 n_layer d² and biases and norms when
    d_ff = 4 d. A tied table counts once.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(Counted):
        raise ValueError(f"kind={kind!r}: must be one of {get_args(Counted)}")
    total = sum(p.numel() for p in model.parameters())
    if kind == "total":
        return total
    tables = nn.ModuleList([model.tokens, model.unembed])
    if model.positions is not None:
        tables.append(model.positions)
    return total - sum(p.numel() for p in tables.parameters())
