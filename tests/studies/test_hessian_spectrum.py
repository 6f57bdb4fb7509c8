"""The Hessian-spectrum study: matched losses, what is counted, both ways to read a spectrum, the paper preset."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landform.landscape import CurvatureOperator, split_spectrum
from landform.models.mlp import MLP
from landform.studies import hessian_spectrum as hs
from landform.study import Record, Run

SMOKE = hs.study.presets["smoke"].config


def values(records: list[Record], metric: str) -> dict[str, float]:
    return {r.arm: r.value for r in records if r.metric == metric and r.x is None}


@pytest.mark.parametrize("case", ["blobs", "images", "clean", "noisy"])
def test_a_trial_repeats_and_draws_on_nothing_global(case):
    config = dataclasses.replace(SMOKE, case=case)
    records = list(hs.trial(config, 0, Run()))
    torch.rand(3)  # whatever the global random state is
    assert records == list(hs.trial(config, 0, Run()))
    assert records != list(hs.trial(config, 1, Run()))
    assert all(np.isfinite(r.value) for r in records)


def test_spectra_measure_every_arm_and_the_slopes_are_those_of_the_counts():
    records = list(hs.trial(SMOKE, 0, Run()))
    trained = {"classes", "widths", "Gauss–Newton part"}
    assert set(values(records, "slope")) == {*trained, *hs.CONTROLS, "one a class", "none a doubling"}
    assert set(values(records, "edge_slope")) == {*trained, *hs.CONTROLS}
    for rule, name in (("outliers", "slope"), ("beyond_edge", "edge_slope")):
        for arm in ("classes", "widths"):
            points = [(r.x, r.value) for r in records if r.metric == rule and r.arm == arm]
            assert [x for x, _ in points] == [1, 2]  # K − 1, and log2 of the widths 2 and 4
            assert values(records, name)[arm] == pytest.approx(points[1][1] - points[0][1])
    assert values(records, "slope")["one a class"] == 1
    assert [r.x for r in records if r.metric == "near_zero"] == [1, 2]
    overlap = values(records, "overlap")["Gauss–Newton part"]
    assert 0 < overlap <= 1
    top = values(records, "top_eigenvalue")
    assert top["a fifth of the Hessian's"] == pytest.approx(0.2 * top["Hessian"])


def test_networks_are_compared_at_the_loss_that_they_first_reach():
    batch = hs.samples(SMOKE, 0, 3, "cpu")
    course = hs.descent(SMOKE, 0, 4, batch, 3, (0.8, 0.5, 0.4))
    losses = list(hs.descend(SMOKE, hs.network(SMOKE, 0, 4, batch, 3), batch))
    for level, (model, step) in course.items():
        loss = F.cross_entropy(model(batch[0]), batch[1]).item()
        assert loss == pytest.approx(losses[step], rel=1e-5)
        assert loss <= level * math.log(3) < losses[step - 1]


def test_levels_out_of_reach():
    batch = hs.samples(SMOKE, 0, 3, "cpu")
    short = dataclasses.replace(SMOKE, max_steps=30)
    assert set(hs.descent(short, 0, 4, batch, 3, (0.8, 1e-6))) == {0.8}  # no claim is made at 1e-6
    with pytest.raises(RuntimeError, match=r"no network of width 4 for 3 classes reached 0\.4 log 3 in 2 steps"):
        hs.descent(dataclasses.replace(SMOKE, max_steps=2), 0, 4, batch, 3, (0.4,))


def test_an_initialisation_that_cannot_learn_is_replaced(monkeypatch):
    batch = hs.samples(SMOKE, 0, 3, "cpu")
    tried, draw = [], hs.network

    def first_is_dead(config, seed, width, batch, k, attempt=0):
        tried.append(attempt)
        model = draw(config, seed, width, batch, k, attempt)
        if attempt == 0:
            nn.init.constant_(model.features[1].bias, -100)
        return model

    monkeypatch.setattr(hs, "network", first_is_dead)
    config = dataclasses.replace(SMOKE, max_steps=300)
    assert hs.descent(config, 0, 8, batch, 3, (0.5,))[0.5][1] > 0
    assert tried == list(range(tried[-1] + 1))
    assert tried[-1] > 0


def test_blobs_are_what_they_are_said_to_be():
    config = hs.Config(samples=40_000)
    x, y = hs.samples(config, 0, 4, "cpu")
    assert x.shape == (40_000, 10)
    assert y.bincount().tolist() == [10_000] * 4
    for label in range(4):
        blob = x[y == label]
        assert blob.mean(0).norm() == pytest.approx(5, abs=0.05)
        assert torch.allclose(torch.cov(blob.T), torch.eye(10), atol=0.06)
    more, _ = hs.samples(config, 0, 8, "cpu")
    assert (x[y == 0].mean(0) - more[::8].mean(0)).norm() < 0.1  # further classes leave the first ones where they are


def test_images_are_the_first_classes_in_principal_components():
    config = hs.Config(case="images")
    x, y = hs.samples(config, 0, 3, "cpu")
    assert sorted(y.unique().tolist()) == [0, 1, 2]
    covariance = torch.cov(x.T)
    assert x.shape[1] == 12
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-3
    assert (covariance.diagonal().diff() < 0).all()
    assert x.square().mean() == pytest.approx(1, rel=1e-5)
    pixels, _ = hs.samples(dataclasses.replace(config, components=0, samples=100), 0, 3, "cpu")
    assert pixels.shape == (100, 64)
    with pytest.raises(ValueError, match="10 classes, fewer"):
        hs.samples(dataclasses.replace(config, width_classes=11), 0, 3, "cpu")


def test_a_spectrum_too_large_to_write_down_reads_the_same():
    torch.manual_seed(0)
    batch = hs.samples(hs.Config(samples=300), 0, 4, "cpu")
    model = MLP(10, (10, 10), 4, activation="tanh")
    for _ in hs.descend(hs.Config(max_steps=40), model, batch):
        pass
    exact = hs.read(hs.Config(), model, batch, 4)
    other = hs.read(hs.Config(exact_up_to=100), model, batch, 4)
    assert other.eigenvalues.shape == (16,)
    assert torch.allclose(other.eigenvalues[:8], exact.eigenvalues[:8], rtol=1e-3)
    assert other.outliers == exact.outliers == split_spectrum(exact.eigenvalues, 4).count
    assert abs(other.beyond_edge - exact.beyond_edge) <= 1
    assert other.near_zero == pytest.approx(exact.near_zero, abs=0.1)


def test_parts_are_those_of_dense_matrices():
    batch = hs.samples(hs.Config(samples=300), 0, 3, "cpu")
    torch.manual_seed(0)
    model = MLP(10, (6, 6), 3, activation="tanh")
    for _ in hs.descend(hs.Config(max_steps=30), model, batch):
        pass
    found = hs.parts(model, batch, 3)
    dense = {
        kind: CurvatureOperator(model, F.cross_entropy, batch, kind, dtype=torch.float64).to_dense()
        for kind in ("hessian", "ggn", "residual")
    }
    ours, theirs = (torch.linalg.eigh(dense[kind])[1][:, -2:] for kind in ("hessian", "ggn"))
    assert found.overlap == pytest.approx(float((ours.T @ theirs).square().sum()) / 2, rel=1e-6)
    assert found.whole == pytest.approx(float(torch.linalg.eigvalsh(dense["hessian"])[-1]), rel=1e-6)
    assert found.residual == pytest.approx(float(torch.linalg.eigvalsh(dense["residual"])[-1]), rel=1e-5)


def test_the_switch_measures_both_ways_and_noise_is_noise():
    run = Run()
    config = dataclasses.replace(SMOKE, case="noisy")
    records = list(hs.trial(config, 0, run))
    steps = [r.x for r in records if r.metric == "train_loss"]
    assert steps == [0, 10, 20, 30, 40]
    assert set(values(records, "relative_barrier")) == {"switch", "another start", "5 % of the gap"}
    assert set(values(records, "sharpness")) == {"large batch", "small batch"}
    t, train_loss, _ = run.arrays["path of switch"]
    assert (t[0], t[-1]) == (0, 1)
    at_ends = [r.value for r in records if r.metric == "train_loss" and r.x in (20, 40)]
    assert train_loss[[0, -1]].tolist() == pytest.approx(at_ends)
    assert values(records, "distance")["another start"] > values(records, "distance")["switch"] > 0
    noisy, _, _ = hs.switch_samples(dataclasses.replace(config, train_samples=1500), 0, "cpu")
    clean, _, _ = hs.switch_samples(dataclasses.replace(config, train_samples=1500, case="clean"), 0, "cpu")
    assert torch.equal(noisy[0], clean[0])
    changed = float((noisy[1] != clean[1]).float().mean())
    assert changed == pytest.approx(0.3 * 0.9, abs=0.04)  # a tenth of random labels are the right ones


def test_configs_are_checked():
    for field, bad, match in (
        ("case", "spirals", "spirals"),
        ("net", "vgg", "'mlp' or 'convnet'"),
        ("lr", 0.0, r"lr=0\.0"),
        ("components", -1, "components=-1"),
        ("classes", (3,), "at least two"),
        ("classes", (1, 3), "two classes each"),
        ("level", 0.2, "must be below 1, and have"),
        ("levels", (1.0, 0.15, 0.05), "must be below 1"),
        ("points", -3, "points=-3"),
    ):
        with pytest.raises(ValueError, match=match):
            hs.Config(**{field: bad})


def test_the_paper_preset_builds_and_takes_steps():
    paper = hs.study.presets["paper"].config
    small = dataclasses.replace(
        paper, data="digits", samples=60, classes=(2, 3), width=4, widths=(3, 5), width_classes=3, levels=(0.95, 0.9),
        level=0.95, low=0.9, exact_up_to=200, switch_data="digits?limit=120", large_batch=60, small_batch=20,
        large_steps=2, small_steps=2, every=2, points=3, evaluation_batch=50,
    )  # fmt: skip
    for case in ("images", "clean"):
        records = list(hs.trial(dataclasses.replace(small, case=case), 0, Run()))
        assert all(np.isfinite(r.value) for r in records)
    model = hs.bare_alexnet(3, 32, 10)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert model(torch.zeros(1, 3, 32, 32)).numel() == 10
