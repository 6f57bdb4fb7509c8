"""Rethinking Model Ensemble in Transfer-based Adversarial Attacks.

Huanran Chen, Yichi Zhang, Yinpeng Dong, Xiao Yang, Hang Su and Jun Zhu, arXiv 2303.09105, ICLR 2024. Adversarial
examples made on a few surrogate models transfer further, the paper claims, if they lie where all surrogates' losses are
flat (MI-SAM) and near all their optima (MI-CSE): the common weakness attack, MI-CWA, does both.

Every seed trains its own surrogates and targets, on halves of the training images that do not meet, some of them
adversarially. All attacks get the same images, radius and surrogates, and each its own step size, chosen on other
seeds. MI-CWA needs twice the gradients of MI, so MI with twice the steps is there too.

The ``paper`` preset attacks pretrained ImageNet models (from timm, where installed) instead of training any. Its data
are images in folders named by class number, and the adversarially trained models' weights are safetensors files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from landform import data
from landform.attacks import (
    EnsembleLogits,
    InputGradient,
    IterativeAttack,
    LinfBall,
    MomentumIterative,
    Normalized,
    attack_success_rate,
    common_weakness_attack,
    gradient_cosine,
    input_sharpness,
    pgd,
    scaled_inner_step,
)
from landform.claims import Better, Equivalent
from landform.models import MLP, ConvNet, ViT
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training.many import Stack

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Models = dict[str, nn.Module]


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    numbered: bool = False
    """Whether the classes' names are their numbers, as in a few of ImageNet's classes."""
    surrogates: tuple[str, ...] = ("cnn", "cnn", "mlp", "cnn robust")
    targets: tuple[str, ...] = ("cnn", "mlp", "vit", "cnn robust", "mlp robust")
    """Networks to train, adversarially if ``robust``; or pretrained ones of timm, ``timm:NAME`` or, with weights of
    your own, ``timm:NAME@FILE``."""
    weights: str = "."
    """The folder of those files."""

    # Images: as many for each side's training and for tuning, and the others to attack.
    training_images: int = 600
    validation_images: int = 200

    steps: int = 250
    batch_size: int = 60
    learning_rate: float = 3e-3
    robust_eps: float = 0.15
    robust_steps: int = 5

    budgets: tuple[float, ...] = (0.1, 0.15, 0.2)
    """Radii; the middle one is that of the mechanism and of badly scaled members."""
    attack_steps: int = 10
    step_sizes: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """Of the radius; an attack's own is chosen among them."""
    scales: tuple[float, ...] = (0.1, 0.3, 3.0, 10.0)
    """What the first surrogate's logits are multiplied by."""
    attack_batch: int = 500

    def __post_init__(self) -> None:
        for name in ("surrogates", "targets", "budgets", "step_sizes"):
            if not getattr(self, name):
                raise ValueError(f"{name}: is empty")
        for name in (*self.surrogates, *self.targets):
            if not name.startswith("timm:") and name.split()[0] not in NETWORKS:
                raise ValueError(f"network {name!r}: must be timm:NAME or one of {', '.join(NETWORKS)}")
        for name in ("steps", "batch_size", "robust_steps", "attack_steps", "attack_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for value in (*self.budgets, *self.step_sizes, *self.scales, self.learning_rate, self.robust_eps):
            if not value > 0:
                raise ValueError(f"budgets, step_sizes, scales, learning_rate and robust_eps: {value} is not positive")

    @property
    def budget(self) -> float:
        return self.budgets[len(self.budgets) // 2]


PAPER_STEP = 0.2
"""The paper's step size, of the radius."""

NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "cnn": lambda channels, side, classes: ConvNet(channels, classes, widths=(8, 16, 32)),
    "mlp": lambda channels, side, classes: MLP(channels * side * side, (64, 64), classes),
    "vit": lambda channels, side, classes: ViT(side, side // 4, channels, classes),
}

study = Study(
    "common-weakness-attack",
    claims=[
        Better("asr", "mi_cwa", than="mi", says="MI-CWA's examples fool unseen networks more often than MI-FGSM's"),
        Better("asr", "mi_cwa", than="mi_2t", says="A control: MI-CWA transfers better than MI with as many gradients"),
        Equivalent(
            "asr",
            "mi_cwa",
            "mi",
            within=0.01,
            says="Small smooth networks leave nothing to flatten: MI-CWA and MI transfer alike, to one point",
        ),
        Better(
            "robust_surplus",
            "mi_cwa",
            than="mi",
            says="The gain of MI-CWA over MI is larger on adversarially trained targets than on the others",
        ),
        Better(
            "sharpness",
            "mi_sam",
            than="mi",
            says="The mechanism of MI-SAM: its examples lie where the targets' losses are flatter",
        ),
        Better(
            "gradient_cosine",
            "mi_cse",
            than="mi",
            says="The mechanism of MI-CSE: at its examples the surrogates' gradients agree more",
        ),
        Better(
            "scale_loss",
            "mi_cwa",
            than="mi",
            says="One member's logits times ten cost MI-CWA less of its success than MI",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                data="digits?limit=450",
                surrogates=("cnn", "mlp robust"), targets=("mlp", "vit", "cnn robust"), steps=20, robust_steps=2,
                budgets=(0.2,), attack_steps=3, step_sizes=(0.2, 0.4), scales=(10.0,), training_images=300,
                validation_images=60,
            ),
            seeds=1,
            tuning_seeds=1,
        ),
        "laptop": Preset(Config(), seeds=8, tuning_seeds=2),
        "paper": Preset(
            Config(
                data="folder:nips2017?size=224",
                numbered=True,
                surrogates=(
                    "timm:resnet18.tv_in1k", "timm:resnet34.tv_in1k", "timm:resnet50.tv_in1k",
                    "timm:resnet101.tv_in1k", "timm:resnet50@salman2020_resnet50.safetensors robust",
                    "timm:xcit_small_12_p16_224@debenedetti2022_xcit_s12.safetensors robust",
                ),
                targets=(
                    "timm:vgg16.tv_in1k", "timm:densenet121.tv_in1k", "timm:inception_v3.tv_in1k",
                    "timm:mobilenetv2_100.ra_in1k", "timm:convnext_tiny.fb_in1k", "timm:vit_base_patch16_224",
                    "timm:swin_tiny_patch4_window7_224.ms_in1k",
                    "timm:resnet18@salman2020_resnet18.safetensors robust",
                    "timm:wide_resnet50_2@salman2020_wide_resnet50_2.safetensors robust",
                    "timm:resnet50@wong2020_fast_resnet50.safetensors robust",
                ),
                training_images=0,
                budgets=(16 / 255,),
                attack_batch=16,
            ),
            seeds=5,
            tuning_seeds=1,
        ),
    },
    minimise=("sharpness", "scale_loss"),
    tune_by="asr",
    reading=(
        "At this scale MI-CWA transfers as MI does: 40.3 % against 40.6 %, alike to one point, so the headline does "
        "not show. MI-SAM does find flatter places, by less than one part in a hundred; MI-CSE finds none where "
        "gradients agree more. That MI-CWA's gain is larger on adversarially trained targets comes more of what it "
        "loses on plain perceptrons (1.8 points) than of what it gains on the robust CNN (0.4). What does show is what "
        "normalising each model's gradient is for: with one surrogate's logits times ten, the joint gradient is "
        "little but that model's and MI falls to 30 %, while MI-CSE and MI-CWA stay at 40 %."
    ),
)  # fmt: skip


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: its own models, and every attack on the same images."""
    surrogates, targets, x, y = prepared(config, seed, run)
    clean = {name: predicted(model, x, config) for name, model in targets.items()}
    if not run.tuning:
        for name, classes in clean.items():
            yield Record(name, "clean_accuracy", float((classes == y).double().mean()))
    for done, arm in enumerate(ARMS):
        run.progress(1 + done, 1 + len(ARMS), arm)
        for step in run.settings(arm, config.step_sizes):
            make = partial(ARMS[arm], config=config, step=step)
            by_budget = [
                success(attacked(make, list(surrogates.values()), x, y, eps, config), targets, clean, y, config)
                for eps in config.budgets
            ]
            for metric, value in summarised(by_budget).items():
                yield Record(arm, metric, value, setting=str(step))
            if run.tuning:
                continue
            for eps, rates in zip(config.budgets, by_budget, strict=True):
                yield Record(arm, "asr", summarised([rates])["asr"], x=eps, setting=str(step))
            for name in targets:
                rate = float(np.mean([rates[name][0] for rates in by_budget]))
                yield Record(arm, "asr_target", rate, unit=name, setting=str(step))
            yield from badly_scaled(config, arm, step, surrogates, targets, clean, x, y)
        if not run.tuning:
            yield from mechanism(config, arm, seed, surrogates, targets, x, y)


def badly_scaled(
    config: Config, arm: str, step: float, surrogates: Models, targets: Models, clean: dict[str, Tensor], x: Tensor,
    y: Tensor,
) -> Iterator[Record]:  # fmt: skip
    """Success where the first surrogate's logits are multiplied, and what the largest factor costs."""
    first, *others = surrogates.values()
    make = partial(ARMS[arm], config=config, step=step)
    rates = {}
    for scale in sorted({1.0, *config.scales}):
        x_adv = attacked(make, [Scaled(first, scale), *others], x, y, config.budget, config)
        rates[scale] = summarised([success(x_adv, targets, clean, y, config)])["asr"]
        yield Record(arm, "asr_scaled", rates[scale], x=scale, setting=str(step))
    yield Record(arm, "scale_loss", rates[1.0] - rates[max(rates)], setting=str(step))


def mechanism(
    config: Config, arm: str, seed: int, surrogates: Models, targets: Models, x: Tensor, y: Tensor
) -> Iterator[Record]:
    """How flat and how agreed upon the place is where an attack ends. Here all have the paper's step size."""
    make = partial(ARMS[arm], config=config, step=PAPER_STEP)
    x_adv = attacked(make, list(surrogates.values()), x, y, config.budget, config)
    generator = torch.Generator(x.device).manual_seed(seed)
    parts = list(zip(x_adv.split(config.attack_batch), y.split(config.attack_batch), strict=True))
    weights = [len(part) / len(y) for _, part in parts]
    cosines = [gradient_cosine(list(surrogates.values()), a, b) for a, b in parts]
    sharpnesses = [input_sharpness(list(targets.values()), a, b, config.budget / 3, 8, generator) for a, b in parts]
    yield Record(arm, "gradient_cosine", float(np.dot(weights, cosines)))
    yield Record(arm, "sharpness", float(np.dot(weights, sharpnesses)))


# The attacks: (models, x, y, ball) → x_adv.


def momentum(models: Sequence[nn.Module], x: Tensor, y: Tensor, ball: LinfBall, *, steps: int, step: float) -> Tensor:
    gradient = InputGradient(EnsembleLogits(models))
    return IterativeAttack(gradient, [], MomentumIterative(), ball, steps=steps, step_size=step * ball.eps)(x, y)


def common_weakness(
    models: Sequence[nn.Module], x: Tensor, y: Tensor, ball: LinfBall, *, config: Config, step: float, sam: bool,
    cse: bool,
) -> Tensor:  # fmt: skip
    return common_weakness_attack(
        models, x, y, ball=ball, steps=config.attack_steps, step_size=step * ball.eps,
        inner_step=scaled_inner_step(x[0].numel()), sam=sam, cse=cse,
    )  # fmt: skip


ARMS: dict[str, Callable[..., Tensor]] = {
    "mi": lambda *a, config, step: momentum(*a, steps=config.attack_steps, step=step),
    "mi_2t": lambda *a, config, step: momentum(*a, steps=2 * config.attack_steps, step=step),
    "mi_sam": partial(common_weakness, sam=True, cse=False),
    "mi_cse": partial(common_weakness, sam=False, cse=True),
    "mi_cwa": partial(common_weakness, sam=True, cse=True),
}


def attacked(
    make: Callable[..., Tensor], models: Sequence[nn.Module], x: Tensor, y: Tensor, eps: float, config: Config
) -> Tensor:
    parts = zip(x.split(config.attack_batch), y.split(config.attack_batch), strict=True)
    return torch.cat([make(models, a, b, LinfBall(eps)) for a, b in parts])


Rates = dict[str, tuple[float, float]]
"""For each target, the success rate among the images it classifies correctly when clean, and among all."""


def success(x_adv: Tensor, targets: Models, clean: dict[str, Tensor], y: Tensor, config: Config) -> Rates:
    rates = {}
    for name, model in targets.items():
        found = predicted(model, x_adv, config)
        rates[name] = (
            attack_success_rate(clean[name], found, y),
            attack_success_rate(clean[name], found, y, on="all"),
        )
    return rates


def summarised(by_budget: Sequence[Rates]) -> dict[str, float]:
    """Means over targets and budgets, and how much better an attack does on robust targets than on the others."""
    table = {name: np.mean([rates[name] for rates in by_budget], axis=0) for name in by_budget[0]}
    mean, everywhere = np.mean(list(table.values()), axis=0)
    kinds = defaultdict(list)
    for name, (rate, _) in table.items():
        kinds["robust" in name].append(rate)
    found = {"asr": float(mean), "asr_all": float(everywhere)}
    if len(kinds) == 2:
        found["robust_surplus"] = float(np.mean(kinds[True]) - np.mean(kinds[False]))
    return found


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor, config: Config) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in x.split(config.attack_batch)])


class Scaled(nn.Module):
    """A model whose logits are multiplied: the same classes, with other confidence."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.model(x)


# The models and the images.


def prepared(config: Config, seed: int, run: Run) -> tuple[Models, Models, Tensor, Tensor]:
    """The surrogates, the targets, and the images to attack: on tuning seeds those for validation."""
    whole = data.merge(*data.load(config.data).values())
    labels = whole.y
    if config.numbered:
        labels = torch.tensor([int(name) for name in whole.classes])[labels]
    held = 2 * config.training_images + config.validation_images
    if len(whole) <= held:
        raise ValueError(f"data={config.data!r}: {len(whole)} images leave none to attack, beside {held}")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    x, y = whole.x[order].to(run.device), labels[order].to(run.device)
    n = config.training_images
    halves = [(x[:n], y[:n]), (x[n : 2 * n], y[n : 2 * n])]
    wanted = [(name, side) for side, names in enumerate((config.surrogates, config.targets)) for name in names]
    models: dict[int, nn.Module] = {}
    for kind in sorted({name for name, _ in wanted}):
        where = [i for i, (name, _) in enumerate(wanted) if name == kind]
        if kind.startswith("timm:"):
            models |= {i: load(kind, config, run) for i in where}
        else:
            stack = train(kind, [halves[wanted[i][1]] for i in where], len(whole.classes), config, seed)
            models |= {i: stack.module(place).eval() for place, i in enumerate(where)}
    surrogates, targets = (
        {numbered(i, names): models[first + i] for i in range(len(names))}
        for first, names in ((0, config.surrogates), (len(config.surrogates), config.targets))
    )
    attack = slice(2 * n, held) if run.tuning else slice(held, None)
    return surrogates, targets, x[attack], y[attack]


def numbered(i: int, names: Sequence[str]) -> str:
    """A name of its own for each of several models, some of one kind."""
    return f"{names[i]} ({names[: i + 1].count(names[i])})" if names.count(names[i]) > 1 else names[i]


def train(kind: str, sets: Sequence[tuple[Tensor, Tensor]], classes: int, config: Config, seed: int) -> Stack:
    """Networks of one kind, each on its own images, all at once; on PGD's examples of these if they are robust."""
    architecture, robust = kind.split()[0], kind.endswith(" robust")
    x, y = (torch.stack([pair[i] for pair in sets]) for i in (0, 1))
    _, _, channels, side, _ = x.shape
    stack = Stack.from_factory(lambda: NETWORKS[architecture](channels, side, classes), len(sets), seed).to(x.device)
    each = EachItsOwn(stack).eval()
    optimizer = torch.optim.Adam(stack.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    generator = torch.Generator(x.device).manual_seed(seed)
    models = torch.arange(len(sets), device=x.device)[:, None]
    for _ in range(config.steps):
        rows = torch.randint(x.shape[1], (len(sets), config.batch_size), generator=generator, device=x.device)
        batch, labels = x[models, rows].flatten(0, 1), y[models, rows].flatten()
        if robust:
            batch = pgd(
                each, batch, labels, ball=LinfBall(config.robust_eps), steps=config.robust_steps,
                step_size=2.5 * config.robust_eps / config.robust_steps, generator=generator,
            )  # fmt: skip
        optimizer.zero_grad()
        (len(sets) * F.cross_entropy(each(batch), labels)).backward()  # the sum of the models' mean losses
        optimizer.step()
        schedule.step()
    return stack


class EachItsOwn(nn.Module):
    """A stack of models as one, each of which answers for its own part of the batch."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x.unflatten(0, (len(self.stack), -1))).flatten(0, 1)


def load(name: str, config: Config, run: Run) -> nn.Module:
    """A pretrained model of timm, of raw images."""
    try:
        timm: Any = import_module("timm")
    except ImportError as error:
        raise ValueError(f"network {name!r}: needs timm, which is not installed") from error
    architecture, _, file = name.removeprefix("timm:").removesuffix(" robust").partition("@")
    model = timm.create_model(architecture, pretrained=not file)
    if file:
        from safetensors.torch import load_file

        path = Path(config.weights) / file
        if not path.is_file():
            raise FileNotFoundError(f"network {name!r}: there is no {path}; set weights to its folder")
        model.load_state_dict(load_file(path))
    usual = model.pretrained_cfg
    return Normalized(model.eval(), usual["mean"], usual["std"]).to(run.device)


# The figure.

NAMES = {"mi": "MI", "mi_2t": "MI, twice the steps", "mi_sam": "MI-SAM", "mi_cse": "MI-CSE", "mi_cwa": "MI-CWA"}
COLOURS = {"mi": "#0072B2", "mi_2t": "#56B4E9", "mi_sam": "#009E73", "mi_cse": "#CC79A7", "mi_cwa": "#D55E00"}
MARKERS = {"mi": "o", "mi_2t": "s", "mi_sam": "^", "mi_cse": "v", "mi_cwa": "D"}


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """Success on each target; and mean success as one surrogate's logits are multiplied."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained", width_ratios=(1.25, 1))
    per_target = reported[reported["metric"] == "asr_target"]
    targets = list(dict.fromkeys(per_target["unit"]))
    for place, arm in enumerate(NAMES):
        for row, target in enumerate(targets):
            values = per_target[(per_target["arm"] == arm) & (per_target["unit"] == target)]["value"]
            mean, half = interval(100 * values.to_numpy())
            height = -row + 0.15 * (2 - place)
            label = None if row else NAMES[arm]
            left.errorbar(mean, height, xerr=half, fmt=MARKERS[arm], color=COLOURS[arm], ms=5, label=label)
    left.set_yticks([-row for row in range(len(targets))], targets)
    left.set_ylim(0.5 - len(targets), 0.6 + 0.16 * len(targets))
    left.legend(loc="upper center", ncols=3, frameon=False, fontsize=8.5)
    left.set(xlabel="success rate (% of images correct when clean), mean over radii", title="On models never seen")
    draw_scales(right, reported[reported["metric"] == "asr_scaled"])
    return fig


def draw_scales(ax: Axes, scaled: pd.DataFrame) -> None:
    """Lines with 95 % bands, and their names at their ends, moved apart where they would overlap."""
    ends = {}
    for arm in ("mi", "mi_sam", "mi_cse", "mi_cwa"):
        table = scaled[scaled["arm"] == arm].pivot_table(index="x", columns="seed", values="value")
        mean, half = np.array([interval(100 * row) for row in table.to_numpy()]).T
        ax.plot(table.index, mean, color=COLOURS[arm], marker=MARKERS[arm], ms=4)
        ax.fill_between(table.index, mean - half, mean + half, color=COLOURS[arm], alpha=0.12, lw=0)
        ends[arm] = mean[-1]
    ax.set_xscale("log")
    ax.set_xticks(table.index, [f"{scale:g}" for scale in table.index])
    ax.minorticks_off()
    low, high = scaled["x"].min(), scaled["x"].max()
    ax.set_xlim(low / 1.2, high * (high / low) ** 0.35)
    gap, floor = 0.06 * np.diff(ax.get_ylim())[0], -np.inf
    for arm, end in sorted(ends.items(), key=lambda item: item[1]):
        floor = max(end, floor + gap)
        ax.text(1.15 * high, floor, NAMES[arm], color=COLOURS[arm], va="center", fontsize=9)
    ax.set(xlabel="factor of one surrogate's logits", ylabel="mean success rate (%)", title="One member badly scaled")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)
