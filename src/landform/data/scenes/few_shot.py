"""Episodes of a few labelled shapes, whose queries may stand on other grounds than the support."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.design import Design
from landform.data.scenes.draw import check_values
from landform.data.scenes.factors import BACKGROUNDS, SHAPES, Factors, uniform
from landform.data.split import check_count


class FewShotDesign(Design):
    """Episode e holds the images e·L … (e + 1)·L - 1, L = n_way (k_shot + q): first the support, then the queries.

    Each episode draws ``n_way`` different shapes; the label is the shape's number within the episode, and both parts go
    through the ways in turn (0, 1, …, 0, 1, …). The backgrounds of supports are uniform over ``context_support``, those
    of queries over ``context_query``; texture, colour and region are uniform over all. The group is 0 for the support
    and 1 for queries.

    Arguments:
        n_way: shapes in an episode, 1 … 10.
        k_shot: supports of each.
        q: queries of each.
        context_support: backgrounds, as numbers.
        context_query: likewise; the same set makes a control without shift.

    Raises:
        ValueError: a number out of range, or an empty set of contexts.

    >>> design = FewShotDesign(5, 1, 3, context_support=(0, 1), context_query=(2, 3))
    >>> design(torch.arange(20), seed=0).label
    tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    """

    def __init__(
        self, n_way: int, k_shot: int, q: int, context_support: Sequence[int], context_query: Sequence[int]
    ) -> None:
        for name, value in (("n_way", n_way), ("k_shot", k_shot), ("q", q)):
            check_count(name, value, 1)
        if n_way > len(SHAPES):
            raise ValueError(f"n_way={n_way}: there are {len(SHAPES)} shapes")
        self.n_way, self.k_shot, self.q = n_way, k_shot, q
        self.context_support = check_values("context_support", context_support, len(BACKGROUNDS))
        self.context_query = check_values("context_query", context_query, len(BACKGROUNDS))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"way {way}" for way in range(self.n_way))

    @property
    def episode_length(self) -> int:
        """L, the images of an episode."""
        return self.n_way * (self.k_shot + self.q)

    def __call__(self, index: Int[Tensor, " n"] | Sequence[int], seed: int) -> Factors:
        drawn = uniform(index, seed)
        numbers = torch.as_tensor(index).long()
        episode, place = numbers // self.episode_length, numbers % self.episode_length
        ways = hash_uniform(seed, episode, Field.WAYS, (len(SHAPES),)).argsort(dim=1, stable=True)
        label = place % self.n_way
        drawn["shape"] = ways.gather(1, label.unsqueeze(1)).squeeze(1)
        query = place >= self.n_way * self.k_shot
        u = hash_uniform(seed, index, Field.BACKGROUND)
        contexts = (c.to(u.device)[(u * len(c)).long()] for c in (self.context_support, self.context_query))
        support_context, query_context = contexts
        drawn["background"] = torch.where(query, query_context, support_context)
        return Factors(**drawn, label=label, group=query.long())
