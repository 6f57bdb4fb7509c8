"""Stepsize anything: a unified learning rate schedule for budgeted-iteration training.

Tang, Dong, Zeng, Zhou & Lin, arXiv 2505.24452, NeurIPS 2025. When the number of updates is fixed in advance, the rates
that minimise the worst case over an uncertain curvature have a closed form with one shape parameter phi, which runs
from "constant, then a cliff" over cosine (phi = 2) to early decay. The paper's claim: with it training ends at a lower
loss than with the schedules chosen by habit, at every budget.

Here every arm trains the same model from the same weights on the same batches; only the rates differ. Each arm chooses
among equally many settings on seeds that are not reported: UBA among shapes and peak rates, every other schedule among
as many peak rates over the same range. Four tasks at a quarter, a half and the whole of a budget: quadratics with noisy
gradients, where expected losses are exact; ill-conditioned logistic regression; an image classifier; a byte language
model. On quadratics also the mechanism: which phi is best, in the worst case and in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from landform import data
from landform.claims import Better, Holds, Trend
from landform.data.corpus import windows
from landform.models import MLP, ByteTransformer, ResNet
from landform.optim.quadratic import (
    QuadraticProblem,
    chebyshev_residual,
    quadratic_problem,
    residual_curve,
    worst_case_residual,
)
from landform.optim.schedules import (
    cosine_factor,
    linear_factor,
    lr_factor,
    one_cycle_factor,
    phi_from_condition_number,
    rex_factor,
    step_factor,
    uba_factor,
)
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack, cross_entropy, train_many

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Task = Literal["quadratics", "logistic", "images", "text"]
Rates = Float[np.ndarray, "runs updates"]

BUDGETS = (0.25, 0.5, 1.0)
BASELINES: dict[str, Callable[[Any], Any]] = {
    "cosine": cosine_factor,
    "linear": linear_factor,
    "step": step_factor,
    "rex": rex_factor,
    "one-cycle": one_cycle_factor,
}

PHIS = (0.5, 1.0, 2.0, 5.0, 10.0)
SEARCHED = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
"""Shapes among which the best is sought on quadratics; 2 kappa is one of them."""
PROBED = (0.5, 10.0)
"""A shape that holds the rate and one that lets it fall early, compared at every peak rate."""


@dataclass(frozen=True)
class Config:
    """Updates are those of the whole budget; peak rates are UBA's, and the ends of every other schedule's range."""

    task: Task = "images"
    budget: float = 1.0
    phis: tuple[float, ...] = PHIS
    fixed_phi: float = 5.0

    quadratic_updates: int = 100
    quadratic_peaks: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """In units of 1/L, the inverse of the greatest curvature."""
    curvatures: int = 64
    kappa: float = 100.0
    gradient_noise: float = 0.1
    kappas: tuple[float, ...] = (10.0, 100.0, 1000.0)
    """Condition numbers at which the best phi is sought."""

    logistic_updates: int = 200
    logistic_peaks: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    logistic_data: str = "digits"
    logistic_kappa: float = 1000.0
    components: int = 40

    image_updates: int = 240
    image_peaks: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    image_data: str = "digits"
    image_net: Literal["mlp", "resnet18", "resnet34", "resnet50"] = "mlp"
    widths: tuple[int, ...] = (64, 64)
    """Of the hidden layers, or of the four stages of a residual network."""
    train_size: int = 900
    """Images to train on, here and in the logistic regression; the other training images are for validation."""
    label_noise: float = 0.1
    """The share of the images' training labels that are wrong; the regression's are all right."""
    batch_size: int = 50
    momentum: float = 0.9
    weight_decay: float = 0.0
    augment: bool = False
    """Shift each image by up to 4 pixels, and mirror it at random."""

    text_updates: int = 120
    text_peaks: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    text_data: str = "corpus"
    text_floor: float = 0.1
    text_warmup: float = 0.1
    """The share of the budget that the warm-up takes."""
    d_model: int = 32
    n_layer: int = 2
    n_head: int = 2
    context: int = 32
    sequences: int = 8
    text_weight_decay: float = 0.1
    clip: float = 1.0
    held_sequences: int = 512

    together: int = 1000
    """How many runs, at most, train as one stack of models."""

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget={self.budget}: must lie in (0, 1]")
        if len(set(self.phis)) != len(BASELINES) or min(self.phis) <= 0:
            raise ValueError(
                f"phis={self.phis}: must be as many as the other schedules, {len(BASELINES)}, and positive"
            )
        if not self.kappas or min(self.kappas) < 1:
            raise ValueError(f"kappas={self.kappas}: must be at least one, and 1 or more")
        for name in ("quadratic_peaks", "logistic_peaks", "image_peaks", "text_peaks"):
            peaks = getattr(self, name)
            if len(peaks) < 2 or not 0 < peaks[0] < peaks[-1] or list(peaks) != sorted(peaks):
                raise ValueError(f"{name}={peaks}: must be a rising range of at least two rates")
        if not 0 <= self.text_warmup < 1:
            raise ValueError(f"text_warmup={self.text_warmup}: must lie in [0, 1)")

    @property
    def updates(self) -> int:
        whole = {
            "quadratics": self.quadratic_updates,
            "logistic": self.logistic_updates,
            "images": self.image_updates,
            "text": self.text_updates,
        }
        return max(1, round(self.budget * whole[self.task]))

    @property
    def peaks(self) -> tuple[float, ...]:
        return {
            "quadratics": self.quadratic_peaks,
            "logistic": self.logistic_peaks,
            "images": self.image_peaks,
            "text": self.text_peaks,
        }[self.task]


study = Study(
    "uba-schedule",
    claims=[
        Better(
            "log_loss",
            "uba",
            than=tuple(BASELINES),
            says="Tuned UBA ends at a lower test loss than the best other schedule, over learning tasks and budgets",
        ),
        *(
            Better(
                "log_loss",
                "uba",
                than=tuple(BASELINES),
                at={"budget": budget},
                says=f"The same over learning tasks at {budget:.0%} of the budget",
            )
            for budget in BUDGETS
        ),
        Better(
            "log_loss",
            "uba",
            than="menu",
            says="The same against the other schedules tuned as UBA is, over shapes and peak rates",
        ),
        Better(
            "log_loss",
            "uba-5",
            than="cosine",
            says="With phi = 5 throughout, UBA ends at a lower test loss than cosine, over learning tasks and budgets",
        ),
        Better(
            "log_expected_loss",
            "uba",
            than=tuple(BASELINES),
            says="On noisy quadratics tuned UBA ends at a lower expected loss than the best other schedule",
        ),
        Holds(
            "minimax_gap",
            at_most=1e-9,
            says="With phi = 2 kappa and rates from 1/mu to 1/L, UBA has Chebyshev's worst case to a relative 1e-9",
        ),
        Better(
            "log_worst_case",
            "2 kappa",
            than=tuple(f"phi = {phi:g}" for phi in PHIS),
            by=1.0,
            at={"budget": BUDGETS[0]},
            says="That is under a tenth of what the usual phi reach with the extreme rates that are best for them",
        ),
        Trend(
            "log_best_phi",
            "worst case",
            over="x",
            says="The phi that is best in the worst case grows with the condition number",
        ),
        Trend(
            "log_best_phi",
            "expectation",
            over="x",
            says="The phi that is best in expectation, under gradient noise, grows with the condition number",
        ),
        Trend(
            "early_decay_gain",
            "uba",
            over="x",
            at={"task": "images"},
            says="phi = 10 gains on phi = 0.5 as the peak rate grows (images)",
        ),
        Trend(
            "early_decay_gain",
            "uba",
            over="budget",
            at={"task": "images"},
            says="phi = 10 gains on phi = 0.5 as the budget grows (images)",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                quadratic_updates=12,
                quadratic_peaks=(0.5, 1.0),
                kappas=(10.0, 100.0),
                logistic_updates=12,
                logistic_peaks=(0.3, 1.0),
                image_updates=12,
                image_peaks=(0.1, 0.3),
                text_data="corpus?max_bytes=100000",
                text_updates=4,
                text_peaks=(0.003, 0.01),
                d_model=16,
                held_sequences=8,
            ),
            seeds=1,
            tuning_seeds=1,
        ),
        "laptop": Preset(Config(), seeds=16, tuning_seeds=3),
        "paper": Preset(
            Config(
                image_data="hf:cifar10",
                image_net="resnet18",
                widths=(64, 128, 256, 512),
                image_updates=105_600,  # 300 epochs
                image_peaks=(0.03, 0.1, 0.3),
                train_size=45_000,
                label_noise=0.0,
                batch_size=128,
                weight_decay=5e-4,
                augment=True,
                text_updates=20_000,
                text_peaks=(3e-4, 1e-3, 3e-3),
                text_warmup=0.05,
                d_model=512,
                n_layer=10,
                n_head=8,
                context=1024,
                sequences=64,
                together=1,
            ),
            seeds=5,
            tuning_seeds=1,
        ),
    },
    conditions={"task": ("quadratics", "logistic", "images", "text"), "budget": BUDGETS},
    minimise=("loss", "log_loss", "log_expected_loss", "log_worst_case"),
    tune_by="loss",
    may_diverge=("loss", "log_loss", "log_expected_loss", "early_decay_gain"),
    reading="With equal tuning the family is worth about as much as a menu of the usual schedules: tuned UBA, tuned "
    "REX and the menu end within about a per cent of each other, and the intervals of their differences cover zero. "
    "A fixed phi of 5 is worse than cosine. The minimax theory holds to rounding, but it leaves out gradient noise: "
    "under noise the best phi falls with the condition number, and on quadratics linear decay ends lower than UBA.",
)


@dataclass(frozen=True)
class Setting:
    """A shape, UBA's with this phi or that of a schedule with a name, and a peak rate."""

    shape: float | str
    peak: float

    def __str__(self) -> str:
        shape = self.shape if isinstance(self.shape, str) else f"phi {self.shape:g}"
        return f"{shape}, peak {self.peak:.4g}"


def grids(config: Config) -> dict[str, list[Setting]]:
    """Every arm's settings, equally many: shapes × peak rates, or of one shape as many peak rates over that range."""
    fine = np.geomspace(config.peaks[0], config.peaks[-1], len(config.phis) * len(config.peaks)).tolist()
    return {
        "uba": [Setting(phi, peak) for phi in config.phis for peak in config.peaks],
        "menu": [Setting(name, peak) for name in BASELINES for peak in config.peaks],
        "uba-5": [Setting(config.fixed_phi, peak) for peak in fine],
        **{name: [Setting(name, peak) for peak in fine] for name in BASELINES},
    }


def rates(config: Config, setting: Setting) -> Float[np.ndarray, " updates"]:
    """The rate of every update."""
    shape = BASELINES[setting.shape] if isinstance(setting.shape, str) else partial(uba_factor, phi=setting.shape)
    text = config.task == "text"
    options: dict[str, Any] = {
        "eta_min_ratio": config.text_floor if text else 0.0,
        "warmup": int(config.text_warmup * config.updates) if text else 0,
    }
    return setting.peak * lr_factor(shape, np.arange(config.updates), config.updates, **options)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed of one task at one budget: every arm at each of its settings, from one start on the same batches."""
    measured = [(arm, setting) for arm, grid in grids(config).items() for setting in run.settings(arm, grid)]
    probed = []
    if config.task == "images" and not run.tuning:
        probed = [(Setting(PROBED[0], peak), Setting(PROBED[1], peak)) for peak in config.peaks]
    # What several arms or probes ask for runs once.
    settings = list(dict.fromkeys([*(setting for _, setting in measured), *chain(*probed)]))
    table = np.stack([rates(config, setting) for setting in settings])
    if config.task == "quadratics":
        losses = noisy_quadratic(config, config.kappa, seed).expected_loss(table)[:, -1].tolist()
        found = [{"loss": loss, "log_expected_loss": math.log(loss)} for loss in losses]
    else:
        found = learn(config, table, seed, run)
    outcomes = dict(zip(settings, found, strict=True))
    for arm, setting in measured:
        for metric, value in outcomes[setting].items():
            yield Record(arm, metric, value, setting=str(setting))
    if probed:
        gains = [outcomes[late]["log_loss"] - outcomes[early]["log_loss"] for late, early in probed]
        for peak, gain in zip(config.peaks, gains, strict=True):
            yield Record("uba", "early_decay_gain", gain, x=math.log10(peak))
        yield Record("uba", "early_decay_gain", sum(gains) / len(gains))
    if config.task == "quadratics" and not run.tuning:
        yield from minimax(config, run)
        yield from best_in_expectation(config, seed)


# Quadratics.


def noisy_quadratic(config: Config, kappa: float, seed: int) -> QuadraticProblem:
    """Curvatures drawn log-uniformly from mu = 1/kappa to L = 1, both of which are among them."""
    share = np.random.default_rng(seed).uniform(size=config.curvatures)
    share[:2] = 0.0, 1.0
    return quadratic_problem(torch.from_numpy(kappa ** (share - 1)), noise=config.gradient_noise, seed=seed)


def minimax(config: Config, run: Run) -> Iterator[Record]:
    """The worst case over curvatures from mu to L: Chebyshev's, and that of each phi with the best extreme rates."""
    updates = np.arange(config.updates)
    for kappa in config.kappas:
        mu, unit = 1 / kappa, f"kappa = {kappa:g}"
        # The extrema of a product of so many factors crowd at both ends, as these curvatures do.
        curvatures = mu + (1 - mu) * np.sin(np.linspace(0, np.pi / 2, 3 * config.updates + 1)) ** 2
        curves = {}
        for phi in SEARCHED:
            u = lr_factor(partial(uba_factor, phi=phi), updates, config.updates, grid="midpoint")
            curves[phi] = with_best_extremes(u, kappa, curvatures)
        worst = {phi: float(curve.max()) for phi, curve in curves.items()}
        yield Record("worst case", "log_best_phi", math.log10(min(worst, key=worst.__getitem__)), x=math.log10(kappa))

        own = phi_from_condition_number(kappa)
        u = lr_factor(partial(uba_factor, phi=own), updates, config.updates, eta_min_ratio=mu, grid="midpoint")
        reached = float(worst_case_residual(kappa * u, mu, 1.0))
        yield Record(
            "2 kappa", "minimax_gap", abs(reached / chebyshev_residual(mu, 1.0, config.updates) - 1), unit=unit
        )
        yield Record("2 kappa", "log_worst_case", math.log10(reached), unit=unit)
        for phi in PHIS:
            yield Record(f"phi = {phi:g}", "log_worst_case", math.log10(worst[phi]), unit=unit)
        if kappa == config.kappa:
            shown = {phi: curves[phi] for phi in (*PHIS, own) if phi in curves}
            run.save("curvatures", curvatures)
            run.save("phis", list(shown))
            run.save("residuals", torch.stack(list(shown.values())))


def with_best_extremes(
    u: Float[np.ndarray, " updates"], kappa: float, curvatures: Float[np.ndarray, " n"]
) -> Float[Tensor, " n"]:
    """What is left of each coordinate under rates low + (high − low) u, with the extremes of the least worst case.

    A search on grids, which comes within a few per cent of it.
    """
    # Factors of 2^¼ apart, 1/mu and 1/L among them; then ever finer about the best.
    tops, floors = kappa * 2.0 ** np.arange(1, -math.log2(kappa) - 1, -0.25), 2.0 ** np.arange(-3, 1.5, 0.25)
    for width in (0.5, 0.1, 0.02):
        high, low = np.meshgrid(tops, floors)
        high, low = high[low <= high], low[low <= high]
        left = residual_curve(low[:, None] + (high - low)[:, None] * u, curvatures)
        best = int(left.amax(-1).argmin())
        around = 2.0 ** (width * np.arange(-6, 7) / 6)
        tops, floors = high[best] * around, low[best] * around
    return left[best]


def best_in_expectation(config: Config, seed: int) -> Iterator[Record]:
    """Which phi, with a peak rate of its own and a floor of 0, ends at the least expected loss under gradient noise."""
    for kappa in config.kappas:
        problem = noisy_quadratic(config, kappa, seed)
        peaks = 2.0 ** np.arange(-3, math.log2(kappa) + 1.5, 0.5)
        shapes = uba_factor(np.arange(config.updates) / config.updates, np.array(SEARCHED)[:, None])
        losses = problem.expected_loss(peaks[:, None, None] * shapes)[..., -1]
        least = losses.nan_to_num(nan=math.inf).amin(0)
        yield Record("expectation", "log_best_phi", math.log10(SEARCHED[int(least.argmin())]), x=math.log10(kappa))


# What is learned.


@dataclass(frozen=True)
class Problem:
    """A network's task: samples to learn from, others to be measured on, and how the network is trained."""

    network: Callable[[], nn.Module]
    x: Float[Tensor, "n ..."]
    y: Tensor
    held_x: Float[Tensor, "m ..."]
    held_y: Tensor
    batch_size: int
    training: dict[str, Any]
    """What :func:`train_many` is to be told besides."""
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy


def logistic(config: Config, seed: int, *, tuning: bool) -> Problem:
    """Regression on principal components, rescaled so that the data's covariance has eigenvalues from 1 to 1/kappa."""
    x, y, held_x, held_y, classes = images_of(config.logistic_data, config.train_size, 0.0, seed, tuning=tuning)
    x, held_x = x.flatten(1), held_x.flatten(1)
    mean = x.mean(0)
    _, spread, directions = torch.linalg.svd(x - mean, full_matrices=False)
    if not config.components <= int((spread > 1e-4 * spread[0]).sum()):
        raise ValueError(f"components={config.components}: {config.logistic_data} varies in fewer directions")
    wanted = config.logistic_kappa ** -torch.linspace(0, 0.5, config.components)
    scaling = directions[: config.components].T / spread[: config.components] * math.sqrt(len(x)) * wanted

    def network() -> nn.Module:
        layer = nn.Linear(config.components, classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    training = {"momentum": config.momentum}
    return Problem(network, (x - mean) @ scaling, y, (held_x - mean) @ scaling, held_y, config.batch_size, training)


def images(config: Config, seed: int, *, tuning: bool) -> Problem:
    """A multi-layer perceptron or a residual network, trained by SGD with momentum."""
    x, y, held_x, held_y, classes = images_of(
        config.image_data, config.train_size, config.label_noise, seed, tuning=tuning
    )
    mean, spread = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    x, held_x = (x - mean) / spread, (held_x - mean) / spread

    def network() -> nn.Module:
        if config.image_net == "mlp":
            net: nn.Module = MLP(x[0].numel(), config.widths, classes)
        else:
            depth = int(config.image_net.removeprefix("resnet"))
            net = ResNet(depth, classes, in_channels=x.shape[1], widths=config.widths)
        return nn.Sequential(ShiftAndMirror(), net) if config.augment else net

    training = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    return Problem(network, x, y, held_x, held_y, config.batch_size, training)


def text(config: Config, seed: int, *, tuning: bool) -> Problem:
    """A byte transformer, trained by AdamW on stretches of text, and measured on ones that are always the same."""
    splits = data.load(config.text_data)
    stream, held = splits["train"].x, splits["validation" if tuning else "test"].x
    held_windows = windows(held, config.context, config.held_sequences, torch.Generator().manual_seed(0))

    def network() -> nn.Module:
        return ByteTransformer(config.d_model, config.n_layer, config.n_head, config.context)

    return Problem(
        network,
        stream[:-1].unfold(0, config.context, 1),
        stream[1:].unfold(0, config.context, 1),
        held_windows[:, :-1],
        held_windows[:, 1:],
        config.sequences,
        {
            "optimizer": "adamw",
            "betas": (0.9, 0.95),
            "weight_decay": config.text_weight_decay,
            "clip": config.clip,
        },
        next_byte_loss,
    )


PROBLEMS = {"logistic": logistic, "images": images, "text": text}


def images_of(
    uri: str, size: int, label_noise: float, seed: int, *, tuning: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """A seed's training images and labels, some of these wrong; those to be measured on; and the number of classes.

    Measured are the test images, or when tuning the training images that are not trained on.
    """
    splits = data.load(uri)
    train = splits["train"]
    if size >= len(train):
        raise ValueError(f"train_size={size}: {uri} has {len(train)}, and some are for validation")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    own, rest = train[order[:size]], train[order[size:]]
    classes = len(train.classes)
    wrong = (own.y + torch.randint(1, classes, (size,), generator=generator)) % classes
    y = torch.where(torch.rand(size, generator=generator) < label_noise, wrong, own.y)
    held = rest if tuning else splits["test"]
    return own.x, y, held.x, held.y, classes


class ShiftAndMirror(nn.Module):
    """In training, shifts every image by up to 4 pixels each way, zeros coming in, and mirrors half of them."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        if not self.training:
            return x
        (n, _, height, width), device = x.shape, x.device
        top, left = torch.randint(9, (2, n, 1, 1), device=device)
        mirrored = torch.rand(n, 1, 1, device=device) < 0.5
        rows = top + torch.arange(height, device=device)[:, None]
        columns = torch.arange(width, device=device)
        columns = left + torch.where(mirrored, width - 1 - columns, columns)
        return F.pad(x, (4, 4, 4, 4))[torch.arange(n, device=device)[:, None, None], :, rows, columns].movedim(-1, 1)


def learn(config: Config, table: Rates, seed: int, run: Run) -> list[dict[str, float]]:
    """Train a network with each row of rates, all from the same start on the same batches, and measure it."""
    problem = PROBLEMS[config.task](config, seed, tuning=run.tuning)
    x, y = problem.x.to(run.device), problem.y.to(run.device)
    start = Stack.from_factory(problem.network, 1, seed).module(0)
    outcomes: list[dict[str, float]] = []
    for rows in np.array_split(table, math.ceil(len(table) / config.together)):
        run.progress(len(outcomes), len(table))
        alone = len(rows) == 1
        stack = Stack([start] * len(rows), engine="loop" if alone else "auto").to(run.device)
        torch.manual_seed(seed)  # the same augmentations, too
        # Of the ways to compute attention, vmap has a rule for this one.
        with nullcontext() if alone else sdpa_kernel(SDPBackend.MATH):
            train_many(
                stack,
                x,
                y,
                steps=config.updates,
                batch_size=problem.batch_size,
                lr=1.0,
                schedule=torch.from_numpy(rows.T.copy()).float(),
                seed=seed,
                order="shared",
                loss=problem.loss,
                record=config.updates,
                **problem.training,
            )
        outcomes += [measure(stack.module(m), problem, run.device) for m in range(len(rows))]
    return outcomes


def next_byte_loss(logits: Float[Tensor, "batch time k"], y: Int[Tensor, "batch time"]) -> Float[Tensor, " batch"]:
    """The cross-entropy of each sequence, averaged over its positions."""
    return F.cross_entropy(logits.movedim(-1, 1), y.long(), reduction="none").mean(1)


@torch.no_grad()
def measure(network: nn.Module, problem: Problem, device: str) -> dict[str, float]:
    """The loss on the samples held out, and the accuracy if they are not text."""
    network.eval()
    losses, right = [], []
    for x, y in zip(problem.held_x.split(256), problem.held_y.split(256), strict=True):
        logits, target = network(x.to(device)), y.to(device)
        losses.append(problem.loss(logits, target))
        right.append(logits.argmax(-1) == target)
    loss = float(torch.cat(losses).double().mean())
    outcome = {"loss": loss, "log_loss": math.log(loss)}
    if problem.held_y.ndim == 1:
        outcome["accuracy"] = float(torch.cat(right).double().mean())
    return outcome


# The figure.

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B")
BUDGET_STYLES = {0.25: ("#56B4E9", "o"), 0.5: ("#0072B2", "s"), 1.0: ("#D55E00", "D")}
ARM_NAMES = {
    "uba": "UBA, tuned",
    "menu": "the others, tuned",
    "uba-5": "UBA, phi = 5",
    "linear": "linear",
    "rex": "REX",
    "step": "step",
    "one-cycle": "one-cycle",
}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Above the shapes and what phi does, below every arm's loss against cosine's."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    tasks = ("quadratics", "logistic", "images", "text")
    layout: list[Any] = [["shapes", "residuals", "best", "gain"], [*tasks]]
    fig, axes = plt.subplot_mosaic(layout, figsize=(15, 8))
    fig.set_layout_engine("constrained", w_pad=0.08, h_pad=0.1)
    draw_shapes(axes["shapes"])
    if "residuals" in arrays:
        draw_residuals(axes["residuals"], arrays)
    draw_best(axes["best"], reported[reported["metric"] == "log_best_phi"])
    draw_gain(axes["gain"], reported[(reported["metric"] == "early_decay_gain") & reported["x"].notna()])
    for task in tasks:
        metric = "log_expected_loss" if task == "quadratics" else "log_loss"
        draw_differences(axes[task], reported[(reported["task"] == task) & (reported["metric"] == metric)], task)
    return fig


def draw_shapes(ax: Axes) -> None:
    s = np.linspace(0, 1, 400)
    for phi, height, colour in zip((0.05, 0.5, 2.0, 8.0, 40.0), (0.5, 0.62, 0.5, 0.38, 0.26), COLOURS, strict=True):
        ax.plot(s, uba_factor(s, phi), color=colour)
        at = 2 / math.pi * math.atan(math.sqrt(2 / phi * (1 / height - 1)))
        name = "cosine" if phi == 2 else f"{phi:g}"
        ax.annotate(name, (at, height), xytext=(3, 3), textcoords="offset points", color=colour, fontsize=9)
    for shape, style in ((linear_factor, "--"), (rex_factor, ":")):
        ax.plot(s, shape(s), style, color="0.5", lw=1.2)
    ax.text(0.03, 0.03, "dashed: linear, dotted: REX", color="0.5", fontsize=9, transform=ax.transAxes)
    ax.set(xlim=(0, 1.1), ylim=(-0.15, 1.04), title="UBA's shapes, by phi")
    ax.set(xlabel="progress through the budget", ylabel="rate / peak rate")


def draw_residuals(ax: Axes, arrays: Arrays) -> None:
    first = min(range(len(arrays["residuals"])), key=lambda k: arrays["residuals"][k].condition.get("budget", 1.0))
    curvatures, phis = arrays["curvatures"][first].value, list(arrays["phis"][first].value)
    residuals = arrays["residuals"][first].value
    shown = [phi for phi in (0.5, 2.0, 10.0, phis[-1]) if phi in phis]
    for place, (phi, colour) in enumerate(zip(shown, COLOURS, strict=False)):
        curve = residuals[phis.index(phi)]
        ax.loglog(curvatures, np.maximum(curve, 1e-6), color=colour, lw=1.2)
        name = f"phi = {phi:g}: {curve.max():.2g}"
        x, y = (0.04, 0.2 - 0.075 * place) if phi != phis[-1] else (0.33, 0.67)
        ax.text(x, y, name, color=colour, fontsize=9, transform=ax.transAxes)
    ax.set_ylim(1e-6, 3)
    ax.set(
        xlabel="curvature / L",
        ylabel="what is left of that coordinate",
        title=f"Worst case, kappa = {1 / curvatures[0]:g}",
    )


def draw_best(ax: Axes, best: pd.DataFrame) -> None:
    for arm, colour in (("worst case", COLOURS[4]), ("expectation", None)):
        of_arm = best[best["arm"] == arm]
        for budget, rows in of_arm.groupby("budget"):
            if arm == "worst case" and budget != of_arm["budget"].max():
                continue  # the same at every budget
            own, marker = BUDGET_STYLES[float(str(budget))]
            draw_curve(ax, rows, colour or own, marker)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.text(0.04, 0.93, "in the worst case", color=COLOURS[4], fontsize=9, transform=ax.transAxes)
    name_budgets(ax, 0.04, 0.18, "in expectation, at ")
    ax.set_ylim(0.01, 5000)
    ax.set(xlabel="condition number kappa", ylabel="best phi", title="Which phi is best on quadratics")


def draw_gain(ax: Axes, gain: pd.DataFrame) -> None:
    for budget, rows in gain.groupby("budget"):
        draw_curve(ax, rows, *BUDGET_STYLES[float(str(budget))], power=False)
    draw_zero(ax, vertical=False)
    ax.set_xscale("log")
    name_budgets(ax, 0.04, 0.93, "at ")
    ax.set(xlabel="peak rate", ylabel="log loss, phi = 0.5 minus phi = 10", title="Gain of early decay, images")


def draw_curve(ax: Axes, rows: pd.DataFrame, colour: str, marker: str, *, power: bool = True) -> None:
    """Mean and interval along 10^x, of values that are logarithms to be undone if ``power``."""
    table = rows.pivot_table(index="x", columns="seed", values="value")
    mean, half = np.array([interval(row) for row in table.to_numpy()]).T
    low, high = mean - half, mean + half
    if power:
        low, mean, high = 10**low, 10**mean, 10**high
    ax.errorbar(10**table.index, mean, (mean - low, high - mean), color=colour, marker=marker, ms=5, lw=1.5, capsize=2)


def draw_differences(ax: Axes, rows: pd.DataFrame, task: str) -> None:
    for budget, at_budget in rows.groupby("budget"):
        colour, marker = BUDGET_STYLES[float(str(budget))]
        shift = 0.22 * (list(BUDGETS).index(float(str(budget))) - 1)
        table = at_budget.pivot_table(index="seed", columns="arm", values="value")
        for place, arm in enumerate(ARM_NAMES):
            if {arm, "cosine"} <= set(table):
                mean, half = interval(100 * (table[arm] - table["cosine"]).dropna().to_numpy())
                ax.errorbar(mean, place + shift, xerr=half, color=colour, marker=marker, ms=4, lw=1.2, capsize=2)
    draw_zero(ax)
    ax.set_ylim(len(ARM_NAMES) - 0.5, -0.5)
    ax.set_yticks(range(len(ARM_NAMES)), list(ARM_NAMES.values()) if task == "quadratics" else [])
    if task == "quadratics":
        name_budgets(ax, 0.45, 0.56, "")
    ax.set(title=task, xlabel="loss above cosine's (100 · log ratio)")


def name_budgets(ax: Axes, x: float, y: float, prefix: str) -> None:
    for place, (budget, (colour, _)) in enumerate(BUDGET_STYLES.items()):
        text = f"{prefix}{budget:.0%} of the budget"
        ax.text(x, y - 0.07 * place, text, color=colour, fontsize=9, transform=ax.transAxes)


def draw_zero(ax: Axes, *, vertical: bool = True) -> None:
    (ax.axvline if vertical else ax.axhline)(0, color="0.5", lw=0.8, zorder=0)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval of the finite values; no half of a single value."""
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return (float(values[0]) if n else math.nan), 0.0
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
