"""Trials on this machine: one after another in this process, or in worker processes.

A worker is a fresh interpreter with one torch thread, and a pipe of its own, so that one that dies (of memory, of a
signal, of a crash in C) takes nothing but its own trial with it. Workers start when there is a trial for them. They
end when the parent does, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from types import ModuleType, TracebackType
from typing import Self

from landform.lab.engines.job import ONE_THREAD, Job, Outcome, carry_out
from landform.lab.errors import StudyError

WORKER = "landform-worker"
READY = "ready"
UNGUARDED = 'a script that holds a study must run it under `if __name__ == "__main__":`'


class Inline:
    """Runs each trial in this process when it is waited for."""

    def __init__(self) -> None:
        self._job: Job | None = None

    @property
    def free(self) -> int:
        return 1 - self.busy

    @property
    def busy(self) -> int:
        return int(self._job is not None)

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self, timeout: float, progress: Callable[[str, float, str], None]) -> list[Outcome]:
        if self._job is None:
            time.sleep(timeout)
            return []
        job, self._job = self._job, None
        return [carry_out(job, lambda fraction, note: progress(job.id, fraction, note))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._job = None


class Processes:
    """Runs trials in up to ``count`` worker processes.

    Raises:
        StudyError: on ``start``, a trial that cannot be sent to another process; on ``wait``, workers that do not
            come up, as when a script that holds a study runs it on being imported.
    """

    def __init__(self, count: int) -> None:
        if multiprocessing.current_process().name == WORKER:
            raise StudyError(UNGUARDED)
        self._count = count
        self._workers: list[_Worker] = []

    @property
    def free(self) -> int:
        return self._count - self.busy

    @property
    def busy(self) -> int:
        return sum(worker.job is not None for worker in self._workers)

    def start(self, job: Job) -> None:
        try:
            message = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise StudyError(
                f"the trial cannot be sent to a worker process: {error}; define it and its Config at the top level of"
                " a module, or run with workers=0"
            ) from error
        # An idle worker may have died unseen.
        self._workers = [worker for worker in self._workers if worker.job or worker.process.is_alive()]
        idle = [worker for worker in self._workers if not worker.job]
        if not idle:
            with no_interrupts():
                idle = [_Worker(with_main=job.trial.__module__ == "__main__")]
                self._workers += idle
        idle[0].send(job, message)

    def wait(self, timeout: float, progress: Callable[[str, float, str], None]) -> list[Outcome]:
        working = {worker.connection: worker for worker in self._workers if worker.job}
        if not working:
            time.sleep(timeout)
            return []
        # The sentinel tells of a death that the pipe does not: a child of the worker's may hold the pipe open.
        wait([*working, *(worker.process.sentinel for worker in working.values())], timeout)
        outcomes = []
        for worker in working.values():
            outcome = worker.heard(progress)
            if outcome is not None:
                outcomes.append(outcome)
                # An error may leave an accelerator in no state to go on with.
                if outcome.died or (outcome.error and worker.device != "cpu"):
                    worker.end()
                    self._workers.remove(worker)
        return outcomes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with no_interrupts():
            while self._workers:
                self._workers.pop().end()


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, *, with_main: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), name=WORKER)
        with contextlib.nullcontext() if with_main else _main_hidden():
            self.process.start()
        theirs.close()
        self.ready = False
        self.job: Job | None = None
        self.device = "cpu"
        self.began = 0.0

    def send(self, job: Job, message: bytes) -> None:
        self.job, self.device, self.began = job, job.device, time.perf_counter()
        # One that died just now is heard of when it is waited for.
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message)

    def heard(self, progress: Callable[[str, float, str], None]) -> Outcome | None:
        """Pass on the progress that was told of, and return the outcome if there is one."""
        job = self.job
        assert job is not None
        alive = self.process.is_alive()
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if message == READY:
                    self.ready = True
                    continue
                if isinstance(message, Outcome):
                    self.job = None
                    return replace(message, id=job.id)
                progress(job.id, *message)
        except (EOFError, OSError):
            self.process.join(timeout=5.0)
            alive = False
        if alive:
            return None
        self.job = None
        if not self.ready and self.process.exitcode == 1:
            raise StudyError(f"worker processes cannot start, standard error says why ({UNGUARDED})")
        return Outcome(job.id, seconds=time.perf_counter() - self.began, error=self._cause(), died=True)

    def _cause(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = ", as happens when memory runs out" if name == "SIGKILL" else ""
            return f"the worker process was ended by {name}{hint}"
        return f"the worker process ended with exit code {code} before the trial had finished"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextlib.contextmanager
def no_interrupts() -> Iterator[None]:
    """Ctrl-C waits until this is over, and a process started within never sees it: it is the parent's to answer."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """A process started within does not import the script that the user began, which need not expect it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def work(connection: Connection) -> None:
    """A worker process: carry out jobs until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(ONE_THREAD)
    # Standard output belongs to the parent, which may be writing a document there.
    os.dup2(2, 1)

    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    connection.send(READY)
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        connection.send(_answer(message, connection))


def _answer(message: bytes, connection: Connection) -> Outcome:
    try:
        job: Job = pickle.loads(message)
    except Exception:
        return Outcome("", error=traceback.format_exc())
    return carry_out(job, lambda fraction, note: connection.send((fraction, note)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
