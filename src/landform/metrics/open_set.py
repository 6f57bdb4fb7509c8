"""Open-set recognition: how well a score tells known classes from unknown ones, alone and together with the class.

A score s is higher where a sample is more likely of a known class. Known samples are the positives, except where a
function says otherwise. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor

Values = NDArray[np.float64]
Variant = Literal["pairwise", "official"]
Positive = Literal["known", "unknown"]
Score = Callable[[Tensor], Tensor]


def auroc(scores_known: ArrayLike | Tensor, scores_unknown: ArrayLike | Tensor) -> float:
    """The probability that a known sample scores higher than an unknown one, ties counting one half.

    Raises:
        ValueError: scores that are empty, not one-dimensional, or not finite.

    >>> auroc([3.0, 2.0, 1.0], [1.0, 0.0])
    0.916...
    """
    return float(roc_auc_score(*_labelled(scores_known, scores_unknown)))


def oscr(
    scores_known: ArrayLike | Tensor,
    correct: ArrayLike | Tensor,
    scores_unknown: ArrayLike | Tensor,
    variant: Variant = "pairwise",
) -> float:
    """The open-set classification rate: the area under correct classification against false positives.

    With falling threshold t, CCR(t) = #{known and correct, s > t}/N_k and FPR(t) = #{unknown, s ≥ t}/N_u. Exactly,

        OSCR = 1/(N_k N_u) Σ_i [correct_i] Σ_u ([s_i > s_u] + ½ [s_i = s_u])

    so that it is at most the accuracy and at most the AUROC. Both variants sort: O(N log N).

    Arguments:
        correct: (N_k,) booleans, whether the predicted class of each known sample is right.
        variant: ``"pairwise"`` is the formula above. ``"official"`` is the trapezoid of the authors' code, where the
            threshold takes each sample's own score: CCR leaves that sample out and FPR does not, which gives a little
            less. Tied scores are there in order of position, known samples first.

    Raises:
        ValueError: scores that are empty, not one-dimensional, or not finite, ``correct`` of another length, or an
            unknown variant.

    Source: Dhamija et al., arXiv 1811.04110; arXiv 2110.06207, section 4.

    >>> oscr([3.0, 2.0, 1.0], [True, False, True], [1.0, 0.0])
    0.583...
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant={variant!r}: must be one of {', '.join(map(repr, get_args(Variant)))}")
    known, unknown = _scores("scores_known", scores_known), _scores("scores_unknown", scores_unknown)
    right = np.asarray(correct)
    if right.shape != known.shape:
        raise ValueError(f"correct has shape {right.shape}: must be {known.shape}, one for each known sample")
    right = right.astype(bool)
    if variant == "pairwise":
        ordered = np.sort(unknown)
        below = ordered.searchsorted(known, "left") + ordered.searchsorted(known, "right")
        return float(below[right].sum() / (2 * len(known) * len(unknown)))
    order = np.concatenate([known, unknown]).argsort(kind="stable")
    correct_above = np.append(right, np.zeros(len(unknown), dtype=bool))[order][::-1].cumsum()[::-1]
    unknown_from = (order >= len(known))[::-1].cumsum()[::-1]
    # Thresholds at the scores of all samples but the highest, between the corners (1, 1) and (0, 0).
    rate = np.concatenate([[1.0], unknown_from[:-1] / len(unknown), [0.0]])
    found = np.concatenate([[1.0], correct_above[1:] / len(known), [0.0]])
    return float(-np.trapezoid(found, rate))


def aupr(scores_known: ArrayLike | Tensor, scores_unknown: ArrayLike | Tensor, positive: Positive = "unknown") -> float:
    """Area under precision against recall, as average precision Σ (R_n − R_{n−1}) P_n.

    ``positive="unknown"`` is the detection of unknown samples by −s ("AUOUT", and the authors' AUPR);
    ``positive="known"`` that of known ones by s ("AUIN"). It depends on how many there are of each.

    Raises:
        ValueError: scores that are empty, not one-dimensional, or not finite, or another class.

    >>> aupr([3.0, 2.0, 1.0], [0.0])
    1.0
    """
    if positive not in get_args(Positive):
        raise ValueError(f"positive={positive!r}: must be one of {', '.join(map(repr, get_args(Positive)))}")
    labels, scores = _labelled(scores_known, scores_unknown)
    if positive == "unknown":
        labels, scores = 1 - labels, -scores
    return float(average_precision_score(labels, scores))


def tnr_at_tpr(scores_known: ArrayLike | Tensor, scores_unknown: ArrayLike | Tensor, tpr: float = 0.95) -> float:
    """The share of unknown samples rejected at the highest threshold that accepts a share ``tpr`` of the known ones.

    Samples with s ≥ t are accepted. It is 1 − FPR95 of the literature. The authors' code takes the true-positive rate
    nearest to 95 % instead, which on small sets may be another one.

    Raises:
        ValueError: scores that are empty, not one-dimensional, or not finite, or a rate outside (0, 1].

    >>> tnr_at_tpr([3.0, 2.0, 1.0], [1.5, 0.5])
    0.5
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr={tpr}: must lie in (0, 1]")
    false, true, _ = roc_curve(*_labelled(scores_known, scores_unknown), drop_intermediate=False)
    # A rate is a count over N, and 0.95 N may round to just above a whole number.
    return float(1 - false[np.argmax(true >= tpr - 1e-12)])


def detection_accuracy(scores_known: ArrayLike | Tensor, scores_unknown: ArrayLike | Tensor) -> float:
    """max over thresholds of ½ (TPR + TNR): the accuracy of the best threshold, known and unknown equally likely.

    Raises:
        ValueError: scores that are empty, not one-dimensional, or not finite.

    >>> detection_accuracy([3.0, 2.0, 1.0], [1.5, 0.5])
    0.833...
    """
    false, true, _ = roc_curve(*_labelled(scores_known, scores_unknown), drop_intermediate=False)
    return float((0.5 * (true + 1 - false)).max())


class OpenSetMetrics:
    """What is reported of an open-set classifier, from its logits on known and on unknown test samples.

    Source: arXiv 2110.06207, section 4.
    """

    @staticmethod
    def evaluate(
        known_logits: Float[Tensor, "known classes"],
        labels: Int[Tensor, " known"],
        unknown_logits: Float[Tensor, "unknown classes"],
        score: Score,
    ) -> dict[str, float]:
        """Shares in [0, 1]: ``accuracy``, ``auroc``, ``oscr``, ``aupr``, ``tnr95`` and ``dtacc``.

        The class is the largest logit whatever the score; ``aupr`` has the unknown samples as positives.

        Arguments:
            labels: the known samples' classes, 0 … K − 1.
            score: from logits (n, K) to scores (n,), higher where a known class is likelier; for instance
                ``landform.shift.max_logit_score``.

        Raises:
            ValueError: logits that are empty, not (n, K), of different widths or not finite; labels of another length
                or out of range; scores of another shape.

        >>> known, unknown = torch.tensor([[4.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.5]])
        >>> OpenSetMetrics.evaluate(known, torch.tensor([0, 1]), unknown, lambda logits: logits.amax(1))["auroc"]
        1.0
        """
        known_logits, labels = _check_known(known_logits, labels)
        unknown_logits = _check_logits("unknown_logits", unknown_logits, known_logits.shape[1])
        known, unknown = _scored(score, known_logits), _scored(score, unknown_logits)
        correct: Bool[Tensor, " known"] = known_logits.argmax(1) == labels
        return {
            "accuracy": float(correct.double().mean()),
            "auroc": auroc(known, unknown),
            "oscr": oscr(known, correct.numpy(), unknown),
            "aupr": aupr(known, unknown),
            "tnr95": tnr_at_tpr(known, unknown),
            "dtacc": detection_accuracy(known, unknown),
        }

    @staticmethod
    def evaluate_groups(
        known_logits: Float[Tensor, "known classes"],
        labels: Int[Tensor, " known"],
        unknown_logits: Mapping[str, Float[Tensor, "unknown classes"]],
        score: Score,
    ) -> dict[str, dict[str, float]]:
        """The metrics against each group of unknown samples (easy, hard), and their mean over groups as ``"macro"``.

        Raises:
            ValueError: as :meth:`evaluate`; no group, or one that is called macro.
        """
        if not unknown_logits or "macro" in unknown_logits:
            raise ValueError(f"unknown_logits has the groups {list(unknown_logits)}: at least one, and none 'macro'")
        groups = {
            name: OpenSetMetrics.evaluate(known_logits, labels, logits, score)
            for name, logits in unknown_logits.items()
        }
        each = list(groups.values())
        return groups | {"macro": {metric: float(np.mean([group[metric] for group in each])) for metric in each[0]}}


def _scores(name: str, scores: ArrayLike | Tensor) -> Values:
    """Scores as a float64 vector, once they are found to be that."""
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu().double().numpy()
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {values.shape}: must be one number for each of at least one sample")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinite values")
    return values


def _labelled(scores_known: ArrayLike | Tensor, scores_unknown: ArrayLike | Tensor) -> tuple[NDArray[np.int64], Values]:
    """1 for known and 0 for unknown samples, and all scores."""
    known, unknown = _scores("scores_known", scores_known), _scores("scores_unknown", scores_unknown)
    return np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])


def _check_logits(name: str, logits: Tensor, classes: int | None = None) -> Tensor:
    """Logits in float64 on the CPU, once they are found to be (n, K) with n at least 1."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name} is {kind}: must be a floating-point tensor")
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(
            f"{name} has shape {tuple(logits.shape)}: must be (samples, classes), with at least one of each"
        )
    if classes is not None and logits.shape[1] != classes:
        raise ValueError(f"{name} has {logits.shape[1]} classes, but known_logits has {classes}")
    if not logits.isfinite().all():
        raise ValueError(f"{name} contains NaN or infinite values")
    return logits.detach().cpu().double()


def _check_known(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = _check_logits("known_logits", logits)
    labels = torch.as_tensor(labels).cpu()
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels is {labels.dtype} {tuple(labels.shape)}: must be {len(logits)} class numbers")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}: must lie in 0..{logits.shape[1] - 1}")
    return logits, labels


def _scored(score: Score, logits: Tensor) -> Tensor:
    scores = score(logits)
    if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"score gave {shape} for logits {tuple(logits.shape)}: must give ({len(logits)},)")
    return scores
