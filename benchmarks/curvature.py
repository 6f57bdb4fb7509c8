"""The five largest Hessian eigenvalues: landform's Lanczos process against PyHessian's deflated power iteration.

Both get the same network, weights and batch, in one process. Each runs at the loosest of the tolerances with which
every one of the five is within 1e-3 of the exact value, relatively, from each of three random starts; exact are those
of SciPy's ARPACK in float64 to 1e-10. Where no tolerance is accurate enough the tightest is timed, and the error shows
it. Times are the best of several repeats, from the network to the eigenvalues. CPU time is what a busy machine
disturbs least.

PyHessian 0.1 is not needed otherwise. Its eigenvalues() runs on current PyTorch (its density() does not: it calls
torch.eig, which is gone). It imports nothing that landform lacks, so it can be installed beside it:

    pip install --no-deps pyhessian==0.1
    python benchmarks/curvature.py [--threads 1] [--repeats 3]
"""

from __future__ import annotations

import argparse
import itertools
import platform
import re
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from landform import data
from landform.landscape import CurvatureOperator, top_eigenpairs

TOP = 5
ACCURACY = 1e-3
STARTS = (0, 1, 2)
TOLERANCES = (5e-2, 2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)
BATCH = 512

Eigenvalues = Callable[[nn.Module, tuple[Tensor, Tensor], float, int], Sequence[float]]


def with_landform(model: nn.Module, batch: tuple[Tensor, Tensor], tol: float, seed: int) -> Sequence[float]:
    operator = CurvatureOperator(model, F.cross_entropy, batch)
    return top_eigenpairs(operator, TOP, "LM", tol, generator=torch.Generator().manual_seed(seed)).values.tolist()


def with_pyhessian(model: nn.Module, batch: tuple[Tensor, Tensor], tol: float, seed: int) -> Sequence[float]:
    from pyhessian import hessian

    torch.manual_seed(seed)
    values, _ = hessian(model, F.cross_entropy, data=batch, cuda=False).eigenvalues(maxIter=1000, tol=tol, top_n=TOP)
    model.zero_grad()
    return values


def exact(model: nn.Module, batch: tuple[Tensor, Tensor]) -> np.ndarray:
    operator = CurvatureOperator(model, F.cross_entropy, batch, dtype=torch.float64)
    linear = LinearOperator(
        operator.shape, lambda v: operator.matvec(torch.from_numpy(v).flatten()).numpy(), dtype=np.float64
    )
    return moduli(eigsh(linear, k=TOP, which="LM", tol=1e-10, ncv=40, return_eigenvectors=False))


def moduli(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """In descending order; without signs, as two of nearly one modulus may come in either order."""
    return np.sort(np.abs(values))[::-1]


def error(values: Sequence[float], reference: np.ndarray) -> float:
    return float(np.max(np.abs(moduli(values) / reference - 1)))


def loosest(
    method: Eigenvalues, model: nn.Module, batch: tuple[Tensor, Tensor], reference: np.ndarray
) -> tuple[float, float]:
    """The first tolerance that is accurate enough from every start, or else the tightest; and its largest error."""
    for tol in TOLERANCES:
        worst = 0.0
        for seed in STARTS:
            worst = max(worst, error(method(model, batch, tol, seed), reference))
            if worst > ACCURACY:
                break
        else:
            return tol, worst
    return tol, worst


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(width: int) -> nn.Module:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(1, width), nn.MaxPool2d(2), *block(width, 2 * width), nn.MaxPool2d(2), *block(2 * width, 2 * width),
        nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP 64-64-64-10": lambda: mlp(64, 64, 64, 10),
    "MLP 64-256-256-10": lambda: mlp(64, 256, 256, 10),
    "CNN of 3 layers, batch norm": lambda: cnn(16),
}
TRAINED = (0, 30, 100, 400)


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> float:
    """SGD with momentum on batches of 64; gives the loss that it ends with."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        at = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[at]), y[at]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(x[:BATCH]), y[:BATCH]))


def best(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*times[1:], strict=True)
    return min(walls), min(cpus)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
    if find_spec("pyhessian") is None:
        raise SystemExit("PyHessian is not installed: pip install --no-deps pyhessian==0.1")
    print(f"{machine()}, {options.threads} thread(s), torch {torch.__version__}, batch {BATCH} of digits, top {TOP}\n")
    columns = f"{'tol':>9}{'error':>8}{'ms':>9}"
    print(f"{'':42}{'landform':^26}{'PyHessian':^26}")
    print(f"{'network':29}{'steps':>6}{'loss':>7}{columns}{columns}{'ratio (CPU)':>14}")
    digits = data.load("digits")["train"]
    batch = (digits.x[:BATCH], digits.y[:BATCH])
    ratios = []
    for (label, build), steps in itertools.product(NETWORKS.items(), TRAINED):
        torch.manual_seed(0)
        model = build()
        loss = train(model, digits.x, digits.y, steps)
        reference = exact(model, batch)
        line, times = f"{label:29}{steps:6}{loss:7.3f}", []
        for method in (with_landform, with_pyhessian):
            tol, worst = loosest(method, model, batch, reference)
            wall, cpu = best(partial(method, model, batch, tol, STARTS[0]), options.repeats)
            times.append((wall, cpu))
            line += f"{tol:9.0e}{worst:8.0e}{wall * 1e3:9.1f}"
        (wall, cpu), (peer_wall, peer_cpu) = times
        ratios.append(peer_cpu / cpu)
        print(f"{line}{peer_wall / wall:8.1f} ({peer_cpu / cpu:.1f})", flush=True)
    mean = np.exp(np.mean(np.log(ratios)))
    print(f"\nCPU time, PyHessian over landform: geometric mean {mean:.1f}, least {min(ratios):.1f}")


if __name__ == "__main__":
    main()
