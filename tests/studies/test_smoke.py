"""Every study's smoke preset runs in the laboratory: all trials finish, each claim is weighed, the figure draws."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from landform.lab.discover import load_study, study_slugs
from landform.lab.runner import run_study
from landform.lab.store import Store


@pytest.mark.parametrize("slug", study_slugs())
def test_smoke(slug: str, tmp_path: Path) -> None:
    study = load_study(slug)
    with Store(tmp_path / "store.sqlite", create=True) as store:
        result = run_study(study, "smoke", store=store, workers=0)
        trials = store.trials(result.run)
        assert result.trials.failed == 0, "\n".join(trials["traceback"].dropna())
        assert result.trials.done == result.trials.total == len(trials)
        for claim, finding in result.findings:
            assert finding.n >= 1, f"{claim}: {finding.note}"
            assert finding.verdict is None, f"{claim}: the smoke preset never gives a verdict"
            assert math.isfinite(finding.effect), f"{claim}: {finding.note}"
        records = store.records(result.run)
        assert study.draw is not None
        figure = study.draw(records[records["role"] == "reported"], store.arrays(result.run))
        assert figure.axes
        plt.close(figure)


@pytest.mark.parametrize("slug", study_slugs())
def test_presets(slug: str) -> None:
    study = load_study(slug)
    assert set(study.presets) == {"smoke", "laptop", "paper"}
    assert study.presets["laptop"].seeds >= 5
