"""EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in Classification.

Ben Dai, arXiv 2409.00908, ICML 2025. Every step of training minimises another convex calibrated loss, drawn at random
through its slopes at the margins of the batch. The paper's claim: an over-parametrised binary classifier trained so
tests better than with any one of the usual losses.

Here every arm trains the same network from the same weights on the same batches; only the loss differs (and the
exponential loss has its gradient clipped, without which it explodes). Learning rates are chosen for each arm by
cross-validation within the training samples of seeds that are not reported.

A task may also be two class numbers: ``--preset paper --set task=3-5`` is the paper's cat against dog of CIFAR-10.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from landform import data
from landform.claims import Better, Equivalent, Holds
from landform.losses import (
    BinaryFocalLoss,
    BoxCoxSchedule,
    EnsLoss,
    ExponentialLoss,
    HingeLoss,
    LogisticLoss,
    MarginLoss,
    calibration_violations,
    one_vs_rest_margins,
    pairwise_margins,
)
from landform.metrics.paired import paired_tally
from landform.models.resnet import ResNet
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# The tasks.


@dataclass(frozen=True)
class Task:
    """Which samples of which data, told apart how.

    ``negative`` and ``positive`` are the two sides' classes, by number or by name; without them every class stands for
    itself. ``size`` training samples are drawn anew for each seed, and all others are for testing. Of the training
    labels a share ``flips`` is turned. ``data``, ``weight_decay`` and ``learning_rate``, where given, replace the
    config's; the last leaves nothing to tune.
    """

    negative: tuple[int | str, ...] = ()
    positive: tuple[int | str, ...] = ()
    size: int = 200
    flips: float = 0.0
    data: str | None = None
    weight_decay: float | None = None
    learning_rate: float | None = None


ODD, EVEN = (1, 3, 5, 7, 9), (0, 2, 4, 6, 8)
# Letters with a lookalike in the other script, in typefaces that have both and draw no two alike to the pixel.
LATIN, CYRILLIC = "NRWEUbnuwkmthrxY", "ИЯШЭЦьпишкмтнгжУ"
TYPEFACES = (
    "DejaVu Sans,DejaVu Sans Bold,DejaVu Sans Oblique,DejaVu Sans Bold Oblique,"
    "DejaVu Sans Mono,DejaVu Sans Mono Bold,DejaVu Sans Mono Oblique,DejaVu Sans Mono Bold Oblique,"
    "DejaVu Serif,DejaVu Serif Bold,STIX,STIX Bold,STIX Italic,STIX Bold Italic"
)

MAIN = "even-odd"
BREADTH = ("3-8", "4-9", "1-7", "lookalikes", "breast-cancer")
TASKS = {
    MAIN: Task(ODD, EVEN, size=300),
    "lookalikes": Task(tuple(LATIN), tuple(CYRILLIC), data=f"glyphs:latin,cyrillic?size=16&typefaces={TYPEFACES}"),
    "breast-cancer": Task(("benign",), ("malignant",), data="tabular:breast_cancer"),
    "even-odd-one-rate": Task(ODD, EVEN, size=300, learning_rate=0.01),
    "even-odd-decayed": Task(ODD, EVEN, size=300, weight_decay=0.01),
    "even-odd-flipped": Task(ODD, EVEN, size=300, flips=0.2),
    "all-classes": Task(size=300),
}


def task_named(name: str) -> Task:
    """One of TASKS, or two class numbers such as ``3-8``, of any data."""
    if name in TASKS:
        return TASKS[name]
    pair = re.fullmatch(r"(\d+)-(\d+)", name)
    if not pair or pair[1] == pair[2]:
        raise ValueError(f"task={name!r}: must be one of {', '.join(TASKS)}, or two class numbers as in 3-8")
    return Task((int(pair[1]),), (int(pair[2]),))


# The study.


@dataclass(frozen=True)
class Config:
    task: str = MAIN
    data: str = "digits"
    own_split: bool = False
    """Train and test on the data's own splits, rather than train on a few samples and test on the others."""
    net: Literal["resnet18", "resnet34", "resnet50", "resnet101"] | None = None
    """For images; a multi-layer perceptron if none, as for tables."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    widths: tuple[int, ...] = (128, 128, 128)
    epochs: int = 100
    batch_size: int = 64
    drop_last: bool = True
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Every arm's grid; with a single one nothing is tuned."""
    folds: int = 3
    momentum: float = 0.9
    weight_decay: float = 5e-6
    exponential_clip: float = 10.0
    lambda_period: int = 10
    together: int = 16
    """How many models, at most, train as one stack."""
    curve_every: int = 5

    def __post_init__(self) -> None:
        task_named(self.task)
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates={self.learning_rates}: must be positive, and at least one")
        if self.folds < 2:
            raise ValueError(f"folds={self.folds}: cross-validation needs at least 2")
        for name in ("epochs", "batch_size", "lambda_period", "together", "curve_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


FIXED = ("bce", "hinge", "exponential")

study = Study(
    "ensloss",
    claims=[
        Better(
            "accuracy",
            "ensloss",
            than=FIXED,
            at={"task": MAIN},
            says="EnsLoss tells even from odd digits more accurately than cross-entropy, hinge and exponential loss",
        ),
        Better(
            "accuracy",
            "ensloss",
            than="shuffled",
            at={"task": MAIN},
            says="Calibration matters: EnsLoss beats its own draws left unsorted",
        ),
        Holds(
            "violations",
            at_most=0,
            arm="ensloss",
            says="In every batch EnsLoss's slopes are negative and never fall as the margin grows",
        ),
        Better(
            "accuracy",
            "ensloss",
            than=FIXED,
            at={"task": "even-odd-one-rate"},
            says="With one untuned learning rate, as in the paper, EnsLoss beats BCE, hinge and exponential loss",
        ),
        Better(
            "accuracy",
            "ensloss",
            than=FIXED,
            at={"task": "even-odd-decayed"},
            says="With weight decay 2,000 times stronger EnsLoss still beats BCE, hinge and exponential loss",
        ),
        Equivalent(
            "accuracy",
            "ensloss",
            "bce",
            within=0.02,
            at={"task": "even-odd-flipped"},
            says="With 20 % of training labels flipped, where no gain is promised, EnsLoss is within 2 points of BCE",
        ),
        *(Better("accuracy", "ensloss", than=FIXED, at={"task": task}) for task in BREADTH),
        Better(
            "accuracy",
            "ensloss_pairwise",
            than="cross_entropy",
            at={"task": "all-classes"},
            says="An extension that is not in the paper: on ten classes pairwise EnsLoss beats cross-entropy",
        ),
    ],
    presets={
        "smoke": Preset(Config(epochs=2, learning_rates=(0.01,), curve_every=1), seeds=1),
        "laptop": Preset(Config(), seeds=12, tuning_seeds=2),
        "paper": Preset(
            Config(
                data="hf:cifar10",
                own_split=True,
                net="resnet34",
                widths=(1024, 1024, 1024),
                epochs=200,
                batch_size=128,
                drop_last=False,
                learning_rates=(1e-3,),
                weight_decay=5e-4,
                together=1,
            ),
            seeds=5,
        ),
    },
    conditions={"task": (MAIN, "even-odd-one-rate", "even-odd-decayed", "even-odd-flipped", *BREADTH, "all-classes")},
    tune_by="validation_accuracy",
    reading=(
        "With one learning rate for all losses, as in the paper, EnsLoss is better by about a percentage point. With "
        "each loss at its own best rate most of that is gone: the fixed losses' slopes vanish once a network fits its "
        "few training samples, and a larger rate makes up for it. EnsLoss, whose slopes never vanish, does well at "
        "small rates already. Whether more is left after the paper's 200 epochs on images, this scale cannot tell."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed of one task: every arm at each of its learning rates, on the test samples or, tuning, on the folds."""
    tuning = run.tuning and len(config.learning_rates) > 1
    arms = arms_of(config)
    # Models that train as one stack share a learning rate, and so an ordinary optimiser and schedule.
    fixed_rate = task_named(config.task).learning_rate
    rates = config.learning_rates if fixed_rate is None else (fixed_rate,)
    stacks = []
    for rate in rates:
        at_rate = [arm for arm in arms if rate in run.settings(arm, rates)]
        stacks += [(rate, at_rate[i : i + config.together]) for i in range(0, len(at_rate), config.together)]
    outcomes = defaultdict(list)
    samples = parts(config, seed, tuning=tuning)
    for number, part in enumerate(samples):
        for place, (rate, together) in enumerate(stacks):
            run.progress(number * len(stacks) + place, len(samples) * len(stacks), f"learning rate {rate:g}")
            for arm, outcome in train(config, together, rate, part, seed, run.device, tuning=tuning).items():
                outcomes[arm, rate].append(outcome)

    for (arm, rate), results in outcomes.items():
        record = partial(Record, arm, setting=str(rate))
        final = float(np.mean([result.curve[config.epochs] for result in results]))
        if tuning:
            yield record("validation_accuracy", final)
            continue
        (result,) = results
        yield record("accuracy", final)
        yield record("train_accuracy", result.train_accuracy)
        if result.violations is not None:
            yield record("violations", result.violations)
        for epoch, accuracy in result.curve.items():
            yield record("accuracy", accuracy, x=epoch)
        if arm == "ensloss" and config.task == MAIN and result.example is not None:
            run.save("batch", result.example)


# The samples.


@dataclass(frozen=True)
class Part:
    """What one training learns from, what it is measured on, and how many outputs that takes (1 for two sides)."""

    x: Float[Tensor, "n ..."]
    y: Int[Tensor, " n"]
    held_x: Float[Tensor, "m ..."]
    held_y: Int[Tensor, " m"]
    outputs: int


def parts(config: Config, seed: int, *, tuning: bool) -> list[Part]:
    """A seed's training and test samples; when tuning, the folds of its training samples alone."""
    task, generator = task_named(config.task), torch.Generator().manual_seed(seed)
    splits = data.load(task.data or config.data)
    if config.own_split and task.data is None:
        (x, y, outputs), (test_x, test_y, _) = labelled(splits["train"], task), labelled(splits["test"], task)
        order = torch.randperm(len(y), generator=generator)
    else:
        x, y, outputs = labelled(data.merge(*splits.values()), task)
        if len(y) <= task.size:
            raise ValueError(f"task={config.task!r}: {len(y)} samples are too few to train on {task.size} and test")
        order, rest = torch.randperm(len(y), generator=generator).split([task.size, len(y) - task.size])
        test_x, test_y = x[rest], y[rest]
    x, y = x[order], y[order]
    if task.flips:
        y = torch.where(torch.rand(len(y), generator=generator) < task.flips, 1 - y, y)
    if not tuning:
        x, test_x = scaled(config, x, test_x)
        return [Part(x, y, test_x, test_y, outputs)]
    fold = torch.arange(len(y)) % config.folds
    folds = []
    for k in range(config.folds):
        rest_x, held_x = scaled(config, x[fold != k], x[fold == k])
        folds.append(Part(rest_x, y[fold != k], held_x, y[fold == k], outputs))
    return folds


def labelled(split: data.Split, task: Task) -> tuple[Tensor, Tensor, int]:
    """The task's samples, their labels and the number of outputs."""
    if not task.positive:
        return split.x, split.y, len(split.classes)

    def numbers(side: tuple[int | str, ...]) -> Tensor:
        return torch.tensor([c if isinstance(c, int) else split.classes.index(c) for c in side])

    positive = torch.isin(split.y, numbers(task.positive))
    keep = positive | torch.isin(split.y, numbers(task.negative))
    return split.x[keep], positive[keep].long(), 1


def scaled(config: Config, x: Tensor, held_x: Tensor) -> tuple[Tensor, Tensor]:
    """Images for a ResNet in [-1, 1]; else vectors, standardised as the training samples say and clamped."""
    if config.net and x.ndim == 4:
        return 2 * x - 1, 2 * held_x - 1
    x, held_x = x.flatten(1), held_x.flatten(1)
    mean, sd = x.mean(0), x.std(0)
    sd = torch.where(sd > 0, sd, 1.0)
    return ((x - mean) / sd).clamp(-5, 5), ((held_x - mean) / sd).clamp(-5, 5)


# The arms.


class Shuffled(EnsLoss):
    """EnsLoss's draws, clip and tail, but which margin gets which slope is chance: no convex loss has such slopes."""

    def phi(self, margins: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        return (-self.draw(margins).clamp(max=1) / margins.detach().clamp(min=1) - self.eps) * margins


DRAWN: dict[str, Callable[..., EnsLoss]] = {
    "ensloss": EnsLoss,
    "shuffled": Shuffled,
    "no_tail": partial(EnsLoss, tail_power=None),
    "no_clip": partial(EnsLoss, clip=None),
    "random_lambda": EnsLoss,
    "ensloss_pairwise": EnsLoss,
    "ensloss_ovr": EnsLoss,
}
GIVEN: dict[str, Callable[[], MarginLoss]] = {
    "bce": LogisticLoss,
    "hinge": HingeLoss,
    "exponential": ExponentialLoss,
    "focal": BinaryFocalLoss,
    "bce_ovr": LogisticLoss,
}


def arms_of(config: Config) -> tuple[str, ...]:
    """Two sides have the paper's arms, and on the main task the ablations; many classes have extensions' arms."""
    if not task_named(config.task).positive:
        return ("ensloss_pairwise", "ensloss_ovr", "bce_ovr", "cross_entropy")
    usual = ("ensloss", *FIXED, "focal")
    return (*usual, "shuffled", "no_tail", "no_clip", "random_lambda") if config.task == MAIN else usual


def margins_of(arm: str, scores: Float[Tensor, "batch outputs"], y: Int[Tensor, " batch"]) -> Float[Tensor, "*set n"]:
    """The margins that an arm's loss acts on; EnsLoss draws a loss for each set of them along the last dimension."""
    if scores.shape[1] == 1:
        return torch.where(y == 1, scores[:, 0], -scores[:, 0])
    return one_vs_rest_margins(scores, y).T if arm.endswith("ovr") else pairwise_margins(scores, y).flatten()


# Training.


@dataclass
class Outcome:
    """What a training came to: accuracies on the held-out samples by epoch and, for a drawn loss, its slopes."""

    curve: dict[int, float] = field(default_factory=dict)
    train_accuracy: float = 0.0
    violations: int | None = None
    example: Float[Tensor, "2 n"] | None = None
    """Margins and slopes of one batch early in training."""


def train(
    config: Config, arms: Sequence[str], rate: float, part: Part, seed: int, device: str, *, tuning: bool = False
) -> dict[str, Outcome]:
    """Train one model for each arm: the same weights at first, the same batches, and its own loss.

    When tuning, nothing but the final accuracy on the held-out samples is measured.
    """
    x, y, held_x, held_y = (t.to(device) for t in (part.x, part.y, part.held_x, part.held_y))
    start = Stack.from_factory(lambda: network(config, x.shape[1:], part.outputs), 1, seed).module(0)
    stack = Stack([start] * len(arms)).to(device)
    decay = task_named(config.task).weight_decay
    optimizer = torch.optim.SGD(
        stack.parameters(),
        rate,
        config.momentum,
        weight_decay=config.weight_decay if decay is None else decay,
        fused=True,
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    drawn = {arm: DRAWN[arm](generator=torch.Generator().manual_seed(seed)) for arm in arms if arm in DRAWN}
    losses = drawn | {arm: GIVEN[arm]() for arm in arms if arm in GIVEN}
    redraws = [
        BoxCoxSchedule(drawn[arm], config.lambda_period, generator=torch.Generator().manual_seed(seed + 1))
        for arm in drawn
        if arm == "random_lambda"
    ]
    outcomes = {arm: Outcome(violations=0 if arm in drawn else None) for arm in arms}
    shuffle = torch.Generator().manual_seed(seed)

    for epoch in range(1, config.epochs + 1):
        for redraw in redraws:
            redraw.step()
        for batch in batches(len(y), config, shuffle):
            values, margins = [], {}
            for arm, scores in zip(arms, stack(x[batch], shared=True), strict=True):
                if arm == "cross_entropy":
                    values.append(F.cross_entropy(scores, y[batch]))
                    continue
                margins[arm] = margins_of(arm, scores, y[batch])
                values.append(losses[arm].phi(margins[arm]).mean())
            for arm in drawn:
                margins[arm].retain_grad()
            optimizer.zero_grad()
            torch.stack(values).sum().backward()
            for arm in () if tuning else drawn:
                examine(outcomes[arm], margins[arm], keep=epoch == EXAMPLE_EPOCH)
            if "exponential" in arms:
                clip_gradient(stack, arms.index("exponential"), config.exponential_clip)
            optimizer.step()
        cosine.step()
        if epoch == config.epochs or (config.task == MAIN and not tuning and epoch % config.curve_every == 0):
            for arm, accuracy in zip(arms, accuracies(stack, held_x, held_y), strict=True):
                outcomes[arm].curve[epoch] = accuracy
    if not tuning:
        for arm, accuracy in zip(arms, accuracies(stack, x, y), strict=True):
            outcomes[arm].train_accuracy = accuracy
    return outcomes


EXAMPLE_EPOCH = 1


def examine(outcome: Outcome, margins: Tensor, *, keep: bool) -> None:
    """Count where the slopes that reached the margins are not those of a convex calibrated loss."""
    assert margins.grad is not None
    assert outcome.violations is not None
    slopes = margins.grad * margins.numel()
    outcome.violations += int(calibration_violations(margins.detach(), slopes).sum())
    if keep:
        outcome.example = torch.stack([margins.detach(), slopes])


def network(config: Config, shape: torch.Size, outputs: int) -> nn.Module:
    """For vectors linear layers, each hidden one with ReLU and then BatchNorm; for images the ResNet of the release."""
    if len(shape) == 3:
        depth = int(str(config.net).removeprefix("resnet"))
        net = ResNet(depth, 512, in_channels=shape[0], widths=config.channels, stem_kernel=7, stem_stride=2)
        # The released network ends in two linear layers.
        return nn.Sequential(net, nn.Linear(512, outputs))
    layers: list[nn.Module] = []
    sizes = [shape[0], *config.widths]
    for before, width in itertools.pairwise(sizes):
        layers += [nn.Linear(before, width), nn.ReLU(), nn.BatchNorm1d(width)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def batches(n: int, config: Config, generator: torch.Generator) -> list[Tensor]:
    """An epoch's batches of positions, less a last one that is not full if so configured."""
    pieces = list(torch.randperm(n, generator=generator).split(config.batch_size))
    return pieces[:-1] if config.drop_last and len(pieces) > 1 and len(pieces[-1]) < config.batch_size else pieces


def clip_gradient(stack: Stack, model: int, norm: float) -> None:
    """Scale the gradient of one model of the stack so that its norm is at most ``norm``."""
    gradients = [p.grad[model] for p in stack.parameters() if p.grad is not None]
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    for gradient in gradients:
        gradient.mul_((norm / (length + 1e-6)).clamp(max=1))


@torch.no_grad()
def accuracies(stack: Stack, x: Tensor, y: Tensor) -> list[float]:
    """Each model's share of right answers, in evaluation mode."""
    stack.eval()
    right = []
    for inputs, target in zip(x.split(2048), y.split(2048), strict=True):
        scores = stack(inputs, shared=True)
        answers = (scores[..., 0] > 0).long() if scores.shape[-1] == 1 else scores.argmax(-1)
        right.append((answers == target).sum(1))
    stack.train()
    return (torch.stack(right).sum(0) / len(y)).tolist()


# The figure.

COLOURS = {
    "ensloss": "#D55E00",
    "bce": "#0072B2",
    "hinge": "#009E73",
    "exponential": "#CC79A7",
    "focal": "#E69F00",
    "shuffled": "#56B4E9",
}
NAMES = {
    "ensloss": "EnsLoss",
    "bce": "BCE",
    "no_tail": "no tail",
    "no_clip": "no clip",
    "random_lambda": "random λ",
    "cross_entropy": "cross-entropy",
    "bce_ovr": "BCE",
}
MARKERS = {"bce": ("o", "●"), "hinge": ("s", "■"), "exponential": ("^", "▲")}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Test accuracy over training on the main task, and EnsLoss's paired differences on it and on all tasks."""
    import matplotlib.pyplot as plt

    reported = records[(records["role"] == "reported") & (records["metric"] == "accuracy")]
    main = reported[reported["task"] == MAIN]
    fig, axes = plt.subplot_mosaic(
        [["curves", "tasks"], ["ablations", "tasks"]], figsize=(11, 7), height_ratios=(2.6, 1)
    )
    fig.set_layout_engine("constrained")
    draw_curves(axes["curves"], main[main["x"].notna()])
    if "batch" in arrays:
        draw_batch(axes["curves"].inset_axes((0.52, 0.12, 0.32, 0.28)), arrays["batch"][0].value)
    final = reported[reported["x"].isna()]
    draw_ablations(axes["ablations"], final[final["task"] == MAIN])
    draw_tasks(axes["tasks"], final)
    return fig


def name_of(arm: str) -> str:
    return NAMES.get(arm, arm)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)


def differences(final: pd.DataFrame, arm: str, other: str) -> np.ndarray:
    """Of the seeds that have both, in percentage points."""
    table = final.pivot_table(index="seed", columns="arm", values="value")
    if not {arm, other} <= set(table):
        return np.array([])
    return 100 * (table[arm] - table[other]).dropna().to_numpy()


def draw_curves(ax: Axes, curves: pd.DataFrame) -> None:
    ends, lowest = {}, np.inf
    for arm, colour in COLOURS.items():
        table = curves[curves["arm"] == arm].pivot_table(index="x", columns="seed", values="value")
        if table.empty:
            continue
        mean, half = np.array([interval(100 * row) for row in table.to_numpy()]).T
        ax.plot(table.index, mean, color=colour, lw=2 if arm == "ensloss" else 1.3)
        ax.fill_between(table.index, mean - half, mean + half, color=colour, alpha=0.1, lw=0)
        ends[arm], lowest = mean[-1], min(lowest, mean[len(mean) // 2 :].min())
    if not ends:
        ax.text(0.5, 0.5, f"no curves: task {MAIN} was not run", ha="center", transform=ax.transAxes)
        return
    last = curves["x"].max()
    high = max(ends.values())
    room = max(high - lowest, 0.5)
    ax.set_ylim(lowest - 1.3 * room, high + 0.5 * room)  # the inset takes the lower half
    # Names beside the ends of their lines, moved apart where they would overlap.
    gap, floor = 0.055 * np.diff(ax.get_ylim())[0], -np.inf
    for arm, end in sorted(ends.items(), key=lambda item: item[1]):
        floor = max(end, floor + gap)
        ax.text(1.01 * last, floor, name_of(arm), color=COLOURS[arm], va="center", fontsize=9)
    ax.set_xlim(0, 1.22 * last)
    ax.set(xlabel="epoch", ylabel="test accuracy (%)", title="Odd or even digit, each arm at its best learning rate")


def draw_batch(ax: Axes, batch: np.ndarray) -> None:
    margins, slopes = batch[:, batch[0].argsort()]
    ax.plot(margins, slopes, "o", ms=3, color=COLOURS["ensloss"])
    ax.set_title("slopes drawn for one batch", fontsize=8)
    ax.set_xlabel("margin", fontsize=8, labelpad=1)
    ax.set_ylabel("slope", fontsize=8, labelpad=1)
    ax.tick_params(labelsize=7)


def draw_ablations(ax: Axes, final: pd.DataFrame) -> None:
    arms = ("focal", "shuffled", "no_tail", "no_clip", "random_lambda")
    for row, arm in enumerate(arms):
        draw_interval(ax, -row, differences(final, "ensloss", arm), COLOURS["ensloss"], "o")
    draw_zero(ax, len(arms))
    ax.set_yticks([-row for row in range(len(arms))], [name_of(arm) for arm in arms])
    ax.set_xlabel("EnsLoss minus this, same task (percentage points)")


def draw_tasks(ax: Axes, final: pd.DataFrame) -> None:
    tasks = sorted(set(final["task"]), key=(*study.conditions["task"], *final["task"]).index)
    rows: list[str] = []
    for task in tasks:
        at_task = final[final["task"] == task]
        if task_named(task).positive:
            for place, base in enumerate(FIXED):
                height = -len(rows) - 0.24 * (place - 1)
                draw_interval(ax, height, differences(at_task, "ensloss", base), COLOURS[base], MARKERS[base][0])
            rows.append(task)
        else:
            pairs = {"ensloss_pairwise": "cross_entropy", "ensloss_ovr": "bce_ovr"}
            for arm, base in pairs.items():
                draw_interval(ax, -len(rows), differences(at_task, arm, base), COLOURS["focal"], "D")
                kind = "pairwise" if arm == "ensloss_pairwise" else "one-vs-rest"
                rows.append(f"{task}, {kind},\nminus {name_of(base)}")
    draw_zero(ax, len(rows))
    ax.set_yticks([-row for row in range(len(rows))], rows)
    ax.set_ylim(0.4 - len(rows), 1.7)
    ax.set(
        xlabel="percentage points of test accuracy, 95 % intervals",
        title="EnsLoss minus other losses, by task",
    )
    # The tally as the paper gives it, over the tasks with clean labels and tuned rates.
    clean = final[final["task"].isin((MAIN, *BREADTH))]
    wide = clean.pivot_table(index="task", columns=["arm", "seed"], values="value").dropna(axis="columns")
    for place, base in enumerate(FIXED):
        text = f"{MARKERS[base][1]} minus {name_of(base)}"
        if {"ensloss", base} <= set(wide.columns.get_level_values("arm")):
            ours, theirs = wide["ensloss"], wide[base]
            seeds = ours.columns.intersection(theirs.columns)
            if len(seeds) > 1:
                tally = paired_tally(ours[seeds], theirs[seeds])
                text += f"; clean tasks: {tally.better} better, {tally.none} no different, {tally.worse} worse"
        ax.text(0.02, 0.99 - 0.035 * place, text, color=COLOURS[base], transform=ax.transAxes, va="top", fontsize=8.5)


def draw_interval(ax: Axes, height: float, values: np.ndarray, colour: str, marker: str) -> None:
    if len(values):
        mean, half = interval(values)
        ax.errorbar(mean, height, xerr=half, fmt=marker, ms=5, color=colour)


def draw_zero(ax: Axes, rows: int) -> None:
    from matplotlib import rcParams

    ax.vlines(0, 0.6 - rows, 0.4, lw=0.8, color=rcParams["text.color"])
