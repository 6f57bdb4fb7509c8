"""UDIM against the released code's sequence of operations, its limits, and the perturbation and the curve it uses."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.optim import SGD, Adam

from landform.models import MLP, ConvNet
from landform.optim.sharpness import SAGM, SAM, UDIM, perturb_inputs, sharpness


def problem(n: int = 12) -> tuple[MLP, Tensor, Tensor]:
    torch.manual_seed(0)
    net = MLP(5, (7,), 3, activation="tanh").double()
    return net, torch.randn(n, 5, dtype=torch.float64), torch.randint(0, 3, (n,))


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# --- the released optimiser --------------------------------------------------------------------------------------


def head_grads(net: nn.Module, x: Tensor, y: Tensor) -> OrderedDict[str, Tensor]:
    """Per-sample gradients of the classifier by torch.func, as BackPACK gives them, rows of samples."""

    def loss(head: dict[str, Tensor], h: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(net.head, head, (h[None],)), target[None])

    head = dict(net.head.named_parameters())
    grads = vmap(grad(loss), in_dims=(None, 0, 0))(head, net.features(x), y)
    return OrderedDict((name, g.flatten(1)) for name, g in grads.items())


def released_step(
    net: nn.Module,
    base: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    domains: int,
    rho: float,
    radius: float,
    lam: float,
) -> tuple[float, float]:
    """An update in the order and form of the released code: distances to the mean variance, sub_ to restore."""
    params = list(net.parameters())
    syn = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(net(syn), y)
    g = torch.autograd.grad(loss, params, create_graph=True)
    norm = torch.stack([t.norm(p=2) for t in g]).norm(p=2)
    loss = loss + rho * norm
    eps = [t.detach() * (rho / norm.detach()) for t in g]
    (slope,) = torch.autograd.grad(loss, syn)
    syn = (syn + nn.functional.normalize(slope, p=2.0, dim=0, eps=1e-12) * radius).detach()

    with torch.no_grad():
        for p, e in zip(params, eps, strict=True):
            p.add_(e)
    sam = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), params)
    with torch.no_grad():
        for p, e in zip(params, eps, strict=True):
            p.sub_(e)

    total, size = torch.zeros((), dtype=torch.float64), len(x) // domains
    for i in range(domains):
        rows = slice(i * size, (i + 1) * size)
        clean, new = head_grads(net, x[rows], y[rows]), head_grads(net, syn[rows], y[rows])
        means = {name: c.mean(0, keepdim=True) for name, c in clean.items()}
        variances = [{n: (d[n] - means[n]).pow(2).mean(0) for n in d} for d in (clean, new)]
        middle = {n: torch.stack([v[n] for v in variances]).mean(0) for n in clean}
        for v in variances:
            total = total + torch.cat([v[n] - middle[n] for n in sorted(v)]).pow(2).mean() / 2
        for n in new:
            total = total + new[n].pow(2).sum(1).mean() / clean[n].shape[1]
    slopes = torch.autograd.grad(total, params)
    for p, a, b in zip(params, sam, slopes, strict=True):
        p.grad = a + lam * b
    base.step()
    return loss.item(), total.item()


@pytest.mark.parametrize("domains", [1, 2])
def test_three_updates_of_the_released_optimiser(domains: int) -> None:
    net, x, y = problem()
    other = copy.deepcopy(net)
    base, reference = (Adam(m.parameters(), lr=0.01, weight_decay=1e-4) for m in (net, other))
    udim = UDIM(net, base, rho=0.05, radius=3.0, weight=2.0, mode="batch")
    domain = torch.arange(domains).repeat_interleave(12 // domains)
    for _ in range(3):
        measured = udim.step(x, y, domain)
        crafting, inconsistency = released_step(other, reference, x, y, domains, 0.05, 3.0, 2.0)
        assert measured["crafting_loss"] == pytest.approx(crafting, abs=1e-11)
        assert measured["inconsistency"] == pytest.approx(inconsistency, abs=1e-11)
    torch.testing.assert_close(flat(net), flat(other), rtol=0, atol=1e-9)


def test_domains_add_up() -> None:
    net, x, y = problem()
    udim = UDIM(net, SGD, lr=0.1)
    moved = udim.craft(x, y).x
    order = torch.tensor([3, 1]).repeat(6)
    whole = udim.penalty(x, moved, y, order)
    parts = [udim.penalty(x[order == d], moved[order == d], y[order == d], None) for d in (1, 3)]
    torch.testing.assert_close(whole, sum(parts), rtol=0, atol=1e-14)


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["sam", "sagm", "gsam"])
def test_weight_zero_is_the_inner_optimiser(inner: str) -> None:
    from landform.optim import GSAM

    kind = {"sam": SAM, "sagm": SAGM, "gsam": GSAM}[inner]
    net, x, y = problem()
    other = copy.deepcopy(net)
    udim = UDIM(net, Adam, rho=0.3, weight=0.0, inner=inner, lr=0.02)  # type: ignore[arg-type]
    plain = kind(other.parameters(), Adam, rho=0.3, lr=0.02)

    def closure() -> Tensor:
        plain.zero_grad()
        loss = nn.functional.cross_entropy(other(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        loss = plain.step(closure)
        assert udim.step(x, y)["loss"] == pytest.approx(loss.item(), abs=1e-12)  # type: ignore[union-attr]
    torch.testing.assert_close(flat(net), flat(other), rtol=0, atol=1e-11)


def test_without_rho_and_weight_it_is_the_base() -> None:
    net, x, y = problem()
    other = copy.deepcopy(net)
    udim, plain = UDIM(net, SGD, rho=0.0, weight=0.0, lr=0.5), SGD(other.parameters(), lr=0.5)
    for _ in range(3):
        udim.step(x, y)
        plain.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        plain.step()
    torch.testing.assert_close(flat(net), flat(other), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", ["sample", "batch", "style"])
def test_learning_rate_zero_leaves_the_weights_to_the_bit(mode: Any) -> None:
    torch.manual_seed(0)
    net = ConvNet(2, 3, widths=(4, 4), groups=2)
    w = flat(net)
    udim = UDIM(net, SGD, rho=0.77, radius=0.5, mode=mode, lr=0.0)
    for _ in range(2):
        measured = udim.step(torch.randn(6, 2, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert torch.equal(flat(net), w)
    assert measured["crafting_loss"] == pytest.approx(measured["loss"] + 0.77 * measured["grad_norm"], rel=1e-6)
    assert measured["inconsistency"] > 0


def test_the_penalty_reaches_every_layer() -> None:
    """The update's difference to SAM's is the gradient of I at the weights, by finite differences."""
    net, x, y = problem()
    udim = UDIM(net, SGD, rho=0.1, weight=1.0, lr=1.0)
    moved, w = udim.craft(x, y).x, flat(net)
    other = copy.deepcopy(net)
    UDIM(other, SGD, rho=0.1, weight=0.0, lr=1.0).step(x, y)
    udim.step(x, y)
    slopes = flat(other) - flat(net)
    at = copy.deepcopy(net)
    probe = UDIM(at, SGD, lr=1.0)
    for j in (0, 9, 37, len(w) - 1):
        ends = []
        for sign in (1, -1):
            shifted = w.clone()
            shifted[j] += sign * 1e-5
            nn.utils.vector_to_parameters(shifted, at.parameters())
            ends.append(probe.penalty(x, moved, y, None).item())
        assert slopes[j].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_the_inconsistency_falls() -> None:
    net, x, y = problem()
    udim = UDIM(net, Adam, radius=0.3, weight=10.0, lr=0.03)
    course = [udim.step(x, y)["inconsistency"] for _ in range(60)]
    assert course[-1] < 0.5 * course[0]


# --- an optimiser among others -----------------------------------------------------------------------------------


def test_a_warm_up_by_sam_hands_its_base_over() -> None:
    net, x, y = problem()
    base = Adam(net.parameters(), lr=0.02)
    warm = SAM(net.parameters(), base, rho=0.5)

    def closure() -> Tensor:
        warm.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    warm.step(closure)
    udim = UDIM(net, base, rho=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(udim, 0.5)
    udim.step(x, y)
    schedule.step()
    assert udim.param_groups is base.param_groups is udim.inner.param_groups
    (group,) = base.param_groups
    assert (group["rho"], group["lr"]) == (0.1, 0.01)
    assert base.state[net.head.weight]["step"] == 2


def test_a_training_goes_on_from_its_state_dict() -> None:
    net, x, y = problem()
    udim = UDIM(net, Adam, lr=0.02)
    udim.step(x, y)
    weights, state = copy.deepcopy((net.state_dict(), udim.state_dict()))
    udim.step(x, y)
    again, _, _ = problem()
    resumed = UDIM(again, Adam, lr=0.5)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    resumed.step(x, y)
    assert torch.equal(flat(net), flat(again))


@pytest.mark.parametrize("mode", ["sample", "batch", "style"])
def test_scaled_steps_are_the_plain_ones(mode: Any) -> None:
    torch.manual_seed(0)
    net = ConvNet(1, 3, widths=(4, 4), groups=2).double()
    x, y = torch.randn(6, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    other = copy.deepcopy(net)
    plain, scaled = (UDIM(m, Adam, radius=0.2, mode=mode, lr=0.02) for m in (net, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(2):
        expected = plain.step(x, y)
        assert scaled.step(x, y, scaler=scaler) == pytest.approx(expected, rel=1e-9)
        scaler.update()
    torch.testing.assert_close(flat(net), flat(other), rtol=0, atol=1e-9)


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_an_overflow_in_any_gradient_skips_the_step(bad: int) -> None:
    """The first, second and third time that a scaled gradient reaches the head's bias, it is infinite."""
    net, x, y = problem()
    net, x = net.float(), x.float()
    udim = UDIM(net, Adam, lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    calls = 0

    def spoil(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return gradient * math.inf if calls == bad else gradient

    w = flat(net)
    handle = net.head.bias.register_hook(spoil)
    udim.step(x, y, scaler=scaler)
    scaler.update()
    assert calls >= bad
    handle.remove()
    assert torch.equal(flat(net), w)
    assert not udim.state
    assert scaler.get_scale() == 2.0**9
    udim.step(x, y, scaler=scaler)
    assert not torch.equal(flat(net), w)


def test_one_autocast_around_whole_steps() -> None:
    """Casts of weights that have moved since are not used again: else every step would find the first one's loss."""
    net, x, y = problem()
    net, x = net.float(), x.float()
    plain = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        udim = UDIM(net, Adam, lr=0.02)
        losses = [udim.step(x, y)["loss"] for _ in range(30)]
    full = UDIM(plain, Adam, lr=0.02)
    assert losses[-1] < 0.9 * losses[0]
    assert losses == pytest.approx([full.step(x, y)["loss"] for _ in range(30)], rel=0.03)


def test_running_statistics_are_those_of_one_pass_on_the_clean_batch() -> None:
    torch.manual_seed(0)
    net = ConvNet(1, 3, widths=(4, 4), norm="batch")
    x, y = torch.randn(6, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    once = copy.deepcopy(net)
    once(x)
    UDIM(net, SGD, lr=0.1).step(x, y)
    found = dict(net.named_buffers())
    assert all(torch.equal(buffer, found[name]) for name, buffer in once.named_buffers())


def test_what_cannot_be_is_named() -> None:
    net, x, y = problem()
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (TypeError, "features", lambda: UDIM(nn.Linear(2, 2), SGD, lr=0.1)),
        (ValueError, "radius=-1", lambda: UDIM(net, SGD, radius=-1, lr=0.1)),
        (ValueError, "weight=-1", lambda: UDIM(net, SGD, weight=-1, lr=0.1)),
        (ValueError, "mode='pixel'", lambda: UDIM(net, SGD, mode="pixel", lr=0.1)),  # type: ignore[arg-type]
        (ValueError, "inner='gam'", lambda: UDIM(net, SGD, inner="gam", lr=0.1)),  # type: ignore[arg-type]
        (ValueError, "base_optimizer", lambda: UDIM(net, SGD(net.head.parameters(), lr=0.1))),
        (ValueError, "one length", lambda: UDIM(net, SGD, lr=0.1).step(x, y[:3])),
        (ValueError, "one length", lambda: UDIM(net, SGD, lr=0.1).step(x, y, y[:3])),
        (TypeError, "floating point", lambda: UDIM(net, SGD, lr=0.1).step(x.long(), y)),
    ]
    for kind, message, act in wrong:
        with pytest.raises(kind, match=message):
            act()


# --- perturbed inputs --------------------------------------------------------------------------------------------


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum() + (x.flatten(1).sum(1) ** 2).sum()


def test_every_sample_moves_by_the_radius_up_its_gradient() -> None:
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[2] = 0  # where the gradient is zero
    moved = perturb_inputs(cubic, x, 0.3)
    step = (moved - x).flatten(1)
    torch.testing.assert_close(step.norm(dim=1), torch.tensor([0.3, 0.3, 0, 0.3, 0.3]).double(), rtol=0, atol=1e-7)
    slope = (3 * x**2 + 2 * x.sum((1, 2), keepdim=True)).flatten(1)
    torch.testing.assert_close(step[0], 0.3 * slope[0] / slope[0].norm(), rtol=0, atol=1e-14)
    assert not moved.requires_grad


def test_tiny_gradients_still_give_a_full_step() -> None:
    x = torch.ones(1, 4)
    moved = perturb_inputs(lambda x: 1e-30 * x.sum(), x, 2.0)
    torch.testing.assert_close(moved - x, torch.ones(1, 4))


def test_batch_mode_has_norm_radius_at_each_position() -> None:
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = perturb_inputs(cubic, x, 10.0, "batch")
    torch.testing.assert_close((moved - x).norm(dim=0), torch.full((2, 3), 10.0).double(), rtol=0, atol=1e-12)


def test_style_mode_moves_mean_and_spread_alone() -> None:
    """For a loss linear in x with weights c, dL/dm = sum(c) and dL/ds = sum(c z)."""
    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=generator)
    moved = perturb_inputs(lambda inputs: (inputs * c).sum(), x, 0.01, "style")
    mean, spread = x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    z = (x - mean) / spread
    expected = z * (spread + 0.01 * (c * z).sum((2, 3), keepdim=True)) + mean + 0.01 * c.sum((2, 3), keepdim=True)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-13)
    assert (moved - x).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["sample", "batch", "style"])
def test_a_small_move_raises_the_crafting_loss(mode: Any) -> None:
    torch.manual_seed(0)
    net = ConvNet(2, 3, widths=(4, 4), groups=2).double()
    x, y = torch.randn(6, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    crafted = UDIM(net, SGD, rho=0.5, radius=1e-3, mode=mode, lr=0.1).craft(x, y)
    after = UDIM(net, SGD, rho=0.5, radius=0.0, mode=mode, lr=0.1).craft(crafted.x, y)
    assert after.crafting_loss > crafted.crafting_loss
    still = UDIM(net, SGD, radius=0.0, mode=mode, lr=0.1).craft(x, y).x
    torch.testing.assert_close(still, x, rtol=0, atol=0 if mode != "style" else 1e-14)


def test_clipping_and_what_cannot_be() -> None:
    x = torch.full((2, 3), 0.9)
    assert perturb_inputs(cubic, x, 1.0, lower=0.0, upper=1.0).max() == 1
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ValueError, "radius=-1", partial(perturb_inputs, cubic, x, -1.0)),
        (ValueError, "mode='pixel'", partial(perturb_inputs, cubic, x, 1.0, "pixel")),
        (ValueError, "images", partial(perturb_inputs, cubic, x, 1.0, "style")),
        (ValueError, "lower=1", partial(perturb_inputs, cubic, x, 1.0, lower=1.0, upper=0.0)),
        (TypeError, "floating point", partial(perturb_inputs, cubic, x.long(), 1.0)),
        (ValueError, "there must be samples", partial(perturb_inputs, cubic, x[:0], 1.0)),
        (ValueError, "one number", partial(perturb_inputs, lambda z: z, x, 1.0)),
    ]
    for kind, message, act in wrong:
        with pytest.raises(kind, match=message):
            act()


# --- the perturbed-loss curve ------------------------------------------------------------------------------------


def test_curve_of_a_quadratic() -> None:
    """Loss mean_b |W x_b|^2 / 2 over two batches of one point: L(w + d) - L(w) = <g, d> + d H d / 2."""
    model = nn.Linear(2, 1, bias=False).double()
    batches = [torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, -1.0]]).double()]
    hessian = sum(x.T @ x for x in batches) / 2
    w = model.weight.detach().clone().flatten()
    model.weight.grad = torch.ones_like(model.weight)
    rhos = (0.0, 0.3, 2.0)
    curve = sharpness(model, lambda m, x: m(x).square().sum() / 2, iter(batches), rhos)
    g = hessian @ w
    u = g / g.norm()
    expected = [rho * g.norm().item() + rho**2 / 2 * (u @ hessian @ u).item() for rho in rhos]
    np.testing.assert_allclose(curve, expected, rtol=1e-11, atol=1e-14)
    assert torch.equal(model.weight.detach().flatten(), w)
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))


def test_curve_leaves_running_statistics_and_names_what_is_wrong() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(net.state_dict())

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum() + model(x).sum()

    assert len(sharpness(net, loss, [torch.randn(4, 3)])) == 5
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match="batches"):
        sharpness(net, loss, [])
    with pytest.raises(ValueError, match="rhos=-1"):
        sharpness(net, loss, [torch.randn(4, 3)], (-1.0,))
    with pytest.raises(ValueError, match="rhos: there are none"):
        sharpness(net, loss, [torch.randn(4, 3)], ())
    with pytest.raises(ValueError, match="no parameter"):
        sharpness(net.requires_grad_(False), loss, [torch.randn(4, 3)])
