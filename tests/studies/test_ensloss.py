"""The EnsLoss study: its samples, its training against a plain loop, what it records, its paper preset, its figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from landform import data
from landform.studies import ensloss
from landform.studies.ensloss import FIXED, MAIN, Config, arms_of, parts, study, task_named, train
from landform.study import Arrays, Record, Run, Saved
from landform.training.many import Stack

QUICK = Config(epochs=2, widths=(16, 16), curve_every=1)
TWO_RATES = replace(QUICK, learning_rates=(0.01, 0.1))


def chosen(config: Config, rate: float) -> Run:
    return Run(chosen=dict.fromkeys(arms_of(config), str(rate)))


# --- the samples -------------------------------------------------------------------------------------------------


def rows(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


@pytest.mark.parametrize("task", study.conditions["task"])
def test_training_and_test_samples_are_apart_and_new_for_each_seed(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensloss, "scaled", lambda config, x, held_x: (x.flatten(1), held_x.flatten(1)))
    config = replace(QUICK, task=task)
    (one,), (again,), (other,) = (parts(config, seed, tuning=False) for seed in (0, 0, 1))
    assert len(one.x) == len(one.y) == task_named(task).size
    assert len(one.held_y) > 100
    assert not rows(one.x) & rows(one.held_x)
    assert torch.equal(one.x, again.x)
    assert torch.equal(one.y, again.y)
    assert rows(one.x) != rows(other.x)


def test_folds_divide_the_training_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensloss, "scaled", lambda config, x, held_x: (x.flatten(1), held_x.flatten(1)))
    (whole,) = parts(QUICK, 5, tuning=False)
    folds = parts(QUICK, 5, tuning=True)
    assert [len(fold.held_y) for fold in folds] == [100, 100, 100]
    assert all(rows(fold.x) | rows(fold.held_x) == rows(whole.x) for fold in folds)
    assert sum(len(rows(fold.held_x)) for fold in folds) == len(rows(whole.x))


def test_labels_say_which_side_a_sample_is_on() -> None:
    digits = data.merge(*data.load("digits").values())
    x, y, outputs = ensloss.labelled(digits, task_named(MAIN))
    assert torch.equal(y, (digits.y % 2 == 0).long())
    assert (len(x), outputs) == (1797, 1)
    x, y, _ = ensloss.labelled(digits, task_named("3-8"))
    assert torch.equal(x, digits.x[(digits.y == 3) | (digits.y == 8)])
    assert int(y.sum()) == int((digits.y == 8).sum())
    assert ensloss.labelled(digits, task_named("all-classes"))[2] == 10


def test_only_training_labels_are_flipped() -> None:
    (clean,) = parts(replace(QUICK, task=MAIN), 0, tuning=False)
    (flipped,) = parts(replace(QUICK, task="even-odd-flipped"), 0, tuning=False)
    assert torch.equal(clean.x, flipped.x)
    assert torch.equal(clean.held_y, flipped.held_y)
    share = (clean.y != flipped.y).double().mean().item()
    assert share == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 300))


def test_vectors_are_standardised_by_the_training_samples_alone() -> None:
    x, held_x = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[5.0, 6.0], [100.0, 4.0]])
    scaled, held = ensloss.scaled(QUICK, x, held_x)
    root = math.sqrt(2)
    torch.testing.assert_close(scaled, torch.tensor([[-1 / root, 0], [1 / root, 0]]))
    torch.testing.assert_close(held, torch.tensor([[3 / root, 1], [5, -1]]))


@pytest.mark.parametrize("task", ["odd-even", "3-3", "3", "-1-2"])
def test_unknown_tasks_are_named(task: str) -> None:
    with pytest.raises(ValueError, match="task="):
        Config(task=task)


@pytest.mark.parametrize(("name", "value"), [("learning_rates", ()), ("folds", 1), ("epochs", 0), ("together", 0)])
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        replace(QUICK, **{name: value})  # type: ignore[arg-type]


# --- training ----------------------------------------------------------------------------------------------------


def plain_loop(config: Config, arm: str, seed: int) -> nn.Module:
    """The training of one arm as anybody would write it, with PyTorch's own losses and gradient clipping."""
    (part,) = parts(config, seed, tuning=False)
    net = Stack.from_factory(lambda: ensloss.network(config, part.x.shape[1:], 1), 1, seed).module(0).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.03, momentum=0.9, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        order = torch.randperm(len(part.y), generator=generator)
        for start in range(0, len(part.y) - config.batch_size + 1, config.batch_size):
            batch = order[start : start + config.batch_size]
            f, sign = net(part.x[batch]).squeeze(1), 2.0 * part.y[batch] - 1
            if arm == "bce":
                loss = nn.functional.binary_cross_entropy_with_logits(f, part.y[batch].float())
            else:
                loss = {"hinge": nn.functional.relu(1 - sign * f), "exponential": (-sign * f).exp()}[arm].mean()
            optimizer.zero_grad()
            loss.backward()
            if arm == "exponential":
                nn.utils.clip_grad_norm_(net.parameters(), config.exponential_clip)
            optimizer.step()
        schedule.step()
    return net.eval()


@pytest.mark.parametrize("arm", FIXED)
def test_training_together_is_training_alone(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores after training in one stack with all arms equal those of a plain loop over one network."""
    config = replace(QUICK, epochs=3, exponential_clip=0.5)
    (part,) = parts(config, 0, tuning=False)
    kept: dict[str, Stack] = {}
    monkeypatch.setattr(ensloss, "accuracies", lambda stack, x, y: kept.update(stack=stack) or [0.0] * 9)
    arms = arms_of(config)
    train(config, arms, 0.03, part, 0, "cpu")
    net = plain_loop(config, arm, 0)
    with torch.no_grad():
        alone = net(part.held_x).squeeze(1)
        together = kept["stack"].module(arms.index(arm)).eval()(part.held_x).squeeze(1)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_only_sorted_slopes_are_calibrated() -> None:
    (part,) = parts(QUICK, 0, tuning=False)
    outcomes = train(QUICK, arms_of(QUICK), 0.01, part, 0, "cpu")
    drawn = {arm: outcome.violations for arm, outcome in outcomes.items() if outcome.violations is not None}
    shuffled = drawn.pop("shuffled")
    assert shuffled > 100
    assert drawn == dict.fromkeys(("ensloss", "no_tail", "no_clip", "random_lambda"), 0)
    example = outcomes["ensloss"].example
    assert example is not None
    assert example.shape == (2, QUICK.batch_size)
    assert example[1].min() >= -1 - 2e-6


def test_shuffled_has_the_slopes_of_ensloss_in_another_order() -> None:
    """Where no margin reaches the tail, the same generator gives both the same multiset of slopes."""
    margins = torch.linspace(-1, 1, 50, dtype=torch.float64, requires_grad=True)
    slopes = {}
    for arm in ("ensloss", "shuffled"):
        loss = ensloss.DRAWN[arm](generator=torch.Generator().manual_seed(0))
        (slopes[arm],) = torch.autograd.grad(loss.phi(margins).sum(), margins)
    assert not torch.equal(slopes["ensloss"], slopes["shuffled"])
    torch.testing.assert_close(slopes["ensloss"], slopes["shuffled"].sort().values, rtol=0, atol=1e-15)


def test_batches_cover_an_epoch_once() -> None:
    def sizes(n: int, *, drop_last: bool) -> list[int]:
        config = replace(QUICK, batch_size=64, drop_last=drop_last)
        pieces = ensloss.batches(n, config, torch.Generator().manual_seed(0))
        assert len(torch.cat(pieces).unique()) == sum(map(len, pieces))
        return [len(piece) for piece in pieces]

    assert sizes(150, drop_last=True) == [64, 64]
    assert sizes(150, drop_last=False) == [64, 64, 22]
    assert sizes(128, drop_last=True) == [64, 64]
    assert sizes(40, drop_last=True) == [40]


# --- what is recorded --------------------------------------------------------------------------------------------


def named(records: Iterator[Record] | list[Record]) -> dict[tuple[str, str, str | None], float]:
    return {(r.arm, r.metric, r.setting): r.value for r in records if r.x is None}


def test_tuning_seeds_measure_every_setting_on_folds_alone() -> None:
    found = named(study.run_trial(TWO_RATES, 1_000_000, Run()))  # type: ignore[misc]
    assert set(found) == {(arm, "validation_accuracy", rate) for arm in arms_of(TWO_RATES) for rate in ("0.01", "0.1")}


def test_reported_seeds_measure_the_chosen_setting() -> None:
    run = chosen(TWO_RATES, 0.1)
    records = list(study.run_trial(TWO_RATES, 0, run))  # type: ignore[misc]
    assert {r.setting for r in records} == {"0.1"}
    assert {r.arm for r in records if r.metric == "accuracy" and r.x is None} == set(arms_of(TWO_RATES))
    assert {r.x for r in records if r.arm == "bce" and r.x is not None} == {1.0, 2.0}
    curve = {r.x: r.value for r in records if r.arm == "bce" and r.x is not None}
    assert curve[2] == named(records)["bce", "accuracy", "0.1"]
    assert run.arrays["batch"].shape == (2, 64)


def test_one_rate_for_all_leaves_nothing_to_tune() -> None:
    config = replace(TWO_RATES, task="even-odd-one-rate")
    tuning = named(study.run_trial(config, 1_000_000, Run()))  # type: ignore[misc]
    assert set(tuning) == {(arm, "validation_accuracy", "0.01") for arm in arms_of(config)}
    reported = named(study.run_trial(config, 0, chosen(config, 0.01)))  # type: ignore[misc]
    assert ("ensloss", "accuracy", "0.01") in reported


def test_smoke_measures_every_arm_of_every_task() -> None:
    preset = study.presets["smoke"]
    for task in study.conditions["task"]:
        config = replace(preset.config, task=task)
        found = named(study.run_trial(config, 0, Run()))  # type: ignore[misc]
        assert {arm for arm, metric, _ in found if metric == "accuracy"} == set(arms_of(config))
        assert all(0 <= value <= 1 for (_, metric, _), value in found.items() if metric != "violations")
        assert found.get(("ensloss", "violations", "0.01"), 0) == 0


# --- the paper's scale -------------------------------------------------------------------------------------------


def stand_in(uri: str) -> dict[str, data.Split]:
    """Ten classes of noise in the shape of CIFAR-10."""
    assert uri == "hf:cifar10"
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 10
    x = torch.rand(80, 3, 32, 32, generator=generator)
    split = data.Split(x, y, classes=tuple("abcdefghij"))
    return {"train": split, "test": split[:40]}


def test_paper_preset_takes_an_epoch_of_a_small_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", stand_in)
    paper = study.presets["paper"].config
    config = replace(paper, task="3-5", channels=(4, 4, 8, 8), epochs=1, batch_size=8)
    (part,) = parts(config, 0, tuning=False)
    assert part.x.shape == (16, 3, 32, 32)
    assert part.x.min() >= -1
    assert part.x.max() <= 1
    assert part.x.min() < -0.9
    found = named(study.run_trial(config, 0, Run()))  # type: ignore[misc]
    assert {arm for arm, metric, _ in found if metric == "accuracy"} == {"ensloss", *FIXED, "focal"}


def test_paper_network_is_the_released_one() -> None:
    """The ResNet34 of 21,797,672 parameters, its last layer of 513,000 replaced by two: 512 x 512 and 512 x 1."""
    with torch.device("meta"):
        net = ensloss.network(study.presets["paper"].config, torch.Size([3, 32, 32]), 1)
    assert sum(p.numel() for p in net.parameters()) == 21_797_672 - 513_000 + (512 * 512 + 512) + (512 + 1)


# --- the figure --------------------------------------------------------------------------------------------------


def frame(tasks: tuple[str, ...], seeds: int) -> pd.DataFrame:
    generator = torch.Generator().manual_seed(0)
    found = []
    for task in tasks:
        for seed in range(seeds):
            for arm in arms_of(Config(task=task)):
                for x in (None, *((5.0, 10.0) if task == MAIN else ())):
                    value = 0.95 + 0.01 * torch.randn((), generator=generator).item()
                    found.append({"arm": arm, "metric": "accuracy", "value": value, "x": x, "seed": seed, "task": task})
    return pd.DataFrame(found).assign(role="reported", setting="0.01", unit=None)


@pytest.mark.parametrize(
    ("tasks", "seeds", "drawn"),
    [(study.conditions["task"], 3, (6, 9 * 3 + 2, 5)), ((MAIN,), 1, (6, 3, 5)), (("3-8",), 2, (0, 3, 0))],
)
def test_figure_draws_what_there_is(tasks: tuple[str, ...], seeds: int, drawn: tuple[int, int, int]) -> None:
    saved = [Saved("batch", 0, {"task": MAIN}, torch.randn(2, 64).numpy())] if MAIN in tasks else []
    fig = study.draw(frame(tasks, seeds), Arrays(saved))  # type: ignore[misc]
    fig.canvas.draw()
    curves, differences, ablations = fig.axes[:3]
    assert (len(curves.get_lines()), len(differences.containers), len(ablations.containers)) == drawn
    rows = [text.get_text() for text in differences.get_yticklabels()]
    assert rows[: len(tasks) - ("all-classes" in tasks)] == [task for task in tasks if task != "all-classes"]
