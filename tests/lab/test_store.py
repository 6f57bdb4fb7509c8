"""The result store: what comes back is what went in, claims are exclusive, and strangers' files are left alone."""

from __future__ import annotations

import math
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landform.lab import store as store_module
from landform.lab.errors import StoreError
from landform.lab.identity import RunKey, TrialKey
from landform.lab.owner import Owner, ownership
from landform.lab.store import MIGRATIONS, Store
from landform.study import Record

RUN = RunKey("toy", "laptop", {"steps": 3}, "f00d")
ONE = [Record("a", "m", 1.0)]
ENVIRONMENT = {"python": "3"}


def key(seed: int = 0, condition: dict[str, Any] | None = None, **other: Any) -> TrialKey:
    return TrialKey(RUN, condition or {}, seed, **{"role": "reported", **other})


def finish(store: Store, trial: TrialKey, records: list[Record] = ONE, owner: str | None = None, **arrays: Any) -> bool:
    """Store a trial as done, claiming it if no owner is said to hold it."""
    with ownership() as me:
        if owner is None:
            assert store.take([trial], me, limit=1, fresh=True, since=time.time()).claimed == [trial]
        return store.finish(trial, owner or me, records, arrays, seconds=1.5, environment=ENVIRONMENT)


def statuses(store: Store) -> list[str]:
    return [status for (status,) in store._rows("SELECT status FROM trials ORDER BY id")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "results.sqlite", create=True) as opened:
        yield opened


@pytest.fixture
def me() -> Iterator[str]:
    with ownership() as owner:
        yield owner


def bits(value: float) -> bytes:
    return struct.pack("<d", math.nan if math.isnan(value) else value)


@given(st.lists(st.tuples(st.floats(), st.floats(allow_nan=False) | st.none()), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_come_back_to_the_bit(store: Store, numbers: list[tuple[float, float | None]]) -> None:
    records = [Record("a", "m", value, x) for value, x in [*numbers, (-0.0, -0.0), (5e-324, 2.0**53 + 2)]]
    finish(store, key(), records)
    frame = store.records(RUN)
    assert [bits(v) for v in frame["value"]] == [bits(r.value) for r in records]
    assert [bits(x) for x in frame["x"]] == [bits(math.nan if r.x is None else r.x) for r in records]


def test_records_have_a_column_for_each_part_and_condition(store: Store) -> None:
    finish(store, key(1, {"noise": 0.4, "widths": (8, 16), "n": 10, "name": "x", "on": True}))
    finish(store, key(0, {"noise": 0.4, "widths": (8, 16), "n": 9, "name": None, "on": False}))
    tuned = key(1_000_000, {"noise": 0.4, "widths": (), "n": 9, "name": "x", "on": False}, role="tuning")
    finish(store, tuned, [Record("b", "m", 2.0, 3.0, "unit-1", "0.1"), Record("a", "m", 1.0)])
    frame = store.records(RUN)
    expected = ["arm", "metric", "value", "x", "unit", "setting", "seed", "role"]
    assert list(frame.columns[:8]) == expected
    assert set(frame.columns[8:]) == {"noise", "widths", "n", "name", "on"}
    first, second, third, fourth = frame.to_dict("records")
    assert first["arm"] == "b"
    assert (first["x"], first["unit"], first["setting"], first["role"]) == (3.0, "unit-1", "0.1", "tuning")
    assert (second["arm"], second["unit"], second["setting"]) == ("a", None, None)
    assert third["seed"] == 0
    assert (third["widths"], third["n"], third["on"]) == ((8, 16), 9, False)
    assert third["noise"] == 0.4
    assert fourth["name"] == "x"
    assert frame["n"].dtype == np.int64
    assert frame["on"].dtype == bool


def test_conditions_are_in_order_of_size_whatever_finished_first(store: Store) -> None:
    for n in (100, 9, 20):
        finish(store, key(0, {"n": n}))
    assert list(store.records(RUN)["n"]) == [9, 20, 100]
    assert list(store.trials(RUN)["n"]) == [9, 20, 100]


def test_a_run_without_finished_trials_has_no_records(store: Store) -> None:
    frame = store.records(RUN)
    assert frame.empty
    assert list(frame.columns) == ["arm", "metric", "value", "x", "unit", "setting", "seed", "role"]
    assert store.trials(RUN).empty
    assert store.runs() == []
    assert "curve" not in store.arrays(RUN)


def test_arrays_come_back_and_equal_contents_are_kept_once(store: Store) -> None:
    curve = np.array([1.0, np.nan, -0.0])
    finish(store, key(0, {"n": 1}), curve=curve, mask=np.array([[True]]), text=np.array(["ä", "bc"]))
    finish(store, key(1, {"n": 1}), curve=curve, scalar=np.float32(2.5))
    finish(store, key(1_000_000, {"n": 1}, role="tuning"), curve=np.zeros(9))
    arrays = store.arrays(RUN)
    assert [(s.seed, s.condition) for s in arrays["curve"]] == [(0, {"n": 1}), (1, {"n": 1})]
    for saved in arrays["curve"]:
        assert saved.value.tobytes() == curve.tobytes()
        assert saved.value.dtype == np.float64
    assert arrays["mask"][0].value.tolist() == [[True]]
    assert arrays["text"][0].value.tolist() == ["ä", "bc"]
    assert arrays["scalar"][0].value.dtype == np.float32
    assert store._rows("SELECT count(*) FROM contents") == [(5,)]
    # What nothing refers to any more goes.
    finish(store, key(0, {"n": 1}))
    assert store._rows("SELECT count(*) FROM contents") == [(3,)]


def test_runs_are_the_latest_first_and_come_back_equal(store: Store) -> None:
    other = RunKey("other", "smoke", {"widths": (1, 2), "rate": 0.1}, "beef", {"rate": 0.1}, "cuda:1")
    finish(store, key(0))
    finish(store, TrialKey(other, {}, 0, "reported"))
    finish(store, key(1))
    assert store.runs() == [RUN, other]
    assert store.runs("other") == [other]
    assert len({*store.runs(), RUN, other}) == 2
    back = store.runs("other")[0]
    assert (back.config, back.overrides, back.device) == (other.config, other.overrides, "cuda:1")
    # A change of any part makes another run.
    for change in ({"preset": "laptop"}, {"config": {"widths": (1, 2), "rate": 0.2}}, {"fingerprint": "x"}):
        assert replace(other, **change) != other


def test_trials_tell_how_they_went(store: Store, me: str) -> None:
    finish(store, key(0, chosen={"a": "1"}))
    store.take([key(1), key(2)], me, limit=2)
    store.fail(key(1), me, "Traceback: no", seconds=2.0, environment=ENVIRONMENT)
    frame = store.trials(RUN)
    assert list(frame["status"]) == ["done", "failed", "running"]
    assert list(frame["traceback"])[1] == "Traceback: no"
    assert list(frame["chosen"]) == [{"a": "1"}, None, None]
    assert list(frame["environment"]) == [ENVIRONMENT, ENVIRONMENT, None]
    assert frame["seconds"][0] == 1.5
    assert list(frame["attempts"]) == [1, 1, 1]
    assert frame["owner"][2] == me


# Claims ---------------------------------------------------------------------------------------------------------------


def test_a_living_run_holds_its_trials_against_another(store: Store, me: str) -> None:
    assert store.take([key(0), key(1), key(2)], me, limit=2).claimed == [key(0), key(1)]
    with Store(store.path) as theirs, ownership() as they:
        taken = theirs.take([key(0), key(1), key(2)], they, limit=3)
        assert taken.claimed == [key(2)]
        assert taken.held == {key(0): me, key(1): me}
        finish(store, key(0), owner=me)
        store.fail(key(1), me, "no", seconds=0.0, environment={})
        taken = theirs.take([key(0), key(1)], they, limit=0, since=time.time() - 5)
        assert (taken.done, taken.failed) == ([key(0)], [key(1)])
        # What failed before a run began is tried again.
        assert theirs.take([key(1)], they, limit=1, since=time.time() + 5).claimed == [key(1)]


def test_threads_never_claim_one_trial_twice(store: Store) -> None:
    trials = [key(seed) for seed in range(60)]
    claimed: list[TrialKey] = []

    def run() -> None:
        with Store(store.path) as mine, ownership() as owner:
            while taken := mine.take(trials, owner, limit=1).claimed:
                claimed.extend(taken)
                time.sleep(0.001)
                mine.finish(taken[0], owner, ONE, {}, seconds=0.0, environment={})

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 60
    assert set(claimed) == set(trials)


def test_what_a_dead_run_held_is_free_at_once(store: Store, me: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from landform.lab.owner import ownership\nwith ownership() as o: print(o)"],
        capture_output=True,
        text=True,
        check=True,
    )
    dead = done.stdout.strip()
    assert store.take([key(0)], dead, limit=1).claimed == [key(0)]
    assert statuses(store) == ["running"]
    taken = store.take([key(0)], me, limit=1)
    assert taken.claimed == [key(0)]
    assert store.trials(RUN)["attempts"][0] == 2
    # The dead cannot finish it any more.
    assert not finish(store, key(0), owner=dead)
    assert not store.fail(key(0), dead, "no", seconds=0.0, environment={})
    assert statuses(store) == ["running"]
    assert finish(store, key(0), owner=me)


def test_a_run_on_another_machine_is_dead_when_its_heart_stops(store: Store, me: str) -> None:
    elsewhere = str(Owner("elsewhere", "boot/1", 1, "1", "n"))
    store.take([key(0)], elsewhere, limit=1)
    assert store.take([key(0)], me, limit=1).held == {key(0): elsewhere}
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE trials SET heartbeat = heartbeat - 3600")
    assert store.take([key(0)], me, limit=1).claimed == [key(0)]


def test_the_heart_beats(store: Store, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BEAT", 0.02)
    store.take([key(0)], me, limit=1)
    ((before,),) = store._rows("SELECT heartbeat FROM trials")
    with store.heartbeat(me):
        until = time.monotonic() + 10
        while store._rows("SELECT heartbeat FROM trials") == [(before,)] and time.monotonic() < until:
            time.sleep(0.01)
    ((after,),) = store._rows("SELECT heartbeat FROM trials")
    assert after > before


def test_released_trials_are_as_they_were(store: Store, me: str) -> None:
    finish(store, key(0), [Record("a", "m", 7.0)])
    store.take([key(1)], me, limit=1)
    store.fail(key(1), me, "no", seconds=0.0, environment={})
    store.take([key(0), key(1), key(2)], me, limit=3, fresh=True, since=time.time() + 1)
    assert statuses(store) == ["done", "running", "running"]
    store.release(me)
    assert statuses(store) == ["done", "failed"]
    assert list(store.trials(RUN)["owner"]) == [None, None]
    assert list(store.records(RUN)["value"]) == [7.0]


# Computing again ------------------------------------------------------------------------------------------------------


def test_fresh_keeps_the_old_until_the_new_has_finished(store: Store, me: str) -> None:
    finish(store, key(0), [Record("a", "m", 1.0), Record("b", "m", 1.0)], curve=np.zeros(2))
    assert store.take([key(0)], me, limit=1).done == [key(0)]
    now = time.time()
    assert store.take([key(0)], me, limit=1, fresh=True, since=now).claimed == [key(0)]
    # Another run, not fresh, has it meanwhile.
    with ownership() as other:
        assert store.take([key(0)], other, limit=1).done == [key(0)]
        assert store.take([key(0)], other, limit=1, fresh=True, since=now).held == {key(0): me}
    assert len(store.records(RUN)) == 2
    store.fail(key(0), me, "worse", seconds=0.0, environment={})
    assert statuses(store) == ["done"]
    assert len(store.records(RUN)) == 2
    assert store.trials(RUN)["traceback"][0] == "worse"
    assert store.take([key(0)], me, limit=1, fresh=True, since=now).claimed == [key(0)]
    finish(store, key(0), [Record("a", "m", 2.0)], owner=me)
    assert list(store.records(RUN)["value"]) == [2.0]
    assert "curve" not in store.arrays(RUN)
    assert store.trials(RUN)["traceback"][0] is None
    assert store.take([key(0)], me, limit=1, fresh=True, since=now).done == [key(0)]


def test_a_seed_has_one_result_though_the_choice_has_changed(store: Store) -> None:
    finish(store, key(0, chosen={"a": "1"}), [Record("a", "m", 1.0)])
    finish(store, key(1, chosen={"a": "1"}), [Record("a", "m", 1.0)])
    finish(store, key(0, chosen={"a": "2"}), [Record("a", "m", 2.0)])
    assert list(store.records(RUN)["value"]) == [2.0, 1.0]
    assert list(store.records(RUN, only=[key(0, chosen={"a": "2"})])["value"]) == [2.0]


def test_a_trial_is_stored_wholly_or_not(store: Store, me: str) -> None:
    store.take([key(0)], me, limit=1)
    bad = [Record("a", "m", 1.0), Record("a", "m", object())]  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="cannot be written"):
        store.finish(key(0), me, bad, {"x": np.zeros(1)}, seconds=0.0, environment={})
    assert statuses(store) == ["running"]
    assert store._rows("SELECT count(*) FROM records") == [(0,)]
    assert finish(store, key(0), owner=me)


# Files ----------------------------------------------------------------------------------------------------------------


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(StoreError, match="no folder"):
        Store(tmp_path / "no" / "folder.sqlite", create=True)
    with pytest.raises(StoreError, match="not a landform store"):
        Store(tmp_path, create=True)


@pytest.mark.parametrize("content", [b"", b"some notes\n" * 20, b"SQLite format 3\x00" + b"x" * 5000])
@pytest.mark.parametrize("create", [False, True])
def test_other_files_are_left_as_they_are(tmp_path: Path, content: bytes, create: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    if create and not content:
        Store(path, create=True).close()  # An empty file is nobody's.
        return
    with pytest.raises(StoreError, match="not a landform store"):
        Store(path, create=create)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_another_programs_database_is_left_as_it_is(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE trials (id)")
        connection.commit()
        # In WAL mode, what was just written is still beside the file.
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        with pytest.raises(StoreError, match="not a landform store"):
            Store(path, create=True)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files


def test_an_older_store_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.sqlite"
    with Store(path, create=True) as old:
        finish(old, key(0))
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE trials ADD COLUMN extra DEFAULT 5",)))
    with Store(path) as new:
        assert new._rows("SELECT extra FROM trials") == [(5,)]
        assert new._version() == len(MIGRATIONS) + 1
        assert list(new.records(RUN)["value"]) == [1.0]
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"newer landform .schema {len(MIGRATIONS) + 1}"):
        Store(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.sqlite"
    Store(path, create=True).close()
    steps = ("ALTER TABLE trials ADD COLUMN extra", "ALTER TABLE nothing ADD COLUMN extra")
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, steps))
    with pytest.raises(StoreError, match="nothing"):
        Store(path)
    monkeypatch.undo()
    with Store(path) as store:
        assert store._version() == len(MIGRATIONS)
        assert "extra" not in [row[1] for row in store._rows("PRAGMA table_info(trials)")]


def test_the_store_is_in_wal_mode(store: Store) -> None:
    assert store._rows("PRAGMA journal_mode") == [("wal",)]
    assert store._rows("PRAGMA application_id") == [(store_module.APPLICATION,)]


def test_opening_a_store_again_keeps_the_locks_of_the_first(store: Store) -> None:
    """POSIX drops a process's locks on a file when it closes any handle of it; another's close then ends the log."""
    finish(store, key(0))
    Store(store.path).close()
    code = f"from landform.lab.store import Store; Store({str(store.path)!r}).close()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(f"{store.path}-wal").exists()
    finish(store, key(1))
    with Store(store.path) as again:
        assert len(again.records(RUN)) == 2


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "damaged.sqlite"
    with Store(path, create=True) as good:
        finish(good, key(0))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged\.sqlite"), Store(path) as store:
        store.records(RUN)
