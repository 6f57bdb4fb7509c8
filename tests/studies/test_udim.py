"""The UDIM study: its domains, its arms, what it records, its paper preset, its figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from landform.data import Split
from landform.models import ResNet, train_with_frozen_norm
from landform.optim.sharpness import UDIM
from landform.studies import udim
from landform.studies.udim import UDIM_LIKE, Config, grids, make_task, study
from landform.study import Arrays, Run, Saved

QUICK = study.presets["smoke"].config
TUNED = replace(
    QUICK,
    steps=3,
    learning_rate_factors=(1.0, 0.3),
    rhos=(0.05, 0.1),
    inconsistency_weights=(1.0, 10.0),
    adversarial_weights=(1.0, 3.0),
)


def run(config: Config, seed: int = 0, **options: Any) -> list[Any]:
    torch.manual_seed(seed)
    return list(study.run_trial(config, seed, Run(**options)))  # type: ignore[misc]


# --- the domains -------------------------------------------------------------------------------------------------


def names(split: Split) -> set[str]:
    return {split.names["domain"][n] for n in split.fields["domain"].tolist()}


@pytest.mark.parametrize("sources", [1, 3])
def test_targets_are_never_trained_on(sources: int) -> None:
    config = replace(Config(), sources=sources, target_copies=1)
    task = make_task(config, 0)
    assert names(task.train) == names(task.validation) == set(config.source_domains[:sources])
    assert names(task.test) == set(task.targets) == set(config.target_domains)
    assert len(task.train) + len(task.validation) == 26 * 24
    assert len(task.test) == 26 * 10
    assert "".join(task.train.classes) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_a_seed_has_its_own_jitter() -> None:
    first, again, other = (make_task(QUICK, seed) for seed in (0, 0, 1))
    assert torch.equal(first.test.x, again.test.x)
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.test.x, other.test.x)


def test_distance_is_between_mean_images_of_classes() -> None:
    config = replace(QUICK, source_copies=0, target_copies=0, target_domains=("DejaVu Sans Bold", "STIX"))
    with pytest.raises(
        ValueError, match="batch_size"
    ):  # one image a class leaves none to hold out, and few to train on
        udim.train(config, "erm", 1.0, make_task(config, 0), 0, test=False)
    task = make_task(config, 0)
    expected = [
        np.mean(
            [
                float(
                    (
                        task.test.x[(task.test.fields["domain"] == d) & (task.test.y == c)][0]
                        - task.train.x[task.train.y == c][0]
                    ).norm()
                )
                for c in range(26)
            ]
        )
        for d in (task.test.names["domain"].index(name) for name in task.targets)
    ]
    np.testing.assert_allclose(udim.distances(task).numpy(), expected, rtol=1e-5)


# --- the arms ----------------------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return udim.network(Config(), 1, 26), torch.rand(6, 1, 20, 20), torch.arange(6)


def test_random_moves_are_as_long_as_crafted_ones(batch: Any) -> None:
    net, x, y = batch
    moved, crafted = (
        UDIM_LIKE[arm](net, torch.optim.SGD, radius=0.7, lr=0.1).craft(x, y).x - x for arm in ("random", "udim")
    )
    lengths = torch.full((6,), 0.7)
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), lengths)
    torch.testing.assert_close(crafted.flatten(1).norm(dim=1), lengths)
    assert torch.cosine_similarity(moved.flatten(1), crafted.flatten(1)).abs().max() < 0.3


def test_controls_change_the_penalty_alone(batch: Any) -> None:
    net, x, y = batch
    moved = x + 0.1
    full, bare, adversarial = (
        UDIM_LIKE[arm](net, torch.optim.SGD, lr=0.1).penalty(x, moved, y, None).item()
        for arm in ("udim", "no_variance", "adversarial")
    )
    assert adversarial == pytest.approx(nn.functional.cross_entropy(net(moved), y).item())
    assert 0 < bare < full


def test_udim_begins_from_the_best_checkpoint_of_its_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(Config(), steps=20, warm_up=0.5, checkpoint_every=2, target_copies=1)
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.1] + [0.0] * 5)
    monkeypatch.setattr(udim, "accuracy", lambda net, split: next(scores))
    begun: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []

    class Watched(UDIM):
        def __init__(self, net: nn.Module, *arguments: Any, **options: Any) -> None:
            super().__init__(net, *arguments, **options)
            begun.append(net.head.weight.detach().clone())
            begun.append(self.base.state[net.head.weight]["step"].clone())

    class Kept(udim.BestCheckpoint):
        def offer(self, score: float, step: int) -> bool:
            seen.append(self.parts["model"].head.weight.detach().clone())  # type: ignore[attr-defined]
            return super().offer(score, step)

    monkeypatch.setitem(UDIM_LIKE, "udim", Watched)
    monkeypatch.setattr(udim, "BestCheckpoint", Kept)
    course = udim.train(config, "udim", 1.0, make_task(config, 0), 0, test=False)
    assert torch.equal(begun[0], seen[1])
    assert begun[1] == 4  # Adam's state too
    assert course.chosen.step == 12  # the warm-up's checkpoints are no candidates any more


# --- what is recorded --------------------------------------------------------------------------------------------


def test_tuning_seeds_see_no_target() -> None:
    found = run(TUNED)
    assert {r.metric for r in found} == {"validation_accuracy"}
    assert {(r.arm, r.setting) for r in found} == {(a, str(v)) for a, grid in grids(TUNED).items() for v in grid}
    assert len({len(grid) for grid in grids(Config()).values()}) == 1


def test_reported_seeds_measure_what_was_chosen_and_are_repeatable() -> None:
    chosen = {arm: str(grid[1]) for arm, grid in grids(TUNED).items()}
    found, again = (run(TUNED, chosen=chosen) for _ in range(2))
    assert [(r, r.value) for r in found] == [(r, r.value) for r in again]
    assert {r.arm: r.setting for r in found} == {**chosen, **dict.fromkeys(udim.FIXED_WEIGHTS)}
    values = {(r.arm, r.metric): r.value for r in found if r.x is None and r.unit is None}
    for arm in (*chosen, *udim.FIXED_WEIGHTS):
        by_domain = [r.value for r in found if r.arm == arm and r.metric == "domain_accuracy"]
        assert len(by_domain) == 10
        assert values[arm, "target_accuracy"] == pytest.approx(np.mean(by_domain))
        assert (
            values[arm, "oracle_accuracy"] >= max(values[arm, "last_accuracy"], values[arm, "target_accuracy"]) - 1e-12
        )
        curves = {
            m: {r.x: r.value for r in found if r.arm == arm and r.metric == m}
            for m in ("source_sharpness", "crafted_sharpness")
        }
        assert all(curve[0.0] == 0 and len(curve) == 6 for curve in curves.values())
        gap = abs(curves["crafted_sharpness"][0.05] - curves["source_sharpness"][0.05])
        assert values[arm, "sharpness_gap"] == pytest.approx(gap)


def test_several_sources_have_the_arms_of_the_trend() -> None:
    found = run(replace(QUICK, sources=3, steps=2))
    assert {r.arm for r in found} == {"erm", "sam", "udim"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("sources", 4), ("batch_size", 31), ("net", "vgg"), ("warm_up", 1.0), ("steps", 0), ("radius", -1.0)],
)
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        replace(Config(sources=3), **{name: value})  # type: ignore[arg-type]


# --- the paper's scale -------------------------------------------------------------------------------------------


def test_paper_preset_takes_steps_on_a_small_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udim, "ResNet", partial(ResNet, widths=(4, 4, 8, 8)))
    generator = np.random.default_rng(0)
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        for kind in ("dog", "horse"):
            where = tmp_path / domain / kind
            where.mkdir(parents=True)
            for i in range(10):
                Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(where / f"{i}.png")
    paper = study.presets["paper"].config
    config = replace(
        paper,
        data=f"folder:{tmp_path}?size=32&grayscale=false",
        weights="",
        steps=4,
        checkpoint_every=2,
        batch_size=6,
        learning_rate_factors=(1.0,),
        rhos=(0.05,),
        inconsistency_weights=(1.0,),
        adversarial_weights=(1.0,),
        sources=3,
    )
    assert make_task(config, 3).targets == ("photo",)  # the sources rotate with the seed
    found = run(config, 3)
    assert {r.unit for r in found if r.metric == "domain_accuracy"} == {"photo"}
    assert all(np.isfinite(r.value) for r in found)


def test_frozen_batch_normalisation_and_augmentation() -> None:
    paper = study.presets["paper"].config
    net = udim.network(replace(paper, weights=""), 3, 7)
    before = {name: b.clone() for name, b in net.named_buffers()}
    train_with_frozen_norm(net)
    x = torch.rand(4, 3, 32, 32)
    net(x)
    assert all(torch.equal(before[name], b) for name, b in net.named_buffers())
    assert net.features[3].training  # dropout
    first, again = (udim.augmented(x, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == x.shape
    assert (first - x).abs().mean() > 0.05
    flat = udim.augmented(torch.full((200, 3, 8, 8), 0.5), torch.Generator().manual_seed(0))
    assert flat.min() >= 0.5 * 0.7 - 1e-6
    assert flat.max() <= 0.5 * 1.3 + 1e-6


# --- the figure --------------------------------------------------------------------------------------------------


def table(sources: tuple[int, ...], seeds: int) -> pd.DataFrame:
    rng, found = np.random.default_rng(0), []
    for k in sources:
        for seed in range(seeds):
            for arm in (*grids(replace(Config(), sources=k)), *(udim.FIXED_WEIGHTS if k == 1 else ())):
                common = {"arm": arm, "seed": seed, "sources": k}
                found.append({**common, "metric": "target_accuracy", "value": rng.random()})
                found += [
                    {**common, "metric": "domain_accuracy", "value": rng.random(), "unit": name}
                    for name in Config().target_domains
                ]
                found += [
                    {**common, "metric": metric, "value": rho * rng.random(), "x": rho}
                    for metric in ("source_sharpness", "crafted_sharpness")
                    for rho in udim.RHOS
                ]
    return pd.DataFrame(found).assign(role="reported", setting="1.0")


@pytest.mark.parametrize(("sources", "seeds", "rows"), [((1, 3), 3, 10), ((1,), 1, 8)])
def test_figure_draws_what_there_is(sources: tuple[int, ...], seeds: int, rows: int) -> None:
    saved = [
        saved
        for k in sources
        for seed in range(seeds)
        for saved in (
            Saved("targets", seed, {"sources": k}, np.array(Config().target_domains)),
            Saved("distances", seed, {"sources": k}, np.linspace(3, 2, 10)),
        )
    ]
    draw: Callable[..., Any] = study.draw  # type: ignore[assignment]
    fig = draw(table(sources, seeds), Arrays(saved))
    fig.canvas.draw()
    domains, differences, curves = fig.axes
    assert len(domains.get_lines()) == 2 * 3 * 10
    assert domains.get_yticklabels()[0].get_text() == "DejaVu Sans Bold (3.0)"  # the farthest is lowest
    assert len(differences.containers) == rows
    assert len(curves.get_lines()) == 4
