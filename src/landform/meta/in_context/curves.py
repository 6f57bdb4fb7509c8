"""How well a learner predicts at each position of a sequence, and what that says of how it generalises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor, nn

from landform.data.split import check_count
from landform.meta.in_context.samplers import Sampler, Sequences

Regime = Literal["instance memorisation", "task identification", "zero-shot generalisation", "general learning"]

Predictor = Callable[[Tensor, Tensor], Tensor]
"""``(x, prev_y) -> scores`` of every class at every position: an in-context learner, or a reference such as
:func:`prefix_ridge`."""

LAST = 5
"""Positions over which the final accuracy is averaged."""

LEAST = 0.05
"""An accuracy must rise, or lie above chance, by more than this to count."""


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences, with its 95 % interval (Student's)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class InContextCurve:
    """Which predictions were right, of n sequences at L positions.

    Attributes:
        correct: (n, L).
    """

    correct: Bool[Tensor, "n length"]

    @property
    def accuracy(self) -> Float[Tensor, " length"]:
        """acc(t): the share of sequences with a right prediction at t."""
        return self.correct.double().mean(0)

    @property
    def half_width(self) -> Float[Tensor, " length"]:
        """Half of acc(t)'s 95 % interval (Student's)."""
        n = len(self.correct)
        return float(stats.t.ppf(0.975, n - 1)) * self.correct.double().std(0) / math.sqrt(n)

    @property
    def final(self) -> Estimate:
        """The accuracy over the last five positions."""
        return _estimate(self.correct[:, -LAST:].double().mean(1))

    @property
    def learning(self) -> Estimate:
        """Δ = acc(L) − acc(1): what was learned within the sequence."""
        return _estimate(self.correct[:, -1].double() - self.correct[:, 0].double())


def in_context_curve(model: Predictor, sampler: Sampler, n: int, *, chunk: int = 512) -> InContextCurve:
    """Accuracy at each position over the next ``n`` sequences. No gradients, no updates.

    With few classes chance is high and small differences are noise: take 1,000 sequences or more.

    Arguments:
        model: an in-context learner (evaluated in evaluation mode, and left in the mode that it has), or any
            ``(x, prev_y) -> scores``.
        sampler: gives the sequences.
        n: at least 2, so that there is an interval.
        chunk: sequences a forward pass.

    Raises:
        ValueError: fewer than two sequences, or scores that are not finite or of another shape than prev_y.

    Source: arXiv 2212.04458, section 4.
    """
    check_count("n", n, 2)
    check_count("chunk", chunk, 1)
    counts = [chunk] * (n // chunk) + [n % chunk] * (n % chunk > 0)
    return InContextCurve(torch.cat([predicted(model, sampler(count)) for count in counts]))


def predicted(model: Predictor, sequences: Sequences) -> Bool[Tensor, "batch length"]:
    """Which predictions on these sequences are right."""
    x, prev_y, y = sequences
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        scores = model(x, prev_y)
    if isinstance(model, nn.Module):
        model.train(training)
    if scores.shape != prev_y.shape or not scores.isfinite().all():
        raise ValueError(f"model: its scores {tuple(scores.shape)} must be finite, of the shape {tuple(prev_y.shape)}")
    return scores.argmax(-1) == y


def classify_regime(curves_seen: InContextCurve, curves_unseen: InContextCurve, chance: float) -> Regime:
    """How a meta-trained model generalises: does it learn within the sequence, and does it do so on unseen tasks?

        learns       the lower end of Δ's interval, on seen tasks, is more than 0.05
        generalises  that of the final accuracy, on unseen tasks, is more than 0.05 above chance

    | learns | generalises | regime |
    | --- | --- | --- |
    | no | no | instance memorisation |
    | yes | no | task identification |
    | no | yes | zero-shot generalisation |
    | yes | yes | general learning |

    Raises:
        ValueError: a chance outside (0, 1).

    Source: arXiv 2212.04458, section 4.1.
    """
    if not 0 < chance < 1:
        raise ValueError(f"chance={chance}: must lie between 0 and 1")
    learns = curves_seen.learning.low > LEAST
    if curves_unseen.final.low > chance + LEAST:
        return "general learning" if learns else "zero-shot generalisation"
    return "task identification" if learns else "instance memorisation"


def _estimate(values: Float[Tensor, " n"]) -> Estimate:
    n, mean = len(values), float(values.mean())
    half = float(stats.t.ppf(0.975, n - 1)) * float(values.std()) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half)
