"""Unknown Domain Inconsistency Minimization for Domain Generalization.

Seungjae Shin et al., arXiv 2403.07329, ICLR 2024. Beside sharpness-aware minimisation on the source domain, penalise
how differently the loss landscape behaves on inputs that are perturbed into a domain that is not there. The paper's
claim: accuracy on unseen domains improves over sharpness-aware minimisation, most clearly from a single source domain.

Here the domains are typefaces: letters are learned in one of them (or three), and read in others. Every arm trains the
same network from the same weights on as many batches. Settings and checkpoints are chosen on held-out samples of the
sources, never on the targets. The inconsistency is divided by the number of entries of the last layer, which is small
here, so that its weight is tuned among 1 (the paper's), 10 and 100.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from landform import data
from landform.claims import Better, Trend
from landform.data import Split, affine_jitter
from landform.models import ResNet, WithHead, load_resnet_weights, train_with_frozen_norm
from landform.optim.sharpness import SAM, UDIM, GradientVarianceInconsistency, sharpness
from landform.optim.sharpness.perturb import PerturbMode
from landform.optim.sharpness.udim import Crafted
from landform.shift import BestCheckpoint, domain_batches, domain_task, load_domains
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    data: str = "glyphs:latin?size=20"
    classes: int | None = 26
    """The first so many of the data's classes, here the capitals; all if None."""
    source_domains: tuple[str, ...] = ("DejaVu Sans", "STIX Bold", "Computer Modern Sans")
    """The first ``sources`` of them are trained on; if empty, seed by seed as many as follow one another."""
    target_domains: tuple[str, ...] = (
        "DejaVu Sans Bold",
        "DejaVu Sans Oblique",
        "DejaVu Sans Mono",
        "DejaVu Serif",
        "DejaVu Serif Italic",
        "STIX",
        "STIX Italic",
        "Computer Modern Roman",
        "Computer Modern Italic",
        "Computer Modern Typewriter",
    )
    """If empty, all that are not sources."""
    sources: int = 1
    source_copies: int = 24
    """Jittered copies of each image of the sources, so many over all sources; 0 takes images as they are."""
    target_copies: int = 6
    held_out: float = 0.2

    net: str = "strided"
    weights: str = ""
    """A file of ImageNet weights for a ResNet, named as in torchvision."""
    dropout: float = 0.0
    augment: bool = False
    standardise: bool = False
    """By the mean and spread of ImageNet's channels."""

    steps: int = 300
    warm_up: float = 0.2
    """The share of steps that SAM makes before UDIM begins from the best checkpoint of them."""
    checkpoint_every: int = 20
    batch_size: int = 30
    """Of all sources together, as many of each."""
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    rho: float = 0.05
    radius: float = 1.0
    mode: PerturbMode = "sample"
    """Released: "batch" for several sources; "style" for one, without effect (see perturb_inputs)."""
    long_factor: int = 6
    """How many times as many steps plain training makes in the time of UDIM, as measured."""

    learning_rate_factors: tuple[float, ...] = (1.0, 0.3, 3.0)
    rhos: tuple[float, ...] = (0.05, 0.02, 0.1)
    inconsistency_weights: tuple[float, ...] = (1.0, 10.0, 100.0)
    adversarial_weights: tuple[float, ...] = (1.0, 0.3, 3.0)

    def __post_init__(self) -> None:
        for name in ("sources", "steps", "checkpoint_every", "batch_size", "learning_rate", "radius", "long_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        if not 0 < self.warm_up < 1:
            raise ValueError(f"warm_up={self.warm_up}: must lie between 0 and 1")
        if self.source_domains and self.sources > len(self.source_domains):
            raise ValueError(f"sources={self.sources}: there are only {len(self.source_domains)} source_domains")
        if self.batch_size % self.sources:
            raise ValueError(f"batch_size={self.batch_size}: must divide among {self.sources} sources")
        if not re.fullmatch(r"strided|resnet(18|34|50|101|152)", self.net):
            raise ValueError(f"net={self.net!r}: must be strided, or resnet18 and so on")


ONE = {"sources": 1}

study = Study(
    "udim",
    claims=[
        Better(
            "target_accuracy",
            "udim",
            than=("erm", "sam"),
            at=ONE,
            says="Trained on one domain, UDIM is more accurate on unseen ones than SAM and than plain training (ERM)",
        ),
        Better(
            "inconsistency",
            "udim",
            than="sam",
            at=ONE,
            says="Mechanism: the inconsistency between held-out and crafted samples is lower after UDIM than after SAM",
        ),
        Better(
            "sharpness_gap",
            "udim",
            than="sam",
            at=ONE,
            says="Mechanism: sharpness on crafted samples is nearer to that on held-out ones after UDIM than after SAM",
        ),
        Trend(
            "target_accuracy",
            "udim",
            over="sources",
            sign=-1,
            than="sam",
            says="The gain of UDIM over SAM is larger from one source domain than from three",
        ),
        Better(
            "target_accuracy",
            "udim",
            than="adversarial",
            at=ONE,
            says="A control: UDIM beats SAM that also trains on the crafted samples with cross-entropy",
        ),
        Better(
            "target_accuracy",
            "udim",
            than="no_variance",
            at=ONE,
            says="A control: the variance term of the inconsistency helps",
        ),
        Better(
            "target_accuracy",
            "udim",
            than="random",
            at=ONE,
            says="A control: crafted perturbations help more than random ones of the same size",
        ),
        Better(
            "target_accuracy",
            "udim",
            than="erm_long",
            at=ONE,
            says="A control: UDIM beats plain training that is given UDIM's time",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                steps=5,
                checkpoint_every=3,
                source_copies=12,
                target_copies=1,
                long_factor=2,
                learning_rate_factors=(1.0,),
                rhos=(0.05,),
                inconsistency_weights=(1.0,),
                adversarial_weights=(1.0,),
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=8, tuning_seeds=2),
        "paper": Preset(
            Config(
                data="folder:PACS?size=224&grayscale=false",
                classes=None,
                source_domains=(),
                target_domains=(),
                source_copies=0,
                target_copies=0,
                net="resnet18",
                weights="resnet18.safetensors",
                dropout=0.5,
                augment=True,
                standardise=True,
                steps=5000,
                checkpoint_every=100,
                batch_size=48,
                learning_rate=3e-5,
                radius=10.0,
                mode="batch",
                inconsistency_weights=(1.0, 0.1, 10.0),
            ),
            seeds=12,
            tuning_seeds=4,
        ),
    },
    conditions={"sources": (1, 3)},
    minimise=("inconsistency", "sharpness_gap"),
    tune_by="validation_accuracy",
    reading=(
        "At this scale the headline is open, and the figure shows why. Held-out letters of the source choose the "
        "paper's weight of 1, which gains 1.2 points over SAM from one source (within chance) and 3.0 from three. A "
        "weight of 100 gains 4.8 ± 1.8 points from one source, but accuracy on the source, which is much the same, "
        "cannot tell. Sharpness on crafted samples falls as the paper says. The variance term changes nothing at the "
        "chosen weight, and cross-entropy on the crafted samples gains as much as UDIM at its strongest."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: every arm at its settings, from the same weights and on batches of the same samples."""
    task = make_task(config, seed).to(run.device)
    tuning = run.tuning and len(config.rhos) > 1
    plan: list[tuple[str, float, str | None]] = [
        (arm, value, str(value)) for arm, grid in grids(config).items() for value in run.settings(arm, grid)
    ]
    if not tuning and config.sources == 1:
        plan += [(arm, weight, None) for arm, weight in FIXED_WEIGHTS.items()]
    for place, (arm, value, setting) in enumerate(plan):
        run.progress(place, len(plan), f"{arm} at {value:g}")
        course = train(config, arm, value, task, seed, test=not tuning)
        yield Record(arm, "validation_accuracy", course.chosen.score, setting=setting)
        if not tuning:
            yield from (replace(found, arm=arm, setting=setting) for found in measured(config, course, task, seed))
    run.save("distances", distances(task))
    run.save("targets", np.array(task.targets))


FIXED_WEIGHTS = {"udim_default": 1.0, "udim_strong": 100.0}
"""UDIM without tuning: at the paper's weight, and at one that suits so small a head. No claim is about them."""


def grids(config: Config) -> dict[str, tuple[float, ...]]:
    """Each arm's settings, as many for all. With several sources there is what the claim on their number needs."""
    arms = {
        "erm": config.learning_rate_factors,
        "sam": config.rhos,
        "udim": config.inconsistency_weights,
        "no_variance": config.inconsistency_weights,
        "random": config.inconsistency_weights,
        "adversarial": config.adversarial_weights,
        "erm_long": config.learning_rate_factors,
    }
    return arms if config.sources == 1 else {arm: arms[arm] for arm in ("erm", "sam", "udim")}


# The domains.


@dataclass(frozen=True)
class Task:
    """What a seed trains on, chooses by and tests on."""

    train: Split
    validation: Split
    test: Split
    targets: tuple[str, ...]

    def to(self, device: str) -> Task:
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def make_task(config: Config, seed: int) -> Task:
    """A seed's sources and targets, and of images that are to be jittered its own jitter."""
    whole = load_domains(config.data)
    if config.classes is not None:
        whole = whole[whole.y < config.classes]
        whole = replace(whole, classes=whole.classes[: config.classes])
    names = whole.names["domain"]
    following = tuple(names[(seed + i) % len(names)] for i in range(config.sources))
    sources = config.source_domains[: config.sources] or following
    targets = config.target_domains or tuple(name for name in names if name not in sources)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for side, copies in ((sources, config.source_copies // config.sources), (targets, config.target_copies)):
        numbers = torch.tensor([names.index(name) for name in side if name in names])
        rows = torch.isin(whole.fields["domain"], numbers).nonzero().squeeze(1)
        part = whole[rows.repeat_interleave(max(copies, 1))]
        parts.append(replace(part, x=affine_jitter(part.x, **JITTER, generator=generator)) if copies else part)
    split = data.merge(*parts)
    if config.standardise:
        split = replace(split, x=(split.x - IMAGENET_MEAN) / IMAGENET_SPREAD)
    task = domain_task(split, sources=sources, targets=targets, fraction=config.held_out, seed=seed)
    return Task(task.train, task.validation, task.test, task.targets)


JITTER = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 0.06}
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_SPREAD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def distances(task: Task) -> Tensor:
    """How far each target lies from the sources: between a class's mean images, on average over the classes."""

    def means(split: Split) -> Tensor:
        count = F.one_hot(split.y, len(split.classes)).to(split.x)
        return (count.T @ split.x.flatten(1)) / count.sum(0).clamp(min=1).unsqueeze(1)

    source, numbers = means(task.train), task.test.fields["domain"]
    found = [task.test[numbers == task.test.names["domain"].index(name)] for name in task.targets]
    return torch.stack([(means(target) - source).norm(dim=1).mean() for target in found])


# The arms.


class WithoutVariance(UDIM):
    """UDIM whose inconsistency is the size of gradients on perturbed samples alone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, inconsistency=GradientVarianceInconsistency(weights=(0.0, 1.0)), **options)


class RandomMoves(UDIM):
    """UDIM whose samples are moved as far, in random directions."""

    def craft(self, x: Tensor, y: Tensor, scaler: Any = None) -> Crafted:
        crafted = super().craft(x, y, scaler)
        length = (crafted.x - x).flatten(1).norm(dim=1)
        direction = F.normalize(torch.randn_like(x).flatten(1), dim=1)
        return replace(crafted, x=x + (length.unsqueeze(1) * direction).view_as(x))


class Adversarial(UDIM):
    """SAM that adds the cross-entropy on the perturbed samples instead of the inconsistency."""

    def penalty(self, x: Tensor, moved: Tensor, y: Tensor, domain: Tensor | None) -> Tensor:
        return self._loss(moved, y)


UDIM_LIKE: dict[str, type[UDIM]] = {
    "udim": UDIM,
    **dict.fromkeys(FIXED_WEIGHTS, UDIM),
    "no_variance": WithoutVariance,
    "random": RandomMoves,
    "adversarial": Adversarial,
}


def network(config: Config, channels: int, classes: int) -> WithHead:
    """Three convolutions with stride for small images, or a ResNet with its stem for large ones."""
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(config.dropout)]
    if config.net != "strided":
        depth = int(config.net.removeprefix("resnet"))
        net = ResNet(
            depth,
            classes,
            in_channels=channels,
            stem_kernel=7,
            stem_stride=2,
            stem_pool=True,
        )
        if config.weights:
            load_resnet_weights(net, config.weights)
        return WithHead(nn.Sequential(net.stem, net.stages, *pooled), net.head)
    layers: list[nn.Module] = []
    for width in WIDTHS:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.GroupNorm(4, width), nn.ReLU()]
        channels = width
    return WithHead(nn.Sequential(*layers, *pooled), nn.Linear(channels, classes))


WIDTHS = (12, 24, 48)


@dataclass(frozen=True)
class Course:
    """A training: its network as chosen on held-out samples of the sources, and accuracies on the targets."""

    net: nn.Module
    chosen: BestCheckpoint
    last: float
    oracle: float


def train(config: Config, arm: str, value: float, task: Task, seed: int, *, test: bool) -> Course:
    """Train one arm at one setting. UDIM and its kin begin with SAM, and go on from its best checkpoint."""
    device = str(task.train.x.device)
    make = partial(network, config, task.train.x.shape[1], len(task.train.classes))
    net = Stack.from_factory(make, 1, seed).module(0).to(device)
    rate = config.learning_rate * (value if arm.startswith("erm") else 1)
    base = torch.optim.Adam(net.parameters(), rate, weight_decay=config.weight_decay)
    longer = config.long_factor if arm == "erm_long" else 1
    generator = torch.Generator().manual_seed(seed)
    batches = domain_batches(task.train, config.batch_size // config.sources, generator)
    best = BestCheckpoint(model=net, optimizer=base)
    update = plain(net, base) if arm.startswith("erm") else by_sam(net, base, value if arm == "sam" else config.rho)
    switch = round(config.warm_up * config.steps) if arm in UDIM_LIKE else None
    last = oracle = 0.0
    for step, (x, y, domain) in zip(range(1, config.steps * longer + 1), batches, strict=False):
        train_with_frozen_norm(net)
        update(augmented(x, generator) if config.augment else x, y, domain)
        if step % (config.checkpoint_every * longer) == 0 or step == config.steps * longer or step == switch:
            best.offer(accuracy(net, task.validation), step)
            if test:
                last = float(np.mean(list(target_accuracies(net, task).values())))
                oracle = max(oracle, last)
        if step == switch:
            best.restore()
            best = BestCheckpoint(model=net, optimizer=base)
            udim = UDIM_LIKE[arm](net, base, rho=config.rho, radius=config.radius, weight=value, mode=config.mode)
            update = udim.step
    best.restore()
    return Course(net.eval(), best, last, oracle)


Update = Callable[[Tensor, Tensor, Tensor], Any]


def plain(net: nn.Module, base: torch.optim.Optimizer) -> Update:
    def update(x: Tensor, y: Tensor, domain: Tensor) -> None:
        base.zero_grad()
        F.cross_entropy(net(x), y).backward()
        base.step()

    return update


def by_sam(net: nn.Module, base: torch.optim.Optimizer, rho: float) -> Update:
    sam = SAM(net.parameters(), base, rho=rho)

    def update(x: Tensor, y: Tensor, domain: Tensor) -> None:
        def closure() -> Tensor:
            sam.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            return loss

        sam.step(closure)

    return update


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """DomainBed's: a crop of 0.7 to 1 of the area, mirroring, colour jitter of 0.3, and sometimes grey."""
    n, draws = len(x), torch.rand(len(x), 8, generator=generator).to(x.device)
    area, aspect = 0.7 + 0.3 * draws[:, 0], torch.exp((2 * draws[:, 1] - 1) * np.log(4 / 3))
    half = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
    centre = (2 * draws[:, 2:4] - 1) * (1 - half)
    half = torch.stack([torch.where(draws[:, 4] < 0.5, -half[:, 0], half[:, 0]), half[:, 1]], 1)
    theta = torch.cat([torch.diag_embed(half), centre.unsqueeze(2)], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    bright, contrast, saturation = (0.7 + 0.6 * draws[:, 5:8]).T.reshape(3, n, 1, 1, 1)
    x = x * bright
    x = x.mean((1, 2, 3), keepdim=True) * (1 - contrast) + x * contrast
    grey = x.mean(1, keepdim=True)
    pale = torch.rand(n, 1, 1, 1, generator=generator).to(x.device) < 0.1
    return torch.where(pale, grey, grey * (1 - saturation) + x * saturation)


# What is measured.


@torch.no_grad()
def accuracy(net: nn.Module, split: Split) -> float:
    net.eval()
    right = [net(x).argmax(1) == y for x, y in zip(split.x.split(512), split.y.split(512), strict=True)]
    return float(torch.cat(right).double().mean())


def target_accuracies(net: nn.Module, task: Task) -> dict[str, float]:
    numbers = task.test.fields["domain"]
    return {name: accuracy(net, task.test[numbers == task.test.names["domain"].index(name)]) for name in task.targets}


PROBE = 128
RHOS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)


def measured(config: Config, course: Course, task: Task, seed: int) -> Iterator[Record]:
    """Accuracies on the targets; and, on held-out samples of the sources and what is crafted of them, the mechanism."""
    record = partial(Record, "")
    by_domain = target_accuracies(course.net, task)
    yield record("target_accuracy", float(np.mean(list(by_domain.values()))))
    yield record("last_accuracy", course.last)
    yield record("oracle_accuracy", course.oracle)
    for name, value in by_domain.items():
        yield record("domain_accuracy", value, unit=name)

    some = torch.randperm(len(task.validation), generator=torch.Generator().manual_seed(seed))[:PROBE]
    x, y = task.validation.x[some], task.validation.y[some]
    probe = UDIM(course.net, torch.optim.SGD, config.rho, config.radius, mode=config.mode, lr=0.0)
    crafted = probe.craft(x, y).x
    with torch.no_grad():
        yield record("inconsistency", float(probe.penalty(x, crafted, y, None)))

    def loss(net: nn.Module, inputs: Tensor) -> Tensor:
        return F.cross_entropy(net(inputs), y)

    source, unknown = (sharpness(course.net, loss, [inputs], RHOS) for inputs in (x, crafted))
    yield record("sharpness_gap", float(abs(unknown[-1] - source[-1])))
    for metric, curve in (("source_sharpness", source), ("crafted_sharpness", unknown)):
        for rho, rise in zip(RHOS, curve, strict=True):
            yield record(metric, float(rise), x=rho)


# The figure.

COLOURS = {"udim": "#D55E00", "sam": "#0072B2", "erm": "#009E73"}
NAMES = {
    "udim": "UDIM",
    "sam": "SAM",
    "erm": "ERM",
    "erm_long": "ERM in UDIM's time",
    "adversarial": "SAM + adversarial\ncross-entropy",
    "no_variance": "UDIM without\nvariance term",
    "random": "UDIM, random\nperturbation",
    "udim_default": "UDIM at weight 1",
    "udim_strong": "UDIM at weight 100",
}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Accuracy on each target by its distance from the source; UDIM against each arm; and the perturbed-loss curves."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    one = reported[reported["sources"] == 1]
    fig, axes = plt.subplots(1, 3, figsize=(14, 5), layout="constrained", width_ratios=(1.25, 1, 1))
    draw_domains(axes[0], one, arrays)
    draw_differences(axes[1], reported)
    draw_curves(axes[2], one)
    return fig


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)


def draw_domains(ax: Axes, one: pd.DataFrame, arrays: Arrays) -> None:
    saved = [
        (names.value.tolist(), found.value)
        for names, found in zip(arrays["targets"], arrays["distances"], strict=True)
        if names.condition["sources"] == 1
    ]
    every: dict[str, list[float]] = {}
    for names, found in saved:
        for name, distance in zip(names, found.tolist(), strict=True):
            every.setdefault(name, []).append(distance)
    order = sorted(every, key=lambda name: -float(np.mean(every[name])))
    table = one[one["metric"] == "domain_accuracy"]
    for shift, arm in zip((-0.22, 0.0, 0.22), COLOURS, strict=True):
        for row, name in enumerate(order):
            values = (
                100 * table[(table["arm"] == arm) & (table["unit"] == name)].groupby("seed")["value"].mean().to_numpy()
            )
            if len(values):
                ax.plot(values, [row - shift] * len(values), "o", ms=3, alpha=0.45, mew=0, color=COLOURS[arm])
                ax.plot(values.mean(), row - shift, "|", ms=9, mew=2.2, color=COLOURS[arm])
    ax.set_yticks(range(len(order)), [f"{name} ({np.mean(every[name]):.1f})" for name in order])
    for place, arm in enumerate(COLOURS):
        ax.text(0.02 + 0.14 * place, 1.02, NAMES[arm], color=COLOURS[arm], transform=ax.transAxes, weight="bold")
    ax.text(1.0, 1.02, "one source", ha="right", transform=ax.transAxes)
    ax.set(xlabel="accuracy on a typeface never seen (%)", ylabel="target (distance from the source in pixel values)")


def draw_differences(ax: Axes, reported: pd.DataFrame) -> None:
    from matplotlib import rcParams

    found = reported[reported["metric"] == "target_accuracy"]
    rows: list[str] = []
    for sources in sorted(set(found["sources"])):
        table = found[found["sources"] == sources].pivot_table(index="seed", columns="arm", values="value")
        for arm in NAMES:
            if arm == "udim" or arm not in table:
                continue
            mean, half = interval(100 * (table["udim"] - table[arm]).dropna().to_numpy())
            colour = COLOURS.get(arm, rcParams["text.color"])
            ax.errorbar(mean, -len(rows), xerr=half, fmt="o" if sources == 1 else "s", ms=5, color=colour)
            rows.append(NAMES[arm] + ("" if sources == 1 else f",\n{sources} sources"))
    ax.vlines(0, 0.6 - len(rows), 0.4, lw=0.8, color=rcParams["text.color"])
    ax.set_yticks([-row for row in range(len(rows))], rows)
    ax.set(xlabel="points of target accuracy, 95 % intervals", title="UDIM minus …")


def draw_curves(ax: Axes, one: pd.DataFrame) -> None:
    ends = []
    for arm in ("udim", "sam"):
        for metric, line, where in (("source_sharpness", "-", "held-out"), ("crafted_sharpness", "--", "crafted")):
            table = one[(one["arm"] == arm) & (one["metric"] == metric)]
            table = table.pivot_table(index="x", columns="seed", values="value")
            if table.empty:
                continue
            mean, half = np.array([interval(row) for row in table.to_numpy()]).T
            ax.plot(table.index, mean, line, color=COLOURS[arm])
            ax.fill_between(table.index, mean - half, mean + half, color=COLOURS[arm], alpha=0.12, lw=0)
            ends.append((mean[-1], f"{NAMES[arm]}, {where}", COLOURS[arm]))
    gap, floor = 0.06 * np.diff(ax.get_ylim())[0], -np.inf
    for end, text, colour in sorted(ends):
        floor = max(end, floor + gap)
        ax.text(1.02 * max(RHOS), floor, text, color=colour, va="center", fontsize=9)
    ax.set_xlim(0, 1.6 * max(RHOS))
    ax.set_xticks([0, 0.02, 0.04])
    ax.set(
        xlabel="ρ, distance up the gradient",
        ylabel="rise of the loss",
        title="Loss up the gradient",
    )
