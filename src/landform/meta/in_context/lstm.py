"""An LSTM as an in-context learner."""

from __future__ import annotations

from torch import Tensor, nn

from landform.meta.in_context.learner import ClassHead, InContextLearner, check_position, tokens
from landform.models.mlp import check_sizes


class ICLLSTM(InContextLearner):
    """An LSTM over [x_t, onehot(y_{t−1})], embedded linearly to ``hidden`` numbers, with a linear head.

    Its state are the cells and hidden units of every layer: 2 hidden layers numbers, at any position.

    Arguments:
        hidden: units a layer.
        layers: LSTM layers.

    Raises:
        ValueError: sizes below 1.

    Source: arXiv 2212.04458, section 4 (the LSTM baseline).

    >>> ICLLSTM(hidden=16, layers=2).state_size(100)
    64
    """

    def __init__(self, hidden: int, layers: int = 1) -> None:
        super().__init__()
        check_sizes(hidden=hidden, layers=layers)
        self.embed = nn.LazyLinear(hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.head = ClassHead()

    def features(self, x: Tensor, prev_y: Tensor) -> Tensor:
        h, _ = self.lstm(self.embed(tokens(x, prev_y)))
        return h

    def state_size(self, t: int) -> int:
        check_position(t)
        return 2 * self.lstm.hidden_size * self.lstm.num_layers
