"""A control without memory: what a model can do that sees one example at a time."""

from __future__ import annotations

from torch import Tensor, nn

from landform.meta.in_context.learner import ClassHead, InContextLearner, check_position, tokens
from landform.models.mlp import check_sizes


class NoStateMLP(InContextLearner):
    """A perceptron on [x_t, onehot(y_{t−1})], position by position, with ReLU units.

    Nothing passes from one position to the next, so it cannot learn in context: beyond chance it only gets by what it
    memorised of seen tasks, and by what the last label says of the next one.

    Arguments:
        hidden: units a layer.
        layers: hidden layers.

    Raises:
        ValueError: sizes below 1.

    Source: arXiv 2212.04458, section 4 (the feed-forward control).

    >>> NoStateMLP().state_size(100)
    0
    """

    def __init__(self, hidden: int = 128, layers: int = 2) -> None:
        super().__init__()
        check_sizes(hidden=hidden, layers=layers)
        self.embed = nn.LazyLinear(hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.head = ClassHead()

    def features(self, x: Tensor, prev_y: Tensor) -> Tensor:
        h = self.embed(tokens(x, prev_y)).relu()
        for layer in self.layers:
            h = layer(h).relu()
        return h

    def state_size(self, t: int) -> int:
        check_position(t)
        return 0
