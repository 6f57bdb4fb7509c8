"""MetaShift: A Dataset of Datasets for Evaluating Contextual Distribution Shifts and Training Conflicts.

Weixin Liang and James Zou, arXiv 2202.06523, ICLR 2022. Images of a class are grouped by what else their metadata
mentions; the groups that share images are neighbours in a graph, and a spectral embedding of it measures how far the
contexts of training are from those of the test. The paper's claim: accuracy falls as that distance grows, and no
domain-generalisation algorithm beats plain training (ERM) at every distance.

Here two shapes are drawn on grounds that mix the one to three contexts that an image is tagged with. Graphs and
distances come from the tags alone. Every arm trains the same network from the same weights on as many batches, which
are balanced over domains and classes as in the paper, at the settings of the paper. How strong the contexts look is a
choice, made on a seed that is not reported so that plain training loses part of its accuracy and not all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from landform.claims import Better, Correlates, Holds, Trend
from landform.data import BalancedGroupSampler
from landform.data.contexts import context_scenes
from landform.metrics import group_accuracy
from landform.models import ConvNet, ResNet, WithHead, load_resnet_weights, train_with_frozen_norm
from landform.shift import (
    CDANN,
    CORAL,
    ERM,
    IRM,
    DomainLoss,
    GroupDRO,
    SubsetCollection,
    domain_shift_task,
    graph_communities,
    overlap_graph,
    spectral_distance,
    spectral_embedding,
    subpopulation_task,
    training_conflict_matrix,
)
from landform.study import Arrays, Preset, Record, Run, Study
from landform.training import fit
from landform.training.many import Stack

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    images: str = ""
    """A folder of images named ``<number>.jpg``; scenes are drawn if empty."""
    index: str = ""
    """A JSON file of subsets, ``{"dog(shelf)": [numbers], ...}``, of these images."""
    metadata: str = ""
    """Such a file without images: the graphs of ``metadata_subjects`` in it are measured too, if it is given."""
    metadata_subjects: tuple[str, ...] = ("cat", "dog", "wall", "man")

    classes: tuple[str, str] = ("ring", "star")
    class_a: tuple[str, str] = ("1,2", "2,1")
    pairs: tuple[tuple[str, str], ...] = (
        ("1,0", "0,1"),
        ("2,0", "0,2"),
        ("3,0", "0,3"),
        ("3,1", "1,3"),
        ("3,2", "2,3"),
    )
    """What class 1 is trained in, from near to far on the grid of contexts (column, row)."""
    test: str = "0,0"
    sides: tuple[str, str] = ("left", "right")
    """The contexts of which class 0 is mostly in the first and class 1 in the second, in the sub-population task."""
    per_class: int = 2500
    size: int = 24
    contrast: float = 0.18
    threshold: float = 0.2
    min_size: int = 25
    dim: int = 2
    """Coordinates of the embedding. The paper has 5, whose higher harmonics fold a space of two dimensions."""

    total: int = 1700
    minorities: tuple[int, ...] = (100, 50, 10)
    """Training images of the minority of each class."""
    test_per_group: int = 144
    conflict_images: int = 40
    """Of each subset, in training and held out, for the matrix of conflicts."""

    net: str = "convnet"
    weights: str = ""
    """A file of ImageNet weights for a ResNet, named as in torchvision."""
    steps: int = 200
    per_cell: int = 8
    """Images of each class of each domain in a batch."""
    learning_rate: float = 2e-3
    irm_weight: float = 100.0
    irm_anneal: int = 20
    """Steps before that weight; DomainBed has 500 of 5000, so that it never came in the paper's 81."""
    eta: float = 0.01
    gamma: float = 1.0
    adversary_weight: float = 1.0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "per_cell", "learning_rate", "checkpoint_every", "conflict_images"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        if self.net not in ("convnet", "resnet18"):
            raise ValueError(f"net={self.net!r}: must be convnet or resnet18")
        if bool(self.images) != bool(self.index):
            raise ValueError(f"images={self.images!r} and index={self.index!r}: must be given together")


ALGORITHMS = ("erm", "irm", "group_dro", "coral", "cdann")
OTHERS = ALGORITHMS[1:]

study = Study(
    "metashift",
    claims=[
        Correlates(
            "closeness",
            "accuracy",
            arm="erm",
            says="Plain training is the more accurate, the closer its contexts are to the test's in the meta-graph",
        ),
        Holds(
            "beats_erm_everywhere",
            at_most=0,
            says="No domain-generalisation algorithm beats plain training at every distance",
        ),
        Better(
            "nearest_accuracy",
            "erm",
            than=OTHERS,
            by=-0.02,
            says="At the smallest distance no algorithm is more than 2 points better than plain training",
        ),
        Trend(
            "worst_accuracy",
            "erm",
            over="x",
            says="Accuracy in the worst group is the lower, the smaller the minority's share of training",
        ),
        Trend(
            "worst_gap",
            "erm",
            over="x",
            sign=-1,
            says="The worst group loses more than the average does as the minority's share shrinks",
        ),
        Holds(
            "contribution",
            at_least=0,
            arm="same_class",
            says="Mechanism: training subsets help evaluation subsets of their own class",
        ),
        Better(
            "contribution",
            "other_class_elsewhere",
            than="other_class_same_context",
            says="Mechanism: subsets of the other class hurt most where they share the context",
        ),
        Better(
            "mean_worst_accuracy",
            "erm",
            than="erm_uniform",
            says="A control: the balanced batches that all methods get already raise accuracy in the worst group",
        ),
        Correlates(
            "closeness_5",
            "accuracy",
            arm="erm",
            says="A control: the headline holds with the paper's five coordinates too",
        ),
        Correlates(
            "closeness",
            "balanced_accuracy",
            arm="erm",
            says="A control: the headline holds where class 0 is tested in the same context too, and counts as much",
        ),
    ],
    presets={
        "smoke": Preset(
            Config(
                per_class=400,
                size=16,
                steps=4,
                checkpoint_every=2,
                total=200,
                minorities=(20, 5),
                test_per_group=20,
                conflict_images=4,
            ),
            seeds=1,
        ),
        "laptop": Preset(Config(), seeds=5),
        "paper": Preset(
            Config(
                images="metashift/images",
                index="metashift/subsets.json",
                classes=("cat", "dog"),
                class_a=("sofa", "bed"),
                pairs=(("cabinet", "bed"), ("bag", "box"), ("bench", "bike"), ("boat", "surfboard")),
                test="shelf",
                sides=("indoor", "outdoor"),
                size=224,
                dim=5,
                net="resnet18",
                weights="resnet18.safetensors",
                steps=81,
                learning_rate=5e-5,
                irm_anneal=500,
            ),
            seeds=5,
        ),
    },
    reading=(
        "The direction holds, the shape is a cliff: plain training keeps 99, 96, 90 and 85 % as the training contexts "
        "move away, and 8 % at the farthest. What falls is a reading of the ground: the paper tests one class alone, "
        "and where the other class is tested in the same context too, accuracy is 54 to 76 % at every distance with "
        "no clear order, since a network that answers the tested class from its ground is wrong on the other. With "
        "the paper's five coordinates the order of distances is lost too. No algorithm wins everywhere. IRM at its "
        "full weight, which the paper's 81 steps never reached, learns next to nothing in 200 steps, and its scatter "
        "leaves the comparison at the nearest contexts open. Balanced batches are worth more than any algorithm: "
        "without them the worst group is at 2 %, and with them at 56 %. The matrix of conflicts shows the classes and, "
        "at this size, nothing of the contexts."
    ),
)


@study.trial
def trial(config: Config, seed: int, run: Run) -> Iterator[Record]:
    """One seed: its images and graph, a training of every algorithm in every task, and one for the conflicts."""
    album = make_album(config, seed)
    trainer = Trainer(config, album, seed, run.device)
    yield from contextual_shift(config, album, trainer, seed, run)
    yield from rare_groups(config, album, trainer, seed, run)
    yield from conflicts(config, album, trainer, seed, run)
    if config.metadata:
        yield from real_graphs(config)
    run.progress(1, 1)


# The images and their subsets.


@dataclass(frozen=True)
class Album:
    """Images by number, with the subsets of each class; ``contexts`` are those of the meta-graph."""

    subsets: SubsetCollection
    contexts: tuple[str, ...]
    load: Callable[[Tensor, torch.Generator | None], Tensor]
    """(numbers, generator) → images; augmented by the generator, if there is one."""

    def graph(self, subject: str) -> SubsetCollection:
        """The subsets of a class by context."""
        names = [f"{subject}({context})" for context in self.contexts]
        return self.subsets.merge({name: [name] for name in names if name in self.subsets})


def make_album(config: Config, seed: int) -> Album:
    if config.images:
        return photographs(config)
    scenes = context_scenes(config.per_class, config.classes, seed=seed, size=config.size, contrast=config.contrast)
    side = round(scenes.tags.shape[1] ** 0.5)
    contexts = tuple(f"{column},{row}" for column in range(side) for row in range(side))
    half = (scenes.place[:, 0] > 0.5).long()
    members = {}
    for y, subject in enumerate(config.classes):
        own = scenes.y == y
        for k, context in enumerate(contexts):
            members[f"{subject}({context})"] = (own & scenes.tags[:, k]).nonzero().squeeze(1).tolist()
        for k, name in enumerate(config.sides):
            members[f"{subject}({name})"] = (own & (half == k)).nonzero().squeeze(1).tolist()
    return Album(SubsetCollection(members), contexts, lambda numbers, generator: scenes.x[numbers])


def photographs(config: Config) -> Album:
    """A folder of images: whole ones are resized and cut in the middle, augmented ones cut at random and mirrored."""
    every = SubsetCollection.from_json(config.index)
    subsets = [every.of(subject) for subject in config.classes]
    both = frozenset.intersection(*(frozenset().union(*s.members.values()) for s in subsets))
    members = {
        name: kept for s in subsets for name, ids in s.members.items() if len(kept := ids - both) >= config.min_size
    }
    contexts = tuple(dict.fromkeys((*config.class_a, *(c for pair in config.pairs for c in pair), config.test)))
    if not Path(config.images).is_dir():
        raise FileNotFoundError(f"images={config.images!r}: there is no such folder")

    def load(numbers: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.stack([photograph(config, number, generator) for number in numbers.tolist()])

    return Album(SubsetCollection(members), contexts, load)


def photograph(config: Config, number: int, generator: torch.Generator | None) -> Tensor:
    with Image.open(Path(config.images) / f"{number}.jpg") as image:
        picture = image.convert("RGB")
    width, height = picture.size
    mirrored = False
    if generator is None:
        wide = high = min(width, height) * 7 / 8  # 224 pixels of 256
        left, top = (width - wide) / 2, (height - high) / 2
    else:
        area, stretch, across, down, mirror = torch.rand(5, generator=generator).tolist()
        aspect = np.exp((2 * stretch - 1) * np.log(4 / 3))
        pixels = (0.7 + 0.3 * area) * width * height
        wide, high = min(width, (pixels * aspect) ** 0.5), min(height, (pixels / aspect) ** 0.5)
        left, top, mirrored = across * (width - wide), down * (height - high), mirror < 0.5
    cut = picture.resize(
        (config.size, config.size), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + high)
    )
    x = torch.from_numpy(np.array(cut)).permute(2, 0, 1) / 255
    x = (x - torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)) / torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    return x.flip(2) if mirrored else x


# Training.


def network(config: Config) -> nn.Module:
    if config.net == "convnet":
        return ConvNet(3, 2, widths=(12, 24, 24))
    net = ResNet(18, 2, stem_kernel=7, stem_stride=2, stem_pool=True)
    if config.weights:
        load_resnet_weights(net, config.weights)
    return WithHead(nn.Sequential(net.stem, net.stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()), net.head)


@dataclass
class Trainer:
    """Trains a seed's networks, all from the same weights."""

    config: Config
    album: Album
    seed: int
    device: str
    start: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.start = Stack.from_factory(partial(network, self.config), 1, self.seed).module(0)

    def criterion(self, arm: str, features: int) -> DomainLoss:
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made: dict[str, Callable[[], DomainLoss]] = {
                "irm": lambda: IRM(config.irm_weight, config.irm_anneal),
                "group_dro": lambda: GroupDRO(2, config.eta),
                "coral": lambda: CORAL(config.gamma),
                "cdann": lambda: CDANN(features, 2, 2, config.adversary_weight),
            }
            return made.get(arm, ERM)().to(self.device)

    def train(
        self, arm: str, items: Tensor, labels: Tensor, domains: Tensor, cells: Any, per_cell: int
    ) -> tuple[Any, list[dict[str, Tensor]]]:
        """A network trained on items in balanced batches of ``cells`` (positions among them), and its checkpoints."""
        config = self.config
        net: Any = Stack([self.start]).module(0).to(self.device)
        train_with_frozen_norm(net)
        criterion = self.criterion(arm, net.head.in_features)
        generator = torch.Generator().manual_seed(self.seed)
        source = BalancedGroupSampler(cells, per_cell, config.steps, generator=generator)

        def batches() -> Iterator[tuple[Tensor, ...]]:
            for batch in source:
                x = self.album.load(items[batch], generator)
                yield tuple(part.to(self.device) for part in (x, labels[batch], domains[batch]))

        def objective(model: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            x, y, domain = batch
            h = model.features(x)
            return criterion(h, model.head(h), y, domain)

        stream, checkpoints, optimizer = batches(), [], None
        stops = {*range(config.checkpoint_every, config.steps, config.checkpoint_every), config.steps}
        if isinstance(criterion, IRM):
            stops |= {criterion.anneal} & set(range(1, config.steps))
        done = 0
        for stop in sorted(stops):
            if optimizer is None or (isinstance(criterion, IRM) and done == criterion.anneal):
                # For IRM anew where its weight jumps, as in DomainBed.
                optimizer = torch.optim.Adam([*net.parameters(), *criterion.parameters()], config.learning_rate)
            fit(net, objective, stream, optimizer, steps=stop - done)
            done = stop
            checkpoints.append({name: value.detach().clone() for name, value in net.state_dict().items()})
        return net.eval(), checkpoints

    @torch.no_grad()
    def predict(self, net: nn.Module, items: Tensor) -> Tensor:
        parts = [net(self.album.load(part, None).to(self.device)).argmax(1).cpu() for part in items.split(512)]
        return torch.cat(parts)


# The three tasks.


def contextual_shift(config: Config, album: Album, trainer: Trainer, seed: int, run: Run) -> Iterator[Record]:
    """Class 1 learned in contexts at growing distance from the one in which it is tested."""
    subject_a, subject_b = config.classes
    pairs = [tuple(f"{subject_b}({context})" for context in pair) for pair in config.pairs]
    test = f"{subject_b}({config.test})"
    tasks = domain_shift_task(album.subsets, [f"{subject_a}({c})" for c in config.class_a], pairs, test, seed)
    names, weights = overlap_graph(album.graph(subject_b), config.threshold)
    found = {}
    for dim in (config.dim, 5):
        distances = spectral_distance(weights, min(dim, len(names) - 1))[names.index(test)]
        found[dim] = [float(np.mean([float(distances[names.index(name)]) for name in pair])) for pair in pairs]
    others = album.subsets[f"{subject_a}({config.test})"] - album.subsets[test]
    accuracy: dict[str, list[float]] = {arm: [] for arm in ALGORITHMS}
    for k, task in enumerate(tasks):
        cells = 2 * task.train_labels + task.train_domains
        for arm in ALGORITHMS:
            run.progress(k, 2 * len(tasks), f"{arm} in {' and '.join(config.pairs[k])}")
            net, _ = trainer.train(arm, task.train, task.train_labels, task.train_domains, cells, config.per_cell)
            right = float((trainer.predict(net, task.test) == task.test_labels).double().mean())
            accuracy[arm].append(right)
            pair = " & ".join(config.pairs[k])
            yield Record(arm, "accuracy", right, unit=pair)
            rivals = torch.tensor(sorted(others - set(task.train.tolist())))
            wrong = float(trainer.predict(net, rivals).double().mean())
            yield Record(arm, "balanced_accuracy", (right + 1 - wrong) / 2, unit=pair)
            yield Record(arm, "closeness", -found[config.dim][k], unit=pair)
            yield Record(arm, "closeness_5", -found[5][k], unit=pair)
    nearest = int(np.argmin(found[config.dim]))
    for arm in ALGORITHMS:
        yield Record(arm, "nearest_accuracy", accuracy[arm][nearest])
        if arm != "erm":
            wins = all(a > b for a, b in zip(accuracy[arm], accuracy["erm"], strict=True))
            yield Record(arm, "beats_erm_everywhere", float(wins))
    number = np.zeros(len(names), dtype=int)
    for k, community in enumerate(graph_communities(weights)):
        number[community] = k
    run.save("weights", weights)
    run.save("points", spectral_embedding(weights, 2))
    run.save("communities", number)
    run.save("contexts", np.array([name[:-1].partition("(")[2] for name in names]))


def rare_groups(config: Config, album: Album, trainer: Trainer, seed: int, run: Run) -> Iterator[Record]:
    """Each class mostly on its own side, and tested on both."""
    first, second = config.sides
    sides = {config.classes[0]: (first, second), config.classes[1]: (second, first)}
    members = {
        subject: [album.subsets[f"{subject}({side})"] for side in (major, minor)]
        for subject, (major, minor) in sides.items()
    }
    groups = {subject: (major - minor, minor - major) for subject, (major, minor) in members.items()}
    share = config.total // 2
    worst: dict[str, list[float]] = {}
    for k, minority in enumerate(config.minorities):
        task = subpopulation_task(groups, config.total, minority / share, config.test_per_group, seed)
        place = (task.train_groups % 2) ^ task.train_labels  # 0 on the first side
        for arm in (*ALGORITHMS, "erm_uniform"):
            run.progress(len(config.minorities) + k, 2 * len(config.minorities), f"{arm} with {minority} of a minority")
            uniform = arm == "erm_uniform"
            cells = torch.zeros_like(place) if uniform else task.train_groups
            per_cell = config.per_cell * (4 if uniform else 1)
            net, _ = trainer.train(arm, task.train, task.train_labels, place, cells, per_cell)
            found = group_accuracy(trainer.predict(net, task.test), task.test_labels, task.test_groups)
            x = 100 * minority / share
            yield Record(arm, "average_accuracy", found["average"], x=x)
            yield Record(arm, "worst_accuracy", found["worst"], x=x)
            yield Record(arm, "worst_gap", found["average"] - found["worst"], x=x)
            worst.setdefault(arm, []).append(found["worst"])
    for arm, values in worst.items():
        yield Record(arm, "mean_worst_accuracy", float(np.mean(values)))


def conflicts(config: Config, album: Album, trainer: Trainer, seed: int, run: Run) -> Iterator[Record]:
    """What a step on each subset of either class does for held-out images of each, along one training on all."""
    collections = [album.graph(subject) for subject in config.classes]
    generator = torch.Generator().manual_seed(seed)
    every = torch.tensor(sorted(frozenset().union(*(ids for k in collections for ids in k.members.values()))))
    held_out = frozenset(every[torch.randperm(len(every), generator=generator)[: len(every) // 4]].tolist())

    def members(y: int, context: str, held: bool) -> frozenset[int]:
        ids = collections[y].members.get(f"{config.classes[y]}({context})", frozenset())
        return ids & held_out if held else ids - held_out

    shared = [c for c in album.contexts if all(members(y, c, held) for y in (0, 1) for held in (False, True))]
    names = [(y, context) for y in (0, 1) for context in shared]
    sides = {held: [torch.tensor(sorted(members(*name, held))) for name in names] for held in (False, True)}
    items = torch.cat(sides[False])
    labels = torch.tensor([y for (y, _), part in zip(names, sides[False], strict=True) for _ in range(len(part))])
    positions = torch.arange(len(items)).split([len(part) for part in sides[False]])
    cells: Mapping[int, Any] = {0: positions[: len(shared)], 1: positions[len(shared) :]}
    net, checkpoints = trainer.train("erm", items, labels, torch.zeros_like(labels), cells, 2 * config.per_cell)

    def groups(held: bool) -> list[tuple[Tensor, Tensor]]:
        found = []
        for (y, _), ids in zip(names, sides[held], strict=True):
            some = ids[torch.randperm(len(ids), generator=generator)[: config.conflict_images]]
            x = album.load(some, None).to(run.device)
            found.append((x, torch.full((len(some),), y, device=run.device)))
        return found

    matrix = training_conflict_matrix(
        net, net.head, groups(False), groups(True), checkpoints, [config.learning_rate] * len(checkpoints)
    ).cpu()
    matrix = matrix / matrix.abs().max()
    run.save("conflicts", matrix)
    classes = torch.tensor([y for y, _ in names])
    place = torch.arange(len(names)) % len(shared)
    same, here = classes.unsqueeze(1) == classes, place.unsqueeze(1) == place
    blocks = {"same_class": same, "other_class_same_context": ~same & here, "other_class_elsewhere": ~same & ~here}
    for arm, block in blocks.items():
        yield Record(arm, "contribution", float(matrix[block].double().mean()))


def real_graphs(config: Config) -> Iterator[Record]:
    """The size of real meta-graphs, from metadata alone."""
    every = SubsetCollection.from_json(config.metadata)
    for subject in config.metadata_subjects:
        _, weights = overlap_graph(every.of(subject).filter(config.min_size), config.threshold)
        yield Record("metadata", "subsets", float(len(weights)), unit=subject)
        yield Record("metadata", "edges", float((weights > 0).sum()) / 2, unit=subject)
        yield Record("metadata", "communities", float(len(graph_communities(weights))), unit=subject)


# The figure.

COLOURS = {"erm": "#D55E00", "irm": "#0072B2", "group_dro": "#009E73", "coral": "#CC79A7", "cdann": "#E69F00"}
NAMES = {"erm": "ERM", "irm": "IRM", "group_dro": "GroupDRO", "coral": "CORAL", "cdann": "CDANN"}
COMMUNITIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


@study.figure
def figure(records: pd.DataFrame, arrays: Arrays) -> Figure:
    """A meta-graph with its communities, accuracy by distance, accuracy by share of the minority, and the conflicts."""
    import matplotlib.pyplot as plt

    reported = records[records["role"] == "reported"]
    fig, axes = plt.subplots(2, 2, figsize=(12, 10), layout="constrained")
    draw_graph(axes[0, 0], arrays)
    draw_distances(axes[0, 1], reported)
    draw_shares(axes[1, 0], reported)
    draw_conflicts(axes[1, 1], arrays)
    return fig


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval; no half of a single value."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(half)


def draw_graph(ax: Axes, arrays: Arrays) -> None:
    from matplotlib import rcParams

    weights, points, communities, contexts = (
        arrays[name][0].value for name in ("weights", "points", "communities", "contexts")
    )
    ink = rcParams["text.color"]
    for i, j in zip(*np.nonzero(np.triu(weights)), strict=True):
        ax.plot(*points[[i, j]].T, color=ink, lw=3 * weights[i, j], alpha=0.3, zorder=1)
    colours = [COMMUNITIES[number % len(COMMUNITIES)] for number in communities]
    ax.scatter(points[:, 0], points[:, 1], c=colours, s=60, zorder=2)
    for (x, y), name in zip(points, contexts, strict=True):
        ax.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    ax.set(
        xlabel="first coordinate",
        ylabel="second coordinate",
        title="Contexts of class 1, their overlaps and communities",
    )
    ax.margins(0.1)


def draw_distances(ax: Axes, reported: pd.DataFrame) -> None:
    table = reported[reported["unit"].notna()]
    ends = []
    for arm, colour in COLOURS.items():
        own = table[table["arm"] == arm]
        rows = []
        for _, unit in own.groupby("unit"):
            distance = -unit[unit["metric"] == "closeness"]["value"].mean()
            rows.append((distance, *interval(100 * unit[unit["metric"] == "accuracy"]["value"].to_numpy())))
        x, mean, half = np.array(sorted(rows)).T
        shifted = x + 0.012 * (list(COLOURS).index(arm) - 2)
        ax.errorbar(shifted, mean, half, fmt="o-", ms=4, lw=1.4, capsize=2, color=colour)
        ends.append((mean[-1], arm, x[-1]))
    label_ends(ax, ends)
    ax.set(
        xlabel="distance between training and test contexts (no unit)",
        ylabel="accuracy in the test context (%)",
        title="Shift of context, 95 % intervals",
        ylim=(-4, 104),
    )


def draw_shares(ax: Axes, reported: pd.DataFrame) -> None:
    ends = []
    for arm, colour in COLOURS.items():
        for metric, style in (("worst_accuracy", "o-"), ("average_accuracy", "o:")):
            own = reported[(reported["arm"] == arm) & (reported["metric"] == metric)]
            points = [(x, *interval(100 * part["value"].to_numpy())) for x, part in own.groupby("x")]
            x, mean, half = np.array(points).T
            shifted = x * (1 + 0.02 * (list(COLOURS).index(arm) - 2))
            ax.errorbar(shifted, mean, half, fmt=style, ms=4, lw=1.4, capsize=2, color=colour)
            if metric == "worst_accuracy":
                ends.append((mean[-1], arm, x[-1]))
    label_ends(ax, ends)
    ax.set(
        xlabel="share of the minority in a class's training images (%)",
        ylabel="accuracy (%)",
        title="Rare groups: the worst (lines), the average (dotted)",
        xscale="log",
        ylim=(-4, 104),
    )
    ticks = sorted(set(reported[reported["metric"] == "worst_accuracy"]["x"]))
    ax.set_xticks(ticks, [f"{x:.1f}" for x in ticks])
    ax.minorticks_off()


def label_ends(ax: Axes, ends: list[tuple[float, str, float]]) -> None:
    """Names at the right ends of curves, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    gap, last = 0.045 * (high - low), -np.inf
    for y, arm, x in sorted(ends):
        last = max(y, last + gap)
        ax.annotate(NAMES[arm], (x, last), xytext=(14, 0), textcoords="offset points", color=COLOURS[arm], va="center")
    left, right = ax.get_xlim()
    ax.set_xlim(left, right + 0.2 * (right - left))


def draw_conflicts(ax: Axes, arrays: Arrays) -> None:
    from matplotlib import rcParams

    matrix = np.mean([saved.value for saved in arrays["conflicts"]], axis=0)
    most = np.abs(matrix).max()
    image = ax.imshow(matrix, cmap="RdBu", vmin=-most, vmax=most)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="contribution (share of the largest)")
    half = len(matrix) / 2
    for line in (ax.axhline, ax.axvline):
        line(half - 0.5, color=rcParams["text.color"], lw=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([half / 2 - 0.5, 1.5 * half - 0.5], ["class 0", "class 1"])
    ax.set(xlabel="held-out subset", ylabel="training subset", title="Training conflicts (red hurts)")
