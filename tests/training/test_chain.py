"""Sequences of layers by their input's gradient alone: the same numbers, nothing written over that is needed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from landform.attacks import InputGradient
from landform.models import MLP, ConvNet, ResNet
from landform.training.chain import FEW, chain, chain_by_input

Images = (5, 2, 8, 8)
relu = nn.ReLU()

CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: MLP(6, (7, 8), 3), (5, 6)),
    "group norm": (lambda: ConvNet(2, 3, widths=(8, 16, 16)), Images),
    "batch norm": (lambda: ConvNet(2, 3, widths=(8, 16), norm="batch"), Images),
    "no norm": (lambda: ConvNet(2, 3, widths=(8, 16), norm=None), Images),
    "rectifiers at the input": (lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.ReLU(), nn.Linear(128, 3)), Images),
    "a view of the input": (lambda: nn.Sequential(nn.Identity(), nn.Unflatten(1, (1, 2)), nn.ReLU()), Images),
    "dropout passes its input on": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Dropout(), nn.ReLU()), Images),
    "an activation that keeps its output": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.ReLU()), (5, 6)),
    "convolution of sequences": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 2)), (5, 2, 9)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 3)), (5, 2, 6)),
    "a layer twice": (lambda: nn.Sequential(nn.Conv2d(2, 2, 1), relu, nn.Tanh(), nn.Conv2d(2, 2, 1), relu), Images),
    "no affine weights": (lambda: nn.GroupNorm(2, 4, affine=False), (5, 4, 2, 2)),
    "no affine bias": (lambda: nn.GroupNorm(2, 4, bias=False), (5, 4, 2, 2)),
    "nothing": (nn.Sequential, (5, 6)),
}


def both(model: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and the gradient of a weighted sum of them by x, plainly and as a chain."""
    layers = chain(model)
    assert layers is not None
    for run in (model, lambda z: chain_by_input(layers, z)):
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad((out * weights).sum(), leaf)[0]
        assert torch.equal(leaf, x)
        yield out.detach(), found


@pytest.mark.parametrize("name", CHAINS)
def test_outputs_and_gradients(name: str) -> None:
    make, shape = CHAINS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    for parameter in model.parameters():  # affine weights other than one and zero
        nn.init.normal_(parameter)
    plain, chained = both(model, torch.randn(shape, dtype=torch.float64))
    torch.testing.assert_close(chained, plain, rtol=1e-10, atol=1e-10)
    assert all(not module.inplace for module in model.modules() if isinstance(module, nn.ReLU))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("positions", [1, *FEW, 8])
def test_group_norm_over_few_positions(positions: int) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(3, 6, eps=0.1).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    plain, chained = both(norm, torch.randn(4, 6, positions, dtype=torch.float64))
    torch.testing.assert_close(chained, plain, rtol=1e-12, atol=1e-12)


def test_wide_layers_in_float32() -> None:
    torch.manual_seed(0)
    plain, chained = both(MLP(64, (256, 256), 10).eval(), torch.rand(300, 64))
    torch.testing.assert_close(chained, plain, rtol=1e-4, atol=1e-5)


class Own(nn.ReLU):
    """A class of somebody's own."""


class Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def others() -> Iterator[tuple[str, nn.Module]]:
    yield "residual", ResNet(18, 3, in_channels=1, widths=(4, 4, 8, 8))
    yield "a layer of its own class", nn.Sequential(nn.Linear(2, 2), Own())
    yield "a sequence with its own course", Doubling(nn.Linear(2, 2))
    hooked = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    yield "hooks", hooked
    compiled = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled.compile(backend="eager")
    yield "compiled", compiled
    part = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    part[1].compile(backend="eager")
    yield "compiled in part", part
    yield "parametrised", nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))


@pytest.mark.parametrize("model", [pytest.param(model, id=name) for name, model in others()])
def test_what_is_no_chain(model: nn.Module) -> None:
    assert chain(model) is None


def test_hooks_on_all_modules() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    handle = register_module_forward_hook(lambda *_: None)
    try:
        assert chain(model) is None
    finally:
        handle.remove()
    assert chain(model) is not None


def test_attacks_see_layers_and_hooks_as_they_are_now() -> None:
    torch.manual_seed(0)
    model = ConvNet(1, 3, widths=(4, 8)).double().eval()
    x, y = torch.rand(3, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    gradient = InputGradient(model)

    def check() -> None:
        leaf = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(leaf), y, reduction="sum")
        torch.testing.assert_close(gradient(x, y), torch.autograd.grad(loss, leaf)[0], rtol=1e-10, atol=1e-12)

    check()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    check()
    model.features[2] = nn.Tanh().eval()
    check()
    seen: list[Tensor] = []
    model.features[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    check()
    assert len(seen) == 2  # once by each of the two ways
    torch.testing.assert_close(seen[0], seen[1])
