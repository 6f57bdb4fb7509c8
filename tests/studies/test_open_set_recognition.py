"""The open-set study: what a trial measures, other data, the paper preset, and two runs of it in one report."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from landform import data
from landform.lab.report import write_report
from landform.lab.runner import run_study
from landform.lab.store import Store
from landform.losses import ReciprocalPointLoss
from landform.models import VGG32, BatchNormBranches
from landform.shift import closed_open_correlation
from landform.studies import open_set_recognition as osr
from landform.study import Arrays, Run, Saved

TINY = replace(osr.study.presets["smoke"].config, models=4)


def frame(*trials):
    rows = [dataclasses.asdict(r) | {"seed": seed, "role": "reported"} for seed, records in trials for r in records]
    return pd.DataFrame(rows)


def test_a_trial_repeats_and_measures_every_arm():
    run = Run()
    records = list(osr.trial(TINY, 0, run))
    torch.rand(3)  # whatever the global random state is
    assert records == list(osr.trial(TINY, 0, Run()))
    assert records != list(osr.trial(TINY, 1, Run()))
    table = frame((0, records))
    by_metric = table.groupby("metric")["arm"].agg(set)
    assert by_metric["auroc"] == {*osr.SCORED, "feature norm, strong"}
    assert by_metric["oscr"] == by_metric["auroc (look-alike)"] == by_metric["auroc (far)"] == set(osr.SCORED)
    assert by_metric["accuracy"] == set(osr.METHODS)
    assert by_metric["pearson"] == {"maximum logit", "maximum softmax", "0.7"}
    assert set(table.loc[table["metric"] == "accuracy", "setting"].notna()) == {True}
    assert table.loc[table["metric"] != "accuracy", "setting"].isna().all()
    assert set(run.arrays) == {
        f"{arm} {name}" for arm in ("known", "unknown", "far") for name in ("norms", "maximum logits")
    }
    assert run.arrays["known norms"].mean() == pytest.approx(1)


def test_the_correlation_is_over_the_networks():
    table = frame((0, osr.trial(TINY, 0, Run())))
    for arm in ("maximum logit", "maximum softmax"):
        of_arm = table[table["arm"] == arm]
        models = of_arm[of_arm["unit"].notna()].pivot(index="unit", columns="metric", values="value")
        assert len(models) == TINY.models
        r = of_arm.loc[of_arm["metric"] == "pearson", "value"].item()
        assert r == pytest.approx(closed_open_correlation(models["model_accuracy"], models["model_auroc"]).r)


def test_gaps_and_groups_agree():
    table = frame((0, osr.trial(TINY, 0, Run()))).set_index(["metric", "arm"])["value"]
    gaps = [table["auroc (far)", arm] - table["auroc (look-alike)", arm] for arm in osr.SCORED]
    assert table["least_gap", "far over look-alike"] == pytest.approx(min(gaps))
    assert table["least_gap", "none"] == 0


def test_tuning_sees_validation_images_of_known_classes_alone(monkeypatch):
    config = replace(TINY, settings=2)
    world = osr.world_of(config, 0)
    blind = replace(world, test=(world.test[0] * torch.nan, world.test[1]), unknown={})
    monkeypatch.setattr(osr, "world_of", lambda config, seed: blind)
    records = list(osr.trial(config, 0, Run()))
    assert {(r.arm, r.setting) for r in records} == {
        (method, str(setting)) for method in osr.METHODS for setting in osr.GRIDS[method][:2]
    }
    assert {r.metric for r in records} == {"accuracy"}
    chosen = {method: str(osr.GRIDS[method][1]) for method in osr.METHODS}
    monkeypatch.setattr(osr, "world_of", lambda config, seed: world)
    reported = [r for r in osr.trial(config, 0, Run(chosen=chosen)) if r.setting is not None]
    assert {r.arm: r.setting for r in reported} == chosen


def test_all_methods_may_choose_among_equally_many_settings():
    assert {len(osr.grid(osr.Config(), method)) for method in osr.METHODS} == {4}
    assert len({len(set(g)) for g in osr.GRIDS.values()}) == 1


# Images.


def test_characters_have_groups_that_do_not_overlap():
    config = replace(TINY, renderings=2, test_renderings=1)
    world = osr.world_of(config, 3)
    x, y = world.train
    assert set(y.tolist()) == set(range(20))
    assert len(y) == 2 * 20 * 12
    assert torch.equal(y, osr.world_of(config, 3).train[1])
    assert set(world.unknown) == {"look-alike", "letter", "far"}
    assert len(world.unknown["look-alike"]) + len(world.unknown["letter"]) == 20 * 12
    assert not torch.equal(x[::2], x[1::2])  # two renderings of one glyph differ
    kept = {image.numpy().tobytes() for image in x}
    for images in (world.validation[0], world.test[0], *world.unknown.values()):
        assert not kept & {image.numpy().tobytes() for image in images}


def test_epochs_are_permutations_augmented_anew():
    x, y = torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10)
    noisy = osr.Epochs((x, y), 4, lambda x, g: x + torch.rand(len(x), 1, 1, 1, generator=g), torch.Generator(), "cpu")
    assert len(noisy) == 2
    first, second = ([(x.flatten().tolist(), y.tolist()) for x, y in noisy] for _ in range(2))
    for epoch in (first, second):
        labels = [k for _, ys in epoch for k in ys]
        assert len(set(labels)) == len(labels) == 8
        assert all(int(v) == k for xs, ys in epoch for v, k in zip(xs, ys, strict=True))
    assert first != second


def test_digits_are_split_six_to_four():
    config = replace(TINY, data="digits?limit=300", gan_width=2)
    world = osr.world_of(config, 0)
    assert world.classes == 6
    assert set(world.train[1].tolist()) == set(range(6))
    table = frame((0, osr.trial(config, 0, Run())))
    assert {"auroc", "auroc (unknown)", "pearson"} <= set(table["metric"])
    assert "least_gap" not in set(table["metric"])


def test_data_without_classes_are_refused():
    with pytest.raises(ValueError, match="images with classes"):
        osr.world_of(replace(TINY, data="tabular:wine"), 0)


# Networks.


def test_the_strong_recipe_is_slowest_at_the_end_of_its_last_cycle(monkeypatch):
    rates = []
    fit = osr.fit

    def watched(features, loss, epochs, optimizer, **options):
        rates.append(optimizer.param_groups[0]["lr"])
        return fit(features, loss, epochs, optimizer, **options)

    monkeypatch.setattr(osr, "fit", watched)
    config = replace(TINY, epochs=37, known=2)
    osr.fit_method(config, osr.world_of(config, 0), "strong", (0.0, 6.0), 0, "cpu")
    assert len(rates) == 36
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] < 0.02
    assert sum(b > a for a, b in pairwise(rates)) == 3  # the warm-up and two restarts


def test_arpl_with_confusing_samples_trains_both_sets_of_statistics():
    config = replace(TINY, known=2)
    world = osr.world_of(config, 0)
    found = osr.fit_method(config, world, "ARPL+CS", (0.3, 6.0), 0, "cpu")
    layers = [m for m in found.features.modules() if isinstance(m, BatchNormBranches)]
    assert len(layers) == 3
    assert isinstance(found.last, ReciprocalPointLoss)
    assert found.last.smoothing == 0.3
    for layer in layers:
        real, fake = layer.branches
        assert real.num_batches_tracked == fake.num_batches_tracked > 0
        assert not torch.equal(real.weight, fake.weight)
        assert not torch.equal(fake.weight, torch.ones_like(fake.weight))  # the optimizer has it too


def test_training_learns():
    config = replace(TINY, known=4, epochs=12, width=16, renderings=3)
    world = osr.world_of(config, 0)
    for method in ("weak", "ARPL"):
        assert osr.fit_method(config, world, method, osr.GRIDS[method][0], 0, "cpu").accuracy(*world.train) > 80


@pytest.fixture
def colours(tmp_path):
    """Ten classes of small colour images, and a file of published splits."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 3)):
        for k in range(10):
            folder = tmp_path / "images" / part / str(k)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    known = [[0, 6, 4, 9, 1, 7]] * 5
    names = ("mnist", "svhn", "cifar-10-10", "tinyimagenet")
    four = [[4, 7, 9, 1]] * 5
    content = dict.fromkeys(names, known) | {"cifar-10-100": four, "cifar-10-100-10": four, "cifar-10-100-50": four}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content))
    return f"folder:{tmp_path / 'images'}", str(path)


def test_the_paper_preset_takes_its_steps_on_stand_in_data(colours):
    uri, splits = colours
    paper = osr.study.presets["paper"].config
    assert osr.grid(paper, "strong") == [(0.0, 6.0)]
    assert osr.grid(paper, "ARPL") == [(0.0, 15.0)]
    config = replace(paper, data=uri, splits=splits, epochs=3, batch_size=6, gan_width=1)
    world = osr.world_of(config, 0)
    assert len(world.train[1]) == 12
    assert len(world.test[1]) == len(world.unknown["unknown"]) == 12  # balanced
    classifier = osr.untrained(config, world, 1.0, "CE", 0.0, 0, "test", "cpu")
    assert sum(p.numel() for p in classifier.parameters()) == sum(p.numel() for p in VGG32(6).parameters())
    for method in osr.METHODS:
        found = osr.fit_method(config, world, method, osr.grid(config, method)[0], 0, "cpu")
        assert found.logits(world.test[0]).shape == (12, 6)


def test_unknown_classes_of_another_dataset(colours):
    uri, splits = colours
    config = osr.Config(data=uri, benchmark="cifar-10-100-10", splits=splits, unknown_data=uri, settings=1)
    world = osr.world_of(config, 0)
    assert world.classes == 4
    assert len(world.unknown["unknown"]) == 12
    wanted = data.load(uri)["test"]
    theirs = {image.numpy().tobytes() for image in wanted.x[torch.isin(wanted.y, torch.tensor([4, 7, 9, 1]))]}
    assert {image.numpy().tobytes() for image in world.unknown["unknown"]} <= theirs


def test_adam_trains_tinyimagenet(colours, monkeypatch):
    uri, _ = colours
    config = replace(osr.Config(), data=uri, benchmark="tinyimagenet", width=8, epochs=3, known=4)
    seen = []

    def idle(features, loss, epochs, optimizer, **options):
        seen.append(optimizer)
        optimizer.step()

    monkeypatch.setattr(osr, "fit", idle)
    osr.fit_method(config, osr.world_of(config, 0), "ARPL", osr.grid(config, "ARPL")[0], 0, "cpu")
    assert isinstance(seen[0], torch.optim.Adam)
    assert seen[0].param_groups[0]["initial_lr"] == 0.001
    assert osr.grid(config, "strong") == [(0.9, 9.0)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 12}, "width=12"),
        ({"epochs": 2}, "epochs=2"),
        ({"models": 3}, "models=3"),
        ({"settings": 5}, "settings=5"),
        ({"lr": 0.0}, "lr=0"),
        ({"splits": "x.json"}, "say of which benchmark"),
    ],
)
def test_impossible_configs_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        replace(TINY, **change)


# What is shown.


@pytest.mark.parametrize("uri", ["glyphs", "digits?limit=300"])
def test_the_figure_is_drawn_from_records_and_arrays(uri):
    records, saved = [], []
    for seed in (3, 4):
        run = Run()
        records.append((seed, list(osr.trial(replace(TINY, data=uri), seed, run))))
        saved += [Saved(name, seed, {}, array) for name, array in run.arrays.items()]
    drawn = osr.figure(frame(*records), Arrays(saved))
    scatter, methods, *_ = drawn.axes
    assert sum(len(dots.get_offsets()) for dots in scatter.collections) == 2 * 2 * TINY.models
    assert [label.get_text() for label in methods.get_yticklabels()] == list(osr.SCORED)


def test_two_runs_on_different_data_stand_on_one_page(shared_data, tmp_path):
    """The embedded characters and real photographs, in one store and one report, each with its own verdicts."""
    pytest.importorskip("pyarrow")
    images = shared_data("cifar10-jpeg") / "test.parquet"
    uri = f"parquet:{images}?limit=400"
    small = {"width": "8", "epochs": "3", "models": "4", "gan_width": "1"}
    with Store(tmp_path / "store.sqlite", create=True) as store:
        for overrides in ({}, {"data": uri, **small}):
            result = run_study(osr.study, "smoke", overrides=overrides, store=store, workers=0)
            assert result.trials.failed == 0
        photographs = next(run for run in store.runs() if run.overrides)
        records = store.records(photographs)
        assert records.loc[records["metric"] == "auroc", "value"].between(0, 100).all()
        write_report(store, tmp_path / "site")
    page = (tmp_path / "site" / "studies" / "open-set-recognition.html").read_text(encoding="utf-8")
    assert "smoke preset" in page
    assert f"smoke preset with data = {uri}" in page
    assert page.count("<figure") >= 2
