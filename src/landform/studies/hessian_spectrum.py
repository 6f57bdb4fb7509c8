"""Empirical Analysis of the Hessian of Over-Parametrized Neural Networks.

Levent Sagun, Utku Evci, V. Ugur Guney, Yann Dauphin and Léon Bottou, arXiv 1706.04454, ICLR 2018 workshop. The Hessian
of the training loss has a bulk of eigenvalues near zero and a few outliers. With the data fixed more parameters only
enlarge the bulk; with the network fixed the data, through the number of classes, decides the outliers. And solutions
of small and large batches, seemingly in different basins, are joined by a straight line without a barrier.

Here networks are compared at one training loss, since the whole spectrum shrinks as the loss does: each is measured
when gradient descent first reaches a set share of log K. Outliers are counted at the largest ratio of neighbours.
The paper counts by eye, and its own numbers and several of its settings were not available.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from landform import data
from landform.claims import Better, Equivalent, Trend
from landform.data import generator_of
from landform.landscape import (
    BatchSizeSwitchExperiment,
    CurvatureOperator,
    Curve,
    ParameterVector,
    barrier,
    interpolation_curve,
    near_zero_fraction,
    sharpness,
    spectral_density,
    split_spectrum,
    top_eigenpairs,
)
from landform.landscape.curvature.operators import Kind
from landform.models.mlp import MLP
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.batches import batches
from landform.training.fit import fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

State = Mapping[str, Tensor]
Values = NDArray[np.float64]
Samples = tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]]

NOISE = {"clean": 0.0, "noisy": 0.3}
"""The share of random training labels in the two experiments with batch sizes."""


@dataclass(frozen=True)
class Config:
    case: Literal["blobs", "images", "clean", "noisy"] = "blobs"
    """Spectra on Gaussian blobs or on images; or the switch of batch size, on clean or noisy labels."""

    # Spectra.
    data: str = "digits"
    samples: int | None = 2000
    """Of blobs, and of images at most; None: all of the training images, and as many blobs as there are."""
    dimensions: int = 10
    distance: float = 5.0
    """Of the blobs' centres from the origin, where each blob has unit variance in every direction."""
    components: int = 12
    """Images are their first principal components; 0: their pixels."""
    classes: tuple[int, ...] = (2, 3, 4, 6, 8)
    width: int = 10
    """Of both hidden layers, while the classes vary."""
    widths: tuple[int, ...] = (4, 8, 16, 24)
    width_classes: int = 4
    """How many classes there are while the width varies."""
    activation: Literal["relu", "tanh"] = "relu"
    lr: float = 0.05
    momentum: float = 0.9
    levels: tuple[float, ...] = (0.9, 0.7, 0.5, 0.3, 0.15, 0.05, 0.01)
    """Training losses, as shares of log K, at which spectra are taken, …"""
    level: float = 0.15
    """… the one at which claims are made, …"""
    low: float = 0.05
    """… and the low one, at which the Gauss–Newton part is compared with the whole."""
    max_steps: int = 4000
    attempts: int = 5
    """Initialisations to try, as one with dead units may never reach a level."""
    exact_up_to: int = 5000
    """Larger Hessians are not written down: outliers come from Lanczos' process, shares from quadrature."""

    # The switch of batch size.
    switch_data: str = "digits"
    net: Literal["mlp", "convnet"] = "mlp"
    train_samples: int | None = 1200
    large_batch: int = 512
    small_batch: int = 16
    large_steps: int = 1500
    small_steps: int = 3000
    switch_lr: float = 0.1
    every: int = 100
    points: int = 21
    evaluation_batch: int = 2048

    def __post_init__(self) -> None:
        if self.case not in ("blobs", "images", *NOISE):
            raise ValueError(f"case={self.case!r}: must be one of blobs, images, {', '.join(NOISE)}")
        if self.net not in ("mlp", "convnet"):
            raise ValueError(f"net={self.net!r}: must be 'mlp' or 'convnet'")
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                may_be_zero = field.name in ("components", "momentum")
                if isinstance(number, int | float) and not (number > 0 or (may_be_zero and number == 0)):
                    raise ValueError(f"{field.name}={value}: must be {'zero or more' if may_be_zero else 'positive'}")
        for name in ("classes", "widths"):
            if len(set(getattr(self, name))) < 2:
                raise ValueError(f"{name}={getattr(self, name)}: a slope needs at least two")
        if min(*self.classes, self.width_classes) < 2:
            raise ValueError(f"classes={self.classes}, width_classes={self.width_classes}: at least two classes each")
        if not {self.level, self.low} <= set(self.levels) or max(self.levels) >= 1:
            raise ValueError(f"levels={self.levels}: must be below 1, and have level={self.level} and low={self.low}")


BLOBS, IMAGES, CLEAN, NOISY = ({"case": case} for case in ("blobs", "images", "clean", "noisy"))
ON = {"blobs": "Gaussian blobs", "images": "Images"}
CONTROLS = ("untrained", "shuffled labels", "random Jacobian")

study = Study(
    "hessian-spectrum",
    claims=[
        Equivalent(
            "slope", "classes", "one a class", within=0.25, at=BLOBS,
            says="Gaussian blobs: every further class adds one outlier (slope 1 ± 0.25 on the number of classes)",
        ),
        Equivalent(
            "slope", "widths", "none a doubling", within=0.25, at=BLOBS,
            says="Gaussian blobs: wider networks have no more outliers (slope 0 ± 0.25 a doubling of the width)",
        ),
        Equivalent(
            "slope", "classes", "one a class", within=0.25, at=IMAGES,
            says="Images: every further class adds one outlier",
        ),
        Equivalent(
            "slope", "widths", "none a doubling", within=0.25, at=IMAGES,
            says="Images: wider networks have no more outliers",
        ),
        *(
            Better(
                "slope", "classes", than=CONTROLS, at={"case": case},
                says=f"{name}, a control: before training, with shuffled labels and for random Jacobians, outliers "
                "follow the classes less",
            )
            for case, name in ON.items()
        ),
        *(
            claim
            for case, name in ON.items()
            for claim in (
                Better(
                    "edge_slope", "classes", than="widths", at={"case": case},
                    says=f"{name}: counted as twice above the bulk's edge, outliers gain more by a further class than "
                    "by a doubling of the width",
                ),
                Better(
                    "edge_slope", "classes", than=CONTROLS, at={"case": case},
                    says=f"{name}, the same control for this count",
                ),
            )
        ),
        *(
            Trend(
                "near_zero", "widths", over="x", at={"case": case},
                says=f"{name}: the share of eigenvalues near zero grows with the width",
            )
            for case, name in ON.items()
        ),
        *(
            claim
            for case, name in ON.items()
            for claim in (
                Better(
                    "overlap", "Gauss–Newton part", than="0.8", at={"case": case},
                    says=f"{name}, low loss: the top K − 1 eigenvectors of the Hessian and of its Gauss–Newton part "
                    "overlap by more than 0.8",
                ),
                Better(
                    "top_eigenvalue", "residual part", than="a fifth of the Hessian's", at={"case": case},
                    says=f"{name}, low loss: the residual part's top eigenvalue is below 20 % of the Hessian's",
                ),
            )
        ),
        *(
            claim
            for at, name in ((CLEAN, "Clean labels"), (NOISY, "30 % random labels"))
            for claim in (
                Better(
                    "relative_barrier", "switch", than="5 % of the gap", at=at,
                    says=f"{name}: between the large-batch and the small-batch end the barrier is below 5 % of what "
                    "training gained",
                ),
                Better(
                    "distance", "switch", than="10 % of the norm", at=at,
                    says=f"{name}: and yet the two ends lie more than 10 % of the weights' norm apart",
                ),
                Better(
                    "relative_barrier", "switch", than="another start", at=at,
                    says=f"{name}, a control: small batches from another initialisation end behind a higher barrier",
                ),
                Better(
                    "sharpness", "small batch", than="large batch", at=at,
                    says=f"{name}: the small-batch end is less sharp",
                ),
            )
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                samples=200, classes=(2, 3), width=4, widths=(2, 4), width_classes=3, levels=(0.5, 0.4), level=0.5,
                low=0.4, train_samples=300, large_batch=100, large_steps=20, small_steps=20, points=5, every=10,
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=10),
        "paper": Preset(
            Config(
                data="hf:mnist", samples=1000, components=0, classes=(2, 4, 6, 8, 10), width=30,
                widths=(10, 20, 50, 100),
                width_classes=10, lr=0.1, momentum=0.0, max_steps=100_000,
                switch_data="hf:cifar10", net="convnet", train_samples=None, large_batch=1000, small_batch=32,
                large_steps=25_000, small_steps=25_000, points=25, evaluation_batch=1000,
            ),
            seeds=5,
        ),
    },
    conditions={"case": ("blobs", "images", *NOISE)},
    minimise=("relative_barrier", "barrier", "sharpness", "top_eigenvalue", "off"),
    reading=(
        "Around the count everything holds: the share of eigenvalues near zero grows with the width, the outliers are "
        "those of the Gauss–Newton part, and from large batches small ones move far without crossing a barrier. The "
        "count itself fails at this scale. The largest gap comes before K − 1 (a slope of 0.33 on blobs and 0.56 on "
        "images), at every training loss from 0.9 log K down to 0.01 log K: often the first eigenvalues stand further "
        "from the next than the K − 1 do from the bulk. Counted above the bulk's edge, outliers grow with the classes, "
        "and more than in networks that know nothing of them, but with the width too. And early in training with "
        "shuffled labels, when all samples are predicted alike, the gap is at K − 1 almost always: there it counts the "
        "outputs of the network, and says nothing of the data."
    ),
)  # fmt: skip


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed of one case."""
    if config.case in NOISE:
        yield from switch(config, seed, run)
    else:
        yield from spectra(config, seed, run)


# Spectra.


def spectra(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """Networks for several numbers of classes, then of several widths, each measured as it reaches the losses."""
    readings: dict[str, dict[float, Reading]] = {}  # of each arm, by what varies
    off: dict[float, list[int]] = {level: [] for level in config.levels}
    low: list[Parts] = []
    total = len(config.classes) + len(config.widths)
    for done, k in enumerate(config.classes):
        run.progress(done, total, f"{k} classes")
        batch = samples(config, seed, k, run.device)
        course = descent(config, seed, config.width, batch, k, config.levels)
        found = {level: read(config, model, batch, k) for level, (model, _) in course.items()}
        for level, reading in found.items():
            off[level].append(abs(reading.outliers - (k - 1)))
        model, steps = course[config.level]
        run.save(f"spectrum of {k} classes", found[config.level].eigenvalues)
        low.append(parts(course[config.low][0], batch, k))
        arms = {
            "classes": found[config.level],
            "Gauss–Newton part": read(config, model, batch, k, "ggn"),
            **controls(config, seed, batch, k, steps),
        }
        for arm, reading in arms.items():
            readings.setdefault(arm, {})[k - 1] = reading

    k = config.width_classes
    batch = samples(config, seed, k, run.device)
    for done, width in enumerate(config.widths, len(config.classes)):
        run.progress(done, total, f"width {width}")
        model, _ = descent(config, seed, width, batch, k, (config.level,))[config.level]
        reading = read(config, model, batch, k)
        readings.setdefault("widths", {})[math.log2(width)] = reading
        yield Record("widths", "near_zero", reading.near_zero, x=math.log2(width))

    for arm, along in readings.items():
        for rule in ("outliers", "beyond_edge"):
            counts = [getattr(reading, rule) for reading in along.values()]
            for x, count in zip(along, counts, strict=True):
                yield Record(arm, rule, count, x=x)
            yield Record(arm, "slope" if rule == "outliers" else "edge_slope", slope(list(along), counts))
    yield Record("one a class", "slope", 1.0)
    yield Record("none a doubling", "slope", 0.0)
    yield Record("theory at this K", "outliers", k - 1)
    for level, misses in off.items():
        if len(misses) == len(config.classes):
            yield Record("classes", "off", float(np.mean(misses)), x=level)
    overlap, whole, residual = np.mean(low, axis=0).tolist()
    yield Record("Gauss–Newton part", "overlap", overlap)
    yield Record("0.8", "overlap", 0.8)
    yield Record("Hessian", "top_eigenvalue", whole)
    yield Record("residual part", "top_eigenvalue", residual)
    yield Record("a fifth of the Hessian's", "top_eigenvalue", 0.2 * whole)


def samples(config: Config, seed: int, k: int, device: str) -> Samples:
    """A seed's inputs and targets with K classes: blobs, or the first K classes of the images."""
    generator = generator_of(seed, "samples")
    if config.case == "blobs":
        count = config.samples or len(data.load(config.data)["train"])
        directions = torch.randn(max(*config.classes, config.width_classes), config.dimensions, generator=generator)
        centres = config.distance * F.normalize(directions)[:k]
        y = torch.arange(count) % k
        x = centres[y] + torch.randn(count, config.dimensions, generator=generator)
    else:
        splits = data.load(config.data)
        whole = data.merge(*splits.values()) if config.samples else splits["train"]
        if len(whole.classes) < max(*config.classes, config.width_classes):
            raise ValueError(f"data={config.data!r}: has {len(whole.classes)} classes, fewer than are asked for")
        chosen = torch.randperm(len(whole), generator=generator)
        chosen = chosen[whole.y[chosen] < k][: config.samples]
        x, y = whole.x[chosen].flatten(1), whole.y[chosen]
        x = x - x.mean(0)
        if config.components:
            _, _, directions = torch.linalg.svd(x, full_matrices=False)
            x = x @ directions[: config.components].T
            x = x / x.square().mean().sqrt()
    return x.to(device), y.to(device)


def network(config: Config, seed: int, width: int, batch: Samples, k: int, attempt: int = 0) -> nn.Module:
    """Two hidden layers of one width, drawn from a stream of the seed's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(seed, "network", width, k, attempt).initial_seed())
        model = MLP(batch[0].shape[1], (width, width), k, activation=config.activation)
    return model.to(batch[0].device)


def descent(
    config: Config, seed: int, width: int, batch: Samples, k: int, levels: Sequence[float]
) -> dict[float, tuple[nn.Module, int]]:
    """Gradient descent on all samples: the network and its steps when its loss first reaches each share of log K.

    The levels that claims are made at must be reached, by one of several initialisations; lower ones may not be.
    """
    needed = {config.level, config.low} & set(levels)
    for attempt in range(config.attempts):
        found: dict[float, tuple[nn.Module, int]] = {}
        waiting = sorted(levels, reverse=True)
        model = network(config, seed, width, batch, k, attempt)
        for step, loss in enumerate(descend(config, model, batch)):
            while waiting and loss <= waiting[0] * math.log(k):
                found[waiting.pop(0)] = (copy.deepcopy(model), step)
            if not waiting:
                break
        if needed <= found.keys():
            return found
    raise RuntimeError(
        f"no network of width {width} for {k} classes reached {min(needed)} log {k} in {config.max_steps} steps, "
        f"of {config.attempts} initialisations: raise max_steps or lr"
    )


def descend(config: Config, model: nn.Module, batch: Samples) -> Iterator[float]:
    """The loss before each of ``max_steps`` updates of gradient descent with momentum, which follow it."""
    x, y = batch
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    for _ in range(config.max_steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        yield loss.item()
        loss.backward()
        optimizer.step()


@dataclass(frozen=True)
class Reading:
    """A spectrum (the top of it, where the matrix is too large), and what it shows."""

    eigenvalues: Float[Tensor, " m"]
    outliers: int
    """At the largest gap."""
    beyond_edge: int
    """Above twice the bulk's edge."""
    near_zero: float


def read(
    config: Config, model: nn.Module, batch: Samples, k: int, kind: Literal["hessian", "ggn"] = "hessian"
) -> Reading:
    """A network's spectrum: exact where the matrix can be written down."""
    operator = CurvatureOperator(model, F.cross_entropy, batch, kind, dtype=torch.float64)
    if operator.shape[0] <= config.exact_up_to:
        return read_whole(torch.linalg.eigvalsh(operator.to_dense(config.exact_up_to)), k)
    # The top by Lanczos' process; the bulk's edge and the share next to zero by quadrature.
    top = top_eigenpairs(operator, 4 * k, tol=1e-2, max_products=2000).values
    size = float(top_eigenpairs(operator, 1, "LM").values.abs())
    density = spectral_density(operator, 100, 10)
    nodes, order = density.nodes.flatten().sort()
    mass = (density.weights.flatten()[order] * (nodes > 0)).cumsum(0) / len(density.nodes)
    edge = nodes[torch.searchsorted(mass, 0.95 * (mass[-1] - 2 * k / operator.shape[0]))]
    near_zero = density.mean(lambda t: (t.abs() < 1e-3 * size).double())
    return Reading(top, split_spectrum(top, k).count, int((top > 2 * edge).sum()), near_zero)


def read_whole(eigenvalues: Float[Tensor, " P"], k: int) -> Reading:
    """What all eigenvalues show."""
    eigenvalues = eigenvalues.flip(0).cpu()
    edge = split_spectrum(eigenvalues, k, "edge").count
    return Reading(eigenvalues, split_spectrum(eigenvalues, k).count, edge, near_zero_fraction(eigenvalues))


class Parts(NamedTuple):
    """How far the Gauss–Newton part makes the Hessian's outliers, and the top eigenvalues of the whole and the rest."""

    overlap: float
    whole: float
    residual: float


def parts(model: nn.Module, batch: Samples, k: int) -> Parts:
    whole, gauss_newton, residual = (
        CurvatureOperator(model, F.cross_entropy, batch, kind, dtype=torch.float64) for kind in get_args(Kind)
    )
    (values, ours), (_, theirs) = (top_eigenpairs(op, k - 1, tol=1e-6) for op in (whole, gauss_newton))
    overlap = float((ours.T @ theirs).square().sum()) / (k - 1)
    return Parts(overlap, float(values[0]), float(top_eigenpairs(residual, 1).values))


def controls(config: Config, seed: int, batch: Samples, k: int, steps: int) -> dict[str, Reading]:
    """Spectra of networks that know nothing of the classes, and of no network at all."""
    x, y = batch
    model = network(config, seed, config.width, batch, k)
    untrained = read(config, model, batch, k)
    shuffled = x, y[torch.randperm(len(y), generator=generator_of(seed, "shuffle", k)).to(y.device)]
    for step, _ in enumerate(descend(config, model, shuffled)):
        if step == steps:
            break
    size = min(sum(p.numel() for p in model.parameters()), 1000)
    jacobian = torch.randn(len(x) * k, size, generator=generator_of(seed, "Jacobian", k), dtype=torch.float64)
    return {
        "untrained": untrained,
        "shuffled labels": read(config, model, shuffled, k),
        "random Jacobian": read_whole(torch.linalg.eigvalsh(jacobian.T @ jacobian / len(x)), k),
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares."""
    return float(np.polyfit(x, y, 1)[0])


# The switch of batch size.


def switch(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """Large batches, then small ones from their end; and small ones from another initialisation."""
    train, test, classes = switch_samples(config, seed, run.device)
    pieces = [
        list(zip(x.split(config.evaluation_batch), y.split(config.evaluation_batch), strict=True))
        for x, y in (train, test)
    ]
    model, first, second = (switch_network(config, seed, number, train[0], classes) for number in (0, 0, 1))
    steps = config.large_steps, config.small_steps

    def train_fn(state: State, batch_size: int, span: range) -> State:
        model.load_state_dict(state)
        source = batches(*train, batch_size, generator_of(seed, "order", batch_size, span.start))
        optimizer = torch.optim.SGD(model.parameters(), lr=config.switch_lr)
        fit(
            model,
            lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
            source,
            optimizer,
            steps=len(span),
            fabric=run.fabric,
        )
        run.progress(span.stop, 2 * sum(steps), f"batches of {batch_size}")
        return copy.deepcopy(model.state_dict())

    def path(a: State, b: State, part: int, points: int = config.points) -> Curve:
        return interpolation_curve(model, a, b, pieces[part], F.cross_entropy, points)

    def measure(state: State) -> dict[str, float]:
        on_train, on_test = (path(state, state, part, points=2).values for part in (0, 1))
        return {
            "train_loss": float(on_train["loss"][0]),
            "test_loss": float(on_test["loss"][0]),
            "test_error": 100 * float(on_test["error"][0]),
        }

    experiment = BatchSizeSwitchExperiment(train_fn, config.large_batch, config.small_batch, steps, every=config.every)
    found = experiment.run(first.state_dict(), measure)
    for metric, values in found.values.items():
        for step, value in zip(found.steps, values.tolist(), strict=True):
            yield Record("switch", metric, value, x=step)
    other = train_fn(second.state_dict(), config.small_batch, range(sum(steps)))

    layout = ParameterVector.of(model)
    large, *others = (layout.flatten({key: s[key] for key in layout.shapes}) for s in (found.large, found.small, other))
    for arm, end, place in zip(("switch", "another start"), (found.small, other), others, strict=True):
        on_train, on_test = (path(found.large, end, part) for part in (0, 1))
        gained = float(found.values["train_loss"][0] - on_train.values["loss"][[0, -1]].max())
        yield Record(arm, "barrier", barrier(on_train))
        yield Record(arm, "test_barrier", barrier(on_test))
        yield Record(arm, "relative_barrier", barrier(on_train) / gained)
        yield Record(arm, "distance", float((place - large).norm() / large.norm()))
        run.save(f"path of {arm}", torch.stack([on_train.t, on_train.values["loss"], on_test.values["loss"]]))
    yield Record("5 % of the gap", "relative_barrier", 0.05)
    yield Record("10 % of the norm", "distance", 0.1)
    for arm, state in (("large batch", found.large), ("small batch", found.small)):
        model.load_state_dict(state)
        yield Record(arm, "sharpness", float(sharpness(CurvatureOperator(model, F.cross_entropy, pieces[0]))))


def switch_samples(config: Config, seed: int, device: str) -> tuple[Samples, Samples, int]:
    """Training samples, some with random labels, and test samples: the seed's own, or the data's own splits."""
    splits, generator = data.load(config.switch_data), generator_of(seed, "switch")
    if config.train_samples is None:
        train, test = splits["train"], splits["test"]
    else:
        whole = data.merge(*splits.values())
        if len(whole) <= config.train_samples:
            raise ValueError(f"switch_data={config.switch_data!r}: {len(whole)} samples leave none to test on")
        order = torch.randperm(len(whole), generator=generator)
        train, test = whole[order[: config.train_samples]], whole[order[config.train_samples :]]
    if not train.classes:
        raise ValueError(f"switch_data={config.switch_data!r}: its targets are quantities; this study needs classes")
    random = torch.randint(len(train.classes), (len(train),), generator=generator)
    y = torch.where(torch.rand(len(train), generator=generator) < NOISE[config.case], random, train.y)
    mean = train.x.mean()
    samples = (((train.x - mean).to(device), y.to(device)), ((test.x - mean).to(device), test.y.to(device)))
    return *samples, len(train.classes)


def switch_network(config: Config, seed: int, number: int, x: Tensor, classes: int) -> nn.Module:
    """A perceptron of two hidden layers; or a bare convolutional network, without normalisation or dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(seed, "switch network", number).initial_seed())
        if config.net == "mlp":
            model: nn.Module = MLP(x[0].numel(), (32, 32), classes)
        else:
            model = bare_alexnet(x.shape[1], x.shape[2], classes)
    return model.to(x.device)


def bare_alexnet(channels: int, size: int, classes: int) -> nn.Module:
    """Two 5 × 5 convolutions of 64 channels, each pooled by 2, and hidden layers of 384 and 192.

    It stands for the paper's bare "AlexNet"-like network, whose layers were not available.
    """
    pooled = size // 2 // 2
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * pooled**2, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(),
        nn.Linear(192, classes),
    )  # fmt: skip


# The figure.

ORANGE, BLUE, GREEN, AMBER, SKY, GREY = "#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#808080"
COLOURS = {"blobs": BLUE, "images": ORANGE, "clean": BLUE, "noisy": ORANGE}
NAMES = {"blobs": "blobs", "images": "images", "clean": "clean labels", "noisy": "30 % random labels"}
RULES = {"outliers": ("o-", "● at the largest gap"), "beyond_edge": ("s:", "□ above twice the bulk's edge")}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Spectra by number of classes; outliers by classes, width and loss; the bulk; and the ways between batch sizes."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    draw_spectra(axes[0, 0], reported, arrays)
    draw_outliers(axes[0, 1], reported, "classes")
    draw_outliers(axes[0, 2], reported, "widths")
    draw_window(axes[1, 0], reported)
    draw_bulk(axes[1, 1], reported)
    draw_paths(axes[1, 2], reported, arrays)
    return fig


def draw_spectra(ax: Axes, records: pd.DataFrame, arrays: Arrays) -> None:
    """The largest eigenvalues of one seed's networks on blobs, with a bar where theory puts the end of the outliers."""
    of_classes = records[(records["arm"] == "classes") & (records["metric"] == "outliers")]
    ks = sorted({int(x) + 1 for x in of_classes["x"]})
    shown, labels = 2 * max(ks) + 4, []
    for colour, k in zip((SKY, BLUE, GREEN, AMBER, ORANGE) * len(ks), ks, strict=False):
        saved = [s for s in arrays[f"spectrum of {k} classes"] if s.condition["case"] == "blobs"]
        values = min(saved, key=lambda s: s.seed).value[:shown]
        values = values[values > 1e-3 * values[0]] / values[0]
        ax.plot(range(1, len(values) + 1), values, "o-", color=colour, markersize=3, linewidth=0.8)
        if len(values) >= k:
            middle = math.sqrt(values[k - 2] * values[k - 1])
            ax.plot(k - 0.5, middle, "|", color=colour, markersize=18, markeredgewidth=2.5)
        labels.append((values[-1], k, colour))
    height = math.inf
    for value, k, colour in sorted(labels, reverse=True):
        height = min(value, height / 1.35)  # apart enough to be read
        ax.text(shown + 0.6, height, f"K = {k}", color=colour, va="center")
    ax.set(yscale="log", xlim=(0, shown + 5), xlabel="rank of the eigenvalue", ylabel="eigenvalue / largest")
    ax.set_title("One seed on blobs; bars after K − 1")


def along(records: pd.DataFrame, arm: str, metric: str, case: str) -> tuple[Values, Values, Values]:
    """Abscissae, means over seeds, and half widths of their 95 % intervals."""
    chosen = (records["arm"] == arm) & (records["metric"] == metric) & (records["case"] == case)
    groups = records[chosen].groupby("x")["value"]
    count = groups.count().to_numpy()
    half = np.where(count > 1, stats.t.ppf(0.975, np.maximum(count - 1, 1)) * groups.sem().fillna(0), 0.0)
    return groups.mean().index.to_numpy(np.float64), groups.mean().to_numpy(np.float64), np.asarray(half, np.float64)


def draw_outliers(ax: Axes, records: pd.DataFrame, arm: str) -> None:
    """How many outliers there are by both rules, and what theory says."""
    for metric, (style, _) in RULES.items():
        for shift, case in ((-0.03, "blobs"), (0.03, "images")):
            x, y, half = along(records, arm, metric, case)
            face = COLOURS[case] if metric == "outliers" else "none"
            ax.errorbar(x + shift, y, half, fmt=style, color=COLOURS[case], markerfacecolor=face, **STYLE)
    ks = records.loc[records["arm"] == "theory at this K", "value"]
    theory = x if arm == "classes" else np.full(len(x), ks.iloc[0])
    ax.plot(x, theory, color=GREY, linestyle="--", linewidth=1, zorder=0)
    ax.annotate("K − 1", (x[-1], theory[-1]), (6, -4), textcoords="offset points", color=GREY)
    ax.set_xlim(x[0] - 0.3, x[-1] + 0.15 * (x[-1] - x[0]) + 0.1)
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
    key(ax, ("blobs", "images"), [text for _, text in RULES.values()])
    ax.set_ylabel("outliers")
    if arm == "classes":
        ax.set(xlabel="number of classes − 1", title="Outliers by classes")
    else:
        ax.set_xticks(x, [f"{2**value:.0f}" for value in x])
        ax.set(xlabel="width of the hidden layers", title=f"Outliers by width, K = {int(ks.iloc[0]) + 1}")


STYLE: dict[str, Any] = {"capsize": 2, "linewidth": 1.2, "markersize": 5}


def key(ax: Axes, cases: Sequence[str], signs: Sequence[str] = (), y: float = 0.96) -> None:
    """The names of the colours and signs, from the upper left corner downward."""
    for i, case in enumerate(cases):
        ax.text(0.03 + 0.22 * i, y, NAMES[case], color=COLOURS[case], transform=ax.transAxes, va="top")
    for i, sign in enumerate(signs, 1):
        ax.text(0.03, y - 0.075 * i, sign, color=GREY, transform=ax.transAxes, va="top")


def draw_window(ax: Axes, records: pd.DataFrame) -> None:
    """How far the count is from K − 1, by the loss at which it is made."""
    for case in ("blobs", "images"):
        x, y, half = along(records, "classes", "off", case)
        ax.errorbar(x, y, half, fmt="o-", color=COLOURS[case], **STYLE)
    ax.set(xscale="log", xlabel="training loss / log K at which it is counted", ylabel="mean |outliers − (K − 1)|")
    ax.set_title("How far the largest gap is from K − 1")
    ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
    ax.invert_xaxis()
    key(ax, ("blobs", "images"))


def draw_bulk(ax: Axes, records: pd.DataFrame) -> None:
    """The share of eigenvalues next to zero, by width."""
    for case in ("blobs", "images"):
        x, y, half = along(records, "widths", "near_zero", case)
        ax.errorbar(x, y, half, fmt="o-", color=COLOURS[case], **STYLE)
    ax.set_xticks(x, [f"{2**value:.0f}" for value in x])
    ax.set(xlabel="width of the hidden layers", ylabel="share of |eigenvalues| < 0.001 of the largest", ylim=(0, 1))
    ax.set_title("The bulk near zero")
    key(ax, ("blobs", "images"))


def draw_paths(ax: Axes, records: pd.DataFrame, arrays: Arrays) -> None:
    """Training loss from the large-batch end to two small-batch ends, and the sharpness of the ends."""
    sharp = records[records["metric"] == "sharpness"].groupby(["case", "arm"])["value"].mean()
    for case in NOISE:
        for arm, style in (("switch", "-"), ("another start", ":")):
            paths = np.stack([s.value for s in arrays[f"path of {arm}"] if s.condition["case"] == case])
            t, loss = paths[0, 0], paths[:, 1].mean(axis=0)
            ax.plot(t, loss, style, color=COLOURS[case], linewidth=1.8)
            if arm == "switch":
                for arm_, at, side in (("large batch", 0, "right"), ("small batch", -1, "left")):
                    shift = -6 if side == "right" else 6
                    ax.annotate(
                        f"λ = {sharp[case, arm_]:.1f}", (t[at], loss[at]), (shift, 0), textcoords="offset points",
                        color=COLOURS[case], ha=side, va="center",
                    )  # fmt: skip
    ax.set_xticks([0, 0.5, 1], ["large-batch\nend", "half-way", "small-batch\nend"])
    ax.set(ylabel="training loss", xlim=(-0.38, 1.3), title="Paths, and sharpness λ of their ends")
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    key(ax, ("clean",))
    ax.text(0.35, 0.96, NAMES["noisy"], color=COLOURS["noisy"], transform=ax.transAxes, va="top")
    ax.text(0.03, 0.885, "— switched   ⋯ another initialisation", color=GREY, transform=ax.transAxes, va="top")
