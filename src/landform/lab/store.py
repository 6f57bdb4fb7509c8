"""The result store: one SQLite file that keeps every trial, its records and its arrays.

Trials are claimed and finished in transactions of their own, so that two runs may share a store, and a run that is
killed loses at most the trials under way. Arrays are kept once for each content. A file that is not a landform store
is refused and left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from landform.lab.errors import StoreError
from landform.lab.identity import RunKey, TrialKey, canonical, restored
from landform.lab.owner import BEAT, is_gone
from landform.study import Arrays, Record, Saved

if TYPE_CHECKING:
    import pandas as pd

APPLICATION = 0x6C666D31
"""Marks an SQLite file as a landform store ("lfm1")."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE trials (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            study TEXT NOT NULL,
            preset TEXT NOT NULL,
            config TEXT NOT NULL,
            overrides TEXT NOT NULL,
            condition TEXT NOT NULL,
            seed INTEGER NOT NULL,
            role TEXT NOT NULL CHECK (role IN ('tuning', 'reported')),
            chosen TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            device TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed')),
            owner TEXT,
            heartbeat REAL,
            attempts INTEGER NOT NULL DEFAULT 0,
            started REAL,
            finished REAL,
            seconds REAL,
            environment TEXT,
            traceback TEXT
        )""",
        "CREATE INDEX trials_of_a_run ON trials (study, preset, fingerprint)",
        "CREATE INDEX trials_by_owner ON trials (owner) WHERE owner IS NOT NULL",
        # value and x have no type, since a REAL column would turn -0.0 into 0.0. NaN is NULL in SQLite.
        """CREATE TABLE records (
            trial INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            arm TEXT NOT NULL,
            metric TEXT NOT NULL,
            value,
            x,
            unit TEXT,
            setting TEXT,
            PRIMARY KEY (trial, position)
        ) WITHOUT ROWID""",
        "CREATE TABLE contents (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL)",
        """CREATE TABLE artifacts (
            trial INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL REFERENCES contents (sha256),
            PRIMARY KEY (trial, name)
        ) WITHOUT ROWID""",
    ),
)
"""What brings a store from each schema version to the next; an empty file has version 0."""

RUN = "study = ? AND preset = ? AND config = ? AND fingerprint = ? AND device = ?"

TRIAL_COLUMNS = {
    "seed": "int64",
    "attempts": "int64",
    "started": "float64",
    "finished": "float64",
    "seconds": "float64",
}
"""The types of the columns that are not text."""


@dataclass
class Taken:
    """What became of the trials that a run asked for; ``held`` says which other run computes each at present."""

    claimed: list[TrialKey] = field(default_factory=list)
    done: list[TrialKey] = field(default_factory=list)
    failed: list[TrialKey] = field(default_factory=list)
    held: dict[TrialKey, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A trial that is done, with all that is stored of it; ``finished`` is when, in seconds since 1970."""

    trial: TrialKey
    records: Sequence[Record]
    arrays: Mapping[str, NDArray[Any]]
    seconds: float
    finished: float
    environment: Mapping[str, Any]


class Store:
    """An open result store.

    Arguments:
        path: the SQLite file.
        create: make the file if it does not exist.

    Raises:
        StoreError: no such file or folder, a file that is not a landform store, or one of a newer landform.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        _check_file(self.path, create)
        try:
            self._connection = _connect(self.path, "rwc" if create else "rw")
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} cannot be opened: {error}") from error
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # What a report reads ------------------------------------------------------------------------------------------

    def runs(self, study: str | None = None) -> list[RunKey]:
        """Every run of which a trial is stored, of all studies or of one: first the one that last finished a trial."""
        rows = self._rows(
            "SELECT study, preset, config, fingerprint, overrides, device FROM trials WHERE study = coalesce(?, study)"
            " GROUP BY study, preset, config, fingerprint, device ORDER BY max(finished) DESC NULLS LAST, max(id) DESC",
            study,
        )
        return [
            RunKey(study, preset, restored(config), fingerprint, restored(overrides), device)
            for study, preset, config, fingerprint, overrides, device in rows
        ]

    def trials(self, run: RunKey) -> pd.DataFrame:
        """One row a trial of the run, whatever its status, with a column for each condition.

        ``chosen`` and ``environment`` are mappings or None; ``started`` and ``finished`` are seconds since 1970.
        """
        import pandas as pd

        names = ("status", "chosen", "attempts", "started", "finished", "seconds", "traceback", "environment", "owner")
        rows = self._rows(
            f"SELECT key, role, seed, condition, {', '.join(names)} FROM trials WHERE {RUN}", *_run_values(run)
        )
        rows = _in_order(rows)
        frame = pd.DataFrame(
            {
                name: pd.Series([row[place] for row in rows], dtype=TRIAL_COLUMNS.get(name, object))
                for place, name in enumerate(("key", "role", "seed", "condition", *names))
            }
        )
        for name in ("chosen", "environment"):
            values = [None if text is None else restored(text) for text in frame[name]]
            frame[name] = pd.Series(values, dtype=object)
        return frame.drop(columns=["key", "condition"]).assign(**_condition_columns(frame["condition"]))

    def records(self, run: RunKey, only: Collection[TrialKey] | None = None) -> pd.DataFrame:
        """One row a record of the run's finished trials, or of those in ``only``.

        The columns are arm, metric, value, x, unit, setting, seed, role, and one for each condition. The order is that
        of role (tuning first), seed and condition, and within a trial that in which it yielded its records.
        """
        import pandas as pd

        rows = self._rows(
            "SELECT key, role, seed, condition, arm, metric, value, x, unit, setting FROM trials JOIN records"
            f" ON trial = id WHERE {RUN} AND status = 'done' ORDER BY id, position",
            *_run_values(run),
        )
        if only is not None:
            wanted = {trial.id for trial in only}
            rows = [row for row in rows if row[0] in wanted]
        columns = list(zip(*_in_order(rows), strict=True)) or [()] * 10
        _, roles, seeds, conditions, arms, metrics, values, xs, units, settings = columns
        return pd.DataFrame(
            {
                "arm": pd.Series(arms, dtype=object),
                "metric": pd.Series(metrics, dtype=object),
                "value": np.array(values, dtype=np.float64),
                "x": np.array(xs, dtype=np.float64),
                "unit": pd.Series(units, dtype=object),
                "setting": pd.Series(settings, dtype=object),
                "seed": np.array(seeds, dtype=np.int64),
                "role": pd.Series(roles, dtype=object),
                **_condition_columns(conditions),
            }
        )

    def arrays(self, run: RunKey) -> Arrays:
        """What the finished trials of the run's reported seeds saved; figures do not draw tuning seeds."""
        rows = self._rows(
            "SELECT key, role, seed, condition, name, data FROM trials JOIN artifacts ON trial = id"
            f" JOIN contents USING (sha256) WHERE {RUN} AND status = 'done' AND role = 'reported' ORDER BY id, name",
            *_run_values(run),
        )
        return Arrays(
            [Saved(name, seed, condition, _load(data)) for _, _, seed, condition, name, data in _in_order(rows)]
        )

    def finished(self, run: RunKey) -> list[Finished]:
        """The run's finished trials, by role (tuning first), seed and condition."""
        rows = self._rows(
            "SELECT key, role, seed, condition, id, chosen, seconds, finished, environment FROM trials"
            f" WHERE {RUN} AND status = 'done' ORDER BY id",
            *_run_values(run),
        )
        found = []
        for _, role, seed, condition, number, chosen, seconds, finished, environment in _in_order(rows):
            records = self._rows(
                "SELECT arm, metric, value, x, unit, setting FROM records WHERE trial = ? ORDER BY position", number
            )
            arrays = self._rows(
                "SELECT name, data FROM artifacts JOIN contents USING (sha256) WHERE trial = ? ORDER BY name", number
            )
            found.append(
                Finished(
                    TrialKey(run, condition, seed, role, restored(chosen)),
                    [
                        Record(arm, metric, math.nan if value is None else value, *rest)
                        for arm, metric, value, *rest in records
                    ],
                    {name: _load(data) for name, data in arrays},
                    seconds,
                    finished,
                    restored(environment),
                )
            )
        return found

    # What a run writes --------------------------------------------------------------------------------------------

    def take(
        self, trials: Sequence[TrialKey], owner: str, *, limit: int, since: float = 0.0, fresh: bool = False
    ) -> Taken:
        """Claim the first ``limit`` of the trials that are free, and tell of those that another run has or had.

        A trial is done if it is stored as such (with ``fresh``, only if it finished after ``since``), failed if it
        failed after ``since``, and held if a living run computes it; any other is free. What a dead run held is free.
        """
        taken = Taken()
        with self._transaction():
            for trial in trials:
                row = self._connection.execute(
                    "SELECT status, owner, heartbeat, finished FROM trials WHERE key = ?", (trial.id,)
                ).fetchone()
                status, holder, heartbeat, finished = row or (None, None, 0.0, None)
                recent = finished is not None and finished >= since
                if status == "done" and (recent or not fresh):
                    taken.done.append(trial)
                elif holder is not None and not is_gone(holder, heartbeat):
                    taken.held[trial] = holder
                elif status == "failed" and recent:
                    taken.failed.append(trial)
                elif len(taken.claimed) < limit:
                    self._claim(trial, owner)
                    taken.claimed.append(trial)
        return taken

    def _claim(self, trial: TrialKey, owner: str) -> None:
        """A finished trial that is computed afresh stays done, with its records, until the new ones replace them."""
        run, now = trial.run, time.time()
        self._connection.execute(
            "INSERT INTO trials (key, study, preset, config, overrides, condition, seed, role, chosen, fingerprint,"
            " device, status, owner, heartbeat, attempts, started)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, ?, 1, ?) ON CONFLICT (key) DO UPDATE SET"
            " status = iif(status = 'done', 'done', 'running'), owner = excluded.owner,"
            " heartbeat = excluded.heartbeat, attempts = attempts + 1, started = excluded.started",
            (
                *(trial.id, run.study, run.preset, canonical(run.config), canonical(run.overrides)),
                *(canonical(trial.condition), trial.seed, trial.role, canonical(trial.chosen)),
                *(run.fingerprint, run.device, owner, now, now),
            ),
        )

    def retry(self, trial: TrialKey, owner: str) -> None:
        """Count another attempt at a trial that ``owner`` holds."""
        with self._transaction():
            self._connection.execute(
                "UPDATE trials SET attempts = attempts + 1 WHERE key = ? AND owner = ?", (trial.id, owner)
            )

    def finish(
        self,
        trial: TrialKey,
        owner: str,
        records: Sequence[Record],
        arrays: Mapping[str, NDArray[Any]],
        *,
        seconds: float,
        environment: Mapping[str, Any],
    ) -> bool:
        """Store a trial as done with its records and arrays, in the place of what was stored for it before.

        The same seed under other chosen settings is what an earlier choice left, and goes. False, and nothing is
        stored, if ``owner`` no longer holds the trial.
        """
        with self._transaction():
            number = self._held(trial, owner)
            if number is None:
                return False
            self._connection.execute(
                "UPDATE trials SET status = 'done', owner = NULL, heartbeat = NULL, finished = ?, seconds = ?,"
                " environment = ?, traceback = NULL WHERE id = ?",
                (time.time(), seconds, canonical(environment), number),
            )
            self._connection.execute(
                f"DELETE FROM trials WHERE {RUN} AND condition = ? AND seed = ? AND role = ? AND id != ?"
                " AND owner IS NULL",
                (*_run_values(trial.run), canonical(trial.condition), trial.seed, trial.role, number),
            )
            self._write(number, records, arrays)
        return True

    def put(self, done: Finished) -> None:
        """Store a trial that was finished elsewhere, and that this store does not know."""
        trial, run = done.trial, done.trial.run
        with self._transaction():
            number = self._connection.execute(
                "INSERT INTO trials (key, study, preset, config, overrides, condition, seed, role, chosen, fingerprint,"
                " device, status, attempts, finished, seconds, environment)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'done', 1, ?, ?, ?)",
                (
                    *(trial.id, run.study, run.preset, canonical(run.config), canonical(run.overrides)),
                    *(canonical(trial.condition), trial.seed, trial.role, canonical(trial.chosen)),
                    *(run.fingerprint, run.device, done.finished, done.seconds, canonical(done.environment)),
                ),
            ).lastrowid
            assert number is not None
            self._write(number, done.records, done.arrays)

    def fail(
        self, trial: TrialKey, owner: str, traceback: str, *, seconds: float, environment: Mapping[str, Any]
    ) -> bool:
        """Store a trial as failed. One that was computed afresh stays done as it was, beside the new traceback.

        False, and nothing is stored, if ``owner`` no longer holds the trial.
        """
        with self._transaction():
            number = self._held(trial, owner)
            if number is None:
                return False
            self._connection.execute(
                "UPDATE trials SET owner = NULL, heartbeat = NULL, traceback = ? WHERE id = ?", (traceback, number)
            )
            self._connection.execute(
                "UPDATE trials SET status = 'failed', finished = ?, seconds = ?, environment = ?"
                " WHERE id = ? AND status = 'running'",
                (time.time(), seconds, canonical(environment), number),
            )
        return True

    def release(self, owner: str) -> None:
        """Give back what ``owner`` holds, as it was before, so that the next run takes it up."""
        with self._transaction():
            self._connection.execute(
                "DELETE FROM trials WHERE owner = ? AND status = 'running' AND traceback IS NULL", (owner,)
            )
            self._connection.execute(
                "UPDATE trials SET status = iif(status = 'done', 'done', 'failed'), owner = NULL, heartbeat = NULL"
                " WHERE owner = ?",
                (owner,),
            )

    @contextlib.contextmanager
    def heartbeat(self, owner: str) -> Iterator[None]:
        """While the context lasts, tell other runs every few seconds that ``owner`` lives."""
        ended = threading.Event()

        def beat() -> None:
            with contextlib.closing(_connect(self.path, "rw")) as connection:
                while not ended.wait(BEAT):
                    # A store too busy for one beat is tried again at the next.
                    with contextlib.suppress(sqlite3.OperationalError):
                        connection.execute("UPDATE trials SET heartbeat = ? WHERE owner = ?", (time.time(), owner))

        thread = threading.Thread(target=beat, name="landform-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    # ----------------------------------------------------------------------------------------------------------------

    def _held(self, trial: TrialKey, owner: str) -> int | None:
        row = self._connection.execute(
            "SELECT id FROM trials WHERE key = ? AND owner = ?", (trial.id, owner)
        ).fetchone()
        return row and row[0]

    def _write(self, number: int, records: Sequence[Record], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put records and arrays in the place of what the trial had before."""
        for table in ("records", "artifacts"):
            self._connection.execute(f"DELETE FROM {table} WHERE trial = ?", (number,))
        self._connection.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((number, place, r.arm, r.metric, r.value, r.x, r.unit, r.setting) for place, r in enumerate(records)),
        )
        for name, array in arrays.items():
            data = _dump(array)
            sha256 = hashlib.sha256(data).hexdigest()
            self._connection.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (sha256, data))
            self._connection.execute("INSERT INTO artifacts VALUES (?, ?, ?)", (number, name, sha256))
        self._connection.execute("DELETE FROM contents WHERE sha256 NOT IN (SELECT sha256 FROM artifacts)")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, with the right to write from the start."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"the store {self.path} cannot be written: {error}") from error
            raise

    def _migrate(self) -> None:
        newest = len(MIGRATIONS)
        if self._version() != newest:
            with self._transaction():
                # Another run may have been faster.
                version = self._version()
                if version > newest:
                    raise StoreError(_too_new(self.path, version))
                for statement in (s for statements in MIGRATIONS[version:] for s in statements):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {newest}")
        # A store that may only be read, or that another run has just opened, is used as it is.
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA journal_mode = WAL")

    def _version(self) -> int:
        return int(self._rows("PRAGMA user_version")[0][0])


def _check_file(path: Path, create: bool) -> None:
    """Refuse what is not a landform store, and leave it as it is.

    A store's first transaction marks it, so that no other run sees one without its mark: it is empty until then. SQLite
    itself reads the mark, since any other opening and closing of the file would drop this process's locks on it.
    """
    if not path.parent.is_dir():
        raise StoreError(f"the store {path} cannot be made: there is no folder {path.parent}")
    if not path.exists():
        if create:
            return
        raise StoreError(f"there is no store {path}; `landform run` makes one")
    if create and path.is_file() and path.stat().st_size == 0:
        return
    try:
        # "Immutable" promises that nothing is written or locked.
        with contextlib.closing(_connect(path, "ro&immutable=1")) as connection:
            application, version = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
    except sqlite3.Error as error:
        raise StoreError(f"{path} is not a landform store ({error}); it was left as it is") from error
    if application != APPLICATION:
        raise StoreError(f"{path} is not a landform store; it was left as it is")
    if version > len(MIGRATIONS):
        raise StoreError(_too_new(path, version))


def _too_new(path: Path, version: int) -> str:
    return f"the store {path} is of a newer landform (schema {version}; this one knows up to {len(MIGRATIONS)})"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30.0)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _run_values(run: RunKey) -> tuple[str, ...]:
    """What fills in ``RUN``."""
    return run.study, run.preset, canonical(run.config), run.fingerprint, run.device


def _in_order(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows ``(key, role, seed, condition, ...)`` by role, seed and condition, with the conditions restored."""
    known: dict[str, Any] = {}
    found = []
    for key, role, seed, text, *rest in rows:
        if text not in known:
            known[text] = restored(text)
        found.append((key, role, seed, known[text], *rest))
    return sorted(found, key=lambda row: (row[1] != "tuning", row[2], [_rank(value) for value in row[3].values()]))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Sorts numbers by size, before anything else."""
    number = isinstance(value, int | float)
    return not number, value if number else 0.0, canonical(value)


def _condition_columns(conditions: Iterable[Mapping[str, Any]]) -> dict[str, pd.Series[Any]]:
    import pandas as pd

    conditions = list(conditions)
    names = dict.fromkeys(name for condition in conditions for name in condition)
    return {name: pd.Series([condition.get(name) for condition in conditions]) for name in names}


def _dump(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _load(data: bytes) -> NDArray[Any]:
    return np.load(io.BytesIO(data), allow_pickle=False)
