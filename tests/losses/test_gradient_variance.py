"""Per-sample gradients of a last layer against torch.func, and the inconsistency against its formula and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from landform.losses import GradientVarianceInconsistency, last_layer_sample_grads


def drawn(n: int = 7, d: int = 4, k: int = 3) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(d, k).double(), torch.randn(n, d, dtype=torch.float64), torch.randint(0, k, (n,))


def test_sample_gradients_are_those_of_torch_func() -> None:
    head, h, y = drawn()

    def loss(params: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(head, params, (x[None],)), target[None])

    expected = vmap(grad(loss), in_dims=(None, 0, 0))(dict(head.named_parameters()), h, y)
    weight, bias = last_layer_sample_grads(h, head(h), y)
    torch.testing.assert_close(weight, expected["weight"], rtol=0, atol=1e-12)
    torch.testing.assert_close(bias, expected["bias"], rtol=0, atol=1e-12)


def test_sample_gradients_can_be_differentiated() -> None:
    head, h, y = drawn()
    h.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: last_layer_sample_grads(x, head(x), y), (h,))


@pytest.mark.parametrize("center", ["reference", "own"])
def test_inconsistency_entry_by_entry(center: str) -> None:
    """The sum over entries of W and b one at a time, in the released code's form: squared distances to the mean."""
    head, h, y = drawn()
    new = h + 0.5 * torch.randn_like(h)
    clean, moved = last_layer_sample_grads(h, head(h), y), last_layer_sample_grads(new, head(new), y)
    squared, norms = [], 0.0
    for g, m in zip(clean, moved, strict=True):
        g, m = g.flatten(1), m.flatten(1)
        for j in range(g.shape[1]):
            mean = sum(g[:, j].tolist()) / len(g)
            middle = mean if center == "reference" else sum(m[:, j].tolist()) / len(m)
            v = sum((value - mean) ** 2 for value in g[:, j].tolist()) / len(g)
            w = sum((value - middle) ** 2 for value in m[:, j].tolist()) / len(m)
            both = (v + w) / 2
            squared.append(((v - both) ** 2 + (w - both) ** 2) / 2)
        norms += sum(m[i].norm().item() ** 2 for i in range(len(m))) / len(m) / m.shape[1]
    expected = sum(squared) / len(squared) + norms
    loss = GradientVarianceInconsistency(center)  # type: ignore[arg-type]
    assert loss(clean, moved).item() == pytest.approx(expected, rel=1e-12)


def test_same_samples_leave_the_norm_alone() -> None:
    head, h, y = drawn()
    grads = last_layer_sample_grads(h, head(h), y)
    norms = sum(g.flatten(1).square().sum(1).mean().item() / g[0].numel() for g in grads)
    assert GradientVarianceInconsistency()(grads, grads).item() == pytest.approx(norms, rel=1e-13)
    assert GradientVarianceInconsistency(weights=(0.25, 0.0))(grads, grads).item() == 0


def test_one_sample_by_hand() -> None:
    """K = 2, D = 1, B = 1: the variance of a single sample is 0, and the other is (G~ - G)^2."""
    h, new, y = torch.tensor([[1.0]]).double(), torch.tensor([[2.0]]).double(), torch.tensor([0])
    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(-2.0))  # of class 0, with W = (1, 0), b = 0
    logits = torch.tensor([[1.0, 0.0]]).double()
    clean, moved = last_layer_sample_grads(h, logits, y), last_layer_sample_grads(new, 2 * logits, y)
    g = [p - 1, 1 - p, p - 1, 1 - p]  # W then b
    m = [2 * (q - 1), 2 * (1 - q), q - 1, 1 - q]
    mismatch = sum((b - a) ** 4 for a, b in zip(g, m, strict=True)) / 4 / 4
    norms = (m[0] ** 2 + m[1] ** 2) / 2 + (m[2] ** 2 + m[3] ** 2) / 2
    assert GradientVarianceInconsistency()(clean, moved).item() == pytest.approx(mismatch + norms, rel=1e-13)
    assert GradientVarianceInconsistency(weights=(1.0, 0.0))(clean, moved).item() == pytest.approx(4 * mismatch)
    assert GradientVarianceInconsistency(weights=(0.0, 2.0))(clean, moved).item() == pytest.approx(2 * norms)


def test_what_cannot_be_is_named() -> None:
    _, h, y = drawn()
    logits = torch.zeros(7, 3).double()
    for bad, message in (
        ((h[:3], logits, y), "features"),
        ((h, logits[0], y), "logits"),
        ((h, logits, y + 1), "0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            last_layer_sample_grads(*bad)
    with pytest.raises(TypeError, match="integers"):
        last_layer_sample_grads(h, logits, y.double())
    with pytest.raises(ValueError, match="center="):
        GradientVarianceInconsistency("mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights="):
        GradientVarianceInconsistency(weights=(-1.0, 1.0))
    loss = GradientVarianceInconsistency()
    with pytest.raises(ValueError, match="same parameters"):
        loss(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="at least one sample"):
        loss(torch.zeros(0, 4), torch.zeros(3, 4))
