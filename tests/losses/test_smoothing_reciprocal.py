"""Label smoothing, reciprocal points and confusing samples against PyTorch, the formulas, and their limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from landform.losses import LabelSmoothingCrossEntropy, ReciprocalPointLoss, confusing_sample_entropy

K, D = 5, 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(11, D, generator=generator, dtype=torch.float64)
    return features, torch.randint(K, (11,), generator=generator)


# Label smoothing.


@pytest.mark.parametrize("s", [0.0, 0.1, 0.3, 0.9])
def test_both_conventions_are_their_targets(s):
    logits = torch.randn(9, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(9) % K
    torch.testing.assert_close(
        LabelSmoothingCrossEntropy(s, "uniform")(logits, y), F.cross_entropy(logits, y, label_smoothing=s)
    )
    target = torch.full((9, K), s / (K - 1), dtype=torch.float64)
    target[torch.arange(9), y] = 1 - s
    torch.testing.assert_close(LabelSmoothingCrossEntropy(s)(logits, y), F.cross_entropy(logits, target))
    if s * K / (K - 1) < 1:
        others = LabelSmoothingCrossEntropy(s)(logits, y)
        torch.testing.assert_close(others, LabelSmoothingCrossEntropy(s * K / (K - 1), "uniform")(logits, y))


@pytest.mark.parametrize("convention", ["others", "uniform"])
@pytest.mark.parametrize("s", [0.0, 0.4, 0.9])
def test_at_uniform_logits_it_is_log_k(convention, s):
    loss = LabelSmoothingCrossEntropy(s, convention)(torch.full((3, 20), 7.0, dtype=torch.float64), torch.arange(3))
    assert loss.item() == pytest.approx(math.log(20), abs=1e-12)


def test_the_published_smoothing_of_tinyimagenet():
    """s = 0.9 on 20 classes gives 0.1 to the true one and 0.9/19 to every other: their logits are the optimum."""
    target = torch.full((1, 20), 0.9 / 19, dtype=torch.float64)
    target[0, 4] = 0.1
    logits = target.log().requires_grad_()
    LabelSmoothingCrossEntropy(0.9)(logits, torch.tensor([4])).backward()
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((1.0,), r"smoothing=1\.0"), ((-0.1,), r"smoothing=-0\.1"), ((0.1, "torch"), "convention='torch'")],
)
def test_smoothing_that_cannot_be(arguments, match):
    with pytest.raises(ValueError, match=match):
        LabelSmoothingCrossEntropy(*arguments)


# Reciprocal points.


def loss_of(**options):
    torch.manual_seed(0)
    return ReciprocalPointLoss(K, D, **options).double()


def test_it_starts_as_published():
    torch.manual_seed(0)
    loss = ReciprocalPointLoss(300, 400)
    assert loss.radius.item() == 0
    assert loss.points.std().item() == pytest.approx(0.1, rel=0.02)
    assert abs(loss.points.mean().item()) < 2e-3
    assert {name for name, _ in loss.named_parameters()} == {"points", "radius"}


@pytest.mark.parametrize(("temperature", "smoothing", "weight"), [(1.0, 0.0, 0.1), (2.5, 0.3, 0.7)])
def test_the_loss_by_loops(batch, temperature, smoothing, weight):
    features, y = batch
    loss = loss_of(temperature=temperature, smoothing=smoothing, margin_weight=weight, reduction="none")
    with torch.no_grad():
        loss.radius.fill_(1.3)
    points = loss.points.detach()
    for f, k, value in zip(features, y, loss(features, y).detach(), strict=True):
        distances = [float((f - p).square().mean()) for p in points]
        logits = torch.tensor([d - float(f @ p) for d, p in zip(distances, points, strict=True)])
        target = torch.full((K,), smoothing / (K - 1))
        target[k] = 1 - smoothing
        entropy = -float((target * (logits / temperature).log_softmax(0)).sum())
        margin = max(0.0, 1 - (1.3 - distances[k]))
        assert value.item() == pytest.approx(entropy + weight * margin, abs=1e-6)
    torch.testing.assert_close(loss.distances(features), torch.cdist(features, loss.points).square() / D)


def test_at_its_own_reciprocal_point_a_class_is_least_likely():
    loss = loss_of()
    logits = loss.logits(loss.points)
    expected = -loss.points.square().sum(1)
    torch.testing.assert_close(logits.diagonal(), expected)
    far = 5 * F.normalize(torch.randn(1, D, dtype=torch.float64))
    assert loss.logits(far).mean() > loss.logits(0 * far).mean()  # logits grow with the distance


def test_the_margin_ends_where_the_distance_is_below_the_radius_less_one(batch):
    features, y = batch
    plain, full = loss_of(margin_weight=0.0), loss_of(margin_weight=1.0)
    own = (features - full.points[y]).square().mean(1)
    with torch.no_grad():
        for radius, expected in ((own.max() + 1, 0.0), (own.max() + 0.9, 0.1 / len(y)), (torch.zeros(()), None)):
            full.radius.copy_(radius)
            margin = full(features, y) - plain(features, y)
            wanted = (1 + own).mean() if expected is None else expected
            if expected == 0.1 / len(y):
                wanted = (1 - (radius - own)).clamp(min=0).mean()
                assert wanted > 0
            assert margin.item() == pytest.approx(float(wanted), abs=1e-12)


def test_gradients_reach_points_radius_and_features(batch):
    features, y = batch
    loss = loss_of()
    assert torch.autograd.gradcheck(
        lambda f, p, r: torch.func.functional_call(loss, {"points": p, "radius": r}, (f, y)),
        (features.requires_grad_(), loss.points.detach().requires_grad_(), loss.radius.detach().requires_grad_()),
    )


def test_distances_keep_their_precision_under_autocast():
    features = 100 + torch.randn(6, D)
    loss = ReciprocalPointLoss(K, D)
    exact = loss.distances(features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss.distances(features), exact)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"dim": 0}, "dim=0"),
        ({"margin_weight": -1.0}, "margin_weight=-1"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"smoothing": 1.0}, "smoothing=1"),
    ],
)
def test_reciprocal_points_that_cannot_be(arguments, match):
    with pytest.raises(ValueError, match=match):
        ReciprocalPointLoss(**{"num_classes": K, "dim": D, **arguments})


def test_features_of_another_width_are_refused(batch):
    with pytest.raises(ValueError, match=r"\(B, 7\)"):
        loss_of()(batch[0][:, :3], batch[1])


# Confusing samples.


def test_confusion_is_the_exponential_of_mean_negative_entropy():
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert confusing_sample_entropy(logits).item() == pytest.approx(math.exp((p * p.log()).sum(1).mean()), abs=1e-12)
    assert confusing_sample_entropy(torch.zeros(3, K)).item() == pytest.approx(1 / K)
    assert confusing_sample_entropy(1e4 * torch.eye(K)).item() == pytest.approx(1)
    assert torch.autograd.gradcheck(confusing_sample_entropy, logits.requires_grad_())


def test_confusion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="empty"):
        confusing_sample_entropy(torch.zeros(0, K))
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        confusing_sample_entropy(torch.zeros(K))


def test_confusion_is_computed_in_single_precision_at_least():
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(2)).half()
    torch.testing.assert_close(confusing_sample_entropy(logits), confusing_sample_entropy(logits.float()))
    compiled = torch.compile(confusing_sample_entropy, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits.float()), confusing_sample_entropy(logits.float()))
