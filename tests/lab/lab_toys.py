"""Small studies that the laboratory is tested with. What each is to do to its process, its config says (``act``).

A trial leaves a line in ``log/trials`` whenever it is begun, so that tests can count executions across processes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landform.claims import Better
from landform.study import Preset, Record, Run, Study


@dataclass(frozen=True)
class Config:
    log: str = ""
    act: str = "measure"
    noise: float = 0.0
    pause: float = 0.0

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError("noise must not be negative")


def begun(config: Config, seed: int) -> int:
    """Leave a line for this execution; return how many there are of this seed and noise."""
    if not config.log:
        return 1
    line = f"{seed} {config.noise} {os.getpid()}\n"
    path = Path(config.log) / "trials"
    with path.open("a") as file:
        file.write(line)
    return sum(other.split()[:2] == line.split()[:2] for other in path.read_text().splitlines())


def act(config: Config, seed: int, run: Run, times: int) -> None:
    """Something that goes wrong, by name, on seed 1 alone."""
    time.sleep(config.pause)
    if seed != 1:
        return
    if config.act == "raise":
        raise RuntimeError("as asked")
    if config.act == "die" or (config.act == "die once" and times == 1):
        (run.folder / "checkpoint").write_text("kept")
        os.kill(os.getpid(), signal.SIGKILL)
    if config.act == "leave":
        os._exit(0)
    if config.act == "exit":
        sys.exit("enough")
    if config.act == "fail once" and times == 1:
        raise RuntimeError("only once")


study = Study(
    "toy",
    claims=[Better("accuracy", "good", than="bad")],
    presets={"smoke": Preset(Config(), seeds=2), "laptop": Preset(Config(), seeds=4)},
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    act(config, seed, run, begun(config, seed))
    run.progress(1, 2, "half")
    run.save("curve", np.arange(3.0) + seed)
    yield Record("good", "accuracy", 0.9 + 0.01 * seed)
    yield Record("bad", "accuracy", 0.5)
    yield Record("good", "loss", 1 / 3, x=1.0, unit="model-1")


crossed = Study(
    "toy-crossed",
    claims=[Better("accuracy", "good", than="bad", at={"noise": 0.5})],
    presets={"laptop": Preset(Config(), seeds=2, tuning_seeds=2)},
    conditions={"noise": (0.0, 0.5)},
    tune_by="accuracy",
)


@crossed.trial
def crossed_trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """Setting 2 is the better for ``good`` without noise, setting 1 with it; ``bad`` has no settings."""
    act(config, seed, run, begun(config, seed))
    if config.act == "fail tuning" and run.tuning:
        raise RuntimeError("no tuning")
    for setting in run.settings("good", (1, 2)):
        yield Record("good", "accuracy", setting * (0.5 - config.noise * 1.5), setting=str(setting))
    yield Record("bad", "accuracy", 0.1)


unfair = Study(
    "toy-unfair",
    claims=[Better("accuracy", "a", than="b")],
    presets={"laptop": Preset(Config(), seeds=1, tuning_seeds=1)},
    tune_by="accuracy",
)


@unfair.trial
def unfair_trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    for arm, grid in (("a", (1, 2, 3)), ("b", (1, 2))):
        for setting in run.settings(arm, grid):
            yield Record(arm, "accuracy", setting, setting=str(setting))


numeric = Study(
    "toy-numeric",
    claims=[Better("x", "torch", than="numpy")],
    presets={"laptop": Preset(Config(), seeds=3)},
)


@numeric.trial
def numeric_trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """Numbers that depend on global generators, on the default type and on the number of threads of a long sum."""
    import torch

    yield Record("random", "x", random.random())
    yield Record("numpy", "x", float(np.random.rand()))  # noqa: NPY002
    x = torch.randn(400, 300)
    yield Record("torch", "x", (x @ x.T).logsumexp(0).sum().item())
    yield Record("threads", "x", torch.get_num_threads())
    yield Record("numpy product", "x", float((x.numpy() @ x.numpy().T).sum()))
    torch.set_default_dtype(torch.float64)
