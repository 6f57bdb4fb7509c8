"""Gradients of 64 samples: landform against a loop of backward passes over single samples.

The loop is what one writes without it: clear the gradients, forward one sample, backward, keep the gradients, and stack
them at the end. All arms give the same tensors (checked in float64), on the same number of threads, in turns; times are
medians of several blocks with their range, after a warm-up.

    python benchmarks/per_sample.py [--threads 1] [--blocks 15] [--only CNN] [--clock wall]
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.models import MLP, ConvNet
from landform.training import per_sample_grad_norms, per_sample_gradients

SAMPLES = 64
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-32-32-10": (lambda: MLP(64, (32, 32), 10), (1, 8, 8)),
    "CNN 8-16-16, group norm, 8×8": (lambda: ConvNet(1, 10, widths=(8, 16, 16)), (1, 8, 8)),
    "CNN 8-16-16, batch norm, 8×8": (lambda: ConvNet(1, 10, widths=(8, 16, 16), norm="batch"), (1, 8, 8)),
    "CNN 8-16-16, no norm, 8×8": (lambda: ConvNet(1, 10, widths=(8, 16, 16), norm=None), (1, 8, 8)),
    "CNN 8-16-16, group norm, 3×16×16": (lambda: ConvNet(3, 10, widths=(8, 16, 16)), (3, 16, 16)),
    "CNN 16-32-32, group norm, 3×32×32": (lambda: ConvNet(3, 10, widths=(16, 32, 32)), (3, 32, 32)),
}


def loop(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    kept: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, param in model.named_parameters():
            assert param.grad is not None
            kept[name].append(param.grad)
    return {name: torch.stack(grads) for name, grads in kept.items()}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def compare(title: str, model: nn.Module, x: Tensor, y: Tensor, blocks: int, clock: Callable[[], float]) -> None:
    double = copy.deepcopy(model).double()
    ours = per_sample_gradients(double, x.double(), y, F.cross_entropy)
    apart = max(float((ours[name] - value).abs().max()) for name, value in loop(double, x.double(), y).items())
    size = sum(param.numel() for param in model.parameters())
    print(f"\n{title}: {size} parameters, apart by at most {apart:.0e} in float64")
    arms: dict[str, Callable[[], object]] = {
        "loop": partial(loop, model, x, y),
        "landform": partial(per_sample_gradients, model, x, y, F.cross_entropy),
        "vmap only": partial(per_sample_gradients, model, x, y, F.cross_entropy, method="exact"),
        "norms alone": partial(per_sample_grad_norms, model, x, y, F.cross_entropy),
    }
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for block in range(blocks + 3):
        for arm, run in arms.items():
            start = clock()
            run()
            if block >= 3:
                times[arm].append(1e3 * (clock() - start))
    for arm, values in times.items():
        ratio = median(times["loop"]) / median(values)
        print(
            f"  {arm:12s} {median(values):8.2f} ({min(values):.2f}–{max(values):.2f})   {ratio:5.1f} × the loop's speed"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--only", default="", help="the networks whose title holds this")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu adds up the threads; use it with --threads 1")
    torch.set_num_threads(options.threads)
    print(f"{processor()}; torch {torch.__version__}; {options.threads} thread(s); {SAMPLES} samples, float32")
    print(f"milliseconds ({options.clock} time), median (min–max)")
    for title, (make, shape) in NETWORKS.items():
        if options.only not in title:
            continue
        torch.manual_seed(0)
        x, y = torch.randn(SAMPLES, *shape), torch.randint(0, 10, (SAMPLES,))
        clock = time.perf_counter if options.clock == "wall" else time.process_time
        compare(title, make(), x, y, options.blocks, clock)


if __name__ == "__main__":
    main()
