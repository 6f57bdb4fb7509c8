"""The LDR study: its samples, its training against a plain loop, what it records, its paper preset, its figure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from landform import data
from landform.losses import AdaptiveLDRKLLoss, GCELoss, LDRKLLoss, TruncatedGCELoss
from landform.studies.ldr_losses import (
    FIXED,
    LOSSES,
    NOISE,
    Config,
    Setting,
    augmented,
    grid,
    network,
    samples,
    study,
    train,
)
from landform.study import Arrays, Run, Saved
from landform.training.many import Stack

QUICK = Config(train_size=150, epochs=2, hidden=8)


def chosen(config: Config) -> Run:
    return Run(chosen={arm: str(grid(config, arm)[2]) for arm in LOSSES})


# --- settings and samples ----------------------------------------------------------------------------------------


def test_every_loss_has_six_settings() -> None:
    grids = [grid(Config(), arm) for arm in LOSSES]
    assert len(grids) == 15
    assert {len({str(setting) for setting in each}) for each in grids} == {6}
    assert {len(grid(study.presets["paper"].config, arm)) for arm in LOSSES} == {9}


def test_only_training_labels_are_noisy() -> None:
    clean, noisy = (samples(replace(QUICK, noise=noise), 3, False) for noise in ("none", "uniform-0.6"))
    assert torch.equal(clean.x, noisy.x)
    assert torch.equal(clean.held_y, noisy.held_y)
    assert torch.equal(noisy.corrupted, clean.y != noisy.y)
    assert not clean.corrupted.any()
    assert noisy.corrupted.double().mean().item() == pytest.approx(0.54, abs=0.12)


def test_validation_is_a_noisy_fifth_of_the_training_samples() -> None:
    config = replace(QUICK, noise="dependent-0.3")
    whole, part = samples(config, 3, False), samples(config, 3, True)
    assert (len(part.x), len(part.held_x)) == (120, 30)
    assert torch.equal(torch.cat([part.held_y, part.y]), whole.y)
    assert torch.equal(part.corrupted, whole.corrupted[30:])


def test_dependent_noise_is_cyclic_or_between_pairs() -> None:
    clean = samples(QUICK, 0, False).y
    cyclic = samples(replace(QUICK, noise="dependent-0.3"), 0, False)
    assert torch.equal(cyclic.y[cyclic.corrupted], (clean[cyclic.corrupted] + 1) % 10)
    pairs = samples(replace(QUICK, noise="dependent-0.3", pairs=("1-3", "2-6")), 0, False)
    assert set(zip(clean[pairs.corrupted].tolist(), pairs.y[pairs.corrupted].tolist(), strict=True)) == {
        (1, 3), (3, 1), (2, 6), (6, 2)
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": "gaussian"},
        {"noise": "uniform-1.5"},
        {"pairs": ("1",)},
        {"parameters": 2},
        {"other_rates": (0.3,)},
        {"learning_rates": (-0.1, 0.1)},
        {"epochs": 0},
        {"validation": 1.0},
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(QUICK, **changes)


# --- training ----------------------------------------------------------------------------------------------------


def plain_loop(config: Config, arm: str, setting: Setting, seed: int) -> torch.nn.Module:
    """One arm's training as anybody would write it: modules in training mode, with samples' numbers."""
    part = samples(config, seed, False)
    net = Stack.from_factory(lambda: network(config, part.x.shape[1:], part.classes), 1, seed).module(0)
    optimizer = torch.optim.SGD(net.parameters(), setting.rate, momentum=0.9, weight_decay=config.weight_decay)
    milestones = [int(share * config.epochs) for share in config.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    n = len(part.y)
    parameter = setting.parameter or 0.0
    adaptive, truncated = AdaptiveLDRKLLoss(n, parameter or 1.0), TruncatedGCELoss(n, min(parameter, 1.0) or 1.0)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(config.epochs):
        prune = arm == "tgce" and (epoch + 1) % 10 == 0 and epoch > config.epochs // 2
        for rows in torch.randperm(n, generator=generator).split(config.batch_size):
            logits, y = net(part.x[rows]), part.y[rows]
            if prune:
                truncated.prune(logits, y, rows)
                continue
            loss = {
                "ce": lambda f, y, i: F.cross_entropy(f, y),
                "gce": lambda f, y, i: GCELoss(parameter)(f, y),
                "tgce": truncated,
                "ldr": lambda f, y, i: LDRKLLoss(parameter)(f, y),
                "aldr": adaptive,
                FIXED: lambda f, y, i: LDRKLLoss(parameter, normalize="l1")(f, y),
            }[arm](logits, y, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return net


@pytest.mark.parametrize("arm", ["ce", "gce", "tgce", "ldr", "aldr", FIXED])
def test_training_together_is_training_alone(arm: str) -> None:
    config = replace(QUICK, epochs=12, noise="uniform-0.6")
    jobs = [(a, setting) for a in LOSSES for setting in grid(config, a)]
    jobs += [(FIXED, setting) for setting in grid(config, "aldr")]
    part = samples(config, 0, False)
    place = next(i for i, (a, setting) in enumerate(jobs) if a == arm and setting.rate == 0.1)
    if arm in ("ldr", "aldr", FIXED):
        place += 2  # lambda = 1
    stack, _ = train(config, jobs, part, 0, "cpu")
    alone = plain_loop(config, arm, jobs[place][1], 0)
    with torch.no_grad():
        together = stack.module(place)(part.held_x)
        torch.testing.assert_close(together, alone(part.held_x), rtol=1e-3, atol=1e-3)


def test_augmentation_crops_mirrors_and_enlarges() -> None:
    ramp = torch.arange(32.0).expand(200, 3, 32, 32)
    moved = augmented(ramp, torch.Generator().manual_seed(0))
    assert moved.shape == ramp.shape
    slopes = (moved[:, 0, 0, 20] - moved[:, 0, 0, 10]) / 10
    assert slopes.abs().tolist() == pytest.approx([30 / 32] * 200, rel=1e-4)
    assert 60 < (slopes < 0).sum() < 140
    middles = moved[:, 0, 0, 15:17].mean(1)
    assert sorted({round(m, 3) for m in middles.tolist()}) == [14.5, 15.5, 16.5]


# --- what is recorded --------------------------------------------------------------------------------------------


def test_tuning_seeds_measure_every_setting_on_noisy_validation_samples_alone() -> None:
    records = list(study.run_trial(QUICK, 900_000, Run()))  # type: ignore[misc]
    assert {(r.arm, r.setting) for r in records} == {(arm, str(s)) for arm in LOSSES for s in grid(QUICK, arm)}
    assert {r.metric for r in records} == {"validation_top_1"}


def test_reported_seeds_measure_the_chosen_settings_and_a_control() -> None:
    config = replace(QUICK, noise="uniform-0.6")
    run, again = chosen(config), chosen(config)
    records = list(study.run_trial(config, 0, run))  # type: ignore[misc]
    assert records == list(study.run_trial(config, 0, again))  # type: ignore[misc]
    accuracy = {(r.arm, r.metric): r.value for r in records if r.metric.startswith("top_")}
    assert {arm for arm, _ in accuracy} == {*LOSSES, FIXED}
    for arm in LOSSES:
        rising = [accuracy[arm, f"top_{k}"] for k in range(1, 6)]
        assert rising == sorted(rising)
    ranks = {r.arm: r.value for r in records if r.metric == "mean_rank"}
    assert set(ranks) == set(LOSSES)
    assert sum(ranks.values()) == pytest.approx(15 * 16 / 2)
    table = pd.DataFrame([(a, k, v) for (a, k), v in accuracy.items() if a != FIXED], columns=["arm", "k", "value"])
    ordered = table.pivot(index="arm", columns="k", values="value").rank(ascending=False).mean(axis=1)
    assert ranks == pytest.approx(ordered.to_dict())
    lam, corrupted = run.arrays["lambda"]
    means = {r.arm: r.value for r in records if r.metric == "lambda"}
    assert means["corrupted rows"] == pytest.approx(lam[corrupted == 1].mean(), rel=1e-5)
    assert means["clean rows"] == pytest.approx(lam[corrupted == 0].mean(), rel=1e-5)
    assert ((lam > 0.5) & (lam <= 1)).all()


# --- the paper's scale and data of one's own ---------------------------------------------------------------------


def stand_in(uri: str) -> dict[str, data.Split]:
    """Twenty classes of noise in the shape of CIFAR-100."""
    generator = torch.Generator().manual_seed(0)
    split = data.Split(
        torch.rand(80, 3, 32, 32, generator=generator), torch.arange(80) % 20, tuple(map(str, range(20)))
    )
    return {"train": split, "test": split[:40]}


def test_paper_preset_takes_an_epoch_of_a_small_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", stand_in)
    paper = study.presets["paper"].config
    config = replace(paper, channels=(4, 4, 8, 8), epochs=1, batch_size=40, noise="uniform-0.3")
    records = list(study.run_trial(config, 0, chosen(config)))  # type: ignore[misc]
    assert {r.arm for r in records if r.metric == "top_5"} == {*LOSSES, FIXED}
    assert all(r.value == r.value for r in records)


def test_letters_run_with_their_own_pairs(shared_data: Any, tmp_path: Any) -> None:
    """The benchmark's file of letters as a table of one's own, with the class pairs of the released code."""
    import numpy as np

    pytest.importorskip("pyarrow")
    archive = np.load(shared_data("ldr-losses") / "letter_test.npz", allow_pickle=False)
    table = pd.DataFrame(archive["arr_0"]).add_prefix("x").assign(label=archive["arr_1"].argmax(1))
    table.to_parquet(tmp_path / "letter.parquet")
    pairs = ("1-3", "2-6", "4-5", "7-13", "8-11", "10-23", "12-22", "14-16", "15-17", "20-21")
    config = replace(
        QUICK, data=f"parquet:{tmp_path}/letter.parquet", train_size=1400, noise="dependent-0.3", pairs=pairs, epochs=1
    )
    part = samples(config, 0, False)
    assert part.x.shape == (1400, 16)
    assert len(part.held_y) == 600
    stack, lam = train(config, [("aldr", Setting(0.1, 1.0))], part, 0, "cpu")
    assert lam is not None
    assert lam.shape == (1400,)
    assert stack(part.held_x, shared=True).shape == (1, 600, 26)


# --- the figure --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noises", [NOISE, ("none",), ("uniform-0.6",)])
def test_figure_draws_what_there_is(noises: tuple[str, ...]) -> None:
    found, saved = [], []
    for noise in noises:
        for seed in range(2):
            run = chosen(QUICK)
            for r in study.run_trial(replace(QUICK, noise=noise), seed, run):  # type: ignore[misc]
                found.append({"arm": r.arm, "metric": r.metric, "value": r.value, "seed": seed, "noise": noise})
            saved.append(Saved("lambda", seed, {"noise": noise}, run.arrays["lambda"]))
    frame = pd.DataFrame(found).assign(role="reported", setting="", unit=None, x=None)
    fig = study.draw(frame, Arrays(saved))  # type: ignore[misc]
    fig.canvas.draw()
    hit = [noise for noise in noises if noise != "none"]
    assert len(fig.axes) == len(noises) + len(hit)
    assert [len(ax.containers) for ax in fig.axes[: len(noises)]] == [16] * len(noises)
    assert fig.axes[0].get_yticklabels()[-1].get_text().startswith("ALDR-KL, λ fixed")
