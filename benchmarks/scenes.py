"""Images drawn per second: scenes without and with the regional style, views from above, and roofs.

The promise is 20,000 scenes of 32 × 32 pixels a second on two cores. Each block draws ``--images`` images; the rate is
that of the median block, with the range of all, after a warm-up.

    python benchmarks/scenes.py [--threads 2] [--blocks 7] [--images 8192] [--clock wall]

``--clock cpu`` counts the processor time of the whole process instead, which a busy machine disturbs less: divided by
it, the images are those of one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from landform.data.scenes import SpuriousDesign, overhead_scenes, render_scenes, roof_factors, roof_tiles

PROMISE = 20_000


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def rate(draw: Callable[[], object], images: int, blocks: int, clock: Callable[[], float]) -> tuple[float, ...]:
    """Median, least and most images a second."""
    draw()
    rates = []
    for _ in range(blocks):
        start = clock()
        draw()
        rates.append(images / (clock() - start))
    return median(rates), min(rates), max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(f"{processor()}; {options.threads} threads, torch {torch.__version__}, by {options.clock} time")

    n = options.images
    index, few = torch.arange(n), torch.arange(max(1, n // 16))
    factors, roofs = SpuriousDesign()(index, 0), roof_factors(few, 0)
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "scenes 32×32": (n, lambda: render_scenes(factors, index, seed=0)),
        "scenes 32×32, factors drawn too": (n, lambda: render_scenes(SpuriousDesign()(index, 0), index, seed=0)),
        "scenes 32×32, regional style": (n, lambda: render_scenes(factors, index, seed=0, gamma=1.0)),
        "scenes 64×64": (n, lambda: render_scenes(factors, index, seed=0, size=64)),
        "overhead 64×64": (len(few), lambda: overhead_scenes(few, few % 4, seed=0)),
        "roofs 32×32": (len(few), lambda: roof_tiles(few, *roofs, seed=0)),
    }
    for number, (what, (count, draw)) in enumerate(work.items()):
        middle, least, most = rate(draw, count, options.blocks, clock)
        met = f"   promised {PROMISE:,}: {'kept' if middle >= PROMISE else 'NOT KEPT'}" if number == 0 else ""
        print(f"{what:32s}{middle:10,.0f} images/s   ({least:,.0f} – {most:,.0f}){met}")


if __name__ == "__main__":
    main()
