"""Towards Robust and Efficient Cloud-Edge Elastic Model Adaptation via Selective Entropy Distillation.

Yaofo Chen et al., arXiv 2402.17316, ICLR 2024. An edge device only predicts. It uploads those of its unlabelled test
samples whose entropy is neither high nor low; in the cloud a stronger model adapts to them and is distilled into the
normalisation layers of the edge's model, which are sent back. The paper's claim: more accurate than earlier test-time
adaptation at fewer uploads.

Here every method adapts the same pre-trained model to the same stream, batch by batch side by side, and is scored on
what it predicts before it learns from a batch. EATA is without its Fisher term, as in the paper's comparison. Where a
screen's E_max is not 0.4 ln K, the weights exp(E_max − H) still have that one, so that a sweep of the screen does not
change the steps too. The corruptions and their strengths are our own choice (:mod:`landform.data.corruptions`): only
comparisons between methods mean something, not the accuracies.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn

from landform import data
from landform.claims import Better, Equivalent
from landform.data import CorruptionStream, Split, StreamBatch, affine_jitter
from landform.data.streams import Order
from landform.losses import SelectiveDistillationLoss
from landform.models import ConvNet, ResNet
from landform.shift.adaptation import EATA, SAR, Adapter, BNAdapt, CloudEdgeSession, EntropyScreen, Tent
from landform.shift.adaptation.cloud_edge import Screen
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training import batches, fit
from landform.training.many import Stack

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACES = "DejaVu Sans,DejaVu Sans Bold,DejaVu Sans Mono,DejaVu Serif,STIX,Computer Modern Roman"
IMAGENET_C = (
    "gaussian_noise,shot_noise,impulse_noise,defocus_blur,glass_blur,motion_blur,zoom_blur,snow,frost,fog,brightness,"
    "contrast,elastic_transform,pixelate,jpeg_compression"
)


@dataclass(frozen=True)
class Config:
    data: str = f"glyphs:latin?size=20&typefaces={FACES}"
    """Clean images: the models are trained on them and, without ``corrupted``, the stream is made of them."""
    classes: int = 26
    """How many of the classes, from the first; 26 are the capitals. 0 for all."""
    copies: int = 15
    """Jittered copies of each image to train on; 0 takes the data's own training and test splits as they are."""
    stream_copies: int = 14
    """Jittered copies of each image in the stream under each corruption, and half as many on tuning seeds."""

    corruptions: str = "gaussian_noise,contrast,pixelate,gaussian_blur"
    severity: int = 3
    order: Order = "episodic"
    batch_size: int = 32
    corrupted: str = ""
    """Images that are corrupted already, as in ``folder:imagenet-c/{corruption}/{severity}?size=224``."""

    # The two models: widths of plain convolutional networks, or the depth of residual ones.
    edge_widths: tuple[int, ...] = (16, 32, 32)
    edge_depth: int = 0
    edge_weights: str = ""
    """A safetensors file of a trained model, which is not trained here then; and so for the foundation model."""
    edge_steps: int = 600
    foundation_widths: tuple[int, ...] = (24, 40, 40)
    foundation_depth: int = 0
    foundation_weights: str = ""
    foundation_steps: int = 900
    foundation_noise: float = 0.3
    """The most noise that the foundation model's training images get."""
    train_batch: int = 64
    train_rate: float = 5e-3

    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Every adapting arm's grid of learning rates; with a single one nothing is tuned."""
    foundation_rate: float = 1.0
    """The foundation model's learning rate, relative to that of the edge model."""
    margin: float = 0.31
    """Of EATA's redundancy; 0.05 sqrt(1000/K), for a sure prediction's cosine with a uniform mean is 1/sqrt(K)."""
    highs: tuple[float, ...] = (0.1, 0.7)
    """The screens' E_max^0 of the sweep, as fractions of ln K, beside the usual 0.4 and 0.2."""
    upload_batch: int = 32
    replay: int = 10_000
    replay_from: int = 64
    """Uploads from which on they are replayed. The paper's 256 would hardly be reached in a stream so much shorter."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{field.name}={value}: must be at least zero")
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates={self.rates}: must be positive, and at least one")
        if self.corrupted and self.order == "mixed":
            raise ValueError("order='mixed': needs images that are corrupted here, not those of corrupted=")
        if self.corrupted and len(self.rates) > 1:
            raise ValueError(f"rates={self.rates}: are chosen on clean images that are corrupted here; give one rate")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.corruptions.split(","))


HIGH, FEW = 0.4, 0.2
SWEPT = ("cema", "eata")
BASELINES = ("bn", "tent", "eata", "sar")

study = Study(
    "cema",
    claims=[
        Better(
            "accuracy",
            "cema",
            than=BASELINES,
            says="CEMA's predictions over the corrupted stream are more accurate than those of BN adaptation, Tent, "
            "EATA and SAR",
        ),
        Better("uploaded", "cema", than="eata", says="CEMA uploads fewer samples than EATA learns from"),
        Better(
            "accuracy",
            "cema",
            than="random",
            says="Entropy selects: as many samples drawn at random from the same batches adapt less well",
        ),
        Better("uploaded", "cema", than="static", says="The moving threshold uploads less than a static one"),
        Equivalent(
            "accuracy",
            "cema",
            "static",
            within=0.5,
            says="The moving threshold is as accurate as a static one (± 0.5 percentage points)",
        ),
        Better(
            "few_accuracy",
            "cema",
            than="no_replay",
            says=f"Replay helps when few samples are uploaded (E_max at {FEW} ln K)",
        ),
        Better(
            "accuracy",
            "cema",
            than="frozen_foundation",
            says="A control: a foundation model that adapts teaches better than one that does not",
        ),
        Better(
            "accuracy",
            "cema",
            than="upload_all",
            says="What the screen leaves out would do harm: CEMA is more accurate than with every sample uploaded",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                copies=3,
                stream_copies=3,
                corruptions="pixelate",
                severity=1,
                edge_steps=60,
                foundation_steps=80,
                edge_widths=(8, 16),
                foundation_widths=(8, 24),
                rates=(3e-3,),
                highs=(0.7,),
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=5, tuning_seeds=2),
        "paper": Preset(
            Config(
                data="folder:imagenet?size=224",
                classes=0,
                copies=0,
                corruptions=IMAGENET_C,
                corrupted="folder:imagenet-c/{corruption}/{severity}?size=224",
                batch_size=64,
                edge_depth=18,
                edge_weights="resnet18.safetensors",
                foundation_depth=101,
                foundation_weights="resnet101.safetensors",
                rates=(2.5e-3,),
                foundation_rate=0.1,
                margin=0.05,
                replay_from=256,
            ),
            seeds=3,
        ),
    },
    minimise=("uploaded",),
    tune_by="validation_accuracy",
    reading=(
        "Adapting a stronger model and distilling it pays: CEMA is 1.5 percentage points above EATA, though five seeds "
        "do not settle it, and at a lower E_max its 20 % of uploads do what EATA's 52 % do not (the lines of the "
        "figure). What is not seen here is the selection: as many random samples, or all of them, serve as well, and "
        "at the usual E_max CEMA uploads more than EATA. The cloud's arms all chose the least learning rate of the "
        "grid, where every step is a safe one and there is little harm for a screen to prevent."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: both models trained once, then every arm over the stream, a unit being one corruption."""
    tuning = run.tuning and len(config.rates) > 1
    clean = clean_parts(config, seed, tuning)
    edge, foundation = pretrained(config, clean, seed, run)
    arms = lined_up(config, edge, foundation, seed, run, sweep=not tuning)
    tallies, bars = streamed(stream(config, clean, seed), arms, config, run)
    for (contestant, unit), tally in tallies.items():
        record = partial(
            Record, contestant.arm, unit=unit, setting=None if contestant.rate is None else str(contestant.rate)
        )
        if contestant.high == HIGH or contestant.rate is None:
            yield record("validation_accuracy" if tuning else "accuracy", tally.accuracy)
            yield record("validation_uploaded" if tuning else "uploaded", tally.uploaded)
        if contestant.high == FEW:
            yield record("few_accuracy", tally.accuracy)
        if contestant.arm in SWEPT and not tuning:
            yield record("swept_accuracy", tally.accuracy, x=contestant.high)
            yield record("swept_uploaded", tally.uploaded, x=contestant.high)
    if not tuning:
        run.save("threshold", np.array(bars))


# Data.


def clean_parts(config: Config, seed: int, tuning: bool) -> tuple[Split, Split] | None:
    """Clean images to train on and, others, to make the stream of; None where neither is needed.

    On tuning seeds the stream is of validation images: other jittered copies, or a quarter of the training split.
    """
    if config.corrupted and config.edge_weights and config.foundation_weights:
        return None
    parts = {name: of_classes(split, config.classes) for name, split in data.load(config.data).items()}
    generator = torch.Generator().manual_seed(seed)
    if not config.copies:
        train, held = parts["train"], parts["test"]
        if tuning:
            order = torch.randperm(len(train), generator=generator)
            train, held = train[order[len(train) // 4 :]], train[order[: len(train) // 4]]
        return train, held
    whole = data.merge(*parts.values())
    counts = config.copies, max(1, config.stream_copies // 2) if tuning else config.stream_copies
    train, held = (jittered(whole, count, generator) for count in counts)
    return train, held


def of_classes(split: Split, count: int) -> Split:
    """The samples of the first ``count`` classes, or all if 0."""
    if not count:
        return split
    kept = split[split.y < count]
    return replace(kept, classes=split.classes[:count])


def jittered(split: Split, copies: int, generator: torch.Generator) -> Split:
    """Copies of every image, each moved in a way of its own."""
    many = split[torch.arange(len(split)).repeat_interleave(copies)]
    x = affine_jitter(many.x, rotation=10, scale=0.1, shear=0.1, shift=0.06, generator=generator)
    return replace(many, x=x.clamp(0, 1))


def stream(config: Config, clean: tuple[Split, Split] | None, seed: int) -> Iterator[StreamBatch]:
    """The stream's batches: clean images corrupted here, or those of ``config.corrupted`` in an order of the seed's."""
    if not config.corrupted:
        assert clean is not None
        made = partial(CorruptionStream, severity=config.severity, batch_size=config.batch_size, seed=seed)
        yield from made(clean[1], config.names, order=config.order)
        return
    for number, name in enumerate(config.names):
        uri = config.corrupted.format(corruption=name, severity=config.severity)
        images = data.merge(*data.load(uri).values())
        # At severity 0 nothing is done to images, whatever the corruption's name.
        for batch in CorruptionStream(
            images, ("gaussian_noise",), severity=0, batch_size=config.batch_size, seed=seed + number
        ):
            fresh = batch.fresh and (number == 0 or config.order == "episodic")
            yield replace(batch, corruption=torch.full_like(batch.corruption, number), fresh=fresh)


# The two models.


Network = ConvNet | ResNet


class Scaled(nn.Module):
    """A network of images standardised by channel."""

    net: Network
    mean: Tensor
    sd: Tensor

    def __init__(self, net: Network, mean: Tensor, sd: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("sd", sd.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.sd)


IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pretrained(config: Config, clean: tuple[Split, Split] | None, seed: int, run: Run) -> tuple[Scaled, Scaled]:
    """The edge model and the foundation model, trained on clean images (the latter on noisy ones too), or read."""
    models = []
    for number, (depth, widths, weights, steps, noise) in enumerate(
        (
            (config.edge_depth, config.edge_widths, config.edge_weights, config.edge_steps, 0.0),
            (
                config.foundation_depth,
                config.foundation_widths,
                config.foundation_weights,
                config.foundation_steps,
                config.foundation_noise,
            ),
        )
    ):
        run.progress(number, 6, "training")
        if weights:
            state = load_file(weights)
            read = network(depth, widths, 3, len(state["head.bias"]))
            read.load_state_dict(state)
            model = Scaled(read, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_SD))
        else:
            assert clean is not None
            make = partial(network, depth, widths, clean[0].x.shape[1], len(clean[0].classes))
            new = Stack.from_factory(make, 1, seed + number).module(0)
            x = clean[0].x
            model = Scaled(cast(Network, new), x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp(min=1e-6)).to(run.device)
            train(model, clean[0].to(run.device), steps, noise, config, seed + number)
        models.append(model.to(run.device).eval())
    return models[0], models[1]


def network(depth: int, widths: tuple[int, ...], channels: int, classes: int) -> Network:
    if depth:
        return ResNet(depth, classes, in_channels=channels, stem_kernel=7, stem_stride=2, stem_pool=True)
    return ConvNet(channels, classes, widths=widths, norm="batch")


def train(model: nn.Module, split: Split, steps: int, noise: float, config: Config, seed: int) -> None:
    """AdamW under a cosine; of the images each gets noise of a strength up to ``noise`` of its own."""
    generator = torch.Generator().manual_seed(seed)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        if noise:
            strength = noise * torch.rand(len(x), 1, 1, 1, generator=generator)
            x = (x + (strength * torch.randn(x.shape, generator=generator)).to(x)).clamp(0, 1)
        return F.cross_entropy(model(x), y)

    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train_rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size = min(config.train_batch, len(split))
    source = batches(split.x, split.y, size, generator, drop_last=True)
    model.train()
    fit(model, loss, source, optimizer, steps=steps, schedule=cosine)


# The arms.


@dataclass(frozen=True)
class Contestant:
    """An arm with its learning rate and its screen's E_max^0, as a fraction of ln K.

    ``make`` builds its adapter for an episode, and may look at those that were built before it.
    """

    arm: str
    make: Callable[[Made], Adapter]
    rate: float | None = None
    high: float | None = None


Made = Mapping[Contestant, Adapter]


def lined_up(config: Config, edge: Scaled, foundation: Scaled, seed: int, run: Run, *, sweep: bool) -> list[Contestant]:
    """Every arm at its settings and, if asked for, the sweeps of CEMA and EATA."""
    classes = edge.net.head.out_features
    loss = SelectiveDistillationLoss.preset("paper", e_max=HIGH * math.log(classes))

    def session(rate: float, screen: Screen, *, replay: int = config.replay, teaching: float = 1.0) -> Adapter:
        return CloudEdgeSession(
            edge,
            foundation,
            screen,
            loss=loss,
            upload_batch=config.upload_batch,
            replay=replay,
            replay_from=config.replay_from,
            edge_lr=rate,
            foundation_lr=teaching * config.foundation_rate * rate,
            generator=torch.Generator().manual_seed(seed),
        )

    def cema(rate: float, made: Made, *, high: float = HIGH, dynamic: bool = True, **changes: Any) -> Adapter:
        return session(rate, EntropyScreen(classes, high, dynamic=dynamic), **changes)

    def at_random(rate: float, made: Made) -> Adapter:
        # Beside the CEMA of the same rate, or while settings are no longer open beside the one there is.
        rivals = [c for c in made if (c.arm, c.high) == ("cema", HIGH)]
        screen = screen_of(made[min(rivals, key=lambda c: c.rate != rate)])
        return session(rate, RandomScreen(screen, torch.Generator().manual_seed(seed)))

    def eata(rate: float, made: Made, *, high: float = HIGH) -> Adapter:
        # Its weights exp(high ln K − H) would grow with the screen; so much smaller steps take that back.
        return EATA(edge, lr=rate * classes ** (HIGH - high), high=high, margin=config.margin)

    makers: dict[str, Callable[..., Adapter]] = {
        "tent": lambda rate, made: Tent(edge, lr=rate),
        "eata": eata,
        "sar": lambda rate, made: SAR(edge, lr=rate),
        "cema": cema,
        "static": partial(cema, dynamic=False),
        "no_replay": partial(cema, replay=0),
        "random": at_random,
        "upload_all": lambda rate, made: session(rate, everything),
        "frozen_foundation": partial(cema, teaching=0.0),
    }
    others = dict.fromkeys(SWEPT, (FEW, *config.highs)) | {"no_replay": (FEW,)}
    arms = [Contestant("none", lambda made: Source(edge)), Contestant("bn", lambda made: BNAdapt(edge))]
    for arm, make in makers.items():
        for rate in run.settings(arm, config.rates):
            arms.append(Contestant(arm, partial(make, rate), rate, HIGH))
            if sweep and arm in others:
                arms += [Contestant(arm, partial(make, rate, high=high), rate, high) for high in others[arm]]
    return arms


class Source(Adapter):
    """The model as it was trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def predict(self, batch: Tensor) -> Tensor:
        self.ledger.seen += len(batch)
        return self.model(batch)


def screen_of(adapter: Adapter) -> EntropyScreen:
    """The screen of a CEMA session."""
    assert isinstance(adapter, CloudEdgeSession)
    assert isinstance(adapter.screen, EntropyScreen)
    return adapter.screen


class RandomScreen:
    """Keeps as many samples of each batch as another screen just did, but drawn at random."""

    def __init__(self, other: EntropyScreen, generator: torch.Generator) -> None:
        self.other = other
        self.generator = generator
        self.kept = other.kept

    def __call__(self, logits: Tensor) -> Tensor:
        count, self.kept = self.other.kept - self.kept, self.other.kept
        keep = torch.zeros(len(logits), dtype=torch.bool)
        keep[torch.randperm(len(logits), generator=self.generator)[:count]] = True
        return keep.to(logits.device)


def everything(logits: Tensor) -> Tensor:
    """A screen that keeps every sample."""
    return torch.ones(len(logits), dtype=torch.bool, device=logits.device)


# Adaptation.


@dataclass
class Tally:
    """Of an arm under one corruption."""

    right: int = 0
    seen: int = 0
    uploads: int = 0

    @property
    def accuracy(self) -> float:
        """In %, of predictions made before the model learned from them."""
        return 100 * self.right / self.seen

    @property
    def uploaded(self) -> float:
        """In %."""
        return 100 * self.uploads / self.seen


def streamed(
    source: Iterator[StreamBatch], arms: list[Contestant], config: Config, run: Run
) -> tuple[dict[tuple[Contestant, str], Tally], list[tuple[float, float, float]]]:
    """Every arm over the stream side by side; and after each batch the number of its corruption, and CEMA's threshold
    and mean entropy in nats."""
    tallies: dict[tuple[Contestant, str], Tally] = defaultdict(Tally)
    bars: list[tuple[float, float, float]] = []
    watched = next(c for c in arms if (c.arm, c.high) == ("cema", HIGH))
    made: dict[Contestant, Adapter] = {}
    for batch in source:
        if batch.fresh:
            made = {}
            for contestant in arms:
                made[contestant] = contestant.make(made)
        number = int(batch.corruption[0])
        unit = "mixed" if config.order == "mixed" else config.names[number]
        run.progress(1 + number, 1 + len(config.names), unit)
        x, y = batch.x.to(run.device), batch.y.to(run.device)
        for contestant, adapter in made.items():
            before = adapter.ledger.uploads
            right = int((adapter.predict(x).argmax(1) == y).sum())
            tally = tallies[contestant, unit]
            tally.right += right
            tally.seen += len(y)
            tally.uploads += adapter.ledger.uploads - before
        screen = screen_of(made[watched])
        bars.append((number, screen.threshold, screen.mean_entropy))
    return tallies, bars


# The figure.

NAMES = {
    "bn": "BN",
    "tent": "Tent",
    "eata": "EATA",
    "sar": "SAR",
    "cema": "CEMA",
    "static": "static threshold",
    "no_replay": "no replay",
    "random": "random samples",
    "upload_all": "upload all",
    "frozen_foundation": "foundation not adapted",
}
ORANGE, BLUE, GREEN, GREY = "#D55E00", "#0072B2", "#009E73", "#808080"
CONTROLS = ("static", "no_replay", "random", "upload_all", "frozen_foundation")
COLOURS = {"cema": ORANGE, "eata": BLUE}
SHIFTS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Accuracy against the share uploaded, for every arm and along the sweeps; CEMA's threshold over the stream."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5), layout="constrained", width_ratios=(1.35, 1))
    draw_trade(left, reported)
    units = list(dict.fromkeys(reported["unit"].dropna()))
    draw_thresholds(right, arrays, units)
    return fig


def by_seed(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means over the corruptions: a row a seed, a column an arm (and abscissa, where there is one)."""
    chosen = records[records["metric"] == metric]
    columns = ["arm", "x"] if metric.startswith("swept") else ["arm"]
    return chosen.pivot_table(index="seed", columns=columns, values="value")


def half_interval(values: pd.DataFrame) -> pd.Series[float]:
    """Half of Student's 95 % interval of each column's mean; 0 of a single seed."""
    n = len(values)
    return values.sem().fillna(0.0) * (stats.t.ppf(0.975, n - 1) if n > 1 else 0.0)


def draw_trade(ax: Axes, reported: pd.DataFrame) -> None:
    """Accuracies as differences from BN adaptation's of the same seed, since seeds differ more than methods do."""
    from matplotlib import rcParams

    accuracy, uploaded = by_seed(reported, "accuracy"), by_seed(reported, "uploaded")
    swept, shares = by_seed(reported, "swept_accuracy"), by_seed(reported, "swept_uploaded")
    for arm, colour in COLOURS.items():
        above = swept[arm].sub(accuracy["bn"], axis=0).mean(axis=0)
        ax.plot(shares[arm].mean(axis=0), above, "-", color=colour, lw=1.2, marker=".", ms=7)
    gain = accuracy.sub(accuracy["bn"], axis=0)
    spread, across = half_interval(gain), half_interval(uploaded)
    colours = {arm: COLOURS.get(arm, GREEN if arm in CONTROLS else GREY) for arm in NAMES}
    shown = sorted((arm for arm in NAMES if arm in gain), key=lambda arm: gain[arm].mean())
    for arm in shown:
        ax.errorbar(
            uploaded[arm].mean(), gain[arm].mean(), yerr=spread[arm], xerr=across[arm], fmt="o", ms=6,
            color=colours[arm], capsize=2, lw=1,
        )  # fmt: skip
    low, high = ax.get_ylim()
    for place, arm in enumerate(shown):
        at = low + (high - low) * (place + 0.5) / len(shown)
        line = {"arrowstyle": "-", "color": colours[arm], "lw": 0.5, "shrinkB": 4}
        ax.annotate(
            NAMES[arm], (uploaded[arm].mean(), gain[arm].mean()), (112, at),
            va="center", color=colours[arm], fontsize=9, arrowprops=line,
        )  # fmt: skip
    ax.axhline(0, color=rcParams["axes.edgecolor"], lw=0.6, zorder=0)
    ax.set(xlim=(-4, 158), ylim=(low, high))
    ax.set_xticks(range(0, 101, 20))
    ax.set(
        xlabel="samples uploaded (%)",
        ylabel="online accuracy minus that of BN (percentage points)",
        title=f"Without adaptation {accuracy['none'].mean():.0f} %, BN {accuracy['bn'].mean():.0f} %; "
        "lines: other E_max",
    )


def draw_thresholds(ax: Axes, arrays: Arrays, units: Sequence[str]) -> None:
    """Mean over the seeds. A stream that mixes corruptions goes by the first of each batch."""
    mean = np.mean([saved.value for saved in arrays["threshold"]], axis=0)
    ends = []
    for number, unit in enumerate(units):
        _, threshold, entropy = mean[mean[:, 0] == number].T
        colour = SHIFTS[number % len(SHIFTS)]
        ax.plot(threshold, color=colour, lw=1.6)
        ax.plot(entropy, color=colour, lw=1.2, ls=":")
        ends.append((threshold[-1], unit.replace("_", " "), colour))
    length, (low, high) = len(threshold), ax.get_ylim()
    floor = -math.inf
    for y, name, colour in sorted(ends):
        floor = max(y, floor + 0.045 * (high - low))
        ax.text(1.02 * length, floor, name, color=colour, va="center", fontsize=9)
    ax.set(xlim=(0, 1.4 * length), ylim=(low, max(high, floor + 0.03 * (high - low))))
    ax.set(xlabel="batches of the stream", ylabel="nats", title="— CEMA's threshold E_max    ⋯ mean entropy so far")
