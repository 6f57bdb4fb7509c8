"""Label Distributionally Robust Losses for Multi-class Classification: Consistency, Robustness and Adaptivity.

Dixian Zhu, Yiming Ying and Tianbao Yang, arXiv 2112.14869, ICML 2023. A given label may be wrong: take the worst case
over label distributions, with a temperature for each training sample. The paper's claim: on clean and on noisy labels
this loss, ALDR-KL, ranks at or near the top of 14, in top-1 to top-5 accuracy.

Here every loss trains the same network from the same weights on the same batches of the same noisy labels, and is
tested on clean ones. Each has six settings: three values of its parameter at two learning rates, or six rates where it
has none. They are compared on held-out samples whose labels are noisy too, of seeds that are not reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from landform import data
from landform.claims import Better, Equivalent
from landform.losses import (
    AdaptiveLDRKLLoss,
    CrammerSingerLoss,
    GCELoss,
    JSLoss,
    LDRKLLoss,
    MAELoss,
    MSELoss,
    NCEandAGCELoss,
    NCEandAULLoss,
    NCEandRCELoss,
    RLLLoss,
    SCELoss,
    TruncatedGCELoss,
    WestonWatkinsLoss,
    log_likelihood,
)
from landform.metrics import top_k_accuracy
from landform.models import MLP, ResNet
from landform.optim.schedules import step_factor
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack, StackedSGD, predict_many

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The losses.


def cross_entropy(logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    return -log_likelihood(logits, target)


Psi = Callable[[Tensor, Tensor], Tensor]
WITHOUT: dict[str, Psi] = {"ce": cross_entropy, "mae": MAELoss().psi, "mse": MSELoss().psi}
WITH: dict[str, tuple[tuple[float, float, float], Callable[[float], Any]]] = {
    "cs": ((0.1, 1.0, 10.0), CrammerSingerLoss),
    "ww": ((0.1, 1.0, 10.0), WestonWatkinsLoss),
    "gce": ((0.05, 0.7, 0.95), GCELoss),
    "tgce": ((0.05, 0.7, 0.95), partial(TruncatedGCELoss, 1)),
    "sce": ((0.05, 0.5, 0.95), SCELoss),
    "rll": ((0.1, 1.0, 10.0), RLLLoss),
    "js": ((0.1, 0.5, 0.9), lambda weight: JSLoss((weight, 1 - weight))),
    "nce_rce": ((0.1, 5.0, 9.9), lambda a: NCEandRCELoss(a, 10 - a)),
    "nce_aul": ((0.1, 5.0, 9.9), lambda a: NCEandAULLoss(a, 10 - a)),
    "nce_agce": ((0.1, 5.0, 9.9), lambda a: NCEandAGCELoss(a, 10 - a)),
    "ldr": ((0.1, 1.0, 10.0), LDRKLLoss),
    "aldr": ((0.1, 1.0, 10.0), partial(AdaptiveLDRKLLoss, 1)),
}
"""The grid of each parameter and what makes the loss of it. Tables of the training samples are kept by the training."""

LOSSES = (*WITHOUT, *WITH)
BASELINES = tuple(arm for arm in LOSSES if arm not in ("ldr", "aldr"))
FIXED = "fixed"
"""A control: ALDR-KL as it was chosen, but each lambda_i stays lambda_0."""


@dataclass(frozen=True)
class Setting:
    """A learning rate and, of losses that have one, a parameter."""

    rate: float
    parameter: float | None = None

    def __str__(self) -> str:
        return f"{self.rate:g}" if self.parameter is None else f"{self.rate:g}, {self.parameter:g}"


# The study.


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    noise: str = "none"
    """``none``, ``uniform-LEVEL``, or ``dependent-LEVEL``: class y becomes y + 1, or its partner if there are pairs."""
    pairs: tuple[str, ...] = ()
    """Such as 1-3,2-6: the classes that class-dependent noise exchanges."""
    own_split: bool = False
    """Train and test on the data's own splits, rather than train on a few samples and test on the others."""
    train_size: int = 1000
    validation: float = 0.2
    """The share of the training samples that settings are compared on."""

    net: Literal["mlp", "resnet18"] = "mlp"
    hidden: int = 64
    """The width of the two layers of a multi-layer perceptron; the lesser of inputs and classes if 0."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    augment: bool = False
    softplus: bool = False
    """Whether ALDR-KL takes the softplus of the logits first."""
    balanced: bool = False
    """Whether accuracies are means over classes."""

    epochs: int = 30
    batch_size: int = 64
    milestones: tuple[float, ...] = (0.5, 0.75)
    """When the learning rate falls to a tenth, as shares of the training."""
    learning_rates: tuple[float, ...] = (0.1, 0.01)
    other_rates: tuple[float, ...] = (1.0, 0.3, 0.03, 0.003)
    """What losses without a parameter have in addition, so that every loss has equally many settings."""
    parameters: int = 3
    """How many values of its parameter a loss has; the middle one alone if 1."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    margin: float = 0.1
    alpha: float = 2.0
    together: int = 100
    """How many models, at most, train as one stack."""

    def __post_init__(self) -> None:
        noise_of(self.noise)
        partners(self.pairs)
        if self.parameters not in (1, 3):
            raise ValueError(f"parameters={self.parameters}: must be 1 or 3")
        for name in ("learning_rates", "other_rates"):
            if not all(rate > 0 for rate in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        if not self.learning_rates or len(self.other_rates) != (self.parameters - 1) * len(self.learning_rates):
            raise ValueError(
                f"other_rates={self.other_rates}: must be {self.parameters - 1} for each of "
                f"learning_rates={self.learning_rates}, so that every loss has equally many settings"
            )
        for name in ("train_size", "epochs", "batch_size", "together"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}: must be between 0 and 1")


def noise_of(name: str) -> tuple[str, float]:
    """The kind and the level that a noise's name speaks of."""
    if name == "none":
        return "uniform", 0.0
    found = re.fullmatch(r"(uniform|dependent)-(0\.\d+|1|0)", name)
    if not found:
        raise ValueError(f"noise={name!r}: must be none, or uniform or dependent with a level, as in uniform-0.6")
    return found[1], float(found[2])


def partners(pairs: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of class numbers, from texts such as 1-3."""
    found = [re.fullmatch(r"(\d+)-(\d+)", pair) for pair in pairs]
    if not all(found):
        raise ValueError(f"pairs={tuple(pairs)}: each must be two class numbers, as in 1-3")
    return [(int(match[1]), int(match[2])) for match in found if match]


def grid(config: Config, arm: str) -> list[Setting]:
    """The settings that an arm is tuned over."""
    if arm in WITHOUT:
        return [Setting(rate) for rate in (*config.learning_rates, *config.other_rates)]
    values, _ = WITH[arm]
    kept = values if config.parameters == 3 else values[1:2]
    return [Setting(rate, value) for value in kept for rate in config.learning_rates]


NOISE = ("none", "uniform-0.3", "uniform-0.6", "dependent-0.3")

study = Study(
    "ldr-losses",
    claims=[
        Better(
            "mean_rank",
            "aldr",
            than=BASELINES,
            by=-1.0,
            says="Over clean and noisy labels and top-1 to top-5 accuracy ALDR-KL ranks at the top of 15 losses, or "
            "less than one place behind the best of 13 others",
        ),
        *(
            Better("top_1", "aldr", than="ce", at={"noise": noise}, says=f"ALDR-KL beats cross-entropy, {noise}")
            for noise in NOISE[1:]
        ),
        *(
            Better("top_1", "aldr", than=BASELINES, at={"noise": noise}, says=f"ALDR-KL beats all 13 others, {noise}")
            for noise in NOISE[1:]
        ),
        Equivalent(
            "top_1",
            "aldr",
            "ce",
            within=0.5,
            at={"noise": "none"},
            says="There is no price: with clean labels ALDR-KL is within half a point of cross-entropy",
        ),
        *(
            Better(
                "top_2",
                "aldr",
                than="ce",
                at={"noise": noise},
                says=f"The right class is among ALDR-KL's first two more often too, {noise}",
            )
            for noise in NOISE[2:]
        ),
        Better(
            "top_2",
            "aldr",
            than=("mae", "nce_rce"),
            at={"noise": "uniform-0.6"},
            says="Symmetric losses give up top-2 accuracy, uniform-0.6: ALDR-KL beats MAE and NCE+RCE in it",
        ),
        *(
            Better(
                "lambda",
                "corrupted rows",
                than="clean rows",
                at={"noise": noise},
                says=f"The mechanism: wrongly labelled samples end with a larger lambda, {noise}",
            )
            for noise in NOISE[2:]
        ),
        *(
            Better(
                "top_1",
                "aldr",
                than=FIXED,
                at={"noise": noise},
                says=f"A control: ALDR-KL beats itself with every lambda held at lambda_0, {noise}",
            )
            for noise in NOISE[2:]
        ),
    ],
    presets={
        "smoke": Preset(Config(train_size=200, epochs=2, learning_rates=(0.1,), other_rates=(), parameters=1), seeds=1),
        "laptop": Preset(Config(), seeds=20, tuning_seeds=6),
        "paper": Preset(
            Config(
                data="hf:cifar100",
                own_split=True,
                net="resnet18",
                hidden=0,
                augment=True,
                softplus=True,
                milestones=(1 / 3, 2 / 3),
                learning_rates=(0.1, 0.01, 0.001),
                other_rates=(1.0, 0.3, 0.03, 0.003, 0.0003, 0.0001),
                weight_decay=5e-3,
                together=1,
            ),
            seeds=5,
            tuning_seeds=1,
        ),
    },
    conditions={"noise": NOISE},
    minimise=("mean_rank",),
    tune_by="validation_top_1",
    reading=(
        "Under label noise ALDR-KL beats cross-entropy by far, and with class-dependent noise every other loss too. "
        "Its mean rank is in the middle all the same: with 60 % of labels drawn at random SCE, RLL and GCE do better, "
        "and with clean labels all losses lie within half a point, where ranks say little. Over all four noises "
        "LDR-KL, its plain form, has the best mean accuracy. Adaptivity itself does nothing that can be seen: wrong "
        "labels do end with larger temperatures, but within 2 % of lambda_0 = 10, the value that every noise chooses, "
        "since normalised logits leave the worst case nearly uniform; held there, they lead to the same accuracy."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed of one noise: every loss at each of its settings."""
    jobs = [(arm, setting) for arm in LOSSES for setting in run.settings(arm, grid(config, arm))]
    if not run.tuning or config.parameters == 1:
        # The control has the setting of ALDR-KL.
        jobs += [(FIXED, setting) for setting in run.settings("aldr", grid(config, "aldr"))]
    validating = run.tuning and config.parameters > 1
    part = samples(config, seed, validating)
    found: dict[tuple[str, Setting], Tensor] = {}
    pieces = [jobs[i : i + config.together] for i in range(0, len(jobs), config.together)]
    for done, piece in enumerate(pieces):
        run.progress(done, len(pieces), "trainings")
        stack, lam = train(config, piece, part, seed, run.device)
        logits = predict_many(stack, part.held_x.to(run.device)).cpu().nan_to_num()  # what diverged prefers no class
        ks = range(1, min(5, logits.shape[-1]) + 1)
        accuracy = 100 * top_k_accuracy(logits, part.held_y, ks, balanced=config.balanced)
        found |= dict(zip(piece, accuracy, strict=True))
        if lam is not None and not validating:
            yield from temperatures(lam, part.corrupted, run)

    for (arm, setting), accuracy in found.items():
        if validating:
            yield Record(arm, "validation_top_1", float(accuracy[0]), setting=str(setting))
            continue
        for k, value in enumerate(accuracy.tolist(), start=1):
            yield Record(arm, f"top_{k}", value, setting=str(setting))
    if not validating:
        ranked = {arm: (setting, accuracy) for (arm, setting), accuracy in found.items() if arm != FIXED}
        places = stats.rankdata([-accuracy.numpy() for _, accuracy in ranked.values()], axis=0).mean(axis=1)
        for (arm, (setting, _)), place in zip(ranked.items(), places.tolist(), strict=True):
            yield Record(arm, "mean_rank", place, setting=str(setting))


def temperatures(lam: Float[Tensor, " n"], corrupted: Bool[Tensor, " n"], run: Run) -> Iterator[Record]:
    """ALDR-KL's final lambda_i, in units of lambda_0, of the samples with right and with wrong labels."""
    for arm, rows in (("clean rows", ~corrupted), ("corrupted rows", corrupted)):
        if rows.any():
            yield Record(arm, "lambda", float(lam[rows].double().mean()))
    run.save("lambda", torch.stack([lam, corrupted.to(lam)]))


# The samples.


@dataclass(frozen=True)
class Part:
    """What is trained on, with which labels are wrong, and what is measured on."""

    x: Float[Tensor, "n ..."]
    y: Int[Tensor, " n"]
    corrupted: Bool[Tensor, " n"]
    held_x: Float[Tensor, "m ..."]
    held_y: Int[Tensor, " m"]
    classes: int


def samples(config: Config, seed: int, validating: bool) -> Part:
    """A seed's training samples with noisy labels and, held out, the test samples or a part of the training ones."""
    generator = torch.Generator().manual_seed(seed)
    splits = data.load(config.data)
    if config.own_split:
        train, test = splits["train"], splits["test"]
        train = train[torch.randperm(len(train), generator=generator)]
    else:
        whole = data.merge(*splits.values())
        if len(whole) <= config.train_size:
            raise ValueError(f"train_size={config.train_size}: {config.data} has {len(whole)} samples, none to test on")
        order = torch.randperm(len(whole), generator=generator)
        train, test = whole[order[: config.train_size]], whole[order[config.train_size :]]
    kind, level = noise_of(config.noise)
    classes = len(train.classes) or int(max(train.y.max(), test.y.max())) + 1
    if kind == "uniform":
        y, corrupted = data.uniform_label_noise(train.y, level, classes, generator=generator)
    elif config.pairs:
        pairs = partners(config.pairs)
        y, corrupted = data.pair_label_noise(train.y, level, pairs, num_classes=classes, generator=generator)
    else:
        y, corrupted = data.cyclic_label_noise(train.y, level, classes, generator=generator)
    train = replace(train, y=y)
    if validating:
        size = round(config.validation * len(train))
        train, test, corrupted = train[size:], train[:size], corrupted[size:]
    x, held_x = scaled(config, train.x, test.x)
    return Part(x, train.y, corrupted, held_x, test.y, classes)


def scaled(config: Config, x: Tensor, held_x: Tensor) -> tuple[Tensor, Tensor]:
    """Centred and scaled as the training samples say: images channel by channel, vectors column by column."""
    if config.net == "mlp":
        x, held_x = x.flatten(1), held_x.flatten(1)
    over = [0, *range(2, x.ndim)]
    mean, sd = x.mean(over, keepdim=True), x.std(over, keepdim=True)
    sd = torch.where(sd > 0, sd, 1.0)
    return (x - mean) / sd, (held_x - mean) / sd


def network(config: Config, shape: torch.Size, classes: int) -> nn.Module:
    """The paper's networks: two hidden layers with tanh, or the ResNet-18 for small images."""
    if config.net == "resnet18":
        return ResNet(18, classes, in_channels=shape[0], widths=config.channels)
    inputs = shape.numel()
    net = MLP(inputs, (config.hidden or min(inputs, classes),) * 2, classes, activation="tanh")
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return net


def augmented(x: Float[Tensor, "batch c h w"], generator: torch.Generator) -> Float[Tensor, "batch c h w"]:
    """Each image cropped at random to 15/16 of its size, mirrored or not, and enlarged to what it was."""
    n, channels, size, _ = x.shape
    kept = size * 15 // 16
    top, left = torch.randint(size - kept + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(kept), left + torch.arange(kept)
    columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    which = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    cropped = x[(*which, rows[:, None, :, None], columns[:, None, None, :])]
    return F.interpolate(cropped, size=size, mode="bilinear", antialias=True)


# Training.


class Group:
    """Models of a stack that share a loss and its parameter, with the tables of their training samples."""

    def __init__(self, config: Config, arm: str, parameter: float | None, models: slice, samples: int) -> None:
        self.arm, self.models = arm, models
        count = models.stop - models.start
        options: dict[str, Any] = {"margin": config.margin} if arm in ("ldr", "aldr", FIXED) else {}
        if arm == "aldr":
            options |= {"alpha": config.alpha, "softplus": config.softplus}
        self.loss: Any = None
        if parameter is None:
            self.psi = WITHOUT[arm]
        elif arm == FIXED:
            self.loss = LDRKLLoss(parameter, normalize="mean_softplus" if config.softplus else "l1", **options)
            self.psi = self.loss.psi
        else:
            self.loss = WITH[arm][1](parameter, **options)
            self.psi = self.loss.psi
        self.table = torch.full((count, samples), parameter if arm == "aldr" and parameter else 1.0)

    def __call__(self, logits: Float[Tensor, "m b k"], target: Int[Tensor, " b"], rows: Int[Tensor, " b"]) -> Tensor:
        """The sum of these models' losses on a batch."""
        target = target.expand(logits.shape[:-1])
        if isinstance(self.loss, AdaptiveLDRKLLoss):
            values, self.table[:, rows] = self.loss.psi(logits, target, self.table[:, rows])
        elif isinstance(self.loss, TruncatedGCELoss):
            values = self.table[:, rows] * self.psi(logits, target)
        else:
            values = self.psi(logits, target)
        return values.mean(-1).sum()


def train(
    config: Config, jobs: Sequence[tuple[str, Setting]], part: Part, seed: int, device: str
) -> tuple[Stack, Float[Tensor, " n"] | None]:
    """Train a model for each job, from the same weights on the same batches; and ALDR-KL's lambda_i over lambda_0."""
    x, y = part.x.to(device), part.y.to(device)
    start = Stack.from_factory(lambda: network(config, x.shape[1:], part.classes), 1, seed).module(0)
    stack = Stack([start] * len(jobs)).to(device)
    groups = grouped(config, jobs, len(y))
    for group in groups:
        group.table = group.table.to(device)
    rates = torch.tensor([setting.rate for _, setting in jobs])
    optimizer = StackedSGD(stack.parameters(), rates, config.momentum, config.weight_decay)
    believing = torch.tensor([arm == "tgce" for arm, _ in jobs])
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(config.epochs):
        optimizer.param_groups[0]["lr"] = rates * step_factor(epoch / config.epochs, config.milestones)
        pruning = believing.any() and (epoch + 1) % 10 == 0 and epoch > config.epochs // 2
        for rows in torch.randperm(len(y), generator=generator).split(config.batch_size):
            batch = augmented(x[rows].cpu(), generator).to(device) if config.augment else x[rows]
            logits = stack(batch, shared=True)
            optimizer.zero_grad()
            torch.stack([group(logits[group.models], y[rows], rows) for group in groups]).sum().backward()
            # As released: in a pass that prunes, truncated GCE judges its samples and makes no update.
            optimizer.step(active=~believing if pruning else None)
            if pruning:
                for group in groups:
                    if isinstance(group.loss, TruncatedGCELoss):
                        target = y[rows].expand(logits[group.models].shape[:-1])
                        p = log_likelihood(logits[group.models].detach(), target).exp()
                        group.table[:, rows] = (p > group.loss.threshold).to(p)
    lam = [group.table[0].cpu() / group.loss.lam0 for group in groups if isinstance(group.loss, AdaptiveLDRKLLoss)]
    return stack, lam[0] if lam else None


def grouped(config: Config, jobs: Sequence[tuple[str, Setting]], samples: int) -> list[Group]:
    """Neighbouring jobs with one loss and parameter together."""
    groups, begin = [], 0
    for end in range(1, len(jobs) + 1):
        arm, setting = jobs[begin]
        if end == len(jobs) or (jobs[end][0], jobs[end][1].parameter) != (arm, setting.parameter):
            groups.append(Group(config, arm, setting.parameter, slice(begin, end), samples))
            begin = end
    return groups


# The figure.

NAMES = {
    "ce": "cross-entropy",
    "mae": "MAE",
    "mse": "MSE",
    "cs": "Crammer-Singer",
    "ww": "Weston-Watkins",
    "gce": "GCE",
    "tgce": "truncated GCE",
    "sce": "SCE",
    "rll": "RLL",
    "js": "JS",
    "nce_rce": "NCE+RCE",
    "nce_aul": "NCE+AUL",
    "nce_agce": "NCE+AGCE",
    "ldr": "LDR-KL",
    "aldr": "ALDR-KL",
    FIXED: "ALDR-KL, λ fixed",
}
CLEAN, WRONG = "#0072B2", "#D55E00"


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Test accuracy of every loss under each noise, by mean rank; and where ALDR-KL's temperatures end."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    noises = sorted(set(reported["noise"]), key=(*NOISE, *reported["noise"]).index)
    hit = [noise for noise in noises if "corrupted rows" in set(reported[reported["noise"] == noise]["arm"])]
    fig = plt.figure(figsize=(12, 4.8 + 1.2 * bool(hit)), layout="constrained")
    parts: Any = fig.subfigures(1 + bool(hit), 1, height_ratios=(3, 1.2)[: 1 + bool(hit)], squeeze=False)[:, 0]
    ranks = reported[reported["metric"] == "mean_rank"].groupby("arm")["value"].mean().sort_values()
    order = [*ranks.index, FIXED]
    axes = parts[0].subplots(1, len(noises), sharey=True, squeeze=False)[0]
    for ax, noise in zip(axes, noises, strict=True):
        draw_accuracies(ax, reported[(reported["metric"] == "top_1") & (reported["noise"] == noise)], order)
        ax.set(title=f"labels: {noise}", xlabel="test accuracy (%)")
    axes[0].set_yticks(range(len(order)), [f"{NAMES[arm]}  {place(ranks, arm)}" for arm in order])
    axes[0].invert_yaxis()
    axes[0].set_ylabel("loss and mean rank (noises, top-1 … top-5)")
    if hit:
        for ax, noise in zip(parts[1].subplots(1, len(hit), squeeze=False)[0], hit, strict=True):
            draw_temperatures(ax, [s.value for s in arrays["lambda"] if s.condition.get("noise", noise) == noise])
            ax.set_title(f"ALDR-KL's temperatures, {noise}", fontsize=9)
    return fig


def place(ranks: pd.Series, arm: str) -> str:
    return f"{ranks[arm]:.1f}" if arm in ranks else "–"


def draw_accuracies(ax: Axes, frame: pd.DataFrame, order: Sequence[str]) -> None:
    """Means with 95 % intervals, a row each, and a line down from ALDR-KL's."""
    for row, arm in enumerate(order):
        values = frame[frame["arm"] == arm]["value"].to_numpy(float)
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else 0.0
        colour, face = (WRONG, "none" if arm == FIXED else WRONG) if arm in ("aldr", FIXED) else (CLEAN, CLEAN)
        ax.errorbar(values.mean(), row, xerr=half, fmt="o", ms=5, color=colour, markerfacecolor=face, capsize=2)
        if arm == "aldr":
            ax.axvline(values.mean(), color=WRONG, lw=0.8, ls=":", zorder=0)


def draw_temperatures(ax: Axes, saved: Sequence[NDArray[Any]]) -> None:
    """Densities of lambda_i over lambda_0 of the samples of all seeds, by whether their labels are right."""
    lam, wrong = np.concatenate(saved, axis=1)
    edges = np.linspace(lam.min(), max(lam.max(), lam.min() + 1e-6), 40).tolist()
    for rows, colour, name, x in ((wrong == 0, CLEAN, "right labels", 0.02), (wrong == 1, WRONG, "wrong labels", 0.98)):
        ax.hist(lam[rows], edges, density=True, histtype="step", color=colour, lw=1.4)
        side: Any = "left" if x < 0.5 else "right"
        ax.text(x, 0.96, name, color=colour, ha=side, va="top", transform=ax.transAxes, fontsize=9)
    ax.margins(y=0.3)
    ax.set(xlabel="λ of a sample / λ₀", ylabel="density")
    ax.set_yticks([])
    ax.locator_params(axis="x", nbins=5)
