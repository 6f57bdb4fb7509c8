"""ARPL with confusing samples: the networks as published, and each of the three updates by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landform.losses import ReciprocalPointLoss, confusing_sample_entropy
from landform.models import batch_norm_branch, branch_batch_norm
from landform.shift import ConfusingSamples, ImageDiscriminator, ImageGenerator, confusing_epochs

K, D, SIZE = 3, 6, 8


def test_the_generators_are_the_published_ones():
    for size, channels in ((32, [512, 256, 128, 3]), (64, [512, 256, 128, 64, 3])):
        torch.manual_seed(0)
        model = ImageGenerator(3, size)
        layers = [m for m in model if isinstance(m, nn.ConvTranspose2d)]
        assert [m.out_channels for m in layers] == channels
        assert [(m.kernel_size[0], m.stride[0], m.padding[0]) for m in layers] == [(4, 1, 0)] + [(4, 2, 1)] * (
            len(layers) - 1
        )
        assert layers[0].in_channels == 100
        assert all(m.bias is None for m in layers)
        assert layers[1].weight.std().item() == pytest.approx(0.02, rel=0.02)
        images = model(torch.randn(2, 100))
        assert images.shape == (2, 3, size, size)
        assert ((images > 0) & (images < 1)).all()


def test_the_discriminator_is_the_published_one():
    torch.manual_seed(0)
    model = ImageDiscriminator(3, 32)
    layers = [m for m in model if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0]) for m in layers] == [
        (3, 128, 4, 2, 1), (128, 256, 4, 2, 1), (256, 512, 4, 2, 1), (512, 1024, 4, 1, 0),
    ]  # fmt: skip
    kinds = [type(m) for m in model]
    assert kinds.count(nn.BatchNorm2d) == 2
    assert kinds[-5:] == [nn.Sigmoid, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Flatten]
    assert model(torch.rand(2, 3, 64, 64)).shape == model(torch.rand(2, 3, 32, 32)).shape == (2,)


@pytest.mark.parametrize("size", [8, 12, 20, 28])
def test_other_sizes_of_image(size):
    images = ImageGenerator(1, size, latent=5, width=2)(torch.randn(3, 5))
    assert images.shape == (3, 1, size, size)
    assert ImageDiscriminator(1, size, width=2)(images).shape == (3,)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImageGenerator(1, 21), "size=21"),
        (lambda: ImageGenerator(1, 4), "size=4"),
        (lambda: ImageDiscriminator(1, 7), "size=7"),
        (lambda: ImageGenerator(0, 8), "must be at least 1"),
        (lambda: ConfusingSamples(nn.Identity(), nn.Identity(), weight=-1), "weight=-1"),
    ],
)
def test_what_cannot_be_made(make, match):
    with pytest.raises(ValueError, match=match):
        make()


class Training:
    """A classifier with branches, its adversary, and a batch."""

    def __init__(self, weight=0.1):
        torch.manual_seed(0)
        self.features = branch_batch_norm(
            nn.Sequential(
                nn.Conv2d(1, D, 3, stride=2), nn.BatchNorm2d(D), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
        )
        self.loss = ReciprocalPointLoss(K, D)
        self.samples = ConfusingSamples(
            ImageGenerator(1, SIZE, latent=4, width=2),
            ImageDiscriminator(1, SIZE, width=2),
            weight=weight,
            noise=torch.Generator().manual_seed(1),
        )
        self.optimizer = torch.optim.SGD([*self.features.parameters(), *self.loss.parameters()], lr=0.1)
        self.x, self.y = torch.rand(5, 1, SIZE, SIZE), torch.tensor([0, 1, 2, 1, 0])

    def step(self):
        return self.samples.step(self.features, self.loss, self.optimizer, self.x, self.y)


def same(a, b):
    return all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_step_is_the_three_published_updates():
    """By hand, update after update, on a copy."""
    run, hand = Training(weight=0.7), Training(weight=0.7)
    losses = run.step()

    noise = torch.Generator().manual_seed(1)
    generator, discriminator, features, loss = (
        hand.samples.generator, hand.samples.discriminator, hand.features, hand.loss,
    )  # fmt: skip
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    ones, zeros = torch.ones(5), torch.zeros(5)
    fake = generator(torch.randn(5, 4, generator=noise))
    error = F.binary_cross_entropy(discriminator(hand.x).sigmoid(), ones)
    error = error + F.binary_cross_entropy(discriminator(fake.detach()).sigmoid(), zeros)
    assert losses.discriminator == pytest.approx(error.item(), rel=1e-5)
    optimizer = torch.optim.Adam(discriminator.parameters(), **adam)
    error.backward()
    optimizer.step()
    assert same(discriminator, run.samples.discriminator)

    with batch_norm_branch(features, 1):
        entropy = confusing_sample_entropy(loss.distances(features(fake)))
    error = F.binary_cross_entropy(discriminator(fake).sigmoid(), ones) + 0.7 * entropy
    assert losses.generator == pytest.approx(error.item(), rel=1e-5)
    optimizer = torch.optim.Adam(generator.parameters(), **adam)
    error.backward()
    optimizer.step()
    assert same(generator, run.samples.generator)

    with batch_norm_branch(features, 1):
        entropy = confusing_sample_entropy(loss.distances(features(generator(torch.randn(5, 4, generator=noise)))))
    error = loss(features(hand.x), hand.y) + 0.7 * entropy
    assert losses.classifier == pytest.approx(error.item(), rel=1e-4)
    assert losses.entropy == pytest.approx(entropy.item(), rel=1e-4)
    hand.optimizer.zero_grad()
    error.backward()
    hand.optimizer.step()
    assert same(features, run.features)
    assert same(loss, run.loss)
    for ours, theirs in zip(run.features[1].branches, features[1].branches, strict=True):
        assert ours.num_batches_tracked == theirs.num_batches_tracked


def test_generated_images_pass_their_own_statistics():
    run = Training()
    run.step()
    real, fake = run.features[1].branches
    assert (real.num_batches_tracked, fake.num_batches_tracked) == (1, 2)
    assert run.features[1].branch == 0


def test_without_weight_the_classifier_is_plain():
    run, plain = Training(weight=0.0), Training()
    run.step()
    plain.optimizer.zero_grad()
    plain.loss(plain.features(plain.x), plain.y).backward()
    plain.optimizer.step()
    assert same(run.features, plain.features)
    assert same(run.loss, plain.loss)


def test_confusion_falls_as_the_classifier_learns_it():
    run = Training(weight=5.0)
    with torch.no_grad():
        run.loss.points.mul_(20)  # apart, so that classes are told from one another at the start
    first = run.step().entropy
    assert first > 0.5
    for _ in range(60):
        last = run.step().entropy
    assert 1 / K <= last < first - 0.1


def test_a_plain_epoch_follows_each_confusing_one():
    run = Training()
    batches = [(run.x, run.y), (run.x.flip(0), run.y.flip(0))]
    hand = copy.deepcopy(run.features), copy.deepcopy(run.loss)
    found = confusing_epochs(run.samples, run.features, run.loss, run.optimizer, batches)
    assert len(found) == 2
    real, fake = run.features[1].branches
    assert (real.num_batches_tracked, fake.num_batches_tracked) == (4, 4)
    assert not same(hand[0], run.features)
    with pytest.raises(ValueError, match="cannot be gone through twice"):
        confusing_epochs(run.samples, run.features, run.loss, run.optimizer, iter(batches))
    with pytest.raises(ValueError, match="there are none"):
        confusing_epochs(run.samples, run.features, run.loss, run.optimizer, [])


def test_the_same_noise_gives_the_same_training():
    first, second = Training(), Training()
    assert [first.step() for _ in range(3)] == [second.step() for _ in range(3)]


def test_networks_without_branches_are_refused():
    run = Training()
    with pytest.raises(ValueError, match="branches"):
        run.samples.step(nn.Flatten(), run.loss, run.optimizer, run.x, run.y)
