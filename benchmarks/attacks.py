"""PGD and MI-FGSM: landform's against torchattacks', on the same model, batch, radius and steps.

The model is trained on digits first, so that success rates mean something. Both take the same number of gradients of
the same model; what differs is what is done around them. The two take turns, so that a busy machine slows them alike;
times are medians with their range, the ratio is the median over turns with a 95 % interval for it, and success rates
are of the images classified correctly when clean, over all of them.

    python benchmarks/attacks.py [--threads 1] [--repeats 41] [--device cpu] [--clock wall]

torchattacks 3.5 is no part of the installation, as it wants other versions of what landform uses; put it beside:

    pip install --no-deps --target peers torchattacks==3.5.1 requests urllib3 idna certifi charset-normalizer tqdm
    PYTHONPATH=peers python benchmarks/attacks.py
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
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional as F

from landform import data
from landform.attacks import InputGradient, IterativeAttack, LinfBall, MomentumIterative, attack_success_rate, pgd
from landform.models import MLP, ConvNet, ResNet

try:
    import torchattacks
except ImportError:
    torchattacks = None

EPS, ALPHA, STEPS, BATCH = 0.15, 0.02, 10, 256

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "MLP 64-256-256-10, 8×8": (lambda: MLP(64, (256, 256), 10), 8),
    "CNN 16-32-64, 8×8": (lambda: ConvNet(1, 10), 8),
    "CNN 16-32-64, 16×16": (lambda: ConvNet(1, 10), 16),
    "ResNet-18 16-32-64-128, 16×16": (lambda: ResNet(18, 10, in_channels=1, widths=(16, 32, 64, 128)), 16),
}


def trained(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = make().to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        rows = torch.randint(len(x), (128,), device=x.device)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def attacks(model: nn.Module) -> dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]]:
    ball = LinfBall(EPS)
    momentum = IterativeAttack(InputGradient(model), [], MomentumIterative(), ball, steps=STEPS, step_size=ALPHA)
    return {
        "PGD": {
            "landform": lambda x, y: pgd(model, x, y, ball=ball, steps=STEPS, step_size=ALPHA),
            "torchattacks": torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS),
        },
        "MI-FGSM": {
            "landform": momentum,
            "torchattacks": torchattacks.MIFGSM(model, eps=EPS, alpha=ALPHA, steps=STEPS),
        },
    }


def success(model: nn.Module, attack: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    x_adv = attack(x, y)
    with torch.no_grad():
        return attack_success_rate(model(x).argmax(1), model(x_adv).argmax(1), y)


def times(
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]],
    x: Tensor,
    y: Tensor,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 2):
        for name in ways if turn % 2 else reversed(ways):
            start = clock()
            ways[name](x, y)
            if x.is_cuda:
                torch.cuda.synchronize()
            if turn >= 2:  # two to warm up
                found[name].append(1e3 * (clock() - start))
    return found


def ratios(peers: list[float], ours: list[float]) -> tuple[float, float, float]:
    """The median of the ratios turn by turn, and the order statistics between which it lies with 95 % confidence."""
    each = sorted(peer / own for peer, own in zip(peers, ours, strict=True))
    rank = max(int(binom.ppf(0.025, len(each), 0.5)), 1)
    return median(each), each[rank - 1], each[-rank]


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    options = parser.parse_args()
    if torchattacks is None:
        raise SystemExit(f"torchattacks is not installed.\n{__doc__.partition('torchattacks 3.5')[2]}")
    if options.clock == "cpu" and (options.threads != 1 or options.device != "cpu"):
        parser.error("--clock cpu adds up the threads of the processor; use it with --threads 1 and --device cpu")
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(f"{machine(options.device)}; torch {torch.__version__}; torchattacks {torchattacks.__version__}")
    print(f"{options.threads} thread(s); {BATCH} images, {STEPS} steps; milliseconds ({options.clock} time)")
    digits = data.merge(*data.load("digits").values()).to(options.device)
    for title, (make, side) in NETWORKS.items():
        x = digits.x if side == 8 else F.interpolate(digits.x, size=side, mode="nearest")
        model = trained(make, x[:1000], digits.y[:1000])
        print(f"\n{title}")
        for name, ways in attacks(model).items():
            rates = {way: success(model, attack, x[1000:], digits.y[1000:]) for way, attack in ways.items()}
            if abs(rates["landform"] - rates["torchattacks"]) > 0.02:
                raise SystemExit(f"{name}: the success rates differ: {rates}")
            spent = times(ways, x[1000 : 1000 + BATCH], digits.y[1000 : 1000 + BATCH], options.repeats, clock)
            for way, values in spent.items():
                print(
                    f"  {name:8} {way:13}{median(values):8.2f} ({min(values):.2f}–{max(values):.2f})"
                    f"   success {100 * rates[way]:5.1f} %"
                )
            ratio, low, high = ratios(spent["torchattacks"], spent["landform"])
            print(f"  {name:8} {ratio:.3f} × torchattacks' speed [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
