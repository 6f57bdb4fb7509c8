"""A study whose trial trains through Fabric where it is given one, and what goes wrong on one rank or on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.claims import Better
from landform.study import Preset, Record, Run, Study
from landform.training import batches, fit


@dataclass(frozen=True)
class Config:
    act: str = ""


study = Study(
    "toy-trained",
    claims=[Better("loss", "first", than="last")],
    presets={"laptop": Preset(Config(), seeds=2)},
)


class Twice(torch.optim.SGD):
    """Goes back to where it was after a first step, and along the gradient found there; a loss decides how far."""

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        first = closure()
        with torch.no_grad():
            moves = [0.1 * first * p.grad for p in parameters]
            for p, move in zip(parameters, moves, strict=True):
                p += move
        closure()
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                p -= move
        super().step()
        return first


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    generator = torch.Generator().manual_seed(seed)
    # The last batch of an epoch, of 7 samples, does not divide evenly.
    x, y = torch.randn(23, 4, generator=generator).double(), torch.randint(0, 3, (23,), generator=generator)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = Twice(model.parameters(), lr=0.3, momentum=0.9)
    if config.act == "raise" and seed == 0:
        raise RuntimeError("as asked")
    losses = fit(
        model,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches(x, y, 8, generator),
        optimizer,
        steps=7,
        schedule=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        fabric=run.fabric,
    )
    yield Record("first", "loss", float(losses[0]) if config.act != "diverge" or seed else float("nan"))
    yield Record("last", "loss", float(losses[-1]))
    yield Record("last", "weights", float(sum(p.detach().abs().sum() for p in model.parameters())))
    yield Record("last", "ranks", 1 if run.fabric is None else run.fabric.world_size)
