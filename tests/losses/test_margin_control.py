"""The margin-control loss: closed forms, its gradient, its reductions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from landform.losses import MarginControlLoss
from landform.losses.margin_control import margin_penalty

B, K = 6, 4
Z = torch.randn(B, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def extra(lam: float, **options: str) -> Callable[[Tensor], Tensor]:
    loss = MarginControlLoss(lam, **options)  # type: ignore[arg-type]
    return lambda z: loss(z, Y) - F.cross_entropy(z, Y)


def test_uniform_and_certain_predictions() -> None:
    uniform = torch.zeros(B, K, dtype=torch.float64, requires_grad=True)
    loss = MarginControlLoss(0.3)(uniform, Y)
    assert float(loss.detach()) == pytest.approx(math.log(K) + 0.3 * math.log(1 + B / K), abs=1e-12)
    (gradient,) = torch.autograd.grad(extra(0.3)(uniform), uniform)
    assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-16)
    certain = 1000 * F.one_hot(Y, K).double()
    assert float(MarginControlLoss(0.3)(certain, Y)) == pytest.approx(0.3 * math.log(1 + B), abs=1e-12)


def test_value_and_gradient_of_each_form() -> None:
    z = Z.clone().requires_grad_()
    s = Z.softmax(1)
    squared = float((s * s).sum())
    (gradient,) = torch.autograd.grad(extra(0.7)(z), z)
    assert float(extra(0.7)(Z)) == pytest.approx(0.7 * math.log(1 + squared), abs=1e-12)
    closed = 0.7 * 2 / (1 + squared) * s * (s - (s * s).sum(1, keepdim=True))
    assert torch.allclose(gradient, closed, atol=1e-14)
    each = [math.log(1 + float(row @ row)) for row in s]
    assert float(extra(0.7, reduction="sample")(Z)) == pytest.approx(0.7 * sum(each) / B, abs=1e-12)
    assert float(extra(0.7, on="logits")(Z)) == pytest.approx(0.7 * math.log(1 + float((Z * Z).sum())), abs=1e-12)
    for options in ({}, {"reduction": "sample"}, {"on": "logits"}, {"on": "logits", "reduction": "sample"}):
        assert torch.autograd.gradcheck(extra(0.7, **options), z)


def test_no_weight_is_cross_entropy() -> None:
    assert torch.equal(MarginControlLoss(0.0)(Z, Y), F.cross_entropy(Z, Y))


def test_penalty_of_many_batches_leaves_out_what_does_not_count() -> None:
    sets = torch.stack([Z, 2 * Z])
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    sets[0, 5] = torch.inf
    for reduction in ("batch", "sample"):
        found = margin_penalty(sets, mask, reduction=reduction)  # type: ignore[arg-type]
        alone = [margin_penalty(Z[:4], reduction=reduction), margin_penalty(2 * Z, reduction=reduction)]  # type: ignore[arg-type]
        assert torch.allclose(found, torch.stack(alone), atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (ValueError, lambda: MarginControlLoss(-0.1), "lam=-0.1"),
        (ValueError, lambda: MarginControlLoss(float("nan")), "lam=nan"),
        (ValueError, lambda: MarginControlLoss(0.1, on="scores"), "on='scores'"),
        (ValueError, lambda: MarginControlLoss(0.1, reduction="mean"), "reduction='mean'"),
        (ValueError, lambda: MarginControlLoss()(Z, Y[:3]), r"\(3,\)"),
        (ValueError, lambda: MarginControlLoss()(Z[:0], Y[:0]), r"\(0, 4\)"),
        (ValueError, lambda: MarginControlLoss()(Z / 0, Y), "NaN or infinite"),
        (ValueError, lambda: MarginControlLoss()(Z, Y + 1), r"0\.\.3"),
        (TypeError, lambda: MarginControlLoss()(Z.long(), Y), "floating point"),
        (TypeError, lambda: MarginControlLoss()(Z, Y.double()), "integers"),
    ],
)
def test_what_cannot_be_is_refused(kind: type[Exception], call: Callable[[], object], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
