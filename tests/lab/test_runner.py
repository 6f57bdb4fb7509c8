"""Whole runs in this process: what is computed, stored, taken from the store, failed and judged."""

from __future__ import annotations

import math
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import lab_toys
import numpy as np
import pytest
import torch

from landform.claims import Better
from landform.lab.engines.job import checked
from landform.lab.errors import Interrupted, StudyError, UsageError
from landform.lab.identity import TrialKey
from landform.lab.machine import check_device
from landform.lab.runner import Observer, RunResult, Tally, run_study
from landform.lab.store import Store
from landform.study import Preset, Record, Run, Study


class Log(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def planned(self, total: int) -> None:
        self.told.append(("planned", total))

    def started(self, trial: TrialKey) -> None:
        self.told.append(("started", str(trial)))

    def progress(self, trial: TrialKey, fraction: float, note: str) -> None:
        self.told.append(("progress", str(trial), fraction, note))

    def finished(self, trial: TrialKey, status: str, seconds: float, error: str | None) -> None:
        self.told.append(("finished", str(trial), status, error))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [rest for name, *rest in self.told if name == kind]  # type: ignore[misc]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "results.sqlite", create=True) as opened:
        yield opened


def run(store: Store, study: Study = lab_toys.study, preset: str = "laptop", **other: Any) -> RunResult:
    overrides = {"log": str(store.path.parent), **other.pop("overrides", {})}
    return run_study(study, preset, store=store, workers=0, overrides=overrides, **other)


def executions(store: Store) -> list[tuple[int, float]]:
    path = store.path.parent / "trials"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(line.split()[0]), float(line.split()[1])) for line in lines]


def test_a_run_computes_what_the_store_lacks(store: Store) -> None:
    first = run(store, seeds=2)
    assert first.trials == Tally(total=2, done=2, cached=0, failed=0)
    second = run(store)
    assert second.trials == Tally(total=4, done=2, cached=2, failed=0)
    assert executions(store) == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)]
    assert run(store).trials == Tally(4, 0, 4, 0)
    assert second.run == first.run == store.runs()[0]
    assert second.run.overrides == {"log": str(store.path.parent)}
    ((claim, finding),) = second.findings
    assert claim is lab_toys.study.claims[0]
    assert (finding.n, finding.verdict) == (4, "supported")
    assert finding.effect == pytest.approx(0.415)
    assert len(store.arrays(first.run)["curve"]) == 4
    # Fewer seeds are judged by themselves, though the store has more.
    assert run(store, seeds=2).findings[0][1].n == 2


def test_smoke_gives_no_verdict(store: Store) -> None:
    ((_, finding),) = run(store, preset="smoke").findings
    assert finding.verdict is None
    assert math.isfinite(finding.effect)


def test_overrides_make_another_run(store: Store) -> None:
    run(store)
    assert run(store, overrides={"noise": "0.25"}).trials.done == 4
    assert len(store.runs()) == 2
    assert store.runs()[0].overrides["noise"] == 0.25


def test_the_observer_is_told(store: Store) -> None:
    log = Log()
    run(store, seeds=1, observer=log)
    assert log.told == [
        ("planned", 1),
        ("started", "seed 0"),
        ("progress", "seed 0", 0.5, "half"),
        ("finished", "seed 0", "done", None),
    ]
    log = Log()
    run(store, seeds=1, observer=log)
    assert log.told == [("planned", 1), ("finished", "seed 0", "cached", None)]


# Tuning ---------------------------------------------------------------------------------------------------------------


def test_tuning_seeds_choose_for_each_condition(store: Store) -> None:
    result = run(store, lab_toys.crossed)
    assert result.trials == Tally(8, 8, 0, 0)
    records = store.records(result.run)
    good = records[records["arm"] == "good"]
    assert set(good[good["role"] == "tuning"]["setting"]) == {"1", "2"}
    reported = good[good["role"] == "reported"]
    assert list(zip(reported["noise"], reported["setting"], strict=True)) == [
        (0.0, "2"),
        (0.5, "1"),
        (0.0, "2"),
        (0.5, "1"),
    ]
    trials = store.trials(result.run)
    assert list(trials[trials["role"] == "reported"]["chosen"])[:2] == [{"good": "2"}, {"good": "1"}]
    # Tuning comes first, and the conditions take turns.
    seeds = executions(store)
    assert seeds[:4] == [(1_000_000, 0.0), (1_000_000, 0.5), (1_000_001, 0.0), (1_000_001, 0.5)]
    assert run(store, lab_toys.crossed).trials == Tally(8, 0, 8, 0)


def test_without_tuning_seeds_the_whole_grid_is_reported(store: Store) -> None:
    study = Study("toy", claims=lab_toys.study.claims, presets={"smoke": Preset(lab_toys.Config(), seeds=1)})
    study.trial(lab_toys.crossed_trial)
    result = run(store, study, "smoke")
    assert set(store.records(result.run)["setting"].dropna()) == {"1", "2"}


def test_a_run_by_hand_has_the_whole_grid() -> None:
    assert Run().tuning
    assert Run().settings("a", (1, 2)) == (1, 2)
    assert not Run(chosen={}).tuning
    assert Run(chosen={"a": "2"}).settings("a", (1, 2)) == [2]
    with pytest.raises(KeyError, match="arm 'b' recorded no setting"):
        Run(chosen={"a": "2"}).settings("b", (1, 2))
    with pytest.raises(ValueError, match="'3' was chosen for 'a', but its grid is"):
        Run(chosen={"a": "3"}).settings("a", (1, 2))


def test_unequal_grids_stop_the_run_and_keep_what_was_measured(store: Store) -> None:
    with pytest.raises(StudyError, match="unfair"):
        run(store, lab_toys.unfair)
    trials = store.trials(store.runs()[0])
    assert list(trials["status"]) == ["done"]


def test_without_any_tuning_nothing_can_be_chosen(store: Store) -> None:
    log = Log()
    result = run(store, lab_toys.crossed, overrides={"act": "fail tuning", "noise": "0"}, observer=log)
    # On seed 1 alone does ``act`` go wrong, but this one fails by itself.
    assert result.trials == Tally(4, 0, 0, 4)
    trials = store.trials(result.run)
    assert list(trials["status"]) == ["failed"] * 4
    assert "no tuning seed finished" in trials["traceback"].iloc[-1]
    assert math.isnan(result.findings[0][1].effect)
    assert result.findings[0][1].note


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_failed_trial_is_stored_and_tried_again_by_the_next_run(store: Store) -> None:
    log = Log()
    result = run(store, overrides={"act": "fail once"}, observer=log)
    assert result.trials == Tally(4, 3, 0, 1)
    trials = store.trials(result.run)
    assert list(trials["status"]) == ["done", "failed", "done", "done"]
    assert 'raise RuntimeError("only once")' in trials["traceback"][1]
    assert result.findings[0][1].n == 3
    (error,) = (error for _, status, error in log.of("finished") if status == "failed")
    assert "RuntimeError: only once" in error
    again = run(store, overrides={"act": "fail once"})
    assert again.trials == Tally(4, 1, 3, 0)
    trials = store.trials(result.run)
    assert list(trials["status"]) == ["done"] * 4
    assert list(trials["attempts"]) == [1, 2, 1, 1]
    assert trials["traceback"][1] is None


def test_a_trial_that_exits_has_failed(store: Store) -> None:
    result = run(store, overrides={"act": "exit"})
    assert result.trials == Tally(4, 3, 0, 1)
    assert "SystemExit: enough" in store.trials(result.run)["traceback"][1]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (None, "must yield records, but it returned None"),
        ([], "yielded no records"),
        ([1.0], "yielded 1.0"),
        ([Record("a", "m", math.nan)], "not finite"),
        ([Record("a", "m", -math.inf)], "not finite"),
        ([Record("a", "m", 1.0), Record("a", "m", 2.0)], "recorded twice"),
        ([Record("a", "m", 1.0, 2), Record("a", "m", 1.0, 2.0)], "recorded twice"),
        ([Record("a", "m", 1.0, math.nan)], "x must be finite"),
        ([Record("", "m", 1.0)], "arm must be text"),
        ([Record("a", 1, 1.0)], "metric must be text"),  # type: ignore[arg-type]
        ([Record("a", "m", "1.0")], "value must be a number"),  # type: ignore[arg-type]
        ([Record("a", "m", torch.ones(2))], "value must be a number"),  # type: ignore[arg-type]
        ([Record("a", "m", 1.0, unit=3)], "unit must be text"),  # type: ignore[arg-type]
        ([Record("a", "m", 1.0, setting=0.1)], "setting must be text"),  # type: ignore[arg-type]
    ],
)
def test_records_that_cannot_be_right_are_refused(records: Any, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        checked(records, frozenset({"loss"}))


def test_records_come_out_as_plain_numbers() -> None:
    records = [
        Record("a", "m", torch.tensor(0.5), x=np.int64(3)),  # type: ignore[arg-type]
        Record("a", "m", np.float32(0.5), x=4, unit="u", setting="s"),  # type: ignore[arg-type]
        Record("a", "loss", math.nan),
        Record("a", "n", 3),
        Record("a", "ok", True),
    ]
    found = checked(records, frozenset({"loss"}))
    assert [type(r.value) for r in found] == [float] * 5
    assert astuple(found[0]) == ("a", "m", 0.5, 3.0, None, None)
    assert type(found[0].x) is float


def test_a_metric_that_may_diverge_is_stored_as_it_is(store: Store) -> None:
    study = Study(
        "toy",
        claims=[Better("loss", "a", than="b")],
        presets={"smoke": lab_toys.Config()},
        may_diverge=("loss",),
        minimise=("loss",),
    )

    @study.trial
    def trial(config: Any, seed: int, run: Run) -> Iterator[Record]:
        yield Record("a", "loss", math.nan)
        yield Record("b", "loss", math.inf)

    result = run(store, study, "smoke", seeds=1)
    values = list(store.records(result.run)["value"])
    assert math.isnan(values[0])
    assert values[1] == math.inf


# Fresh ----------------------------------------------------------------------------------------------------------------


def test_fresh_computes_again(store: Store) -> None:
    run(store, seeds=2)
    result = run(store, seeds=2, fresh=True)
    assert result.trials == Tally(2, 2, 0, 0)
    assert len(executions(store)) == 4
    assert list(store.trials(result.run)["attempts"]) == [2, 2]
    assert len(store.records(result.run)) == 6


def test_fresh_that_stops_midway_loses_nothing(store: Store) -> None:
    before = run(store)
    records = store.records(before.run)

    class Stop(Observer):
        def started(self, trial: TrialKey) -> None:
            if trial.seed == 2:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="goes on from there"):
        run(store, fresh=True, observer=Stop())
    assert store.records(before.run).equals(records)
    assert run(store).trials == Tally(4, 0, 4, 0)


def test_an_interrupted_run_goes_on(store: Store) -> None:
    class Stop(Observer):
        def started(self, trial: TrialKey) -> None:
            if trial.seed == 2:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(store, observer=Stop())
    assert list(store.trials(store.runs()[0])["status"]) == ["done", "done"]
    assert run(store).trials == Tally(4, 2, 2, 0)


def test_a_trial_that_another_run_took_over_is_left_to_it(store: Store) -> None:
    """As when this process was suspended: what it computed meanwhile is not stored, the trial is looked at again."""

    class Robbed(Observer):
        times = 0

        def progress(self, trial: TrialKey, fraction: float, note: str) -> None:
            self.times += 1
            if self.times == 1:
                with sqlite3.connect(store.path) as connection:
                    connection.execute("UPDATE trials SET owner = 'elsewhere boot 1 1 n', heartbeat = 0")

    log = Robbed()
    assert run(store, seeds=1, observer=log).trials == Tally(1, 1, 0, 0)
    assert log.times == 2


# Folders --------------------------------------------------------------------------------------------------------------


def folders(store: Store) -> list[Path]:
    return sorted(Path(f"{store.path}.work").glob("*"))


def test_a_trials_folder_lasts_until_it_is_done(store: Store) -> None:
    study = Study("toy", claims=lab_toys.study.claims, presets={"smoke": lab_toys.Config()})
    seen: list[bool] = []

    @study.trial
    def trial(config: Any, seed: int, run: Run) -> Iterator[Record]:
        checkpoint = run.folder / "checkpoint"
        seen.append(checkpoint.exists())
        checkpoint.touch()
        if len(seen) < 3:
            raise RuntimeError("killed")
        yield Record("good", "accuracy", 1.0)

    assert run(store, study, "smoke", seeds=1).trials.failed == 1
    assert [folder.name for folder in folders(store)] == [TrialKey(store.runs()[0], {}, 0, "reported").id[:16]]
    assert run(store, study, "smoke", seeds=1).trials.failed == 1
    assert seen == [False, True]
    # Afresh is from the beginning.
    assert run(store, study, "smoke", seeds=1, fresh=True).trials.done == 1
    assert seen == [False, True, False]
    assert not Path(f"{store.path}.work").exists()


# The process ----------------------------------------------------------------------------------------------------------


def test_the_callers_process_is_as_it_was(store: Store) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    os.environ.pop("OMP_NUM_THREADS", None)
    try:
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        result = run(store, lab_toys.numeric)
        assert result.trials.failed == 0
        assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
        assert torch.get_num_threads() == 2
        assert torch.get_default_dtype() == torch.float32
        assert "OMP_NUM_THREADS" not in os.environ
    finally:
        torch.set_num_threads(threads)
    records = store.records(result.run)
    assert set(records[records["arm"] == "threads"]["value"]) == {1.0}
    for arm in ("random", "numpy", "torch"):
        assert len(set(records[records["arm"] == arm]["value"])) == 3


def test_what_a_trial_prints_does_not_reach_standard_output(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study("toy", claims=lab_toys.study.claims, presets={"smoke": lab_toys.Config()})

    @study.trial
    def trial(config: Any, seed: int, run: Run) -> Iterator[Record]:
        print("chatter")
        yield Record("good", "accuracy", 1.0)

    run(store, study, "smoke")
    out, err = capsys.readouterr()
    assert out == ""
    assert "chatter" in err


def test_the_environment_is_stored(store: Store) -> None:
    environment = store.trials(run(store, seeds=1).run)["environment"][0]
    assert environment["threads"] == 1
    assert environment["torch"] == torch.__version__
    assert {"python", "numpy", "platform", "cpu", "landform"} < set(environment)


# Requests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"preset": "paper"}, "toy has no preset 'paper'; it has smoke, laptop"),
        ({"seeds": 0}, "seeds=0"),
        ({"workers": -1}, "workers=-1"),
        ({"overrides": {"nois": "1"}}, "nois=1"),
        ({"overrides": {"noise": "-1"}}, "noise must not be negative"),
        ({"device": "gpu"}, "device=gpu: allowed are cpu, cuda, cuda:N and mps"),
        ({"device": "cuda:99"}, "device=cuda:99: this machine has"),
    ],
)
def test_a_request_that_is_not_allowed_is_refused_before_any_work(
    store: Store, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        run_study(lab_toys.study, **{"preset": "laptop", "store": store, "workers": 0, **arguments})
    assert store.runs() == []


def test_the_processor_is_always_there() -> None:
    check_device("cpu")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_workers_are_as_many_as_the_cores_that_may_be_used() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from landform.lab.machine import default_workers\n"
        "print(default_workers('cpu'), default_workers('cuda:0'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_a_claim_without_its_records_is_no_crash(store: Store) -> None:
    claims = [*lab_toys.study.claims, Better("accuracy", "nobody", than="bad")]
    study = Study("toy", claims=claims, presets={"laptop": Preset(lab_toys.Config(), seeds=5)})
    study.trial(lab_toys.trial)
    findings = [finding for _, finding in run(store, study).findings]
    assert findings[0].verdict == "supported"
    assert findings[1].verdict is None
    assert "nobody" in findings[1].note
