"""Input-convex networks and the transport map that two of them learn."""

from __future__ import annotations

import pytest
import torch

from landform.flows import ICNN, CellOT


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_the_network_is_the_formula():
    net = ICNN(2, (4, 3)).double()
    x = torch.randn(6, 2).double()
    first, second, last = net.direct

    def leaky(z):
        return torch.where(z > 0, z, 0.2 * z)

    z = leaky(x @ first.weight.T + first.bias) ** 2
    z = leaky(z @ net.convex[0].weight.T + x @ second.weight.T + second.bias)
    expected = z @ net.convex[1].weight.T + x @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), expected[:, 0])
    weights = torch.cat([p.flatten() for name, p in net.named_parameters() if "weight" in name])
    assert weights.min() >= 0
    assert weights.max() <= 0.1


def test_it_is_convex_once_clamped():
    net = ICNN(3, (16, 16)).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    a, b, share = torch.randn(500, 3).double(), torch.randn(500, 3).double(), torch.rand(500).double()

    def excess() -> torch.Tensor:
        middle = share[:, None] * a + (1 - share[:, None]) * b
        return net(middle) - (share * net(a) + (1 - share) * net(b))

    assert excess().max() > 0.1
    assert net.penalty().item() == pytest.approx(
        sum(float(layer.weight.detach().clamp(max=0).norm()) for layer in net.convex)
    )
    net.clamp()
    assert net.penalty() == 0
    assert excess().max() < 1e-9


def test_its_gradient_is_that_of_finite_differences():
    net = ICNN(2, (8, 8)).double()
    x = torch.randn(5, 2).double()
    h = 1e-6
    steps = h * torch.eye(2).double()
    expected = torch.stack([(net(x + step) - net(x - step)) / (2 * h) for step in steps], 1)
    torch.testing.assert_close(net.gradient(x), expected.detach(), atol=1e-7, rtol=0)
    assert net.gradient(x, create_graph=True).requires_grad
    assert not net.gradient(x).requires_grad


def test_cellot_learns_the_map_between_gaussians():
    x0 = torch.randn(2000, 2)
    scale, shift = torch.tensor([1.5, 0.5]), torch.tensor([1.0, -1.0])
    x1 = torch.randn(2000, 2) * scale + shift
    model = CellOT(2, (32, 32))
    objective = model.fit(x0, x1, steps=250, inner_steps=5, batch_size=128, learning_rate=5e-3)
    found = model.transport(x0)
    error = float((found - (x0 * scale + shift)).square().sum(1).mean())
    assert error < 0.15 * float((x0 * scale + shift - x0).square().sum(1).mean())
    # (E‖x0‖² + E‖x1‖² − W2²)/2, with W2² = ‖shift‖² + ‖scale − 1‖² between these
    expected = (2 + float((scale**2 + shift**2).sum()) - float(shift.square().sum() + (scale - 1).square().sum())) / 2
    assert float(objective[-50:].mean()) == pytest.approx(expected, rel=0.1)
    assert model.f.penalty() == 0


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="hidden"):
        ICNN(2, ())
    with pytest.raises(ValueError, match="must be"):
        CellOT(2, (4,)).fit(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="steps=0"):
        CellOT(2, (4,)).fit(torch.zeros(3, 2), torch.zeros(3, 2), steps=0)
    with pytest.raises(ValueError, match="must be 2"):
        CellOT(2, (4,)).transport(torch.zeros(3, 3))
