"""The small networks, against their equations written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.models import MLP, ConvNet
from landform.training import Stack


def test_mlp_is_its_equation() -> None:
    torch.manual_seed(0)
    model = MLP(12, (7, 5), 3, activation="tanh").double()
    x = torch.randn(4, 3, 2, 2).double()
    first, second = model.features[1], model.features[3]
    h = torch.tanh(torch.tanh(x.reshape(4, 12) @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(model.features(x), h)
    assert sum(p.numel() for p in model.parameters()) == 12 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3


def test_mlp_normalises_before_the_activation_and_drops_after_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    model = MLP(4, (8,), 2, norm="layer", dropout=0.5).eval()
    h = F.relu(F.layer_norm(model.features[1](x), (8,)))
    torch.testing.assert_close(model(x), model.head(h))
    model.train()
    assert not torch.equal(model(x), model(x))
    batch = MLP(4, (8,), 2, norm="batch")
    assert batch.features[1].bias is None
    z = batch.features[1](x)
    h = F.relu((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(batch(x), batch.head(h))
    assert [type(layer) for layer in MLP(4, (), 2).features] == [nn.Flatten]


def normalised(z: Tensor, norm: str | None, groups: int) -> Tensor:
    if norm is None:
        return z
    if norm == "batch":
        return (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    parts = z.unflatten(1, (groups, -1)).flatten(2)
    return ((parts - parts.mean(2, keepdim=True)) / (parts.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()).view(
        z.shape
    )


@pytest.mark.parametrize("norm", ["group", "batch", None])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convnet_is_its_equation(norm: str | None, kernel: int) -> None:
    torch.manual_seed(0)
    model = ConvNet(2, 3, widths=(6, 8), kernel=kernel, norm=norm, groups=4).double()
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert all((layer.bias is None) == (norm is not None) for layer in convolutions)
    x = torch.randn(5, 2, 8, 8).double()
    h = x
    for layer, stride, groups in zip(convolutions, (1, 2), (2, 4), strict=True):
        h = F.conv2d(h, layer.weight, layer.bias, stride=stride, padding=kernel // 2)
        h = F.relu(normalised(h, norm, groups))
    assert h.shape == (5, 8, 4, 4)
    torch.testing.assert_close(model(x), model.head(h.mean((2, 3))))


@pytest.mark.parametrize("side", [8, 16, 28, 32])
def test_convnet_takes_small_images_of_any_size(side: int) -> None:
    assert ConvNet(3, 10)(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_activations_by_name_or_by_what_makes_them() -> None:
    assert isinstance(MLP(2, (3,), 1, activation="gelu").features[2], nn.GELU)
    softplus = MLP(2, (3,), 1, activation=lambda: nn.Softplus(beta=5)).features[2]
    assert isinstance(softplus, nn.Softplus)
    assert softplus.beta == 5
    assert isinstance(ConvNet(1, 2, activation=nn.Tanh).features[2], nn.Tanh)


def test_a_stack_of_mlps_runs_on_batched_products() -> None:
    x = torch.randn(4, 1, 8, 8)
    for norm in (None, "batch", "layer"):
        stack = Stack.from_factory(lambda norm=norm: MLP(64, (16, 16), 10, norm=norm, dropout=0.1), 3, seed=0)
        assert stack.engine_for(x) == "dense"
        torch.testing.assert_close(stack.eval()(x, shared=True)[1], stack.module(1)(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(0, (3,), 2), "in_features=0"),
        (lambda: MLP(3, (3, 0), 2), r"hidden=\(3, 0\)"),
        (lambda: MLP(3, (3.5,), 2), r"hidden=\(3.5,\)"),
        (lambda: MLP(3, (3,), 2, activation="cube"), "activation='cube'"),
        (lambda: MLP(3, (3,), 2, norm="group"), "norm='group'"),
        (lambda: MLP(3, (3,), 2, dropout=1.0), "dropout=1.0"),
        (lambda: ConvNet(1, 2, widths=()), "widths"),
        (lambda: ConvNet(1, 2, widths=(4, -1)), r"widths=\(4, -1\)"),
        (lambda: ConvNet(1, 2, kernel=4), "kernel=4"),
        (lambda: ConvNet(1, 2, norm="layer"), "norm='layer'"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
