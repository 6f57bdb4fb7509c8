"""What a training of a language model costs: tokens, updates and floating-point operations, by both conventions."""

from __future__ import annotations

from typing import Any, Literal, get_args

from landform.models.transformer import Block, ByteTransformer, count_parameters

Convention = Literal["kaplan", "full"]

PF_DAY = 8.64e19
"""Floating-point operations of a petaFLOP/s-day: 1e15 a second for 86,400 seconds."""


def forward_flops(model: ByteTransformer, convention: Convention = "kaplan") -> int:
    """Floating-point operations of one forward pass per token, a multiplication and an addition being two.

        kaplan:  2 N,  N = ``count_parameters(model)``, without the tables
        full:    2 n_layer (4 d² + 2 d d_ff) + 2 n_layer context d + 2 d vocab

    The full count is of matrix products alone: linear layers, attention (scores and averages over the context/2 keys
    that a causal token sees on average) and unembedding. In tiny models the unembedding outweighs the rest, so that
    the two conventions differ by more than the models do.

    Source: Kaplan et al., arXiv 2001.08361, section 2.1; Henighan et al., arXiv 2010.14701, who count 6 N a token.

    Raises:
        ValueError: an unknown convention.

    >>> model = ByteTransformer(d_model=16, n_layer=2, n_head=2, context=64)
    >>> forward_flops(model), forward_flops(model, "full")
    (13184, 24576)
    """
    if convention not in get_args(Convention):
        raise ValueError(f"convention={convention!r}: must be one of {get_args(Convention)}")
    if convention == "kaplan":
        return 2 * count_parameters(model)
    vocab, d_model = model.unembed.weight.shape
    products = d_model * vocab
    for block in model.blocks:
        assert isinstance(block, Block)
        products += 4 * d_model**2 + 2 * d_model * block.widen.out_features + model.context * d_model
    return 2 * products


class ComputeLedger:
    """Counts what a training spends. Training costs three forward passes a token: one forward, two for the gradients.

    Arguments:
        model: whose operations are counted.
        convention: which count :attr:`flops` is; both are kept, see :meth:`flops_by`.

    Raises:
        TypeError: a model of another class.
        ValueError: an unknown convention.

    >>> ledger = ComputeLedger(ByteTransformer(d_model=16, n_layer=2, n_head=2, context=64))
    >>> ledger.count(tokens=2048)
    >>> ledger.updates, ledger.tokens, ledger.flops == 6 * 6592 * 2048
    (1, 2048, True)
    """

    def __init__(self, model: ByteTransformer, convention: Convention = "kaplan") -> None:
        if not isinstance(model, ByteTransformer):
            raise TypeError(f"model: is a {type(model).__name__}; the operations of a ByteTransformer can be counted")
        forward_flops(model, convention)
        self.convention: Convention = convention
        self.tokens = 0
        self.updates = 0
        self._flops_a_token = {each: 3 * forward_flops(model, each) for each in get_args(Convention)}

    def count(self, tokens: int) -> None:
        """One update, on so many tokens."""
        if tokens < 1:
            raise ValueError(f"tokens={tokens}: an update takes at least one")
        self.updates += 1
        self.tokens += tokens

    def flops_by(self, convention: Convention) -> int:
        """Operations so far by either convention."""
        if convention not in self._flops_a_token:
            raise ValueError(f"convention={convention!r}: must be one of {get_args(Convention)}")
        return self._flops_a_token[convention] * self.tokens

    @property
    def flops(self) -> int:
        """Operations so far."""
        return self.flops_by(self.convention)

    @property
    def pf_days(self) -> float:
        """Operations so far in petaFLOP/s-days."""
        return self.flops / PF_DAY

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tokens, self.updates = int(state["tokens"]), int(state["updates"])

    def __repr__(self) -> str:
        return f"ComputeLedger({self.updates:,} updates, {self.tokens:,} tokens, {self.pf_days:.3g} PF-days)"
