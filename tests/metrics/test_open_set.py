"""Open-set metrics against brute force, scikit-learn, and the invariants of the paper's measures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from landform.metrics.open_set import OpenSetMetrics, aupr, auroc, detection_accuracy, oscr, tnr_at_tpr


def scores(n_known=40, n_unknown=27, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    known, unknown = rng.normal(1, 1, n_known), rng.normal(0, 1, n_unknown)
    if ties:
        known, unknown = known.round(), unknown.round()
    return known, rng.random(n_known) < 0.7, unknown


def pairwise_oscr(known, correct, unknown):
    pairs = (known[:, None] > unknown) + 0.5 * (known[:, None] == unknown)
    return (correct[:, None] * pairs).sum() / pairs.size


def official_oscr(known, correct, unknown):
    """The trapezoid as the authors define it, threshold by threshold: CCR above, FPR from the threshold on."""
    both = np.concatenate([known, unknown])
    order = both.argsort(kind="stable")
    right = np.concatenate([correct, np.zeros(len(unknown))])[order]
    novel = np.concatenate([np.zeros(len(known)), np.ones(len(unknown))])[order]
    points = [(1.0, 1.0), (0.0, 0.0)]
    for k in range(len(both) - 1):
        points.append((novel[k:].sum() / len(unknown), right[k + 1 :].sum() / len(known)))
    points.sort(reverse=True)
    return sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_oscr_are_what_pairs_say(seed, ties):
    known, correct, unknown = scores(seed=seed, ties=ties)
    assert oscr(known, correct, unknown) == pytest.approx(pairwise_oscr(known, correct, unknown), abs=1e-14)
    assert auroc(known, unknown) == pytest.approx(pairwise_oscr(known, np.ones(len(known)), unknown), abs=1e-14)
    labels = np.r_[np.ones(len(known)), np.zeros(len(unknown))]
    assert auroc(known, unknown) == roc_auc_score(labels, np.r_[known, unknown])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sizes", [(40, 27), (1, 1), (2, 1), (1, 3), (6, 9)])
def test_the_official_oscr_is_the_trapezoid_of_the_authors(sizes, ties):
    for seed in range(4):
        known, correct, unknown = scores(*sizes, seed, ties)
        ours = oscr(known, correct, unknown, variant="official")
        assert ours == pytest.approx(official_oscr(known, correct, unknown), abs=1e-14)


def test_the_official_oscr_gives_less_by_about_a_sample():
    known, correct, unknown = scores(200, 200)
    difference = oscr(known, correct, unknown) - oscr(known, correct, unknown, "official")
    assert 0 < difference < 2 / 200


def test_auroc_sees_only_the_order():
    known, _, unknown = scores()
    value = auroc(known, unknown)
    assert auroc(np.exp(3 * known), np.exp(3 * unknown)) == pytest.approx(value, abs=1e-14)
    assert auroc(unknown, known) == pytest.approx(1 - value, abs=1e-14)


def test_oscr_is_bounded_by_accuracy_and_auroc():
    for seed in range(5):
        known, correct, unknown = scores(seed=seed, ties=True)
        value = oscr(known, correct, unknown)
        assert value <= min(correct.mean(), auroc(known, unknown)) + 1e-14
        assert oscr(known, np.ones_like(correct), unknown) == pytest.approx(auroc(known, unknown), abs=1e-14)
        assert oscr(known + 100, correct, unknown) == pytest.approx(correct.mean(), abs=1e-14)


def test_aupr_has_either_class_positive():
    known, _, unknown = scores(ties=True)
    labels, values = np.r_[np.ones(len(known)), np.zeros(len(unknown))], np.r_[known, unknown]
    assert aupr(known, unknown, positive="known") == average_precision_score(labels, values)
    assert aupr(known, unknown) == average_precision_score(1 - labels, -values)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_known", [6, 20, 40, 100])
def test_operating_points_by_brute_force(n_known, ties):
    known, _, unknown = scores(n_known, 31, 3, ties)
    thresholds = [*np.concatenate([known, unknown]), np.inf, -np.inf]
    points = [((known >= t).mean(), (unknown < t).mean()) for t in thresholds]
    assert tnr_at_tpr(known, unknown) == pytest.approx(max(tnr for tpr, tnr in points if tpr >= 0.95 - 1e-12))
    assert detection_accuracy(known, unknown) == pytest.approx(max((tpr + tnr) / 2 for tpr, tnr in points))


def test_a_rate_that_rounds_up_is_still_reached():
    known = np.arange(20.0)  # 19/20 = 0.95: the lowest known sample may be given up, and no second one
    assert tnr_at_tpr(known, [0.5, 1.5]) == 0.5


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (50,), generator=generator)
    known = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    known[torch.arange(50), labels] += 1.5
    return known, labels, torch.randn(30, 4, generator=generator, dtype=torch.float64)


def maximum(logits):
    return logits.amax(1)


def test_evaluate_is_its_parts(logits):
    known, labels, unknown = logits
    found = OpenSetMetrics.evaluate(known, labels, unknown, maximum)
    a, b, correct = known.amax(1).numpy(), unknown.amax(1).numpy(), (known.argmax(1) == labels).numpy()
    assert found == {
        "accuracy": correct.mean(),
        "auroc": auroc(a, b),
        "oscr": oscr(a, correct, b),
        "aupr": aupr(a, b),
        "tnr95": tnr_at_tpr(a, b),
        "dtacc": detection_accuracy(a, b),
    }
    assert 0.3 < found["oscr"] < found["accuracy"] < 1
    half = OpenSetMetrics.evaluate(known.half(), labels, unknown.half(), maximum)
    assert half["auroc"] == pytest.approx(found["auroc"], abs=0.01)


def test_groups_are_averaged(logits):
    known, labels, unknown = logits
    found = OpenSetMetrics.evaluate_groups(known, labels, {"easy": unknown - 1, "hard": unknown}, maximum)
    assert found["hard"] == OpenSetMetrics.evaluate(known, labels, unknown, maximum)
    for metric, value in found["macro"].items():
        assert value == pytest.approx((found["easy"][metric] + found["hard"][metric]) / 2)
    assert found["easy"]["auroc"] > found["hard"]["auroc"]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"known": torch.zeros(0, 4)}, ValueError, "known_logits has shape"),
        ({"unknown": torch.zeros(0, 4)}, ValueError, "unknown_logits has shape"),
        ({"unknown": torch.zeros(3, 5)}, ValueError, "unknown_logits has 5 classes"),
        ({"unknown": torch.full((3, 4), torch.nan)}, ValueError, "unknown_logits contains NaN"),
        ({"known": torch.zeros(50, 4, dtype=torch.long)}, TypeError, "known_logits is torch.int64"),
        ({"labels": torch.zeros(49, dtype=torch.long)}, ValueError, "must be 50 class numbers"),
        ({"labels": torch.full((50,), 4)}, ValueError, r"must lie in 0\.\.3"),
        ({"score": lambda logits: logits}, ValueError, "score gave"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(logits, change, error, match):
    arguments = dict(zip(("known", "labels", "unknown"), logits, strict=True)) | {"score": maximum} | change
    with pytest.raises(error, match=match):
        OpenSetMetrics.evaluate(*arguments.values())


def test_scores_that_are_none_are_refused():
    for function in (auroc, aupr, tnr_at_tpr, detection_accuracy):
        with pytest.raises(ValueError, match="scores_known has shape"):
            function([], [1.0])
        with pytest.raises(ValueError, match="scores_unknown contains NaN"):
            function([1.0], [np.nan])
    with pytest.raises(ValueError, match="correct has shape"):
        oscr([1.0, 2.0], [True], [0.0])
    with pytest.raises(ValueError, match="variant='exact'"):
        oscr([1.0], [True], [0.0], variant="exact")
    with pytest.raises(ValueError, match="positive='in'"):
        aupr([1.0], [0.0], positive="in")
    with pytest.raises(ValueError, match="tpr=0"):
        tnr_at_tpr([1.0], [0.0], tpr=0)
    with pytest.raises(ValueError, match="at least one, and none 'macro'"):
        OpenSetMetrics.evaluate_groups(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), {}, maximum)
