"""Trials on a Ray cluster: each a task of one core (or one GPU), wherever the cluster has room.

What belongs to a run stays on the machine that began it: plan, store, choice of settings, verdicts. A task gets a
:class:`Job` and gives back its :class:`Outcome`, so the records are those of the local engine to the bit, as far as
the nodes' hardware and PyTorch are the same; each trial's stored environment is that of the node that computed it.

A cluster that is addressed gets this very landform, so that the code is what the store says it is; what landform
depends on must be installed there, Ray and Python in the same versions as here. A trial's folder is the one beside
the store where the node sees it too (a shared file system); elsewhere it is a temporary one, so that a trial whose
worker died there begins anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import landform
from landform.lab.engines.job import Job, Outcome, carry_out
from landform.lab.engines.local import no_interrupts
from landform.lab.errors import UsageError
from landform.lab.machine import default_workers

KNOCK = 5.0
"""Seconds in which an address must answer."""


@dataclass
class _Task:
    job: Job
    began: float


class Ray:
    """Runs trials as Ray tasks, up to ``count`` at once; several runs may use it one after another.

    Arguments:
        address: of a running cluster, ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``. None begins one on this machine
            and ends it on ``close``. In a process that is connected already, that connection is used and kept.
        count: how many trials at once; as many as the cluster has cores, or GPUs for ``cuda``, if None.
        device: ``cpu`` or ``cuda``; Ray decides which GPU.

    Raises:
        UsageError: Ray is not installed, nothing answers at the address, or the cluster has no GPU.
    """

    def __init__(self, address: str | None = None, *, count: int | None = None, device: str = "cpu") -> None:
        if count is not None and count < 1:
            raise UsageError(f"workers={count}: on Ray 1 or more")
        if device not in {"cpu", "cuda"}:
            raise UsageError(f"device={device}: on Ray cpu or cuda; which GPU, Ray decides")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # What Ray will do some day; it warns of it.
        try:
            import ray
        except ImportError as error:
            raise UsageError(f"the engine ray needs Ray: pip install 'landform[cluster]' ({error})") from error
        self._ray = ray
        if address is not None:
            _knock(address)
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(address, count)
        resource = "GPU" if device == "cuda" else "CPU"
        available = int(ray.cluster_resources().get(resource, 0))
        if not available:
            self.close()
            raise UsageError(f"device={device}: the Ray cluster has no {resource}")
        self._count = available if count is None else count
        self._carry_out = ray.remote(max_retries=0, num_cpus=1, num_gpus=int(device == "cuda"))(_on_node)
        self._mailbox: Any = ray.remote(num_cpus=0)(_Mailbox).remote()
        self._tasks: dict[Any, _Task] = {}

    @property
    def free(self) -> int:
        return self._count - self.busy

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def start(self, job: Job) -> None:
        # Where a node finds this folder, the file system is shared.
        job.folder.mkdir(parents=True, exist_ok=True)
        self._tasks[self._carry_out.remote(job, self._mailbox)] = _Task(job, time.perf_counter())

    def wait(self, timeout: float, progress: Callable[[str, float, str], None]) -> list[Outcome]:
        if not self._tasks:
            time.sleep(timeout)
            return []
        ray = self._ray
        ray.wait(list(self._tasks), timeout=timeout)
        ended, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        under_way = {task.job.id for task in self._tasks.values()}
        with contextlib.suppress(ray.exceptions.RayError):  # The node that told of progress may have died.
            for job, (fraction, note) in ray.get(self._mailbox.take.remote(), timeout=KNOCK).items():
                if job in under_way:
                    progress(job, fraction, note)
        return [self._outcome(reference) for reference in ended]

    def _outcome(self, reference: Any) -> Outcome:
        task = self._tasks.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            # A RayTaskError is Python's own, as of a module that the node lacks: another attempt would end the same.
            died = not isinstance(error, self._ray.exceptions.RayTaskError)
            seconds = time.perf_counter() - task.began
            outcome = Outcome(task.job.id, seconds=seconds, error=str(error).strip(), died=died)
        _remove_if_empty(task.job.folder)
        return outcome

    def close(self) -> None:
        """Leave the cluster; one that began here ends."""
        if self._ours:
            with no_interrupts():
                self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with no_interrupts():
            while self._tasks:
                reference, task = self._tasks.popitem()
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.cancel(reference, force=True)
                _remove_if_empty(task.job.folder)


class _Mailbox:
    """An actor that keeps the last progress of each job until it is asked for."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, str]] = {}

    def tell(self, job: str, fraction: float, note: str) -> None:
        self._told[job] = (fraction, note)

    def take(self) -> dict[str, tuple[float, str]]:
        told, self._told = self._told, {}
        return told


def _on_node(job: Job, mailbox: Any) -> Outcome:
    """The task: carry out one job, in the run's folder if this node has it."""

    def tell(fraction: float, note: str) -> None:
        mailbox.tell.remote(job.id, fraction, note)

    if job.folder.is_dir():
        return carry_out(job, tell)
    with tempfile.TemporaryDirectory(prefix="landform-") as folder:
        return carry_out(replace(job, folder=Path(folder)), tell)


def _connect(address: str | None, count: int | None) -> None:
    """Begin a cluster on this machine, or join the one at ``address`` and give it this landform."""
    import ray

    if address is None:
        where: dict[str, Any] = {
            "address": "local",
            "num_cpus": count or default_workers("cpu"),
            "include_dashboard": False,
        }
    else:
        where = {"address": address, "runtime_env": {"py_modules": [str(Path(landform.__file__).parent)]}}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"address={address}: no Ray cluster can be joined there: {error}") from error


def _knock(address: str) -> None:
    """Ray itself would try for long, and then end the process."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise UsageError(f"address={address}: write HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"address={address}: nothing answers there ({error})") from error


def _remove_if_empty(folder: Path) -> None:
    """A trial that kept nothing leaves no folder."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
