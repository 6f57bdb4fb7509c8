"""The GPICL study: its examples are kept apart, a trial repeats, the figure draws, the paper preset takes a step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from landform.studies import gpicl
from landform.study import Arrays, Run, Saved

TINY = gpicl.study.presets["smoke"].config


@pytest.fixture(scope="module")
def trials():
    runs = {seed: Run() for seed in (3, 4)}
    return {seed: (list(gpicl.trial(TINY, seed, run)), run) for seed, run in runs.items()}


def test_a_trial_repeats_and_measures_every_arm(trials):
    records, run = trials[3]
    torch.rand(3)  # whatever the global random state is
    assert records == list(gpicl.trial(TINY, 3, Run()))
    assert records != trials[4][0]
    final = {(r.arm, r.metric): r.value for r in records if r.x is None}
    assert all(np.isfinite(r.value) for r in records)
    learners = {gpicl.ENDLESS, *(gpicl.tasks_arm(n) for n in TINY.tasks)}
    assert {arm for arm, metric in final if metric == "new"} > learners | set(gpicl.PREFIX) | {"chance", "stateless"}
    plateau = {"bias 0.5", "bias 0.9", "batch 16", "batch 64"}
    assert {arm for arm, metric in final if metric == "transition_step"} >= learners | plateau
    assert all(value <= TINY.steps for (_, metric), value in final.items() if metric == "transition_step")
    assert final["stateless", "state_size"] == 0
    assert final[gpicl.ENDLESS, "state_size"] == 2 * 1 * 8 * 20
    assert final["majority label", "new"] == pytest.approx(1 / 3, abs=0.12)
    assert final["ridge", "new"] > 0.5
    places = [r.x for r in records if r.metric == "new_by_tasks"]
    assert places == [2, 6, 8, 12, 13]  # twice 4096 tasks, as only 48 were drawn
    assert {arm for arm, _ in run.arrays["regimes"]} > learners


def test_examples_and_classes_are_kept_apart():
    config = dataclasses.replace(TINY, components=None)
    examples = gpicl.split_examples(config, 0)
    x, y = examples.train.tensors
    assert set(y.tolist()) == {0, 1, 2}
    assert abs(float(x.mean())) < 1e-5
    assert float(x.std()) == pytest.approx(1, abs=1e-5)
    others = torch.cat([examples.held_out.tensors[0], *(base.tensors[0] for base in examples.new)])
    assert len(others) > 700
    assert torch.cdist(x, others, compute_mode="donot_use_mm_for_euclid_dist").min() > 0
    again, other = gpicl.split_examples(config, 0), gpicl.split_examples(config, 1)
    assert torch.equal(again.train.tensors[0], x)
    assert not torch.equal(other.train.tensors[0][:50], x[:50])


def test_components_are_those_of_the_training_examples_at_their_proportions():
    examples = gpicl.split_examples(TINY, 0)
    x = examples.train.tensors[0].double()
    pixels = gpicl.split_examples(dataclasses.replace(TINY, components=None), 0).train.tensors[0].double()
    variances = torch.linalg.eigvalsh(pixels.T.cov(correction=0)).flip(0)[: TINY.components]
    assert torch.allclose(x.T.cov(correction=0), torch.diag(variances / variances.mean()), atol=1e-4)
    assert torch.allclose(x.mean(0), torch.zeros(TINY.components).double(), atol=1e-4)


def test_all_arms_start_from_the_same_weights_and_examples():
    examples = gpicl.split_examples(TINY, 0)
    arms = gpicl.plan(TINY)
    assert {arm for arm, training in arms.items() if training.place is not None} == {
        gpicl.ENDLESS,
        *map(gpicl.tasks_arm, TINY.tasks),
    }
    first = [gpicl.train(TINY, dataclasses.replace(arms[arm], steps=1), examples, 0, "cpu") for arm in list(arms)[:5]]
    losses = [float(outcome.losses[0]) for _, outcome in first]
    assert losses == pytest.approx([losses[0]] * 5, abs=0.05)
    a, b = (gpicl.sequences(TINY, examples.train, "seen", 0, n) for n in (4, None))
    a.tasks = b.tasks = None  # what remains is the stream of examples
    assert torch.equal(torch.rand(3, generator=a.generator), torch.rand(3, generator=b.generator))


def test_the_figure_is_drawn_from_records_and_arrays(trials):
    records, saved = [], []
    for seed, (found, run) in trials.items():
        records += [dataclasses.asdict(r) | {"seed": seed, "role": "reported"} for r in found]
        saved += [Saved(name, seed, {}, array) for name, array in run.arrays.items()]
    figure = gpicl.figure(pd.DataFrame(records), Arrays(saved))
    by_tasks, along, plateau, state, parameters = figure.axes
    ticks = [label.get_text().split("\n") for label in by_tasks.get_xticklabels()]
    assert [tick[0] for tick in ticks] == ["4", "64", "256", "4096", "endless"]
    assert all(tick[-1] in ("(1 of 2)", "(2 of 2)") for tick in ticks)
    assert len(by_tasks.containers) == 3
    assert {text.get_text() for text in along.texts} >= {gpicl.ENDLESS, "ridge", "nearest neighbour"}
    assert {text.get_text() for text in plateau.texts} == {
        "no bias",
        *(f"{p} % of each batch biased" for p in (50, 90)),
    }
    assert len(state.containers) == len(parameters.containers) == 6


def test_the_paper_preset_builds_and_takes_a_step_on_stand_in_data():
    paper = gpicl.study.presets["paper"].config
    tiny = dataclasses.replace(paper, data="digits", new_data=("digits?seed=1",), size=10, length=12)
    examples = gpicl.split_examples(tiny, 0)
    assert examples.train.tensors[0].shape[1] == 100
    assert set(examples.new[0].tensors[1].tolist()) == set(range(10))
    arms = gpicl.plan(tiny)
    training = dataclasses.replace(arms[gpicl.tasks_arm(2**24)], steps=1, batch=2)
    model, outcome = gpicl.train(tiny, training, examples, 0, "cpu")
    assert model.d_model == 256
    assert len(model.blocks) == 4
    assert outcome.losses[0] == pytest.approx(np.log(10), abs=0.15)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"new_classes": (7, 8)}, "new_classes"),
        ({"new_classes": (2, 8, 9)}, r"\[2\] are among"),
        ({"steps": 0}, "steps=0"),
        ({"tasks": (4, 0)}, "tasks="),
    ],
)
def test_impossible_configs_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TINY, **change)


def test_classes_and_components_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="classes="):
        gpicl.split_examples(dataclasses.replace(TINY, new_classes=(7, 8, 12)), 0)
    with pytest.raises(ValueError, match="components=100"):
        gpicl.split_examples(dataclasses.replace(TINY, components=100), 0)
