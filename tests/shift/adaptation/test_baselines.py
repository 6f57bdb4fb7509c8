"""Tent, EATA, SAR and BN adaptation: one step of each written out, what they count, and what they leave alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.shift import EATA, SAR, BNAdapt, RedundancyScreen, Tent, normalization_parameters, softmax_entropy

K = 4
METHODS = {"tent": Tent, "eata": EATA, "sar": SAR, "bn": BNAdapt}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, K)).double()
    with torch.no_grad():
        model[-1].weight.mul_(6)
    model.train()
    for _ in range(5):
        model(torch.randn(32, 6, dtype=torch.float64))
    return model


def batches(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(24, 6, generator=generator, dtype=torch.float64) + 1 for _ in range(count)]


def with_batch_statistics(model: nn.Module, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """The network written out, dropout off."""
    h = model[0](x)
    h = (h - h.mean(0)) / (h.var(0, correction=0) + model[1].eps).sqrt() * weight + bias
    return model[4](h.relu())


def affine(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in (model[1].weight, model[1].bias)]


@pytest.mark.parametrize("name", METHODS)
def test_the_model_given_stays_and_all_but_normalisation_too(name):
    model = network()
    before = copy.deepcopy(model.state_dict())
    adapter = METHODS[name](model, **({} if name == "bn" else {"lr": 0.1}))
    for x in batches():
        assert adapter.predict(x).shape == (24, K)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    trained = {id(p) for p in normalization_parameters(adapter.model)}
    for (key, after), first in zip(adapter.model.named_parameters(), model.parameters(), strict=True):
        if id(after) not in trained:
            assert torch.equal(after, first), key
    ledger = adapter.ledger
    assert ledger.seen == 96
    assert 0 <= ledger.uploads <= 96
    assert ledger.bytes_up == 6 * ledger.uploads
    assert ledger.bytes_down == 4 * 32 * ledger.edge_steps
    assert ledger.foundation_steps == 0
    if name == "bn":
        assert ledger.uploads == ledger.edge_steps == 0
    else:
        assert ledger.edge_steps > 0
        assert not torch.equal(adapter.model[1].weight, model[1].weight)


def test_tent_is_gradient_descent_on_the_mean_entropy():
    model = network()
    tent = Tent(model, lr=0.05, momentum=0.9)
    weight, bias = affine(model)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for x in batches():
        logits = with_batch_statistics(model, weight, bias, x)
        torch.testing.assert_close(tent.predict(x), logits.detach())  # before the step
        p = logits.softmax(1)
        slopes = torch.autograd.grad(-(p * p.log()).sum(1).mean(), [weight, bias])
        velocity = [0.9 * v + g for v, g in zip(velocity, slopes, strict=True)]
        with torch.no_grad():
            weight -= 0.05 * velocity[0]
            bias -= 0.05 * velocity[1]
    torch.testing.assert_close(tent.model[1].weight.detach(), weight.detach())
    torch.testing.assert_close(tent.model[1].bias.detach(), bias.detach())
    assert tent.ledger.fraction_uploaded == 1


@pytest.mark.parametrize("fisher", [False, True])
def test_eata_is_weighted_descent_on_the_sure_and_new(fisher):
    model = network()
    clean = batches(2) if fisher else None
    eata = EATA(model, lr=0.05, momentum=0.0, high=0.6, margin=0.7, fisher_batches=clean, fisher_weight=3.0)
    weight, bias = affine(model)
    anchor = [weight.detach().clone(), bias.detach().clone()]
    information = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for x in clean or []:
        logits = with_batch_statistics(model, weight, bias, x)
        slopes = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), [weight, bias])
        information = [i + g**2 / 2 for i, g in zip(information, slopes, strict=True)]
    redundancy = RedundancyScreen(0.7)
    e_max = 0.6 * math.log(K)
    uploads = 0
    for x in batches():
        logits = with_batch_statistics(model, weight, bias, x)
        torch.testing.assert_close(eata.predict(x), logits.detach())
        p = logits.softmax(1)
        h = -(p * p.log()).sum(1)
        sure = [i for i in range(24) if h[i] < e_max]
        new = redundancy(logits.detach()[sure]).tolist()
        kept = [i for i, keep in zip(sure, new, strict=True) if keep]
        uploads += len(kept)
        if not kept:
            continue
        loss = sum(math.exp(e_max - h[i].item()) * h[i] for i in kept) / len(kept)
        loss = loss + 3 * sum(
            (i * (now - then) ** 2).sum() for i, now, then in zip(information, (weight, bias), anchor, strict=True)
        )
        slopes = torch.autograd.grad(loss, [weight, bias])
        with torch.no_grad():
            weight -= 0.05 * slopes[0]
            bias -= 0.05 * slopes[1]
    assert 0 < uploads < 96
    assert eata.ledger.uploads == uploads
    torch.testing.assert_close(eata.model[1].weight.detach(), weight.detach())
    torch.testing.assert_close(eata.model[1].bias.detach(), bias.detach())
    assert fisher == any(i.abs().max() > 0 for i in information)


def test_sar_descends_along_the_gradient_uphill_of_the_sure():
    model = network()
    sar = SAR(model, lr=0.05, momentum=0.0, high=0.5, rho=0.2, reset_below=0)
    weight, bias = affine(model)
    e_max, average = 0.5 * math.log(K), None
    for x in batches():
        logits = with_batch_statistics(model, weight, bias, x)
        torch.testing.assert_close(sar.predict(x), logits.detach())
        h = softmax_entropy(logits)
        sure = h.detach() < e_max
        first = torch.autograd.grad(h[sure].mean(), [weight, bias])
        norm = math.sqrt(sum(float((g**2).sum()) for g in first))
        up = [
            (p + 0.2 * g / (norm + 1e-12)).detach().requires_grad_() for p, g in zip((weight, bias), first, strict=True)
        ]
        there = softmax_entropy(with_batch_statistics(model, *up, x))[sure]
        loss = there[there.detach() < e_max].mean()
        slopes = torch.autograd.grad(loss, up)
        average = loss.item() if average is None else 0.9 * average + 0.1 * loss.item()
        with torch.no_grad():
            weight -= 0.05 * slopes[0]
            bias -= 0.05 * slopes[1]
        assert sar.average == pytest.approx(average, rel=1e-10)
    assert 0 < sar.ledger.uploads < 96
    torch.testing.assert_close(sar.model[1].weight.detach(), weight.detach())
    torch.testing.assert_close(sar.model[1].bias.detach(), bias.detach())


def test_sar_begins_anew_when_the_loss_collapses():
    model = network()
    sar = SAR(model, lr=0.05, reset_below=10.0)
    for x in batches():
        sar.predict(x)
    assert sar.resets == 4
    assert sar.average is None
    assert torch.equal(sar.model[1].weight, model[1].weight)
    fresh = SAR(model, lr=0.05, reset_below=0)
    other = SAR(model, lr=0.05, reset_below=0)
    other._reset()
    for x in batches(2):
        assert torch.equal(fresh.predict(x), other.predict(x))


@pytest.mark.parametrize("name", ["eata", "sar"])
def test_a_batch_without_sure_samples_makes_no_step(name):
    model = network()
    adapter = METHODS[name](model, lr=0.1, high=1e-9)
    for x in batches():
        adapter.predict(x)
    assert adapter.ledger.uploads == adapter.ledger.edge_steps == adapter.ledger.bytes_down == 0
    assert torch.equal(adapter.model[1].weight, model[1].weight)


def test_bn_adaptation_uses_the_batch_or_mixes():
    model = network()
    weight, bias = affine(model)
    x, then = batches(2)
    torch.testing.assert_close(BNAdapt(model).predict(x), with_batch_statistics(model, weight, bias, x).detach())
    source = copy.deepcopy(model).eval()
    torch.testing.assert_close(BNAdapt(model, momentum=0.0).predict(x), source(x).detach())
    mixed = BNAdapt(model, momentum=0.3)
    mean, variance = model[1].running_mean, model[1].running_var
    for batch in (x, then):
        h = model[0](batch).detach()
        mean, variance = 0.7 * mean + 0.3 * h.mean(0), 0.7 * variance + 0.3 * h.var(0)
        expected = model[4](((h - mean) / (variance + 1e-5).sqrt() * weight + bias).relu())
        torch.testing.assert_close(mixed.predict(batch), expected.detach())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Tent(network(), lr=0), "lr=0"),
        (lambda: Tent(network(), momentum=1.0), r"momentum=1\.0"),
        (lambda: Tent(nn.Linear(6, K)), "no BatchNorm"),
        (lambda: EATA(network(), high=-1), "high=-1"),
        (lambda: EATA(network(), margin=0), "margin=0"),
        (lambda: EATA(network(), fisher_batches=[]), "fisher_batches"),
        (lambda: SAR(network(), rho=-1), "rho"),
        (lambda: SAR(network(), reset_below=-1), "reset_below=-1"),
        (lambda: BNAdapt(nn.Sequential(nn.LayerNorm(6))), "no BatchNorm"),
        (lambda: BNAdapt(network(), momentum=2), "momentum=2"),
    ],
)
def test_impossible_arguments_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        (torch.zeros(0, 6).double(), ValueError, "at least one sample"),
        (torch.zeros(3, 6).long(), TypeError, "int64"),
        (torch.full((3, 6), math.nan).double(), ValueError, "NaN"),
    ],
)
def test_batches_that_cannot_be_predicted_are_refused(name, batch, error, match):
    adapter = METHODS[name](network())
    with pytest.raises(error, match=match):
        adapter.predict(batch)
    assert adapter.ledger.seen == 0
