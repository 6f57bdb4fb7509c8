"""SAM, SAGM and GSAM against their formulas, and all that an optimiser must do: groups, states, schedules, scaling."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from landform.optim.sharpness import GSAM, SAGM, SAM, frozen_norm_stats
from landform.training import fit

KINDS: tuple[type[SAM], ...] = (SAM, SAGM, GSAM)
H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)


def problem(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return net, x, torch.randint(0, 3, (12,), generator=generator)


def closure_of(optimizer: Optimizer, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    return closure


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def gradient(net: nn.Module, x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """The gradient at the weights ``at``, by plain autograd on a copy."""
    net = copy.deepcopy(net)
    nn.utils.vector_to_parameters(at, net.parameters())
    grads = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), list(net.parameters()))
    return torch.cat([g.flatten() for g in grads])


def quadratic(optimizer: Optimizer, weight: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight @ H @ weight / 2
        loss.backward()
        return loss

    return closure


# --- the formulas ------------------------------------------------------------------------------------------------


def test_sam_on_a_quadratic() -> None:
    """The gradient is H (w + rho H w / ||H w||), and step gives the loss at w."""
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    w = weight.detach().clone()
    optimizer = SAM([weight], SGD([weight], lr=0.1), rho=0.3)
    loss = optimizer.step(quadratic(optimizer, weight))
    uphill = w + 0.3 * H @ w / (H @ w).norm()
    torch.testing.assert_close(weight.detach(), w - 0.1 * H @ uphill, rtol=0, atol=1e-12)
    assert loss is not None
    assert loss.item() == pytest.approx((w @ H @ w / 2).item(), abs=1e-14)


def test_formulas_on_a_network() -> None:
    net, x, y = problem()
    w = flat(net)
    g = gradient(net, x, y, w)
    rho, alpha, lr = 0.2, 0.3, 0.5
    up = gradient(net, x, y, w + rho * g / g.norm())
    shorter = gradient(net, x, y, w + g * (rho / g.norm() - alpha))
    up_adaptive = gradient(net, x, y, w + rho * w.square() * g / (w * g).norm())
    orthogonal = g - (g @ up) / (up @ up) * up
    expected: list[tuple[Callable[[nn.Module], SAM], Tensor]] = [
        (lambda m: SAM(m.parameters(), SGD, rho=rho, lr=lr), up),
        (lambda m: SAM(m.parameters(), SGD, rho=rho, adaptive=True, lr=lr), up_adaptive),
        (lambda m: SAGM(m.parameters(), SGD, rho=rho, alpha=alpha, lr=lr), (g + shorter) / 2),
        (lambda m: GSAM(m.parameters(), SGD, rho=rho, alpha=alpha, lr=lr), up - alpha * orthogonal),
    ]
    for make, direction in expected:
        trained = copy.deepcopy(net)
        optimizer = make(trained)
        optimizer.step(closure_of(optimizer, trained, x, y))
        torch.testing.assert_close(flat(trained), w - lr * direction, rtol=0, atol=1e-12)


def test_the_climb_has_length_rho() -> None:
    net, x, y = problem()
    w = flat(net)
    optimizer = SAM(net.parameters(), SGD(net.parameters(), lr=0.1), rho=0.7)
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.first_step(zero_grad=True)
    assert (flat(net) - w).norm().item() == pytest.approx(0.7, abs=1e-10)
    assert all(p.grad is None for p in net.parameters())
    optimizer.restore()
    assert torch.equal(flat(net), w)


def test_sagm_matches_gradients() -> None:
    """To first order in rho and alpha the direction is g + (rho/||g|| - alpha) H g / 2."""
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    w = weight.detach().clone()
    optimizer = SAGM([weight], SGD, rho=0.2, alpha=0.05, lr=1.0)
    optimizer.step(quadratic(optimizer, weight))
    g = H @ w
    torch.testing.assert_close(weight.detach(), w - g - (0.2 / g.norm() - 0.05) / 2 * H @ g, rtol=0, atol=1e-12)


@pytest.mark.parametrize("built", [False, True])
def test_groups_climb_by_their_own_rho_under_one_norm(built: bool) -> None:
    net, x, y = problem()
    w, g = flat(net), gradient(net, x, y, flat(net))
    groups = [{"params": list(net[0].parameters()), "rho": 0.1}, {"params": list(net[2].parameters())}]
    rho = torch.full_like(w, 0.4)
    rho[: sum(p.numel() for p in groups[0]["params"])] = 0.1
    expected = w - 0.5 * gradient(net, x, y, w + rho * g / g.norm())
    if built:
        optimizer = SAM(groups, SGD([{"params": group["params"]} for group in groups], lr=0.5), rho=0.4)
    else:
        optimizer = SAM(groups, SGD, rho=0.4, lr=0.5)
    assert [group["rho"] for group in optimizer.param_groups] == [0.1, 0.4]
    optimizer.step(closure_of(optimizer, net, x, y))
    torch.testing.assert_close(flat(net), expected, rtol=0, atol=1e-12)


def test_gsam_rho_follows_the_learning_rate() -> None:
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    optimizer = GSAM([weight], SGD, rho=0.5, rho_min=0.1, lr=0.2)
    optimizer.param_groups[0]["lr"] = 0.05
    w = weight.detach().clone()
    (weight @ H @ weight / 2).backward()
    optimizer.first_step()
    assert (weight.detach() - w).norm().item() == pytest.approx(0.1 + 0.4 * 0.25, abs=1e-10)


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.01), partial(Adam, lr=0.01)])
def test_rho_zero_is_the_base_optimiser(base: Callable[..., Optimizer]) -> None:
    net, x, y = problem()
    plain = copy.deepcopy(net)
    optimizer, reference = SAM(net.parameters(), base, rho=0.0), base(plain.parameters())
    for _ in range(4):
        optimizer.step(closure_of(optimizer, net, x, y))
        reference.step(closure_of(reference, plain, x, y))  # type: ignore[arg-type]
    assert torch.equal(flat(net), flat(plain))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_learning_rate_zero_leaves_the_weights_to_the_bit(kind: type[SAM], adaptive: bool) -> None:
    net, x, y = problem()
    net, x = net.float(), x.float()
    w = flat(net)
    optimizer = kind(net.parameters(), SGD, rho=3.3, adaptive=adaptive, lr=0.0)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, net, x, y))
    assert torch.equal(flat(net), w)


def test_halves_make_the_whole() -> None:
    net, x, y = problem()
    other = copy.deepcopy(net)
    whole = SAM(net.parameters(), AdamW, lr=0.01)
    halves = SAM(other.parameters(), AdamW, lr=0.01)
    for last in (halves.second_step, halves.step):  # a step without closure is the second half
        whole.step(closure_of(whole, net, x, y))
        nn.functional.cross_entropy(other(x), y).backward()
        halves.first_step(zero_grad=True)
        nn.functional.cross_entropy(other(x), y).backward()
        last()
        halves.zero_grad()
    assert torch.equal(flat(net), flat(other))


def test_a_closure_may_sum_over_micro_batches() -> None:
    net, x, y = problem()
    other = copy.deepcopy(net)
    whole, parts = (SAM(m.parameters(), SGD, rho=0.3, lr=0.2) for m in (net, other))
    whole.step(closure_of(whole, net, x, y))

    def closure() -> Tensor:
        parts.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for micro_x, micro_y in zip(x.split(4), y.split(4), strict=True):
            loss = nn.functional.cross_entropy(other(micro_x), micro_y) / 3
            loss.backward()
            total += loss.detach()
        return total

    parts.step(closure)
    torch.testing.assert_close(flat(net), flat(other), rtol=0, atol=1e-13)


def test_parameters_without_gradients_stay() -> None:
    net, x, y = problem()
    for p in net[0].parameters():
        p.requires_grad_(False)
    before = flat(net[0])
    optimizer = SAM(net.parameters(), SGD, lr=0.5)
    optimizer.step(closure_of(optimizer, net, x, y))
    assert torch.equal(flat(net[0]), before)


# --- an optimiser among others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_from_its_state_dict(kind: type[SAM]) -> None:
    net, x, y = problem()
    optimizer = kind(net.parameters(), Adam, rho=0.1, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, net, x, y))
        schedule.step()
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "opt": optimizer.state_dict(), "lr": schedule.state_dict()}, file)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, net, x, y))
        schedule.step()

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, _, _ = problem(seed=1)
    resumed = kind(again.parameters(), Adam, rho=0.9, lr=0.5)
    following = torch.optim.lr_scheduler.CosineAnnealingLR(resumed, 10)
    again.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["opt"])
    following.load_state_dict(saved["lr"])
    assert resumed.param_groups is resumed.base.param_groups
    assert resumed.state is resumed.base.state
    for _ in range(3):
        resumed.step(closure_of(resumed, again, x, y))
        following.step()
    assert torch.equal(flat(net), flat(again))


def test_a_checkpoint_of_the_base_alone_loads_and_keeps_rho() -> None:
    net, x, y = problem()
    base = SGD(net.parameters(), lr=0.3, momentum=0.9)
    base.step(closure_of(base, net, x, y))  # type: ignore[arg-type]
    optimizer = SAM(net.parameters(), SGD, rho=0.7, lr=0.1, momentum=0.9)
    optimizer.load_state_dict(base.state_dict())
    (group,) = optimizer.param_groups
    assert (group["rho"], group["lr"]) == (0.7, 0.3)
    buffer = optimizer.state[net[0].weight]["momentum_buffer"]
    assert torch.equal(buffer, base.state[net[0].weight]["momentum_buffer"])


def test_schedules_set_the_rates_of_the_base() -> None:
    net, _, _ = problem()
    base = SGD(net.parameters(), lr=1.0, momentum=0.9)
    optimizer = SAM(net.parameters(), base)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=10)
    assert base.param_groups[0]["lr"] == schedule.get_last_lr()[0] == pytest.approx(2.0 / 25)
    assert base.param_groups[0]["momentum"] == 0.95


def test_groups_can_be_added() -> None:
    net, x, y = problem()
    optimizer = SAM(net[0].parameters(), SGD, rho=0.2, lr=0.5)
    optimizer.add_param_group({"params": list(net[2].parameters()), "lr": 0.1})
    assert [(g["rho"], g["lr"]) for g in optimizer.base.param_groups] == [(0.2, 0.5), (0.2, 0.1)]
    before = flat(net[2])
    optimizer.step(closure_of(optimizer, net, x, y))
    assert not torch.equal(flat(net[2]), before)


def test_a_deep_copy_goes_its_own_way() -> None:
    net, x, y = problem()
    optimizer = GSAM(net.parameters(), Adam, lr=0.02)
    optimizer.step(closure_of(optimizer, net, x, y))
    twin_net, twin = copy.deepcopy((net, optimizer))
    assert twin.param_groups is twin.base.param_groups
    for _ in range(2):
        optimizer.step(closure_of(optimizer, net, x, y))
        twin.step(closure_of(twin, twin_net, x, y))
    assert torch.equal(flat(net), flat(twin_net))


def test_named_parameters_are_taken() -> None:
    net, x, y = problem()
    for base in (SGD(net.named_parameters(), lr=0.1), partial(SGD, lr=0.1)):
        optimizer = SAM(net.named_parameters(), base)
        optimizer.step(closure_of(optimizer, net, x, y))


def test_fit_trains_with_it() -> None:
    net, x, y = problem()
    optimizer = SAM(net.parameters(), SGD, lr=0.5)
    losses = fit(net, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), [(x, y)], optimizer, steps=30)
    assert losses[-1] < 0.6 * losses[0]


# --- mixed precision ---------------------------------------------------------------------------------------------


def scaled_closure(
    optimizer: Optimizer, net: nn.Module, x: Tensor, y: Tensor, scaler: torch.amp.GradScaler
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        return loss

    return closure


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_steps_are_the_plain_ones(kind: type[SAM]) -> None:
    """A scale that is a power of two changes no bit."""
    net, x, y = problem()
    net, x = net.float(), x.float()
    other = copy.deepcopy(net)
    plain, scaled = (kind(m.parameters(), Adam, rho=0.2, lr=0.02) for m in (net, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for _ in range(4):
        plain.step(closure_of(plain, net, x, y))
        scaled.step(scaled_closure(scaled, other, x, y, scaler), scaler=scaler)
        scaler.update()
    assert torch.equal(flat(net), flat(other))
    assert scaler.get_scale() == 2.0**12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [1, 2])
def test_an_overflow_in_either_pass_skips_the_step(kind: type[SAM], bad: int) -> None:
    net, x, y = problem()
    net, x = net.float(), x.float()
    optimizer = kind(net.parameters(), Adam, rho=0.2, lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        if calls == bad:
            net[0].weight.grad[0, 0] = math.inf
        return loss

    w = flat(net)
    optimizer.step(closure, scaler=scaler)
    scaler.update()
    assert torch.equal(flat(net), w)
    assert not optimizer.state
    assert scaler.get_scale() == 2.0**9
    optimizer.step(closure, scaler=scaler)
    scaler.update()
    assert not torch.equal(flat(net), w)
    assert flat(net).isfinite().all()


def test_halves_with_a_scaler() -> None:
    net, x, y = problem()
    net, x = net.float(), x.float()
    other = copy.deepcopy(net)
    plain, scaled = (SAM(m.parameters(), Adam, lr=0.02) for m in (net, other))
    plain.step(closure_of(plain, net, x, y))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(nn.functional.cross_entropy(other(x), y)).backward()
    scaled.first_step(zero_grad=True, scaler=scaler)
    scaler.scale(nn.functional.cross_entropy(other(x), y)).backward()
    scaled.second_step(scaler=scaler)
    scaler.update()
    assert torch.equal(flat(net), flat(other))


def test_one_autocast_around_whole_steps() -> None:
    """Casts of weights that have moved since are not used again."""
    net, x, y = problem()
    net, x = net.float(), x.float()
    other = copy.deepcopy(net)
    around, within = (SAM(m.parameters(), SGD, rho=1.0, lr=0.5) for m in (net, other))

    def closure() -> Tensor:
        within.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(other(x), y)
        loss.backward()
        return loss

    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(5):
            around.step(closure_of(around, net, x, y))
    for _ in range(5):
        within.step(closure)
    assert torch.equal(flat(net), flat(other))


# --- batch normalisation -----------------------------------------------------------------------------------------


def test_running_statistics_are_those_of_the_first_pass() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    _, x, y = problem()
    x = x.float()
    once = copy.deepcopy(net)
    once(x)
    optimizer = SAM(net.parameters(), SGD, model=net, lr=0.1)
    optimizer.step(closure_of(optimizer, net, x, y))
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, dict(net.named_buffers())[name]), name


@pytest.mark.parametrize("momentum", [0.1, None])
def test_frozen_statistics_survive_nan_and_change_no_output(momentum: float | None) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 2))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    net(x)
    before = copy.deepcopy(net.state_dict())
    with frozen_norm_stats(net):
        frozen = net(x)
        net(x * math.nan)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(frozen, net(x))
    assert not torch.equal(before["0.running_mean"], net.state_dict()["0.running_mean"]) or momentum is None


# --- what is refused ---------------------------------------------------------------------------------------------


def test_what_cannot_be_is_named() -> None:
    net, x, y = problem()
    other, _, _ = problem(1)
    parameters = list(net.parameters())
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ValueError, "rho=-0.1", lambda: SAM(parameters, SGD, rho=-0.1, lr=0.1)),
        (ValueError, "rho=nan", lambda: SAM(parameters, SGD, rho=math.nan, lr=0.1)),
        (ValueError, "rho=-1", lambda: SAM([{"params": parameters, "rho": -1}], SGD, lr=0.1)),
        (ValueError, "alpha=-1", lambda: SAGM(parameters, SGD, alpha=-1, lr=0.1)),
        (ValueError, "rho_min=0.2", lambda: GSAM(parameters, SGD, rho=0.1, rho_min=0.2, lr=0.1)),
        (ValueError, "not the 4 of base_optimizer", lambda: SAM(parameters, SGD(other.parameters(), lr=0.1))),
        (ValueError, "not the 2 of base_optimizer", lambda: SAM(parameters, SGD(parameters[:2], lr=0.1))),
        (TypeError, "lr", lambda: SAM(parameters, SGD(parameters, lr=0.1), lr=0.1)),
        (TypeError, "base_optimizer", lambda: SAM(parameters, 0.1)),  # type: ignore[arg-type]
        (ValueError, "closure=None", lambda: SAM(parameters, SGD, lr=0.1).step()),
        (RuntimeError, "no first_step", lambda: SAM(parameters, SGD, lr=0.1).second_step()),
        (RuntimeError, "no parameter has a gradient", lambda: SAM(parameters, SGD, lr=0.1).first_step()),
    ]
    for kind, message, act in wrong:
        with pytest.raises(kind, match=message):
            act()
    optimizer = SAM(parameters, SGD, lr=0.1)
    closure_of(optimizer, net, x, y)()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="taken already"):
        optimizer.first_step()


def test_a_second_pass_that_fails_leaves_the_weights_where_they_were() -> None:
    net, x, y = problem()
    w = flat(net)
    optimizer = SAM(net.parameters(), SGD, rho=1.0, lr=0.1)
    good = closure_of(optimizer, net, x, y)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return good()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(flat(net), w)
    optimizer.step(closure)
    assert not torch.equal(flat(net), w)
