"""Model selection: keep a training's state where a held-out score was best."""

from __future__ import annotations

import copy
import math
from typing import Any

from landform.training.branching import Stateful


class BestCheckpoint:
    """Keeps copies of models and optimisers as they were when a score was highest; the first of equal scores counts.

    For domain generalisation the score is measured on held-out samples of the *source* domains.

    Raises:
        ValueError: nothing to keep.

    >>> from torch import nn
    >>> model = nn.Linear(1, 1)
    >>> best = BestCheckpoint(model=model)
    >>> best.offer(0.7, step=10), best.offer(0.6, step=20)
    (True, False)
    >>> best.restore(), best.score, best.step
    (None, 0.7, 10)
    """

    def __init__(self, **parts: Stateful) -> None:
        if not parts:
            raise ValueError("BestCheckpoint: needs at least one part to keep, such as model=model")
        self.parts = parts
        self.score = -math.inf
        self.step: int | None = None
        self._states: dict[str, Any] = {}

    def offer(self, score: float, step: int) -> bool:
        """Keep the parts' states if ``score`` is higher than any before; tell whether it was.

        Raises:
            ValueError: a score that is NaN.
        """
        if math.isnan(score):
            raise ValueError("score is NaN: no checkpoint can be chosen by it")
        if self._states and score <= self.score:
            return False
        self.score, self.step = score, step
        self._states = {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()}
        return True

    def restore(self) -> None:
        """Put the best states back.

        Raises:
            RuntimeError: no score was offered.
        """
        if not self._states:
            raise RuntimeError("restore: no score was offered yet")
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(self._states[name]))
