"""Kept results: what is read back is what was stored, to the bit, and strangers' files are refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landform.lab.errors import StoreError, UsageError
from landform.lab.identity import RunKey, TrialKey
from landform.lab.kept import keep, opened
from landform.lab.store import Finished, Store
from landform.study import Record

RUN = RunKey("toy", "laptop", {"steps": 3, "rates": (0.1, 0.2)}, "f00d")
RECORDS = [
    Record("a", "m", 0.1 + 0.2, x=-0.0, unit='net, "one"\nof two', setting="0.1"),
    Record("ä", "m", math.nan),
    Record("b", "m", -math.inf, x=1e-300),
    Record("b", "m", -0.0, x=2.0),
]


def done(seed: int, run: RunKey = RUN, finished: float = 1e9, **arrays: np.ndarray) -> Finished:
    trial = TrialKey(run, {"noise": 0.25}, seed, "reported", {"a": "0.1"} if seed else None)
    return Finished(trial, RECORDS, arrays, 1.5, finished, {"python": "3", "seed": seed > 1})


def store_of(path: Path, *trials: Finished) -> Path:
    with Store(path, create=True) as store:
        for trial in trials:
            store.put(trial)
    return path


def kept(tmp_path: Path, *trials: Finished) -> Path:
    with Store(store_of(tmp_path / "results.sqlite", *trials)) as store:
        keep(store, tmp_path / "kept")
    return tmp_path / "kept"


def test_what_is_read_back_is_what_was_stored(tmp_path: Path) -> None:
    trials = [done(0), done(1, spectrum=np.arange(4.0), names=np.array(["x", "ü"])), done(2)]
    folder = kept(tmp_path, *trials)
    with Store(tmp_path / "results.sqlite") as store, opened(folder) as again:
        assert again.runs() == store.runs() == [RUN]
        assert again.runs()[0].config == RUN.config
        pd.testing.assert_frame_equal(again.records(RUN), store.records(RUN), check_exact=True)
        signs = np.signbit(again.records(RUN)["value"].to_numpy())
        assert (signs == np.signbit(store.records(RUN)["value"].to_numpy())).all()
        pd.testing.assert_frame_equal(again.trials(RUN), store.trials(RUN))
        for name in ("spectrum", "names"):
            (a,), (b,) = again.arrays(RUN)[name], store.arrays(RUN)[name]
            assert a.value.dtype == b.value.dtype
            assert (a.value == b.value).all()
            assert (a.seed, a.condition) == (1, {"noise": 0.25})
        assert [f.trial for f in again.finished(RUN)] == [t.trial for t in trials]


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (files(kept(tmp_path / name, done(0, curve=np.ones(3)), done(1))) for name in ("one", "two"))
    assert one == two
    assert set(one) == {"toy/laptop.json", "toy/laptop.csv", "toy/laptop.npz"}


def test_the_newest_run_of_each_set_of_overrides_is_kept(tmp_path: Path) -> None:
    old = RunKey("toy", "laptop", RUN.config, "0ld")
    other = RunKey("toy", "laptop", {"steps": 5}, "f00d", {"steps": 5})
    smoke = RunKey("toy", "smoke", {"steps": 1}, "f00d")
    folder = kept(tmp_path, done(0, old, 1.0, curve=np.ones(2)), done(0), done(0, other), done(0, smoke))
    with opened(folder) as store:
        assert set(store.runs()) == {RUN, other}
    assert len(list((folder / "toy").glob("*.json"))) == 2
    assert not list(folder.rglob("*.npz"))


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with Store(store_of(tmp_path / "results.sqlite", done(0))) as store:
        with pytest.raises(UsageError, match="no finished laptop run of other"):
            keep(store, tmp_path / "kept", ["toy", "other"])
        with pytest.raises(UsageError, match="no finished paper run of any study"):
            keep(store, tmp_path / "kept", preset="paper")
        assert not (tmp_path / "kept").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="file"):
            keep(store, tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("laptop.json", lambda text: text[:-20]),
        ("laptop.json", lambda text: text.replace('"config"', '"konfig"')),
        ("laptop.json", lambda text: text.replace('"study": "toy"', '"study": "../toy"')),
        ("laptop.csv", lambda text: text.replace("0.30000000000000004", "much")),
        ("laptop.csv", lambda text: text.replace("\n0,", "\n7,", 1)),
        ("laptop.csv", lambda text: text.replace("metric", "metre", 1)),
    ],
)
def test_files_that_are_no_kept_results_are_refused(tmp_path: Path, name: str, change) -> None:  # type: ignore[no-untyped-def]
    path = kept(tmp_path, done(0)) / "toy" / name
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(StoreError, match=r"laptop\.json"), opened(tmp_path / "kept"):
        pass


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    folder = kept(tmp_path, done(0, curve=np.ones(2)))
    np.savez(folder / "toy" / "laptop.npz", **{"0/curve": np.array([{}], dtype=object)})
    with pytest.raises(StoreError, match="pickle"), opened(folder):
        pass


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no kept results"), opened(tmp_path):
        pass
