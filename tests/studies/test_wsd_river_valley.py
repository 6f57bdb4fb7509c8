"""The river-valley study: what a trial measures, that arms share what they must, and that the paper preset builds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from landform import data
from landform.lab.plan import choose
from landform.studies import wsd_river_valley as study
from landform.study import Arrays, Record, Run, Saved
from landform.training.language import sequences

SMOKE = dataclasses.replace(study.study.presets["smoke"].config, data="corpus?max_bytes=200000")
TABLES = dataclasses.replace(SMOKE, task="bigrams", table_budgets=(30, 60, 120), table_rates=(16.0, 32.0))
VALLEY = dataclasses.replace(SMOKE, task="valley")
ARMS = {*study.COMPARED, "wsd_uncharged"}


@pytest.fixture(scope="module")
def text() -> tuple[list[Record], Run]:
    run = Run()
    return list(study.trial(SMOKE, 0, run)), run


def values(records: list[Record], metric: str) -> dict[str, float]:
    return {r.arm: r.value for r in records if r.metric == metric and r.x is None}


def test_text_measures_every_arm_and_repeats(text: tuple[list[Record], Run]) -> None:
    records, run = text
    torch.rand(3)  # whatever the global random state is
    assert records == list(study.trial(SMOKE, 0, Run()))
    losses = values(records, "loss")
    assert set(losses) == ARMS
    for arm in ARMS:
        at = {r.x: r.value for r in records if r.arm == arm and r.metric == "loss" and r.x is not None}
        assert list(at) == list(SMOKE.budgets)
        assert losses[arm] == pytest.approx(np.mean(list(at.values())))
        assert at[32] < at[8] < math.log(256)
    curves = {arm: {r.x: r.value for r in records if r.arm == arm and r.metric == "curve"} for arm in study.CURVES}
    # The same weights at the beginning; the same first budget for WSD and WSD-S; the cyclic arm is another.
    assert len({curve[0] for curve in curves.values()}) == 1
    first = {arm: next(r.value for r in records if r.arm == arm and r.metric == "loss" and r.x == 8) for arm in ARMS}
    assert first["wsd"] == first["wsds"] == first["wsd_uncharged"] != first["cyclic_cosine"]
    assert curves["wsds"][32] == next(r.value for r in records if (r.arm, r.metric, r.x) == ("wsds", "loss", 32))
    assert set(values(records, "decay_drop")) == {"certain", "uncertain"}
    assert run.arrays["rates"].shape == (3, 32)
    for phase in ("stable", "decayed"):
        assert values(records, "is_valley")[phase] in (0.0, 1.0)
        profile = run.arrays[f"{phase}_text"]
        assert profile.shape == (SMOKE.points,)
    # The ends of a profile are losses of the models that the budgets ended with.
    ends = [v for k, v in sorted((r.x, r.value) for r in records if (r.arm, r.metric) == ("wsds", "loss") and r.x)]
    np.testing.assert_allclose(run.arrays["decayed_text"][[0, -1]], ends[-2:], rtol=0.05)


def test_tuning_measures_validation_loss_alone_over_equal_grids() -> None:
    for config in (
        dataclasses.replace(SMOKE, peaks=(0.003, 0.01)),
        dataclasses.replace(TABLES, table_peaks=(16.0, 32.0)),
    ):
        records = list(study.trial(config, 5, Run()))
        assert {r.metric for r in records} == {"validation_loss"}
        frame = pd.DataFrame(map(dataclasses.asdict, records)).assign(seed=5)
        chosen = choose(frame, "validation_loss", minimise=True)
        assert set(chosen) == set(study.COMPARED) | ({"low_constant"} if config.task == "bigrams" else set())
        reported = list(study.trial(config, 0, Run(chosen=chosen)))
        settings = {(r.arm, r.setting) for r in reported if r.setting}
        assert settings == {*chosen.items(), ("wsd_uncharged", chosen["wsd"])}
        if config.task == "text":  # the losses are of another text than that which chose the settings
            tuned = {(r.arm, r.setting): r.value for r in records}
            tested = values(reported, "loss")
            assert all(tested[arm] != tuned[arm, setting] for arm, setting in chosen.items())


def test_plans_cost_what_they_claim() -> None:
    config, budgets = study.Config(), (250, 500, 1000)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    cost = {arm: study.plan_of(arm, config, optimizer, budgets, 25, 25).cost() for arm in ARMS}
    assert cost == {
        "wsds": 1000, "cyclic_cosine": 1000, "wsd": 1000, "constant": 1000, "oracle": 1750, "wsd_uncharged": 1075,
    }  # fmt: skip
    with pytest.raises(ValueError, match="unknown"):
        study.plan_of("sgdr", config, optimizer, budgets)


def test_rates_of_side_runs_are_those_of_runs_of_their_own() -> None:
    config, budgets = study.Config(), (100, 200, 400)
    runs = study.rates_of("wsd_uncharged", config, 2.0, budgets)
    for budget, rates in runs.items():
        alone = study.plan_of("wsds", config, torch.optim.SGD([torch.zeros(1)], lr=1.0), [budget]).values()
        np.testing.assert_allclose(rates, 2 * alone)
    shared = study.rates_of("cyclic_cosine", config, 2.0, budgets)
    assert shared[100] is shared[400]
    low, high = study.rates_of("low_constant", config, 2.0, budgets), study.rates_of("constant", config, 2.0, budgets)
    np.testing.assert_allclose(low[400], 0.1 * high[400])
    assert [len(r) for r in study.rates_of("wsd", config, 1.0, budgets).values()] == [100, 190, 371]


def test_tables_are_trained_as_autograd_would() -> None:
    language = data.bigram_language(6, 0.5, 0.5, seed=0)
    columns = [np.full(5, 3.0), np.array([1.0, 2.0, 0.5])]
    tables = study.train_tables(language, columns, 4, 7, {0, 3, 5}, Run())
    generator = torch.Generator().manual_seed(7)
    pairs = [language.sample(4, generator) for _ in range(5)]
    for place, rates in enumerate(columns):
        logits = torch.zeros(6, 6, requires_grad=True)
        for rate, (first, following) in zip(rates, pairs, strict=False):
            loss = torch.nn.functional.cross_entropy(logits[first], following)
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = (logits - rate * gradient).detach().requires_grad_()
        torch.testing.assert_close(tables[5][place], logits.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(tables[0], torch.zeros(2, 6, 6))
    assert torch.equal(tables[3][1], tables[5][1])


def test_bigrams_show_the_mechanism_and_repeat() -> None:
    run = Run()
    records = list(study.trial(TABLES, 0, run))
    assert records == list(study.trial(TABLES, 0, Run()))
    losses = values(records, "loss")
    assert set(losses) == {*ARMS, "low_constant"}
    language = data.bigram_language(64, 0.5, 0.5, 0)
    assert all(language.entropy < loss < math.log(64) for loss in losses.values())
    assert values(records, "certain_excess")["high_rate"] < values(records, "certain_excess")["low_rate"]
    assert [r.x for r in records if r.metric == "drop_by_rate"] == [16.0, 32.0]
    assert run.arrays["excess"].shape == (3, 2, len(run.arrays["excess_updates"]))
    # At a rate of 0 learning, the loss is that of the uniform table.
    start = run.arrays["excess"][:, :, 0]
    uncertain = language.entropies[~language.deterministic].mean()
    np.testing.assert_allclose(start[:, 0], math.log(64) - float(uncertain), rtol=1e-5)
    np.testing.assert_allclose(start[:, 1], math.log(64), rtol=1e-5)


def test_valleys_agree_with_their_closed_forms() -> None:
    records = list(study.trial(VALLEY, 3, Run()))
    assert records == list(study.trial(VALLEY, 3, Run()))
    assert len(values(records, "hill_z")) == 5
    assert max(map(abs, values(records, "hill_z").values())) < 4
    assert max(values(records, "progress_error").values()) < 1e-9


def test_certainty_is_the_entropy_after_three_bytes() -> None:
    # After "abc" always "d"; after "bcd" one of four at random; "xyz" too seldom to tell.
    generator = torch.Generator().manual_seed(0)
    pieces = [b"abcd" + bytes([101 + int(k)]) for k in torch.randint(4, (400,), generator=generator)]
    text = torch.tensor(list(b"".join(pieces) + b"xyzw"), dtype=torch.uint8)
    held_out = torch.tensor([list(b"abcdef"), list(b"xyzwab")], dtype=torch.uint8)
    certain, uncertain = study.certainty(text, held_out)
    # Of each row the bytes from the fourth on: after abc and bcd (that is "d", "e"), then after "cde".
    assert certain[0].tolist() == [True, False, True]
    assert uncertain[0].tolist() == [False, False, False]  # ln 4 = 1.386 is below 1.5
    assert not certain[1].any()
    assert not uncertain[1].any()


def test_losses_by_kind_are_means_over_those_bytes() -> None:
    splits = data.load("corpus", max_bytes=20_000)
    table = sequences(splits["train"].x, SMOKE.context)[:40]
    run = study.language_run("wsds", SMOKE, 0.01, table, table[:8], 0, "cpu")
    kinds = (torch.zeros(8, 14, dtype=torch.bool), torch.ones(8, 14, dtype=torch.bool))
    kinds[0][2, 5] = True
    one, every = study.losses_by_kind(run, kinds)
    logits = run.model(table[:8, :-1].long()).detach()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), table[:8, 1:].long(), reduction="none")
    assert one == pytest.approx(float(losses[2, 7]), rel=1e-5)
    assert every == pytest.approx(float(losses[:, 2:].mean()), rel=1e-5)


def test_weight_decay_spares_norms_embeddings_and_biases() -> None:
    table = torch.zeros(16, SMOKE.context + 1, dtype=torch.uint8)
    run = study.language_run("wsds", SMOKE, 0.01, table, table, 0, "cpu")
    decayed, spared = run.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    names = {id(p): name for name, p in run.model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        name for name in names.values() if name.endswith(("qkv.weight", "out.weight", "widen.weight", "narrow.weight"))
    } | {"unembed.weight"}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_the_paper_preset_builds_and_takes_a_step() -> None:
    paper = study.study.presets["paper"].config
    assert (paper.d_model, paper.n_layer, paper.context, paper.batch_size) == (768, 12, 4096, 1024)
    config = dataclasses.replace(paper, context=16, batch_size=2, n_layer=1)
    table = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    run = study.language_run("wsds", config, paper.peaks[0], table, table, 0, "cpu")
    assert run.schedule is not None
    assert run.schedule.checkpoints() == [12_500, 25_000, 50_000]
    before = run.model.unembed.weight.detach().clone()
    run.train(1)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(2 * paper.peaks[0] / 2000)
    assert not torch.equal(before, run.model.unembed.weight)
    assert math.isfinite(run.curve[-1].loss)


def test_the_figure_is_drawn_from_records_and_arrays(text: tuple[list[Record], Run]) -> None:
    import matplotlib.pyplot as plt

    rows, saved = [], []
    for seed in (3, 4):
        for config in (SMOKE, TABLES):
            run = Run()
            records = text[0] if config is SMOKE else list(study.trial(config, seed, run))
            arrays = text[1].arrays if config is SMOKE else run.arrays
            rows += [dataclasses.asdict(r) | {"seed": seed, "role": "reported", "task": config.task} for r in records]
            saved += [Saved(name, seed, {}, value) for name, value in arrays.items()]
    figure = study.figure(pd.DataFrame(rows), Arrays(saved))
    assert len(figure.axes) == 6
    assert all(ax.get_xlabel() or ax is figure.axes[0] for ax in figure.axes)
    plt.close(figure)
    empty = pd.DataFrame(rows).query("task == 'bigrams'")
    plt.close(study.figure(empty, Arrays([s for s in saved if "text" not in s.name and s.name != "rates"])))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"task": "images"}, "task"),
        ({"budgets": (100,)}, "budgets"),
        ({"table_budgets": (100, 50)}, "table_budgets"),
        ({"peaks": ()}, "peaks"),
        ({"table_rates": (0.0,)}, "table_rates"),
        ({"points": 2}, "points"),
    ],
)
def test_impossible_configs_are_refused(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(SMOKE, **change)
