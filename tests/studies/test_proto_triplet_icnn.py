"""The Proto-Triplet study: what a trial measures, whose classes meet, and that the paper preset runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from landform.losses.episodic import PrototypicalLoss
from landform.studies import proto_triplet_icnn as study
from landform.study import Arrays, Run, Saved

SMOKE = study.study.presets["smoke"].config
TINY = dataclasses.replace(
    SMOKE, data="glyphs:latin,greek?size=16", foreign=("greek",), validation_classes=10, test_classes=10, n_way=5
)
TUNED = ("ce", "ce_tau", "cosine", "batch_hard", "proto_triplet", "ce_pt_icnn")


@pytest.fixture(scope="module")
def trials():
    """Two seeds: their records and arrays."""
    records, saved = {}, []
    for seed in (0, 1):
        run = Run()
        records[seed] = list(study.trial(TINY, seed, run))
        saved += [Saved(name, seed, {}, array) for name, array in run.arrays.items()]
    return records, saved


def test_a_trial_repeats_and_measures_every_arm(trials):
    records, _ = trials
    torch.rand(3)  # whatever the global random state is
    assert list(study.trial(TINY, 0, Run())) == records[0]
    assert records[1] != records[0]
    for arm in (*TUNED, *study.AS_RELEASED):
        of = {r.metric: r.value for r in records[0] if r.arm == arm and r.x is None}
        accuracies = ("validation_accuracy", "accuracy_1shot", "accuracy_5shot", "foreign_1shot", "foreign_5shot")
        assert set(of) == {*accuracies, "icnn_score", "separation", "purity"}
        assert all(0 <= of[metric] <= 1 for metric in accuracies)
        assert of["accuracy_5shot"] > 0.3  # chance is 0.2
        curve = [(r.x, r.metric) for r in records[0] if r.arm == arm and r.x is not None]
        assert curve == [(3, "accuracy_1shot"), (6, "accuracy_1shot")]
    values = {(r.arm, r.metric): r.value for r in records[0] if r.x is None}
    for arm, metric in (("same_domain", "accuracy_1shot"), ("foreign_domain", "foreign_1shot")):
        expected = values["proto_triplet", metric] - values["ce", metric]
        assert values[arm, "gain_1shot"] == pytest.approx(expected, abs=1e-12)


def test_tuning_seeds_see_validation_characters_alone():
    config = dataclasses.replace(TINY, epochs=1, rates=(1.0, 3.0), rates_alone=(1.0, 3.0, 0.3, 9.0), margins=(0.5, 2.0),
                                 temperatures=(5.0, 9.0), cosine_scales=(5.0, 9.0))  # fmt: skip
    records = list(study.trial(config, 7, Run()))
    assert {r.metric for r in records} == {"validation_accuracy"}
    assert {arm: len({r.setting for r in records if r.arm == arm}) for arm in TUNED} == dict.fromkeys(TUNED, 4)
    assert len(records) == 24
    chosen = {arm: str(study.grids(config)[arm][1]) for arm in TUNED}
    reported = list(study.trial(config, 0, Run(chosen=chosen)))
    assert {r.setting for r in reported if r.arm == "ce"} == {"(3.0, 1.0)"}
    assert {r.setting for r in reported if r.arm == "ce_released"} == {None}


def test_no_character_is_on_two_sides():
    task = study.make_task(TINY, 3)
    classes = [set(split.y.tolist()) for split in (task.train, task.validation, task.test, task.foreign)]
    assert [len(c) for c in classes] == [32, 10, 10, 49]
    assert len(set.union(*classes)) == 101
    greek = task.test.names["script"].index("greek")
    assert (task.foreign.fields["script"] == greek).all()
    assert not (torch.cat([task.train.fields["script"], task.test.fields["script"]]) == greek).any()
    assert (task.train.y.bincount()[task.train.y.unique()] == 12).all()  # a copy in each of twelve typefaces
    other = study.make_task(TINY, 4)
    assert set(other.test.y.tolist()) != classes[2]


def test_arms_differ_only_in_what_they_minimise():
    """At no learning rate all arms that classify alike give the same accuracies."""
    config = dataclasses.replace(TINY, learning_rate=1e-12)
    task = study.make_task(config, 0)
    tests = study.examinations(config, task, 0)
    found = [study.train(config, arm, (1.0, 1.0), task, tests, 0, curve=True) for arm in ("ce", "ce_pt_icnn")]
    assert found[0].curve == found[1].curve
    assert found[0].validation == found[1].validation
    for test in tests.values():
        support, query = test.index.split([5 * test.n_shot, 5 * config.test_query], 1)
        assert not any(set(s) & set(q) for s, q in zip(support.tolist(), query.tolist(), strict=True))


def test_objectives_are_those_of_their_arms():
    support, query = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    labels, means = torch.arange(5).repeat_interleave(2), support.view(5, 2, 4).mean(1)
    for arm, value, loss in (
        ("ce", 3.0, PrototypicalLoss()),
        ("ce_released", 3.0, PrototypicalLoss()),
        ("ce_tau", 4.0, PrototypicalLoss(scale=0.25)),
        ("cosine", 7.0, PrototypicalLoss("cosine", 7.0)),
    ):
        torch.testing.assert_close(study.objective_of(arm, value)(support, query, 5), loss(query, labels, means))
    margins = [float(study.objective_of("batch_hard", m)(support, query, 5)) for m in (10.0, 20.0)]
    assert margins[1] - margins[0] == pytest.approx(10, abs=1e-4)


def test_training_learns_and_keeps_the_best_epoch():
    config = dataclasses.replace(TINY, episodes=25, width=16, validation_episodes=60)
    task = study.make_task(config, 0)
    tests = study.examinations(config, task, 0)
    course = study.train(config, "proto_triplet", (3.0, 0.5), task, tests, 0, curve=False)
    untrained = study.train(
        dataclasses.replace(config, learning_rate=1e-12), "ce", (1.0, 1.0), task, tests, 0, curve=False
    )
    assert course.validation > untrained.validation + 0.05
    kept = study.accuracy_on(course.net, tests["validation_accuracy"], task, "sqeuclidean")
    assert kept == course.validation


def test_the_figure_is_drawn_from_records_and_arrays(trials):
    records, saved = trials
    rows = [dataclasses.asdict(r) | {"seed": seed, "role": "reported"} for seed, of in records.items() for r in of]
    figure = study.figure(pd.DataFrame(rows), Arrays(saved))
    curves, differences, *planes = figure.axes
    assert len(curves.lines) == len(study.COLOURS)
    assert [label.get_text() for label in differences.get_yticklabels()] == list(study.NAMES.values())[1:]
    for plane in planes:
        shown = [text.get_text() for text in plane.texts]
        assert len(shown) == 5 * 12
        assert len(set(shown)) == 5


def test_real_characters(shared_data):
    """Omniglot: its characters are split by its own archives, and the encoder learns them."""
    config = dataclasses.replace(
        TINY, data=f"omniglot:{shared_data('omniglot-small')}?size=20", copies=0, validation_classes=20, width=16,
        episodes=20, n_way=10, test_episodes=100,
    )  # fmt: skip
    task = study.make_task(config, 0)
    assert task.foreign is None
    assert len(task.validation.y.unique()) == 20
    tests = study.examinations(config, task, 0)
    course = study.train(config, "proto_triplet", (3.0, 0.5), task, tests, 0, curve=True)
    assert course.curve[-1] > 0.6  # cosines of pixels: about 0.4


def test_the_paper_preset_builds_and_takes_a_step_on_stand_in_data(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for c in range(6):
            folder = tmp_path / part / f"{part}{c}"
            folder.mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 255, (92, 92, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    paper = study.study.presets["paper"].config
    assert (paper.n_way, paper.n_shot, paper.n_query, paper.epochs, paper.episodes) == (30, 1, 15, 200, 100)
    config = dataclasses.replace(
        paper, data=f"folder:{tmp_path}?size=92", foreign_data=f"folder:{tmp_path}?size=92", n_way=3, n_query=2,
        epochs=1, episodes=1, test_way=3, test_query=2, validation_episodes=3, test_episodes=3,
    )  # fmt: skip
    task = study.make_task(config, 0)
    assert task.train.x.shape == (48, 3, 84, 84)
    assert abs(float(task.train.x.mean())) < 0.5
    assert [split.classes[int(split.y[0])] for split in (task.train, task.validation, task.test)] == [
        "train0", "val0", "test0",
    ]  # fmt: skip
    assert len(task.foreign) == 3 * 48
    tests = study.examinations(config, task, 0)
    course = study.train(config, "ce_pt_icnn", (1.0, 0.5), task, tests, 0, curve=True)
    assert study.embedded(course.net, task.test).shape == (48, 64)
    residual = dataclasses.replace(config, net="resnet12", optimizer="sgd", crop=32)
    net = study.train(residual, "proto_triplet", (1.0, 0.5), study.make_task(residual, 0), tests, 0, curve=False).net
    assert net[3].residual[0].out_channels == 512


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"net": "vgg"}, "net='vgg'"),
        ({"optimizer": "rmsprop"}, "optimizer='rmsprop'"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_impossible_configs_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TINY, **change)


def test_data_that_do_not_do_are_named():
    assert study.make_task(dataclasses.replace(TINY, foreign=("lao",)), 0).foreign is None
    with pytest.raises(ValueError, match="typefaces='Arial': none begins so; there are DejaVu Sans, "):
        study.make_task(dataclasses.replace(TINY, typefaces="Arial"), 0)
    with pytest.raises(ValueError, match="52 classes leave none to train on beside 30 and 30"):
        study.make_task(dataclasses.replace(TINY, validation_classes=30, test_classes=30), 0)
