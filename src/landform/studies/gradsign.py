"""GradSign: Model Performance Inference with Theoretical Insights.

Zhihao Zhang and Zhihao Jia, arXiv 2110.08616, ICLR 2022. Before any training, count for each weight how far the
gradients of single samples agree in sign. The paper's claim: the sum ranks architectures by the accuracy that they
will reach better than other training-free scores do.

Here every seed draws its own architectures, initialisation and batch, computes each score on all of them, and
correlates it with their accuracies. Those are measured too: each architecture is trained. Or, with ``table`` set to a
file of the NAS-Bench-201 accuracies, cells of that space are scored instead and looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from landform import data
from landform.claims import Better, Correlates
from landform.metrics import partial_spearman, rank_agreement
from landform.optim.schedules import cosine_factor
from landform.search import (
    PROXIES,
    SMALL_SPACE,
    ArchitecturePool,
    ArchitectureTable,
    NASBench201Network,
    optima_spread,
    per_sample_sign_agreement,
    proposal_filter,
    random_search,
    regularised_evolution,
    zero_cost_scores,
)
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack, accuracy_many, train_many

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Values = NDArray[np.float64]
"""One number for each architecture."""


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    architectures: int = 60
    samples: int = 64
    """The batch that scores are computed on."""

    # Small architectures of our own are trained for their accuracy …
    train_size: int = 600
    validation_size: int = 400
    trainings: int = 2
    steps: int = 200
    batch_size: int = 60
    learning_rate: float = 0.01

    # … unless there is a table: then cells of NAS-Bench-201 are looked up.
    table: str = ""
    """A CSV file: index, cell, and columns of accuracies."""
    accuracy: str = "cifar10_test_200ep"
    search_accuracy: str = "cifar10_val_12ep"
    """What a search sees while it runs; it is judged by ``accuracy``."""
    channels: int = 16
    cells_per_stage: int = 1
    augment: bool = False

    # Searches among the architectures, each assisted by a score.
    searches: int = 100
    budget: int = 10
    population: int = 5
    proposals: int = 10

    families: int = 24
    """Families of losses whose optima are known."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{field.name}={value}: must be positive")
        if self.architectures < 5:
            raise ValueError(f"architectures={self.architectures}: a ranking needs at least 5")


PUBLISHED = ("grad_norm", "snip", "grasp", "fisher", "synflow", "jacob_cov", "naswot")

study = Study(
    "gradsign",
    claims=[
        Better(
            "spearman",
            "gradsign",
            than=PUBLISHED,
            says="GradSign ranks architectures by their trained accuracy better than seven earlier scores (Spearman)",
        ),
        Better(
            "spearman",
            "gradsign",
            than="num_params",
            says="A control: GradSign ranks better than the number of parameters does",
        ),
        Better(
            "partial_spearman",
            "gradsign",
            than="random",
            says="A control: among networks of equally many parameters GradSign still ranks better than chance",
        ),
        Correlates(
            "spread",
            "disagreement",
            arm="quadratics",
            says="The theory: the further apart single samples' optima lie, the less their gradients agree in sign",
        ),
        *(
            Better(
                method,
                "gradsign",
                than="unassisted",
                says=f"{name} that GradSign assists finds better networks with as many evaluations",
            )
            for method, name in (("random_search", "Random search"), ("evolution", "Regularised evolution"))
        ),
    ],
    presets={
        "smoke": Preset(Config(architectures=8, steps=20, searches=5, budget=4, population=2, families=5), seeds=1),
        "laptop": Preset(Config(), seeds=8, tuning_seeds=2),
        "paper": Preset(
            Config(
                data="hf:cifar10",
                table="nasbench201_accuracy.csv",
                architectures=15_625,
                samples=128,
                cells_per_stage=5,
                augment=True,
                searches=500,
                budget=100,
                population=10,
            ),
            seeds=5,
            tuning_seeds=2,
        ),
    },
    tune_by="spearman",
    reading=(
        "At this scale the claim fails, and the figure shows why. Within one kind of network GradSign ranks well: a "
        "mean correlation of 0.60 within perceptrons, 1×1 and 3×3 convolutions, as the number of parameters has. "
        "Between kinds it misleads: the gradients of 1×1 convolutions agree most, and these networks are the least "
        "accurate. The paper's own space holds one kind of network. On 120 of its cells, scored on CIFAR-10 images "
        "(--set table=...), GradSign came first together with NASWOT: 0.80, and 0.74 for the number of parameters."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: its own architectures, initialisation and batch, and every score of every architecture."""
    known = looked_up(config, seed) if config.table else trained(config, seed, run)
    scores = scored(known, seed, run)
    for arm, values in scores.items():
        for metric, correlation in correlations(values, known, scores["num_params"]):
            yield Record(arm, metric, correlation)
    for arm, assistant in [*scores.items(), ("unassisted", None)]:
        for method, found in searched(config, known, assistant, seed):
            yield Record(arm, method, found)
    yield from quadratics(config, seed)
    run.save("ranking", np.stack([scores["gradsign"], known.accuracy, scores["num_params"]]))
    run.save("family", known.family)


def scored(known: Known, seed: int, run: Run) -> dict[str, Values]:
    """Every training-free score of every architecture, untrained, and a random number as one more."""
    x, y = (t.to(run.device) for t in known.batch)
    rows = []
    for i in range(len(known.accuracy)):
        run.progress(i, len(known.accuracy), "scores")
        rows.append(zero_cost_scores(known.network(i).to(run.device), x, y))
    scores = {name: np.array([row[name] for row in rows]) for name in PROXIES}
    return {**scores, "random": np.random.default_rng(seed).random(len(rows))}


def correlations(scores: Values, known: Known, size: Values) -> Iterator[tuple[str, float]]:
    """How well scores rank the accuracies: of all architectures, given their size, and within families of them."""
    agreement = rank_agreement(scores, known.accuracy)
    yield "spearman", or_chance(agreement.spearman)
    yield "kendall", or_chance(agreement.kendall_tau_b)
    yield "partial_spearman", or_chance(partial_spearman(scores, known.accuracy, size))
    families = [(known.family == name) & ~np.isnan(scores) for name in np.unique(known.family)]
    within = [rank_agreement(scores[f], known.accuracy[f]).spearman for f in families if f.sum() > 2]
    yield "spearman_within_family", float(np.mean([or_chance(rho) for rho in within] or [0.0]))


def or_chance(correlation: float) -> float:
    """Where all scores are the same, or as the size says, there is no correlation: they rank as well as chance does."""
    return 0.0 if math.isnan(correlation) else correlation


def searched(config: Config, known: Known, scores: Values | None, seed: int) -> Iterator[tuple[str, float]]:
    """How good the networks are, on average, that a search finds when a score picks among its proposals."""
    names = known.pool.architectures
    seen, accuracy = (dict(zip(names, v, strict=True)) for v in (known.search_accuracy, known.accuracy))
    assist = None
    if scores is not None:
        assist = proposal_filter(dict(zip(names, scores, strict=True)).__getitem__, k=config.proposals)
    methods: dict[str, Callable[..., Any]] = {
        "random_search": random_search,
        "evolution": partial(regularised_evolution, population=config.population),
    }
    for method, search in methods.items():
        results = [
            search(known.pool, seen.__getitem__, budget=config.budget, rng=rng, proposal_filter=assist)
            for rng in np.random.default_rng(seed).spawn(config.searches)
        ]
        yield method, float(np.mean([accuracy[result.best] for result in results]))


def quadratics(config: Config, seed: int, samples: int = 64, dim: int = 200) -> Iterator[Record]:
    """Families of losses l_i(θ) = (H/2) ‖θ − t_i‖² around a random θ, whose curvature and optima t_i are known."""
    generator = torch.Generator().manual_seed(seed)
    for family in range(config.families):
        spread, curvature = (10 ** torch.empty(2).uniform_(-1, 1, generator=generator)).tolist()
        optima = torch.randn(dim, generator=generator) + spread * torch.randn(samples, dim, generator=generator)
        theta = nn.Linear(1, dim, bias=False)
        nn.init.normal_(theta.weight, generator=generator)

        def loss(z: Tensor, optimum: Tensor, curvature: float = curvature) -> Tensor:
            return curvature / 2 * (z - optimum).square().sum()

        agreement = per_sample_sign_agreement(theta, torch.ones(samples, 1), optima, loss, reduce="mean")
        assert isinstance(agreement, float)
        yield Record("quadratics", "spread", optima_spread(optima, curvature), unit=f"family {family}")
        yield Record("quadratics", "disagreement", 1 - agreement / samples, unit=f"family {family}")


# Architectures whose accuracies are known.


@dataclass(frozen=True)
class Known:
    """Architectures, their untrained networks, their accuracies in % after training, and a batch to score them on."""

    pool: ArchitecturePool[Any]
    network: Callable[[int], nn.Module]
    family: NDArray[np.str_]
    accuracy: Values
    search_accuracy: Values
    batch: tuple[Tensor, Tensor]


FAMILIES = {0: "perceptron", 1: "1×1 convolution", 3: "3×3 convolution"}


def trained(config: Config, seed: int, run: Run) -> Known:
    """Architectures of our own. Each is trained several times at once; the first initialisation is the one scored."""
    whole = data.merge(*data.load(config.data).values())
    if len(whole) <= config.train_size + config.validation_size:
        raise ValueError(f"data={config.data!r}: {len(whole)} samples leave none to test on")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    x, y = whole.x[order].to(run.device), whole.y[order].to(run.device)
    x = standardised(x, like=x[: config.train_size])
    cuts = [config.train_size, config.train_size + config.validation_size]
    train, validation, test = zip(x.tensor_split(cuts), y.tensor_split(cuts), strict=True)
    rows = np.random.default_rng(seed).choice(len(SMALL_SPACE), config.architectures, replace=False)
    chosen = [SMALL_SPACE[row] for row in rows]
    networks, accuracy, search_accuracy = [], [], []
    for done, architecture in enumerate(chosen):
        run.progress(done, len(chosen), "trainings")
        network = partial(architecture.build, x.shape[1:], len(whole.classes))
        stack = Stack.from_factory(network, config.trainings, seed).to(run.device)
        networks.append(stack.module(0))
        train_many(
            stack,
            *train,
            steps=config.steps,
            batch_size=config.batch_size,
            optimizer="adamw",
            lr=config.learning_rate,
            schedule=lambda step: cosine_factor(step / config.steps),
            seed=seed,
        )
        accuracy.append(100 * float(accuracy_many(stack, *test).mean()))
        search_accuracy.append(100 * float(accuracy_many(stack, *validation)[0]))
    return Known(
        ArchitecturePool(chosen, [astuple(a) for a in chosen]),
        networks.__getitem__,
        np.array([FAMILIES[a.kernel] for a in chosen]),
        np.array(accuracy),
        np.array(search_accuracy),
        (x[: config.samples], y[: config.samples]),
    )


def looked_up(config: Config, seed: int) -> Known:
    """Cells of NAS-Bench-201, as many from every tenth of the accuracies; all where so many are asked for."""
    table, generator = ArchitectureTable.from_csv(config.table), torch.Generator().manual_seed(seed)
    cells = table.sample(config.accuracy, config.architectures, np.random.default_rng(seed))
    rows = [table.index(cell) for cell in cells]
    images = data.load(config.data)["train"]
    batch = images[torch.randperm(len(images), generator=generator)[: config.samples]]
    x = standardised(augmented(batch.x, generator) if config.augment else batch.x, like=images.x)
    x = x.expand(-1, 3, -1, -1)  # grey images too
    if x.shape[-1] < 16:  # or else a cell of the last stage sees no neighbourhood
        x = F.interpolate(x, size=16)
    network = partial(
        NASBench201Network,
        num_classes=len(images.classes),
        channels=config.channels,
        cells_per_stage=config.cells_per_stage,
    )
    return Known(
        ArchitecturePool(cells, [cell.ops for cell in cells]),
        lambda i: Stack.from_factory(partial(network, cells[i]), 1, seed).module(0),
        np.array(["cell"] * len(cells)),
        table[config.accuracy][rows],
        table[config.search_accuracy][rows],
        (x, batch.y),
    )


def standardised(x: Tensor, like: Tensor) -> Tensor:
    """Images with every channel centred and scaled as that of the images ``like`` has to be."""
    mean, sd = like.mean((0, 2, 3), keepdim=True), like.std((0, 2, 3), keepdim=True)
    return (x - mean) / sd.clamp(min=1e-6)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to an eighth of its size, what enters being black, and mirrored or not."""
    n, _, size, _ = x.shape
    pad = size // 8
    padded = F.pad(x, [pad] * 4)
    rows, columns = torch.randint(2 * pad + 1, (2, n), generator=generator).tolist()
    shifted = [p[:, r : r + size, c : c + size] for p, r, c in zip(padded, rows, columns, strict=True)]
    mirrored = torch.rand(n, generator=generator) < 0.5
    return torch.stack([image.flip(-1) if flip else image for image, flip in zip(shifted, mirrored, strict=True)])


# The figure.

NAMES = {
    "gradsign": "GradSign",
    "grad_norm": "gradient norm",
    "snip": "SNIP",
    "grasp": "GraSP",
    "fisher": "Fisher",
    "synflow": "SynFlow",
    "jacob_cov": "Jacobian cov.",
    "naswot": "NASWOT",
    "plain": "W · gradient",
    "num_params": "# parameters",
    "macs": "# MACs",
    "random": "random",
}
MARKERS = {"perceptron": ("o", "●"), "1×1 convolution": ("s", "■"), "3×3 convolution": ("^", "▲"), "cell": ("o", "●")}
ORANGE, BLUE, GREY = "#D55E00", "#0072B2", "#808080"


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """One seed's ranking by GradSign, coloured by size; and the rank correlation of every score over the seeds."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    reported = records[records["role"] == "reported"]
    seed = reported["seed"].min()
    (score, accuracy, size), family = (
        next(saved.value for saved in arrays[name] if saved.seed == seed) for name in ("ranking", "family")
    )
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained", width_ratios=(1, 1.2))

    x, y = stats.rankdata(score), stats.rankdata(accuracy)
    shades, shapes = LogNorm(size.min(), size.max()), {name: MARKERS[name] for name in np.unique(family)}
    for name, (marker, _) in shapes.items():
        these = family == name
        dots = left.scatter(x[these], y[these], c=size[these], norm=shades, cmap="viridis", marker=marker, linewidth=0)
    fig.colorbar(dots, ax=left, label="parameters")
    left.set(xlabel=f"rank by GradSign before training (seed {seed})", ylabel="rank by test accuracy after training")
    left.set_title("  ".join(f"{sign} {name}" for name, (_, sign) in shapes.items()))

    plain, partly = (
        reported[reported["metric"] == metric].pivot(index="seed", columns="arm", values="value")
        for metric in ("spearman", "partial_spearman")
    )
    order = plain.mean().sort_values().index
    for row, arm in enumerate(order):
        colour = ORANGE if arm == "gradsign" else BLUE if arm in PUBLISHED else GREY
        for values, filled, above in ((plain, True, 0.14), (partly, False, -0.2)):
            half = stats.t.ppf(0.975, len(values) - 1) * values[arm].sem() if len(values) > 1 else 0.0
            style = {"fmt": "o" if filled else "D", "markersize": 6 if filled else 4.5, "capsize": 2, "linewidth": 1.2}
            face = colour if filled else "none"
            right.errorbar(values[arm].mean(), row + above, xerr=half, color=colour, markerfacecolor=face, **style)
    right.axvline(0, color=plt.rcParams["axes.edgecolor"], linewidth=0.8, zorder=0)
    right.set_yticks(range(len(order)), [NAMES[arm] for arm in order])
    right.set(xlabel="Spearman correlation with accuracy", title="● all architectures   ◇ given # parameters")
    return fig
