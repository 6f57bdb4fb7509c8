"""The study of datamodel matching: its samples and forget sets, what it records, its paper preset, its figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from landform import data
from landform.studies import datamodel_matching as study_file
from landform.studies.datamodel_matching import BASELINES, BEST, crossing_spread, drawn, published_sets, recipe, study
from landform.study import Arrays, Record, Run, Saved

SMOKE = study.presets["smoke"].config


@pytest.fixture(scope="module")
def smoke() -> tuple[list[Record], Run]:
    run = Run()
    return list(study.run_trial(SMOKE, 3, run)), run  # type: ignore[misc]


def test_training_and_validation_samples_are_apart_and_new_for_each_seed() -> None:
    world, again, other = (drawn(SMOKE, seed, "cpu") for seed in (3, 3, 4))
    rows = {row.numpy().tobytes() for row in world.points}
    assert len(world.x) == SMOKE.train_size
    assert len(world.points) == len(rows) == SMOKE.train_size + SMOKE.sampled
    assert torch.equal(world.points, again.points)
    assert not torch.equal(world.points, other.points)
    assert torch.equal(world.points[: len(world.x)], world.x)


def test_forget_sets_are_what_their_names_say() -> None:
    world = drawn(SMOKE, 3, "cpu")
    influence = torch.zeros(60, 60)
    influence[:, [5, 9, 14]] = torch.rand(60, generator=torch.Generator().manual_seed(0)).unsqueeze(1)
    sets = study_file.forget_sets_of(SMOKE, world, influence, 3)
    assert all(len(rows.unique()) == SMOKE.forget_size for rows in sets.values())
    assert sorted(sets["principal"].tolist()) == [5, 9, 14]
    assert len(world.y[sets["class"]].unique()) == 1
    near, own = sets["class"], (world.y == world.y[sets["class"][0]]).nonzero().flatten()
    apart = (world.x[own] - world.x[near[0]]).flatten(1).square().sum(1)
    assert set(own[apart.argsort()[:3]].tolist()) == set(near.tolist())


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    paper = study.presets["paper"].config
    how = recipe(paper, 50_000)
    table = how["schedule"]
    assert how["steps"] == 24 * 196
    assert table[0] == 0
    assert table.argmax() == 5 * 196
    assert table.max() == 1
    assert table[-1] == pytest.approx(1 / (19 * 196), rel=1e-3)
    falling = recipe(SMOKE, 60)["schedule"]
    torch.testing.assert_close(falling, 1 - torch.arange(10) / 10)


def test_every_arm_is_measured_on_every_forget_set(smoke: tuple[list[Record], Run]) -> None:
    records, run = smoke
    klom = {(r.arm, r.unit) for r in records if r.metric == "forget_klom" and r.x is None}
    arms = {
        "do_nothing",
        "retrain",
        "oracle_matching",
        "dmm",
        "dm_direct",
        "dmm_difference",
        "dmm_doubled",
        "descent_longest",
    }
    sets = {"random 1", "random 2", "class", "principal"}
    assert klom == {(arm, name) for arm in (*arms, *BASELINES, *BEST) for name in sets}
    sizes = {r.x for r in records if r.arm == "dmm" and r.metric == "forget_klom" and r.x is not None}
    assert sizes == {math.log2(15), math.log2(30)} == {r.x for r in records if r.metric == "lds" and r.x is not None}
    grids = {arm: len({r.setting for r in records if r.arm == arm and r.setting}) for arm in ("dmm", *BASELINES)}
    assert set(grids.values()) == {2}
    assert run.arrays["trajectory"].shape == (SMOKE.watched_steps + 1, SMOKE.forget_size)
    assert all(run.arrays[f"grid_{arm}"].shape == (4, 2, 2) for arm in BASELINES)


def test_best_in_hindsight_is_the_best_of_the_grid(smoke: tuple[list[Record], Run]) -> None:
    records, run = smoke
    for arm in BASELINES:
        best = {r.unit: r.value for r in records if r.arm == f"{arm}_best" and r.metric == "forget_klom"}
        assert list(best.values()) == pytest.approx(run.arrays[f"grid_{arm}"][:, :, 0].min(1).tolist())


def test_a_trial_is_deterministic(smoke: tuple[list[Record], Run]) -> None:
    torch.manual_seed(123)
    assert list(study.run_trial(SMOKE, 3, Run())) == smoke[0]  # type: ignore[misc]


def test_reported_seeds_run_the_chosen_settings_alone() -> None:
    chosen = {"dmm": "(30.0, 1.0)", "ascent": "(0.1, 1)", "descent": "(0.001, 1)"}
    chosen |= {"scrub": "(0.01, 3)", "ascent_descent": "(0.01, 5)"}
    found = {r.arm: r.setting for r in study.run_trial(SMOKE, 0, Run(chosen=chosen)) if r.setting}  # type: ignore[misc]
    assert found == chosen


def test_all_grids_are_of_one_size() -> None:
    for preset in ("laptop", "paper"):
        c = study.presets[preset].config
        pairs = [
            (c.shrinkages, c.multipliers),
            (c.ascent_rates, c.ascent_epochs),
            (c.descent_rates, c.descent_epochs),
            (c.scrub_rates, c.m_steps),
            (c.both_rates, c.m_steps),
        ]
        assert {len(a) * len(b) for a, b in pairs} == {12}


def test_crossing_spread() -> None:
    watched = torch.tensor([[3.0, 3.0, 1.0, 3.0], [1.0, 2.5, 0.0, 2.9], [0.0, 2.2, -1.0, 2.8], [-1.0, 1.9, -2.0, 2.7]])
    retrained = torch.tensor([1.0, 2.0, 2.0, 0.0])  # passed at 1, at 3, started below, not passed: counts as 4
    assert crossing_spread(watched, retrained) == 4
    assert crossing_spread(watched[:, :3], retrained[:3]) == 3
    assert crossing_spread(watched[:, 2:3], retrained[2:3]) == 1


# --- the paper's scale


def test_published_forget_sets(shared_data: Callable[[str], Path]) -> None:
    """Of CIFAR-10: 10 sets, of which the third has 1,000 points though the release's notes say 500."""
    path = shared_data("datamodel-matching/forget_sets.json")
    sets = published_sets(str(path), "CIFAR10", 50_000)
    assert [len(sets[str(name)]) for name in range(1, 11)] == [10, 100, 1000, 10, 100, 500, 10, 100, 500, 100]
    assert all(len(rows.unique()) == len(rows) for rows in sets.values())
    with pytest.raises(ValueError, match="but there are 100"):
        published_sets(str(path), "CIFAR10", 100)
    with pytest.raises(ValueError, match="forget_dataset='MNIST'"):
        published_sets(str(path), "MNIST", 50_000)


def test_a_missing_file_of_forget_sets_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="forget_sets='nowhere"):
        published_sets("nowhere.json", "CIFAR10", 10)


def test_paper_preset_runs_on_a_small_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stand_in(uri: str) -> dict[str, data.Split]:
        assert uri == "hf:cifar10"
        y = torch.arange(48) % 10
        split = data.Split(
            torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(0)), y, tuple("abcdefghij")
        )
        return {"train": split[:36], "test": split[36:]}

    monkeypatch.setattr(data, "load", stand_in)
    path = tmp_path / "sets.json"
    path.write_text(json.dumps({"CIFAR10": {"1": [0, 5], "4": [7, 8]}}), encoding="utf-8")
    config = replace(
        study.presets["paper"].config,
        forget_sets=str(path),
        sampled=6,
        widths=(4, 4, 4, 4),
        epochs=1,
        batch_size=8,
        models=2,
        subset_models=12,
        held_out=3,
        fewer=(11,),
        together=5,
        chunk=17,
        match_epochs=1,
        oracle_epochs=1,
        scrub_epochs=1,
        ascent_epochs=(1,),
        descent_epochs=(1,),
        watched_steps=2,
        trak_models=1,
        trak_dim=8,
        keep=0.6,
    )
    chosen = {arm: str((1e-5, 1)) for arm in ("ascent",)} | {"descent": "(5e-05, 1)", "dmm": "(3.0, 1.0)"}
    chosen |= {"scrub": "(5e-05, 3)", "ascent_descent": "(1e-05, 3)"}
    records = list(study.run_trial(config, 0, Run(chosen=chosen)))  # type: ignore[misc]
    assert {r.unit for r in records if r.metric == "forget_klom"} == {"1", "4"}
    assert all(math.isfinite(r.value) for r in records)


@pytest.mark.parametrize(
    ("name", "value"), [("models", 1), ("keep", 1.0), ("peak", 1.0), ("fewer", (5000,)), ("sampled", 0)]
)
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        replace(study.presets["laptop"].config, **{name: value})


# --- the figure


def test_figure_draws(smoke: tuple[list[Record], Run]) -> None:
    records, run = smoke
    frame = pd.concat(pd.DataFrame([vars(r) for r in records]).assign(seed=seed, role="reported") for seed in (0, 1))
    arrays = Arrays([Saved(name, 0, {}, value) for name, value in run.arrays.items()])
    figure = study.draw(frame, arrays)  # type: ignore[misc]
    figure.canvas.draw()
    scatter, points, sets = figure.axes
    assert len(scatter.get_lines()) == 2 * len(BASELINES) + 8
    assert len(sets.containers) == 4 * 8
    assert len(points.get_lines()) >= SMOKE.forget_size
