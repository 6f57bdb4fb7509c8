"""The GradSign study: what a trial measures, the real benchmark, and that the paper preset builds and scores."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from landform.search import PROXIES, SMALL_SPACE
from landform.studies import gradsign
from landform.study import Arrays, Record, Run, Saved

TINY = gradsign.Config(architectures=6, steps=8, samples=8, searches=3, budget=4, population=2, families=6)
LIVING = [f"{a}{b}3{c}2{d}" for a, b, c, d in itertools.product("23", repeat=4)]


@pytest.fixture
def table(tmp_path):
    """A table of connected cells with made-up accuracies."""
    path = tmp_path / "table.csv"
    rows = [f"{i},{cell},{90 + i / 10},{80 + i / 10}" for i, cell in enumerate(LIVING)]
    path.write_text("\n".join(["index,cell,cifar10_test_200ep,cifar10_val_12ep", *rows]))
    return str(path)


def values(records: list[Record], metric: str) -> dict[str, float]:
    return {r.arm: r.value for r in records if r.metric == metric}


def test_a_trial_repeats_and_measures_every_arm():
    run = Run()
    records = list(gradsign.trial(TINY, 0, run))
    torch.rand(3)  # whatever the global random state is
    assert records == list(gradsign.trial(TINY, 0, Run()))
    assert records != list(gradsign.trial(TINY, 1, Run()))
    assert all(np.isfinite(r.value) and r.x is None and r.setting is None for r in records)
    ranked = {*PROXIES, "random"}
    for metric in ("spearman", "kendall", "partial_spearman", "spearman_within_family"):
        assert set(values(records, metric)) == ranked
    assert values(records, "partial_spearman")["num_params"] == 0
    assert set(values(records, "random_search")) == set(values(records, "evolution")) == ranked | {"unassisted"}
    assert set(gradsign.PUBLISHED) < ranked
    score, accuracy, size = run.arrays["ranking"]
    assert len(score) == 6
    assert (score > 0).all()
    assert ((accuracy > 0) & (accuracy <= 100)).all()
    assert set(size) <= {float(sum(p.numel() for p in a.build((1, 8, 8), 10).parameters())) for a in SMALL_SPACE}


def test_training_learns_and_the_scored_network_is_the_untrained_one():
    config = dataclasses.replace(TINY, steps=60)
    known = gradsign.trained(config, 0, Run())
    assert known.accuracy.mean() > 60
    x, y = known.batch
    untrained = [float((known.network(i)(x).argmax(1) == y).float().mean()) for i in range(6)]
    assert np.mean(untrained) < 0.4


def test_assistance_by_the_accuracy_itself_finds_the_best():
    known = gradsign.trained(dataclasses.replace(TINY, architectures=12), 0, Run())
    known = dataclasses.replace(known, search_accuracy=known.accuracy)
    config = dataclasses.replace(TINY, architectures=12, proposals=60)
    found = dict(gradsign.searched(config, known, known.accuracy, 0))
    assert found["random_search"] == pytest.approx(known.accuracy.max())
    misled = dict(gradsign.searched(config, known, -known.accuracy, 0))
    assert misled["random_search"] == pytest.approx(known.accuracy.min())


def test_disagreement_follows_spread_where_optima_are_known():
    records = list(gradsign.quadratics(dataclasses.replace(TINY, families=40), 0))
    frame = pd.DataFrame(map(dataclasses.asdict, records)).pivot(index="unit", columns="metric", values="value")
    assert frame.corr("spearman").loc["spread", "disagreement"] > 0.6
    assert frame["disagreement"].between(0, 1).all()


def test_the_figure_is_drawn_from_records_and_arrays():
    records, saved = [], []
    for seed in (3, 4):
        run = Run()
        records += [dataclasses.asdict(r) | {"seed": seed, "role": "reported"} for r in gradsign.trial(TINY, seed, run)]
        saved += [Saved(name, seed, {}, array) for name, array in run.arrays.items()]
    figure = gradsign.figure(pd.DataFrame(records), Arrays(saved))
    left, right = figure.axes[:2]
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 6
    assert {label.get_text() for label in right.get_yticklabels()} == set(gradsign.NAMES.values())


def test_the_paper_preset_scores_its_networks_on_stand_in_data(table):
    paper = gradsign.study.presets["paper"].config
    tiny = dataclasses.replace(
        paper, data="digits?limit=40", table=table, architectures=5, samples=3, searches=2, budget=3, population=2
    )
    known = gradsign.looked_up(tiny, 0)
    network = known.network(0)
    assert len(network.stages) == 17  # five cells, a reduction, five, a reduction, five
    assert network.stem[0].out_channels == 16
    x, y = known.batch
    F.cross_entropy(network(x), y).backward()
    records = list(gradsign.trial(tiny, 0, Run()))
    assert set(values(records, "spearman")) == {*PROXIES, "random"}


def test_augmentation_shifts_and_mirrors_each_image():
    x = torch.rand(200, 3, 16, 16) + 1
    found = gradsign.augmented(x, torch.Generator().manual_seed(0))
    padded = F.pad(x, [2] * 4)
    seen = set()
    for image, source in zip(found, padded, strict=True):
        matches = [
            (row, column, mirrored)
            for row, column, mirrored in itertools.product(range(5), range(5), (False, True))
            if torch.equal(image.flip(-1) if mirrored else image, source[:, row : row + 16, column : column + 16])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 40  # of 50


def test_on_the_real_benchmark_scores_rank_as_published(shared_data):
    config = dataclasses.replace(
        gradsign.Config(), table=str(shared_data("gradsign") / "nasbench201_accuracy.csv"),
        architectures=40, samples=16, channels=8, searches=2, budget=3, population=2, families=5,
    )  # fmt: skip
    spearman = values(list(gradsign.trial(config, 0, Run())), "spearman")
    for arm in ("gradsign", "synflow", "naswot", "num_params"):
        assert spearman[arm] > 0.5, arm  # published for all cells: 0.765, 0.737, –, 0.753
    assert spearman["gradsign"] > spearman["fisher"] + 0.2
    assert abs(spearman["random"]) < 0.5


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"architectures": 3}, ValueError, "architectures=3"),
        ({"steps": 0}, ValueError, "steps=0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
    ],
)
def test_impossible_configs_are_refused(change, error, match):
    with pytest.raises(error, match=match):
        dataclasses.replace(TINY, **change)


def test_missing_tables_and_too_little_data_are_named(table):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        next(gradsign.trial(dataclasses.replace(TINY, table="nowhere.csv"), 0, Run()))
    with pytest.raises(ValueError, match="count=60"):
        next(gradsign.trial(dataclasses.replace(TINY, table=table, architectures=60), 0, Run()))
    with pytest.raises(ValueError, match="leave none to test on"):
        next(gradsign.trial(dataclasses.replace(TINY, data="digits?limit=100"), 0, Run()))


def test_correlations_within_families_ignore_what_lies_between_them():
    known = gradsign.trained(dataclasses.replace(TINY, architectures=9), 0, Run())
    accuracy = np.array([1.0, 2, 3, 11, 12, 13, 21, 22, 23])
    known = dataclasses.replace(known, accuracy=accuracy, family=np.repeat(["a", "b", "c"], 3))
    misled = accuracy.copy()
    misled[6:] -= 100  # the best family is put last, its own order kept
    found = dict(gradsign.correlations(misled, known, np.arange(9.0)[::-1] % 4))
    assert found["spearman_within_family"] == pytest.approx(1)
    assert found["spearman"] == pytest.approx(1 - 6 * (6 * 3**2 + 3 * 6**2) / (9 * 80))
