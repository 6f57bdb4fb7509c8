"""The study's own pieces: training that can be split anywhere, its data and schedules, and what a trial records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import Checkpoint
from landform.studies.linear_mode_connectivity import (
    SETTINGS,
    Config,
    Laboratory,
    Setting,
    cropped_and_flipped,
    generator_of,
    network,
    samples,
    setting_of,
    study,
)
from landform.study import Arrays, Record, Run, Saved

SMOKE = study.presets["smoke"].config
TINY = replace(SMOKE, data="digits?limit=200", epochs=1, widths=(6, 5), moments=1)


def laboratory(config: Config = TINY, seed: int = 0, **changes: object) -> Laboratory:
    setting = replace(setting_of(config), **changes)  # type: ignore[arg-type]
    return Laboratory(config, setting, samples(config, setting, seed, "cpu"), seed, "cpu")


def one_by_one(lab: Laboratory, start: dict[str, Tensor], order: int, steps: range) -> dict[str, Tensor]:
    """PyTorch's own optimiser on one network, as a plain loop."""
    setting = lab.setting
    net = network(setting, lab.samples.x.shape[1:], lab.samples.classes)
    net.load_state_dict(start)
    if setting.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            net.parameters(), setting.lr, momentum=0.9, weight_decay=setting.weight_decay
        )
    else:
        optimizer = torch.optim.Adam(net.parameters(), setting.lr)
    for step in steps:
        optimizer.param_groups[0]["lr"] = lab.learning_rate(step)
        x, y = lab.training_batch(order, step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("changes", [{"weight_decay": 1e-2}, {"optimizer": "adam", "lr": 1e-2}])
def test_a_stack_trains_as_a_loop_does(changes: dict[str, object]) -> None:
    lab = laboratory(epochs=2, batch_size=16, **changes)
    starts = [Checkpoint(lab.initialisation(number)) for number in (0, 1, 0)]
    ends = lab.train(starts, [0, 2, 2], range(lab.total))
    for start, order, end in zip(starts, (0, 2, 2), ends, strict=True):
        torch.testing.assert_close(
            dict(end.model), dict(one_by_one(lab, dict(start.model), order, range(lab.total))), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "lr": 1e-2}, {"schedule": "warm_cosine"}])
def test_a_run_that_is_interrupted_goes_on_as_if_it_were_not(changes: dict[str, object]) -> None:
    """The moments of a network travel with it, into a stack in which another one starts afresh."""
    lab = laboratory(epochs=2, batch_size=16, **changes)
    start = Checkpoint(lab.initialisation(0))
    (whole,) = lab.train([start], [1], range(lab.total))
    (half,) = lab.train([start], [1], range(4))
    fresh, resumed = lab.train([Checkpoint(half.model), half], [1, 1], range(4, lab.total))
    torch.testing.assert_close(dict(resumed.model), dict(whole.model), rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(fresh.model[k], whole.model[k], rtol=1e-3) for k in whole.model)


def test_stacks_of_any_size_give_the_same() -> None:
    labs = [laboratory(replace(TINY, together=n)) for n in (1, 16)]
    ends = [lab.train([Checkpoint(lab.initialisation(n)) for n in (0, 1)], [1, 2], range(lab.total)) for lab in labs]
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(dict(one.model), dict(other.model), rtol=1e-4, atol=1e-6)


def test_an_epoch_shows_every_sample_once_and_orders_differ() -> None:
    lab = laboratory(batch_size=16)
    seen = torch.cat([lab.training_batch(3, step)[0] for step in range(lab.per_epoch)])
    assert torch.equal(seen.flatten(1).sum(1).sort().values, lab.samples.x.flatten(1).sum(1).sort().values)
    first = [lab.training_batch(order, step)[0] for order, step in ((0, 0), (1, 0), (0, lab.per_epoch))]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert torch.equal(first[0], laboratory(batch_size=16).training_batch(0, 0)[0])
    assert not torch.equal(first[0], laboratory(seed=1, batch_size=16).training_batch(0, 0)[0])


def test_schedules() -> None:
    lab = laboratory(epochs=90, batch_size=16, schedule="halving", lr=0.4)
    rates = [lab.learning_rate(epoch * lab.per_epoch) for epoch in (0, 29, 30, 60, 89)]
    assert rates == pytest.approx([0.4, 0.4, 0.2, 0.1, 0.1])
    lab = laboratory(epochs=90, batch_size=16, schedule="warm_cosine", lr=0.4)
    assert lab.learning_rate(0) == pytest.approx(1e-4)
    assert lab.learning_rate(50) == pytest.approx((1e-4 + 0.4) / 2)
    late = 45 * lab.per_epoch
    assert lab.learning_rate(late) == pytest.approx(0.4 * 0.5)
    assert lab.learning_rate(lab.total - 1) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_labels_are_random_in_the_share_that_was_asked_for_and_tests_are_clean() -> None:
    config = Config(case="noisy")
    noisy, clean = (samples(config, replace(setting_of(config), label_noise=n), 3, "cpu") for n in (0.3, 0.0))
    assert torch.equal(noisy.x, clean.x)
    assert torch.equal(noisy.test_y, clean.test_y)
    assert (len(clean.y), len(clean.test_y)) == (1200, 597)
    # Of the labels drawn anew a tenth is right by chance.
    assert float((noisy.y != clean.y).double().mean()) == pytest.approx(0.27, abs=0.04)
    whole = torch.cat([clean.x, clean.test_x]).flatten(1)
    assert len(whole.unique(dim=0)) >= 1795, "no sample is used twice"
    assert float(clean.x.mean()) == pytest.approx(0, abs=1e-6)


def test_crops_are_windows_of_the_padded_image() -> None:
    x = torch.arange(2 * 3 * 5 * 6.0).view(2, 3, 5, 6) + 1
    x = x.repeat(40, 1, 1, 1)
    found = cropped_and_flipped(x, torch.Generator().manual_seed(0))
    assert found.shape == x.shape
    seen = set()
    for image, result in zip(F.pad(x, (4, 4, 4, 4)), found, strict=True):
        windows = {
            (r, c, flip): (w.flip(-1) if flip else w)
            for r in range(9) for c in range(9) for flip in (False, True)
            for w in [image[:, r : r + 5, c : c + 6]]
        }  # fmt: skip
        places = {place for place, window in windows.items() if torch.equal(window, result)}
        assert places
        seen |= places
    assert len({r for r, *_ in seen}) == 9
    assert len({c for _, c, _ in seen}) == 9
    assert {flip for *_, flip in seen} == {False, True}


def test_networks() -> None:
    with torch.device("meta"):
        vgg = network(Setting(net="vgg11"), (3, 32, 32), 10)
        resnet = network(SETTINGS["paper"]["narrow"], (3, 32, 32), 10)
    count = {name: sum(p.numel() for p in net.parameters()) for name, net in (("vgg", vgg), ("resnet", resnet))}
    # torchvision's vgg11 and resnet18 (3 × 3 stem, no norm), with ten classes.
    assert count == {"vgg": 128_807_306, "resnet": 11_164_362}
    torch.manual_seed(0)
    for activation, gain in (("relu", math.sqrt(2)), ("tanh", 5 / 3)):
        net = network(Setting(widths=(400, 300), activation=activation), (1, 8, 8), 10)  # type: ignore[arg-type]
        assert isinstance(net, nn.Sequential)
        assert [type(layer).__name__ for layer in net[1:3]] == ["Linear", {"relu": "ReLU", "tanh": "Tanh"}[activation]]
        layer = net[3]
        assert layer.weight.std().item() == pytest.approx(gain / math.sqrt(400), rel=0.02)
        assert not layer.bias.any()
    with pytest.raises(ValueError, match="has ReLU"):
        network(Setting(net="resnet18", widths=(2, 2, 2, 2), activation="tanh"), (1, 8, 8), 10)


def test_streams_belong_to_a_purpose() -> None:
    def draw(*purpose: str | int) -> float:
        return float(torch.rand((), generator=generator_of(*purpose)))  # type: ignore[arg-type]

    assert draw(0, "order", 1, 2) == draw(0, "order", 1, 2)
    assert len({draw(0, "order", 1, 2), draw(0, "order", 2, 1), draw(1, "order", 1, 2), draw(0, "toy", 1, 2)}) == 4


def records_of(config: Config, seed: int = 0) -> tuple[list[Record], Run]:
    assert study.run_trial is not None
    run = Run()
    torch.manual_seed(seed)
    return list(study.run_trial(config, seed, run)), run


def test_a_trial_is_repeatable_and_complete() -> None:
    first, run = records_of(TINY)
    torch.manual_seed(99)
    again, _ = records_of(TINY)
    assert first == again
    assert all(math.isfinite(record.value) for record in first)
    assert set(run.arrays) == {"plane_x", "plane_y", "plane_loss", "plane_ways"}
    by_arm = defaultdict(set)
    for record in first:
        by_arm[record.arm].add(record.metric)
    between = {"barrier", "midpoint", "instability", "test_barrier", "test_instability", "train_loss", "test_error"}
    assert between <= by_arm["early"] & by_arm["late"] & by_arm["spawn"] & by_arm["independent"]
    assert {"estimate", "increase", "sq_distance", "identity_error"} <= by_arm["spawn"]
    assert {"weight matching", "activation matching", "Sinkhorn, distance", "Sinkhorn, midpoint"} <= set(by_arm)
    barriers = {record.x: record.value for record in first if (record.arm, record.metric) == ("spawn", "barrier")}
    early, late = (
        next(r.value for r in first if (r.arm, r.metric, r.x) == (arm, "barrier", None)) for arm in ("early", "late")
    )
    assert (barriers[0.0], barriers[20.0]) == (early, late)


def test_copied_momentum_is_another_experiment() -> None:
    def barriers(config: Config) -> list[float]:
        return [r.value for r in records_of(config)[0] if (r.arm, r.metric) == ("spawn", "train_loss")]

    reset, copied = (barriers(replace(TINY, optimizer_state=state)) for state in ("reset", "copy"))
    assert reset[0] == copied[0], "nothing to copy where a pair parts at the start"
    assert all(one != other for one, other in zip(reset[1:], copied[1:], strict=True))


STAND_INS: dict[str, dict[str, object]] = {
    "narrow": {"data": "digits?limit=40", "widths": (2, 3, 4, 5)},
    "noisy": {"data": "digits?limit=40", "widths": (2, 3, 4, 5)},
    "smooth": {"data": "digits?limit=200", "widths": (8, 8)},
    "wide": {"data": "digits?limit=40", "widths": (8, 8)},
    "toy": {},
}


@pytest.mark.parametrize("case", STAND_INS)
def test_the_paper_preset_takes_its_steps_on_a_stand_in(case: str) -> None:
    """The paper's networks, optimisers, schedules and augmentation, small and on few samples."""
    paper = study.presets["paper"].config
    config = replace(
        paper, case=case, epochs=2, points=3, curvature_points=3, moments=1, sinkhorn_passes=1, plane=2, measured=20,
        toy_pairs=5, **STAND_INS[case],
    )  # fmt: skip
    assert case == "toy" or setting_of(config).net == SETTINGS["paper"][case].net
    found, _ = records_of(config)
    assert all(math.isfinite(record.value) for record in found)
    assert {record.metric for record in found} >= ({"toy_barrier"} if case == "toy" else {"barrier", "identity_error"})


def test_vgg_has_its_own_schedule() -> None:
    assert setting_of(Config(scale="paper", net="vgg11")).schedule == "halving"
    assert setting_of(Config(scale="paper")).schedule == "warm_cosine"


@pytest.mark.parametrize("cases", [("narrow",), ("noisy",), ("toy",), ("narrow", "noisy")])
def test_the_figure_draws_what_there_is(cases: Sequence[str]) -> None:
    rows, saved = [], []
    for case in cases:
        for seed in (0, 1):
            found, run = records_of(replace(TINY, case=case), seed)
            rows += [{**vars(record), "case": case, "seed": seed, "role": "reported"} for record in found]
            saved += [Saved(name, seed, {"case": case}, value) for name, value in run.arrays.items()]
    assert study.draw is not None
    figure = study.draw(pd.DataFrame(rows), Arrays(saved))
    assert len(figure.axes) == (4 if "narrow" in cases else 3)
    figure.canvas.draw()
    plt.close(figure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": "deep"}, "case='deep'"),
        ({"points": 4}, "points=4: must be odd"),
        ({"points": 1}, "points=1"),
        ({"moments": 0}, "moments=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"measured": 0}, "measured=0"),
        ({"together": 0}, "together=0"),
    ],
)
def test_mistakes(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_quantities_have_no_classes() -> None:
    with pytest.raises(ValueError, match="needs classes"):
        records_of(replace(TINY, data="tabular:diabetes"))
