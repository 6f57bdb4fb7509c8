"""Products with the Hessian and the Gauss–Newton matrix, against brute force and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from landform.landscape import ParameterVector, ggn_vp, hvp


def tanh_mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batch(seed: int = 1, n: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, dtype=torch.float64, generator=generator), torch.randint(3, (n,), generator=generator)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def loss_of(model: nn.Module) -> Callable[[dict[str, Tensor], tuple[Tensor, Tensor]], Tensor]:
    return lambda params, batch: F.cross_entropy(functional_call(model, params, (batch[0],)), batch[1])


def flat_loss(model: nn.Module) -> Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]:
    layout = ParameterVector.of(model)
    return lambda w, batch: loss_of(model)(layout.unflatten(w), batch)


def weights(model: nn.Module) -> Tensor:
    return ParameterVector.of(model).flatten(state(model))


def test_layout_is_that_of_torch_and_round_trips() -> None:
    model = tanh_mlp()
    layout = ParameterVector.of(model)
    flat = layout.flatten(state(model))
    assert torch.equal(flat, torch.nn.utils.parameters_to_vector(model.parameters()))
    assert layout.size == sum(p.numel() for p in model.parameters())
    for name, tensor in layout.unflatten(flat).items():
        assert torch.equal(tensor, dict(model.named_parameters())[name])
    several = torch.stack([flat, 2 * flat])
    assert torch.equal(layout.flatten(layout.unflatten(several)), several)


def test_layout_of_some_parameters_is_in_the_models_order() -> None:
    model = tanh_mlp()
    assert list(ParameterVector.of(model, ["2.bias", "0.weight"]).shapes) == ["0.weight", "2.bias"]
    model[0].requires_grad_(False)
    assert list(ParameterVector.of(model).shapes) == ["2.weight", "2.bias"]


def test_layout_refuses_what_it_cannot_lay_out() -> None:
    layout = ParameterVector({"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="names"):
        layout.flatten({"b": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        layout.flatten({"a": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="must be 6"):
        layout.unflatten(torch.zeros(5))
    with pytest.raises(ValueError, match="empty"):
        ParameterVector({})
    with pytest.raises(TypeError, match="int64"):
        ParameterVector({"a": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match="requires a gradient"):
        ParameterVector.of(nn.ReLU())
    with pytest.raises(ValueError, match="nonsense"):
        ParameterVector.of(tanh_mlp(), ["nonsense"])


def test_hvp_of_a_quadratic_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = root + root.T
    w, v = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    assert torch.allclose(hvp(lambda w, _: 0.5 * w @ matrix @ w, w, None, v), matrix @ v, rtol=0, atol=1e-13)


def test_hvp_is_the_derivative_of_the_gradient() -> None:
    model, data = tanh_mlp(), batch()
    w = weights(model)
    v = torch.randn(w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss = flat_loss(model)

    def gradient(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(loss(at, data), at)[0]

    step = 1e-5
    difference = (gradient(w + step * v) - gradient(w - step * v)) / (2 * step)
    assert torch.allclose(hvp(loss, w, data, v), difference, rtol=1e-6, atol=1e-8)


def test_hvp_matches_reverse_over_reverse_tensor_by_tensor() -> None:
    """What PyHessian computes: the gradient of the gradients, with the vector as their cotangent."""
    model, data = tanh_mlp(), batch()
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    params = list(model.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), params, create_graph=True)
    expected = torch.autograd.grad(gradients, params, list(v.values()))
    found = hvp(loss_of(model), state(model), data, v)
    assert list(found) == list(v)
    for ours, theirs in zip(found.values(), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)


def test_hvp_is_symmetric() -> None:
    model, data = tanh_mlp(), batch()
    w = weights(model)
    u, v = torch.randn(2, len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    loss = flat_loss(model)
    assert math.isclose(u @ hvp(loss, w, data, v), v @ hvp(loss, w, data, u), rel_tol=1e-10)


def test_hvp_of_a_loss_that_is_linear_or_misses_a_parameter() -> None:
    params = {"used": torch.ones(2), "unused": torch.ones(3)}
    v = {"used": torch.ones(2), "unused": torch.ones(3)}
    assert torch.equal(hvp(lambda p, _: p["used"].sum(), params, None, v)["used"], torch.zeros(2))
    found = hvp(lambda p, _: p["used"].pow(2).sum(), params, None, v)
    assert torch.equal(found["used"], 2 * torch.ones(2))
    assert torch.equal(found["unused"], torch.zeros(3))


def test_hvp_leaves_the_parameters_alone() -> None:
    w = torch.ones(3, requires_grad=True)
    found = hvp(lambda w, _: (w**3).sum(), w, None, torch.ones(3))
    assert w.grad is None
    assert not found.requires_grad
    with torch.no_grad():
        assert torch.equal(hvp(lambda w, _: (w**3).sum(), w, None, torch.ones(3)), found)
        by_ggn = ggn_vp(lambda w, x: x * w, w, (torch.ones(1, 3), torch.zeros(1, 3)), torch.ones(3), loss="mse")
    assert torch.equal(by_ggn, torch.ones(3))


@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        (lambda w, _: w, ValueError, "scalar"),
        (lambda w, _: 1.0, ValueError, "float"),
        (lambda w, _: torch.tensor(1.0), ValueError, "does not depend"),
        (lambda w, _: w.sum() * math.nan, FloatingPointError, "the loss is nan"),
        (lambda w, _: (w - 1).abs().pow(1.5).sum(), FloatingPointError, "not finite"),
    ],
)
def test_hvp_refuses_losses_without_curvature(loss: Callable[..., Tensor], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        hvp(loss, torch.ones(3), None, torch.ones(3))


def test_hvp_refuses_a_vector_that_does_not_fit() -> None:
    def loss(w: Tensor, _: object) -> Tensor:
        return (w**2).sum()

    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        hvp(loss, torch.ones(3), None, torch.ones(4))
    with pytest.raises(ValueError, match=r"\(2, 3\) when flat"):
        hvp(loss, torch.ones(3), None, torch.ones(2, 3))
    with pytest.raises(TypeError, match="one form"):
        hvp(loss, torch.ones(3), None, {"params": torch.ones(3)})  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="params"):
        hvp(loss, torch.full((3,), torch.inf), None, torch.ones(3))


def brute_gauss_newton(model: nn.Module, x: Tensor, curvature: Callable[[Tensor], Tensor]) -> Tensor:
    """(1/n) Σ J_iᵀ A_i J_i from explicit Jacobians."""
    layout = ParameterVector.of(model)
    w = weights(model)
    jacobians = jacrev(lambda w: functional_call(model, layout.unflatten(w), (x,)))(w)
    outputs = model(x).detach()
    return sum(j.T @ curvature(f) @ j for j, f in zip(jacobians, outputs, strict=True)) / len(x)


def test_ggn_of_cross_entropy_matches_explicit_jacobians() -> None:
    model, data = tanh_mlp(), batch()
    w = weights(model)

    def softmax_curvature(f: Tensor) -> Tensor:
        p = f.softmax(0)
        return torch.diag(p) - torch.outer(p, p)

    expected = brute_gauss_newton(model, data[0], softmax_curvature)
    for unit in torch.eye(len(w), dtype=torch.float64):
        assert torch.allclose(ggn_vp(model, w, data, unit), expected @ unit, rtol=0, atol=1e-14)


def test_ggn_of_half_the_squared_error_has_identity_inside() -> None:
    model, (x, _) = tanh_mlp(), batch()
    y = torch.randn(7, 3, dtype=torch.float64)
    w = weights(model)
    expected = brute_gauss_newton(model, x, lambda f: torch.eye(3, dtype=torch.float64))
    found = torch.stack([ggn_vp(model, w, (x, y), e, loss="mse") for e in torch.eye(len(w), dtype=torch.float64)])
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    layout = ParameterVector.of(model)
    jacobian = jacrev(lambda w: functional_call(model, layout.unflatten(w), (x,)))(w).flatten(0, 1)
    kernel = torch.linalg.eigvalsh(jacobian @ jacobian.T / len(x)).flip(0)
    assert torch.allclose(torch.linalg.eigvalsh(found).flip(0)[:21], kernel, rtol=0, atol=1e-13)
    # torch's own squared error is a mean over outputs too, and not halved: its A is (2/K) I.
    torch_mse = ggn_vp(model, w, (x, y), torch.ones_like(w), loss=F.mse_loss)
    assert torch.allclose(torch_mse, 2 / 3 * expected @ torch.ones_like(w), rtol=0, atol=1e-13)


def test_ggn_does_not_see_a_constant_added_to_all_logits() -> None:
    model, data = tanh_mlp(), batch()
    v = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    v["2.bias"] = torch.ones(3, dtype=torch.float64)
    found = ggn_vp(model, state(model), data, v)
    assert all(part.abs().max() < 1e-16 for part in found.values())


def test_ggn_takes_dicts_flat_vectors_and_functions_alike() -> None:
    model, data = tanh_mlp(), batch()
    layout = ParameterVector.of(model)
    w = weights(model)
    v = torch.randn_like(w)
    flat = ggn_vp(model, w, data, v)
    named = ggn_vp(model, state(model), data, layout.unflatten(v))
    function = ggn_vp(lambda w, x: functional_call(model, layout.unflatten(w), (x,)), w, data, v, loss=F.cross_entropy)
    assert torch.equal(flat, layout.flatten(named))
    assert torch.allclose(flat, function, rtol=0, atol=1e-16)


def test_ggn_refuses() -> None:
    model, data = tanh_mlp(), batch()
    w = weights(model)
    with pytest.raises(ValueError, match="'ce', 'mse'"):
        ggn_vp(model, w, data, w, loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scalar"):
        ggn_vp(model, w, data, w, loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match="must be 31"):
        ggn_vp(model, w[:-1], data, w[:-1])
    with pytest.raises(ValueError, match="do not depend"):
        ggn_vp(lambda w, x: x, w, data, w)
    with pytest.raises(TypeError, match="tuple"):
        ggn_vp(lambda w, x: (x, x), w, data, w)  # type: ignore[arg-type,return-value]
