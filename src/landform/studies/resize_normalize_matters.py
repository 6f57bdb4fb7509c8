"""Revisiting pre-trained remote sensing model benchmarks: resizing and normalization matters.

Isaac Corley, Caleb Robinson, Rahul Dodhia, Juan M. Lavista Ferres and Peyman Najafirad, arXiv 2305.13456, CVPR 2024
workshops (PBVS). Frozen encoders are often scored on patches far smaller than the images that they were pre-trained
on, and scaled as a data loader happens to. The paper's claim: resizing to the pre-training size, and normalising well,
lifts their k-nearest-neighbour accuracy by many points.

Here an encoder is pre-trained on scenes of 48 pixels, and meets patches of 16 pixels in raw counts, with objects and
grounds that it mostly has not seen. Its features are read at every input size and normalisation, and held against
those of the same network before training, against simple features, and against a second pair, glyphs and digits,
where the small images suffice. With ``data`` set to images of the user's own, an encoder is pre-trained on six tenths
of the classes and read on shrunken images of the others; with ``weights`` as well, it is the ResNet of that file, read
on all classes at the size that the images have.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from landform import data
from landform.claims import Better, Equivalent, Holds
from landform.data import ChannelStatistics, Preprocess, SceneDataset, Split, SpuriousDesign, SubpopulationDesign
from landform.data.scenes import BACKGROUNDS, SHAPES
from landform.metrics import KNNProbe, LinearProbe, ProtocolGrid, extract_features, paired_delta
from landform.models import ImageStatistics, RandomConvFeatures, ResNet, load_resnet_weights
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training import batches, fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    task: Literal["patches", "digits"] = "patches"
    """What the encoder is for: patches of ``data``, or the counter-example of glyphs and digits."""
    data: str = "scenes"
    pretraining: int = 9000
    pretraining_size: int = 48
    native: int = 16
    sizes: tuple[int, ...] = (16, 24, 32, 48, 64)
    train: int = 1800
    validation: int = 400
    test: int = 800
    gain: tuple[float, ...] = (2500, 2200, 1800)
    offset: tuple[float, ...] = (300, 250, 200)
    """Counts of each channel: gain · value + offset."""
    divisor: float = 10_000
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 6e-3
    neighbours: int = 5
    features: int = 512
    """Of random filters."""
    weights: str = ""
    """A file with a ResNet-50's weights, instead of pre-training."""
    table: str = ""
    """A CSV file of published accuracies (model, preprocess_method, rgb, size, acc) to draw beside."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r}: must be one of {', '.join(TASKS)}")
        for name in ("native", "pretraining_size"):
            if getattr(self, name) not in self.sizes:
                raise ValueError(f"{name}={getattr(self, name)}: must be among sizes={self.sizes}")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes={self.sizes}: must increase")
        for name in ("pretraining", "train", "validation", "test", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


TASKS = ("patches", "digits")
SCALINGS = ("raw", "divide", "minmax", "standardise", "pretrain")
PATCHES, DIGITS = {"task": "patches"}, {"task": "digits"}
SIMPLE = ("pixels", "image statistics", "random filters", "patch filters")

study = Study(
    "resize-normalize-matters",
    claims=[
        Better(
            "accuracy at size",
            "pre-training size",
            than="native size",
            at=PATCHES,
            says="At its pre-training size an encoder's k-NN accuracy is higher than at the patches' native size",
        ),
        Holds(
            "gain, low end",
            at_least=0,
            arm="pre-trained",
            at=PATCHES,
            says="On every seed that gain's paired bootstrap interval over the test images excludes 0",
        ),
        Holds(
            "steps from the pre-training size",
            at_most=1,
            arm="pre-trained",
            at=PATCHES,
            says="The best size, by validation images, is the pre-training size or next to it",
        ),
        Better(
            "gain",
            "pre-trained",
            than="random",
            at=PATCHES,
            says="The mechanism: resizing gives the pre-trained encoder more than the same network before training",
        ),
        Better(
            "accuracy by scaling",
            "standardise",
            than=("raw", "divide"),
            by=0.1,
            at=PATCHES,
            says="At the pre-training size raw counts, or a division by 10,000, cost over 10 points",
        ),
        Better(
            "image statistics",
            "land cover",
            than="land cover, chance",
            by=0.3,
            at=PATCHES,
            says="Image statistics tell land cover over 30 points better than chance",
        ),
        Equivalent(
            "image statistics",
            "shape",
            "shape, chance",
            within=0.1,
            at=PATCHES,
            says="Image statistics tell shapes no more than 10 points better than chance",
        ),
        Better(
            "accuracy of features",
            "pre-trained",
            than=SIMPLE,
            at=PATCHES,
            says="With a protocol chosen on validation images the encoder beats pixels, statistics and random filters",
        ),
        Better(
            "accuracy at size",
            "native size",
            than="pre-training size",
            at=DIGITS,
            says="When it does not matter: digits of 8 × 8 pixels are read better as they are than enlarged",
        ),
        Better(
            "accuracy at size",
            "raw pixels",
            than=("native size", "pre-training size"),
            at=DIGITS,
            says="A control: their bare pixels beat the features of an encoder of glyphs at either size",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(pretraining=256, sizes=(16, 48), train=150, validation=40, test=60, epochs=1, features=16), seeds=1
        ),
        "laptop": Preset(Config(), seeds=5),
        "paper": Preset(
            Config(
                data="folder:eurosat",
                weights="resnet50.safetensors",
                pretraining_size=224,
                native=64,
                sizes=tuple(range(32, 257, 16)),
                gain=(255, 255, 255),
                offset=(0, 0, 0),
                divisor=255,
            ),
            seeds=3,
        ),
    },
    conditions={"task": TASKS},
    reading=(
        "Objects here are drawn in proportion to the image, so that resizing to the pre-training size restores the "
        "very scale that the encoder's filters know; how much it gives depends on how far off the native scale is. "
        "The same network before training gets worse with size, where the paper's deeper one gets better too: so the "
        "gain is one of pre-training, not of pixels. A good protocol does not make a good encoder: on these patches "
        "it is about as good as bare pixels, and on digits of 8 pixels, where resizing was not expected to help but "
        "does, bare pixels beat it at any size."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One encoder: read under every protocol, beside the same network untrained, and simple features."""
    yield from (read_patches if config.task == "patches" else read_digits)(config, seed, run)


def read_patches(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """Every record of the patches: the grid, its contrasts, the simple features, and image statistics."""
    world = world_of(config, seed)
    encoders, pretraining = encoders_of(config, world, seed, run)
    here = ChannelStatistics.from_loader(world.patches["train"].x.split(256))
    scalings: dict[str, dict[str, Any]] = {
        "raw": {"scale": "none"},
        "divide": {"scale": "divide", "divisor": config.divisor},
        "minmax": {"scale": "minmax"},
        "standardise": {"scale": "standardise"},
        "pretrain": {
            "scale": "pretrain",
            "stats": ChannelStatistics(here.min, here.max, pretraining.mean, pretraining.std),
        },
    }
    run.progress(2, 4, "protocols")
    knn = KNNProbe(config.neighbours)
    table = ProtocolGrid(encoders, config.sizes, scalings, {"knn": knn}).run(world.patches)
    accuracy = {name: accuracies(table, name) for name in ("validation", "test")}
    for (encoder, scaling, size), value in accuracy["test"].items():
        yield Record(f"{encoder}, {scaling}", "accuracy", value, x=size)

    native, resized = config.native, config.pretraining_size
    run.save("pre-training size", resized)
    yield Record("native size", "accuracy at size", accuracy["test"]["pre-trained", "standardise", native])
    yield Record("pre-training size", "accuracy at size", accuracy["test"]["pre-trained", "standardise", resized])
    on_test = table[(table["split"] == "test") & (table["normalisation"] == "standardise")]
    deltas = paired_delta(on_test, "size", native, resized, seed=seed).set_index("encoder")
    for encoder in encoders:
        yield Record(encoder, "gain", float(deltas["delta"][encoder]))
        yield Record(encoder, "gain, low end", float(deltas["low"][encoder]))
    for scaling in SCALINGS:
        yield Record(scaling, "accuracy by scaling", accuracy["test"]["pre-trained", scaling, resized])
    for encoder in encoders:
        seen = {protocol: value for protocol, value in accuracy["validation"].items() if protocol[0] == encoder}
        best = max(config.sizes, key=lambda size: seen[encoder, "standardise", size])
        steps = abs(config.sizes.index(best) - config.sizes.index(resized))
        yield Record(encoder, "steps from the pre-training size", steps)
        yield Record(encoder, "accuracy of features", accuracy["test"][max(seen, key=lambda protocol: seen[protocol])])

    run.progress(3, 4, "simple features")
    standardise = Preprocess(None, "standardise", here)
    for size in (native, resized):
        probe, preprocess = LinearProbe(), Preprocess(size, "standardise", here)
        read = {
            split: extract_features(encoders["pre-trained"], loader(world.patches[split]), preprocess.to(run.device))
            for split in ("train", "test")
        }
        score = probe.fit(*read["train"]).score(*read["test"])
        yield Record("native size" if size == native else "pre-training size", "linear accuracy", score)
    patches = [standardise(x[None])[0] for x in world.patches["train"].x[: config.features]]
    simple = {
        "pixels": nn.Flatten(),
        "image statistics": ImageStatistics(),
        "random filters": RandomConvFeatures(patches[0].shape[0], config.features, seed=seed),
        "patch filters": RandomConvFeatures.from_patches(patches, features=config.features, seed=seed),
    }
    for name, features in simple.items():
        score = read_simply(config, features, world.patches, standardised=name != "pixels")
        yield Record(name, "accuracy of features", score)
        if name == "image statistics":
            yield Record("shape", "image statistics", score)
            yield Record("shape, chance", "image statistics", 1 / len(world.patches["train"].classes))
    if world.land_cover:
        score = read_simply(config, ImageStatistics(), world.land_cover)
        yield Record("land cover", "image statistics", score)
        yield Record("land cover, chance", "image statistics", 1 / len(world.land_cover["train"].classes))
    yield from published(config.table)


def accuracies(table: pd.DataFrame, split: str) -> dict[tuple[str, str, int], float]:
    """By encoder, normalisation and size."""
    part = table[table["split"] == split]
    means = part.groupby(["encoder", "normalisation", "size"], sort=False)["correct"].mean()
    return dict(zip(means.index.tolist(), means.tolist(), strict=True))


def read_simply(
    config: Config, features: nn.Module, splits: Mapping[str, Split], *, standardised: bool = True
) -> float:
    """Test accuracy of k-NN on features of images of native size."""
    probe = KNNProbe(config.neighbours, standardise=standardised)
    table = ProtocolGrid({"simple": features}, [None], ["standardise"], {"knn": probe}).run(splits)
    return float(table.loc[table["split"] == "test", "correct"].mean())


def published(path: str) -> Iterator[Record]:
    """The accuracies of a published table, of encoders that see red, green and blue."""
    if not path:
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"table={path!r}: no such file; it must be a CSV file of published accuracies")
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {"model", "preprocess_method", "rgb", "size", "acc"}
        if missing := needed - set(reader.fieldnames or ()):
            raise ValueError(f"table={path!r}: lacks the columns {sorted(missing)}")
        for row in reader:
            if row["rgb"] == "True":
                arm = f"{row['model']}, {row['preprocess_method']}"
                yield Record(arm, "published accuracy", float(row["acc"]), x=float(row["size"]))


GLYPHS = "glyphs:latin?size=32&copies=4"


def read_digits(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """The counter-example: an encoder of printed letters of 32 pixels reads handwritten digits of 8."""
    generator = torch.Generator().manual_seed(seed)
    letters = data.merge(*data.load(GLYPHS).values())
    letters = letters[torch.randperm(len(letters), generator=generator)[: config.pretraining]]
    digits = data.merge(*data.load("digits").values())
    digits = digits[torch.randperm(len(digits), generator=generator)]
    splits = {"train": digits[:1300], "test": digits[1300:]}
    if config.train < 1300:
        splits["train"] = splits["train"][: config.train]
    encoder, _, _ = pretrained(config, letters, seed, run)
    knn = KNNProbe(config.neighbours)
    table = ProtocolGrid({"pre-trained": encoder}, [8, 16, 32], ["standardise"], {"knn": knn}).run(splits)
    accuracy = accuracies(table, "test")
    for (*_, size), value in accuracy.items():
        yield Record("pre-trained, standardise", "accuracy", value, x=size)
    yield Record("native size", "accuracy at size", accuracy["pre-trained", "standardise", 8])
    yield Record("pre-training size", "accuracy at size", accuracy["pre-trained", "standardise", 32])
    yield Record("raw pixels", "accuracy at size", read_simply(config, nn.Flatten(), splits, standardised=False))


# Images.


@dataclass(frozen=True)
class World:
    """Images in [0, 1] to pre-train on, patches in counts, and patches whose class is what covers the land."""

    pretraining: Split | None
    patches: dict[str, Split]
    land_cover: dict[str, Split]


SEEN = ("disk", "square", "triangle", "plus", "ring", "crescent")
ASKED = ("star", "hexagon", "bars", "tee", "triangle", "ring")
NEW_GROUNDS = ("snow", "forest", "brick")


def world_of(config: Config, seed: int) -> World:
    """Scenes, or images of the user's own."""
    if config.data == "scenes":
        grounds = tuple(ground for ground in BACKGROUNDS if ground not in NEW_GROUNDS)
        count = config.train + config.validation + config.test
        patches = scenes(ASKED, NEW_GROUNDS, count, 3 * seed + 1, config.native)
        x, y = SceneDataset(
            count, SpuriousDesign("background", "shape", 0.0), 3 * seed + 2, config.native
        ).materialise()
        return World(
            scenes(SEEN, grounds, config.pretraining, 3 * seed, config.pretraining_size),
            cut(config, in_counts(config, patches)),
            cut(config, in_counts(config, Split(x, y, BACKGROUNDS))),
        )
    splits = data.load(config.data)
    generator = torch.Generator().manual_seed(seed)
    if config.weights:
        return World(None, own_splits(config, splits, generator), {})
    whole = data.merge(*splits.values())
    if whole.x.ndim != 4 or len(whole.classes) < 4:
        raise ValueError(f"data={config.data!r}: must be images of at least 4 classes, some to pre-train on")
    order = torch.randperm(len(whole.classes), generator=generator)
    seen = order[: round(0.6 * len(order))]
    whole = whole[torch.randperm(len(whole), generator=generator)]
    known = torch.isin(whole.y, seen)
    first, rest = of_classes(whole[known][: config.pretraining]), of_classes(whole[~known])
    return World(
        at_size(first, config.pretraining_size),
        cut(config, in_counts(config, at_size(rest, config.native))),
        {},
    )


def scenes(shapes: tuple[str, ...], grounds: tuple[str, ...], count: int, seed: int, size: int) -> Split:
    """Scenes of these shapes on these grounds, all combinations alike; the class is the shape."""
    weights = torch.zeros(len(SHAPES), len(BACKGROUNDS))
    for shape in shapes:
        weights[SHAPES.index(shape), [BACKGROUNDS.index(ground) for ground in grounds]] = 1
    x, y = SceneDataset(count, SubpopulationDesign(weights), seed, size).materialise()
    return of_classes(Split(x, y, SHAPES))


def of_classes(split: Split) -> Split:
    """The same images, numbered by the classes that occur."""
    there, y = split.y.unique(return_inverse=True)
    return Split(split.x, y, tuple(split.classes[k] for k in there.tolist()))


def at_size(split: Split, size: int) -> Split:
    resize = Preprocess((size, size))
    return Split(torch.cat([resize(x) for x in split.x.split(256)]), split.y, split.classes)


def in_counts(config: Config, split: Split) -> Split:
    """Pixels as a sensor counts them, whole numbers."""
    channels = split.x.shape[1]
    if min(len(config.gain), len(config.offset)) < channels:
        raise ValueError(f"gain={config.gain}, offset={config.offset}: must be given for all {channels} channels")
    gain, offset = (torch.tensor(v[:channels]).view(-1, 1, 1) for v in (config.gain, config.offset))
    return Split((split.x * gain + offset).round(), split.y, split.classes)


def cut(config: Config, split: Split) -> dict[str, Split]:
    """Train, validation and test parts, of the configured sizes or, where there are too few images, in proportion."""
    sizes = np.array([config.train, config.validation, config.test])
    sizes = (sizes * min(1, len(split) / sizes.sum())).astype(int)
    if min(sizes) < 1:
        raise ValueError(f"data={config.data!r}: {len(split)} images are too few for three parts")
    ends = np.cumsum(sizes)
    parts = zip(("train", "validation", "test"), ends - sizes, ends, strict=True)
    return {name: split[int(start) : int(end)] for name, start, end in parts}


def own_splits(config: Config, splits: Mapping[str, Split], generator: torch.Generator) -> dict[str, Split]:
    """The data's own train and test parts, all classes; if nothing validates, a tenth of the training images."""
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"data={config.data!r}: has the splits {list(splits)}, must have train and test")
    train, validation = splits["train"], splits.get("validation")
    if validation is None:
        train = train[torch.randperm(len(train), generator=generator)]
        held = max(1, len(train) // 10)
        train, validation = train[held:], train[:held]
    parts = {"train": train, "validation": validation, "test": splits["test"]}
    return {name: in_counts(config, part) for name, part in parts.items()}


def loader(split: Split) -> list[tuple[Tensor, Tensor]]:
    return list(zip(split.x.split(256), split.y.split(256), strict=True))


# Encoders.

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def encoders_of(config: Config, world: World, seed: int, run: Run) -> tuple[dict[str, nn.Module], ChannelStatistics]:
    """The pre-trained encoder and the same network before training, with the statistics of pre-training."""
    if world.pretraining is not None:
        encoder, untrained, statistics = pretrained(config, world.pretraining, seed, run)
        return {"pre-trained": encoder, "random": untrained}, statistics
    channels = world.patches["train"].x.shape[1]
    networks = []
    with torch.random.fork_rng():
        for path in (config.weights, ""):
            torch.manual_seed(seed)
            net = ResNet(50, in_channels=channels, stem_kernel=7, stem_stride=2, stem_pool=True)
            if path:
                load_resnet_weights(net, path)
            networks.append(nn.Sequential(net.stem, net.stages).to(run.device))
    mean, std = (torch.tensor(values).repeat(-(-channels // 3))[:channels] for values in IMAGENET)
    zero = torch.zeros(channels)
    return dict(zip(("pre-trained", "random"), networks, strict=True)), ChannelStatistics(zero, zero + 1, mean, std)


def pretrained(config: Config, images: Split, seed: int, run: Run) -> tuple[nn.Module, nn.Module, ChannelStatistics]:
    """A small convolutional encoder trained to tell the classes of ``images``, and as it was before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = convolutions(images.x.shape[1]).to(run.device)
        encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        head = nn.Linear(128, len(images.classes)).to(run.device)
    untrained = copy.deepcopy(encoder)
    net = nn.Sequential(encoder, head)
    statistics = ChannelStatistics.from_loader(images.x.split(256))
    standardise = Preprocess(None, "standardise", statistics)
    x = torch.cat([standardise(part) for part in images.x.split(256)])
    x = x.to(run.device, memory_format=torch.channels_last)
    steps = config.epochs * max(1, len(x) // config.batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate)
    fit(
        net,
        lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]),
        batches(
            x,
            images.y.to(run.device),
            min(config.batch_size, len(x)),
            torch.Generator().manual_seed(seed),
            drop_last=True,
        ),
        optimizer,
        steps=steps,
        schedule=OneCycleLR(optimizer, config.learning_rate, total_steps=steps + 1),
        fabric=run.fabric,
    )
    return encoder, untrained, statistics


def convolutions(channels: int) -> nn.Sequential:
    """Five convolutions with batch normalisation, averaged over the image: 128 features."""
    layers: list[nn.Module] = []
    for width, stride in ((16, 2), (32, 1), (64, 2), (64, 1), (128, 2)):
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


# The figure.

COLOURS = {
    "standardise": "#0072B2",
    "pretrain": "#009E73",
    "minmax": "#E69F00",
    "divide": "#CC79A7",
    "raw": "#D55E00",
}
NAMES = {"pretrain": "as in pre-training", "divide": "divided"}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Accuracy by input size and normalisation; features side by side; and published curves where there are any."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    published = reported[reported["metric"] == "published accuracy"]
    panels = 3 if len(published) else 2
    fig, axes = plt.subplots(1, panels, figsize=(5.6 * panels, 4.6), layout="constrained")
    sizes = arrays["pre-training size"] if "pre-training size" in arrays else []  # noqa: SIM401  it has no get
    curves = reported[(reported["metric"] == "accuracy") & (reported["task"] == "patches")]
    draw_sizes(axes[0], curves, {float(saved.value) for saved in sizes})
    draw_features(axes[1], reported)
    if len(published):
        draw_published(axes[2], published)
    return fig


def draw_sizes(ax: Axes, curves: pd.DataFrame, pretraining: set[float]) -> None:
    lines = {f"pre-trained, {scaling}": (colour, "-") for scaling, colour in COLOURS.items()}
    lines["random, standardise"] = (COLOURS["standardise"], "--")
    ends = {}
    for arm, (colour, style) in lines.items():
        wide = 100 * curves[curves["arm"] == arm].pivot_table(index="x", columns="seed", values="value")
        if wide.empty:
            continue
        mean, half = np.array([interval(row) for row in wide.to_numpy()]).T
        ax.plot(wide.index, mean, style, color=colour, marker="o", ms=4)
        ax.fill_between(wide.index, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
        scaling = arm.split(", ")[1]
        ends["before training,\nstandardise" if style == "--" else NAMES.get(scaling, scaling)] = (mean[-1], colour)
    if not ends:
        ax.text(0.5, 0.5, "no patches were read", ha="center", transform=ax.transAxes)
        return
    sizes = sorted(curves["x"].unique())
    low, high = ax.get_ylim()
    gap, floor = 0.06 * (high - low), -np.inf
    for name, (end, colour) in sorted(ends.items(), key=lambda item: item[1][0]):
        rows = 1 + name.count("\n")
        floor = max(end, floor + gap * (1 + rows) / 2)
        ax.text(sizes[-1] + 0.02 * np.ptp(sizes), floor, name, color=colour, va="center", fontsize=9)
    ax.set_xlim(sizes[0] - 2, sizes[-1] + 0.45 * np.ptp(sizes))
    ax.set_xticks(sizes if len(sizes) < 8 else sizes[::2])
    for size in pretraining:
        ax.axvline(size, color="grey", lw=0.8, ls=":")
        place = ax.get_xaxis_transform()
        ax.text(size + 1, 0.02, "pre-training size", transform=place, fontsize=8, color="grey")
    ax.set(xlabel="input size (pixels)", ylabel="k-NN test accuracy (%)", title="One encoder, by its inputs")


def draw_features(ax: Axes, reported: pd.DataFrame) -> None:
    patches, digits = (reported[reported["task"] == task] for task in TASKS)
    rows = [
        *((arm, patches, "accuracy of features", "#0072B2") for arm in ("pre-trained", "random", *SIMPLE)),
        *((arm, digits, "accuracy at size", "#D55E00") for arm in ("pre-training size", "native size", "raw pixels")),
    ]
    names = {"random": "same, before training", "pre-training size": "digits, at 32 pixels"}
    names |= {"native size": "digits, native 8 pixels", "raw pixels": "digits, bare pixels"}
    for place, (arm, part, metric, colour) in enumerate(rows):
        values = 100 * part[(part["arm"] == arm) & (part["metric"] == metric)]["value"].to_numpy()
        if len(values):
            mean, half = interval(values)
            ax.errorbar(mean, -place, xerr=half, fmt="o", ms=5, capsize=2, color=colour)
    ax.set_yticks([-k for k in range(len(rows))], [names.get(arm, arm) for arm, *_ in rows])
    ax.axhline(0.5 - len(SIMPLE) - 2, color="grey", lw=0.8, ls=":")
    ax.set(xlabel="k-NN test accuracy (%)", title="Features side by side, encoders as validation chose")


def draw_published(ax: Axes, published: pd.DataFrame) -> None:
    """ResNet-50s on EuroSAT, as published."""
    colours = {"standardization": "standardise", "for_seco": "pretrain", "minmax": "minmax", "divide": "divide"}
    for method, scaling in colours.items():
        for model, style in (("resnet50_pretrained_imagenet", "-"), ("resnet50_randominit", "--")):
            curve = published[published["arm"] == f"{model}, {method}"].groupby("x")["value"].mean()
            if len(curve) and (style == "-" or scaling == "standardise"):
                ax.plot(curve.index, 100 * curve, style, color=COLOURS[scaling])
                name = "random weights" if style == "--" else method
                above = {"standardization": "bottom", "for_seco": "top"}.get(name, "center")
                ax.text(curve.index[-1] + 3, 100 * curve.iloc[-1], name, color=COLOURS[scaling], va=above, fontsize=9)
    ax.axvline(224, color="grey", lw=0.8, ls=":")
    low, high = published["x"].min(), published["x"].max()
    ax.set_xlim(low, high + 0.42 * (high - low))
    ax.set(
        xlabel="input size (pixels)", ylabel="k-NN test accuracy (%)", title="Published: ImageNet's ResNet-50, EuroSAT"
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)
