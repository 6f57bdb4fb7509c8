"""The tally of paired t-tests against SciPy's test and cases decided by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from landform.metrics.paired import Tally, paired_tally


def test_agrees_with_scipy_on_each_data_set() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=(200, 5))
    scores = baseline + rng.normal(0.3, 1, size=(200, 5))
    p_better = stats.ttest_rel(scores, baseline, axis=1, alternative="greater").pvalue
    p_worse = stats.ttest_rel(scores, baseline, axis=1, alternative="less").pvalue
    better, worse = int((p_better < 0.05).sum()), int((p_worse < 0.05).sum())
    assert 0 < worse < better
    assert paired_tally(scores, baseline) == Tally(better, 200 - better - worse, worse)


def test_critical_value() -> None:
    """Five trials with mean 1 and t just beyond, and just short of, Student's 95 % quantile 2.131847 (4 degrees)."""
    shape = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    shape /= shape.std(ddof=1)
    spread = np.sqrt(5) / np.array([2.1318, 2.1319])
    scores = 1 + spread[:, None] * shape
    zeros = np.zeros((2, 5))
    assert paired_tally(scores, zeros) == Tally(1, 1, 0)
    assert paired_tally(zeros, scores) == Tally(0, 1, 1)


def test_without_spread_the_sign_decides() -> None:
    baseline = np.array([[0.1, 0.2, 0.3]] * 3)
    scores = baseline + np.array([[0.1], [0.0], [-0.1]])
    assert paired_tally(scores, baseline) == Tally(1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1.0, 2.0], [1.0, 2.0]), "data sets, trials"),
        (([[1.0, 2.0]], [[1.0, 2.0, 3.0]]), "data sets, trials"),
        (([[1.0]], [[1.0]]), "at least two"),
        (([[1.0, np.nan]], [[1.0, 2.0]]), "NaN"),
    ],
)
def test_bad_values_are_named(arguments: tuple[Any, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paired_tally(*arguments)
    with pytest.raises(ValueError, match=r"alpha=0\.7"):
        paired_tally([[1.0, 2.0]], [[1.0, 2.0]], alpha=0.7)
