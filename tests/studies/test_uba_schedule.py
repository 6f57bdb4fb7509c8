"""The UBA study: its grids and rates, its tasks, what it records, its paper preset, its figure."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from landform import data
from landform.data import Split
from landform.models.resnet import ResNet
from landform.models.transformer import ByteTransformer, count_parameters
from landform.optim.quadratic import worst_case_residual
from landform.optim.schedules import cosine_factor, uba_factor
from landform.studies import uba_schedule
from landform.studies.uba_schedule import (
    BASELINES,
    BUDGETS,
    SEARCHED,
    Config,
    Setting,
    ShiftAndMirror,
    grids,
    learn,
    measure,
    noisy_quadratic,
    rates,
    study,
    trial,
)
from landform.study import Arrays, Record, Run, Saved

LAPTOP = study.presets["laptop"].config
SMALL = replace(
    study.presets["smoke"].config, image_updates=6, logistic_updates=6, text_updates=4, train_size=200, batch_size=20
)
LEARNED = ("logistic", "images", "text")


def at(config: Config, task: str, **changes: Any) -> Config:
    return replace(config, task=task, **changes)


def chosen(config: Config, place: int = 0) -> Run:
    return Run(chosen={arm: str(grid[place]) for arm, grid in grids(config).items()})


# --- grids and rates


@pytest.mark.parametrize("task", study.conditions["task"])
def test_every_arm_has_as_many_settings_over_the_same_range(task: str) -> None:
    config = at(LAPTOP, task)
    every = grids(config)
    assert set(every) == {"uba", "menu", "uba-5", *BASELINES}
    assert {len(grid) for grid in every.values()} == {20}
    for grid in every.values():
        assert len({str(setting) for setting in grid}) == 20
        assert min(s.peak for s in grid) == pytest.approx(config.peaks[0])
        assert max(s.peak for s in grid) == pytest.approx(config.peaks[-1])
    assert {(s.shape, s.peak) for s in every["uba"]} == set(itertools.product(config.phis, config.peaks))
    assert {(s.shape, s.peak) for s in every["menu"]} == set(itertools.product(BASELINES, config.peaks))
    assert {s.shape for s in every["uba-5"]} == {5.0}
    assert all({s.shape for s in every[name]} == {name} for name in BASELINES)


def test_rates_of_a_task_without_floor_or_warm_up() -> None:
    config = at(LAPTOP, "images", budget=0.25)
    cosine = rates(config, Setting("cosine", 0.2))
    np.testing.assert_allclose(cosine, 0.2 * (1 + np.cos(np.pi * np.arange(60) / 60)) / 2, atol=1e-15)
    np.testing.assert_allclose(rates(config, Setting(2.0, 0.2)), cosine, atol=1e-15)
    assert rates(config, Setting("step", 1.0))[[0, 29, 30, 44, 45, 59]] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_rates_of_text_warm_up_and_keep_a_floor_for_every_arm() -> None:
    config = at(LAPTOP, "text", text_updates=100)
    for shape in (5.0, *BASELINES):
        row = rates(config, Setting(shape, 0.01))
        assert row.shape == (100,)
        np.testing.assert_allclose(row[:10], row[10] * np.arange(1, 11) / 10, rtol=1e-12)
        assert row.min() >= 0.001 * min(1, 10 * row[0])
    uba = rates(config, Setting(5.0, 0.01))
    np.testing.assert_allclose(uba[10:], 0.001 + 0.009 * uba_factor(np.arange(90) / 90, 5.0), atol=1e-15)


def test_budgets_are_shares_of_the_updates() -> None:
    assert [at(LAPTOP, "images", budget=budget).updates for budget in BUDGETS] == [60, 120, 240]


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": 0.0},
        {"budget": 1.5},
        {"phis": ()},
        {"phis": (0.0, 1.0, 2.0, 3.0, 4.0)},
        {"phis": (1.0, 2.0)},
        {"kappas": ()},
        {"kappas": (0.5,)},
        {"image_peaks": (0.1,)},
        {"text_peaks": (0.1, 0.1)},
        {"quadratic_peaks": (2.0, 1.0)},
        {"text_warmup": 1.0},
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(LAPTOP, **changes)


# --- quadratics


def test_curvatures_span_the_condition_number() -> None:
    problem = noisy_quadratic(LAPTOP, 100.0, seed=3)
    assert problem.condition_number == pytest.approx(100)
    assert problem.spectrum.max().item() == 1.0
    spread = torch.log(torch.stack([noisy_quadratic(LAPTOP, 100.0, s).spectrum for s in range(40)])).flatten()
    assert spread.mean().item() == pytest.approx(-math.log(100) / 2, abs=0.1)  # log-uniform


def test_quadratics_record_exact_expected_losses() -> None:
    config = at(SMALL, "quadratics")
    setting = grids(config)["linear"][1]
    record = next(r for r in trial(config, 5, chosen(config, 1)) if r.arm == "linear" and r.metric == "loss")
    problem = noisy_quadratic(config, config.kappa, 5)
    moments = problem.start**2
    for eta in rates(config, setting):
        moments = (1 - eta * problem.spectrum) ** 2 * moments + eta**2 * config.gradient_noise**2
    assert record.value == pytest.approx(float((problem.spectrum * moments).sum() / 2), rel=1e-12)
    assert record.setting == str(setting)


# The published worst cases: Chebyshev's, and cosine's with the best extreme rates on the endpoint grid.
@pytest.mark.parametrize(
    ("updates", "kappa", "least", "cosine"), [(10, 10.0, 0.00286, 0.061), (30, 100.0, 0.0049, 0.44)]
)
def test_minimax_finds_twice_the_condition_number(updates: int, kappa: float, least: float, cosine: float) -> None:
    config = at(LAPTOP, "quadratics", quadratic_updates=updates, kappas=(kappa,), kappa=kappa)
    run = Run()
    records = {(r.arm, r.metric): r.value for r in uba_schedule.minimax(config, run)}
    assert records["2 kappa", "minimax_gap"] < 1e-11
    assert 10 ** records["worst case", "log_best_phi"] == pytest.approx(2 * kappa)
    assert 10 ** records["2 kappa", "log_worst_case"] == pytest.approx(least, rel=0.01)
    assert run.arrays["residuals"].shape == (len(run.arrays["phis"]), len(run.arrays["curvatures"]))
    assert run.arrays["phis"].tolist() == [*uba_schedule.PHIS, 2 * kappa]

    u = cosine_factor((np.arange(updates) + 0.5) / updates)

    def worst(log_extremes: np.ndarray) -> float:
        high, low = np.exp(log_extremes)
        return float(worst_case_residual(low + (high - low) * u, 1 / kappa, 1.0))

    starts = itertools.product(np.log([2, kappa / 2, kappa]), np.log([0.1, 0.5, 1]))
    optimum = min(minimize(worst, start, method="Nelder-Mead", options={"maxiter": 150}).fun for start in starts)
    assert optimum == pytest.approx(cosine, rel=0.13)  # the midpoint grid is a little better
    assert optimum * (1 - 1e-6) <= 10 ** records["phi = 2", "log_worst_case"] <= 1.07 * optimum


def test_best_in_expectation_by_brute_force() -> None:
    config = at(LAPTOP, "quadratics", quadratic_updates=8, kappas=(10.0,), curvatures=4)
    (record,) = uba_schedule.best_in_expectation(config, seed=2)
    problem = noisy_quadratic(config, 10.0, 2)
    least = {}
    for phi in SEARCHED:
        losses = [
            float(problem.expected_loss([peak * uba_factor(t / 8, phi) for t in range(8)])[-1])
            for peak in 2.0 ** np.arange(-3, math.log2(10) + 1.5, 0.5)
        ]
        least[phi] = min(losses)
    assert 10**record.value == pytest.approx(min(least, key=least.__getitem__))
    assert record.x == 1.0


# --- the learning tasks


def test_regression_is_as_ill_conditioned_as_said() -> None:
    config = at(LAPTOP, "logistic")
    problem = uba_schedule.logistic(config, 0, tuning=False)
    x = problem.x.double()
    covariance = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
    wanted = 1000 ** -torch.linspace(0, 1, 40).double()
    torch.testing.assert_close(covariance, wanted, rtol=1e-3, atol=0)
    # At the start, where all classes are equally likely, that is the condition number of the loss itself, but for
    # the direction that moves all logits alike.
    network = problem.network().double()
    assert all((p == 0).all() for p in network.parameters())

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x @ weight.view(10, 40).T, problem.y)

    hessian = torch.autograd.functional.hessian(loss, torch.zeros(400, dtype=torch.float64))
    curvatures = torch.linalg.eigvalsh(hessian).flip(0)
    assert float(curvatures[0] / curvatures[359]) == pytest.approx(1000, rel=1e-3)
    assert float(curvatures[360]) < 1e-6 * float(curvatures[0])


def test_images_are_apart_and_only_training_labels_are_wrong() -> None:
    splits = data.load("digits")
    truth = {row.numpy().tobytes(): int(y) for row, y in zip(splits["train"].x, splits["train"].y, strict=True)}
    x, y, held_x, held_y, classes = uba_schedule.images_of("digits", 900, 0.1, 4, tuning=True)
    right = torch.tensor([truth[row.numpy().tobytes()] for row in x])
    assert (len(x), classes) == (900, 10)
    assert (right != y).double().mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 900))
    assert [truth[row.numpy().tobytes()] for row in held_x] == held_y.tolist()
    assert not {row.numpy().tobytes() for row in x} & {row.numpy().tobytes() for row in held_x}
    test = uba_schedule.images_of("digits", 900, 0.1, 4, tuning=False)
    assert torch.equal(test[0], x)
    assert torch.equal(test[2], splits["test"].x)
    assert not torch.equal(uba_schedule.images_of("digits", 900, 0.1, 5, tuning=False)[0], x)
    with pytest.raises(ValueError, match="train_size=2000"):
        uba_schedule.images_of("digits", 2000, 0.1, 0, tuning=True)


@pytest.mark.parametrize("task", LEARNED)
def test_test_data_are_not_touched_when_tuning(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = data.load

    def without_test(uri: str) -> dict[str, Split]:
        return {name: split for name, split in load(uri).items() if name != "test"}

    config = at(SMALL, task, budget=0.5)
    monkeypatch.setattr(data, "load", without_test)
    records = list(trial(config, 0, Run()))
    assert {r.setting for r in records if r.arm == "uba"} == {str(s) for s in grids(config)["uba"]}
    assert all(math.isfinite(r.value) for r in records)
    with pytest.raises(KeyError):
        list(trial(config, 0, chosen(config)))


@pytest.mark.parametrize("task", LEARNED)
def test_runs_share_start_and_batches_whatever_trains_beside_them(task: str) -> None:
    config = at(SMALL, task, budget=0.5)
    peak = config.peaks[0]
    table = np.stack([rates(config, Setting(shape, peak)) for shape in ("cosine", 2.0, "rex")])
    stacked = learn(config, table, 7, Run())
    assert stacked[0]["loss"] == pytest.approx(stacked[1]["loss"], rel=1e-5)
    assert stacked[0]["loss"] != pytest.approx(stacked[2]["loss"], rel=1e-5)
    alone = learn(replace(config, together=1), table, 7, Run())
    for one, other in zip(stacked, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert learn(config, table[2:], 7, Run())[0]["loss"] == pytest.approx(stacked[2]["loss"], rel=1e-4)
    assert learn(config, table[2:], 8, Run())[0]["loss"] != pytest.approx(stacked[2]["loss"], rel=1e-4)


def test_training_is_momentum_sgd_at_the_rates_of_the_table() -> None:
    """On one batch of all samples the order does not matter, and a plain loop must give the same."""
    config = at(SMALL, "images", batch_size=200, weight_decay=1e-3)
    row = rates(config, Setting("step", 0.1))
    problem = uba_schedule.images(config, 1, tuning=False)
    network = uba_schedule.Stack.from_factory(problem.network, 1, 1).module(0)
    optimizer = torch.optim.SGD(network.parameters(), 1.0, momentum=0.9, weight_decay=1e-3)
    for rate in row:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(network(problem.x), problem.y).backward()
        optimizer.step()
    (found,) = learn(replace(config), row[None], 1, Run(chosen={"any": "thing"}))
    with torch.no_grad():
        logits = network(problem.held_x)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, problem.held_y).item(), rel=1e-4)
    assert found["log_loss"] == pytest.approx(math.log(found["loss"]))
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == problem.held_y).double().mean().item(), abs=0.005)


def test_text_is_measured_on_the_same_stretches_always() -> None:
    config = at(SMALL, "text")
    one, other = (uba_schedule.text(config, seed, tuning=False) for seed in (0, 1))
    assert torch.equal(one.held_x, other.held_x)
    assert torch.equal(one.x[5, 1:], one.y[5, :-1])
    assert torch.equal(one.held_x[:, 1:], one.held_y[:, :-1])
    assert len(one.x) == len(one.y)
    outcome = measure(one.network(), one, "cpu")
    assert outcome["loss"] == pytest.approx(math.log(256), abs=0.1)
    assert "accuracy" not in outcome


def test_shift_and_mirror() -> None:
    x = torch.arange(2 * 3 * 5 * 6).view(2, 3, 5, 6).float() + 1
    augment = ShiftAndMirror()
    assert torch.equal(augment.eval()(x), x)
    torch.manual_seed(0)
    seen = [augment.train()(x) for _ in range(60)]
    padded = F.pad(x, (4, 4, 4, 4))
    allowed = {}
    for top, left, mirror in itertools.product(range(9), range(9), (False, True)):
        piece = padded[:, :, top : top + 5, left : left + 6]
        allowed[(piece.flip(3) if mirror else piece)[0].numpy().tobytes()] = (top, left, mirror)
    found = [allowed[image[0].numpy().tobytes()] for image in seen]
    assert {mirror for *_, mirror in found} == {False, True}
    assert {top for top, *_ in found} == set(range(9)) == {left for _, left, _ in found}
    assert any((image[0] == 0).sum() != (image[1] == 0).sum() for image in seen)  # each image by itself


# --- records


def test_reported_seeds_measure_the_chosen_setting_and_probe_two_shapes() -> None:
    config = at(SMALL, "images")
    records = list(trial(config, 0, chosen(config, 1)))
    losses = [r for r in records if r.metric == "loss"]
    assert [(r.arm, r.setting) for r in losses] == [(arm, str(grid[1])) for arm, grid in grids(config).items()]
    gains = {r.x: r.value for r in records if r.metric == "early_decay_gain"}
    assert set(gains) == {None, *np.log10(config.image_peaks)}
    table = np.stack([rates(config, Setting(phi, config.image_peaks[1])) for phi in (0.5, 10.0)])
    late, early = learn(config, table, 0, Run(chosen={"any": "thing"}))
    assert gains[math.log10(config.image_peaks[1])] == pytest.approx(late["log_loss"] - early["log_loss"], abs=1e-4)
    assert gains[None] == pytest.approx(np.mean([gains[x] for x in gains if x is not None]))


def test_log_losses_of_quadratics_are_kept_apart_from_those_of_learning() -> None:
    config = at(SMALL, "quadratics")
    metrics = {r.metric for r in trial(config, 0, chosen(config))}
    assert "log_expected_loss" in metrics
    assert "log_loss" not in metrics


# --- the paper's scale


def test_paper_preset_takes_a_step_on_a_small_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def stand_in(uri: str) -> dict[str, Split]:
        if uri == "corpus":
            stream = torch.randint(0, 256, (400,), dtype=torch.uint8, generator=generator)
            return dict.fromkeys(("train", "validation", "test"), Split(stream[:-1], stream[1:]))
        assert uri in ("hf:cifar10", "digits")
        x = torch.rand(24, 3, 32, 32, generator=generator)
        split = Split(x, torch.arange(24) % 10, classes=tuple("abcdefghij"))
        return {"train": split, "test": split}

    monkeypatch.setattr(data, "load", stand_in)
    paper = study.presets["paper"].config
    images = at(paper, "images", image_updates=2, batch_size=4, train_size=16, widths=(4, 4, 8, 8), budget=0.5)
    text = at(paper, "text", text_updates=2, context=16, sequences=2, held_sequences=2, d_model=16, n_layer=2, n_head=2)
    for config in (images, text):
        records = list(trial(config, 0, chosen(config)))
        assert {r.arm for r in records} == {"uba", "menu", "uba-5", *BASELINES}
        assert all(math.isfinite(r.value) for r in records)


def test_paper_networks_are_of_the_papers_size(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(torch.rand(45_001, 3, 1, 1), torch.zeros(45_001).long(), classes=tuple("abcdefghij"))
    monkeypatch.setattr(data, "load", lambda uri: {"train": split, "test": split})
    paper = study.presets["paper"].config
    assert paper.image_updates * paper.batch_size / paper.train_size == pytest.approx(300, abs=1)
    problem = uba_schedule.images(paper, 0, tuning=False)
    with torch.device("meta"):
        augment, network = problem.network()  # type: ignore[misc]
        language = ByteTransformer(paper.d_model, paper.n_layer, paper.n_head, paper.context)
    assert isinstance(augment, ShiftAndMirror)
    assert isinstance(network, ResNet)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962  # ResNet-18 for CIFAR-10
    assert 30e6 < count_parameters(language) < 300e6


# --- the figure


@pytest.mark.parametrize(("tasks", "seeds"), [(study.conditions["task"], 3), (("images",), 1), (("quadratics",), 2)])
def test_figure_draws_what_there_is(tasks: tuple[str, ...], seeds: int) -> None:
    rows, saved = [], []
    for task, budget, seed in itertools.product(tasks, BUDGETS, range(seeds)):
        config = at(SMALL, task, budget=budget)
        run = chosen(config)
        columns = {"seed": seed, "role": "reported", "task": task, "budget": budget}
        rows += [vars(record) | columns for record in recorded(config, seed, run)]
        saved += [Saved(name, seed, {"task": task, "budget": budget}, array) for name, array in run.arrays.items()]
    assert study.draw is not None
    figure = study.draw(pd.DataFrame(rows), Arrays(saved))
    drawn = {ax.get_title(loc="left") or ax.get_title(): ax for ax in figure.axes}
    for task in study.conditions["task"]:
        assert bool(drawn[task].containers) == (task in tasks)
    plt.close(figure)


def recorded(config: Config, seed: int, run: Run) -> list[Record]:
    if config.task == "quadratics":
        return list(trial(config, seed, run))
    # Any numbers serve for a drawing.
    value = partial(np.random.default_rng(seed).normal, 1.0, 0.1)
    records = [Record(arm, "log_loss", value()) for arm in ("uba", "menu", "uba-5", *BASELINES)]
    if config.task == "images":
        records += [Record("uba", "early_decay_gain", value(), x=math.log10(peak)) for peak in config.peaks]
    return records


def test_cosine_is_the_shape_all_are_compared_with() -> None:
    assert BASELINES["cosine"] is cosine_factor
