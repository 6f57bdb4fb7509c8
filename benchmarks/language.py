"""Training a byte transformer: landform's LanguageRun against a bare loop of forward, backward and step.

Both do the same arithmetic on the same batches (cross-entropy, gradient clipping, fused AdamW) and must end at the same
weights. The bare loop gets its batches ready made; LanguageRun draws them, keeps the ledger, the curve, the schedule.
Blocks of updates alternate between the two, so that a busy machine slows both; what is reported is the median over
blocks of the ratio of their times. One thread unless --threads says otherwise.

    python benchmarks/language.py [--threads 1] [--blocks 9] [--updates 40] [--device cpu]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from landform import data
from landform.models.transformer import ByteTransformer, count_parameters
from landform.optim.schedules import Constant
from landform.training.language import LanguageRun, language_adamw, sequences

CONTEXT, BATCH = 64, 32


def seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bare(model: ByteTransformer, optimizer: torch.optim.Optimizer, batches: list[torch.Tensor]) -> None:
    parameters = list(model.parameters())
    for rows in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, updates = options.device, options.updates
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    print(f"{name or platform.machine()}, {options.threads} thread(s), torch {torch.__version__}")
    print(f"{BATCH} sequences of {CONTEXT} bytes an update, {options.blocks} blocks of {updates} updates each\n")
    print(f"{'d_model':>8}{'parameters':>12}{'bare loop':>14}{'LanguageRun':>14}{'tokens/s':>10}{'ratio':>8}")
    text = sequences(data.load("corpus")["train"].x, CONTEXT)
    for width in (8, 16, 32, 64, 128):
        torch.manual_seed(0)
        model = ByteTransformer(width, 2, max(1, width // 16), CONTEXT).to(device)
        other = ByteTransformer(width, 2, max(1, width // 16), CONTEXT).to(device)
        other.load_state_dict(model.state_dict())
        optimizer, other_optimizer = language_adamw(model, 0.003), language_adamw(other, 0.003)
        schedule = Constant(optimizer, total=(options.blocks + 1) * updates)
        run = LanguageRun(model, text, text[:BATCH], optimizer, schedule, batch_size=BATCH)
        theirs, ours = [], []
        for block in range(options.blocks + 1):  # the first one warms up
            batches = [run.batch(update).long() for update in range(block * updates, (block + 1) * updates)]
            theirs.append(seconds(partial(bare, other, other_optimizer, batches), device))
            ours.append(seconds(partial(run.train, (block + 1) * updates, evaluate_at=[]), device))
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            if not torch.allclose(a, b, rtol=1e-3, atol=1e-4):
                raise SystemExit(f"d_model={width}: the two loops end at different weights")
        ratio = statistics.median(o / t for o, t in zip(ours[1:], theirs[1:], strict=True))
        slow, fast = (statistics.median(times[1:]) / updates for times in (theirs, ours))
        print(
            f"{width:8}{count_parameters(model):12,}{slow * 1e3:9.2f} ms/up{fast * 1e3:8.2f} ms/up"
            f"{BATCH * CONTEXT / fast:10,.0f}{ratio:8.3f}"
        )


if __name__ == "__main__":
    main()
