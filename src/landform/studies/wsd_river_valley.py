"""Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape View.

Wen, Li, Wang, Hall, Liang & Ma, arXiv 2410.05192, ICLR 2025. The loss is a valley with steep sides over a floor that
slopes along a river: a constant high rate bounces between the sides but gets far along the river, and a short decay
brings the iterate down and shows it. So a run may decay, keep a checkpoint, and go on from it at the full rate
(WSD-S). The paper's claim: that one run is as good at every budget as a cosine run tuned for that budget alone, and
better than WSD and Cyclic-Cosine that spend as many updates in all.

Here every arm trains the same model from the same weights on the same batches, and its peak rate is chosen on seeds
that are not reported, among as many values for each. WSD pays for its branches: its budgets are cut so that it has
made T_k updates in all when its k-th model is finished. Three tasks: a byte language model; a table of bigrams, whose
expected loss on certain and on uncertain tokens is known exactly; and valleys in closed form. The last two show the
mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from landform import data
from landform.claims import Better, Equivalent, Grows, Holds, Trend
from landform.landscape.connectivity import interpolation_curve
from landform.landscape.river import is_valley_shaped, river_valley, valley_depth
from landform.models.transformer import ByteTransformer
from landform.optim.schedules import (
    WSDS,
    Constant,
    CosineOracle,
    CyclicCosine,
    Schedule,
    WarmupStableDecay,
    charged_budgets,
)
from landform.optim.schedules.segments import DecayShape
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.branching import BranchingTrainer
from landform.training.language import LanguageRun, sequences

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Task = Literal["text", "bigrams", "valley"]
TASKS: tuple[Task, ...] = ("text", "bigrams", "valley")


@dataclass(frozen=True)
class Config:
    """Budgets, warm-ups and rates of the text are in its own updates; bigrams and valley have their own."""

    task: Task = "text"
    decay: float = 0.1
    """The share of each budget that decays."""
    shape: DecayShape = "inverse"
    min_ratio: float = 0.1

    data: str = "corpus"
    """Anything that loads as bytes, with validation and test splits."""
    budgets: tuple[int, ...] = (200, 400, 800)
    warmup: int = 20
    rewarmup: int = 20
    """Of Cyclic-Cosine; WSD-S has none."""
    peaks: tuple[float, ...] = (0.00075, 0.0015, 0.003, 0.006)
    d_model: int = 32
    n_layer: int = 2
    n_head: int = 2
    d_ff: int = 128
    context: int = 64
    batch_size: int = 8
    weight_decay: float = 0.1
    clip: float = 1.0
    held_out: int = 1000
    """Sequences to measure the loss on."""
    counted: int = 4_000_000
    """Bytes of training text whose statistics say which bytes are certain."""

    states: int = 64
    deterministic_fraction: float = 0.5
    concentration: float = 0.5
    table_budgets: tuple[int, ...] = (750, 1500, 3000)
    table_batch: int = 64
    table_peaks: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
    table_rates: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0)
    """Peaks at which WSD-S's decay is measured; the mechanism is shown at ``table_rate``."""
    table_rate: float = 32.0

    valley_budgets: tuple[int, ...] = (250, 500, 1000)
    valley_rate: float = 0.02
    replicas: int = 64

    points: int = 21
    """Of a profile between two models, and of a learning curve."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r}: must be one of {', '.join(TASKS)}")
        for name in ("budgets", "table_budgets", "valley_budgets"):
            budgets = getattr(self, name)
            if len(budgets) < 2 or budgets[0] < 1 or list(budgets) != sorted(set(budgets)):
                raise ValueError(f"{name}={budgets}: must be at least two increasing numbers of updates")
        for name in ("peaks", "table_peaks", "table_rates"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive, and at least one")
        for name in ("held_out", "counted", "replicas", "points"):
            if getattr(self, name) < 3:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 3")


study = Study(
    "wsd-river-valley",
    claims=[
        Better(
            "loss",
            "wsds",
            than="cyclic_cosine",
            at={"task": "text"},
            says="On text WSD-S has a lower mean loss over budgets than Cyclic-Cosine, for as many updates",
        ),
        Equivalent(
            "loss",
            "wsds",
            "oracle",
            within=0.02,
            at={"task": "text"},
            says="On text WSD-S is within 0.02 nats a byte of a cosine run for each budget, which cost more updates",
        ),
        Better(
            "loss",
            "wsds",
            than="oracle",
            by=-0.02,
            at={"task": "text"},
            says="On text WSD-S is at most 0.02 nats a byte worse than those cosine runs (it may be better)",
        ),
        Better(
            "loss",
            "wsds",
            than="wsd",
            at={"task": "text"},
            says="On text WSD-S has a lower mean loss over budgets than WSD, whose branches are charged",
        ),
        Better(
            "loss",
            "wsds",
            than="constant",
            at={"task": "text"},
            says="A control: on text WSD-S has a lower mean loss over budgets than a constant rate",
        ),
        Better(
            "loss",
            "wsds",
            than="cyclic_cosine",
            at={"task": "bigrams"},
            says="On bigrams WSD-S has a lower mean loss over budgets than Cyclic-Cosine",
        ),
        Equivalent(
            "loss",
            "wsds",
            "oracle",
            within=0.02,
            at={"task": "bigrams"},
            says="On bigrams WSD-S is within 0.02 nats of a cosine run for each budget",
        ),
        Better(
            "decay_drop",
            "uncertain",
            than="certain",
            at={"task": "text"},
            says="On text the decay lowers the loss more on uncertain bytes than on certain ones",
        ),
        Holds(
            "drop_share",
            at_most=0.05,
            says="On bigrams the decay changes the loss of certain tokens by under 5 % of what uncertain ones gain",
        ),
        Better(
            "certain_excess",
            "high_rate",
            than="low_rate",
            at={"task": "bigrams"},
            says="On bigrams a constant high rate learns certain tokens further than one of a tenth",
        ),
        Trend(
            "drop_by_rate",
            "wsds",
            over="x",
            at={"task": "bigrams"},
            says="On bigrams the loss drops more during the decay the higher the peak rate",
        ),
        Grows(
            "drop_by_rate",
            with_="x",
            exponent=1.0,
            within=0.25,
            arm="wsds",
            at={"task": "bigrams"},
            says="That drop grows in proportion to the peak rate (exponent 1 ± 0.25)",
        ),
        Holds(
            "excess_over_closed_form",
            at_least=0.8,
            at_most=1.2,
            says="On bigrams the loss on uncertain tokens in the stable phase is the closed form's, to 20 %",
        ),
        *(
            claim
            for task in ("text", "bigrams")
            for claim in (
                Better(
                    "valley_depth",
                    "stable",
                    than="decayed",
                    at={"task": task},
                    says=f"On {task} a valley lies between two stable models, deeper than between two decayed ones",
                ),
                Holds(
                    "is_valley",
                    at_least=1,
                    arm="stable",
                    at={"task": task},
                    says=f"On {task} the loss between two stable models dips below both, on every seed",
                ),
                Holds(
                    "is_monotone",
                    at_least=1,
                    arm="decayed",
                    at={"task": task},
                    says=f"On {task} the loss between two decayed models falls all the way, on every seed",
                ),
            )
        ),
        Holds(
            "hill_z",
            at_least=-4.0,
            at_most=4.0,
            says="In a straight valley the simulated hill loss is the closed form's, to 4 standard errors",
        ),
        Holds(
            "progress_error",
            at_most=1e-9,
            says="In a straight valley progress is the slope times the sum of rates",
        ),
        Holds(
            "curved_progress_error",
            at_most=0.05,
            says="In a curved valley progress is that of the river at the time of the sum of rates, to 5 %",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                budgets=(8, 16, 32),
                warmup=2,
                rewarmup=2,
                decay=0.25,
                peaks=(0.01,),
                d_model=16,
                d_ff=32,
                context=16,
                held_out=64,
                counted=100_000,
                table_budgets=(75, 150, 300),
                table_peaks=(32.0,),
                valley_budgets=(25, 50, 100),
                points=5,
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=6, tuning_seeds=2),
        "paper": Preset(
            Config(
                budgets=(12_500, 25_000, 50_000),
                warmup=2000,
                rewarmup=2000,
                peaks=(5e-4, 1e-3, 2e-3, 4e-3),
                d_model=768,
                n_layer=12,
                n_head=12,
                d_ff=3072,
                context=4096,
                batch_size=1024,
                held_out=2048,
                counted=1_000_000_000,
            ),
            seeds=3,
            tuning_seeds=1,
        ),
    },
    conditions={"task": TASKS},
    minimise=("loss", "validation_loss", "certain_excess"),
    tune_by="validation_loss",
    may_diverge=("loss", "validation_loss"),
    reading=(
        "On text training is still far from its end, where a rate that stays high gains most: WSD-S beats even the "
        "cosine runs made for each budget, a constant rate comes close to it, and the decay helps certain bytes as "
        "much as uncertain ones. On bigrams, near the end of training, hillsides and river show as the paper has them, "
        "and a long cosine brings the loss down further than a decay of a tenth."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed of one task. On tuning seeds only what chooses the peaks is measured, on validation data."""
    tasks = {"text": on_text, "bigrams": on_bigrams, "valley": in_valleys}
    yield from tasks[config.task](config, seed, run)


# The arms.

COMPARED = ("wsds", "cyclic_cosine", "wsd", "oracle", "constant")
"""Those of the text; bigrams have a constant rate at the others' floor besides."""

CURVES = ("wsds", "cyclic_cosine", "constant")
CURVE = 16
"""Points of a learning curve on text."""


def plan_of(
    arm: str,
    config: Config,
    optimizer: torch.optim.Optimizer,
    budgets: Sequence[int],
    warmup: int = 0,
    rewarmup: int = 0,
) -> Schedule:
    """The arm's rates, with a finished model for each of the budgets (for each charged one, with WSD)."""
    decay, rho = config.decay, config.min_ratio
    match arm:
        case "wsds":
            return WSDS(optimizer, budgets, warmup, decay, shape=config.shape, min_ratio=rho)
        case "cyclic_cosine":
            return CyclicCosine(optimizer, budgets, warmup, rewarmup, rho)
        case "oracle":
            return CosineOracle(optimizer, budgets, warmup, rho)
        case "constant" | "low_constant":
            return Constant(optimizer, budgets[-1], warmup=warmup)
        case "wsd" | "wsd_uncharged":
            *earlier, last = charged_budgets(budgets, decay) if arm == "wsd" else budgets
            return WarmupStableDecay(optimizer, last, warmup, decay, config.shape, rho, earlier=earlier)
    raise ValueError(f"arm={arm!r} is unknown")


def rates_of(arm: str, config: Config, peak: float, budgets: Sequence[int]) -> dict[int, Float[np.ndarray, " updates"]]:
    """For each budget the rates of the run that its model comes from: one and the same run without side runs, which
    passes by the earlier budgets; else one that ends there."""
    if arm == "low_constant":
        peak *= config.min_ratio
    plan = plan_of(arm, config, torch.optim.SGD([torch.zeros(1)], lr=peak), budgets)
    main = peak * plan.values()
    sides = [peak * plan.branch(end).values() for end in plan.branch_points()]
    return dict(zip(budgets, [*sides, main] if sides else [main] * len(budgets), strict=True))


# Text.

CERTAIN, UNCERTAIN = 0.1, 1.5
"""Nats of entropy, given the three bytes before, below and above which a byte counts as certain and as uncertain."""
OFTEN = 20
"""Three bytes that came less often than so say nothing of certainty."""


@dataclass
class Outcome:
    """What a training on text came to."""

    losses: dict[int, float] = field(default_factory=dict)
    """Of the model finished for each budget."""
    curve: dict[int, float] = field(default_factory=dict)
    """Of the main run, by updates."""
    rates: Float[np.ndarray, " updates"] = field(default_factory=lambda: np.empty(0))
    """Of the main run."""
    last_two: list[dict[str, Tensor]] = field(default_factory=list)
    """The weights at the last two budgets."""
    by_kind: list[tuple[float, float]] = field(default_factory=list)
    """Losses on certain and on uncertain bytes, before and after the last decay."""


def on_text(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """A byte language model: every arm at each of its peaks and, on reported seeds, what the decay does."""
    tuning = run.tuning and len(config.peaks) > 1
    splits = data.load(config.data)
    train = sequences(splits["train"].x, config.context)
    held_out = spread(sequences(splits["validation" if tuning else "test"].x, config.context), config.held_out)
    kinds = None if tuning else certainty(splits["train"].x[: config.counted], held_out)
    # WSD whose branches are not charged spends more updates: a second reading of WSD, not an arm to be compared.
    arms = COMPARED if tuning else (*COMPARED, "wsd_uncharged")
    jobs = [(arm, peak) for arm in arms for peak in run.settings(arm.removesuffix("_uncharged"), config.peaks)]
    outcomes: dict[str, Outcome] = {}
    for place, (arm, peak) in enumerate(jobs):
        run.progress(place, len(jobs), f"{arm} at {peak:g}")
        text = language_run(arm, config, peak, train, held_out, seed, run.device)
        outcome = outcomes[arm] = train_text(text, arm, config, kinds)
        record = partial(Record, arm, setting=str(peak))
        mean = float(np.mean(list(outcome.losses.values())))
        if tuning:
            yield record("validation_loss", mean)
            continue
        yield record("loss", mean)
        yield from (record("loss", loss, x=budget) for budget, loss in outcome.losses.items())
        yield from (record("curve", loss, x=updates) for updates, loss in outcome.curve.items())
    if tuning:
        return

    run.save("rates", np.stack([outcomes[arm].rates for arm in CURVES]))
    before, after = outcomes["wsds"].by_kind
    for kind, one, other in zip(("certain", "uncertain"), before, after, strict=True):
        yield Record(kind, "decay_drop", one - other)
    batches = [(rows[:, :-1].long(), rows[:, 1:].long()) for rows in held_out[::3].split(64)]
    model = text.model
    for phase, arm in (("stable", "constant"), ("decayed", "wsds")):
        start, end = outcomes[arm].last_two
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels cannot be vectorised over models
            curve = interpolation_curve(model, start, end, batches, byte_loss, config.points, metrics=("loss",))
        yield from shape_of(phase, curve.values["loss"])
        run.save(f"{phase}_text", curve.values["loss"])


def spread(table: Tensor, count: int) -> Tensor:
    """``count`` rows of a table (or all), evenly from its beginning to its end."""
    return table[torch.linspace(0, len(table) - 1, min(count, len(table))).long()]


def language_run(
    arm: str, config: Config, peak: float, train: Tensor, held_out: Tensor, seed: int, device: str
) -> LanguageRun:
    """A model at its beginning, the same for every arm, and the arm's rates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ByteTransformer(config.d_model, config.n_layer, config.n_head, config.context, d_ff=config.d_ff)
    model.to(device)
    # Weight decay spares norms, embeddings and biases.
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, peak, betas=(0.9, 0.95), eps=1e-8, fused=True)
    plan = plan_of(arm, config, optimizer, config.budgets, config.warmup, config.rewarmup)
    return LanguageRun(
        model, train, held_out, optimizer, plan, batch_size=config.batch_size, clip=config.clip, seed=seed
    )


def train_text(text: LanguageRun, arm: str, config: Config, kinds: tuple[Tensor, Tensor] | None) -> Outcome:
    """Execute the arm's plan; with ``kinds`` of bytes, look closer on the way."""
    plan, outcome = text.schedule, Outcome()
    assert isinstance(plan, Schedule)
    sides = plan.branch_points()
    ends = plan.checkpoints() if sides else list(config.budgets)
    watched = set(ends) - set(sides)
    decay: tuple[int, ...] = ()
    if kinds and arm in CURVES:
        watched.update(np.linspace(0, plan.total, CURVE + 1).round().astype(int).tolist())
    if kinds and isinstance(plan, WSDS):
        decay = plan.segments[-1][:2]
        watched.update(decay)

    def measure() -> float:
        if kinds and arm in ("wsds", "constant") and text.updates in ends[-2:]:
            outcome.last_two.append({name: tensor.clone() for name, tensor in text.model.state_dict().items()})
        if kinds and text.updates in decay:
            outcome.by_kind.append(losses_by_kind(text, kinds))
        return text.curve[-1].loss

    found = BranchingTrainer(text, measure, at=watched).train().results
    outcome.losses = {budget: found[end] for budget, end in zip(config.budgets, ends, strict=True)}
    if arm in CURVES:
        outcome.curve, outcome.rates = found, plan.base_lrs[0] * plan.values()
    return outcome


def byte_loss(logits: Float[Tensor, "batch time vocab"], targets: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def certainty(
    text: UInt8[Tensor, " n"], held_out: UInt8[Tensor, "m length+1"]
) -> tuple[Bool[Tensor, "m length-2"], Bool[Tensor, "m length-2"]]:
    """Which of the held-out bytes, from the fourth of each sequence on, are certain and which uncertain: by the entropy
    in ``text`` of the byte that follows the same three."""
    context, following = three_before(text[None])
    pairs, counts = torch.unique(context[0] * 256 + following[0], return_counts=True)
    contexts, place = torch.unique_consecutive(pairs // 256, return_inverse=True)
    n = counts.double()
    total = torch.zeros(len(contexts), dtype=torch.float64).index_add_(0, place, n)
    spent = torch.zeros_like(total).index_add_(0, place, torch.xlogy(n, n))
    entropy = torch.where(total >= OFTEN, total.log() - spent / total, math.nan)
    asked, _ = three_before(held_out)
    found = torch.searchsorted(contexts, asked).clamp(max=len(contexts) - 1)
    known = torch.where(contexts[found] == asked, entropy[found], math.nan)
    return known < CERTAIN, known > UNCERTAIN


def three_before(rows: UInt8[Tensor, "m n"]) -> tuple[Int[Tensor, "m n-3"], Int[Tensor, "m n-3"]]:
    """Every three successive bytes as one number, and the byte that follows them."""
    bytes_ = rows.long()
    return (bytes_[:, :-3] * 256 + bytes_[:, 1:-2]) * 256 + bytes_[:, 2:-1], bytes_[:, 3:]


@torch.no_grad()
def losses_by_kind(text: LanguageRun, kinds: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The mean loss in nats on the held-out bytes of each kind."""
    losses = []
    for rows in text.held_out.split(64):
        tokens = rows.long().to(text.device)
        logits = text.model(tokens[:, :-1]).transpose(1, 2)
        losses.append(F.cross_entropy(logits, tokens[:, 1:], reduction="none")[:, 2:].double().cpu())
    each = torch.cat(losses)
    certain, uncertain = (float(each[kind].mean()) for kind in kinds)
    return certain, uncertain


def shape_of(phase: str, profile: Float[Tensor, " points"]) -> Iterator[Record]:
    """Whether the loss between two models of one phase is a valley, and whether it falls all the way."""
    yield Record(phase, "valley_depth", valley_depth(profile))
    yield Record(phase, "is_valley", float(is_valley_shaped(profile)))
    yield Record(phase, "is_monotone", float(bool((profile.diff() < 0).all())))


# Bigrams.


def on_bigrams(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """Tables of logits by plain SGD, all arms and peaks at once on the same pairs; the losses are exact."""
    tuning = run.tuning and len(config.table_peaks) > 1
    language = data.bigram_language(config.states, config.deterministic_fraction, config.concentration, seed)
    budgets = config.table_budgets
    arms = (*COMPARED, "low_constant") if tuning else (*COMPARED, "low_constant", "wsd_uncharged")
    jobs = [(arm, peak) for arm in arms for peak in run.settings(arm.removesuffix("_uncharged"), config.table_peaks)]
    compared = {(arm, peak): rates_of(arm, config, peak, budgets) for arm, peak in jobs}
    shown = (
        {}
        if tuning
        else {
            **{("wsds", rate): rates_of("wsds", config, rate, budgets) for rate in config.table_rates},
            **{
                (arm, config.table_rate): rates_of(arm, config, config.table_rate, budgets)
                for arm in (*CURVES, "low_constant")
            },
        }
    )
    columns: list[Float[np.ndarray, " updates"]] = []
    places: dict[tuple[str, float, int], int] = {}
    for (arm, peak), runs in (compared | shown).items():
        for budget, rates in runs.items():
            # Arms without side runs give the same rates for all budgets: one run.
            same = [place for place, column in enumerate(columns) if column is rates]
            if not same:
                columns.append(rates)
            places[arm, peak, budget] = same[0] if same else len(columns) - 1
    last, total = budgets[-2:]
    decays = total - int(config.decay * total + 1e-9)
    steps = sorted({*budgets, decays, *np.linspace(0, total, 61).round().astype(int).tolist()})
    tables = train_tables(language, columns, config.table_batch, seed, set(steps), run)
    excess = {step: language.excess_loss(table) for step, table in tables.items()}

    for arm, peak in jobs:
        record = partial(Record, arm, setting=str(peak))
        # After its end a side run's table stays as it is, so that it can be read when its budget is spent.
        losses = {
            budget: language.entropy + float(excess[budget].total[places[arm, peak, budget]]) for budget in budgets
        }
        yield record("validation_loss" if tuning else "loss", float(np.mean(list(losses.values()))))
        if not tuning:
            yield from (record("loss", loss, x=budget) for budget, loss in losses.items())
    if tuning:
        return

    share = float(language.frequencies[~language.deterministic].sum())
    # The closed form is of the mean of a loss that fluctuates: over the later half of the last stable stretch.
    stable = [excess[step].stochastic for step in steps if (last + decays) / 2 <= step <= decays]
    held = torch.stack(stable).mean(0)
    for rate in config.table_rates:
        place = places["wsds", rate, total]
        before, after = excess[decays], excess[total]
        uncertain = float(before.stochastic[place] - after.stochastic[place])
        yield Record("wsds", "drop_by_rate", uncertain, x=rate)
        predicted = language.stationary_excess(rate, config.table_batch) / share
        yield Record("closed_form", "excess_by_rate", predicted, x=rate)
        yield Record("wsds", "excess_by_rate", float(held[place]), x=rate)
        if rate == config.table_rate:
            certain = float(before.deterministic[place] - after.deterministic[place])
            yield Record("wsds", "excess_over_closed_form", float(held[place]) / predicted)
            yield Record("uncertain", "decay_drop", uncertain)
            yield Record("certain", "decay_drop", certain)
            yield Record("certain", "drop_share", abs(certain) / uncertain)
    rate = config.table_rate
    for name, arm in (("high_rate", "constant"), ("low_rate", "low_constant")):
        yield Record(name, "certain_excess", float(excess[total].deterministic[places[arm, rate, total]]))
    for phase, arm in (("stable", "constant"), ("decayed", "wsds")):
        place = places[arm, rate, total]
        way = torch.linspace(0, 1, config.points)[:, None, None]
        profile = language.loss(torch.lerp(tables[last][place], tables[total][place], way))
        yield from shape_of(phase, profile)
        run.save(f"{phase}_bigrams", profile)
    curves = [
        [[float(getattr(excess[step], kind)[places[arm, rate, total]]) for step in steps] for kind in KINDS]
        for arm in CURVES
    ]
    run.save("excess", np.array(curves))
    run.save("excess_updates", np.array(steps))


KINDS = ("stochastic", "deterministic")


@torch.no_grad()
def train_tables(
    language: data.BigramLanguage,
    columns: Sequence[Float[np.ndarray, " updates"]],
    batch: int,
    seed: int,
    watch: Collection[int],
    run: Run,
) -> dict[int, Float[Tensor, "columns V V"]]:
    """The tables of all columns after the watched numbers of updates; a column rests when its rates are used up."""
    total, size = max(map(len, columns)), len(language.frequencies)
    rates = torch.tensor(
        np.stack([np.pad(column, (0, total - len(column))) for column in columns]), dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(columns), size, size)
    seen = {}
    for update in range(total + 1):
        if update in watch:
            seen[update] = logits.clone()
        if update == total:
            break
        if update % 100 == 0:
            run.progress(update, total)
        first, following = language.sample(batch, generator)
        counts = torch.bincount(first * size + following, minlength=size**2).view(size, size).float() / batch
        # Of the mean loss of the batch: for each pair (i, j), softmax(theta_i) − e_j.
        gradient = logits.softmax(-1).mul_(counts.sum(1, keepdim=True)).sub_(counts)
        logits.addcmul_(gradient, -rates[:, update, None, None])
    return seen


# Valleys.


def in_valleys(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """SGD in a straight and in a curved valley, every arm's longest run, against the closed forms."""
    arms = ("wsds", "cyclic_cosine", "oracle", "constant", "low_constant")
    total = config.valley_budgets[-1]
    etas = torch.tensor(
        np.stack([rates_of(arm, config, config.valley_rate, config.valley_budgets)[total] for arm in arms])
    )
    generator = torch.Generator().manual_seed(seed)
    straight = river_valley("straight", dim_hill=20, curvatures=torch.logspace(0.7, 1.7, 20), noise=1.0)
    start = torch.zeros(len(arms), config.replicas, straight.dim_hill + 1)
    path = straight.sgd(start, etas[:, None], generator)
    _, hill = straight.project(path[-1])
    expected = straight.expected_hill_loss(etas)[:, -1]
    z = (hill.mean(1) - expected) / (hill.std(1) / math.sqrt(config.replicas))
    progress = straight.expected_progress(etas)[:, -1]
    error = (path[-1, ..., 0] - progress[:, None]).abs().amax(1) / progress
    curved = river_valley("curved", noise=0.3)
    path = curved.sgd(torch.zeros(len(arms), config.replicas, 2), etas[:, None], generator)
    river = curved.river_progress(etas.sum(1))
    along = (path[-1, ..., 0].mean(1) - river).abs() / river
    for place, arm in enumerate(arms):
        yield Record(arm, "hill_z", float(z[place]))
        yield Record(arm, "progress_error", float(error[place]))
        yield Record(arm, "curved_progress_error", float(along[place]))


# The figure.

ORANGE, BLUE, GREEN, PURPLE, SKY, GREY = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#808080"
COLOURS = {
    "wsds": ORANGE,
    "cyclic_cosine": BLUE,
    "constant": GREY,
    "wsd": GREEN,
    "wsd_uncharged": SKY,
    "oracle": PURPLE,
}
NAMES = {
    "wsds": "WSD-S",
    "cyclic_cosine": "Cyclic-Cosine",
    "constant": "constant",
    "wsd": "WSD",
    "wsd_uncharged": "WSD, branches free",
    "oracle": "cosine a budget",
}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Text: losses over training above the rates, and differences at each budget. Bigrams: certain and uncertain
    tokens apart, and the drop by rate. Both: the loss between two models of a phase."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, axes = plt.subplot_mosaic(
        [[[["curves"], ["curves"], ["rates"]], "budgets"], ["kinds", [["profiles"], ["drops"]]]], figsize=(11, 10)
    )
    fig.set_layout_engine("constrained")
    text, bigrams = (reported[reported["task"] == task] for task in ("text", "bigrams"))
    draw_over_rates(axes["curves"], axes["rates"], text, arrays)
    draw_budgets(axes["budgets"], text)
    draw_kinds(axes["kinds"], arrays)
    draw_profiles(axes["profiles"], arrays)
    draw_drops(axes["drops"], bigrams)
    return fig


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)


def along_x(records: pd.DataFrame, arm: str, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, mean over the seeds, and half of its interval."""
    chosen = records[(records["arm"] == arm) & (records["metric"] == metric) & records["x"].notna()]
    table = chosen.pivot_table(index="x", columns="seed", values="value")
    mean, half = np.array([interval(row[np.isfinite(row)]) for row in table.to_numpy()]).reshape(-1, 2).T
    return table.index.to_numpy(), mean, half


def draw_over_rates(above: Axes, below: Axes, text: pd.DataFrame, arrays: Arrays) -> None:
    """Losses over the updates with the learning rates below them, and the budgets marked in both."""
    budgets = sorted(text.loc[(text["metric"] == "loss") & text["x"].notna(), "x"].unique())
    if not budgets:
        above.text(0.5, 0.5, "no curves: the text task was not run", ha="center", transform=above.transAxes)
        return
    total = budgets[-1]
    for arm in ("constant", "cyclic_cosine", "wsds"):
        x, mean, half = along_x(text, arm, "curve")
        late = x >= 0.12 * total
        above.plot(x[late], mean[late], color=COLOURS[arm], lw=2 if arm == "wsds" else 1.3)
        above.fill_between(x[late], (mean - half)[late], (mean + half)[late], color=COLOURS[arm], alpha=0.15, lw=0)
        at = np.isin(x, budgets)
        if arm != "constant":
            above.plot(x[at], mean[at], "o", ms=5, color=COLOURS[arm])
    for place, arm in enumerate(("constant", "cyclic_cosine", "wsds")):
        above.text(0.97, 0.93 - 0.08 * place, NAMES[arm], color=COLOURS[arm], ha="right", transform=above.transAxes)
    for arm, rates in zip(CURVES, arrays["rates"][0].value, strict=True):
        below.plot(np.arange(len(rates)), 1000 * rates, color=COLOURS[arm], lw=1.3)
    for ax in (above, below):
        ax.set_xlim(0, 1.02 * total)
        for budget in budgets:
            ax.axvline(budget, color=GREY, lw=0.6, ls=":")
    above.tick_params(labelbottom=False)
    above.set(ylabel="test loss (nats a byte)", title="Text: losses, each arm at its best peak, and budgets (dots)")
    below.set(xlabel="updates", ylabel="rate (10⁻³)", ylim=(0, None))


def draw_budgets(ax: Axes, text: pd.DataFrame) -> None:
    """Each arm's loss less that of WSD-S, paired by seed, at every budget and in the mean."""
    from matplotlib import rcParams

    losses = text[text["metric"] == "loss"]
    budgets = sorted(losses["x"].dropna().unique())
    arms = ("cyclic_cosine", "wsd", "wsd_uncharged", "oracle", "constant")
    rows = [*(f"{int(budget):,}" for budget in budgets), "mean"]
    for row, budget in enumerate([*budgets, None]):
        here = losses[losses["x"].isna() if budget is None else losses["x"] == budget]
        table = here.pivot_table(index="seed", columns="arm", values="value")
        for place, arm in enumerate(arms):
            if {arm, "wsds"} <= set(table):
                mean, half = interval((table[arm] - table["wsds"]).dropna().to_numpy())
                ax.errorbar(mean, -row - 0.15 * (place - 2), xerr=half, fmt="o", ms=5, color=COLOURS[arm])
    for place, arm in enumerate(arms):
        ax.text(
            0.99, 0.99 - 0.045 * place, NAMES[arm], color=COLOURS[arm], ha="right", va="top", transform=ax.transAxes
        )
    ax.axvline(0, lw=0.8, color=rcParams["text.color"])
    ax.axvspan(-0.02, 0.02, color=GREY, alpha=0.12, lw=0)
    ax.set_yticks([-row for row in range(len(rows))], rows)
    ax.set_ylim(0.5 - len(rows), 1.6)
    ax.set(
        xlabel="loss less that of WSD-S (nats a byte, 95 % intervals; band ± 0.02)",
        ylabel="budget (updates)",
        title="Text: right of the line WSD-S is better",
    )


def draw_kinds(ax: Axes, arrays: Arrays) -> None:
    """Excess loss on uncertain and on certain bigrams over the updates."""
    if "excess" not in arrays:
        ax.text(0.5, 0.5, "the bigrams were not run", ha="center", transform=ax.transAxes)
        return
    updates = arrays["excess_updates"][0].value
    excess = np.array([saved.value for saved in arrays["excess"]])  # seed, arm, kind, update
    for place, arm in enumerate(CURVES):
        for kind, style in ((0, "-"), (1, "--")):
            each = np.array([interval(values) for values in excess[:, place, kind, 1:].T])
            mean, half = each.T
            ax.plot(updates[1:], mean, style, color=COLOURS[arm], lw=1.5)
            ax.fill_between(
                updates[1:], np.maximum(mean - half, 1e-5), mean + half, color=COLOURS[arm], alpha=0.15, lw=0
            )
    ax.set_yscale("log")
    ax.set_ylim(None, 6)
    for place, arm in enumerate(CURVES):
        ax.text(0.98, 0.95 - 0.06 * place, NAMES[arm], color=COLOURS[arm], ha="right", transform=ax.transAxes)
    ax.text(0.3, 0.74, "uncertain tokens (solid)", transform=ax.transAxes, fontsize=9)
    ax.text(0.06, 0.1, "certain tokens (dashed)", transform=ax.transAxes, fontsize=9)
    ax.set(
        xlabel="updates", ylabel="loss above the entropy (nats)", title="Bigrams: hillsides and river, one peak rate"
    )


def draw_profiles(ax: Axes, arrays: Arrays) -> None:
    """Loss on the way between the models of the last two budgets, less that of the last."""
    for phase, colour in (("stable", GREY), ("decayed", ORANGE)):
        for task, style in (("text", "-"), ("bigrams", "--")):
            if f"{phase}_{task}" in arrays:
                profiles = np.array([saved.value for saved in arrays[f"{phase}_{task}"]])
                mean, half = np.array([interval(v) for v in (profiles - profiles[:, -1:]).T]).T
                way = np.linspace(0, 1, len(mean))
                ax.plot(way, mean, style, color=colour, lw=1.5)
                ax.fill_between(way, mean - half, mean + half, color=colour, alpha=0.2, lw=0)
    ax.text(0.98, 0.9, "stable (constant rate)", color=GREY, ha="right", transform=ax.transAxes)
    ax.text(0.98, 0.78, "decayed (WSD-S)", color=ORANGE, ha="right", transform=ax.transAxes)
    ax.text(0.98, 0.66, "text solid, bigrams dashed", ha="right", transform=ax.transAxes, fontsize=9)
    ax.set(
        xlabel="way from the last but one budget's model to the last's",
        ylabel="loss less the last's (nats)",
        title="Between two models of a phase",
    )


def draw_drops(ax: Axes, bigrams: pd.DataFrame) -> None:
    """By peak rate: the excess that the stable phase holds, predicted and found, and what the decay takes off."""
    lines = (
        ("closed_form", "excess_by_rate", GREY, "--", "stable phase, closed form"),
        ("wsds", "excess_by_rate", ORANGE, "o-", "stable phase"),
        ("wsds", "drop_by_rate", BLUE, "s-", "drop during the decay"),
    )
    for place, (arm, metric, colour, style, words) in enumerate(lines):
        x, mean, half = along_x(bigrams, arm, metric)
        if len(x):
            ax.plot(x, mean, style, color=colour, ms=4, lw=1.3)
            ax.fill_between(x, np.maximum(mean - half, 1e-4), mean + half, color=colour, alpha=0.15, lw=0)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(x, [f"{rate:g}" for rate in x])
        ax.text(0.02, 0.9 - 0.12 * place, words, color=colour, transform=ax.transAxes)
    ax.set(xlabel="peak rate of SGD", ylabel="excess (nats)", title="Bigrams: uncertain tokens of WSD-S")
