"""The fixed margin losses against their textbook formulas, PyTorch's own, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from landform.losses import (
    BinaryFocalLoss,
    ExponentialLoss,
    HingeLoss,
    LogisticLoss,
    MarginLoss,
    TailedHingeLoss,
    signed_margins,
)
from landform.losses.binary import Tail

TAILS: tuple[Tail, ...] = ("inverse", "inverse_log", "log")
LOSSES: dict[str, MarginLoss] = {
    "logistic": LogisticLoss(),
    "hinge": HingeLoss(),
    "exponential": ExponentialLoss(),
    "focal": BinaryFocalLoss(),
    **{f"tail_{kind}": TailedHingeLoss(kind) for kind in TAILS},
}


def formula(name: str, z: float) -> float:
    """Each loss at one margin, in plain arithmetic."""
    p = 1 / (1 + math.exp(-z))
    if name.startswith("tail") and z <= 1:
        return 1 - z
    return {
        "logistic": lambda: math.log(1 + math.exp(-z)),
        "hinge": lambda: max(0.0, 1 - z),
        "exponential": lambda: math.exp(-z),
        "focal": lambda: -((1 - p) ** 2) * math.log(p),
        "tail_inverse": lambda: 1 / z - 1,
        "tail_inverse_log": lambda: math.e / math.log(z + math.e - 1) - math.e,
        "tail_log": lambda: -math.log(z),
    }[name]()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
    return scores, torch.randint(0, 2, (40,), generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_value_is_the_formula_averaged(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, targets = batch
    each = [formula(name, (2 * t - 1) * f) for f, t in zip(scores.tolist(), targets.tolist(), strict=True)]
    assert LOSSES[name](scores, targets).item() == pytest.approx(sum(each) / len(each), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, targets = batch
    assert torch.autograd.gradcheck(lambda f: LOSSES[name](f, targets), scores.clone().requires_grad_())


def test_logistic_is_binary_cross_entropy_and_focal_without_focus_too(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    scores, targets = batch
    expected = F.binary_cross_entropy_with_logits(scores, targets.double())
    torch.testing.assert_close(LogisticLoss()(scores, targets), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(BinaryFocalLoss(gamma=0)(scores, targets), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", TAILS)
def test_tail_meets_the_hinge_in_value_and_slope(kind: Tail) -> None:
    """A step away on either side of z = 1 the slope is -1 up to the step; far out it is negative and fading."""
    step = 1e-7
    z = torch.tensor([1 - step, 1.0, 1 + step, 50.0, 500.0], dtype=torch.float64, requires_grad=True)
    values = TailedHingeLoss(kind).phi(z)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    torch.testing.assert_close(values[:3].detach(), 1 - z[:3].detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(slopes[:3], -torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert -0.1 < slopes[3] < slopes[4] < 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [-80.0, 80.0])
def test_extreme_margins_have_finite_gradients_in_float32(name: str, extreme: float) -> None:
    z = torch.tensor([extreme], requires_grad=True)
    LOSSES[name].phi(z).sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_reductions(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, targets = batch
    each = HingeLoss(reduction="none")(scores, targets)
    assert each.shape == scores.shape
    torch.testing.assert_close(HingeLoss(reduction="sum")(scores, targets), each.sum())
    torch.testing.assert_close(HingeLoss()(scores, targets), each.sum() / 40)


def test_signed_targets_and_column_shapes_give_the_same(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, targets = batch
    expected = ExponentialLoss()(scores, targets)
    torch.testing.assert_close(ExponentialLoss(target_format="signed")(scores, 2 * targets - 1), expected)
    for f, t in [(scores[:, None], targets), (scores, targets[:, None].bool()), (scores[:, None], targets[:, None])]:
        torch.testing.assert_close(ExponentialLoss()(f, t), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    scores = torch.tensor([-3.0, 0.5, 2.0], dtype=dtype, requires_grad=True)
    loss = ExponentialLoss(reduction="sum")(scores, torch.tensor([1, 1, 0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert scores.grad is not None
    assert scores.grad.dtype == dtype
    assert loss.item() == pytest.approx(math.exp(3) + math.exp(-0.5) + math.exp(2), rel=1e-6)


@pytest.mark.parametrize(
    ("scores", "targets", "error", "says"),
    [
        (torch.zeros(3), torch.zeros(4), ValueError, "do not match"),
        (torch.zeros(1, 3), torch.zeros(3), ValueError, "do not match"),
        (torch.zeros(0), torch.zeros(0), ValueError, "empty"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), ValueError, "NaN"),
        (torch.tensor([0.0, math.inf]), torch.zeros(2), ValueError, "infinite"),
        (torch.zeros(2), torch.tensor([0.0, 0.5]), ValueError, r"targets contain 0\.5"),
        (torch.zeros(2), torch.tensor([0, -1]), ValueError, "targets contain -1"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2), TypeError, "floating"),
    ],
)
def test_bad_batches_are_named(scores: torch.Tensor, targets: torch.Tensor, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        signed_margins(scores, targets)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="reduction='median'"):
        HingeLoss(reduction="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target_format='01'"):
        HingeLoss(target_format="01")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind='exponential'"):
        TailedHingeLoss("exponential")  # type: ignore[arg-type]
    for gamma in (-1.0, math.nan):
        with pytest.raises(ValueError, match="gamma"):
            BinaryFocalLoss(gamma)
