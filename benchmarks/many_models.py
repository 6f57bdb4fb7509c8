"""Training many small models at once: landform's stack against the same work done model after model.

The loop is a plain PyTorch loop: for each model its own ``torch.optim.SGD`` (momentum 0.9), and for each step the
gathered batch, forward, loss, backward, step. "processes" divides the loop over as many processes as there are threads,
of one thread each. All arms draw the same permutations of the same samples, model by model, in the timed region, and
run in float32 on the same number of threads, in turns. After three warm-up steps, a time is the median of several
blocks, with its range; the loop's optimisers and the processes are made outside of it. The results are compared in the
same run, in float64.

    python benchmarks/many_models.py [--threads 1 2] [--blocks 7] [--only MLP] [--grid] [--clock wall]

``--grid`` goes over sizes from 10³ to 10⁶ parameters and 1 to 512 models, to find where a stack stops paying.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.models import MLP, ConvNet
from landform.training import Stack, seed_stream, train_many

SAMPLES, LR, MOMENTUM = 2048, 0.05, 0.9
Factory = Callable[[], nn.Module]


def mlp() -> nn.Module:
    return MLP(64, (128, 128), 10)


def tiny_mlp() -> nn.Module:
    return MLP(64, (32,), 10)


def cnn() -> nn.Module:
    return ConvNet(1, 10, widths=(8, 16), norm=None)


def normed_cnn() -> nn.Module:
    return ConvNet(1, 10, widths=(8, 16))


def wide_cnn() -> nn.Module:
    return ConvNet(1, 10, widths=(32, 64), norm=None)


def large_cnn() -> nn.Module:
    return ConvNet(3, 10, widths=(16, 32))


# title, factory, shape of a sample, models, batch size, steps in a block
WORKLOADS: list[tuple[str, Factory, tuple[int, ...], int, int, int]] = [
    ("MLP 64-128-128-10", mlp, (64,), 32, 128, 20),
    ("MLP 64-32-10", tiny_mlp, (64,), 200, 64, 20),
    ("CNN 8-16, 8×8", cnn, (1, 8, 8), 32, 64, 10),
    ("CNN 8-16, group norm, 8×8", normed_cnn, (1, 8, 8), 32, 64, 10),
    ("CNN 32-64, 8×8", wide_cnn, (1, 8, 8), 16, 64, 20),
    ("CNN 16-32, group norm, 3×32×32", large_cnn, (3, 32, 32), 8, 64, 8),
]


class Loop:
    """Models trained one after another, from fresh optimisers; ``numbers`` name their random streams."""

    def __init__(self, models: list[nn.Module], numbers: list[int], x: Tensor, y: Tensor, batch_size: int) -> None:
        self.models, self.numbers, self.x, self.y, self.batch_size = models, numbers, x, y, batch_size
        self.renew()

    def renew(self) -> None:
        self.optimizers = [torch.optim.SGD(m.parameters(), LR, MOMENTUM) for m in self.models]

    def __call__(self, steps: int, seed: int) -> None:
        for model, optimizer, number in zip(self.models, self.optimizers, self.numbers, strict=True):
            generator = seed_stream(seed, number)
            batches: list[Tensor] = []
            for _ in range(steps):
                if not batches:
                    batches = list(torch.randperm(SAMPLES, generator=generator).split(self.batch_size))
                index = batches.pop(0)
                loss = F.cross_entropy(model(self.x[index]), self.y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def work(end: Connection, loop: Loop) -> None:
    """A process of the pool: trains its models whenever it is told to."""
    torch.set_num_threads(1)
    while (order := end.recv()) is not None:
        loop.renew()
        loop(*order)
        end.send(True)


class Processes:
    """The loop divided over processes."""

    def __init__(self, stack: Stack, x: Tensor, y: Tensor, batch_size: int, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends = []
        for k in range(count):
            models = range(k, len(stack), count)
            loop = Loop([stack.module(m) for m in models], [stack.ids[m] for m in models], x, y, batch_size)
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, loop), daemon=True).start()
            self.ends.append(ours)

    def __call__(self, steps: int, seed: int) -> None:
        for end in self.ends:
            end.send((steps, seed))
        for end in self.ends:
            end.recv()

    def close(self) -> None:
        for end in self.ends:
            end.send(None)


def data(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, *shape, generator=generator), torch.randint(0, 10, (SAMPLES,), generator=generator)


def train(stack: Stack, x: Tensor, y: Tensor, steps: int, batch_size: int, seed: int) -> None:
    train_many(
        stack, x, y, steps=steps, batch_size=batch_size, batching="epoch", lr=LR, momentum=MOMENTUM, seed=seed
    )  # fmt: skip


def difference(stack: Stack, modules: list[nn.Module]) -> float:
    """The largest difference of a parameter, relative to the largest parameter of its tensor."""
    with torch.no_grad():
        return max(
            float((stack.params[name][m] - value).abs().max() / value.abs().max())
            for m, module in enumerate(modules)
            for name, value in module.named_parameters()
        )


def compare(
    title: str,
    factory: Factory,
    shape: tuple[int, ...],
    models: int,
    batch_size: int,
    steps: int,
    *,
    blocks: int,
    clock: Callable[[], float],
    pool: int,
) -> float:
    """Time the arms on one workload, print them, and give the ratio of the loop's time to the stack's."""
    x, y = data(shape)
    stack = Stack.from_factory(factory, models, seed=0)
    modules = [stack.module(m) for m in range(models)]
    loop = Loop(modules, stack.ids, x, y, batch_size)

    def joint(steps: int, seed: int) -> None:
        train(stack, x, y, steps, batch_size, seed)

    # The same result, in float64.
    check = stack.subset(range(models)).to(torch.float64)
    checked = [check.module(m) for m in range(models)]
    train(check, x.double(), y, steps, batch_size, seed=0)
    Loop(checked, check.ids, x.double(), y, batch_size)(steps, 0)
    apart = difference(check, checked)

    arms: dict[str, Callable[[int, int], None]] = {"loop": loop, "stack": joint}
    if pool:
        arms["processes"] = Processes(stack, x, y, batch_size, pool)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for block in range(-1, blocks):  # the first is the warm-up
        loop.renew()
        for arm, run in arms.items():
            start = clock()
            run(3 if block < 0 else steps, block + 1)
            if block >= 0:
                times[arm].append(clock() - start)
    if pool:
        arms["processes"].close()  # type: ignore[attr-defined]
    size = sum(p.numel() for p in modules[0].parameters())
    engine = stack.engine_for(x[:batch_size])
    print(
        f"\n{title}: {size} parameters, {models} models, batch {batch_size}, engine {engine!r}, "
        f"apart by {apart:.0e} in float64"
    )
    for arm, values in times.items():
        rates = sorted(models * steps / value for value in values)
        print(
            f"  {arm:10s} {median(rates):10.0f} model-steps/s ({rates[0]:.0f}–{rates[-1]:.0f})"
            + ("" if arm == "loop" else f"   {median(times['loop']) / median(values):5.2f} × the loop")
        )
    return median(times["loop"]) / median(times["stack"])


def grid(blocks: int, clock: Callable[[], float]) -> None:
    """Where a stack stops paying: the ratio to the loop by parameters and models."""
    rows: list[tuple[str, Factory, tuple[int, ...]]] = [
        *((f"MLP 64-{w}-{w}-10", lambda w=w: MLP(64, (w, w), 10), (64,)) for w in (10, 70, 280, 960)),
        *(
            (f"CNN {w}-{2 * w}, 8×8", lambda w=w: ConvNet(1, 10, widths=(w, 2 * w), norm=None), (1, 8, 8))
            for w in (6, 20, 72)
        ),
    ]
    for title, factory, shape in rows:
        size = sum(p.numel() for p in factory().parameters())
        for models in (1, 8, 64, 512):
            if size * models <= 4_000_000:
                steps = max(2, min(20, 2_000_000 // (size * models)))
                compare(title, factory, shape, models, 64, steps, blocks=blocks, clock=clock, pool=0)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--only", default="", help="the workloads whose title holds this")
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != [1]:
        parser.error("--clock cpu adds up the threads; use it with --threads 1")
    if len(options.threads) > 1:  # a process for each, so that no arm inherits another's thread pool
        for threads in options.threads:
            arguments = [
                *(["--grid"] if options.grid else []),
                "--blocks",
                str(options.blocks),
                "--threads",
                str(threads),
            ]
            subprocess.run([sys.executable, __file__, *arguments], check=True)
        return
    (threads,) = options.threads
    torch.set_num_threads(threads)
    print(
        f"{processor()}; torch {torch.__version__}; {threads} thread(s); SGD with momentum, float32; "
        f"{options.clock} time"
    )
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    if options.grid:
        grid(options.blocks, clock)
        return
    for title, factory, shape, models, batch_size, steps in WORKLOADS:
        if options.only not in title:
            continue
        pool = threads if options.clock == "wall" and threads > 1 else 0
        compare(title, factory, shape, models, batch_size, steps, blocks=options.blocks, clock=clock, pool=pool)


if __name__ == "__main__":
    main()
