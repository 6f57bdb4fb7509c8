"""GradSign of 64 samples: landform's layer-wise sign sums against loops of backward passes over single samples.

Two loops: the leanest that PyTorch allows (``autograd.grad`` of the weights, signs added as they come), and the
published procedure (``loss.backward()``, gradients copied to NumPy, flattened, stacked to an n × d matrix). The ways
take turns of a few calls each, and the best call counts: a loop of 64 passes warms the caches for itself, one batched
pass finds them as the last call left them. One thread unless --threads says otherwise; all must give the same score.

    python benchmarks/gradsign.py [--threads 1] [--repeats 10] [--device cpu]
"""

from __future__ import annotations

import argparse
import itertools
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.search import NASBench201Network, per_sample_sign_agreement

SAMPLES = 64
CALLS = 5  # in a turn


def weights_of(model: nn.Module) -> list[Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def lean_loop(model: nn.Module, x: Tensor, y: Tensor) -> float:
    weights = weights_of(model)
    signs = [torch.zeros_like(w) for w in weights]
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        for total, gradient in zip(signs, torch.autograd.grad(loss, weights), strict=True):
            total += gradient.sign()
    return float(sum(s.abs().sum() for s in signs))


def published_loop(model: nn.Module, x: Tensor, y: Tensor) -> float:
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append(np.concatenate([w.grad.cpu().numpy().ravel() for w in weights_of(model)]))
    return float(np.nansum(np.abs(np.sign(np.stack(rows)).sum(0))))


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * width, 10),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-64-64-10": (lambda: mlp(64, 64, 64, 10), (1, 8, 8)),
    "MLP 64-256-256-256-10": (lambda: mlp(64, 256, 256, 256, 10), (1, 8, 8)),
    "MLP 64-1024-1024-10": (lambda: mlp(64, 1024, 1024, 10), (1, 8, 8)),
    "CNN, width 8, 8×8 images": (lambda: cnn(8), (1, 8, 8)),
    "CNN, width 32, 8×8 images": (lambda: cnn(32), (1, 8, 8)),
    "NAS-Bench-201 333132, N = 1, 16×16": (lambda: NASBench201Network("333132", 10, cells_per_stage=1), (3, 16, 16)),
}


def measure(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> tuple[list[float], list[float]]:
    """Each way's score and its best time; the ways take turns, so that a busy machine slows them alike."""
    ways: list[Callable[..., float]] = [per_sample_sign_agreement, lean_loop, published_loop]
    scores = [0.0] * len(ways)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats + 1):  # the first turn warms up
        for i, way in enumerate(ways):
            for _ in range(CALLS):
                start = time.perf_counter()
                scores[i] = way(model, x, y)
                times[i].append(time.perf_counter() - start)
    return scores, [min(seconds[CALLS:]) for seconds in times]


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine(options.device)}, {options.threads} thread(s), torch {torch.__version__}, {SAMPLES} samples\n")
    print(f"{'network':36}{'weights':>10}{'ours':>10}{'lean loop':>12}{'published':>12}{'ratios':>16}")
    for label, (build, shape) in NETWORKS.items():
        torch.manual_seed(0)
        model = build().to(options.device)
        x = torch.randn(SAMPLES, *shape, device=options.device)
        y = torch.randint(10, (SAMPLES,), device=options.device)
        count = sum(w.numel() for w in weights_of(model))
        scores, (ours, lean, published) = measure(model, x, y, options.repeats)
        # A gradient that is zero but for rounding may fall either way, in any order of summation.
        if not np.allclose(scores, scores[0], rtol=1e-3):
            raise SystemExit(f"{label}: the scores differ: {scores}")
        print(
            f"{label:36}{count:10,}{ours * 1e3:8.2f}ms{lean * 1e3:10.2f}ms{published * 1e3:10.2f}ms"
            f"{lean / ours:9.1f}×{published / ours:6.1f}×"
        )


if __name__ == "__main__":
    main()
