"""Kept results: runs as text files beside the code, from which anyone can recompute every verdict.

A store is a database; what is to be read, compared and kept under version control is text. Each run becomes three
files in a folder of its study's name:

    laptop.json   the run (preset, config, overrides, fingerprint, device), its trials, and the machine and versions
    laptop.csv    one row a record: the trial's number, arm, metric, value, x, unit, setting; floats to the last bit
    laptop.npz    the arrays that figures draw, where there are any, named "number/name"

A run with overrides adds a few characters of their hash to the name. ``landform report --store FOLDER`` reads them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landform.lab.errors import StoreError, UsageError
from landform.lab.identity import RunKey, TrialKey, digest, restored
from landform.lab.store import Finished, Store
from landform.study import Record

COLUMNS = ("trial", "arm", "metric", "value", "x", "unit", "setting")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member of an archive, so that the same arrays give the same bytes."""


def keep(store: Store, folder: str | Path, studies: Collection[str] = (), preset: str = "laptop") -> list[Path]:
    """Write a preset's newest runs of ``studies`` (of all that are stored, if none is named) as text; their JSON files.

    A study's newest run with each set of overrides is kept, in the place of what was kept of it before.

    Raises:
        UsageError: a study without such a run, or a folder that cannot be written to.
    """
    folder = Path(folder)
    newest: dict[tuple[str, str], RunKey] = {}
    for run in store.runs():  # the newest first
        if run.preset == preset and (not studies or run.study in studies) and store.finished(run):
            newest.setdefault((run.study, _stem(run)), run)
    missing = set(studies) - {study for study, _ in newest}
    if missing or not newest:
        of = ", ".join(sorted(missing)) or "any study"
        raise UsageError(f"{store.path} has no finished {preset} run of {of}")
    written = []
    try:
        for (study, stem), run in newest.items():
            (folder / study).mkdir(parents=True, exist_ok=True)
            written.append(_write(folder / study / stem, run, store.finished(run)))
    except OSError as error:
        raise UsageError(f"results cannot be kept in {folder}: {error.strerror or error}") from error
    return written


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Store]:
    """A store for reading: of a store's file, or of a folder of kept results, which is read into a passing store.

    Raises:
        StoreError: no such file or folder, or one that holds neither.
    """
    path = Path(path)
    if not path.is_dir():
        with Store(path) as store:
            yield store
        return
    kept = sorted(path.glob("*/*.json"))
    if not kept:
        raise StoreError(f"the folder {path} holds no kept results (STUDY/PRESET.json)")
    with (
        tempfile.TemporaryDirectory(prefix="landform-kept-") as scratch,
        Store(Path(scratch) / "kept.sqlite", create=True) as store,
    ):
        for file in kept:
            for done in _read(file):
                store.put(done)
        yield store


def _stem(run: RunKey) -> str:
    return run.preset + (f"-{digest(run.overrides)[:8]}" if run.overrides else "")


def _write(stem: Path, run: RunKey, finished: list[Finished]) -> Path:
    environments: list[Mapping[str, Any]] = []
    trials = []
    table, arrays = io.StringIO(newline=""), {}
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(COLUMNS)
    for number, done in enumerate(finished):
        if done.environment not in environments:
            environments.append(done.environment)
        trials.append(
            {
                "role": done.trial.role,
                "seed": done.trial.seed,
                "condition": done.trial.condition,
                "chosen": done.trial.chosen,
                "seconds": round(done.seconds, 3),
                "finished": round(done.finished),
                "environment": environments.index(done.environment),
            }
        )
        for r in done.records:
            x = "" if r.x is None else repr(float(r.x))
            rows.writerow([number, r.arm, r.metric, repr(float(r.value)), x, r.unit or "", r.setting or ""])
        arrays.update({f"{number}/{name}": array for name, array in done.arrays.items()})
    heading = {
        "study": run.study,
        "preset": run.preset,
        "config": run.config,
        "overrides": run.overrides,
        "fingerprint": run.fingerprint,
        "device": run.device,
        "environments": environments,
    }
    lines = ",\n".join(f"  {json.dumps(trial, ensure_ascii=False)}" for trial in trials)
    text = json.dumps(heading, indent=1, ensure_ascii=False).removesuffix("\n}") + f',\n "trials": [\n{lines}\n ]\n}}\n'
    # The JSON file last: without it the others are not read.
    stem.with_suffix(".csv").write_text(table.getvalue(), encoding="utf-8", newline="")
    stem.with_suffix(".npz").unlink(missing_ok=True)
    if arrays:
        stem.with_suffix(".npz").write_bytes(_archive(arrays))
    path = stem.with_suffix(".json")
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), data.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _read(path: Path) -> list[Finished]:
    """The trials that are kept in a JSON file and its neighbours."""
    try:
        kept = restored(path.read_text(encoding="utf-8"))
        run = RunKey(*(kept[name] for name in ("study", "preset", "config", "fingerprint", "overrides", "device")))
        records: list[list[Record]] = [[] for _ in kept["trials"]]
        arrays: list[dict[str, NDArray[Any]]] = [{} for _ in kept["trials"]]
        with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                x = float(row["x"]) if row["x"] else None
                record = Record(
                    row["arm"], row["metric"], float(row["value"]), x, row["unit"] or None, row["setting"] or None
                )
                records[int(row["trial"])].append(record)
        if path.with_suffix(".npz").exists():
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as archive:
                for name in archive.files:
                    number, _, own = name.partition("/")
                    arrays[int(number)][own] = archive[name]
        finished = [
            Finished(
                TrialKey(run, trial["condition"], trial["seed"], trial["role"], trial["chosen"]),
                records[number],
                arrays[number],
                trial["seconds"],
                trial["finished"],
                kept["environments"][trial["environment"]],
            )
            for number, trial in enumerate(kept["trials"])
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError, csv.Error, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} or its neighbours hold no kept results: {type(error).__name__}: {error}") from error
    if run.study != path.parent.name or not all(math.isfinite(done.seconds) for done in finished):
        raise StoreError(f"{path}: holds results of {run.study!r}, in the folder of another study")
    return finished
