"""Linear layers by oneDNN, against float64 and against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.training import linear
from landform.training.linear import WORTHWHILE, faster, has_onednn, linear_by_input

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this processor or PyTorch has no faster product")


def operands(*leading: int, inputs: int = 160, outputs: int = 240) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*leading, inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)


@needs_onednn
@pytest.mark.parametrize("leading", [(64,), (4, 16), (2, 4, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_the_inputs_gradient(leading: tuple[int, ...], bias: bool) -> None:
    x, weight, b = operands(*leading)
    assert faster(x, weight)
    x.requires_grad_()
    out = linear_by_input(x, weight, b if bias else None)
    delta = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(out, x, delta)
    exact = F.linear(x.double(), weight.double(), b.double() if bias else None)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.double(), delta.double() @ weight.double(), rtol=1e-5, atol=1e-4)


@needs_onednn
def test_a_transposed_input_and_weight() -> None:
    x, weight, bias = operands(64)
    across, down = x.T.contiguous().T, weight.T.contiguous().T
    torch.testing.assert_close(linear_by_input(across, down, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)


@needs_onednn
def test_weights_require_a_gradient_of_the_result_but_get_none() -> None:
    x, weight, bias = operands(64)
    out = linear_by_input(x, nn.Parameter(weight), nn.Parameter(bias))
    assert out.requires_grad
    assert not linear_by_input(x, weight, bias).requires_grad
    parameter = nn.Parameter(weight)
    linear_by_input(x.requires_grad_(), parameter).sum().backward()
    assert parameter.grad is None and x.grad is not None


@needs_onednn
def test_a_weight_changed_in_place_is_noticed() -> None:
    x, weight, _ = operands(64)
    out = linear_by_input(x.requires_grad_(), weight)
    weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@needs_onednn
def test_no_second_derivative() -> None:
    x, weight, _ = operands(64)
    (gradient,) = torch.autograd.grad(
        linear_by_input(x.requires_grad_(), weight.requires_grad_()).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_what_stays_with_pytorch() -> None:
    x, weight, bias = operands(64)
    assert not faster(x.double(), weight.double())
    assert not faster(x[:1], weight[:8])
    assert x[:8].numel() * 240 < WORTHWHILE and not faster(x[:8], weight)
    assert not faster(x[0], weight)
    assert not faster(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not faster(x, weight)
        assert linear_by_input(x, weight).dtype == torch.bfloat16
    seen = []

    def inside(row: Tensor) -> Tensor:
        seen.append(faster(row, weight))
        return linear_by_input(row, weight, bias)

    torch.testing.assert_close(torch.vmap(inside)(x[None]), F.linear(x, weight, bias)[None])
    assert seen == [False]


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "has_onednn", lambda: False)
    x, weight, bias = operands(64)
    assert torch.equal(linear_by_input(x, weight, bias), F.linear(x, weight, bias))
