"""General-Purpose In-Context Learning by Meta-Learning Transformers.

Louis Kirsch, James Harrison, Jascha Sohl-Dickstein and Luke Metz, arXiv 2212.04458, NeurIPS 2022 workshops. A
transformer reads labelled examples of a task that was made from one dataset by a random projection and a permutation
of the labels. The paper's claim: meta-trained on few such tasks it memorises them, and on enough it becomes a general
learner, which also learns data it never saw; how well is bounded by its state, not by its number of parameters.

Here every arm starts from the seed's own weights and draws from one stream of examples; Adam and its rate are the same
throughout. The rate, the batch and the few principal components were chosen in a pilot of one seed, so that a small
transformer's plateau ends within the laptop's updates. Meta-training sees half of the classes' examples; "unseen" are
new tasks on the other examples, and "new" are new tasks on classes (or datasets) that meta-training never saw. A
transition that did not come within the updates counts as coming at their end.

``--set new_data=...`` tests on other datasets instead of other classes. Their images are made as large, and grey, as
the training data's; the paper's preset has 32 × 32 grey pixels, since projections of 3 · 32² inputs take 38 MB each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from landform import data
from landform.claims import Better, Equivalent, Trend
from landform.meta import (
    ICLLSTM,
    ICLTransformer,
    InContextCurve,
    InContextLearner,
    MetaTraining,
    NoStateMLP,
    OuterProductLSTM,
    SequenceSampler,
    TaskAugmentation,
    classify_regime,
    in_context_curve,
    meta_train,
    prefix_class_mean,
    prefix_majority,
    prefix_mlp,
    prefix_nearest_neighbour,
    prefix_ridge,
)
from landform.metrics import rank_agreement
from landform.study import Arrays, Preset, Record, Run, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    train_classes: tuple[int, ...] = (0, 1, 2)
    new_classes: tuple[int, ...] = (7, 8, 9)
    new_data: tuple[str, ...] = ()
    """Other datasets to test on, in place of other classes; ``data`` then keeps its own splits."""
    size: int | None = None
    """Side that images are scaled to; none leaves them as they are."""
    components: int | None = 8
    """Principal components of the training examples, at the proportions that they have; all pixels if none."""

    tasks: tuple[int, ...] = (4, 64, 256, 4096)
    """Numbers of tasks, besides tasks without end."""
    length: int = 20
    steps: int = 400
    batch: int = 256
    learning_rate: float = 5e-3
    eps: float = 1e-8
    clip: float = 2.0

    d_model: int = 32
    n_layer: int = 2
    n_head: int = 2
    d_ff: int = 64
    lstms: tuple[int, ...] = (16, 64, 128)
    outer_product: tuple[int, int] = (16, 16)
    stateless: int = 128

    fractions: tuple[float, ...] = (0.5, 0.9)
    """Shares of each batch with one and the same permutation."""
    batches: tuple[int, ...] = (16, 64)
    """Smaller batches, for the plateau."""

    log_every: int = 25
    sequences: int = 1000
    """To evaluate on; the perceptron, trained anew for every position, has ``references`` of them."""
    references: int = 32

    def __post_init__(self) -> None:
        if len(self.train_classes) < 2 or not (self.new_data or len(self.new_classes) == len(self.train_classes)):
            raise ValueError(
                f"new_classes={self.new_classes}: must be as many as train_classes={self.train_classes}, at least 2"
            )
        if not self.new_data and (both := set(self.train_classes) & set(self.new_classes)):
            raise ValueError(f"new_classes={self.new_classes}: {sorted(both)} are among the train_classes")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("tasks", "batches", "lstms", "fractions", "outer_product") and min(value) <= 0:
                raise ValueError(f"{field.name}={value}: must be positive")
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"{field.name}={value}: must be positive")


ENDLESS = "endless tasks"
PREFIX: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "majority label": prefix_majority,
    "nearest neighbour": prefix_nearest_neighbour,
    "class mean": prefix_class_mean,
    "ridge": prefix_ridge,
    "perceptron": prefix_mlp,
}
EARLY = slice(1, 6)
"""The positions with one to five examples before them."""


def tasks_arm(count: int) -> str:
    return f"{count} tasks"


study = Study(
    "gpicl",
    claims=[
        Better(
            "new",
            ENDLESS,
            than=(tasks_arm(4), tasks_arm(64)),
            by=0.1,
            says="On classes never seen, a transformer meta-trained on endless tasks is more than 10 points better "
            "than on 4 or 64",
        ),
        Trend(
            "new_by_tasks",
            "transformer",
            over="x",
            says="Accuracy on classes never seen rises with the number of tasks (slope per doubling)",
        ),
        Better(
            "seen",
            tasks_arm(4),
            than=ENDLESS,
            says="Four tasks are memorised: on them accuracy is above that of the general learner",
        ),
        Equivalent(
            "unseen",
            tasks_arm(4),
            "chance",
            within=0.05,
            says="What was learned of four tasks is of no use: on new ones accuracy is within 5 points of chance",
        ),
        Equivalent(
            "first",
            ENDLESS,
            "chance",
            within=0.03,
            says="A control against leaks: with no example accuracy is within 3 points of chance",
        ),
        Better("new", ENDLESS, than="majority label", says="A control: label frequencies alone do not explain it"),
        Better("new", ENDLESS, than="stateless", says="A control: without state there is no in-context learning"),
        Better(
            "rank_correlation",
            "state size",
            than="parameters",
            says="Over architectures, accuracy goes with the size of the state more than with that of the parameters",
        ),
        *(
            Better(
                "transition_step",
                f"bias {fraction:g}",
                than=ENDLESS,
                says=f"One permutation for {100 * fraction:g} % of each batch shortens the plateau",
            )
            for fraction in (0.5, 0.9)
        ),
        Better(
            "transition_step",
            ENDLESS,
            than=("batch 16", "batch 64"),
            says="With batches of 256 tasks the plateau is over in fewer updates than with 16 or 64",
        ),
        Better(
            "early",
            ENDLESS,
            than=("nearest neighbour", "ridge"),
            says="With one to five examples of trained classes the transformer beats nearest neighbours and ridge",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                steps=6, batch=8, d_model=8, n_layer=1, n_head=2, d_ff=16, lstms=(4, 8, 12),
                outer_product=(4, 4), stateless=16, log_every=3, sequences=40, references=2,
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=5),
        "paper": Preset(
            Config(
                data="hf:mnist",
                train_classes=tuple(range(10)),
                new_data=("hf:fashion_mnist", "hf:cifar10"),
                size=32,
                components=None,
                tasks=tuple(2**k for k in range(0, 25, 2)),
                length=100,
                steps=30_000,
                batch=512,
                learning_rate=1e-4,
                d_model=256,
                n_layer=4,
                n_head=8,
                d_ff=1024,
                lstms=(64, 256, 512),
                outer_product=(128, 128),
                stateless=1024,
                log_every=250,
                references=64,
            ),
            seeds=5,
        ),
    },
    minimise=("transition_step",),
    reading=(
        "The three regimes are all there. Four tasks are memorised, 64 are told apart within a sequence (95 % right) "
        "and both are of no use on new tasks; from 4096 tasks on every seed learns in context, also classes that it "
        "never saw, and 256 tasks are the threshold: there two seeds of five learn and three do not. A biased "
        "distribution and larger batches shorten the plateau. What does not hold at this scale: 400 updates end soon "
        "after the transformer's plateau, so that ridge regression and even LSTMs, which have hardly a plateau, do "
        "better than it does, and neither state nor parameters order the architectures."
    ),
)  # fmt: skip


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: its own split of the examples, its own tasks, and every meta-training from the same weights."""
    examples = split_examples(config, seed).to(run.device)
    chance = 1 / len(config.train_classes)
    arms = plan(config)
    done, regimes, table = 0, {}, []
    for arm, training in arms.items():
        run.progress(done, len(arms), arm)
        done += 1
        model, outcome = train(config, training, examples, seed, run.device)
        for step, rise in zip(outcome.logged, outcome.learning, strict=True):
            yield Record(arm, "learning", rise, x=step)
        yield Record(arm, "transition_step", outcome.transition_step or training.steps)
        if training.only_plateau:
            continue
        curves = evaluate(config, training, model, examples, seed)
        yield from described(arm, curves)
        regimes[arm] = classify_regime(curves["seen"], curves["unseen"], chance)
        if training.place is not None:
            yield Record("transformer", "new_by_tasks", curves["new"].final.value, x=training.place)
        if training.n_tasks is None:
            sizes = (model.state_size(config.length), sum(p.numel() for p in model.parameters()))
            table.append((*sizes, curves["new"].final.value))
            yield Record(arm, "state_size", sizes[0])
            yield Record(arm, "parameters", sizes[1])
    state, parameters, accuracy = np.array(table).T
    for name, size in (("state size", state), ("parameters", parameters)):
        yield Record(name, "rank_correlation", rank_agreement(size, accuracy).spearman)
    for arm, learner in PREFIX.items():
        yield from described(arm, references(config, learner, examples, seed))
    for metric in ("seen", "unseen", "new", "first", "early"):
        yield Record("chance", metric, chance)
    run.save("regimes", np.array([[arm, regime] for arm, regime in regimes.items()]))


def described(arm: str, curves: dict[str, InContextCurve]) -> Iterator[Record]:
    """A learner's accuracy on each kind of sequences, at the end and along the sequence."""
    for kind, curve in curves.items():
        yield Record(arm, kind, curve.final.value)
        for position, accuracy in enumerate(curve.accuracy.tolist()):
            yield Record(arm, kind, accuracy, x=position)
    yield Record(arm, "first", float(curves["new"].accuracy[0]))
    yield Record(arm, "early", float(curves["unseen"].accuracy[EARLY].mean()))


# The arms.


@dataclass(frozen=True)
class Training:
    """One meta-training: of which model, on how many tasks (none: endless), biased how far, in which batches."""

    model: Callable[[], InContextLearner]
    steps: int
    batch: int
    n_tasks: int | None = None
    fraction: float = 0.0
    place: float | None = None
    """The binary logarithm of the number of tasks, where it is one of the headline's. Tasks without end count as those
    that are drawn, and as no fewer than twice the most of the other arms."""
    only_plateau: bool = False


def plan(config: Config) -> dict[str, Training]:
    """All meta-trainings, by arm."""
    transformer = partial(
        ICLTransformer, config.d_model, config.n_layer, config.n_head, config.d_ff, max_len=config.length
    )
    usual = partial(Training, transformer, config.steps, config.batch)
    endless = math.log2(max(config.steps * config.batch, 2 * max(config.tasks)))
    arms = {tasks_arm(n): usual(n_tasks=n, place=math.log2(n)) for n in config.tasks}
    arms[ENDLESS] = usual(place=endless)
    arms |= {f"bias {p:g}": usual(fraction=p, only_plateau=True) for p in config.fractions}
    arms |= {f"batch {size}": Training(transformer, config.steps, size, only_plateau=True) for size in config.batches}
    models: dict[str, Callable[[], InContextLearner]] = {f"LSTM {h}": partial(ICLLSTM, h) for h in config.lstms}
    models |= {
        "outer-product LSTM": partial(OuterProductLSTM, *config.outer_product),
        "stateless": partial(NoStateMLP, config.stateless),
    }
    return arms | {arm: Training(model, config.steps, config.batch) for arm, model in models.items()}


def train(
    config: Config, training: Training, examples: Examples, seed: int, device: str
) -> tuple[InContextLearner, MetaTraining]:
    """Meta-train one arm, and watch for its transition on new tasks; the plateau's arms end there."""
    sampler = sequences(
        config, examples.train, "seen", seed, training.n_tasks, fixed_permutation_fraction=training.fraction
    )
    torch.manual_seed(seed)
    model = training.model().to(device)
    outcome = meta_train(
        model,
        sampler,
        training.steps,
        lr=config.learning_rate,
        batch=training.batch,
        clip=config.clip,
        log_every=config.log_every,
        eps=config.eps,
        probe=sequences(config, examples.held_out, "unseen", seed),
        stop=training.only_plateau,
    )
    return model, outcome


def evaluate(
    config: Config, training: Training, model: nn.Module, examples: Examples, seed: int
) -> dict[str, InContextCurve]:
    """Accuracy along sequences of seen tasks, of unseen tasks, and of unseen tasks on new classes or data."""
    seen = sequences(config, examples.train, "seen", seed, training.n_tasks)
    unseen = sequences(config, examples.held_out, "unseen", seed)
    return {
        "seen": in_context_curve(model, seen, config.sequences),
        "unseen": in_context_curve(model, unseen, config.sequences),
        "new": on_new(config, model, examples, seed, config.sequences),
    }


def references(
    config: Config, learner: Callable[[Tensor, Tensor], Tensor], examples: Examples, seed: int
) -> dict[str, InContextCurve]:
    """A reference learner's accuracy, on the same sequences of unseen tasks."""
    count = config.references if learner is prefix_mlp else config.sequences
    unseen = sequences(config, examples.held_out, "unseen", seed)
    return {
        "unseen": in_context_curve(learner, unseen, count, chunk=64),
        "new": on_new(config, learner, examples, seed, count),
    }


def on_new(
    config: Config, model: Callable[[Tensor, Tensor], Tensor], examples: Examples, seed: int, count: int
) -> InContextCurve:
    curves = [
        in_context_curve(model, sequences(config, base, "unseen", seed), count, chunk=250) for base in examples.new
    ]
    return InContextCurve(torch.cat([curve.correct for curve in curves]))


def sequences(
    config: Config,
    base: TensorDataset,
    split: str,
    seed: int,
    n_tasks: int | None = None,
    *,
    fixed_permutation_fraction: float = 0.0,
) -> SequenceSampler:
    """A seed's stream of sequences, begun anew: all arms see the same."""
    tasks = TaskAugmentation(
        n_tasks,
        base.tensors[0].shape[1],
        len(config.train_classes),
        seed,
        fixed_permutation_fraction=fixed_permutation_fraction,
    )
    return SequenceSampler(
        base,
        tasks,
        config.length,
        "seen" if split == "seen" else "unseen",
        generator=torch.Generator().manual_seed(seed),
    )


# The examples.


@dataclass(frozen=True)
class Examples:
    """What is trained on, other examples of the same classes, and data that meta-training never saw."""

    train: TensorDataset
    held_out: TensorDataset
    new: tuple[TensorDataset, ...]

    def to(self, device: str) -> Examples:
        def moved(base: TensorDataset) -> TensorDataset:
            return TensorDataset(*(t.to(device) for t in base.tensors))

        return Examples(moved(self.train), moved(self.held_out), tuple(map(moved, self.new)))


def split_examples(config: Config, seed: int) -> Examples:
    """A seed's examples as vectors, normalised by what the training examples are like.

    Another dataset is normalised by the mean and the deviation of its own training split, as in the paper.
    """
    splits = data.load(config.data)
    whole = data.merge(*splits.values())
    if config.new_data:
        parts = [splits["train"], splits["test"]]
    else:
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        parts = [whole[rows] for rows in order.chunk(2)]
    (train_x, train_y), held_out = (of_classes(config, part, config.train_classes) for part in parts)
    scale = Scale(train_x)
    reduce = Components(scale(train_x), config.components) if config.components else nn.Identity()

    def base(x: Tensor, y: Tensor, scale: Scale) -> TensorDataset:
        return TensorDataset(reduce(scale(x)), y)

    if config.new_data:
        new = []
        for uri in config.new_data:
            other = data.load(uri)
            classes = config.train_classes
            own = Scale(of_classes(config, other["train"], classes)[0])
            new.append(base(*of_classes(config, other["test"], classes), own))
    else:
        new = [base(*of_classes(config, whole, config.new_classes), scale)]
    return Examples(base(train_x, train_y, scale), base(*held_out, scale), tuple(new))


def of_classes(config: Config, split: data.Split, classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The examples of these classes as vectors of grey pixels, with labels counted in the classes' order."""
    member = split.y.unsqueeze(1) == torch.tensor(classes)
    if not member.any(0).all():
        raise ValueError(
            f"classes={classes}: the data has no example of some; its classes are 0 … {len(split.classes)}"
        )
    kept = member.any(1)
    x = split.x[kept]
    if x.ndim == 4:
        x = x.mean(1, keepdim=True)
        if config.size is not None:
            x = F.interpolate(x, config.size, mode="bilinear", antialias=True)
    return x.flatten(1), member[kept].long().argmax(1)


class Scale:
    """(x − mean) / deviation, one of each over all examples and pixels of ``like``."""

    def __init__(self, like: Tensor) -> None:
        self.mean, self.deviation = like.mean(), like.std()

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class Components:
    """The first principal components of ``like``, all divided by one number so that their mean variance there is 1."""

    def __init__(self, like: Tensor, components: int) -> None:
        if components > min(like.shape):
            raise ValueError(f"components={components}: {len(like)} examples of {like.shape[1]} pixels have fewer")
        self.mean = like.mean(0)
        _, deviations, axes = torch.linalg.svd(like - self.mean, full_matrices=False)
        self.map = axes[:components].T * (len(like) / deviations[:components].square().mean()).sqrt()

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.map


# The figure.

ORANGE, BLUE, GREEN, PURPLE, SKY, VERMILION = "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
KINDS = {"seen": ("seen tasks", GREEN, "o"), "unseen": ("new tasks", BLUE, "s"), "new": ("new classes", VERMILION, "^")}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Accuracy by number of tasks and along the sequence; the plateau; accuracy by state and by parameters."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, axes = plt.subplot_mosaic("aaabbb;ccddee", figsize=(11.5, 8.0), layout="constrained")
    draw_by_tasks(axes["a"], reported, arrays)
    draw_along(axes["b"], reported)
    draw_plateau(axes["c"], reported)
    draw_sizes(axes["d"], reported, "state_size", "numbers in the state")
    draw_sizes(axes["e"], reported, "parameters", "parameters")
    chance = reported[(reported["arm"] == "chance") & (reported["metric"] == "new")]["value"].mean()
    for ax in (axes[panel] for panel in "abde"):
        ax.axhline(100 * chance, color=plt.rcParams["axes.edgecolor"], linewidth=0.8, linestyle=":", zorder=0)
        ax.annotate(
            "chance", (1, 100 * chance), xycoords=("axes fraction", "data"), xytext=(-3, 3),
            textcoords="offset points", ha="right", fontsize=8, color=plt.rcParams["text.color"],
        )  # fmt: skip
    return fig


def estimate(records: pd.DataFrame, arm: str, metric: str) -> tuple[float, float]:
    """The mean over seeds, and half of its 95 % interval (0 with one seed)."""
    values = records[(records["arm"] == arm) & (records["metric"] == metric) & records["x"].isna()]["value"]
    return float(values.mean()), half_interval(values)


def half_interval(values: pd.Series[float]) -> float:
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0


def curve(records: pd.DataFrame, arm: str, metric: str) -> pd.DataFrame:
    """Mean over seeds and half of its interval, by x."""
    found = records[(records["arm"] == arm) & (records["metric"] == metric) & records["x"].notna()]
    return found.groupby("x")["value"].agg(["mean", half_interval])


def by_count(records: pd.DataFrame) -> list[str]:
    """The arms of the headline, from few tasks to endless ones."""
    counts = sorted({int(arm.split()[0]) for arm in records["arm"] if arm.endswith(" tasks") and arm != ENDLESS})
    return [*map(tasks_arm, counts), ENDLESS]


def draw_by_tasks(ax: Axes, records: pd.DataFrame, arrays: Arrays) -> None:
    """With the regime that most seeds are in."""
    arms = by_count(records)
    for shift, (kind, (name, colour, marker)) in zip((-0.08, 0, 0.08), KINDS.items(), strict=True):
        mean, half = 100 * np.array([estimate(records, arm, kind) for arm in arms]).T
        at = np.arange(len(arms)) + shift
        ax.errorbar(at, mean, yerr=half, color=colour, marker=marker, markersize=5, capsize=2, linewidth=1.2)
        ax.text(0.02, {"seen": 0.62, "unseen": 0.55, "new": 0.48}[kind], f"{SIGNS[marker]} {name}", color=colour,
                transform=ax.transAxes)  # fmt: skip
    regimes = [dict(saved.value.tolist()) for saved in arrays["regimes"]]
    names = []
    for arm in arms:
        (regime, count), *_ = Counter(of_seed[arm] for of_seed in regimes).most_common(1)
        names.append(f"{arm.split()[0]}\n{regime.replace(' ', chr(10))}\n({count} of {len(regimes)})")
    ax.set_xticks(range(len(arms)), names, fontsize=8)
    ax.set(xlabel="tasks in meta-training", ylabel="accuracy at the end of a sequence (%)")


SIGNS = {"o": "●", "s": "■", "^": "▲"}


def draw_along(ax: Axes, records: pd.DataFrame) -> None:
    """On new classes."""
    from matplotlib.ticker import MaxNLocator

    arms = {
        ENDLESS: (VERMILION, "-"),
        "4 tasks": (PURPLE, "-"),
        "ridge": (BLUE, "--"),
        "nearest neighbour": (GREEN, "--"),
    }
    ends: list[tuple[float, str, str]] = []
    for arm, (colour, style) in arms.items():
        found = 100 * curve(records, arm, "new")
        if found.empty:
            continue
        x = found.index.to_numpy()
        ax.plot(x, found["mean"], color=colour, linestyle=style, linewidth=1.4)
        ax.fill_between(
            x, found["mean"] - found["half_interval"], found["mean"] + found["half_interval"], color=colour, alpha=0.15,
            linewidth=0,
        )  # fmt: skip
        ends.append((float(found["mean"].iloc[-3:].mean()), arm, colour))
    write_ends(ax, ends)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="examples before", ylabel="accuracy on new classes (%)")


def draw_plateau(ax: Axes, records: pd.DataFrame) -> None:
    """One line a seed; biased trainings end at their transition."""
    bias = sorted({arm for arm in records["arm"] if arm.startswith("bias ")})
    colours = dict(zip([ENDLESS, *bias], (VERMILION, SKY, BLUE, GREEN, PURPLE), strict=False))
    for row, (arm, colour) in enumerate(colours.items()):
        found = records[(records["arm"] == arm) & (records["metric"] == "learning")]
        for _, line in found.groupby("seed"):
            ax.plot(line["x"], 100 * line["value"], color=colour, linewidth=1, alpha=0.8)
        name = "no bias" if arm == ENDLESS else f"{100 * float(arm.split()[1]):g} % of each batch biased"
        ax.text(0.02, 0.93 - 0.07 * row, name, color=colour, transform=ax.transAxes)
    ax.set(xlabel="updates", ylabel="rise within a sequence, new tasks (points)")


def draw_sizes(ax: Axes, records: pd.DataFrame, metric: str, label: str) -> None:
    """Every architecture's accuracy by one of its sizes."""
    arms = {arm for arm, measured in zip(records["arm"], records["metric"], strict=True) if measured == metric}
    for arm in sorted(arms):
        mean, half = (100 * v for v in estimate(records, arm, "new"))
        size = estimate(records, arm, metric)[0]
        colour, right, up = BLUE, True, 4
        if arm.startswith("LSTM"):
            colour, right = ORANGE, False
        elif arm.startswith("outer"):
            up = -14
        name = "transformer" if arm == ENDLESS else arm.replace("outer-product LSTM", "outer product")
        ax.errorbar(size, mean, yerr=half, fmt="o", color=colour, capsize=2, linewidth=1)
        ax.annotate(
            name, (size, mean), xytext=(5 if right else -5, up), ha="left" if right else "right",
            textcoords="offset points", fontsize=8, color=colour,
        )  # fmt: skip
    ax.set_xscale("symlog", linthresh=10) if metric == "state_size" else ax.set_xscale("log")
    ax.margins(x=0.55)
    if metric == "state_size":
        ax.set_xlim(left=-5)
    ax.set(xlabel=label, ylabel="accuracy on new classes (%)")


def write_ends(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names beside the ends of lines, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    gap, at = 0.06 * (high - low), -math.inf
    for value, name, colour in sorted(ends):
        at = max(value, at + gap)
        ax.annotate(
            name, (1, at), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center",
            color=colour, fontsize=9, annotation_clip=False,
        )  # fmt: skip
