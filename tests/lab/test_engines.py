"""Runs over several processes: deaths of workers and of whole runs, interrupts, two runs at once, equality to the bit.

Workers load torch, which takes seconds on a busy machine; so each test starts as few of them as it can.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lab_toys
import pytest

from landform.lab.engines import Processes, local
from landform.lab.errors import StudyError
from landform.lab.identity import TrialKey
from landform.lab.runner import Observer, Tally, run_study
from landform.lab.store import Store
from landform.study import Preset, Record, Run, Study

TOYS = Path(__file__).parent
PATIENCE = 120.0

SCRIPT = """
import json, signal, sys
from dataclasses import asdict
import lab_toys
from landform.lab.errors import Interrupted
from landform.lab.runner import run_study
from landform.lab.store import Store

# A job in the background of a shell that is not interactive ignores Ctrl-C, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
path, name, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with Store(path, create=True) as store:
    try:
        result = run_study(getattr(lab_toys, name), "laptop", store=store, **arguments)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
print(json.dumps(asdict(result.trials)))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture
def launch(path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run in a process (and a process group, as a terminal does) of its own."""
    started = []

    def start(name: str = "study", **arguments: Any) -> subprocess.Popen[str]:
        arguments["overrides"] = {"log": str(path.parent), **arguments.get("overrides", {})}
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), name, json.dumps(arguments)],
            env={**os.environ, "PYTHONPATH": str(TOYS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def log(path: Path) -> list[tuple[int, float, int]]:
    """Seed, noise and process of each execution."""
    trials = path.parent / "trials"
    lines = trials.read_text().splitlines() if trials.exists() else []
    return [(int(seed), float(noise), int(pid)) for seed, noise, pid in (line.split() for line in lines)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def statuses(path: Path) -> list[str]:
    with Store(path) as store:
        return [status for (status,) in store._rows("SELECT status FROM trials ORDER BY seed")]


def test_records_are_the_same_to_the_bit_however_many_workers(tmp_path: Path) -> None:
    frames = []
    for workers in (0, 1, 2):
        with Store(tmp_path / f"{workers}.sqlite", create=True) as store:
            result = run_study(lab_toys.numeric, "laptop", store=store, workers=workers)
            assert result.trials == Tally(3, 3, 0, 0)
            frames.append(store.records(result.run))
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    assert len(frames[0]) == 15


def test_a_worker_that_dies_takes_its_trial_alone_with_it(path: Path) -> None:
    told: list[tuple[str, ...]] = []

    class Log(Observer):
        def retrying(self, trial: TrialKey, reason: str) -> None:
            told.append((str(trial), reason))

        def progress(self, trial: TrialKey, fraction: float, note: str) -> None:
            told.append((str(trial), f"{fraction} {note}"))

    overrides = {"log": str(path.parent), "act": "die"}
    with Store(path, create=True) as store:
        result = run_study(
            lab_toys.study, "laptop", seeds=3, store=store, workers=1, overrides=overrides, observer=Log()
        )
        assert result.trials == Tally(3, 2, 0, 1)
        trials = store.trials(result.run)
        assert list(trials["status"]) == ["done", "failed", "done"]
        assert list(trials["attempts"]) == [1, 2, 1]
        assert trials["traceback"][1] == "the worker process was ended by SIGKILL, as happens when memory runs out"
        assert [seed for seed, *_ in log(path)] == [0, 1, 1, 2]
        assert told == [("seed 0", "0.5 half"), ("seed 1", trials["traceback"][1]), ("seed 2", "0.5 half")]
        # Its folder is kept, for the run that tries it again.
        (folder,) = Path(f"{path}.work").iterdir()
        assert (folder / "checkpoint").read_text() == "kept"


def test_a_worker_that_dies_once_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"log": str(path.parent), "act": "die once"}
    with Store(path, create=True) as store:
        result = run_study(lab_toys.study, "laptop", seeds=2, store=store, workers=1, overrides=overrides)
        assert result.trials == Tally(2, 2, 0, 0)
        assert list(store.trials(result.run)["attempts"]) == [1, 2]
        assert not Path(f"{path}.work").exists()
        # Where all is stored, no worker starts.
        monkeypatch.setattr(local, "_Worker", None)
        again = run_study(lab_toys.study, "laptop", seeds=2, store=store, workers=2, overrides=overrides)
        assert again.trials == Tally(2, 0, 2, 0)


def test_a_worker_that_leaves_without_an_error_has_failed_too(path: Path) -> None:
    overrides = {"log": str(path.parent), "act": "leave"}
    workers = []

    class Count(Observer):
        def started(self, trial: TrialKey) -> None:
            workers.append(len(multiprocessing.active_children()))

    with Store(path, create=True) as store:
        result = run_study(
            lab_toys.study, "laptop", seeds=2, store=store, workers=16, overrides=overrides, observer=Count()
        )
        assert max(workers) == 2, "no more workers start than there are trials"
        assert result.trials == Tally(2, 1, 0, 1)
        assert "exit code 0 before the trial had finished" in store.trials(result.run)["traceback"][1]


def test_a_killed_run_goes_on_where_it_stopped(path: Path, launch: Callable[..., subprocess.Popen[str]]) -> None:
    overrides = {"pause": "0.2"}
    process = launch(workers=2, seeds=6, overrides=overrides)
    until(lambda: len(log(path)) >= 4)
    process.kill()
    process.wait()
    done = statuses(path).count("done")
    assert done >= 2
    # The workers end by themselves.
    until(lambda: not any(lives(pid) for *_, pid in log(path)))
    with Store(path) as store:
        overrides["log"] = str(path.parent)
        result = run_study(lab_toys.study, "laptop", seeds=6, store=store, workers=0, overrides=overrides)
        assert result.trials == Tally(6, 6 - done, done, 0)
        assert len(store.records(result.run)) == 18
    # At most what was under way was computed twice.
    assert len(log(path)) <= 6 + 2


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_leaves_a_store_to_go_on_with(
    path: Path, launch: Callable[..., subprocess.Popen[str]], workers: int
) -> None:
    process = launch(workers=workers, seeds=50, overrides={"pause": "0.2"})
    until(lambda: len(log(path)) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == "interrupted; the trials that finished are stored, and the same run goes on from there"
    left = statuses(path)
    assert left.count("done") == len(left) >= 1
    assert not any(lives(pid) for *_, pid in log(path))
    with Store(path) as store:
        overrides = {"log": str(path.parent), "pause": "0.2"}
        again = run_study(lab_toys.study, "laptop", seeds=len(left), store=store, workers=0, overrides=overrides)
        assert again.trials == Tally(len(left), 0, len(left), 0)


def test_two_runs_share_a_store(path: Path, launch: Callable[..., subprocess.Popen[str]]) -> None:
    runs = [launch("crossed", workers=1, overrides={"pause": "0.2"}) for _ in range(2)]
    tallies = []
    for process in runs:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        tallies.append(json.loads(out))
    executed = Counter((seed, noise) for seed, noise, _ in log(path))
    assert executed == {(seed, noise): 1 for seed in (0, 1, 1_000_000, 1_000_001) for noise in (0.0, 0.5)}
    assert sum(tally["done"] for tally in tallies) == 8
    assert all(tally["done"] + tally["cached"] == tally["total"] == 8 for tally in tallies)


def test_a_run_waits_for_what_another_computes(path: Path, launch: Callable[..., subprocess.Popen[str]]) -> None:
    other = launch(workers=0, seeds=1, overrides={"pause": "1.5"})
    until(lambda: bool(log(path)))
    waits: list[tuple[int, str]] = []

    class Log(Observer):
        def waiting(self, trials: int, holder: str) -> None:
            waits.append((trials, holder))

    with Store(path) as store:
        overrides = {"log": str(path.parent), "pause": "1.5"}
        result = run_study(
            lab_toys.study, "laptop", seeds=1, store=store, workers=1, overrides=overrides, observer=Log()
        )
    assert result.trials == Tally(1, 0, 1, 0)
    assert waits[0][0] == 1
    assert f"process {other.pid} on " in waits[0][1]
    assert len(log(path)) == 1


def test_a_trial_that_only_this_process_knows_is_refused(path: Path) -> None:
    study = Study("toy", claims=lab_toys.study.claims, presets={"smoke": Preset(lab_toys.Config(), seeds=1)})

    @study.trial
    def trial(config: Any, seed: int, run: Run) -> Iterator[Record]:
        yield Record("good", "accuracy", 1.0)

    with Store(path, create=True) as store:
        with pytest.raises(StudyError, match="cannot be sent to a worker process"):
            run_study(study, "smoke", store=store, workers=2)
        assert store.runs() == []
        assert run_study(study, "smoke", store=store, workers=0).trials.done == 1


STUDY_IN_A_SCRIPT = """
import sys
from lab_toys import Config, Preset, Record, Study, study as toy

print("imported", file=sys.stderr)
study = Study("toy", claims=toy.claims, presets={"smoke": Preset(Config(), seeds=1)})

@study.trial
def trial(config, seed, run):
    yield Record("good", "accuracy", 1.0)
"""

RUN_IT = """
from landform.lab.runner import run_study
from landform.lab.store import Store
with Store(sys.argv[1], create=True) as store:
    print(run_study({study}, "smoke", store=store, workers=1).trials)
"""


@pytest.mark.parametrize(
    ("script", "imported", "out"),
    [
        (STUDY_IN_A_SCRIPT + "if __name__ == '__main__':" + textwrap.indent(RUN_IT, "    "), 2, "done=1"),
        (STUDY_IN_A_SCRIPT + RUN_IT, 2, "StudyError: worker processes cannot start"),
        # A script that runs another's study is not imported by the workers, and needs no guard.
        (STUDY_IN_A_SCRIPT + RUN_IT.replace("{study}", "toy"), 1, "done=2"),
    ],
)
def test_scripts_run_studies(path: Path, script: str, imported: int, out: str) -> None:
    file = path.with_name("script.py")
    file.write_text(script.replace("{study}", "study"))
    done = subprocess.run(
        [sys.executable, str(file), str(path)],
        env={**os.environ, "PYTHONPATH": str(TOYS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stderr.count("imported") == imported
    assert out in done.stdout + done.stderr


def test_an_engine_without_jobs_only_waits() -> None:
    with Processes(2) as engine:
        assert (engine.free, engine.busy) == (2, 0)
        assert engine.wait(0.0, lambda job, fraction, note: None) == []
