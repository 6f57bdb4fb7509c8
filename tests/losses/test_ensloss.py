"""EnsLoss against the algorithm worked through one sample at a time, and the facts that its theory rests on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from landform.losses import (
    BoxCoxSchedule,
    EnsLoss,
    LogisticLoss,
    MulticlassEnsLoss,
    calibrated_derivatives,
    calibration_violations,
    inverse_box_cox,
    is_calibrated_sequence,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def by_hand(margins: list[float], z: list[float], lam: float, clip: float = 1.0, eps: float = 1e-6) -> list[float]:
    """The algorithm in plain Python, with the power form of the inverse Box-Cox transformation."""
    draws = []
    for value in z:
        base = 1 + lam * value
        if lam == 0:
            draws.append(math.exp(value))
        elif base > 0:
            draws.append(base ** (1 / lam))
        else:
            draws.append(0.0 if lam > 0 else math.inf)
    ascending = [max(g, -clip) for g in sorted(-r for r in draws)]
    slopes = [0.0] * len(margins)
    for g, i in zip(ascending, sorted(range(len(margins)), key=margins.__getitem__), strict=True):
        slopes[i] = (g / margins[i] if margins[i] > 1 else g) - eps
    return slopes


# --- the inverse Box-Cox transformation --------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.7, -0.6, 1.0, -1.0, 0.01])
def test_inverse_box_cox_undoes_box_cox(lam: float) -> None:
    z = normal(100).clamp(-1 / abs(lam) + 0.01, 1 / abs(lam) - 0.01)
    r = inverse_box_cox(z, lam)
    torch.testing.assert_close((r**lam - 1) / lam, z, rtol=1e-9, atol=1e-11)


def test_inverse_box_cox_beyond_its_pole() -> None:
    z = torch.tensor([-3.0, -2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(inverse_box_cox(z, 0.5), torch.tensor([0.0, 0.0, 6.25], dtype=torch.float64))
    assert inverse_box_cox(-z, -0.5).tolist()[:2] == [math.inf, math.inf]


@pytest.mark.parametrize("lam", [1e-6, -1e-6, 1e-12, 1e-200, -1e-310])
def test_inverse_box_cox_tends_to_the_exponential(lam: float) -> None:
    z = normal(100)
    torch.testing.assert_close(inverse_box_cox(z, lam), z.exp(), rtol=max(10 * abs(lam), 1e-14), atol=0)


def test_inverse_box_cox_takes_a_parameter_each() -> None:
    z, lam = normal(4, 5), torch.tensor([[0.0], [0.7], [-0.6], [1.0]], dtype=torch.float64)
    expected = torch.stack([inverse_box_cox(row, value.item()) for row, value in zip(z, lam, strict=True)])
    torch.testing.assert_close(inverse_box_cox(z, lam), expected, rtol=0, atol=0)


# --- the slopes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.7, -0.6, 1.0])
@pytest.mark.parametrize("clip", [1.0, 0.3])
def test_slopes_equal_the_algorithm_by_hand(lam: float, clip: float) -> None:
    margins, z = 2 * normal(64, seed=1), 1.5 * normal(64, seed=2)
    assert (1 + lam * z <= 0).any() == (lam != 0)  # the cases beyond the pole are among these
    slopes = calibrated_derivatives(margins, inverse_box_cox(z, lam), clip=clip)
    assert slopes.tolist() == pytest.approx(by_hand(margins.tolist(), z.tolist(), lam, clip), rel=1e-12, abs=1e-15)


def test_slopes_of_a_worked_case() -> None:
    margins = torch.tensor([3.0, -0.5, 0.2, 1.0, 2.0], dtype=torch.float64)
    draws = torch.tensor([0.9, 0.1, 4.0, 0.5, 0.6], dtype=torch.float64)
    # Ascending slopes -1, -.9, -.6, -.5, -.1 go to margins -.5, .2, 1, 2, 3; the last two are divided by theirs.
    expected = torch.tensor([-0.1 / 3, -1.0, -0.9, -0.6, -0.25], dtype=torch.float64)
    torch.testing.assert_close(calibrated_derivatives(margins, draws, eps=0.0), expected, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(calibrated_derivatives(margins, draws), expected - 1e-6, rtol=1e-15, atol=1e-15)
    steep = calibrated_derivatives(margins, draws, clip=None, tail_power=None, eps=0.0)
    torch.testing.assert_close(steep, torch.tensor([-0.1, -4.0, -0.9, -0.6, -0.5], dtype=torch.float64))
    faster = calibrated_derivatives(margins, draws, tail_start=1.5, tail_power=2.0, eps=0.0)
    expected[[0, 4]] = torch.tensor([-0.1 / 4, -0.5 * 0.75**2], dtype=torch.float64)
    torch.testing.assert_close(faster, expected)


finite = st.floats(-20, 20, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(finite, st.floats(0, 50)), min_size=1, max_size=12),
    st.sampled_from([None, 1.0, 0.5]),
    st.sampled_from([None, 1.0, 2.0]),
)
def test_every_draw_is_a_convex_calibrated_loss(
    pairs: list[tuple[float, float]], clip: float | None, tail_power: float | None
) -> None:
    margins, draws = torch.tensor(pairs, dtype=torch.float64).T
    slopes = calibrated_derivatives(margins, draws, clip=clip, tail_power=tail_power)
    assert is_calibrated_sequence(margins, slopes)
    assert clip is None or (slopes >= -clip - 1e-6).all()


def test_without_sorting_the_loss_is_not_convex() -> None:
    margins, draws = normal(64), normal(64, seed=1).exp()
    assert not is_calibrated_sequence(margins, -draws)


def test_violations_are_counted_per_batch_and_ties_are_free() -> None:
    margins = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    slopes = torch.tensor([[-3.0, -2.0, -1.0], [-1.0, -2.0, -2.0], [-1.0, -2.0, -0.5]])
    assert calibration_violations(margins, slopes).tolist() == [0, 0, 1]
    bad = torch.tensor([-1.0, 0.0, -math.inf])
    assert calibration_violations(torch.arange(3.0), bad).item() == 3  # zero; infinite, which is also a decrease
    with pytest.raises(ValueError, match="shape"):
        calibration_violations(margins, slopes[0])


def test_unit_draws_are_the_hinge_up_to_its_kink() -> None:
    margins = torch.linspace(-3, 1, 9, dtype=torch.float64, requires_grad=True)
    (hinge,) = torch.autograd.grad((1 - margins).clamp(min=0).sum(), margins)
    torch.testing.assert_close(calibrated_derivatives(margins, torch.ones_like(margins), eps=0.0), hinge)


def test_ties_share_one_multiset_of_slopes() -> None:
    draws = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)
    slopes = calibrated_derivatives(torch.zeros(3, dtype=torch.float64), draws, eps=0.0)
    assert sorted(slopes.tolist()) == [-0.6, -0.4, -0.2]


def test_leading_dimensions_and_vmap_are_a_loop() -> None:
    margins, draws = 2 * normal(3, 4, 10), normal(3, 4, 10, seed=1).exp()
    loop = torch.stack(
        [
            torch.stack([calibrated_derivatives(m, r) for m, r in zip(ms, rs, strict=True)])
            for ms, rs in zip(margins, draws, strict=True)
        ]
    )
    torch.testing.assert_close(calibrated_derivatives(margins, draws), loop, rtol=0, atol=0)
    torch.testing.assert_close(vmap(vmap(calibrated_derivatives))(margins, draws), loop, rtol=0, atol=0)


def test_vmapped_gradients_of_many_models_equal_each_models_own() -> None:
    x, y = normal(12, 5), torch.where(normal(12, seed=1) > 0, 1.0, -1.0).double()
    weights, draws = normal(6, 5, seed=2), normal(6, 12, seed=3).exp()

    def loss(w: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        margins = y * (x @ w)
        return (calibrated_derivatives(margins, r) * margins).mean()

    together = vmap(grad(loss))(weights, draws)
    for w, r, g in zip(weights, draws, together, strict=True):
        slopes = torch.tensor(by_hand((y * (x @ w)).tolist(), r.log().tolist(), 0.0), dtype=torch.float64)
        torch.testing.assert_close(g, (y * slopes) @ x / 12, rtol=1e-10, atol=1e-13)


def test_slopes_need_a_draw_each() -> None:
    with pytest.raises(ValueError, match=r"draws of shape \(2,\)"):
        calibrated_derivatives(torch.zeros(3), torch.ones(2))


# --- the module --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("lam", [0.0, 0.7, -0.6])
def test_gradient_is_label_times_slope(reduction: Any, lam: float) -> None:
    scores, targets = 2 * normal(50), (normal(50, seed=1) > 0).long()
    signs = 2.0 * targets - 1
    z = torch.randn(50, generator=rng(7), dtype=torch.float64)  # what the module will draw
    slopes = torch.tensor(by_hand((signs * scores).tolist(), z.tolist(), lam), dtype=torch.float64)
    scores.requires_grad_()
    loss = EnsLoss(boxcox_lambda=lam, reduction=reduction, generator=rng(7))(scores, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    scale = 1 / 50 if reduction == "mean" else 1.0
    torch.testing.assert_close(gradient, signs * slopes * scale, rtol=1e-13, atol=1e-15)
    terms = (signs * scores).detach() * slopes
    expected = {"mean": terms.mean(), "sum": terms.sum(), "none": terms}[reduction]
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=1e-14)


def test_one_sample() -> None:
    score, target = torch.tensor([0.4], dtype=torch.float64), torch.tensor([0])
    draw = math.exp(torch.randn(1, generator=rng(3), dtype=torch.float64).item())
    expected = (-min(draw, 1.0) - 1e-6) * -0.4
    assert EnsLoss(generator=rng(3))(score, target).item() == pytest.approx(expected, rel=1e-12)


def test_every_call_draws_anew_and_a_seed_repeats_it() -> None:
    scores, targets = normal(20), torch.ones(20)
    loss, again = EnsLoss(generator=rng(3)), EnsLoss(generator=rng(3))
    first, second = loss(scores, targets).item(), loss(scores, targets).item()
    assert first != second
    assert [again(scores, targets).item(), again(scores, targets).item()] == [first, second]


def test_flipped_labels_with_negated_scores_are_the_same_problem() -> None:
    scores, targets = normal(20), (normal(20, seed=1) > 0).long()
    one = EnsLoss(reduction="none", generator=rng())(scores, targets)
    other = EnsLoss(reduction="none", generator=rng())(-scores, 1 - targets)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_shapes_and_target_formats_agree() -> None:
    scores, targets = normal(20), (normal(20, seed=1) > 0).long()
    expected = EnsLoss(generator=rng())(scores, targets)
    for f, t in [(scores[:, None], targets), (scores, targets[:, None].double()), (scores[:, None], targets[:, None])]:
        torch.testing.assert_close(EnsLoss(generator=rng())(f, t), expected)
    signed = EnsLoss(generator=rng(), target_format="signed")(scores, 2 * targets - 1)
    torch.testing.assert_close(signed, expected)


def test_eval_mode_is_the_logistic_loss() -> None:
    scores, targets = normal(20), (normal(20, seed=1) > 0).long()
    torch.testing.assert_close(EnsLoss().eval()(scores, targets), LogisticLoss()(scores, targets))


def test_distributions_have_their_means() -> None:
    """Of clipped draws: log-normal 1/2 + e^(1/2) Phi(-1), exponential 1 - 1/e, each to 5 standard errors."""
    margins = torch.zeros(200_000, dtype=torch.float64)
    lognormal = EnsLoss(generator=rng()).draw(margins).clamp(max=1).mean().item()
    assert lognormal == pytest.approx(0.5 + math.exp(0.5) * 0.5 * math.erfc(1 / math.sqrt(2)), abs=0.004)
    exponential = EnsLoss("exponential", generator=rng()).draw(margins).clamp(max=1).mean().item()
    assert exponential == pytest.approx(1 - math.exp(-1), abs=0.004)


def test_a_callable_supplies_the_draws() -> None:
    seen: list[Any] = []

    def uniform(n: int, generator: torch.Generator | None) -> torch.Tensor:
        seen.append((n, generator))
        return torch.linspace(0.1, 0.9, n)

    generator, margins = rng(), torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    loss = EnsLoss(uniform, generator=generator, reduction="none", eps=0.0)
    torch.testing.assert_close(
        loss(margins, torch.ones(3)), torch.tensor([-0.1, 0.0, 0.9], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert seen == [(3, generator)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_every_slope_negative(dtype: torch.dtype) -> None:
    scores = torch.linspace(-30, 30, 61).to(dtype).requires_grad_()
    loss = EnsLoss(reduction="sum", generator=rng())(scores, torch.ones(61))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert (gradient < 0).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"distribution": "gaussian"}, "distribution='gaussian'"),
        ({"boxcox_lambda": math.nan}, "boxcox_lambda"),
        ({"boxcox_lambda": -0.5, "clip": None}, "needs a clip"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"tail_start": -1.0}, "tail_start"),
        ({"tail_power": 0.0}, "tail_power"),
        ({"eps": -1e-6}, "eps"),
        ({"reduction": "batchmean"}, "reduction"),
        ({"target_format": "pm"}, "target_format"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EnsLoss(**arguments)


@pytest.mark.parametrize(
    ("draws", "says"),
    [
        (torch.ones(2), "shape"),
        (torch.tensor([1.0, -1.0, 1.0]), "negative"),
        (torch.tensor([1.0, math.nan, 1.0]), "NaN"),
        (torch.tensor([1.0, math.inf, 1.0]), "infinite"),
    ],
)
def test_bad_draws_are_named(draws: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EnsLoss(lambda n, generator: draws, clip=None)(torch.zeros(3), torch.zeros(3))


def test_bad_batches_are_named() -> None:
    for scores, targets in [
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(0), torch.zeros(0)),
        (torch.full((2,), math.nan), torch.zeros(2)),
        (torch.zeros(2), torch.full((2,), 2)),
    ]:
        with pytest.raises(ValueError, match=r"scores|targets"):
            EnsLoss()(scores, targets)


# --- the schedule ------------------------------------------------------------------------------------------------


def test_schedule_redraws_every_period_within_its_range() -> None:
    loss = EnsLoss()
    schedule = BoxCoxSchedule(loss, period=3, low=0.2, high=0.4, generator=rng())
    seen = []
    for _ in range(9):
        schedule.step()
        seen.append(loss.boxcox_lambda)
    assert seen[:2] == [0.0, 0.0]
    assert seen[2] == seen[3] == seen[4] != seen[5] == seen[6] == seen[7] != seen[8]
    assert all(0.2 <= value <= 0.4 for value in seen[2:])
    assert seen[2] == 0.2 + 0.2 * torch.rand((), generator=rng(), dtype=torch.float64).item()


def test_schedule_resumes_where_it_was() -> None:
    loss, other = EnsLoss(), EnsLoss()
    schedule = BoxCoxSchedule(loss, period=2, generator=rng(4))
    for _ in range(3):
        schedule.step()
    resumed = BoxCoxSchedule(other, period=2, generator=rng(9))
    resumed.load_state_dict(schedule.state_dict())
    assert other.boxcox_lambda == loss.boxcox_lambda != 0
    schedule.step()
    resumed.step()
    assert other.boxcox_lambda == loss.boxcox_lambda


def test_schedule_names_bad_arguments() -> None:
    with pytest.raises(ValueError, match="period=0"):
        BoxCoxSchedule(EnsLoss(), 0)
    with pytest.raises(ValueError, match="low below high"):
        BoxCoxSchedule(EnsLoss(), 1, low=1.0, high=0.0)
    with pytest.raises(ValueError, match="no Box-Cox parameter"):
        BoxCoxSchedule(EnsLoss("exponential"), 1)
    with pytest.raises(ValueError, match="needs a loss with a clip"):
        BoxCoxSchedule(EnsLoss(clip=None), 1)


# --- the multi-class extensions ----------------------------------------------------------------------------------


def test_one_vs_rest_is_a_binary_ensloss_a_class() -> None:
    logits, targets = 2 * normal(9, 4), torch.arange(9) % 4
    z = torch.randn(4, 9, generator=rng(5), dtype=torch.float64)
    terms = np.zeros((9, 4))
    for k in range(4):
        margins = [f if t == k else -f for f, t in zip(logits[:, k].tolist(), targets.tolist(), strict=True)]
        terms[:, k] = np.array(by_hand(margins, z[k].tolist(), 0.0)) * margins
    loss = MulticlassEnsLoss("one_vs_rest", reduction="none", generator=rng(5))(logits, targets)
    np.testing.assert_allclose(loss, terms.mean(1), rtol=1e-12)


def test_pairwise_draws_one_loss_for_all_margins() -> None:
    logits, targets = 2 * normal(9, 4), torch.arange(9) % 4
    margins = [
        (row[t] - row[k]).item() for row, t in zip(logits, targets.tolist(), strict=True) for k in range(4) if k != t
    ]
    z = torch.randn(27, generator=rng(5), dtype=torch.float64)
    terms = (np.array(by_hand(margins, z.tolist(), 0.0)) * margins).reshape(9, 3)
    loss = MulticlassEnsLoss(reduction="none", generator=rng(5))(logits, targets)
    np.testing.assert_allclose(loss, terms.mean(1), rtol=1e-12)
    mean = MulticlassEnsLoss(generator=rng(5))(logits, targets)
    assert mean.item() == pytest.approx(terms.mean(), rel=1e-12)


def test_pairwise_with_two_classes_is_binary_on_the_difference() -> None:
    logits, targets = normal(9, 2), torch.arange(9) % 2
    two = MulticlassEnsLoss(generator=rng())(logits, targets)
    one = EnsLoss(generator=rng())(logits[:, 1] - logits[:, 0], targets)
    torch.testing.assert_close(two, one, rtol=1e-12, atol=0)


def test_multiclass_in_eval_mode_is_logistic_on_its_margins() -> None:
    logits, targets = normal(9, 4), torch.arange(9) % 4
    hot = torch.nn.functional.one_hot(targets, 4).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, hot)
    torch.testing.assert_close(MulticlassEnsLoss("one_vs_rest").eval()(logits, targets), expected)


def test_multiclass_names_bad_batches() -> None:
    for logits, targets, error, says in [
        (torch.zeros(3), torch.zeros(3).long(), ValueError, "shape"),
        (torch.zeros(3, 1), torch.zeros(3).long(), ValueError, "K at least 2"),
        (torch.zeros(3, 2), torch.zeros(2).long(), ValueError, "shape"),
        (torch.zeros(3, 2), torch.zeros(3), TypeError, "integer"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), ValueError, "targets contain 2"),
        (torch.full((3, 2), math.nan), torch.zeros(3).long(), ValueError, "NaN"),
        (torch.zeros(0, 2), torch.zeros(0).long(), ValueError, "empty"),
    ]:
        with pytest.raises(error, match=says):
            MulticlassEnsLoss()(logits, targets)
    with pytest.raises(ValueError, match="scheme"):
        MulticlassEnsLoss("crammer_singer")  # type: ignore[arg-type]
