"""Folded batch normalisation: the same function of the same weights, and when a network must be left as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from landform.attacks import EnsembleLogits, InputGradient, Normalized
from landform.landscape import CurvatureOperator
from landform.models import ConvNet, ResNet
from landform.models.folding import Folding, fold_batch_norm


def settled(model: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, with statistics and affine weights that are not those of a fresh layer."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            if module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.double().eval()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def fold(model: nn.Module, x: Tensor) -> Folding | None:
    return fold_batch_norm(model, tensors(model), lambda module, state: functional_call(module, dict(state), (x,)))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


FOLDABLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh()), (3, 5), 1),
    "convolution 1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (3, 2, 9), 1),
    "convolution 3d, no bias": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2, bias=False), nn.BatchNorm3d(4)),
        (3, 2, 4, 4, 4),
        1,
    ),
    "groups, stride, reflection": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, padding_mode="reflect"), nn.BatchNorm2d(6)
        ),
        (3, 4, 7, 7),
        1,
    ),
    "not affine, own eps": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.1, affine=False)),
        (2, 1, 5, 5),
        1,
    ),
    "plain network": (lambda: ConvNet(1, 3, widths=(4, 8), norm="batch"), (2, 1, 8, 8), 2),
    "residual network": (lambda: ResNet(18, 3, in_channels=1, widths=(4, 4, 8, 8)), (2, 1, 8, 8), 20),
    "within a network that looks at its input": (
        lambda: Normalized(ConvNet(3, 3, widths=(4, 8), norm="batch"), mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0]),
        (2, 3, 8, 8),
        2,
    ),
    "ensemble": (
        lambda: EnsembleLogits([ConvNet(1, 3, widths=(4,), norm="batch").eval() for _ in range(3)]),
        (2, 1, 8, 8),
        3,
    ),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_the_same_outputs_and_derivatives(name: str) -> None:
    make, shape, pairs = FOLDABLE[name]
    model, x = settled(make()), images(*shape).requires_grad_()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    structure = [type(module) for module in model.modules()]
    folding = fold(model, x)
    assert folding is not None
    assert len(folding.pairs) == pairs
    assert sum(isinstance(m, nn.Identity) for m in folding.module.modules()) >= pairs
    given = list(model.parameters())
    plain, folded = model(x), functional_call(folding.module, folding.state(tensors(model)), (x,))
    torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)
    weights = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((plain * weights).sum(), [x, *given])
    found = torch.autograd.grad((folded * weights).sum(), [x, *given])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == structure


class Net(nn.Module):
    """A layer and a normalisation, with a course of its own."""

    def __init__(self, course: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.norm, self.course, self.calls = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), course, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.course(self, x)


def counting(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    return net.norm(net.layer(x))


COURSES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "the layer's output serves something else": lambda net, x: (y := net.layer(x)) + net.norm(y),
    "the layer is used twice": lambda net, x: net.norm(net.layer(net.layer(x))),
    "the normalisation is used twice": lambda net, x: net.norm(net.norm(net.layer(x))),
    "something lies between": lambda net, x: net.norm(net.layer(x).relu()),
    "the layer's weights are read": lambda net, x: net.norm(net.layer(x)) * net.layer.weight.sum(),
    "the normalisation's are": lambda net, x: net.norm(net.layer(x)) * net.norm.weight.sum(),
    "the course depends on the data": lambda net, x: net.norm(net.layer(x)) if x.sum() > 0 else net.layer(x),
    "stand-ins take another course": lambda net, x: (
        net.layer(x) if isinstance(x, Tensor) else net.norm(net.layer(x))  # what tracing sees is not what runs
    ),
    "calls are counted": counting,
}


@pytest.mark.parametrize("name", COURSES)
def test_what_is_not_folded(name: str) -> None:
    model = settled(Net(COURSES[name]))
    assert fold(model, images(2, 2, 3, 3)) is None
    assert model.calls == 0  # what is tried is tried on a copy


def unfoldable() -> Iterator[tuple[str, nn.Module, Tensor]]:
    def pair() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))

    x = images(2, 2, 3, 3)
    yield "nothing to fold", nn.Sequential(nn.Conv2d(2, 2, 1)).double().eval(), x
    yield "training mode", settled(pair()).train(), x
    hooked = settled(pair())
    hooked[0].register_forward_hook(lambda *_: None)
    yield "hooks", hooked, x
    compiled = settled(pair())
    compiled.compile(backend="eager")
    yield "compiled", compiled, x
    tied = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    tied[2].weight = tied[0].weight
    yield "tied weights", settled(tied), x
    yield (
        "no running statistics",
        settled(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))),
        x,
    )
    # On sequences batch normalisation takes the second axis for the channels, a linear layer the last.
    yield "a linear layer on sequences", settled(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))), images(3, 4, 4)


@pytest.mark.parametrize(("model", "x"), [pytest.param(m, x, id=name) for name, m, x in unfoldable()])
def test_models_that_are_not_folded(model: nn.Module, x: Tensor) -> None:
    assert fold(model, x) is None


def test_what_it_fits() -> None:
    model = settled(ConvNet(1, 3, widths=(4, 8), norm="batch"))
    folding = fold(model, images(2, 1, 8, 8))
    assert folding is not None
    assert folding.fits(model)
    model.features[1].train()
    assert not folding.fits(model)
    model.eval()
    assert folding.fits(model)
    model.head = nn.Linear(8, 3).double().eval()
    assert not folding.fits(model)


def test_attacks_see_the_model_as_it_is_now() -> None:
    """The second gradient with the same labels is the first that is folded; weights and layers may change between."""
    model = settled(ResNet(18, 3, in_channels=1, widths=(4, 4, 8, 8)))
    x, y = images(3, 1, 8, 8).sigmoid(), torch.tensor([0, 1, 2])
    gradient = InputGradient(model)

    def plain() -> Tensor:
        inputs = x.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(inputs), y, reduction="sum"), inputs)[0]

    gradient(x, y)
    assert gradient._folding == "untried"
    torch.testing.assert_close(gradient(x, y), plain(), rtol=1e-9, atol=1e-11)
    assert isinstance(gradient._folding, Folding)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
        next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1)
    torch.testing.assert_close(gradient(x, y), plain(), rtol=1e-9, atol=1e-11)
    name = next(name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    model.set_submodule(name, nn.Tanh().eval())
    torch.testing.assert_close(gradient(x, y), plain(), rtol=1e-9, atol=1e-11)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_curvature_of_a_network_with_batch_norm() -> None:
    """Its Hessian by all parameters, those of the normalisation included, is that of PyTorch's double backward."""
    model = settled(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)))
    x, y = images(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    operator = CurvatureOperator(model, "ce", (x, y))
    names = [name for name, _ in model.named_parameters()]

    def loss(flat: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, operator.layout.unflatten(flat), (x,)), y)

    assert set(operator.layout.unflatten(operator.weights)) == set(names)
    expected = torch.autograd.functional.hessian(loss, operator.weights)
    torch.testing.assert_close(operator.to_dense(), expected, rtol=1e-9, atol=1e-12)
    assert isinstance(operator._folding, Folding)
