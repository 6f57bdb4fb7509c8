"""Open-Set Recognition: a Good Closed-Set Classifier is All You Need?

Sagar Vaze, Kai Han, Andrea Vedaldi and Andrew Zisserman, arXiv 2110.06207, ICLR 2022. How well a classifier flags
unknown classes is almost fixed by its closed-set accuracy; so a well-trained cross-entropy network, scored by its
maximum logit, matches methods made for open sets.

Here every seed draws which letters are known, trains networks that differ in width, training, augmentation,
regularisation and loss, and correlates their accuracy on known letters with the AUROC of flagging unknown ones. Then
the methods are compared, each tuned by closed-set accuracy alone, against unknown letters that look like known ones,
other letters, and characters of far scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor, nn

from landform import data
from landform.claims import Better
from landform.data import generator_of
from landform.data.crop_flip import random_crop
from landform.data.glyphs import JITTER
from landform.data.randaugment import RandAugmentRecipe
from landform.losses import LabelSmoothingCrossEntropy, ReciprocalPointLoss
from landform.models import VGG32, branch_batch_norm
from landform.optim.schedules import CosineWarmRestartsWithWarmup, OneCycle, StepDecay
from landform.shift import (
    ConfusingSamples,
    ImageDiscriminator,
    ImageGenerator,
    OpenSetDataset,
    OpenSetMetrics,
    OpenSetSplit,
    auroc,
    character_split,
    class_split,
    closed_open_correlation,
    confusing_epochs,
    max_logit_score,
    max_softmax_score,
    read_small_splits,
)
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.fit import fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Images = Float[Tensor, "n channels height width"]
Samples = tuple[Images, Int[Tensor, " n"]]
Loss = Literal["CE", "ARPL"]
Augment = Callable[[Images, torch.Generator], Images]
Setting = tuple[float, float]
"""Label smoothing and RandAugment's magnitude; for the weak recipe 0 and the factor of the learning rate."""

TYPEFACES = tuple(
    f"DejaVu {name}"
    for family in ("Sans", "Sans Mono", "Serif")
    for name in (family, f"{family} Bold", f"{family} {'Italic' if family == 'Serif' else 'Oblique'}",
                 f"{family} Bold {'Italic' if family == 'Serif' else 'Oblique'}")
)  # fmt: skip
"""Those that have every script."""


@dataclass(frozen=True)
class Config:
    data: str = "glyphs"
    """Printed characters; or images of any classes, of which some are drawn to be known."""
    known: int | None = None
    """Known classes: 20 of 40 letters, and six tenths of other data's classes, if None."""
    size: int = 20
    """Of glyphs, in pixels, …"""
    renderings: int = 4
    """… of which there are so many of every character in each typeface to train on, …"""
    test_renderings: int = 2
    """… to test on and, for tuning, to validate on. Of other data a fifth of the training images validates."""

    benchmark: Literal["", "mnist", "svhn", "cifar-10-10", "cifar-10-100-10", "cifar-10-100-50", "tinyimagenet"] = ""
    """Train as published for it, instead of tuning."""
    splits: str = ""
    """The file of its class splits, number ``seed`` modulo 5; drawn if empty."""
    unknown_data: str = ""
    """Where the unknown classes are another dataset's."""

    net: Literal["convnet", "vgg32"] = "convnet"
    width: int = 32
    epochs: int = 36
    batch_size: int = 64
    lr: float = 0.1
    settings: int = 4
    """Of each method, to choose from by the accuracy on validation images of known classes; 1 to choose nothing."""
    models: int = 16
    """Of the correlation: so many of the recipes."""
    gan_width: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"{field.name}={value}: must be positive")
        if self.width % 8:
            raise ValueError(f"width={self.width}: must be a multiple of 8, as some networks have an eighth of it")
        if self.epochs < 3:
            raise ValueError(f"epochs={self.epochs}: must be at least 3, one for each cycle of the learning rate")
        if self.settings > len(GRIDS["weak"]):
            raise ValueError(f"settings={self.settings}: there are {len(GRIDS['weak'])} of each method")
        if not 4 <= self.models <= len(RECIPES):
            raise ValueError(f"models={self.models}: must be from 4 to {len(RECIPES)}")
        if self.splits and not self.benchmark:
            raise ValueError(f"splits={self.splits!r}: say of which benchmark")


class Recipe(NamedTuple):
    """One network of the correlation, as shares of the full width and training."""

    width: float
    epochs: float
    loss: Loss = "CE"
    shift: bool = False
    smoothing: float = 0.0
    decay: float = 0.0
    lr: float = 1.0

    def __str__(self) -> str:
        marks = [f"{self.loss}", f"width × {self.width:g}", f"epochs × {self.epochs:.2g}"]
        marks += ["shifts"] * self.shift + [f"smoothing {self.smoothing:g}"] * bool(self.smoothing)
        marks += [f"decay {self.decay:g}"] * bool(self.decay) + [f"lr × {self.lr:g}"] * (self.lr != 1)
        return ", ".join(marks)


RECIPES = (
    Recipe(1 / 8, 1 / 12),
    Recipe(1 / 2, 1 / 12),
    Recipe(1 / 8, 1 / 3),
    Recipe(1 / 4, 1 / 6, "ARPL"),
    Recipe(1 / 4, 1 / 12, lr=0.5),
    Recipe(1 / 4, 1 / 6, smoothing=0.3),
    Recipe(1 / 8, 1 / 6, shift=True),
    Recipe(1 / 4, 1 / 6, shift=True, decay=5e-4),
    Recipe(1 / 2, 1 / 12, "ARPL"),
    Recipe(1 / 2, 1 / 6, shift=True, smoothing=0.3),
    Recipe(1 / 4, 1 / 3, decay=5e-4),
    Recipe(1 / 8, 1 / 3, "ARPL", shift=True),
    Recipe(3 / 4, 1 / 12, shift=True, lr=0.5),
    Recipe(1, 1 / 12, smoothing=0.3),
    Recipe(1, 1 / 6, shift=True),
    Recipe(1 / 8, 1, shift=True),
)

METHODS = ("weak", "strong", "ARPL", "ARPL+CS")
"""What is tuned: cross-entropy by the weak and by the strong recipe, ARPL without and with confusing samples."""

GRIDS: Mapping[str, Sequence[Setting]] = {
    "weak": ((0.0, 1.0), (0.0, 0.5), (0.0, 0.25), (0.0, 0.1)),
    **dict.fromkeys(("strong", "ARPL", "ARPL+CS"), ((0.0, 6.0), (0.0, 15.0), (0.3, 6.0), (0.3, 15.0))),
}

SCORED = {
    "MLS, strong": ("strong", max_logit_score),
    "MSP, strong": ("strong", max_softmax_score),
    "MLS, weak": ("weak", max_logit_score),
    "MSP, weak": ("weak", max_softmax_score),
    "ARPL": ("ARPL", max_logit_score),
    "ARPL+CS": ("ARPL+CS", max_logit_score),
}


class Published(NamedTuple):
    """The paper's setting for one benchmark: RandAugment's magnitudes, smoothing, learning rates, optimizer."""

    magnitude: float = 6.0
    arpl_magnitude: float = 6.0
    smoothing: float = 0.0
    lr: float = 0.1
    arpl_lr: float = 0.1
    adam: bool = False


PUBLISHED = {
    "mnist": Published(magnitude=8.0, arpl_magnitude=8.0),
    "svhn": Published(magnitude=18.0, arpl_magnitude=18.0),
    "cifar-10-10": Published(arpl_magnitude=15.0),
    "cifar-10-100-10": Published(),
    "cifar-10-100-50": Published(),
    "tinyimagenet": Published(9.0, 9.0, 0.9, 0.01, 0.001, True),
}

study = Study(
    "open-set-recognition",
    claims=[
        Better(
            "pearson", "maximum logit", than="0.7",
            says="Over networks, closed-set accuracy and the AUROC of the maximum logit correlate by more than 0.7 "
            "(Pearson)",
        ),
        Better(
            "pearson", "maximum softmax", than="0.7",
            says="So do accuracy and the AUROC of the maximum softmax, by which the claim does not rest on the score",
        ),
        Better(
            "auroc", "MLS, strong", than="ARPL", by=-1.0,
            says="With the same training cross-entropy and the maximum logit flag unknown classes as well as ARPL, or "
            "at most one point of AUROC worse",
        ),
        Better(
            "auroc", "MLS, strong", than="ARPL+CS", by=-1.0,
            says="… and as well as ARPL with confusing samples does, or one point worse at most",
        ),
        Better(
            "auroc", "MLS, strong", than="MSP, weak",
            says="The strong recipe with the maximum logit beats the literature's baseline",
        ),
        Better(
            "auroc", "MLS, strong", than="MSP, strong",
            says="In a well-trained network the maximum logit beats the maximum softmax",
        ),
        Better(
            "least_gap", "far over look-alike", than="none",
            says="For every method, letters that look like known ones are harder to flag than characters of far "
            "scripts (the smallest difference of AUROC over methods)",
        ),
        Better(
            "feature_norm", "known", than="unknown",
            says="The mechanism: features of known samples are longer than those of unknown ones",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(width=8, epochs=3, size=12, renderings=1, test_renderings=1, settings=1, models=4, gan_width=2),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=8, tuning_seeds=2),
        "paper": Preset(
            Config(
                data="hf:cifar10", benchmark="cifar-10-10", splits="small_benchmark_splits.json", net="vgg32",
                epochs=600, batch_size=128, settings=1, gan_width=64,
            ),
            seeds=5,
        ),
    },
    tune_by="accuracy",
    reading=(
        "The headline holds: over 16 networks a seed, from 20 % to 97 % accurate, r is 0.90 for the maximum logit and "
        "0.95 for the softmax, and with the same training ARPL is no better than cross-entropy. Two findings of the "
        "paper do not carry over to small networks on printed characters. The maximum logit does not beat the softmax "
        "(1.2 points behind by the strong recipe, 2.5 by the weak one, with which the softmax is the best of all): "
        "features of unknown letters are shorter, as the paper says, but only by 6 %, and their length alone has an "
        "AUROC of 62 %. And what is far in meaning is not easy: for the maximum logit and for ARPL, characters of "
        "other scripts are the hardest (72 % and 64 %, where other letters have 89 % and 86 %), because their "
        "features are longer than those of known letters. The softmax, which does not see the length, is at 86 % "
        "there. Look-alikes are harder than other letters for all. On photographs it is otherwise: with 3,600 of "
        "CIFAR-10 to train on (--set data=parquet:..., networks 36 % to 54 % accurate) the maximum logit beats the "
        "softmax by 2.9 points [0.7, 5.2], while r is 0.66 [0.39, 0.92]."
    ),
)  # fmt: skip


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: its classes, and every network on the same images. While tuning, the methods' validation accuracies."""
    world = world_of(config, seed)
    tuning = run.tuning and config.settings > 1
    methods = [(method, setting) for method in METHODS for setting in run.settings(method, grid(config, method))]
    total = len(methods) + (0 if tuning else config.models)
    fitted: dict[str, Classifier] = {}
    for done, (method, setting) in enumerate(methods):
        run.progress(done, total, method)
        fitted[method] = classifier = fit_method(config, world, method, setting, seed, run.device)
        images, labels = world.validation if tuning else world.test
        yield Record(method, "accuracy", classifier.accuracy(images, labels), setting=str(setting))
    if tuning:
        return
    yield from compared(world, fitted, run)
    measured = []
    for number, recipe in enumerate(RECIPES[: config.models]):
        run.progress(len(methods) + number, total, str(recipe))
        measured.append(measure(fit_recipe(config, world, recipe, seed, run.device), world))
    yield from correlated(measured)


def compared(world: World, fitted: Mapping[str, Classifier], run: Run) -> Iterator[Record]:
    """The methods, in points, against all unknown images of the known ones' kind, and against each group."""
    test, labels = world.test
    least_gap = np.inf
    for arm, (method, score) in SCORED.items():
        known = fitted[method].logits(test)
        groups = {name: fitted[method].logits(images) for name, images in world.unknown.items()}
        near = torch.cat([logits for name, logits in groups.items() if name != "far"])
        for metric, share in OpenSetMetrics.evaluate(known, labels, near, score).items():
            if metric != "accuracy":
                yield Record(arm, metric, 100 * share)
        by_group = {name: 100 * auroc(score(known), score(logits)) for name, logits in groups.items()}
        for name, value in by_group.items():
            yield Record(arm, f"auroc ({name})", value)
        if {"far", "look-alike"} <= set(by_group):
            least_gap = min(least_gap, by_group["far"] - by_group["look-alike"])
    if np.isfinite(least_gap):
        yield Record("far over look-alike", "least_gap", least_gap)
        yield Record("none", "least_gap", 0.0)

    strong = fitted["strong"]
    images = {"known": test, "unknown": torch.cat([x for name, x in world.unknown.items() if name != "far"])}
    if "far" in world.unknown:
        images["far"] = world.unknown["far"]
    norms = {arm: strong.embed(x).norm(dim=1) for arm, x in images.items()}
    unit = norms["known"].mean()
    for arm, x in images.items():
        yield Record(arm, "feature_norm", float(norms[arm].mean() / unit))
        run.save(f"{arm} norms", norms[arm] / unit)
        run.save(f"{arm} maximum logits", max_logit_score(strong.logits(x)))
    yield Record("feature norm, strong", "auroc", 100 * auroc(norms["known"], norms["unknown"]))


def correlated(measured: Sequence[Measured]) -> Iterator[Record]:
    """Each network's accuracy and AUROC, and their correlation over the networks."""
    for arm in ("maximum logit", "maximum softmax"):
        aurocs = [m.by_logit if arm == "maximum logit" else m.by_softmax for m in measured]
        for recipe, m, value in zip(RECIPES, measured, aurocs, strict=False):
            yield Record(arm, "model_accuracy", m.accuracy, unit=str(recipe))
            yield Record(arm, "model_auroc", value, unit=str(recipe))
        r = closed_open_correlation([m.accuracy for m in measured], aurocs).r
        yield Record(arm, "pearson", r if np.isfinite(r) else 0.0)
    yield Record("0.7", "pearson", 0.7)


class Measured(NamedTuple):
    """A network of the correlation, in %."""

    accuracy: float
    by_logit: float
    by_softmax: float


def measure(classifier: Classifier, world: World) -> Measured:
    test, labels = world.test
    known = classifier.logits(test)
    near = classifier.logits(torch.cat([images for name, images in world.unknown.items() if name != "far"]))
    accuracy = 100 * float((known.argmax(1) == labels).double().mean())
    by_logit, by_softmax = (100 * auroc(score(known), score(near)) for score in (max_logit_score, max_softmax_score))
    return Measured(accuracy, by_logit, by_softmax)


# Images and their classes.


@dataclass(frozen=True)
class World:
    """Known samples with classes 0 … K − 1 to train, validate and test on, and groups of unknown test images.

    The group ``far`` is of another kind than the known classes; the others are of the same.
    """

    train: Samples
    validation: Samples
    test: Samples
    unknown: Mapping[str, Images]
    classes: int

    @property
    def printed(self) -> bool:
        """Whether images are grey, as characters are: mirrored or turned they would be others."""
        return self.train[0].shape[1] == 1


def world_of(config: Config, seed: int) -> World:
    """A seed's classes, and its images of them."""
    world = characters(config, seed) if config.data == "glyphs" else pictures(config, seed)
    if config.net == "vgg32":  # whose images are of three channels
        train, validation, test = ((x.expand(-1, 3, -1, -1), y) for x, y in (world.train, world.validation, world.test))
        unknown = {name: x.expand(-1, 3, -1, -1) for name, x in world.unknown.items()}
        return World(train, validation, test, unknown, world.classes)
    return world


def characters(config: Config, seed: int) -> World:
    """Letters in every typeface, each rendering jittered in its own way; and characters of far scripts."""
    splits = data.load("glyphs:latin,greek,cyrillic,math,arrows", typefaces=TYPEFACES, size=config.size)
    whole = data.merge(*splits.values())
    count = config.known or 20
    wrapped = OpenSetDataset.wrap(whole, character_split(whole.classes, count, 2 * count, count, seed=seed))
    generator = generator_of(seed, "renderings")

    def rendered(rows: Tensor, renderings: int) -> Images:
        many = whole.x[rows].repeat_interleave(renderings, 0)
        return data.affine_jitter(many, **JITTER, generator=generator)

    def known(renderings: int) -> Samples:
        return rendered(wrapped.indices, renderings), wrapped.labels.repeat_interleave(renderings)

    train, validation, test = (known(r) for r in (config.renderings, config.test_renderings, config.test_renderings))
    unknown = {name: rendered(group.indices, config.test_renderings) for name, group in wrapped.unknown.items()}
    return World(train, validation, test, unknown, count)


def pictures(config: Config, seed: int) -> World:
    """Images of other data: its own training and test images of the known classes, and test images of the unknown."""
    splits = data.load(config.data)
    n_classes = len(splits["train"].classes)
    if not n_classes or splits["train"].x.ndim != 4:
        raise ValueError(f"data={config.data!r}: this study needs images with classes")
    if config.splits:
        published = read_small_splits(config.splits)[config.benchmark]
        split = published[seed % len(published)]
    else:
        split = class_split(n_classes, config.known or max(1, round(0.6 * n_classes)), seed)
    foreign = split
    if split.foreign:
        others = [c for c in range(n_classes) if c not in split.known]
        split = OpenSetSplit(split.known, {"unknown": list(others)})
    train, test = (OpenSetDataset.wrap(splits[part], split, seed=seed) for part in ("train", "test"))
    unknown = test.unknown["unknown"].indices, splits["test"]
    if foreign.foreign:
        elsewhere = data.load(config.unknown_data)["test"]
        unknown = torch.isin(elsewhere.y, torch.tensor(foreign.unknown["unknown"])).nonzero().squeeze(1), elsewhere
    rows = unknown[0]
    known_rows = torch.arange(len(test))
    if config.benchmark:  # is tested on as many known images as unknown ones
        size, generator = min(len(rows), len(test)), generator_of(seed, "balance")
        known_rows, rows = (r[torch.randperm(len(r), generator=generator)[:size]] for r in (known_rows, rows))
    order = torch.randperm(len(train), generator=generator_of(seed, "validation"))
    held = 0 if config.benchmark else max(1, len(train) // 5)

    def samples(part: str, wrapped: OpenSetDataset, at: Tensor) -> Samples:
        return splits[part].x[wrapped.indices[at]], wrapped.labels[at]

    return World(
        samples("train", train, order[held:]),
        samples("train", train, order[:held]),
        samples("test", test, known_rows),
        {"unknown": unknown[1].x[rows]},
        len(split.known),
    )


class Epochs:
    """Batches of samples: each pass is an epoch in a new order, newly augmented, without the last incomplete batch."""

    def __init__(
        self, samples: Samples, batch_size: int, augment: Augment, generator: torch.Generator, device: str
    ) -> None:
        x, y = samples
        self.samples, self.augment, self.generator = (x.to(device), y.to(device)), augment, generator
        self.batch_size = min(batch_size, len(y))

    def __len__(self) -> int:
        return len(self.samples[1]) // self.batch_size

    def __iter__(self) -> Iterator[Samples]:
        x, y = self.samples
        order = torch.randperm(len(y), generator=self.generator)[: len(self) * self.batch_size].to(y.device)
        for block in order.split(64 * self.batch_size):  # augmented together, which is faster than batch by batch
            images = self.augment(x[block], self.generator)
            yield from zip(images.split(self.batch_size), y[block].split(self.batch_size), strict=True)


def unchanged(x: Images, generator: torch.Generator) -> Images:
    return x


def shifted(x: Images, generator: torch.Generator) -> Images:
    """By up to an eighth of the image."""
    return random_crop(x, x.shape[-1] // 8, generator)


def strong_augmentation(world: World, magnitude: float) -> Augment:
    """The strong recipe's images, still in [0, 1]; printed characters are neither turned nor mirrored."""
    pool: Literal["all", "digits"] = "digits" if world.printed else "all"
    padding = world.train[0].shape[-1] // 8
    return RandAugmentRecipe(1, magnitude, pool, padding=padding, flip=not world.printed)


# Networks and their training.


class Normalised(nn.Module):
    """(x − mean)/sd of each channel of the training images, so that generated images may be in [0, 1] as well."""

    mean: Tensor
    sd: Tensor

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.register_buffer("mean", images.mean((0, 2, 3)).view(-1, 1, 1))
        self.register_buffer("sd", images.std((0, 2, 3)).clamp(min=1e-6).view(-1, 1, 1))

    def forward(self, x: Images) -> Images:
        return (x - self.mean) / self.sd


@dataclass(frozen=True)
class Classifier:
    """Features, and a last part that is linear or holds reciprocal points."""

    features: nn.Module
    last: nn.Linear | ReciprocalPointLoss
    smoothing: float
    device: str

    def parameters(self) -> list[nn.Parameter]:
        return [*self.features.parameters(), *self.last.parameters()]

    def loss(self, features: nn.Module, batch: Samples) -> Tensor:
        x, y = batch
        if isinstance(self.last, ReciprocalPointLoss):
            value: Tensor = self.last(features(x), y)
        else:
            value = LabelSmoothingCrossEntropy(self.smoothing)(self.last(features(x)), y)
        return value

    @torch.no_grad()
    def embed(self, images: Images) -> Float[Tensor, "n dim"]:
        self.features.eval()
        return torch.cat([self.features(part.to(self.device)) for part in images.split(1000)]).cpu()

    @torch.no_grad()
    def logits(self, images: Images) -> Float[Tensor, "n classes"]:
        embedded = self.embed(images).to(self.device)
        if isinstance(self.last, ReciprocalPointLoss):
            return self.last.logits(embedded).cpu()
        logits: Tensor = self.last(embedded)
        return logits.cpu()

    def accuracy(self, images: Images, labels: Tensor) -> float:
        """In %."""
        return 100 * float((self.logits(images).argmax(1) == labels).double().mean())


def untrained(
    config: Config, world: World, share: float, loss: Loss, smoothing: float, seed: int, purpose: str, device: str
) -> Classifier:
    """A new network with a share of the full width; its features are four times its width."""
    width = max(1, round(share * config.width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(seed, purpose).initial_seed())
        if config.net == "vgg32":
            features: nn.Module = VGG32(world.classes, 4 * width).features
        else:
            layers: list[nn.Module] = []
            channels = world.train[0].shape[1]
            for outgoing in (width, 2 * width, 4 * width):
                layers.append(nn.Conv2d(channels, outgoing, 3, stride=2, padding=1, bias=False))
                layers += [nn.BatchNorm2d(outgoing), nn.ReLU()]
                channels = outgoing
            features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        last: nn.Linear | ReciprocalPointLoss
        if loss == "ARPL":
            last = ReciprocalPointLoss(world.classes, 4 * width, smoothing=smoothing)
        else:
            last = nn.Linear(4 * width, world.classes, bias=False)
    features = nn.Sequential(Normalised(world.train[0]), features)
    return Classifier(features.to(device), last.to(device), smoothing, device)


def fit_recipe(config: Config, world: World, recipe: Recipe, seed: int, device: str) -> Classifier:
    """One network of the correlation: SGD with Nesterov's momentum, and one cycle of the learning rate."""
    name = str(recipe)
    classifier = untrained(config, world, recipe.width, recipe.loss, recipe.smoothing, seed, name, device)
    augment = shifted if recipe.shift else unchanged
    epochs = Epochs(world.train, config.batch_size, augment, generator_of(seed, name, "order"), device)
    steps = max(1, round(recipe.epochs * config.epochs)) * len(epochs)
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=recipe.lr * config.lr, momentum=0.9, nesterov=True, weight_decay=recipe.decay
    )
    fit(classifier.features, classifier.loss, epochs, optimizer, steps=steps, schedule=OneCycle(optimizer, steps))
    return classifier


def fit_method(config: Config, world: World, method: str, setting: Setting, seed: int, device: str) -> Classifier:
    """A method at full width and length, by the weak or by the strong recipe, from the same start as the others."""
    smoothing, other = setting
    weak = method == "weak"
    loss: Loss = "ARPL" if method.startswith("ARPL") else "CE"
    classifier = untrained(config, world, 1.0, loss, smoothing, seed, "method", device)
    if method == "ARPL+CS":
        branch_batch_norm(classifier.features)
    augment = unchanged if weak else strong_augmentation(world, other)
    epochs = Epochs(world.train, config.batch_size, augment, generator_of(seed, "method", "order"), device)
    published = PUBLISHED.get(config.benchmark)
    lr = config.lr * (other if weak else 1.0)
    if published is not None:
        lr = published.arpl_lr if loss == "ARPL" else published.lr
    optimizer: torch.optim.Optimizer = torch.optim.SGD(classifier.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    if published is not None and published.adam:
        optimizer = torch.optim.Adam(classifier.parameters(), lr)
    if weak:
        steps = config.epochs * len(epochs)
        fit(classifier.features, classifier.loss, epochs, optimizer, steps=steps, schedule=StepDecay(optimizer, steps))
        return classifier
    # With confusing samples every epoch is followed by a plain one: half as many, for as many updates as the others.
    rounds = config.epochs // (2 if method == "ARPL+CS" and published is None else 1)
    period = max(1, rounds // 3)
    schedule = CosineWarmRestartsWithWarmup(optimizer, period, min(max(1, period // 20), period - 1), lr * 1e-3)
    adversary = confusing_samples(config, world, seed, device) if method == "ARPL+CS" else None
    for _ in range(3 * period):
        if adversary is None:
            fit(classifier.features, classifier.loss, epochs, optimizer, steps=len(epochs))
        else:
            assert isinstance(classifier.last, ReciprocalPointLoss)
            confusing_epochs(adversary, classifier.features, classifier.last, optimizer, epochs)
        schedule.step()
    return classifier


def confusing_samples(config: Config, world: World, seed: int, device: str) -> ConfusingSamples:
    """The adversary of ARPL+CS for images of this size."""
    _, channels, size, _ = world.train[0].shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(seed, "adversary").initial_seed())
        generator = ImageGenerator(channels, size, width=config.gan_width).to(device)
        discriminator = ImageDiscriminator(channels, size, width=config.gan_width).to(device)
    return ConfusingSamples(generator, discriminator, noise=generator_of(seed, "noise"))


def grid(config: Config, method: str) -> Sequence[Setting]:
    """The settings to choose from, or the published one."""
    if not config.benchmark:
        return GRIDS[method][: config.settings]
    published = PUBLISHED[config.benchmark]
    if method == "weak":
        return [(0.0, 1.0)]
    magnitude = published.arpl_magnitude if method.startswith("ARPL") else published.magnitude
    return [(published.smoothing, magnitude)]


# The figure.

ORANGE, BLUE, GREEN, AMBER, GREY = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#808080"
FAMILIES = {"ARPL": ORANGE, "smoothing": GREEN, "shifts": AMBER, "cross-entropy": BLUE}
GROUPS = {"far": ("^", "far scripts"), "letter": ("o", "other letters"), "look-alike": ("v", "look-alikes")}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """AUROC by accuracy over networks; each method by kind of unknown class; and what the best network gives them."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    draw_correlation(axes[0, 0], reported)
    draw_methods(axes[0, 1], reported)
    draw_distributions(axes[1, 0], arrays, "maximum logits", "maximum logit")
    draw_distributions(axes[1, 1], arrays, "norms", "length of the features / its mean on known classes")
    return fig


def draw_correlation(ax: Axes, records: pd.DataFrame) -> None:
    """Every network of every seed by both scores, the line of least squares of the maximum logit, and mean r."""
    drawn = []
    for arm, filled in (("maximum logit", True), ("maximum softmax", False)):
        of_arm = records[records["arm"] == arm]
        table = of_arm[of_arm["unit"].notna()].pivot(index=["seed", "unit"], columns="metric", values="value")
        units = table.index.get_level_values("unit")
        family = np.array([next((name for name in FAMILIES if name in unit), "cross-entropy") for unit in units])
        for name, colour in FAMILIES.items():
            these = table[family == name]
            face = colour if filled else "none"
            ax.scatter(
                these["model_accuracy"], these["model_auroc"], s=16 if filled else 14, marker="o" if filled else "s",
                facecolor=face, edgecolor=colour, linewidth=0.7, alpha=0.75, zorder=2,
            )  # fmt: skip
        rs = of_arm.loc[of_arm["metric"] == "pearson", "value"]
        drawn.append(f"{'●' if filled else '□'} {arm}: r = {rs.mean():.2f}")
        if filled:
            slope, intercept = np.polyfit(table["model_accuracy"], table["model_auroc"], 1)
            ends = np.array([table["model_accuracy"].min(), table["model_accuracy"].max()])
            ax.plot(ends, intercept + slope * ends, color=GREY, linewidth=1.5, zorder=1)
    for row, text in enumerate(drawn):
        ax.text(0.03, 0.96 - 0.06 * row, text, transform=ax.transAxes, va="top")
    for row, (name, colour) in enumerate(FAMILIES.items()):
        ax.text(0.97, 0.96 - 0.055 * row, name, color=colour, transform=ax.transAxes, va="top", ha="right")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.32 * (high - low))
    ax.set(xlabel="accuracy on known classes, %", ylabel="AUROC of unknown classes, %")
    ax.set_title("Networks of all seeds; mean r over seeds")


def draw_methods(ax: Axes, records: pd.DataFrame) -> None:
    """AUROC with its 95 % interval over seeds, for each method and group of unknown classes."""
    names = [name for name in GROUPS if f"auroc ({name})" in set(records["metric"])] or ["unknown"]
    colours = dict(zip(names, (BLUE, GREY, ORANGE), strict=False))
    for place, arm in enumerate(SCORED):
        for shift, name in zip(np.linspace(-0.15, 0.15, len(names)), names, strict=True):
            chosen = records[(records["arm"] == arm) & (records["metric"] == f"auroc ({name})")].groupby("seed")[
                "value"
            ]
            values = chosen.mean().to_numpy()
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else 0.0
            ax.errorbar(
                values.mean(), place + shift, xerr=half, fmt=GROUPS.get(name, ("o", ""))[0], color=colours[name],
                capsize=2, linewidth=1.2, markersize=5,
            )  # fmt: skip
    for row, name in enumerate(names):
        marker, text = GROUPS.get(name, ("o", "unknown classes"))
        sign = {"^": "▲", "o": "●", "v": "▼"}[marker]
        ax.text(0.02, 1.02 - 0.05 * row - 0.04, f"{sign} {text}", color=colours[name], transform=ax.transAxes, va="top")
    ax.set_yticks(range(len(SCORED)), list(SCORED))
    ax.set_ylim(len(SCORED) - 0.5, -1.3)
    ax.set(xlabel="AUROC, %", title="Tuned methods, by kind of unknown class")


def draw_distributions(ax: Axes, arrays: Arrays, name: str, label: str) -> None:
    """One number of the strong recipe's network, over all seeds, on known classes and on unknown ones, near and far."""
    arms = [arm for arm in ("known", "unknown", "far") if f"{arm} {name}" in arrays]
    values = {arm: np.concatenate([s.value for s in arrays[f"{arm} {name}"]]) for arm in arms}
    low, high = np.quantile(np.concatenate(list(values.values())), [0.002, 0.998]).tolist()
    bins = np.linspace(low, high, 50).tolist()
    texts = {"known": (BLUE, "known classes"), "unknown": (ORANGE, "unknown classes"), "far": (GREY, "far scripts")}
    for row, arm in enumerate(arms):
        colour, text = texts[arm]
        if arm == "far":
            ax.hist(values[arm], bins, density=True, color=colour, histtype="step", linewidth=1.5)
        else:
            ax.hist(values[arm], bins, density=True, color=colour, alpha=0.5)
        ax.text(0.97, 0.95 - 0.06 * row, text, color=colour, transform=ax.transAxes, va="top", ha="right")
    ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
    ax.set(xlabel=label, ylabel="density", title=f"Strong recipe: {label.split(' / ')[0]}")
