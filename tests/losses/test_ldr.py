"""LDR-KL and the general worst case against their limits, duality, a brute-force optimiser and finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from landform.losses import CrammerSingerLoss, LDRKLLoss, general_ldr, soft_maximum

F64 = torch.float64


def batch(classes: int = 5, size: int = 12, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(size, classes, generator=generator, dtype=F64)
    return logits, torch.randint(classes, (size,), generator=generator)


def by_hand(f: list[float], y: int, lam: float, c: float) -> float:
    """The published formula of one sample, in plain arithmetic."""
    v = [f[k] - f[y] + (c if k != y else 0) for k in range(len(f))]
    return lam * math.log(sum(math.exp(value / lam) for value in v) / len(f))


# --- LDR-KL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lam", "margin"), [(0.1, 0.1), (1.0, 2.0), (10.0, 0.1)])
@pytest.mark.parametrize("normalize", ["mean_softplus", "l1", None])
def test_value_is_the_formula(lam: float, margin: float, normalize: Any) -> None:
    logits, target = batch()
    each = LDRKLLoss(lam, margin, normalize, reduction="none")(logits, target)
    for row, y, value in zip(logits.tolist(), target.tolist(), each.tolist(), strict=True):
        f = [math.log1p(math.exp(x)) for x in row] if normalize == "mean_softplus" else row
        scale = sum(map(abs, f)) / len(f) if normalize else 1.0
        assert value == pytest.approx(by_hand([x / scale for x in f], y, lam, margin), rel=1e-7, abs=1e-9)


def test_defaults_are_the_sheets() -> None:
    logits, target = batch()
    torch.testing.assert_close(LDRKLLoss()(logits, target), LDRKLLoss(1.0, 0.1, "mean_softplus")(logits, target))


def test_lambda_one_without_margin_is_cross_entropy() -> None:
    logits, target = batch()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = LDRKLLoss(1.0, 0.0, None)(ours, target)
    reference = F.cross_entropy(theirs, target)
    torch.testing.assert_close(loss, reference - math.log(5), rtol=0, atol=1e-14)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("lam", [1e-3, 1e-8, 1e-200, 1e-310])
def test_small_lambda_approaches_crammer_singer(lam: float) -> None:
    logits, target = batch()
    hinge = CrammerSingerLoss(0.1, reduction="none")(logits, target)
    gap = hinge - LDRKLLoss(lam, 0.1, None, reduction="none")(logits, target)
    assert (gap >= -1e-14).all()
    assert (gap <= lam * math.log(5) + 1e-14).all()
    torch.testing.assert_close(LDRKLLoss(0, 0.1, None, reduction="none")(logits, target), hinge, rtol=0, atol=0)


@pytest.mark.parametrize(("lam", "atol"), [(1e4, 2e-3), (1e8, 2e-7), (1e15, 1e-12), (math.inf, 1e-13)])
def test_large_lambda_is_linear_and_symmetric(lam: float, atol: float) -> None:
    logits, _ = batch()
    loss = LDRKLLoss(lam, 0.3, None, reduction="none")
    labels = [torch.full((12,), y) for y in range(5)]
    own = logits.mean(1) - logits[:, 2] + 0.3 * 4 / 5
    torch.testing.assert_close(loss(logits, labels[2]), own, rtol=0, atol=atol)
    total = torch.stack([loss(logits, y) for y in labels]).sum(0)
    torch.testing.assert_close(total, torch.full((12,), 4 * 0.3, dtype=F64), rtol=0, atol=5 * atol)


def test_gradient_is_the_worst_case_less_the_label() -> None:
    logits, target = batch()
    f = logits.clone().requires_grad_()
    LDRKLLoss(0.7, 0.2, None, reduction="sum")(f, target).backward()
    label = F.one_hot(target, 5).double()
    worst = F.softmax((logits + 0.2 * (1 - label)) / 0.7, dim=1)
    torch.testing.assert_close(f.grad, worst - label, rtol=0, atol=1e-14)


@pytest.mark.parametrize("normalize", ["mean_softplus", "l1"])
def test_normalised_loss_does_not_see_the_scale(normalize: Any) -> None:
    logits, target = batch()
    loss = LDRKLLoss(0.5, 0.1, normalize)
    if normalize == "mean_softplus":  # softplus is scaled where it is linear
        logits = logits.abs() + 50
    torch.testing.assert_close(loss(logits, target), loss(7 * logits, target), rtol=1e-8, atol=0)


@pytest.mark.parametrize("shift", [-40.0, -800.0])
def test_softplus_far_below_zero_is_exact(shift: float) -> None:
    """There softplus(f) = exp(f) to rounding, so that the normalised logits are K softmax(f), however small exp(f)."""
    logits, target = batch()
    expected = LDRKLLoss(0.5, 0.1, None)(5 * F.softmax(logits, dim=1), target)
    torch.testing.assert_close(LDRKLLoss(0.5, 0.1)(logits + shift, target), expected, rtol=1e-12, atol=0)


def test_logits_that_are_all_zero_have_a_loss() -> None:
    f = torch.zeros(2, 3, dtype=F64, requires_grad=True)
    loss = LDRKLLoss(1.0, 0.1, "l1")(f, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(by_hand([0, 0, 0], 0, 1.0, 0.1), rel=1e-14)
    assert f.grad is not None
    assert f.grad.isfinite().all()


@pytest.mark.parametrize("lam", [0.05, 1e-8, 1e5])
def test_float32_keeps_its_digits(lam: float) -> None:
    logits, target = batch()
    exact = LDRKLLoss(lam, 0.1)(logits, target).item()
    assert LDRKLLoss(lam, 0.1)(logits.float(), target).item() == pytest.approx(exact, rel=2e-6, abs=1e-6)


def test_soft_maximum_takes_a_lambda_a_row() -> None:
    values = batch()[0]
    lam = torch.linspace(0.1, 3, 12, dtype=F64)
    expected = torch.stack([soft_maximum(row, each) for row, each in zip(values, lam.tolist(), strict=True)])
    torch.testing.assert_close(soft_maximum(values, lam), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"lam": -1.0}, "lam=-1"),
        ({"lam": math.nan}, "lam=nan"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"margin": math.nan}, "margin=nan"),
        ({"margin": math.inf}, "margin=inf"),
        ({"normalize": "l2"}, "normalize='l2'"),
        ({"reduction": "median"}, "reduction='median'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LDRKLLoss(**arguments)


# --- the general worst case --------------------------------------------------------------------------------------


def objective(p: torch.Tensor, v: torch.Tensor, lam: float, divergence: str) -> torch.Tensor:
    k = v.shape[-1]
    excess = torch.xlogy(p, k * p) if divergence == "kl" else (p - 1 / k) ** 2 / 2
    return (p * v).sum(-1) - lam * excess.sum(-1)


@pytest.mark.parametrize("lam", [0.2, 1.0, 6.0])
def test_duality(lam: float) -> None:
    """LDR-KL is the objective at the softmax, and no other distribution gives more."""
    v = batch()[0]
    value, p = general_ldr(v, lam, "kl")
    torch.testing.assert_close(p, F.softmax(v / lam, dim=1), rtol=0, atol=1e-14)
    torch.testing.assert_close(value, objective(p, v, lam, "kl"), rtol=0, atol=1e-13)
    torch.testing.assert_close(value, lam * (v / lam).logsumexp(1) - lam * math.log(5), rtol=0, atol=1e-13)
    others = torch.distributions.Dirichlet(torch.full((5,), 0.5, dtype=F64)).sample((500,))
    assert (objective(others, v[:, None], lam, "kl") <= value[:, None] + 1e-12).all()


@pytest.mark.parametrize("divergence", ["kl", "euclidean"])
@pytest.mark.parametrize("cap", [None, 0.5, 0.3, 0.21])
@pytest.mark.parametrize("lam", [0.1, 1.0, 5.0])
def test_worst_case_equals_a_general_optimisers(divergence: Any, cap: float | None, lam: float) -> None:
    v = batch(size=3, seed=int(10 * lam))[0]
    values, ps = general_ldr(v, lam, divergence, cap)
    assert ps.sum(1).tolist() == pytest.approx([1, 1, 1], rel=1e-13)
    assert ps.max() <= (cap or 1) + 1e-15
    for row, value, p in zip(v, values, ps, strict=True):

        def cost(q: Any, row: torch.Tensor = row) -> float:
            return -objective(torch.as_tensor(q).clamp(min=0), row, lam, divergence).item()

        found = minimize(
            cost,
            [0.2] * 5,
            bounds=[(1e-12, cap or 1)] * 5,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        torch.testing.assert_close(p, torch.as_tensor(found.x), rtol=0, atol=2e-4)
        assert value.item() >= -found.fun - 1e-9
        assert value.item() == pytest.approx(-found.fun, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_without_penalty_a_cap_gives_the_mean_of_the_largest(k: int) -> None:
    v = batch()[0]
    value, p = general_ldr(v, 0.0, "kl", cap=1 / k)
    torch.testing.assert_close(value, v.topk(k).values.mean(1), rtol=0, atol=1e-14)
    assert ((p > 0).sum(1) == k).all()


def test_a_cap_that_is_no_unit_fraction_is_the_best_vertex() -> None:
    """The linear programme's optimum is at a vertex: two classes at the cap 0.4 and one with the rest."""
    v = batch(size=4)[0]
    value, _ = general_ldr(v, 0.0, "euclidean", cap=0.4)
    vertices = list(set(itertools.permutations([0.4, 0.4, 0.2, 0.0, 0.0])))
    best = (v @ torch.tensor(vertices, dtype=F64).T).max(1).values
    torch.testing.assert_close(value, best, rtol=0, atol=1e-14)


@pytest.mark.parametrize("divergence", ["kl", "euclidean"])
@pytest.mark.parametrize("cap", [None, 0.4])
def test_limits_of_lambda(divergence: Any, cap: float | None) -> None:
    v = batch()[0]
    value, p = general_ldr(v, math.inf, divergence, cap)
    torch.testing.assert_close(value, v.mean(1))
    torch.testing.assert_close(p, torch.full_like(v, 0.2))
    torch.testing.assert_close(general_ldr(v, 1e6, divergence, cap)[0], value, rtol=0, atol=1e-4)
    hard = general_ldr(v, 0.0, divergence, cap)[0]
    torch.testing.assert_close(general_ldr(v, 1e-9, divergence, cap)[0], hard, rtol=0, atol=1e-7)


@pytest.mark.parametrize("divergence", ["kl", "euclidean"])
@pytest.mark.parametrize("cap", [None, 0.35])
@pytest.mark.parametrize("lam", [0.0, 0.8, math.inf])
def test_gradient_of_the_value_is_the_worst_case(divergence: Any, cap: float | None, lam: float) -> None:
    v = batch(size=4)[0].requires_grad_()
    value, p = general_ldr(v, lam, divergence, cap)
    assert not p.requires_grad
    (gradient,) = torch.autograd.grad(value.sum(), v)
    torch.testing.assert_close(gradient, p, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: general_ldr(x, lam, divergence, cap)[0], v)


def test_leading_dimensions_are_a_loop() -> None:
    v = batch()[0].reshape(3, 4, 5)
    value, p = general_ldr(v, 0.5, "kl", 0.4)
    for i, j in itertools.product(range(3), range(4)):
        one = general_ldr(v[i, j], 0.5, "kl", 0.4)
        torch.testing.assert_close((value[i, j], p[i, j]), one, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((torch.zeros(2, 4), -1.0, "kl"), "lam=-1"),
        ((torch.zeros(2, 4), math.nan, "kl"), "lam=nan"),
        ((torch.zeros(2, 4), 1.0, "chi2"), "divergence='chi2'"),
        ((torch.zeros(2, 4), 1.0, "kl", 0.2), "cap=0.2.*1/4"),
        ((torch.zeros(2, 4), 1.0, "kl", math.nan), "cap=nan"),
        ((torch.tensor([1.0, math.nan]), 1.0, "kl"), "NaN"),
        ((torch.zeros(0, 4), 1.0, "kl"), "empty"),
        ((torch.tensor(1.0), 1.0, "kl"), "scalar"),
    ],
)
def test_bad_problems_are_named(arguments: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        general_ldr(*arguments)
