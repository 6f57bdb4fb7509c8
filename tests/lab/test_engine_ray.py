"""Runs on a Ray cluster of two workers: the same records, deaths of workers, folders, interrupts, and refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lab_toys
import pytest

from landform.cli import main
from landform.lab.errors import UsageError
from landform.lab.identity import TrialKey
from landform.lab.runner import Observer, Tally, run_study
from landform.lab.store import Store

ray = pytest.importorskip("ray", reason="the extra cluster (Ray) is not installed")

from landform.lab.engines.ray import Ray  # noqa: E402  Ray's tests have no use without Ray.

PATIENCE = 300.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a cluster with two cores, whose workers find the toy studies."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ |= {"PYTHONPATH": str(Path(__file__).parent), "RAY_USAGE_STATS_ENABLED": "0"}
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False},
    )
    yield started.address
    ray.shutdown()
    started.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def engine(cluster: str) -> Iterator[Ray]:
    engine = Ray(cluster)
    yield engine
    engine.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "results.sqlite", create=True) as opened:
        yield opened


def executions(store: Store) -> list[int]:
    """The seed of each execution, in the order of their beginnings."""
    return [int(line.split()[0]) for line in (store.path.parent / "trials").read_text().splitlines()]


def test_records_are_those_of_the_local_engine_to_the_bit(engine: Ray, store: Store, tmp_path: Path) -> None:
    result = run_study(lab_toys.numeric, "laptop", store=store, engine=engine)
    assert result.trials == Tally(3, 3, 0, 0)
    with Store(tmp_path / "local.sqlite", create=True) as local:
        expected = run_study(lab_toys.numeric, "laptop", store=local, workers=0)
        assert local.records(expected.run).equals(store.records(result.run))
        assert len(store.records(result.run)) == 15
    # Whatever the engine, the trials are the same ones.
    assert run_study(lab_toys.numeric, "laptop", store=store, workers=0).trials == Tally(3, 0, 3, 0)


def test_tuning_comes_first_and_its_choice_travels(engine: Ray, store: Store) -> None:
    result = run_study(lab_toys.crossed, "laptop", store=store, engine=engine)
    assert result.trials == Tally(8, 8, 0, 0)
    records = store.records(result.run)
    reported = records[(records["role"] == "reported") & (records["arm"] == "good")]
    assert set(zip(reported["noise"], reported["setting"], strict=True)) == {(0.0, "2"), (0.5, "1")}


def test_a_worker_that_dies_is_retried_once_and_takes_its_trial_alone_with_it(engine: Ray, store: Store) -> None:
    told: list[tuple[str, ...]] = []
    finished: list[list[str]] = []

    class Log(Observer):
        def retrying(self, trial: TrialKey, reason: str) -> None:
            told.append((str(trial), "again"))

        def progress(self, trial: TrialKey, fraction: float, note: str) -> None:
            told.append((str(trial), f"{fraction} {note}"))

        def finished(self, trial: TrialKey, *ending: Any) -> None:
            finished.append([status for (status,) in store._rows("SELECT status FROM trials")])

    overrides = {"log": str(store.path.parent), "act": "die", "pause": "0.2"}
    result = run_study(lab_toys.study, "laptop", store=store, engine=engine, overrides=overrides, observer=Log())
    assert result.trials == Tally(4, 3, 0, 1)
    trials = store.trials(result.run)
    assert list(trials["status"]) == ["done", "failed", "done", "done"]
    assert list(trials["attempts"]) == [1, 2, 1, 1]
    assert "died" in trials["traceback"][1]
    assert sorted(executions(store)) == [0, 1, 1, 2, 3]
    assert told.count(("seed 1", "again")) == 1
    assert {("seed 0", "0.5 half"), ("seed 2", "0.5 half")} & set(told), "progress arrives"
    assert any(0 < statuses.count("done") < 3 for statuses in finished), "results are stored as they come"
    # The dead trial's folder is kept for the next run, and only it.
    (folder,) = Path(f"{store.path}.work").iterdir()
    assert (folder / "checkpoint").read_text() == "kept"


def test_a_worker_that_dies_once_is_no_failure(engine: Ray, store: Store) -> None:
    overrides = {"log": str(store.path.parent), "act": "die once"}
    result = run_study(lab_toys.study, "laptop", seeds=2, store=store, engine=engine, overrides=overrides)
    assert result.trials == Tally(2, 2, 0, 0)
    assert list(store.trials(result.run)["attempts"]) == [1, 2]
    assert not Path(f"{store.path}.work").exists()


def test_an_error_is_stored_with_its_traceback_and_not_retried(engine: Ray, store: Store) -> None:
    overrides = {"log": str(store.path.parent), "act": "raise"}
    result = run_study(lab_toys.study, "laptop", seeds=2, store=store, engine=engine, overrides=overrides)
    assert result.trials == Tally(2, 1, 0, 1)
    assert "RuntimeError: as asked" in store.trials(result.run)["traceback"][1]
    assert sorted(executions(store)) == [0, 1]


SCRIPT = """
import signal, sys
import lab_toys
from landform.lab.engines.ray import Ray
from landform.lab.errors import Interrupted
from landform.lab.runner import run_study
from landform.lab.store import Store

# A job in the background of a shell that is not interactive ignores Ctrl-C, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
engine = Ray(sys.argv[1])
with Store(sys.argv[2], create=True) as store:
    try:
        run_study(lab_toys.study, "laptop", seeds=50, store=store, engine=engine,
                  overrides={"log": sys.argv[3], "pause": "0.3"})
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    finally:
        engine.close()
"""


def test_ctrl_c_ends_the_trials_and_leaves_a_store_to_go_on_with(cluster: str, tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, cluster, str(path), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        begun = tmp_path / "trials"
        while not begun.exists() or len(begun.read_text().splitlines()) < 4:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, out + err
    assert "interrupted; the trials that finished are stored, and the same run goes on from there" in err
    assert "Traceback" not in err
    with Store(path) as store:
        left = [status for (status,) in store._rows("SELECT status FROM trials")]
    assert left.count("done") == len(left) >= 1
    assert not Path(f"{path}.work").exists()


def test_the_command_line_runs_on_a_cluster(
    engine: Ray, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = []
    for more in (["--workers", "0"], ["--engine", "ray", "--address", cluster]):
        words = ["run", "gradsign", "--preset", "smoke", "--seeds", "1", "--json", *more]
        monkeypatch.setattr(sys, "argv", ["landform", *words, "--store", str(tmp_path / f"{len(documents)}.sqlite")])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        documents.append(json.loads(capsys.readouterr().out)["runs"][0])
    assert documents[0]["claims"] == documents[1]["claims"]
    assert documents[1]["trials"] == {"total": 1, "done": 1, "cached": 0, "failed": 0}


def test_nothing_at_an_address_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UsageError, match=f"address=127.0.0.1:{port}: nothing answers there"):
            Ray(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"address": "somewhere"}, "address=somewhere: write HOST:PORT"),
        ({"count": 0}, "workers=0: on Ray 1 or more"),
        ({"device": "cuda:1"}, "device=cuda:1: on Ray cpu or cuda"),
        ({"device": "cuda"}, "device=cuda: the Ray cluster has no GPU"),
    ],
)
def test_what_ray_cannot_do_is_refused(engine: Ray, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Ray(**arguments)
    assert ray.is_initialized(), "a connection that was there is kept"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'landform\[cluster\]'"):
        Ray()
