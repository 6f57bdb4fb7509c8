"""The FedLD study: its clients, what it measures, its starts, its paper preset, its figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from landform import data
from landform.federated import SGD, FedAvg, FederatedData, Round, loss_decomposition, simulate
from landform.models import ResNet
from landform.studies import fedld
from landform.studies.fedld import DECOMPOSED, EVEN, HARD, Config, Terms, arms, federation, study
from landform.study import Arrays, Record, Run, Saved

QUICK = Config(rounds=2, hidden=(8,), learning_rates=(0.1,), pretraining_steps=5)


def chosen(config: Config, rate: float) -> Run:
    return Run(chosen=dict.fromkeys(arms(config), str(rate)))


def named(records: Iterator[Record]) -> dict[tuple[str, str, str | None], float]:
    return {(r.arm, r.metric, r.setting): r.value for r in records if r.x is None}


def test_clients_are_of_the_training_samples_and_tested_on_others() -> None:
    whole = data.merge(*data.load("digits").values())
    final, tuned = (federation(QUICK, 3, held_back=held) for held in (0.0, 0.2))
    train = torch.cat(final.train)
    assert len(train.unique()) == len(train) == 1200
    assert final.test is not None
    assert len(final.test[0]) == len(whole) - 1200
    rows = {row.numpy().tobytes() for row in final.x[train]}
    assert not rows & {row.numpy().tobytes() for row in final.test[0]}
    # tuning sees the same training samples alone
    held = torch.cat(tuned.train + tuned.test_parts)
    assert torch.equal(held.sort().values, train.sort().values)
    assert tuned.test is not None
    assert len(tuned.test[0]) == pytest.approx(240, abs=40)
    other = federation(QUICK, 4, held_back=0.0)
    assert not torch.equal(torch.cat(other.train).sort().values, train.sort().values)


@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_trial_records_every_arm_and_is_deterministic(start: str) -> None:
    config = replace(QUICK, start=start)
    run = Run(chosen=dict.fromkeys(arms(config), "0.1"))
    first = named(study.run_trial(config, 0, run))  # type: ignore[misc]
    again = named(study.run_trial(config, 0, chosen(config, 0.1)))  # type: ignore[misc]
    assert first == again
    for arm in arms(config):
        assert 0 <= first[arm, "accuracy", "0.1"] <= 1
    for arm in DECOMPOSED:
        assert first[arm, "decomposition_error", "0.1"] < 1e-10
        assert {name for who, name, _ in first if who == arm} >= {"local", "shift", "aggregation"}
    assert first["clients", "total_variation", None] > 0.3
    shares = run.arrays["shares"]
    assert shares.shape == (5, 2)
    assert np.allclose(shares.sum(0), 1)
    assert (np.diff(shares, axis=0) <= 1e-6).all()


def test_tuning_measures_the_held_back_samples_of_every_rate() -> None:
    config = replace(QUICK, learning_rates=(0.1, 0.3))
    found = named(study.run_trial(config, 1_000_000, Run()))  # type: ignore[misc]
    assert set(found) == {(arm, "validation_accuracy", rate) for arm in arms(config) for rate in ("0.1", "0.3")}


def test_terms_are_those_of_the_library() -> None:
    clients = federation(QUICK, 0, held_back=0.0)
    model_fn = fedld.network(QUICK, 0, clients, "cpu")
    seen: list[Round] = []
    terms: list[dict[str, float]] = []
    measure = Terms(clients, compare=True)

    def keep(round_: Round) -> dict[str, float]:
        seen.append(round_)
        terms.append(measure(round_))
        return {}

    simulate(clients, model_fn, SGD(lr=0.2, steps=4), FedAvg(), rounds=2, measure=keep)
    for round_, found in zip(seen, terms, strict=True):

        def module(state: dict[str, torch.Tensor]) -> nn.Module:
            net = model_fn().double()
            net.load_state_dict(state)
            return net

        models = [module({name: p[k] for name, p in round_.client_params.items()}) for k in range(5)]
        datasets = [(clients.client(k).x.double(), clients.client(k).y) for k in range(5)]
        parts = loss_decomposition(models, module(round_.after), datasets, clients.sizes.double())
        assert found["local"] == pytest.approx(parts.local, abs=1e-12)
        assert found["shift"] == pytest.approx(parts.shift, abs=1e-12)
        assert found["aggregation"] == pytest.approx(parts.aggregation, abs=1e-12)
        x, y = torch.cat([x for x, _ in datasets]), torch.cat([y for _, y in datasets])
        moved = module(fedld.instead(round_))
        expected = float(F.cross_entropy(moved(x), y).detach()) - parts.local - parts.shift
        assert found["principal_instead"] == pytest.approx(expected, abs=1e-12)


def test_pretrained_features_are_shared_and_the_head_is_new() -> None:
    config = replace(QUICK, start="pretrained")
    clients = federation(config, 0, held_back=0.0)
    first, second = (fedld.network(config, 0, clients, "cpu")() for _ in range(2))
    fresh = fedld.network(QUICK, 0, clients, "cpu")()
    weight = "features.1.weight"
    assert torch.equal(first.state_dict()[weight], second.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], fresh.state_dict()[weight])
    assert first.state_dict()["head.weight"].shape == (10, 8)


def test_more_skewed_labels_make_fedavg_worse() -> None:
    """The protocol's own claim, at a fixed early round."""

    def accuracy(log_alpha: float) -> float:
        config = replace(Config(), log_alpha=log_alpha)
        found = []
        for seed in range(3):
            clients = federation(config, seed, held_back=0.0)
            update = SGD(lr=0.05, momentum=0.5, steps=12, batch_size=20)
            history = simulate(
                clients, fedld.network(config, seed, clients, "cpu"), update, FedAvg(), 10, seed=seed, eval_every=10
            )
            found.append(float(history.accuracy[-1]))
        return float(np.mean(found))

    assert accuracy(HARD) + 0.05 < accuracy(EVEN)


# --- the paper's scale -------------------------------------------------------------------------------------------


def stand_in(uri: str) -> dict[str, data.Split]:
    """A few small noise images of two classes in colour, for each client and for testing."""
    generator = torch.Generator().manual_seed(len(uri) + ord(uri[-10]))
    y = torch.arange(8) % 2
    return {"train": data.Split(torch.rand(8, 3, 32, 32, generator=generator), y, classes=("healthy", "ill"))}


@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_paper_preset_takes_a_round_of_a_small_stand_in(
    start: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def load(uri: str) -> dict[str, data.Split]:
        asked.append(uri)
        return stand_in(uri)

    monkeypatch.setattr(data, "load", load)

    def small(depth: int, outputs: int, **options: object) -> nn.Module:
        assert depth == 50
        return ResNet(18, outputs, widths=(4, 4, 4, 4), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fedld, "ResNet", small)
    paper = study.presets["paper"].config
    weights = tmp_path / "weights.safetensors"
    options = {"in_channels": 3, "stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
    state = small(50, 1000, **options).state_dict()
    save_file({k: v for k, v in state.items() if not k.startswith("head.")}, weights)
    config = replace(paper, rounds=1, clients=2, batch_size=4, start=start, weights=str(weights))
    found = named(study.run_trial(config, 0, Run()))  # type: ignore[misc]
    assert {arm for arm, metric, _ in found if metric == "accuracy"} == set(arms(config))
    assert asked[:2] == [f"folder:retina/split_3/client_{k}?size=384" for k in (1, 2)]
    assert "folder:retina/test?size=384" in asked


def test_paper_rate_warms_up_and_weights_must_be_there() -> None:
    paper = study.presets["paper"].config
    rate = fedld.warmed_up(0.01, paper.warmup)
    assert callable(rate)
    assert [rate(r) for r in (1, 5, 200)] == pytest.approx([0.002, 0.01, 0.01])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fedld.read_weights("nowhere.safetensors")


def test_augmented_images_are_crops_of_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((64, 3, 24, 24), 0.7)
    out = fedld.augmented(flat, generator)
    assert out.shape == flat.shape
    # enlarged, so that only a turned image's corners are empty
    assert torch.allclose(out[:, :, 8:16, 8:16], flat[:, :, 8:16, 8:16], atol=1e-5)
    ramp = torch.linspace(0, 1, 24).expand(64, 1, 24, 24).contiguous()
    slopes = fedld.augmented(ramp, generator)[:, 0, 12].diff(dim=1)[:, 8:15].mean(1) * 23
    assert 0.3 < float((slopes < 0).double().mean()) < 0.7
    assert float(slopes.abs().max()) < 1.02
    assert float(slopes.abs().min()) > math.sqrt(0.6 * 0.75) * math.cos(math.radians(10)) - 0.02


# --- the figure --------------------------------------------------------------------------------------------------


def frame(seeds: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        for skew in study.conditions["log_alpha"]:
            for start in study.conditions["start"]:
                for arm in arms(Config()):
                    condition = {"arm": arm, "seed": seed, "log_alpha": skew, "start": start}
                    rows.append({**condition, "metric": "accuracy", "x": None, "value": generator.random()})
                    for x in (1.0, 2.0, 3.0):
                        for metric in ("accuracy", "local", "shift", "aggregation"):
                            rows.append({**condition, "metric": metric, "x": x, "value": generator.random()})
    return pd.DataFrame(rows).assign(role="reported", setting="0.15", unit=None)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figure_draws_every_arm_of_every_skew(seeds: int) -> None:
    saved = [Saved("shares", 0, {"log_alpha": HARD, "start": "random"}, np.random.default_rng(0).random((5, 3)))]
    fig = study.draw(frame(seeds), Arrays(saved))  # type: ignore[misc]
    fig.canvas.draw()
    differences = [ax for ax in fig.axes if ax.get_xlabel().startswith("accuracy less")]
    assert [len(ax.containers) for ax in differences] == [3 * (len(fedld.NAMES) - 1)] * 2
    shares = next(ax for ax in fig.axes if ax.get_ylabel().startswith("share"))
    assert len(shares.get_lines()) == 5


def test_wrong_settings_are_refused() -> None:
    for change, message in (
        ({"rounds": 0}, "rounds=0"),
        ({"learning_rates": ()}, "learning_rates"),
        ({"start": "warm"}, "start='warm'"),
        ({"client_data": "folder:x", "log_alpha": 0.0}, "log_alpha=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(Config(), **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave none"):
        federation(replace(QUICK, train_size=2000), 0, held_back=0.0)
    assert isinstance(federation(QUICK, 0, held_back=0.0), FederatedData)
