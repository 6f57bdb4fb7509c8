"""One trial at a time in several processes at once, for trainings that are large: the processes of a Lightning Fabric.

Each process runs the whole command. Rank 0 plans, stores and judges as ever; the others carry out the same trials
beside it, until it closes. What rank 0 records is the trial's outcome.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from landform.lab.engines.job import Job, Outcome, carry_out
from landform.lab.errors import UsageError
from landform.lab.machine import check_device
from landform.study import Record, Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Scale:
    """How large a trial's training is: so many devices on each of so many nodes, a Fabric strategy and precision.

    Raises:
        UsageError: a number below 1, a device that is not there, or processes that were not begun as asked for.
    """

    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: 1 or more")
        if self.device not in {"cpu", "cuda"}:
            raise UsageError(f"device={self.device}: with devices, nodes, strategy or precision, cpu or cuda")
        if self.device == "cuda":
            check_device(f"cuda:{self.devices - 1}")
        begun = os.environ.get("WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
        asked = self.devices * self.nodes
        if begun is None and self.nodes > 1:
            raise UsageError(f"nodes={self.nodes}: begin the command on every node with torchrun")
        if begun is not None and int(begun) != asked:
            raise UsageError(f"torchrun began {begun} processes, but devices × nodes = {asked}")

    def __str__(self) -> str:
        """As the options of ``landform run`` after ``--device``. Results of other options are other results."""
        words = [self.device, f"--devices {self.devices}"]
        words += [f"--nodes {self.nodes}"] if self.nodes > 1 else []
        words += [f"--strategy {self.strategy}"] if self.strategy != "auto" else []
        words += [f"--precision {self.precision}"] if self.precision != "32-true" else []
        return " ".join(words)

    def launch(self) -> Fabric:
        """The Fabric, with all its processes begun: by torchrun, or by running this command again in each.

        Raises:
            UsageError: Lightning Fabric is not installed.
        """
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise UsageError(f"a scaled run needs Fabric: pip install 'landform[scale]' ({error})") from error
        fabric = Fabric(
            accelerator=self.device,
            devices=self.devices,
            num_nodes=self.nodes,
            strategy=self.strategy,
            precision=self.precision,  # type: ignore[arg-type]
        )
        fabric.launch()
        return fabric


class Together:
    """Runs each trial in all processes of a Fabric; this one is rank 0, and the others :meth:`follow`.

    An error in the midst of a trial may leave the processes out of step. So it ends them, and what was to come is
    failed for the next run to try again. What is wrong with the records of a trial that went to its end fails it alone.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._job: Job | None = None
        self._in_step = True

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0."""
        return bool(self._fabric.is_global_zero)

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
        if not self._in_step:
            return [Outcome(job.id, error="not begun: an earlier trial failed, and its processes with it")]
        self._fabric.broadcast(job)
        return [self._carry_out(job, lambda fraction, note: progress(job.id, fraction, note))]

    def follow(self) -> None:
        """Carry out what rank 0 does, until it closes or a trial fails."""
        while self._in_step and (job := self._fabric.broadcast(None)) is not None:
            outcome = self._carry_out(job, lambda fraction, note: None)
            if not self._in_step:
                print(f"rank {self._fabric.global_rank}: {outcome.error}", file=sys.stderr)
        self._leave()

    def _carry_out(self, job: Job, progress: Callable[[float, str], None]) -> Outcome:
        def to_the_end(config: Any, seed: int, run: Run) -> Iterator[Record]:
            run.fabric = self._fabric
            records = list(job.trial(config, seed, run))
            self._in_step = True
            return iter(records)

        self._in_step = self._fabric.world_size == 1
        return carry_out(replace(job, trial=to_the_end, device=str(self._fabric.device)), progress)

    def close(self) -> None:
        """Let the other processes end."""
        if self._in_step:
            self._fabric.broadcast(None)
        self._leave()

    def _leave(self) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._job = None
