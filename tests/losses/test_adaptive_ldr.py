"""ALDR-KL against the algorithm by hand, its interval, its fixed point, and what a table must do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from landform.losses import AdaptiveLDRKLLoss, LDRKLLoss

F64 = torch.float64


def batch(classes: int = 6, size: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, classes, generator=generator, dtype=F64)
    target = torch.randint(classes, (size,), generator=generator)
    return logits, target, torch.randperm(20, generator=generator)[:size]


def step_by_hand(
    f: list[float], y: int, lam: float, lam0: float, alpha: float, c: float, *, softplus: bool
) -> tuple[float, float]:
    """One visit of one sample in plain arithmetic: its loss and its new lambda."""
    k = len(f)
    f = [math.log1p(math.exp(x)) for x in f] if softplus else f
    scale = sum(map(abs, f)) / k
    f = [x / scale for x in f]
    p = [math.exp(x / lam) for x in f]
    p = [x / sum(p) + 1e-5 for x in p]
    p = [x / sum(p) for x in p]
    divergence = sum(x * math.log(k * x) for x in p)
    lam = lam0 - lam0 * divergence / (alpha * math.log(k))
    v = [f[j] - f[y] + (c if j != y else 0) for j in range(k)]
    loss = lam * math.log(sum(math.exp(x / lam) for x in v) / k)
    return loss - alpha * math.log(k) / (2 * lam0) * (lam - lam0) ** 2, lam


@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize(("lam0", "alpha", "margin"), [(0.3, 2.0, 0.1), (1.0, 1.5, 0.4), (10.0, 2.0, 0.1)])
def test_three_visits_equal_the_algorithm(lam0: float, alpha: float, margin: float, softplus: bool) -> None:
    loss = AdaptiveLDRKLLoss(20, lam0, alpha, margin, softplus=softplus, reduction="none").double()
    lams = dict.fromkeys(range(20), lam0)
    for visit in range(3):
        logits, target, index = batch(seed=visit)
        index = index if visit else torch.arange(8)
        values = loss(logits, target, index)
        for row, y, i, value in zip(logits.tolist(), target.tolist(), index.tolist(), values.tolist(), strict=True):
            expected, lams[i] = step_by_hand(row, y, lams[i], lam0, alpha, margin, softplus=softplus)
            assert value == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert loss.lam.tolist() == pytest.approx(list(lams.values()), rel=1e-7)
    assert len(set(loss.lam.tolist())) > 10


def test_a_float32_table_serves_float64_logits() -> None:
    exact, stored = AdaptiveLDRKLLoss(20, 1.0).double(), AdaptiveLDRKLLoss(20, 1.0)
    for visit in range(3):
        torch.testing.assert_close(stored(*batch(seed=visit)), exact(*batch(seed=visit)), rtol=1e-7, atol=1e-8)
    assert stored.lam.dtype == torch.float32


def test_gradient_holds_lambda_fixed() -> None:
    """It is that of LDR-KL with each sample's new lambda; the penalty has none."""
    logits, target, index = batch()
    loss = AdaptiveLDRKLLoss(20, 1.0, reduction="sum").double()
    f = logits.clone().requires_grad_()
    loss(f, target, index).backward()
    for i in range(len(target)):
        g = logits[i : i + 1].clone().requires_grad_()
        LDRKLLoss(loss.lam[index[i]].item(), 0.1, "l1")(g, target[i : i + 1]).backward()
        assert f.grad is not None
        torch.testing.assert_close(f.grad[i : i + 1], g.grad, rtol=0, atol=1e-13)


def test_ends_of_the_interval() -> None:
    equal = torch.full((1, 6), 2.0, dtype=F64)
    sure = torch.tensor([[1.0, 0, 0, 0, 0, 0]], dtype=F64)
    y, index = torch.tensor([0]), torch.tensor([0])
    flat = AdaptiveLDRKLLoss(1, 0.05).double()
    flat(equal, y, index)
    assert flat.lam.item() == pytest.approx(0.05, rel=1e-12)
    flat(sure, y, index)  # 6/0.05 apart: p is one-hot but for the smoothing
    assert flat.lam.item() == pytest.approx(0.05 * (1 - 1 / 2), rel=1e-3)
    assert flat.lam.item() > 0.05 * (1 - 1 / 2)


@pytest.mark.parametrize("alpha", [1.01, 2.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_lambda_stays_in_its_interval(alpha: float, dtype: torch.dtype) -> None:
    loss = AdaptiveLDRKLLoss(2000, 1.0, alpha, inner_steps=3, normalize=None).to(dtype)
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-8, 8, 2000).unsqueeze(1)
    logits = (scale * torch.randn(2000, 7, generator=generator)).to(dtype)
    loss(logits, torch.zeros(2000, dtype=torch.long), torch.arange(2000))
    assert loss.lam.max() <= 1
    assert loss.lam.min() >= 1 - 1 / alpha
    assert loss.lam.max() - loss.lam.min() > 0.9 / alpha


@pytest.mark.parametrize("lam0", [0.3, 1.0, 5.0])
def test_fixed_point_lies_between_two_ldr_losses(lam0: float) -> None:
    logits, target, index = batch()
    loss = AdaptiveLDRKLLoss(20, lam0, inner_steps=100, include_margin=True, reduction="none").double()
    value = loss(logits, target, index)
    again = loss(logits, target, index)
    torch.testing.assert_close(again, value, rtol=0, atol=1e-9)
    low = LDRKLLoss(lam0, 0.1, "l1", reduction="none")(logits, target)
    high = LDRKLLoss(lam0 / 2, 0.1, "l1", reduction="none")(logits, target)
    assert (value >= low - 1e-6).all()
    assert (value <= high + 1e-12).all()
    assert (value - low).max() > 3e-4


def test_steps_never_lower_the_objective() -> None:
    """Of alternating maximisation; a slack for the 1e-5 with which p is smoothed."""
    logits, target, index = batch()
    values = []
    loss = AdaptiveLDRKLLoss(20, 0.5, include_margin=True, reduction="none").double()
    for _ in range(12):
        values.append(loss(logits, target, index))
    assert (torch.stack(values).diff(dim=0) > -1e-5).all()
    joint = AdaptiveLDRKLLoss(20, 0.5, include_margin=True, inner_steps=12, reduction="none").double()
    torch.testing.assert_close(joint(logits, target, index), values[-1], rtol=0, atol=1e-14)


def test_eval_uses_the_table_and_leaves_it() -> None:
    logits, target, index = batch()
    loss = AdaptiveLDRKLLoss(20, 1.0, reduction="none").double()
    trained = loss(logits, target, index)
    before = loss.lam.clone()
    loss.eval()
    torch.testing.assert_close(loss(logits, target, index), trained, rtol=0, atol=0)
    loss(-logits, target, index)
    assert torch.equal(loss.lam, before)


def test_only_visited_samples_change() -> None:
    logits, target, index = batch()
    loss = AdaptiveLDRKLLoss(20, 1.0)
    loss(logits, target, index)
    others = torch.ones(20, dtype=torch.bool)
    others[index] = False
    assert (loss.lam[others] == 1).all()
    assert (loss.lam[index] < 1).all()


def test_leading_dimensions_are_a_loop() -> None:
    logits, target, _ = batch(size=6)
    loss = AdaptiveLDRKLLoss(1, 1.0)
    lam = torch.linspace(0.6, 1, 6, dtype=F64)
    value, after = loss.psi(logits.view(2, 3, 6), target.view(2, 3), lam.view(2, 3))
    for i in range(6):
        one = loss.psi(logits[i], target[i], lam[i])
        torch.testing.assert_close((value.flatten()[i], after.flatten()[i]), one, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"alpha": 1.0}, "alpha=1.0"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"lam0": 0.0}, "lam0=0.0"),
        ({"lam0": math.inf}, "lam0=inf"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"margin": -1.0}, "margin=-1"),
        ({"inner_steps": 0}, "inner_steps=0"),
        ({"normalize": "l2"}, "normalize='l2'"),
        ({"reduction": "median"}, "reduction="),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AdaptiveLDRKLLoss(**{"num_samples": 4, "lam0": 1.0, **arguments})


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        (torch.tensor([0, 4]), ValueError, "index contain 4"),
        (torch.tensor([0, -1]), ValueError, "index contain -1"),
        (torch.tensor([0]), ValueError, "index of shape"),
        (torch.tensor([0.0, 1.0]), TypeError, "integers"),
    ],
)
def test_bad_indices_are_named_and_nothing_is_stored(index: torch.Tensor, error: type[Exception], says: str) -> None:
    loss = AdaptiveLDRKLLoss(4, 1.0)
    with pytest.raises(error, match=says):
        loss(torch.eye(2), torch.tensor([0, 1]), index)
    assert (loss.lam == 1).all()
