"""Flow matching: its loss, couplings and integration against closed forms."""

from __future__ import annotations

import builtins
import math

import pytest
import torch
from torch import nn

from landform.flows import FlowMatchingLoss, integrate, ot_pairs

torchdiffeq = pytest.importorskip("torchdiffeq")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_constant_field_is_right_for_shifted_pairs():
    shift = torch.tensor([1.0, -2.0], dtype=torch.float64)
    x0 = torch.randn(3, 9, 2, dtype=torch.float64, generator=seeded())

    def right(t, x):
        return shift.expand_as(x)

    assert FlowMatchingLoss()(right, x0, x0 + shift).item() == pytest.approx(0, abs=1e-14)
    assert FlowMatchingLoss(form="expanded")(right, x0, x0 + shift).item() == pytest.approx(-5, abs=1e-12)


def test_both_forms_have_one_gradient_and_differ_by_the_squared_displacement():
    x0, x1 = torch.randn(2, 3, 20, 2, dtype=torch.float64, generator=seeded())
    field = nn.Linear(3, 2).double()

    def velocity(t, x):
        return field(torch.cat([t, x], -1))

    found = {}
    for form in ("squared", "expanded"):
        value = FlowMatchingLoss(form=form, generator=seeded(1))(velocity, x0, x1)
        found[form] = value, torch.autograd.grad(value, field.weight)[0]
    torch.testing.assert_close(found["squared"][1], found["expanded"][1], rtol=1e-12, atol=1e-12)
    assert (found["squared"][0] - found["expanded"][0]).item() == pytest.approx(
        (x1 - x0).square().sum(-1).mean().item(), rel=1e-12
    )


def test_points_lie_on_the_line_between_partners_at_their_own_time():
    x0, x1 = torch.randn(2, 3, 20, 2, dtype=torch.float64, generator=seeded())
    seen = []

    def velocity(t, x, **cond):
        seen.append((t, x, cond))
        return 0 * x

    loss = FlowMatchingLoss(generator=seeded(1))(velocity, x0, x1, cond="told")
    ((t, x, cond),) = seen
    assert t.shape == (3, 20, 1)
    assert len(t.unique()) == 60
    torch.testing.assert_close(x, (1 - t) * x0 + t * x1)
    assert cond == {"cond": "told"}
    assert loss.item() == pytest.approx((x1 - x0).square().sum(-1).mean().item())


def test_independent_coupling_crosses_all_pairs():
    x0, x1 = (
        torch.tensor([[[0.0], [10.0]]]).repeat(4000, 1, 1),
        torch.tensor([[[0.0], [1.0], [2.0]]]).repeat(4000, 1, 1),
    )
    value = FlowMatchingLoss("independent", generator=seeded())(lambda t, x: 0 * x, x0, x1)
    assert value.item() == pytest.approx((0 + 1 + 4 + 100 + 81 + 64) / 6, rel=0.02)


def test_ot_coupling_undoes_a_shuffle():
    x0 = torch.randn(2, 30, 2, generator=seeded())
    x1 = x0[:, torch.randperm(30, generator=seeded())] + 0.01
    assert FlowMatchingLoss("ot")(lambda t, x: 0 * x, x0, x1).item() == pytest.approx(2e-4, rel=1e-3)
    assert FlowMatchingLoss("paired")(lambda t, x: 0 * x, x0, x1).item() > 1


def test_the_gaussian_base_knows_nothing_of_the_source():
    x1 = 3 + torch.randn(1, 20_000, 1, generator=seeded())
    value = FlowMatchingLoss(base="gaussian", generator=seeded(1))(
        lambda t, x: 0 * x, torch.full((1, 7, 1), torch.nan), x1
    )
    assert value.item() == pytest.approx(9 + 2, rel=0.03)


def test_the_marginal_field_of_gaussians_is_the_minimum_and_maps_quantiles():
    m, s = 2.0, 0.5

    def best(t, x):
        return m + (x - t * m) * (t * s**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * s**2)

    x0 = torch.randn(1, 100_000, 1, dtype=torch.float64, generator=seeded())
    x1 = m + s * torch.randn(1, 100_000, 1, dtype=torch.float64, generator=seeded(1))
    values = {
        eps: FlowMatchingLoss(generator=seeded(2))(lambda t, x, eps=eps: best(t, x) * (1 + eps), x0, x1).item()
        for eps in (-0.02, 0.0, 0.02)
    }
    assert values[0.0] < min(values[-0.02], values[0.02])
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(
        integrate(best, start, method="dopri5", atol=1e-9, rtol=1e-9), m + s * start, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", ["coupling", "base", "form"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}='other'"):
        FlowMatchingLoss(**{name: "other"})


def test_shapes_that_do_not_fit_are_refused():
    loss = FlowMatchingLoss()
    with pytest.raises(ValueError, match="they must be as many"):
        loss(lambda t, x: x, torch.zeros(1, 3, 2), torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="of one batch"):
        loss(lambda t, x: x, torch.zeros(1, 3, 2), torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match="velocity: gave"):
        loss(lambda t, x: x[..., :1], torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))


# --- pairs from the optimal plan ---------------------------------------------------------------------------------


def test_pairs_follow_the_plan():
    pytest.importorskip("ot")
    x0, x1 = torch.tensor([[0.0], [10.0]]), torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    i, j = ot_pairs(x0, x1, 8000, seeded())
    assert torch.equal(i, j // 2)
    torch.testing.assert_close(j.bincount(minlength=4) / 8000, torch.full((4,), 0.25), atol=0.02, rtol=0)
    again = ot_pairs(x0, x1, 8000, seeded())
    assert torch.equal(j, again[1])


def test_pairs_sort_in_one_dimension_and_cost_less_than_pairs_of_one_position():
    x0, x1 = torch.randn(2, 40, 1, generator=seeded())
    i, j = ot_pairs(x0, x1)
    assert len(i) == 40
    assert torch.equal(x0[:, 0].argsort().argsort()[i], x1[:, 0].argsort().argsort()[j])
    assert (x0[i] - x1[j]).square().mean() < (x0 - x1).square().mean()
    with pytest.raises(ValueError, match="n_pairs=0"):
        ot_pairs(x0, x1, 0)
    with pytest.raises(ValueError, match="x0"):
        ot_pairs(x0, x1[:, 0])


# --- integration -------------------------------------------------------------------------------------------------

RATE = 0.5


def turn(t, x):
    return RATE * torch.stack([-x[..., 1], x[..., 0]], -1)


def turned(x):
    c, s = math.cos(RATE), math.sin(RATE)
    return x @ torch.tensor([[c, s], [-s, c]], dtype=x.dtype)


@pytest.fixture
def points() -> torch.Tensor:
    return torch.randn(3, 5, 2, dtype=torch.float64, generator=seeded())


def test_one_euler_step_is_exact_for_a_constant_field(points):
    found = integrate(lambda t, x, cond: cond.expand_as(x), points, torch.tensor([1.0, 2.0]).double(), "euler", 1)
    torch.testing.assert_close(found, points + torch.tensor([1.0, 2.0]))


def test_solvers_agree_on_a_rotation(points):
    for method, steps, within in (("euler", 200, 2e-3), ("midpoint", 200, 1e-5), ("dopri5", 1, 1e-3)):
        torch.testing.assert_close(integrate(turn, points, None, method, steps), turned(points), atol=within, rtol=0)
    exact = integrate(turn, points, method="dopri5", atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(exact, turned(points), atol=1e-8, rtol=0)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_order_of_accuracy(points, method, order):
    def field(t, x):
        return torch.cos(3 * t) * turn(t, x)

    exact = integrate(field, points, method="dopri5", atol=1e-12, rtol=1e-12)
    errors = [float((integrate(field, points, None, method, steps) - exact).norm()) for steps in (80, 160)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)


@pytest.mark.parametrize("method", ["euler", "dopri5"])
def test_a_path_runs_from_start_to_end(points, method):
    path = integrate(turn, points, None, method, 10, return_path=True)
    assert path.shape == (11, *points.shape)
    assert torch.equal(path[0], points)
    torch.testing.assert_close(path[-1], integrate(turn, points, None, method, 10), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        path[5], integrate(lambda t, x: turn(t, x) / 2, points, None, method, 5), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("options", [{"method": "rk4"}, {"steps": 0}, {"atol": 0.0}])
def test_impossible_solvers_are_named(points, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        integrate(turn, points, **options)


def test_without_torchdiffeq_the_extra_is_named(points, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "torchdiffeq":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"landform\[transport\]"):
        integrate(turn, points)
