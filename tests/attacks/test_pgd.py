"""PGD and its kin: against plain loops, on linear models with a known optimum, and what they leave untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from landform.attacks import (
    InputGradient,
    IterativeAttack,
    L2Ball,
    LinfBall,
    MomentumIterative,
    NesterovIterative,
    Normalized,
    VarianceTuned,
    apgd,
    common_weakness_attack,
    fgsm,
    pgd,
    r_fgsm,
    square,
    svre,
)


def plain_gradient(model, x, y):
    """By backward passes of one sample at a time."""
    rows = []
    for one, label in zip(x, y, strict=True):
        leaf = one[None].clone().requires_grad_()
        F.cross_entropy(model(leaf), label[None]).backward()
        rows.append(leaf.grad[0])
    return torch.stack(rows)


def clip(z, x, eps):
    return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1)


@pytest.mark.parametrize("labels", [[0.0, 1.5, 2.0, 3.0], [True, False, True, False]])
def test_labels_are_not_rounded(model, batch, labels):
    for found in (InputGradient(model), InputGradient(model).evaluate):
        with pytest.raises(TypeError, match="int64"):
            found(batch[0], torch.tensor(labels))


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_labels_that_are_no_classes(model, batch, label):
    y = batch[1].clone()
    y[2] = label
    for found in (InputGradient(model), InputGradient(model).evaluate):
        with pytest.raises(ValueError, match=f"y holds the label {label}"):
            found(batch[0], y)


@pytest.mark.parametrize("targeted", [False, True])
def test_gradient_alone_and_with_its_losses(model, batch, targeted):
    """The first one and later ones, after the labels were written over, and in float32."""
    x, y = batch[0], batch[1].clone()
    gradient, sign = InputGradient(model, targeted=targeted), -1 if targeted else 1
    for shift in (0, 0, 1):
        y.add_(shift).remainder_(5)
        expected = sign * plain_gradient(model, x, y)
        torch.testing.assert_close(gradient(x, y), expected, rtol=1e-11, atol=1e-14)
        found = gradient.evaluate(x, y)
        torch.testing.assert_close(found.gradient, expected, rtol=1e-11, atol=1e-14)
        losses = F.cross_entropy(model(x), y, reduction="none")
        torch.testing.assert_close(found.losses, sign * losses, rtol=1e-12, atol=0)
    model.float()
    expected = sign * plain_gradient(model, x.float(), y)
    torch.testing.assert_close(gradient(x.float(), y), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
def test_linf_pgd_is_the_plain_loop(model, batch, targeted):
    x, y = batch
    z = x.clone()
    for _ in range(6):
        z = clip(z + (-1 if targeted else 1) * 0.03 * plain_gradient(model, z, y).sign(), x, 0.1)
    found = pgd(model, x, y, ball=LinfBall(0.1), steps=6, step_size=0.03, targeted=targeted, random_start=False)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-14)


def test_l2_pgd_is_the_plain_loop(model, batch):
    x, y = batch
    z = x.clone()
    for _ in range(6):
        g = plain_gradient(model, z, y)
        z = z + 0.2 * g / (g.flatten(1).norm(dim=1) + 1e-10).view(-1, 1, 1, 1)
        delta = z - x
        z = (x + delta * (0.5 / delta.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)).clamp(0, 1)
    found = pgd(model, x, y, ball=L2Ball(0.5), steps=6, step_size=0.2, random_start=False)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-12)


def test_one_step_attacks(model, batch):
    x, y = batch
    expected = clip(x + 0.1 * plain_gradient(model, x, y).sign(), x, 0.1)
    torch.testing.assert_close(fgsm(model, x, y, ball=LinfBall(0.1)), expected, rtol=0, atol=1e-15)

    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2)).sign()
    start = clip(x + 0.04 * noise, x, 0.1)
    expected = clip(start + 0.06 * plain_gradient(model, start, y).sign(), x, 0.1)
    generator = torch.Generator().manual_seed(2)
    found = r_fgsm(model, x, y, ball=LinfBall(0.1), start_step=0.04, generator=generator)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_the_random_start_is_drawn_by_the_generator(model, batch):
    x, y = batch
    found = [
        pgd(model, x, y, ball=L2Ball(0.3), steps=2, step_size=0.01, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", lambda z, y: -z.gather(1, y[:, None]).squeeze(1)])
def test_losses_rise(model, batch, loss):
    x, y = batch
    gradient = InputGradient(model, loss)
    found = pgd(model, x, y, ball=LinfBall(0.1), steps=10, step_size=0.02, loss=loss, random_start=False)
    assert (gradient.evaluate(found, y).losses > gradient.evaluate(x, y).losses).all()


def test_a_targeted_attack_comes_nearer_its_class(model, batch):
    x, _ = batch
    target = torch.tensor([1, 1, 2, 2])
    found = pgd(model, x, target, ball=LinfBall(0.2), steps=10, step_size=0.05, targeted=True, random_start=False)
    assert (
        F.cross_entropy(model(found), target, reduction="none") < F.cross_entropy(model(x), target, reduction="none")
    ).all()
    assert (model(found).argmax(1) == target).all()


def test_momentum_is_the_plain_loop(model, batch):
    x, y = batch
    z, m = x.clone(), torch.zeros_like(x)
    for _ in range(5):
        g = plain_gradient(model, z, y)
        m = 0.9 * m + g / g.abs().sum((1, 2, 3), keepdim=True)
        z = clip(z + 0.02 * m.sign(), x, 0.1)
    attack = IterativeAttack(InputGradient(model), [], MomentumIterative(0.9), LinfBall(0.1), steps=5)
    assert attack.step_size == 0.02
    torch.testing.assert_close(attack(x, y), z, rtol=0, atol=1e-14)
    torch.testing.assert_close(attack(x, y), z, rtol=0, atol=1e-14)  # a second call starts afresh


def test_nesterov_looks_ahead_by_mean_normalised_momentum(model, batch):
    x, y = batch
    z, m = x.clone(), torch.zeros_like(x)
    for _ in range(5):
        g = plain_gradient(model, z + 0.02 * 0.9 * m, y)
        m = 0.9 * m + g / g.abs().mean((1, 2, 3), keepdim=True)
        z = clip(z + 0.02 * m.sign(), x, 0.1)
    attack = IterativeAttack(InputGradient(model), [], NesterovIterative(0.9), LinfBall(0.1), steps=5)
    torch.testing.assert_close(attack(x, y), z, rtol=0, atol=1e-14)


def test_variance_tuning_is_the_plain_loop(model, batch):
    x, y = batch
    generator = torch.Generator().manual_seed(5)
    z, m, v = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(3):
        g = plain_gradient(model, z, y)
        m = m + (g + v) / (g + v).abs().sum((1, 2, 3), keepdim=True)
        u = 1.5 * 0.1 * (2 * torch.rand(4, *x.shape, dtype=x.dtype, generator=generator) - 1)
        v = torch.stack([plain_gradient(model, z + one, y) for one in u]).mean(0) - g
        z = clip(z + 0.03 * m.sign(), x, 0.1)
    tuned = VarianceTuned(samples=4, generator=torch.Generator().manual_seed(5))
    found = IterativeAttack(InputGradient(model), [], tuned, LinfBall(0.1), steps=3, step_size=0.03)(x, y)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-14)


def test_a_pixel_without_gradient_does_not_move(batch):
    x, y = batch
    half = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).double().eval()
    with torch.no_grad():
        half[1].weight[:, :36] = 0
    found = fgsm(half, x, y, ball=LinfBall(0.1))
    assert torch.equal(found[:, 0], x[:, 0])
    assert (found[:, 1] != x[:, 1]).any()


def test_normalisation_is_inside(model, batch):
    x, y = batch
    mean, std = torch.tensor([0.2, 0.6]).double(), torch.tensor([0.5, 0.1]).double()
    inside = Normalized(model, mean, std).double()
    torch.testing.assert_close(inside(x), model((x - mean.view(2, 1, 1)) / std.view(2, 1, 1)))
    assert ((fgsm(inside, x, y, ball=LinfBall(0.1)) - x).abs() <= 0.1).all()
    with pytest.raises(ValueError, match="std"):
        Normalized(model, [0.1], [0.0])
    with pytest.raises(ValueError, match="one length"):
        Normalized(model, [0.1], [0.2, 0.3])
    with pytest.raises(ValueError, match="2 channels"):
        Normalized(model, [0.1] * 3, [0.2] * 3)(x)


def every_attack(ball):
    """All attacks in one form: (models, x, y, generator) → x_adv."""
    linf = isinstance(ball, LinfBall)

    def iterated(optimiser):
        return lambda ms, x, y, g: IterativeAttack(InputGradient(ms[0]), [], optimiser, ball, steps=3)(x, y)

    return {
        "fgsm": lambda ms, x, y, g: fgsm(ms[0], x, y, ball=ball),
        "r_fgsm": lambda ms, x, y, g: r_fgsm(ms[0], x, y, ball=ball, start_step=ball.eps / 2, generator=g),
        "pgd": lambda ms, x, y, g: pgd(ms[0], x, y, ball=ball, steps=3, step_size=ball.eps, generator=g),
        "mi": iterated(MomentumIterative()),
        "ni": iterated(NesterovIterative()),
        "vmi": iterated(VarianceTuned(samples=2)),
        "apgd": lambda ms, x, y, g: apgd(ms[0], x, y, ball=ball, steps=5, generator=g),
        "svre": lambda ms, x, y, g: svre(ms, x, y, ball=ball, steps=2, generator=g),
        "cwa": lambda ms, x, y, g: common_weakness_attack(ms, x, y, ball=ball, steps=2, inner_step=0.3),
        "sam": lambda ms, x, y, g: common_weakness_attack(ms, x, y, ball=ball, steps=2, cse=False),
        **({"square": lambda ms, x, y, g: square(ms[0], x, y, ball=ball, queries=10, generator=g)} if linf else {}),
    }


ATTACKS = [(kind, name) for kind in (LinfBall, L2Ball) for name in every_attack(kind(0.1))]


@pytest.mark.parametrize(("kind", "name"), ATTACKS)
def test_examples_are_exactly_in_ball_and_range(kind, name, models, batch):
    single = [copy.deepcopy(model).float() for model in models]
    x, y = batch[0].float(), batch[1]

    @settings(max_examples=12, deadline=None)
    @given(eps=st.floats(1e-4, 1.5), seed=st.integers(0, 1000))
    def check(eps, seed):
        found = every_attack(kind(eps))[name](single, x, y, torch.Generator().manual_seed(seed))
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert ((found >= 0) & (found <= 1)).all()
        order = float("inf") if kind is LinfBall else 2
        for delta in (found - x, found.double() - x.double()):
            assert torch.linalg.vector_norm(delta.flatten(1), order, dim=1).max().item() <= eps

    check()


@pytest.mark.parametrize("name", list(every_attack(LinfBall(0.1))))
def test_models_are_left_as_they_were(name, models, batch):
    x, y = batch
    models[0][0].weight.requires_grad_(False)
    for parameter in models[1].parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    requires = [[p.requires_grad for p in model.parameters()] for model in models]
    kept, labels = x.clone(), y.clone()
    with torch.no_grad():  # attacks need gradients of their own even where none are kept
        every_attack(LinfBall(0.1))[name](models, x, y, torch.Generator().manual_seed(0))
    assert torch.equal(x, kept)
    assert torch.equal(y, labels)
    assert not x.requires_grad
    assert [[p.requires_grad for p in model.parameters()] for model in models] == requires
    assert all(p.grad is None for m in (models[0], models[2]) for p in m.parameters())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in models[1].parameters())
    for model, state in zip(models, before, strict=True):
        assert not any(module.training for module in model.modules())
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name", [n for n in every_attack(LinfBall(0.1)) if n not in ("r_fgsm", "pgd", "vmi", "apgd", "square")]
)
def test_examples_do_not_depend_on_batch_mates(name, models, batch):
    x, y = batch
    attack = every_attack(LinfBall(0.1))[name]
    whole = attack(models, x, y, torch.Generator().manual_seed(0))
    parts = [attack(models, x[i : i + 2], y[i : i + 2], torch.Generator().manual_seed(0)) for i in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
