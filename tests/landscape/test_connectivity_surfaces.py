"""Planes through networks, and the toy surface against its closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import Curve, MountainRidge2D, barrier, loss_plane

State = dict[str, Tensor]


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.fixture
def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(30, 4, generator=generator).double(), torch.randint(3, (30,), generator=generator))]


def flat(state: State) -> Tensor:
    return torch.cat([v.flatten() for k, v in state.items() if "running" not in k and "num" not in k])


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_plane_is_a_loop_over_networks(data: list[tuple[Tensor, Tensor]], chunk_size: int | None) -> None:
    model, o, p, q = net(0), net(1).state_dict(), net(2).state_dict(), net(3).state_dict()
    plane = loss_plane(
        model, o, p, q, data, F.cross_entropy, 4, metrics=("loss", "error"), chunk_size=chunk_size, recalibrate_bn=False
    )
    u, v = (torch.cat([axis[k].flatten() for k in axis]) for axis in plane.axes)
    assert float(u @ v) == pytest.approx(0, abs=1e-12)
    assert (float(u.norm()), float(v.norm())) == pytest.approx((1, 1), rel=1e-12)
    places = [flat(o), flat(p), flat(q)]
    for corner, place, state in zip(plane.corners, places, (o, p, q), strict=True):
        torch.testing.assert_close(places[0] + corner[0] * u + corner[1] * v, place)
        assert plane.coordinates(state) == pytest.approx(tuple(corner.tolist()), abs=1e-12)
    for i in range(4):
        for j in range(4):
            state = {k: t + plane.x[j] * plane.axes[0][k] + plane.y[i] * plane.axes[1][k] if k in plane.axes[0] else t
                     for k, t in o.items()}  # fmt: skip
            model.load_state_dict(state)
            out = model.eval()(data[0][0])
            assert float(plane.values["loss"][i, j]) == pytest.approx(
                F.cross_entropy(out, data[0][1]).item(), rel=1e-12
            )
            wrong = (out.argmax(1) != data[0][1]).double().mean()
            assert float(plane.values["error"][i, j]) == pytest.approx(float(wrong))


def test_margins_and_recalibration(data: list[tuple[Tensor, Tensor]]) -> None:
    model, o, p, q = net(0), net(1).state_dict(), net(2).state_dict(), net(3).state_dict()
    plane = loss_plane(model, o, p, q, data, F.cross_entropy, 3)
    for axis, corners in ((plane.x, plane.corners[:, 0]), (plane.y, plane.corners[:, 1])):
        extent = corners.max() - corners.min()
        torch.testing.assert_close(axis[0], corners.min() - extent / 4)
        torch.testing.assert_close(axis[-1], corners.max() + extent / 4)
    flush = loss_plane(model, o, p, q, data, F.cross_entropy, 3, margin=0)
    torch.testing.assert_close(flush.y[[0, -1]], flush.corners[:, 1].sort().values[[0, -1]])
    model.load_state_dict(p)
    torch.optim.swa_utils.update_bn(data, model)
    expected = F.cross_entropy(model.eval()(data[0][0]), data[0][1]).item()
    if flush.corners[2, 0] < flush.corners[1, 0]:
        assert float(flush.values["loss"][0, -1]) == pytest.approx(expected, rel=1e-9)


def test_what_is_no_plane(data: list[tuple[Tensor, Tensor]]) -> None:
    model, o, p = net(0), net(1).state_dict(), net(2).state_dict()
    middle = {k: (o[k] + p[k]) / 2 if o[k].is_floating_point() else o[k] for k in o}
    with pytest.raises(ValueError, match="one line"):
        loss_plane(model, o, p, middle, data, F.cross_entropy)
    with pytest.raises(ValueError, match="p1 equals origin"):
        loss_plane(model, o, o, p, data, F.cross_entropy)
    with pytest.raises(ValueError, match="margin=-1"):
        loss_plane(model, o, p, net(3).state_dict(), data, F.cross_entropy, margin=-1)
    with pytest.raises(ValueError, match="grid=1"):
        loss_plane(model, o, p, net(3).state_dict(), data, F.cross_entropy, 1)


# The toy surface.

SURFACES = [MountainRidge2D(), MountainRidge2D(6, a=2.0, b=0.7, radius=1.5), MountainRidge2D(2, a=0.5, b=1.0)]


@pytest.mark.parametrize("surface", SURFACES)
def test_summit_minima_and_ridges(surface: MountainRidge2D) -> None:
    m = surface.valleys
    assert float(surface.loss(torch.zeros(2, dtype=torch.float64))) == surface.a
    torch.testing.assert_close(surface.loss(surface.minima), torch.zeros(m).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(surface.grad(surface.minima), torch.zeros(m, 2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(surface.minima.norm(dim=1), torch.full((m,), surface.radius).double())
    angles = torch.linspace(0, 2 * math.pi, 12 * m + 1, dtype=torch.float64)[:-1]
    ring = surface.loss(surface.radius * torch.stack([angles.cos(), angles.sin()], -1))
    assert set(torch.nonzero(ring > ring.max() - 1e-9).flatten().tolist()) == {12 * j + 6 for j in range(m)}
    assert float(ring.max()) == pytest.approx(2 * surface.b)


@pytest.mark.parametrize("surface", SURFACES)
def test_heights_between_minima(surface: MountainRidge2D) -> None:
    m, minima = surface.valleys, surface.minima
    for apart in range(1, m // 2 + 1):
        middle = (minima[0] + minima[apart]) / 2
        assert surface.height_between(apart) == pytest.approx(float(surface.loss(middle)), rel=1e-12)
    assert surface.height_between(m // 2) == pytest.approx(surface.a)
    neighbours = surface.a * math.sin(math.pi / m) ** 4 + 2 * surface.b * math.cos(math.pi / m) ** m
    assert surface.height_between(1) == pytest.approx(neighbours)


def test_the_default_heights_are_those_of_the_sheet() -> None:
    assert MountainRidge2D().height_between(1) == pytest.approx(0.4)
    assert MountainRidge2D().height_between(2) == pytest.approx(1.0)


@pytest.mark.parametrize("surface", SURFACES)
def test_gradient_and_value_agree_with_their_formula(surface: MountainRidge2D) -> None:
    xy = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    value = surface.loss(xy)
    (expected,) = torch.autograd.grad(value.sum(), xy)
    torch.testing.assert_close(surface.grad(xy.detach()), expected, rtol=1e-10, atol=1e-12)
    z = complex(*xy.detach()[2, 1].tolist())
    m, r = surface.valleys, surface.radius
    by_hand = surface.a * (1 - abs(z) ** 2 / r**2) ** 2 + surface.b * (abs(z) ** m - (z**m).real) / r**m
    assert value[2, 1].item() == pytest.approx(by_hand, rel=1e-12)


def test_barriers_of_the_toy_are_those_of_curves() -> None:
    surface = MountainRidge2D()
    ends = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = surface.barrier(ends[:, 0], ends[:, 1], n_points=31)
    t = torch.linspace(0, 1, 31, dtype=torch.float64)
    for (a, b), height in zip(ends, found.tolist(), strict=True):
        losses = torch.stack([surface.loss((1 - s) * a + s * b) for s in t])
        assert height == pytest.approx(barrier(Curve(t, {"loss": losses})), abs=1e-12)
    assert float(surface.barrier(surface.minima[0], surface.minima[1])) == pytest.approx(0.4)


def test_pairs_go_together_and_then_apart() -> None:
    path = MountainRidge2D().simulate(12, steps=30, pairs=20, generator=torch.Generator().manual_seed(0))
    assert path.shape == (43, 20, 2, 2)
    assert torch.equal(path[0], torch.zeros(20, 2, 2).double())
    assert torch.equal(path[:13, :, 0], path[:13, :, 1])
    assert not torch.any((path[13:, :, 0] == path[13:, :, 1]).all(-1))
    again = MountainRidge2D().simulate(12, steps=30, pairs=20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(path, again)


def test_steps_are_gradient_plus_noise() -> None:
    surface = MountainRidge2D()
    path = surface.simulate(0, steps=60, pairs=500, lr=0.05, sigma=0.02, generator=torch.Generator().manual_seed(0))
    noise = path[1:] - path[:-1] + 0.05 * surface.grad(path[:-1])
    assert float(noise.std()) == pytest.approx(0.02 * math.sqrt(0.05), rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("k", "mean", "share"), [(0, 0.425, 0.71), (10, 0.067, 0.16), (20, 0.010, 0.025), (60, 0, 0)])
def test_barriers_fall_with_common_steps_as_measured_before(k: int, mean: float, share: float) -> None:
    """The sheet's own measurements, of so many pairs that chance is small (five deviations of the mean)."""
    surface, pairs = MountainRidge2D(), 4000
    ends = surface.simulate(k, pairs=pairs, generator=torch.Generator().manual_seed(k))[-1]
    heights = surface.barrier(ends[:, 0], ends[:, 1])
    assert float(heights.mean()) == pytest.approx(mean, abs=max(0.06 * (k < 60), 0.001))
    assert float((heights > 0.05).double().mean()) == pytest.approx(share, abs=0.08 * (k < 60) + 0.001)


def test_mistakes() -> None:
    for kwargs, message in (
        ({"valleys": 3}, "valleys=3: must be even"),
        ({"valleys": 0}, "valleys=0"),
        ({"a": 0.0}, "a=0.0"),
        ({"b": math.nan}, "b=nan"),
        ({"radius": -1.0}, "radius=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            MountainRidge2D(**kwargs)
    surface = MountainRidge2D()
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        surface.loss(torch.zeros(3))
    with pytest.raises(ValueError, match="common_steps=-1"):
        surface.simulate(-1)
    with pytest.raises(ValueError, match="sigma=0"):
        surface.simulate(1, sigma=0)
