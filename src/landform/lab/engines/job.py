"""What an engine is given, what it gives back, and carrying out one trial the same way wherever that happens."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from landform.lab.machine import environment
from landform.study import Record, Run, Trial

Progress = Callable[[float, str], None]

LIBRARIES = ("OMP", "MKL", "OPENBLAS", "VECLIB")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in LIBRARIES}
"""What keeps numerical libraries that are loaded later to one thread."""

LARGEST_ARRAY = 900_000_000
"""Bytes; SQLite keeps at most 10^9 in one place."""

PROGRESS_EVERY = 0.1
"""Seconds."""


@dataclass(frozen=True)
class Job:
    """A trial to be carried out. It travels to another process, so that the trial must be importable there."""

    id: str
    trial: Trial
    config: Any
    seed: int
    chosen: Mapping[str, str] | None
    device: str
    folder: Path
    randomness: int
    may_diverge: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: records and arrays, or an error, and where. ``died``: its process ended under it."""

    id: str
    records: list[Record] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    died: bool = False
    environment: dict[str, Any] | None = None


class Engine(Protocol):
    """Carries out jobs. As a context manager it ends, on leaving, whatever still runs."""

    @property
    def free(self) -> int:
        """How many more jobs it would start at once."""
        ...

    @property
    def busy(self) -> int:
        """How many jobs it has."""
        ...

    def start(self, job: Job) -> None:
        """Take a job, at most ``free`` of them."""
        ...

    def wait(self, timeout: float, progress: Callable[[str, float, str], None]) -> list[Outcome]:
        """Wait up to ``timeout`` seconds for a job to end, and tell ``progress(job id, fraction, note)`` meanwhile."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def carry_out(job: Job, progress: Progress) -> Outcome:
    """Run a trial to its end, in a state of the process that is the same for all trials, and check its records."""
    import torch  # noqa: F401  Its loading is no part of the trial's time.

    started = time.perf_counter()
    run = Run(job.device, job.chosen, on_progress=_at_intervals(progress), work=job.folder)
    records: list[Record] = []
    error = None
    try:
        with isolated(job.randomness):
            records = checked(job.trial(job.config, job.seed, run), job.may_diverge)
            for name, array in run.arrays.items():
                if array.nbytes > LARGEST_ARRAY:
                    raise ValueError(f"the array {name!r} has {array.nbytes} bytes; at most {LARGEST_ARRAY} are kept")
    except KeyboardInterrupt:
        raise
    except BaseException:  # A trial that calls sys.exit has failed like any other.
        error = traceback.format_exc()
    seconds = time.perf_counter() - started
    here = environment(job.device)
    if error is not None:
        return Outcome(job.id, seconds=seconds, error=error, environment=here)
    return Outcome(job.id, records, run.arrays, seconds, environment=here)


def checked(records: Iterable[Record], may_diverge: frozenset[str]) -> list[Record]:
    """The records of a trial as plain values.

    Raises:
        TypeError: what a trial yields is no Record, or a part of one has the wrong type.
        ValueError: no records, one that is there twice, or a value that is not finite and may not be.
    """
    if not isinstance(records, Iterable):
        raise TypeError(f"a trial must yield records, but it returned {records!r}")
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if not isinstance(record, Record):
            raise TypeError(f"a trial must yield records, but it yielded {record!r}")
        record = _plain(record)
        if not math.isfinite(record.value) and record.metric not in may_diverge:
            raise ValueError(f"not finite, and {record.metric!r} is not among the metrics that may_diverge: {record}")
        name = (record.arm, record.metric, record.x, record.unit, record.setting)
        if name in found:
            raise ValueError(f"recorded twice: {record} after {found[name]}")
        found[name] = record
    if not found:
        raise ValueError("the trial yielded no records")
    return list(found.values())


def _plain(record: Record) -> Record:
    for name in ("arm", "metric"):
        if not isinstance(getattr(record, name), str) or not getattr(record, name):
            raise TypeError(f"{name} must be text: {record}")
    for name in ("unit", "setting"):
        if not isinstance(getattr(record, name), str | None):
            raise TypeError(f"{name} must be text or None: {record}")
    try:
        if isinstance(record.value, str) or isinstance(record.x, str):
            raise TypeError
        value = float(record.value)
        x = None if record.x is None else float(record.x)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"value must be a number, and x a number or None: {record}") from None
    if x is not None and not math.isfinite(x):
        raise ValueError(f"x must be finite: {record}")
    return Record(record.arm, record.metric, value, x, record.unit, record.setting)


@contextlib.contextmanager
def isolated(randomness: int) -> Iterator[None]:
    """One thread, seeded generators and default types within; afterwards everything is as it was.

    What the trial prints goes to standard error.
    """
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from landform.training.memory import keep_freed_memory

    keep_freed_memory()
    environment = {name: os.environ.get(name) for name in ONE_THREAD}
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        with threadpool_limits(1), contextlib.redirect_stdout(sys.stderr):
            os.environ.update(ONE_THREAD)
            torch.set_num_threads(1)
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
            random.seed(randomness)
            np.random.seed(randomness % 2**32)  # noqa: NPY002
            torch.manual_seed(randomness)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _at_intervals(progress: Progress) -> Progress:
    """``progress`` no oftener than every tenth of a second."""
    last = -math.inf

    def tell(fraction: float, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY:
            last = now
            progress(fraction, note)

    return tell
