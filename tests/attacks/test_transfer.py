"""Transfer tables and diagnostics, counted and computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landform.attacks import (
    LinfBall,
    attack_success_rate,
    common_weakness_attack,
    fgsm,
    gradient_cosine,
    input_sharpness,
    loss_section,
    transfer_matrix,
)


def test_success_rates_by_both_denominators():
    y = torch.tensor([0, 1, 2, 0, 1])
    clean = torch.tensor([0, 1, 2, 1, 0])
    adv = torch.tensor([1, 1, 0, 0, 2])
    assert attack_success_rate(clean, adv, y) == pytest.approx(2 / 3)
    assert attack_success_rate(clean, adv, y, on="all") == pytest.approx(3 / 5)
    assert attack_success_rate(clean, clean, y) == 0
    assert attack_success_rate(clean, clean, y, on="all") == pytest.approx(2 / 5)
    assert math.isnan(attack_success_rate(y + 1, adv, y))
    with pytest.raises(ValueError, match="on='wrong'"):
        attack_success_rate(clean, adv, y, on="wrong")
    with pytest.raises(ValueError, match="shapes"):
        attack_success_rate(clean, adv[:3], y)


def test_the_matrix_has_every_cell(models, batch):
    x, y = batch
    attacks = {
        "none": lambda ms, x, y: x,
        "fgsm": lambda ms, x, y: fgsm(ms[0], x, y, ball=LinfBall(0.3)),
        "cwa": lambda ms, x, y: common_weakness_attack(ms, x, y, ball=LinfBall(0.3), steps=2),
    }
    surrogates, targets = {"one": models[0], "two": models[:2]}, {"a": models[0], "b": models[2]}
    table = transfer_matrix(attacks, surrogates, targets, [(x, y), (1 - x, y)])
    frame = table.frame()
    assert len(frame) == 3 * 2 * 2 * 2
    assert set(frame["seed"]) == {0, 1}
    none = frame[frame["attack"] == "none"]
    assert (none.loc[none["clean_correct"] > 0, "success"] == 0).all()
    row = next(r for r in table.rows if (r.attack, r.surrogate, r.target, r.seed) == ("fgsm", "one", "b", 1))
    x_adv = fgsm(models[0], 1 - x, y, ball=LinfBall(0.3))
    clean, adv = models[2](1 - x).argmax(1), models[2](x_adv).argmax(1)
    assert row.images == 4
    assert row.clean_correct == int((clean == y).sum())
    assert row.success_all == float((adv != y).double().mean())
    single = transfer_matrix(attacks, {"one": models[0]}, {"b": models[2]}, (x, y))
    assert len(single.rows) == 3
    for attacks_, surrogates, targets, data, match in (
        ({}, {"one": models}, {"a": models[0]}, [(x, y)], "attacks: is empty"),
        (attacks, {"one": []}, {"a": models[0]}, [(x, y)], "at least one model"),
        (attacks, {"one": models}, {}, [(x, y)], "targets: is empty"),
        (attacks, {"one": models}, {"a": models[0]}, [], "data: is empty"),
        (attacks, {"one": models}, {"a": models[0]}, [(x + 1, y)], "x lies in"),
        ({"cut": lambda ms, x, y: x[:2]}, {"one": models}, {"a": models[0]}, [(x, y)], "'cut' gave shape"),
    ):
        with pytest.raises(ValueError, match=match):
            transfer_matrix(attacks_, surrogates, targets, data)


def test_gradient_cosine_is_the_mean_over_pairs(models, batch):
    x, y = batch
    gradients = []
    for model in models:
        leaf = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)[0].flatten(1))
    pairs = [F.cosine_similarity(gradients[i], gradients[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert gradient_cosine(models, x, y) == pytest.approx(float(sum(pairs)) / 3, abs=1e-10)
    assert gradient_cosine([models[0], models[0]], x, y) == pytest.approx(1, abs=1e-9)


class Plane(nn.Module):
    """Two classes whose cross-entropy at y = 0 is softplus(wᵀx)."""

    def __init__(self, w):
        super().__init__()
        self.w = w

    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), x @ self.w], dim=1)


def test_input_sharpness_in_closed_form():
    w = torch.tensor([2.0], dtype=torch.float64)
    x, y = torch.tensor([[0.3], [0.8]], dtype=torch.float64), torch.tensor([0, 0])
    up, down = (float((F.softplus(2 * (x + s * 0.1)) - F.softplus(2 * x)).abs().mean()) for s in (1, -1))
    found = input_sharpness([Plane(w).eval()], x, y, 0.1, 4000, torch.Generator().manual_seed(0))
    assert up != pytest.approx(down, rel=0.05)
    assert found == pytest.approx((up + down) / 2, rel=0.01)
    both = input_sharpness([Plane(w).eval(), Plane(0 * w).eval()], x, y, 0.1, 4000, torch.Generator().manual_seed(0))
    assert both == pytest.approx(found / 2, abs=1e-12)


def test_loss_section(models, batch):
    x, y = batch
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    radii = [-0.5, 0.0, 2.0]
    found = loss_section(models[0], x, direction, radii, y)
    for row, r in zip(found, radii, strict=True):
        torch.testing.assert_close(row, F.cross_entropy(models[0](x + r * direction), y, reduction="none").detach())
    own = loss_section(models[0], x, direction, torch.tensor(radii))
    torch.testing.assert_close(own[1], -models[0](x).log_softmax(1).amax(1).detach())
    with pytest.raises(ValueError, match="direction"):
        loss_section(models[0], x, direction[:2], radii)
    with pytest.raises(ValueError, match="radii"):
        loss_section(models[0], x, direction, [])
