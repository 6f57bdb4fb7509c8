"""Linear layers by oneDNN, against float64 and against PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.training import linear
from landform.training.linear import WORTHWHILE, LinearByInput, faster, fewest_samples, has_onednn, linear_by_input

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this processor or PyTorch has no faster product")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def operands(*leading: int, inputs: int = 256, outputs: int = 320) -> tuple[Tensor, Tensor, Tensor]:
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
    assert parameter.grad is None
    assert x.grad is not None


@needs_onednn
def test_a_weight_changed_in_place_is_noticed() -> None:
    x, weight, _ = operands(64)
    out = linear_by_input(x.requires_grad_(), weight)
    weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@needs_onednn
def test_second_derivatives_by_the_input() -> None:
    x, weight, bias = operands(64)

    def curved(product: Callable[..., Tensor], x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(product(x, weight, bias).mul(0.01).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    expected = curved(lambda x, *rest: F.linear(x, *(t.double() for t in rest)), x.double())
    torch.testing.assert_close(curved(linear_by_input, x).double(), expected, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_the_layers_of_a_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 320), nn.ReLU(), nn.Linear(320, 256), nn.Tanh(), nn.Linear(256, 3))
    x = torch.randn(64, 256, requires_grad=True)
    assert fewest_samples(model) <= len(x)
    with LinearByInput():
        out = model(x)
    (gradient,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    (none,) = torch.autograd.grad(out.sum(), model[0].weight, allow_unused=True)
    assert none is None


def test_what_stays_with_pytorch() -> None:
    x, weight, bias = operands(64)
    assert not faster(x.double(), weight.double())
    assert not faster(x[:1], weight[:8])
    assert x[:8].numel() * len(weight) < WORTHWHILE
    assert not faster(x[:8], weight)
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
    assert fewest_samples(nn.Linear(256, 320)) == torch.inf


def test_a_compiled_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(256, 320))
    model.compile()
    assert fewest_samples(model) == torch.inf
    assert fewest_samples(nn.Sequential(nn.ReLU())) == torch.inf
