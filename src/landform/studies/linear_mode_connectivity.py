"""Landscaping Linear Mode Connectivity.

arXiv 2406.16300, ICML 2024 workshop on High-dimensional Learning Dynamics. Training starts near a summit from which
several mountainsides descend, with ridges between them: two runs that part early go down different sides, and the
straight line between them crosses a ridge (a loss barrier), while two that part late stay on one side. The height of
the barrier, of the whole network and of its layers, is estimated from the local geometry.

Here a common run is left by pairs of children at several moments of training. A pair shares everything but the order
of its data from there on; the steps in all are the same whenever it parts. Where the body of the paper was not
available, constants are derived and said to be so; the toy surface is our own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from landform import data
from landform.claims import Better, Correlates, Holds, Trend
from landform.data import generator_of
from landform.landscape.connectivity import (
    Checkpoint,
    Curve,
    MountainRidge2D,
    PermutationSpec,
    SinkhornRebasin,
    SpawnExperiment,
    activation_matching,
    apply_permutation,
    barrier,
    barrier_from_curvature,
    interpolation_curve,
    layerwise_barrier,
    layerwise_estimate,
    layerwise_increase,
    line_curvature,
    local_barrier_estimate,
    loss_plane,
    mountainside,
    weight_matching,
)
from landform.landscape.curvature import CurvatureOperator, sharpness
from landform.metrics.ranking import rank_agreement
from landform.models.resnet import ResNet
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack, StackedAdamW, StackedSGD

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

State = Mapping[str, Tensor]

# The settings.


@dataclass(frozen=True)
class Setting:
    """A network, its data and its training."""

    data: str = "digits"
    train_samples: int | None = 1200
    """Drawn for each seed (three quarters of all at most), the rest are for testing. None: the data's own splits."""
    label_noise: float = 0.0
    """The share of training labels that are replaced by random ones."""
    net: Literal["mlp", "vgg11", "resnet18"] = "mlp"
    widths: tuple[int, ...] = (16, 16, 16)
    """Of the perceptron's hidden layers, or of the ResNet's stages."""
    activation: Literal["relu", "tanh"] = "relu"
    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 0.0
    schedule: Literal["constant", "warm_cosine", "halving"] = "constant"
    """``warm_cosine`` warms up from 1e-4 over 100 steps; ``halving`` halves the rate every 30 epochs."""
    augment: bool = False
    """Crops of the image padded by 4, and flips, of training batches."""
    spawn: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    """When pairs part, as shares of training; 0 and 0.2 are the claim's early and late."""
    curvature_points: int = 21
    """At which a line's curvature is taken; more where its integral is to be exact."""


EARLY, LATE = 0.0, 0.2
STAGES = (64, 128, 256, 512)
IMAGES = Setting(
    data="hf:cifar10", train_samples=None, net="resnet18", widths=STAGES, epochs=200, batch_size=64, lr=0.05,
    weight_decay=5e-4, schedule="warm_cosine", augment=True,
)  # fmt: skip
DIGITS = Setting(
    data="hf:mnist", train_samples=None, widths=(512, 512, 512), epochs=100, batch_size=500, optimizer="adam", lr=1e-3
)
SETTINGS: dict[str, dict[str, Setting]] = {
    "laptop": {
        "narrow": Setting(),
        "noisy": Setting(widths=(64, 64, 64), label_noise=0.3, epochs=30),
        "smooth": Setting(widths=(64, 64, 64), label_noise=0.3, epochs=30, activation="tanh", curvature_points=101),
        "wide": Setting(widths=(128, 128, 128), spawn=(0.0,)),
    },
    "paper": {
        "narrow": IMAGES,
        "noisy": replace(IMAGES, label_noise=0.3),
        "smooth": replace(DIGITS, activation="tanh", optimizer="sgd", lr=0.1, batch_size=128, curvature_points=101),
        "wide": replace(DIGITS, spawn=(0.0,)),
    },
}
TOY = "toy"


@dataclass(frozen=True)
class Config:
    case: str = "narrow"
    """One of SETTINGS at this scale, or the toy surface."""
    scale: Literal["laptop", "paper"] = "laptop"
    data: str | None = None
    net: Literal["mlp", "vgg11", "resnet18"] | None = None
    epochs: int | None = None
    widths: tuple[int, ...] | None = None
    """These four, and ``curvature_points``, replace the setting's own."""
    optimizer_state: Literal["reset", "copy"] = "reset"
    """Whether children start with fresh momentum or with a copy of the common run's."""
    points: int = 21
    """Of each path between two networks."""
    curvature_points: int | None = None
    layer_points: int = 21
    moments: int = 10
    """How many times during training the pairs are looked at."""
    sinkhorn_passes: int = 20
    plane: int = 41
    """Points along each axis of the plane drawn for the first seed."""
    measured: int | None = None
    """So many training samples stand for all of them where second derivatives are taken, and for pairs in training."""
    evaluation_batch: int = 2048
    together: int = 16
    """How many networks, at most, train as one stack."""
    ridge: float = 0.02
    """From this height on a pair has a barrier."""
    toy_steps: tuple[int, ...] = (0, 10, 20, 30, 60)
    toy_pairs: int = 400

    def __post_init__(self) -> None:
        if self.case != TOY and self.case not in SETTINGS[self.scale]:
            raise ValueError(f"case={self.case!r}: must be one of {', '.join((*SETTINGS[self.scale], TOY))}")
        least = {"points": 3, "layer_points": 3, "moments": 1, "plane": 2, "together": 1}
        for name, smallest in {**least, "evaluation_batch": 1, "sinkhorn_passes": 1, "toy_pairs": 1}.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {smallest}")
        if self.points % 2 == 0:
            raise ValueError(f"points={self.points}: must be odd, so that the middle is one of them")
        for name in ("epochs", "measured", "curvature_points"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


READING = (
    "Both kinds of networks have lower barriers where pairs part later: with random labels none is left at 20 % of "
    "training, while runs of narrow networks vary so much that some keep one. The ends' slopes and curvatures rank the "
    "layers well while there is loss left (random labels), and hardly better than distance where it has all but "
    "vanished. A barrier of smooth networks is negative curvature, to the last digit. With ReLU the Hessian misses the "
    "kinks, which make most of the barrier between siblings: the curvature it gives can be positive all along a line "
    "that has one. Weight matching removes nearly all of the barrier between wide networks that learned clean labels, "
    "but leaves a third of it with random labels and more than half between smooth networks."
)

NARROW, NOISY, SMOOTH, WIDE, ON_TOY = ({"case": case} for case in ("narrow", "noisy", "smooth", "wide", TOY))
study = Study(
    "linear-mode-connectivity",
    claims=[
        Better(
            "barrier", "late", than="early", at=NARROW,
            says="Narrow networks: pairs that part after 20 % of training have a lower barrier than those of the start",
        ),
        Better(
            "barrier", "late", than="early", at=NOISY,
            says="Wider networks, 30 % random labels: later partings have lower barriers, too",
        ),
        Correlates(
            "estimate", "increase", at_least=0.6, arm="spawn", at=NOISY,
            says="Random labels: the two ends' slopes and curvatures rank how far each layer's move raises the loss",
        ),
        Correlates(
            "estimate", "increase", at_least=0.6, arm="spawn", at=NARROW,
            says="Narrow networks, with hardly any loss left: the same",
        ),
        Better(
            "rank_agreement", "estimate", than="squared distance", at=NOISY,
            says="Random labels: that estimate ranks layers better than their squared distance alone",
        ),
        Better(
            "rank_agreement", "estimate", than="squared distance", at=NARROW,
            says="Narrow networks: that estimate ranks layers better than their squared distance alone",
        ),
        Better(
            "barrier", "weight matching", than="a quarter of independent", at=WIDE,
            says="Weight matching removes more than three quarters of the barrier between independent wide networks",
        ),
        Holds(
            "min_curvature", at_most=0, at=SMOOTH,
            says="Smooth networks: wherever there is a barrier, there is negative curvature on the line (a ridge)",
        ),
        Holds(
            "identity_error", at_most=1e-3, at=SMOOTH,
            says="Smooth networks: curvature integrated twice gives back the loss along every line to 0.001",
        ),
        Trend("toy_barrier", "toy", over="x", sign=-1, at=ON_TOY, says="Toy surface: barriers fall with common steps"),
    ],
    presets={
        "smoke": Preset(
            Config(
                data="digits?limit=300", epochs=2, points=5, curvature_points=5, layer_points=3, moments=2,
                sinkhorn_passes=1, plane=5, toy_pairs=50, ridge=-1.0,  # too short for barriers: every line is looked at
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=12),
        "paper": Preset(
            Config(scale="paper", layer_points=3, measured=2000, evaluation_batch=1000, together=1, plane=25), seeds=5
        ),
    },
    conditions={"case": ("narrow", "noisy", "smooth", "wide", TOY)},
    minimise=("barrier",),
    reading=READING,
)  # fmt: skip


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed of one setting: its pairs, trained from one initialisation, and what lies between the two of each."""
    if config.case == TOY:
        yield from on_the_toy(config, seed)
        return
    setting = setting_of(config)
    lab = Laboratory(config, setting, samples(config, setting, seed, run.device), seed, run.device)
    early, late = (round(share * lab.total) for share in (EARLY, LATE))
    moments = [round(lab.total * i / config.moments) for i in range(1, config.moments + 1)]
    spawned = SpawnExperiment(
        lab.train, [round(share * lab.total) for share in setting.spawn], lab.total,
        optimizer_state=config.optimizer_state, watch=moments,
    ).run(lab.initialisation(0))  # fmt: skip
    run.progress(1, 3, "trained")

    for k, (a, b) in spawned.children.items():
        parted = 100 * k / lab.total
        for metric, value in lab.between(a, b):
            yield Record("spawn", metric, value, x=parted)
            if k in (early, late):
                yield Record("early" if k == early else "late", metric, value)
        for metric, value in lab.curved(a, b):
            yield Record("spawn", metric, value, unit=f"parted at {parted:.0f} %")
    run.progress(2, 3, "paths measured")

    if len(spawned.children) > 1:
        yield from lab.layers(spawned.trunk[0], spawned.children)
        for arm, k in (("early", early), ("late", late)):
            yield from lab.on_the_way(arm, spawned.trunk[0], spawned.watched[k])
    a = spawned.children[early][0]
    (partner,) = lab.train([Checkpoint(lab.initialisation(1))], [2], range(lab.total))
    for metric, value in (*lab.between(a, partner.model), *lab.curved(a, partner.model)):
        yield Record("independent", metric, value)
        if metric == "barrier":
            yield Record("a quarter of independent", "barrier", value / 4)
    yield from lab.aligned(a, partner.model)
    if seed == 0 and config.case == "narrow":
        lab.save_plane(run, spawned.trunk[0], spawned.watched[early])


def setting_of(config: Config) -> Setting:
    """The setting, with what the config says otherwise."""
    changes = {name: getattr(config, name) for name in ("data", "net", "epochs", "widths", "curvature_points")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes.get("net") == "vgg11":
        changes["schedule"] = "halving"
    return replace(SETTINGS[config.scale][config.case], **changes)


# The samples.


@dataclass(frozen=True)
class Samples:
    x: Float[Tensor, n * sample]
    y: Int[Tensor, " n"]
    test_x: Float[Tensor, m * sample]
    test_y: Int[Tensor, " m"]
    classes: int


def samples(config: Config, setting: Setting, seed: int, device: str) -> Samples:
    """A seed's training and test samples, on the device."""
    generator = generator_of(seed, "samples")
    splits = data.load(setting.data)
    if setting.train_samples is None:
        train, test = splits["train"], splits["test"]
    else:
        whole = data.merge(*splits.values())
        count = min(setting.train_samples, 3 * len(whole) // 4)
        order = torch.randperm(len(whole), generator=generator)
        train, test = whole[order[:count]], whole[order[count:]]
    if not train.classes:
        raise ValueError(f"data={setting.data!r}: its targets are quantities; this study needs classes")
    y = train.y
    if setting.label_noise:
        random = torch.randint(len(train.classes), (len(y),), generator=generator)
        y = torch.where(torch.rand(len(y), generator=generator) < setting.label_noise, random, y)
    # The perceptron's inputs are centred, as its pilot had them; those of convolutions also scaled, by channel.
    if setting.net == "mlp":
        mean, scale = train.x.mean(), torch.ones(())
    else:
        mean, scale = (f(train.x, dim=(0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    x, test_x = ((split.x - mean) / scale for split in (train, test))
    return Samples(x.to(device), y.to(device), test_x.to(device), test.y.to(device), len(train.classes))


# Networks and their training.


def network(setting: Setting, shape: Sequence[int], classes: int) -> nn.Module:
    """An untrained network with He's initialisation (for tanh the gain is 5/3), drawn from the global generator."""
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[setting.activation]
    if setting.net == "resnet18":
        if activation is not nn.ReLU:
            raise ValueError("net='resnet18' has ReLU; for tanh choose 'mlp' or 'vgg11'")
        net: nn.Module = ResNet(18, classes, in_channels=shape[0], widths=setting.widths, norm=lambda _: nn.Identity())
    elif setting.net == "vgg11":
        net = vgg11(shape[0], classes, activation)
    else:
        sizes = [math.prod(shape), *setting.widths]
        hidden = [[nn.Linear(before, width), activation()] for before, width in itertools.pairwise(sizes)]
        net = nn.Sequential(nn.Flatten(), *itertools.chain.from_iterable(hidden), nn.Linear(sizes[-1], classes))
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            mode: Literal["fan_in", "fan_out"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity=setting.activation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def vgg11(channels: int, classes: int, activation: type[nn.Module]) -> nn.Sequential:
    """Simonyan and Zisserman's configuration A without normalisation (arXiv 1409.1556, table 1)."""
    layers: list[nn.Module] = []
    for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), activation()]
            channels = width
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
    for before in (512 * 49, 4096):
        layers += [nn.Linear(before, 4096), activation(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, classes))


class Laboratory:
    """One seed of a setting: trains its networks and measures what lies between them."""

    def __init__(self, config: Config, setting: Setting, samples: Samples, seed: int, device: str) -> None:
        self.config, self.setting, self.samples, self.seed = config, setting, samples, seed
        self.model = self._made(0).to(device)
        self.per_epoch = math.ceil(len(samples.y) / setting.batch_size)
        self.total = self.per_epoch * setting.epochs
        size = config.evaluation_batch
        self.train_batches = list(zip(samples.x.split(size), samples.y.split(size), strict=True))
        self.test_batches = list(zip(samples.test_x.split(size), samples.test_y.split(size), strict=True))
        self.batch = (samples.x[: config.measured], samples.y[: config.measured])
        self._permutation = lru_cache(maxsize=8)(self._permutation_of)

    def initialisation(self, number: int) -> State:
        return {key: tensor.to(self.samples.x.device) for key, tensor in self._made(number).state_dict().items()}

    def _made(self, number: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_of(self.seed, "initialisation", number).initial_seed())
            return network(self.setting, self.samples.x.shape[1:], self.samples.classes)

    # Training, as landform.landscape.connectivity.TrainFn has it.

    def train(self, starts: Sequence[Checkpoint], orders: Sequence[int], steps: range) -> list[Checkpoint]:
        size = self.config.together
        parts = [slice(i, i + size) for i in range(0, len(starts), size)]
        return [end for part in parts for end in self._train_stack(starts[part], orders[part], steps)]

    def _train_stack(self, starts: Sequence[Checkpoint], orders: Sequence[int], steps: range) -> list[Checkpoint]:
        setting = self.setting
        stack = Stack([self.model] * len(starts)).train()
        for name, tensors in {**stack.params, **stack.buffers}.items():
            with torch.no_grad():
                tensors.copy_(torch.stack([start.model[name] for start in starts]))
        optimizer: StackedSGD | StackedAdamW
        if setting.optimizer == "sgd":
            optimizer = StackedSGD(stack.parameters(), setting.lr, momentum=0.9, weight_decay=setting.weight_decay)
        else:
            optimizer = StackedAdamW(stack.parameters(), setting.lr, weight_decay=setting.weight_decay)
        resume(optimizer, stack, [start.optimizer for start in starts])
        # Networks that share an order share its batches, which are then gathered (and augmented) once.
        distinct = sorted(set(orders))
        which = torch.tensor([distinct.index(order) for order in orders])
        for step in steps:
            optimizer.param_groups[0]["lr"] = self.learning_rate(step)
            batches = [self.training_batch(order, step) for order in distinct]
            x, y = (torch.stack(parts)[which] for parts in zip(*batches, strict=True))
            outputs = stack(x)
            loss = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [
            Checkpoint(
                {name: tensors[m].detach().clone() for name, tensors in {**stack.params, **stack.buffers}.items()},
                kept(optimizer, stack, m),
            )
            for m in range(len(starts))
        ]

    def learning_rate(self, step: int) -> float:
        """At a step of the whole run, whichever part of it is trained."""
        lr = self.setting.lr
        if self.setting.schedule == "halving":
            return lr * 0.5 ** (step // self.per_epoch // 30)
        if self.setting.schedule == "warm_cosine":
            warm = min(1.0, step / min(100, self.total))
            cosine = 0.5 * (1 + math.cos(math.pi * (step // self.per_epoch) / self.setting.epochs))
            return (1e-4 + (lr - 1e-4) * warm) if warm < 1 else lr * cosine
        return lr

    def training_batch(self, order: int, step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, self.per_epoch)
        chosen = self._permutation(order, epoch)[place * self.setting.batch_size :][: self.setting.batch_size]
        x, y = self.samples.x[chosen], self.samples.y[chosen]
        if self.setting.augment:
            x = cropped_and_flipped(x, generator_of(self.seed, "augmentation", order, step))
        return x, y

    def _permutation_of(self, order: int, epoch: int) -> Tensor:
        drawn = torch.randperm(len(self.samples.y), generator=generator_of(self.seed, "order", order, epoch))
        return drawn.to(self.samples.y.device)

    # Measurements.

    def between(self, a: State, b: State) -> Iterator[tuple[str, float]]:
        """What lies on the line between two networks."""
        train = self.curve(a, b)
        test = interpolation_curve(
            self.model, a, b, self.test_batches, F.cross_entropy, self.config.points, recalibrate_on=self.train_batches
        )
        yield "barrier", barrier(train)
        yield "midpoint", barrier(train, "midpoint")
        yield "instability", barrier(train, "instability")
        yield "test_barrier", barrier(test)
        yield "test_instability", barrier(test, "instability")
        yield "train_loss", float(train.values["loss"][[0, -1]].mean())
        yield "test_error", float(test.values["error"][[0, -1]].mean())

    def curve(self, a: State, b: State) -> Curve:
        """Along the line, on all training samples."""
        return interpolation_curve(self.model, a, b, self.train_batches, F.cross_entropy, self.config.points)

    def curved(self, a: State, b: State) -> Iterator[tuple[str, float]]:
        """The curvature of the line: its least where there is a barrier, and how far it is from explaining the loss."""
        curve = interpolation_curve(self.model, a, b, [self.batch], F.cross_entropy, self.config.points)
        curvature = line_curvature(self.model, a, b, self.batch, F.cross_entropy, self.setting.curvature_points)
        if barrier(curve) > self.config.ridge:
            yield "min_curvature", float(curvature.min())
        loss = curve.values["loss"]
        deviation = loss - torch.lerp(loss[0], loss[-1], curve.t)
        yield "identity_error", float((barrier_from_curvature(curvature, curve.t) - deviation).abs().max())

    def layers(self, origin: State, children: Mapping[int, tuple[State, ...]]) -> Iterator[Record]:
        """What the ends of each pair predict of its layers, what is measured, and how well other numbers would do.

        The pairs as wholes are ranked too: by how far the loss rises to the middle of their lines.
        """
        predictors: dict[str, list[float]] = {}
        rises: list[float] = []
        wholes: dict[str, list[float]] = {}
        climbs: list[float] = []
        loss = F.cross_entropy
        for k, (a, b) in children.items():
            share = 100 * k / self.total
            predicted = layerwise_estimate(self.model, a, b, self.batch, loss)
            measured = layerwise_increase(self.model, a, b, [self.batch], loss)
            at_random = layerwise_increase(
                self.model, a, b, [self.batch], loss, direction="random", generator=generator_of(self.seed, "random", k)
            )
            steepest = sum(self.sharpness(state) for state in (a, b)) / 2
            for layer, found in predicted.items():
                unit = f"layer {layer}, parted at {share:.0f} %"
                yield Record("spawn", "estimate", found["estimate"], unit=unit)
                yield Record("spawn", "sq_distance", found["sq_distance"], unit=unit)
                yield Record("spawn", "increase", measured[layer], unit=unit)
                yield Record("random direction", "increase", at_random[layer], unit=unit)
                rises.append(measured[layer])
                for name, value in {
                    "estimate": found["estimate"],
                    "squared distance": found["sq_distance"],
                    "worst case": found["sq_distance"] * steepest / 8,
                    "random direction": at_random[layer],
                    "angle at the start": -cosine(origin, a, b, layer),
                }.items():
                    predictors.setdefault(name, []).append(value)
            whole = local_barrier_estimate(self.model, a, b, self.batch, loss)
            curve = interpolation_curve(self.model, a, b, [self.batch], loss, 3, metrics=("loss",)).values["loss"]
            climbs.append(barrier(Curve(torch.tensor([0.0, 0.5, 1.0]), {"loss": curve}), "midpoint"))
            for name, value in {
                "estimate": whole["estimate"],
                "squared distance": whole["sq_distance"],
                "worst case": whole["sq_distance"] * steepest / 8,
                "angle at the start": -cosine(origin, a, b, ""),
                "loss of the ends": float(curve[[0, -1]].mean()),
            }.items():
                wholes.setdefault(name, []).append(value)
        for metric, scores, targets in (
            ("rank_agreement", predictors, rises),
            ("pair_rank_agreement", wholes, climbs),
        ):
            for name, values in scores.items():
                if len(set(targets)) > 2 and len(set(values)) > 1:
                    yield Record(name, metric, rank_agreement(values, targets).spearman)

    def sharpness(self, state: State) -> float:
        """The largest eigenvalue of the Hessian."""
        self.model.load_state_dict(dict(state))
        return float(sharpness(CurvatureOperator(self.model, F.cross_entropy, self.batch)))

    def on_the_way(self, arm: str, origin: State, watched: Mapping[int, tuple[State, ...]]) -> Iterator[Record]:
        """A pair at several moments of training: how far apart, in which directions, and what is between."""
        for step, (a, b) in watched.items():
            share = 100 * step / self.total
            found = mountainside(self.model, origin, a, b, self.batch, F.cross_entropy, self.config.points)
            for name, value in vars(found).items():
                yield Record(arm, f"{name}_on_the_way", value, x=share)
            heights = layerwise_barrier(
                self.model, a, b, [self.batch], F.cross_entropy, base="mean", n_points=self.config.layer_points
            )
            for layer, height in heights.items():
                yield Record(arm, "layer_barrier", height, x=share, unit=f"layer {layer}")

    def aligned(self, a: State, b: State) -> Iterator[Record]:
        """Networks from two initialisations, with the units of one in several orders."""
        model = self.model
        spec = PermutationSpec.of_resnet(model) if isinstance(model, ResNet) else PermutationSpec.of_sequential(model)
        size = math.ceil(len(self.samples.y) / SINKHORN_BATCHES)
        batches = list(zip(self.samples.x.split(size), self.samples.y.split(size), strict=True))
        passes = self.config.sinkhorn_passes
        orders: dict[str, Mapping[str, Tensor]] = {
            "weight matching": weight_matching(spec, a, b, generator=generator_of(self.seed, "sweeps")),
            "activation matching": activation_matching(spec, model, a, b, self.train_batches, normalise=True),
        }
        # As many steps by the weights alone as by the loss.
        plans: tuple[tuple[Literal["distance", "midpoint"], int], ...] = (
            ("distance", passes * len(batches)),
            ("midpoint", passes),
        )
        for objective, steps in plans:
            rebasin = SinkhornRebasin(spec, a, generator=generator_of(self.seed, "noise")).to(self.samples.x.device)
            orders[f"Sinkhorn, {objective}"] = rebasin.fit(
                a, b, objective, model=model, loader=batches, loss_fn=F.cross_entropy, passes=steps
            )
        for arm, order in orders.items():
            curve = self.curve(a, apply_permutation(spec, order, b))
            yield Record(arm, "barrier", barrier(curve))
            yield Record(arm, "instability", barrier(curve, "instability"))

    def save_plane(self, run: Run, origin: State, watched: Mapping[int, tuple[State, ...]]) -> None:
        """The loss on the plane of the start and the two ends, with both ways projected onto it."""
        a, b = watched[max(watched)]
        plane = loss_plane(self.model, origin, a, b, [self.batch], F.cross_entropy, self.config.plane)
        ways = [[plane.coordinates(state) for state in (origin, *way)] for way in zip(*watched.values(), strict=True)]
        run.save("plane_x", plane.x)
        run.save("plane_y", plane.y)
        run.save("plane_loss", plane.values["loss"])
        run.save("plane_ways", np.array(ways))


SINKHORN_BATCHES = 10


def cosine(origin: State, a: State, b: State, layer: str) -> float:
    """Of the angle between the ways of two networks from their start, within one layer or as wholes."""
    keys = [key for key in origin if key.startswith(layer) and origin[key].is_floating_point()]
    ways = [torch.cat([(end[key] - origin[key]).flatten() for key in keys]) for end in (a, b)]
    return float(F.cosine_similarity(ways[0], ways[1], dim=0))


def cropped_and_flipped(x: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Each image shifted by up to 4 pixels each way, with zeros moving in, and mirrored with probability one half."""
    n, _, height, width = x.shape
    down, right = torch.randint(9, (2, n), generator=generator)
    rows, columns = down[:, None] + torch.arange(height), right[:, None] + torch.arange(width)
    flip = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(x, (4, 4, 4, 4))
    at = (torch.arange(n)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :])
    return padded[tuple(part.to(x.device) if isinstance(part, Tensor) else part for part in at)].movedim(-1, 1)


Kept = dict[str, Any]


def resume(optimizer: StackedSGD | StackedAdamW, stack: Stack, states: Sequence[Kept | None]) -> None:
    """Give each network of a stack the moments and the count of updates that it had; None is a fresh start."""
    if all(state is None for state in states):
        return
    for name, p in stack.params.items():
        for moment in optimizer.moments:
            each = [torch.zeros_like(p[m]) if s is None else s[moment][name] for m, s in enumerate(states)]
            optimizer.state[p][moment] = torch.stack(each).detach()
    if "updates" in optimizer.param_groups[0]:
        updates = [0.0 if state is None else state["updates"] for state in states]
        optimizer.param_groups[0]["updates"] = torch.tensor(updates, dtype=torch.float64)


def kept(optimizer: StackedSGD | StackedAdamW, stack: Stack, m: int) -> Kept:
    """What :func:`resume` needs of the network at position ``m``."""
    state: Kept = {
        moment: {name: optimizer.state[p][moment][m].clone() for name, p in stack.params.items()}
        for moment in optimizer.moments
    }
    if "updates" in optimizer.param_groups[0]:
        state["updates"] = float(optimizer.param_groups[0]["updates"][m])
    return state


# The toy surface.


def on_the_toy(config: Config, seed: int) -> Iterator[Record]:
    surface = MountainRidge2D()
    for steps in config.toy_steps:
        path = surface.simulate(steps, pairs=config.toy_pairs, generator=generator_of(seed, "toy", steps))
        heights = surface.barrier(path[-1, :, 0], path[-1, :, 1])
        yield Record("toy", "toy_barrier", float(heights.mean()), x=steps)
        yield Record("toy", "toy_share", float((heights > 0.05).double().mean()), x=steps)


# The figure.

COLOURS = {"narrow": "#D55E00", "noisy": "#0072B2"}
WHAT = {"narrow": "narrow networks", "noisy": "wider, 30 % random labels"}
LAYERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
RUNS = ("#D55E00", "#0072B2")


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Barriers against the moment of parting, predicted against measured rises of layers, and a plane with two runs."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
    draw_barriers(axes[0], reported[reported["metric"] == "barrier"])
    draw_layers(axes[1], reported[(reported["case"] == "noisy") & (reported["arm"] == "spawn")])
    draw_plane(axes[2], arrays)
    return fig


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)


def draw_barriers(ax: Axes, barriers: pd.DataFrame) -> None:
    """Linear up to 0.1 and logarithmic above."""
    away = -9.0
    for place, (setting, colour) in enumerate(COLOURS.items()):
        rows = barriers[barriers["case"] == setting]
        table = rows[(rows["arm"] == "spawn") & rows["x"].notna()].pivot_table(
            index="x", columns="seed", values="value"
        )
        if table.empty:
            continue
        mean, half = np.array([interval(row) for row in table.to_numpy()]).T
        ax.plot(table.index, mean, "o-", ms=4, color=colour)
        ax.fill_between(table.index, np.maximum(mean - half, 0), mean + half, color=colour, alpha=0.2, lw=0)
        apart = rows.loc[rows["arm"] == "independent", "value"].to_numpy()
        centre, arm = interval(apart)
        ax.errorbar(away + place, centre, yerr=arm, fmt="o", ms=4, color=colour)
        ax.text(0.98, 0.97 - 0.07 * place, WHAT[setting], color=colour, ha="right", va="top", transform=ax.transAxes)
    ax.set_yscale("symlog", linthresh=0.1)
    ax.set_yticks([0, 0.05, 0.1, 0.3, 1, 3], ["0", "0.05", "0.1", "0.3", "1", "3"])
    ax.set_ylim(0, 4)
    ax.set_xticks([away + 0.5, 0, 10, 20, 30, 40], ["other\nstart", "0", "10", "20", "30", "40"])
    ax.set(xlabel="pair parts after (% of training)", ylabel="barrier of training loss (mean, 95 %)")
    ax.set_title("Later partings, lower barriers?")


def draw_layers(ax: Axes, rows: pd.DataFrame) -> None:
    from matplotlib import rcParams

    table = rows[rows["metric"].isin(("estimate", "increase"))].pivot_table(
        index=["seed", "unit"], columns="metric", values="value"
    )
    if table.empty:
        ax.text(0.5, 0.5, "no layers: the setting with random labels was not run", ha="center", transform=ax.transAxes)
        return
    shown = table[(table > 0).all(axis="columns")]
    layers = shown.index.get_level_values("unit").str.partition(",").get_level_values(0)
    for place, layer in enumerate(layers.unique()):
        points = shown[layers == layer]
        colour = LAYERS[place % len(LAYERS)]
        ax.plot(points["estimate"], points["increase"], "o", ms=3.5, alpha=0.7, mew=0, color=colour)
        ax.text(0.03, 0.97 - 0.06 * place, f"{ordinal(place)} layer", color=colour, va="top", transform=ax.transAxes)
    ends = [shown.to_numpy().min(), shown.to_numpy().max()]
    ax.plot(ends, ends, lw=0.8, color=rcParams["text.color"], zorder=0)
    ax.set(
        xscale="log", yscale="log", xlabel="rise of the loss predicted from the ends", ylabel="rise measured half-way"
    )
    hidden = len(table) - len(shown)
    note = f"{hidden} of {len(table)} not positive, not shown" if hidden else f"{len(table)} layers of pairs"
    ax.text(0.97, 0.03, note, ha="right", transform=ax.transAxes, fontsize=8)
    ax.set_title("One layer half-way to its sibling")


def ordinal(place: int) -> str:
    return {0: "1st", 1: "2nd", 2: "3rd"}.get(place, f"{place + 1}th")


def draw_plane(ax: Axes, arrays: Arrays) -> None:
    """High ground in the colour of the text."""
    from matplotlib import rcParams
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgba

    if "plane_loss" not in arrays:
        ax.text(0.5, 0.5, "no plane: narrow networks were not run", ha="center", transform=ax.transAxes)
        return
    x, y, loss, ways = (arrays[f"plane_{name}"][0].value for name in ("x", "y", "loss", "ways"))
    red, green, blue, _ = to_rgba(rcParams["text.color"])
    shades = LinearSegmentedColormap.from_list("height", [(red, green, blue, alpha) for alpha in (0.0, 0.65)])
    levels = np.geomspace(max(loss.min(), 1e-3), loss.max(), 13)
    filled = ax.contourf(x, y, loss, levels=levels, norm=LogNorm(), cmap=shades)
    bar = ax.figure.colorbar(filled, ax=ax, label="training loss", ticks=levels[::3], shrink=0.75)
    bar.ax.set_yticklabels([f"{level:.2g}" for level in levels[::3]])
    bar.ax.minorticks_off()
    ax.plot(*ways[:, -1].T, "--", lw=1.2, color=rcParams["text.color"])
    for way, colour, name in zip(ways, RUNS, "AB", strict=True):
        ax.plot(*way.T, "o-", ms=3.5, color=colour)
        ax.annotate(name, way[-1], (6, 4), textcoords="offset points", color=colour, weight="bold")
    ax.annotate("start", ways[0, 0], (-6, -12), textcoords="offset points", ha="center")
    ax.set(xlabel="distance in weight space", ylabel="distance in weight space", aspect="equal")
    ax.set_title("Two runs that part at the start")
