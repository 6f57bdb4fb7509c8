"""Meta Flow Matching: Integrating Vector Fields on the Wasserstein Manifold.

Lazar Atanackovic et al., arXiv 2408.14608, ICLR 2025. A velocity field that carries one population into another is told
an embedding of the whole initial population, learned with it. The paper's claim: it predicts how populations never seen
in training move better than a field of the single point (FM), or one that is told an environment's number (CGFM).

Two worlds. Letters that have diffused are drawn together again, as in the paper, with the typefaces of ``glyphs``; test
letters are X and Y, which training has not. And sets that contract about their own centre, which no single point knows,
isolate the mechanism. All arms have the same field, optimiser, steps and batches; MFM has its encoder besides, and is
trained jointly. Points are paired by position in both worlds. W2 is averaged over populations after its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from landform.claims import Better, Equivalent, Trend
from landform.data.populations import InteractingPopulations, PointPopulations
from landform.flows import (
    CellOT,
    ConditionalFlowMatching,
    FlowMatching,
    FlowMatchingLoss,
    MetaFlowMatching,
    PopulationEncoder,
    VelocityField,
    ideal_shift,
    mean_shift,
)
from landform.metrics import rbf_mmd2, wasserstein_distance
from landform.optim.schedules import Cosine
from landform.study import Arrays, Preset, Record, Run, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Transport = Callable[..., Tensor]
"""Source populations (E, n, d) to predictions."""


@dataclass(frozen=True)
class Config:
    world: str = "letters"

    # Letters.
    letters: str = "ABCDEFGHIJKLMNOPQRSTUVWZ"
    unseen_letters: str = "XY"
    face: str = "DejaVu Sans"
    unseen_faces: tuple[str, ...] = ("DejaVu Serif", "STIX")
    rotations: int = 12
    max_angle: float = 15.0
    noise: float = 0.8
    letter_points: int = 200
    letter_steps: int = 800
    letter_diversity: tuple[int, ...] = (6,)
    """Numbers of letters to train on, besides all of them."""

    # Sets that contract about their own centre.
    environments: int = 300
    unseen_environments: int = 60
    set_points: int = 128
    set_steps: int = 400
    set_diversity: tuple[int, ...] = (10, 30, 100)
    """Numbers of environments to train on, besides all of them."""

    # The networks and their training.
    width: int = 128
    depth: int = 4
    residual: bool = False
    time_dim: int = 64
    time_frequencies: tuple[float, float] = (1.0, 30.0)
    n_frequencies: int = 64
    frequency_scale: float = 0.1
    encoder_width: int = 64
    encoder_depth: int = 3
    neighbours: int = 20
    batch_size: int = 8
    points: int = 64
    """Of each environment, at which a step's loss is taken; embeddings are of whole populations."""
    learning_rate: float = 3e-3
    cosine: bool = True
    cellot_steps: int = 0
    """Of CellOT, one map for all populations; 0 leaves it out."""

    solver: Literal["euler", "midpoint", "dopri5"] = "euler"
    solver_steps: int = 20
    judged_training: int = 24
    """Training populations that predictions are judged on, too."""

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise ValueError(f"world={self.world!r}: must be one of {', '.join(WORLDS)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) in (int, float) and value < 0:
                raise ValueError(f"{field.name}={value}: must not be negative")
        if set(self.letters) & set(self.unseen_letters):
            raise ValueError(f"unseen_letters={self.unseen_letters!r}: some are in letters={self.letters!r}")


WORLDS = ("letters", "interacting")
LETTERS = {"world": "letters"}
SETS = {"world": "interacting"}

study = Study(
    "meta-flow-matching",
    claims=[
        Better("w2", "mfm", than="fm", at=LETTERS, says="On letters never seen, MFM is nearer the truth (W2) than FM"),
        Better("w2", "mfm", than="cgfm", at=LETTERS, says="On letters never seen, MFM is nearer (W2) than CGFM"),
        Better(
            "face_w2",
            "mfm",
            than=("fm", "cgfm"),
            at=LETTERS,
            says="On known letters in typefaces never seen, MFM is nearer (W2) than FM and CGFM",
        ),
        Better(
            "w2",
            "mfm",
            than=("fm", "cgfm"),
            at=SETS,
            says="Mechanism: where sets move about their own centre, MFM is nearer (W2) on new sets than FM and CGFM",
        ),
        Equivalent(
            "train_w2",
            "cgfm",
            "mfm",
            within=0.05,
            at=SETS,
            says="Mechanism: CGFM is as near as MFM on the sets that it was trained on",
        ),
        Equivalent(
            "w2", "cgfm", "fm", within=0.05, at=SETS, says="Mechanism: on new sets CGFM falls back to the level of FM"
        ),
        *(
            Better(
                "w2",
                "fm",
                than="mfm_shuffled",
                at=at,
                says=f"A control: told another population's embedding, MFM is worse than FM ({what})",
            )
            for at, what in ((LETTERS, "letters"), (SETS, "sets"))
        ),
        Trend(
            "diversity_w2",
            "mfm",
            over="x",
            sign=-1,
            at=SETS,
            says="The more sets MFM is trained on, the nearer it is on new ones",
        ),
        *(
            Trend(
                "diversity_w2",
                "mfm",
                over="x",
                than="fm",
                at=at,
                says=f"The advantage of MFM over FM grows with the number of {what} to train on",
            )
            for at, what in ((SETS, "sets"), (LETTERS, "letters"))
        ),
        Better(
            "w2",
            "mfm",
            than="deepsets",
            at=LETTERS,
            says="An ablation: on letters never seen, a graph of neighbours embeds better than points alone (k = 0)",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                letters="ABC",
                unseen_faces=("STIX",),
                rotations=2,
                letter_points=40,
                letter_steps=4,
                letter_diversity=(2,),
                environments=8,
                unseen_environments=4,
                set_points=30,
                set_steps=4,
                set_diversity=(4,),
                width=16,
                neighbours=5,
                points=20,
                cellot_steps=1,
                solver_steps=4,
                judged_training=4,
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=5),
        "paper": Preset(
            Config(
                rotations=10,
                max_angle=180.0,
                noise=0.5,
                letter_points=2000,
                letter_steps=288_000,
                letter_diversity=(1, 2, 4, 8, 16),
                environments=3000,
                unseen_environments=300,
                set_points=700,
                set_steps=50_000,
                set_diversity=(30, 100, 300, 1000),
                width=512,
                time_dim=128,
                time_frequencies=(1.0, 1e-4),
                n_frequencies=128,
                frequency_scale=0.01,
                neighbours=50,
                batch_size=10,
                points=700,
                learning_rate=1e-4,
                cosine=False,
                cellot_steps=100_000,
                solver="dopri5",
                judged_training=60,
            ),
            seeds=3,
        ),
    },
    conditions={"world": WORLDS},
    minimise=("w1", "w2", "mmd", "train_w2", "face_w2", "diversity_w2"),
    reading=(
        "The claim holds. Where the motion depends on the whole set, MFM leaves 15 % of FM's error; on letters, "
        "trained a small part of the paper's time, it gains 6 %, and the graph of neighbours no more than the points "
        "alone. Within this budget CGFM learns its training environments barely better than FM, since each number is "
        "seen but a few times, and on new sets the average number serves it a little worse than none. The exchange of "
        "embeddings ruins the sets; X told that it is Y loses most of MFM's gain but not all: the letters' embeddings "
        "differ less than the letters. Known letters in new typefaces become worse than by FM when exchanged."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: its own populations, every arm trained on the same of them, and judged on others."""
    train, judged, diversity = draw_world(config, seed, run.device)
    arms: dict[str, Transport] = {
        "identity": lambda x0: x0,
        "mean_shift": partial(mean_shift, training_targets=train.x1),
    }
    if config.cellot_steps:
        arms["cellot"] = one_map(config, train, seed)
    for number, (arm, learn) in enumerate(ARMS.items()):
        run.progress(number, len(ARMS) + len(diversity), arm)
        arms[arm] = learn(config, train, seed)
    trained = arms["mfm"]
    arms["mfm_shuffled"] = partial(trained, shuffled=True)

    unseen = judged["w2"]
    predictions = {arm: transport(unseen.x0) for arm, transport in arms.items()}
    predictions["ideal_shift"] = ideal_shift(unseen.x0, unseen.x1)
    for arm, prediction in predictions.items():
        yield Record(arm, "w1", mean_w(prediction, unseen.x1, 1))
        yield Record(arm, "w2", mean_w(prediction, unseen.x1, 2))
        yield Record(arm, "mmd", mean_mmd(prediction, unseen.x1))
        if arm in ARMS:
            yield Record(arm, "diversity_w2", mean_w(prediction, unseen.x1, 2), x=np.log2(count(config, train)))
    for metric, populations in judged.items():
        if metric == "w2":
            continue
        for arm, transport in arms.items():
            known = {"environment": populations.fields["number"]} if (arm, metric) == ("cgfm", "train_w2") else {}
            yield Record(arm, metric, mean_w(transport(populations.x0, **known), populations.x1, 2))
    for number, part in enumerate(diversity):
        run.progress(len(ARMS) + number, len(ARMS) + len(diversity), "diversity")
        for arm in ("fm", "mfm"):
            found = ARMS[arm](config, part, seed)(unseen.x0)
            yield Record(arm, "diversity_w2", mean_w(found, unseen.x1, 2), x=np.log2(count(config, part)))
    shown = [0, len(unseen) - 1]
    columns = (unseen.x0, predictions["fm"], predictions["mfm"], unseen.x1)
    run.save("examples", torch.stack([populations[shown] for populations in columns], dim=1))


def mean_w(predicted: Tensor, truth: Tensor, p: Literal[1, 2]) -> float:
    """The Wasserstein distance of each population, averaged over them."""
    return float(np.mean([wasserstein_distance(a, b, p) for a, b in zip(predicted, truth, strict=True)]))


def mean_mmd(predicted: Tensor, truth: Tensor) -> float:
    return float(np.mean([rbf_mmd2(a, b) for a, b in zip(predicted, truth, strict=True)]))


# The worlds.


def draw_world(
    config: Config, seed: int, device: str
) -> tuple[PointPopulations, dict[str, PointPopulations], list[PointPopulations]]:
    """A seed's training populations, those to be judged on by the metric that does, and smaller training sets.

    A smaller training set holds the first environments, or the letters that come first in a random order.
    """
    generator = torch.Generator().manual_seed(seed)
    if config.world == "letters":
        letters = partial(
            PointPopulations.from_glyphs,
            noise=config.noise,
            n_points=config.letter_points,
            generator=generator,
            max_angle=config.max_angle,
        )
        train = letters(config.letters, (config.face,), rotations=config.rotations)
        judged = {"w2": letters(config.unseen_letters, (config.face,), rotations=config.rotations)}
        if config.unseen_faces:
            judged["face_w2"] = letters(config.letters, config.unseen_faces, rotations=1)
        order = torch.randperm(len(config.letters), generator=generator)
        parts = [train[torch.isin(train.fields["character"], order[:size])] for size in config.letter_diversity]
    else:
        train = InteractingPopulations(config.environments, config.set_points, generator=generator)
        judged = {"w2": InteractingPopulations(config.unseen_environments, config.set_points, generator=generator)}
        parts = [train[:size] for size in config.set_diversity]
    some = torch.randperm(len(train), generator=generator)[: config.judged_training]
    judged["train_w2"] = PointPopulations(train.x0[some], train.x1[some], fields={"number": some})
    return train.to(device), {name: part.to(device) for name, part in judged.items()}, [p.to(device) for p in parts]


def count(config: Config, train: PointPopulations) -> int:
    """How many letters, or sets, a training set holds."""
    return len(train.fields["character"].unique()) if config.world == "letters" else len(train)


# The arms.


def learned(
    config: Config, train: PointPopulations, seed: int, *, told: Literal["nothing", "number", "population"], k: int = 0
) -> Transport:
    """A flow trained on these populations, told nothing of them, their number, or an embedding by k neighbours."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    loss = FlowMatchingLoss("paired", generator=generator)
    numbers = {"nothing": 0, "number": len(train), "population": config.encoder_width}[told]
    velocity = VelocityField(
        train.x0.shape[-1],
        numbers,
        config.width,
        config.depth,
        config.time_dim,
        config.n_frequencies,
        config.frequency_scale,
        config.residual,
        time_frequencies=config.time_frequencies,
    )
    flow: FlowMatching | ConditionalFlowMatching | MetaFlowMatching
    if told == "nothing":
        flow = FlowMatching(velocity, loss)
    elif told == "number":
        flow = ConditionalFlowMatching(velocity, len(train), loss)
    else:
        encoder = PopulationEncoder(train.x0.shape[-1], config.encoder_width, config.encoder_depth, k)
        flow = MetaFlowMatching(encoder, velocity, loss)
    flow.to(train.x0.device)
    steps = config.letter_steps if config.world == "letters" else config.set_steps
    flow.fit(
        train,
        steps=steps,
        batch_size=config.batch_size,
        points=config.points if config.points < train.x0.shape[1] else None,
        learning_rate=config.learning_rate,
        schedule=partial(Cosine, total=steps) if config.cosine else None,
        generator=generator,
    )

    def transport(x0: Tensor, *, shuffled: bool = False, **options: Tensor) -> Tensor:
        if shuffled and isinstance(flow, MetaFlowMatching):  # populations lie in order of letter: another's embedding
            with torch.no_grad():
                options["embedding"] = flow.encoder(x0).roll(len(x0) // 2, 0)
        return flow.transport(x0, **options, method=config.solver, steps=config.solver_steps)

    return transport


def one_map(config: Config, train: PointPopulations, seed: int) -> Transport:
    """CellOT on the points of all populations together."""
    torch.manual_seed(seed)
    model = CellOT(train.x0.shape[-1]).to(train.x0.device)
    generator = torch.Generator().manual_seed(seed)
    model.fit(train.x0.flatten(0, 1), train.x1.flatten(0, 1), steps=config.cellot_steps, generator=generator)
    return model.transport


def meta(config: Config, train: PointPopulations, seed: int) -> Transport:
    return learned(config, train, seed, told="population", k=config.neighbours)


ARMS: dict[str, Callable[[Config, PointPopulations, int], Transport]] = {
    "fm": partial(learned, told="nothing"),
    "cgfm": partial(learned, told="number"),
    "mfm": meta,
    "deepsets": partial(learned, told="population", k=0),
}


# The figure.

NAMES = {
    "identity": "identity",
    "mean_shift": "mean shift",
    "ideal_shift": "ideal shift (oracle)",
    "cellot": "CellOT",
    "fm": "FM",
    "cgfm": "CGFM",
    "mfm": "MFM",
    "mfm_shuffled": "MFM, shuffled",
    "deepsets": "MFM, k = 0",
}
COLOURS = {"fm": "#0072B2", "cgfm": "#E69F00", "mfm": "#D55E00", "mfm_shuffled": "#CC79A7", "deepsets": "#009E73"}
TITLES = {"letters": "letters", "interacting": "sets"}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """An unseen population of each world, predicted; W2 by arm; and W2 by the number of training environments."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    worlds = [world for world in WORLDS if world in set(reported["world"])]
    fig, axes = plt.subplots(
        len(worlds), 6, figsize=(14, 3 * len(worlds)), layout="constrained", squeeze=False,
        width_ratios=(1, 1, 1, 1, 2.1, 1.9),
    )  # fmt: skip
    for row, world in zip(axes, worlds, strict=True):
        draw_example(row[:4], arrays, world)
        row[0].set_ylabel(TITLES[world])
        here = reported[reported["world"] == world]
        draw_arms(row[4], here)
        draw_diversity(row[5], here[here["metric"] == "diversity_w2"], TITLES[world])
    return fig


def draw_example(axes: np.ndarray, arrays: Arrays, world: str) -> None:
    """The last test population of the first seed."""
    (shown,) = [saved.value[-1] for saved in arrays["examples"] if saved.condition.get("world", world) == world][:1]
    low, high = shown.min((0, 1)), shown.max((0, 1))
    centre, half = (low + high) / 2, 0.55 * (high - low).max()
    colours = ("0.5", COLOURS["fm"], COLOURS["mfm"], "0.5")
    for ax, points, colour, title in zip(axes, shown, colours, ("source", "FM", "MFM", "target"), strict=True):
        ax.scatter(*points.T, s=2.5, color=colour, linewidths=0)
        ax.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), title=title)
        ax.set(xticks=[], yticks=[], aspect="equal")


def draw_arms(ax: Axes, here: pd.DataFrame) -> None:
    """Filled: populations never seen; hollow: training populations."""
    from matplotlib import rcParams

    plain = here[here["x"].isna()]
    arms = [arm for arm in NAMES if arm in set(plain["arm"])]
    for place, arm in enumerate(arms):
        for metric, shift, face in (("w2", 0.15, None), ("train_w2", -0.15, "none")):
            values = plain[(plain["arm"] == arm) & (plain["metric"] == metric)]["value"].to_numpy()
            if len(values):
                mean, half = interval(values)
                colour = COLOURS.get(arm, rcParams["text.color"])
                ax.errorbar(mean, shift - place, xerr=half, fmt="o", ms=5, color=colour, mfc=face or colour)
    ax.set_yticks([-place for place in range(len(arms))], [NAMES[arm] for arm in arms])
    ax.set(xlabel="W2 to the target (units of the plane)", title="● never seen   ○ trained on", xlim=(0, None))


def draw_diversity(ax: Axes, here: pd.DataFrame, what: str) -> None:
    sizes = sorted(here[here["arm"] == "mfm"]["x"].unique())
    if len(sizes) < 2:
        ax.set_axis_off()
        return
    for arm in ("fm", "mfm"):
        table = here[here["arm"] == arm].pivot_table(index="x", columns="seed", values="value")
        mean, half = np.array([interval(row) for row in table.to_numpy()]).T
        x = 2 ** table.index.to_numpy()
        ax.plot(x, mean, marker="o", ms=4, color=COLOURS[arm])
        ax.fill_between(x, mean - half, mean + half, color=COLOURS[arm], alpha=0.15, lw=0)
        ax.annotate(NAMES[arm], (x[-1], mean[-1]), (6, 0), textcoords="offset points", color=COLOURS[arm], va="center")
    ax.set_xscale("log")
    ax.set_xlim(2 ** sizes[0] / 1.2, 2 ** sizes[-1] * (2 ** (sizes[-1] - sizes[0])) ** 0.2)
    ax.set_xticks([2**size for size in sizes], [f"{2**size:.0f}" for size in sizes])
    ax.set_xticks([], minor=True)
    ax.set(xlabel=f"{what} trained on", ylabel="W2, never seen", title="Diversity", ylim=(0, None))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)
