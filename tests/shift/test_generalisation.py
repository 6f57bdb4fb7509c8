"""Losses over domains against the algorithms written out sample by sample, by autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landform.shift import CDANN, CORAL, ERM, IRM, DomainLoss, GradientReversal, GroupDRO, coral_penalty

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    domains = torch.tensor([0, 2, 2, 0, 2, 0, 0, 2, 2, 1, 1, 0])  # 5 of 0, 2 of 1, 5 of 2
    features, logits = (torch.randn(12, k, generator=generator).double() for k in (4, 3))
    return features, logits.requires_grad_(), torch.randint(3, (12,), generator=generator), domains


def risks(batch: Batch) -> list[Tensor]:
    _, logits, y, domains = batch
    return [F.cross_entropy(logits[domains == d], y[domains == d]) for d in range(3)]


def test_erm(batch: Batch) -> None:
    torch.testing.assert_close(ERM()(*batch), F.cross_entropy(batch[1], batch[2]))


def test_irm_is_domainbeds(batch: Batch) -> None:
    _, logits, y, domains = batch
    loss = IRM(weight=7.0, anneal=2)
    expected = []
    for d in range(3):
        f, target = logits[domains == d], y[domains == d]
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        halves = [F.cross_entropy(f[k::2] * scale, target[k::2]) for k in (0, 1)]
        first, second = (torch.autograd.grad(half, scale, create_graph=True)[0] for half in halves)
        expected.append(first * second)
    penalty, risk = torch.stack(expected).mean(), torch.stack(risks(batch)).mean()
    for weight in (1.0, 1.0, 7.0, 7.0):
        assert loss.active_weight == weight
        value = loss(*batch)
        torch.testing.assert_close(value, risk + weight * penalty, rtol=0, atol=1e-12)
    gradient = torch.autograd.grad(value, logits, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(risk + 7 * penalty, logits)[0], rtol=0, atol=1e-12)


def test_irm_counts_in_training_alone_and_keeps_its_count(batch: Batch) -> None:
    loss = IRM(anneal=1).eval()
    loss(*batch)
    assert loss.active_weight == 1
    loss.train()(*batch)
    assert loss.active_weight == 100
    other = IRM(anneal=1)
    other.load_state_dict(loss.state_dict())
    assert other.active_weight == 100


def test_irm_of_single_samples_has_no_penalty(batch: Batch) -> None:
    one = tuple(part[9:10] for part in batch)
    torch.testing.assert_close(IRM(anneal=0)(*one), ERM()(*one))


def test_group_dro_follows_its_update(batch: Batch) -> None:
    loss = GroupDRO(3, eta=0.5)
    q = [1 / 3] * 3
    for _ in range(3):
        grown = [weight * math.exp(0.5 * float(risk)) for weight, risk in zip(q, risks(batch), strict=True)]
        q = [weight / sum(grown) for weight in grown]
        value = loss(*batch)
        torch.testing.assert_close(loss.q.tolist(), q, rtol=1e-6, atol=0)
        expected = sum(weight * risk for weight, risk in zip(q, risks(batch), strict=True))
        assert float(value.detach()) == pytest.approx(float(expected), rel=1e-6)
    before = loss.q.clone()
    loss.eval()(*batch)
    assert torch.equal(loss.q, before)


def test_group_dro_leaves_absent_domains(batch: Batch) -> None:
    some = tuple(part[batch[3] < 2] for part in batch)
    loss = GroupDRO(3, eta=1.0)
    value = loss(*some)
    raised = torch.tensor([*(float(r.detach().exp()) for r in risks(batch)[:2]), 1.0])
    torch.testing.assert_close(loss.q, raised / raised.sum())
    assert float(value.detach()) == pytest.approx(
        sum(float(q * r) for q, r in zip(loss.q, risks(batch)[:2], strict=False)), rel=1e-6
    )


def test_coral_penalty_is_of_first_and_second_moments(batch: Batch) -> None:
    features = batch[0]
    a, b = features[:5], features[5:]
    expected = (a.mean(0) - b.mean(0)).square().mean() + (torch.cov(a.T) - torch.cov(b.T)).square().mean()
    torch.testing.assert_close(coral_penalty(a, b), expected, rtol=0, atol=1e-12)
    assert float(coral_penalty(a, a.flip(0))) == pytest.approx(0, abs=1e-25)
    v = torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    assert float(coral_penalty(a, a + v)) == pytest.approx(5.25 / 4, abs=1e-12)
    with pytest.raises(ValueError, match="two rows"):
        coral_penalty(a, b[:1])


def test_coral_penalises_every_pair(batch: Batch) -> None:
    features, _, _, domains = batch
    parts = [features[domains == d] for d in range(3)]
    pairs = [coral_penalty(parts[i], parts[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = torch.stack(risks(batch)).mean() + 2 * torch.stack(pairs).mean()
    torch.testing.assert_close(CORAL(gamma=2.0)(*batch), expected, rtol=0, atol=1e-12)
    one = tuple(part[domains == 0] for part in batch)
    torch.testing.assert_close(CORAL()(*one), ERM()(*one))


def test_reversal_turns_the_gradient_round() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    w = torch.randn(3, 4)
    y = GradientReversal(0.7)(x)
    assert torch.equal(y, x)
    (y * w).sum().backward()
    torch.testing.assert_close(x.grad, -0.7 * w)
    plain = torch.func.vmap(torch.func.grad(lambda row: (GradientReversal(2.0)(row) * 3).sum()))(x.detach())
    torch.testing.assert_close(plain, torch.full((3, 4), -6.0))
    with pytest.raises(ValueError, match="coefficient=-1"):
        GradientReversal(-1)


def test_cdann_weighs_classes_alike_and_opposes_the_discriminator(batch: Batch) -> None:
    features, logits, y, domains = batch
    loss = CDANN(4, classes=3, domains=3, weight=0.3).double()
    features = features.clone().requires_grad_()
    value = loss(features, logits, y, domains)
    guesses = loss.discriminator(features + loss.embedding(y))
    by_class = [F.cross_entropy(guesses[y == c], domains[y == c]) for c in y.unique().tolist()]
    adversary = torch.stack(by_class).mean()
    torch.testing.assert_close(value, F.cross_entropy(logits, y) + adversary, rtol=0, atol=1e-12)
    parameters = [features, *loss.parameters()]
    found = torch.autograd.grad(value, parameters, retain_graph=True)
    plain = torch.autograd.grad(adversary, parameters)
    torch.testing.assert_close(found[0], -0.3 * plain[0], rtol=0, atol=1e-12)
    for one, other in zip(found[1:], plain[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in loss.discriminator.parameters()) == 4 * 256 + 256 + 256 * 257 + 256 * 3 + 3


@pytest.mark.parametrize("loss", [ERM(), IRM(), GroupDRO(3), CORAL(), CDANN(4, 3, 3).double()])
def test_losses_refuse_what_does_not_fit(loss: DomainLoss, batch: Batch) -> None:
    features, logits, y, domains = batch
    bad: list[tuple[Any, type[Exception], str]] = [
        ((features[:3], logits, y, domains), ValueError, "features"),
        ((features, logits, y, domains[:3]), ValueError, "domains"),
        ((features, logits, y + 1, domains), ValueError, "targets"),
        ((features, logits, y, domains - 1), ValueError, "domains"),
        ((features, logits, y, domains.double()), TypeError, "domains"),
        ((features * torch.nan, logits, y, domains), ValueError, "NaN"),
    ]
    for arguments, error, message in bad:
        with pytest.raises(error, match=message):
            loss(*arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IRM(weight=-1), "weight=-1"),
        (lambda: IRM(anneal=-1), "anneal=-1"),
        (lambda: GroupDRO(0), "domains=0"),
        (lambda: GroupDRO(2, eta=-1), "eta=-1"),
        (lambda: CORAL(gamma=-1), "gamma=-1"),
        (lambda: CDANN(0, 2, 2), "features=0"),
        (lambda: CDANN(2, 2, 2, weight=-1), "coefficient=-1"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_more_domains_than_were_told_are_refused(batch: Batch) -> None:
    for loss in (GroupDRO(2), CDANN(4, 3, 2).double()):
        with pytest.raises(ValueError, match="domains"):
            loss(*batch)
    with pytest.raises(ValueError, match="targets"):
        CDANN(4, 2, 3).double()(*batch)
