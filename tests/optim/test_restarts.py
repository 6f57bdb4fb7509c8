"""Cosine with warm restarts behind a warm-up: the published lag, against PyTorch's own scheduler used as published."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from landform.optim.schedules import CosineWarmRestartsWithWarmup


def sgd(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates or (0.1,)])


def run(schedule, epochs):
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_golden_rates():
    """60 epochs with 2 restarts, from the published code."""
    rates = [r for (r,) in run(CosineWarmRestartsWithWarmup(sgd(), 20, 10, 1e-4), 60)]
    c19 = 1e-4 + 0.0999 * (1 + math.cos(0.95 * math.pi)) / 2
    expected = {0: 1e-4, 5: 1e-4 + 0.5 * 0.04995, 10: 0.05005, 11: 0.05005, 20: c19, 21: 0.1, 40: c19, 41: 0.1}
    assert {e: rates[e] for e in expected} == pytest.approx(expected, rel=1e-12)
    assert rates[20] == pytest.approx(7.1e-4, abs=1e-5)
    assert rates[59] == pytest.approx(1e-4 + 0.0999 * (1 + math.cos(0.9 * math.pi)) / 2)


def test_after_the_warm_up_it_lags_one_epoch_behind_pytorch():
    optimizer = sgd()
    cosine = CosineAnnealingWarmRestarts(optimizer, 7, eta_min=1e-3)
    plain = [r for (r,) in run(cosine, 30)]
    ours = [r for (r,) in run(CosineWarmRestartsWithWarmup(sgd(), 7, 3, 1e-3), 31)]
    assert ours[4:] == pytest.approx(plain[3:], rel=1e-12)
    steps = [b - a for a, b in pairwise(ours[:4])]
    assert ours[0] == 1e-3
    assert steps == pytest.approx([steps[0]] * 3)
    assert ours[3] == ours[4] == pytest.approx(plain[3])


def test_groups_have_their_own_rates_and_no_warm_up_is_a_lag_alone():
    rates = run(CosineWarmRestartsWithWarmup(sgd(0.1, 0.4), 4, 0, 0.0), 6)
    assert [b / a for a, b in rates] == pytest.approx([4] * 6)
    assert [a for a, _ in rates] == pytest.approx(
        [0.1, 0.1, *[0.05 * (1 + math.cos(math.pi * i / 4)) for i in (1, 2, 3)], 0.1]
    )


@pytest.mark.parametrize("done", [1, 3, 9])
def test_a_saved_run_goes_on_to_the_bit(done):
    uninterrupted = run(CosineWarmRestartsWithWarmup(sgd(), 5, 2, 1e-3), 14)
    optimizer = sgd()
    schedule = CosineWarmRestartsWithWarmup(optimizer, 5, 2, 1e-3)
    assert run(schedule, done) == uninterrupted[:done]
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    fresh = sgd()
    resumed = CosineWarmRestartsWithWarmup(fresh, 5, 2, 1e-3)
    fresh.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert run(resumed, 14 - done) == uninterrupted[done:]
    again = CosineWarmRestartsWithWarmup(optimizer, 5, 2, 1e-3, last_epoch=done - 1)
    assert run(again, 14 - done) == uninterrupted[done:]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 0, 0.0), ValueError, "period=0"),
        ((5, 5, 0.0), ValueError, "warmup=5"),
        ((5, -1, 0.0), ValueError, "warmup=-1"),
        ((5, 1, 0.2), ValueError, r"eta_min=0\.2"),
        ((5, 1, -0.1), ValueError, r"eta_min=-0\.1"),
        ((5.0, 1, 0.0), TypeError, r"period=5\.0"),
    ],
)
def test_plans_that_cannot_be(arguments, error, match):
    with pytest.raises(error, match=match):
        CosineWarmRestartsWithWarmup(sgd(), *arguments)
