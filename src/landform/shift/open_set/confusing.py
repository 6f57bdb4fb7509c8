"""ARPL with confusing samples: a GAN whose images look real and yet lie close to no class, learned with the classifier.

Source: Chen et al., arXiv 2103.00953, section 4; the networks and the order of updates of the code of arXiv 2110.06207.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from landform.losses.reciprocal import ReciprocalPointLoss, confusing_sample_entropy
from landform.models.batch_norm_branches import batch_norm_branch

REAL, FAKE = 0, 1
"""The set of batch statistics that real and that generated images go through."""


class ImageGenerator(nn.Sequential):
    """Images in [0, 1] from noise (B, latent): transposed convolutions (DCGAN), doubling the side up to ``size``.

    From noise to s × s by one transposed convolution, then doublings, each of kernel 4; the channels are 8, 4, 2, …
    times ``width``, with batch normalisation and ReLU between and a sigmoid at the end. s = size/2^n is 4 to 7, which
    gives the published networks for 32 and for 64 pixels. Weights start as N(0, 0.02²), scales as N(1, 0.02²).

    Raises:
        ValueError: a size that is not 4 to 7 times a power of two, at least 8; or sizes below 1.

    >>> ImageGenerator(1, 20, width=8)(torch.randn(3, 100)).shape
    torch.Size([3, 1, 20, 20])
    """

    def __init__(self, channels: int = 3, size: int = 32, *, latent: int = 100, width: int = 64) -> None:
        _check(channels, width, latent)
        doublings = max(size, 1).bit_length() - 3
        start = size >> max(doublings, 0)
        if doublings < 1 or start << doublings != size:
            raise ValueError(f"size={size}: must be 8 or more, and 4, 5, 6 or 7 times a power of two")
        widths = [max(1, 8 * width >> i) for i in range(doublings)]
        layers: list[nn.Module] = [
            nn.Unflatten(1, (latent, 1, 1)),
            nn.ConvTranspose2d(latent, widths[0], start, 1, 0, bias=False),
        ]
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        super().__init__(*layers, nn.Sigmoid())
        self.latent = latent
        self.apply(_initialise)


class ImageDiscriminator(nn.Sequential):
    """A logit (B,) of an image being real: three strided convolutions, a last one, pooling, and a linear layer.

    Kernels of 4 and leaky ReLU (slope 0.2), batch normalisation from the second on, channels 2, 4, 8 and 16 times
    ``width``; the sigmoid before the pooling is the published network's. Its last sigmoid is left to the loss.

    Raises:
        ValueError: a size below 8, or sizes below 1.

    >>> ImageDiscriminator(1, 20, width=4)(torch.rand(3, 1, 20, 20)).shape
    torch.Size([3])
    """

    def __init__(self, channels: int = 3, size: int = 32, *, width: int = 64) -> None:
        _check(channels, width)
        if size < 8:
            raise ValueError(f"size={size}: must be 8 or more")
        layers: list[nn.Module] = [nn.Conv2d(channels, 2 * width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for factor in (2, 4):
            layers += [
                nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * factor * width),
                nn.LeakyReLU(0.2),
            ]
        layers += [
            nn.Conv2d(8 * width, 16 * width, min(4, size // 8), bias=False),
            nn.Sigmoid(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16 * width, 1),
            nn.Flatten(0),
        ]
        super().__init__(*layers)
        self.apply(_initialise)


@dataclass(frozen=True)
class ConfusingLosses:
    """The losses of one step, before their updates, and F of the generated images as the classifier saw them last."""

    discriminator: float
    generator: float
    classifier: float
    entropy: float


class ConfusingSamples:
    """A generator and a discriminator that train beside a classifier with reciprocal points.

    Each :meth:`step` makes three updates, on one batch of real images x and fresh noise:

    1. discriminator: BCE(D(x), 1) + BCE(D(G(n)), 0);
    2. generator: BCE(D(G(n)), 1) + β F(G(n));
    3. classifier and points: the reciprocal-point loss on x, + β F(G(n')).

    F is :func:`landform.losses.confusing_sample_entropy` of the distances between features and points. Generated images
    pass the classifier's second set of batch statistics (:func:`landform.models.branch_batch_norm`).

    Arguments:
        generator, discriminator: on images of the kind that the classifier sees.
        weight: β.
        lr, betas: of Adam for both.
        noise: draws the noise, on the CPU; PyTorch's global generator if None.

    Raises:
        ValueError: a weight that is negative or not finite.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        discriminator: nn.Module,
        *,
        weight: float = 0.1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        noise: torch.Generator | None = None,
    ) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight={weight}: must be finite and at least zero")
        self.generator, self.discriminator, self.weight, self.noise = generator, discriminator, weight, noise
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), lr, betas)
        self.discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr, betas)

    def generate(self, count: int) -> Float[Tensor, "count channels height width"]:
        """Images from fresh noise."""
        device = next(self.generator.parameters()).device
        images: Tensor = self.generator(torch.randn(count, self.generator.latent, generator=self.noise).to(device))
        return images

    def entropy(
        self, features: nn.Module, loss: ReciprocalPointLoss, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, ""]:
        """F of generated images, by the classifier's features through their own batch statistics."""
        with batch_norm_branch(features, FAKE):
            return confusing_sample_entropy(loss.distances(features(images)))

    def step(
        self,
        features: nn.Module,
        loss: ReciprocalPointLoss,
        optimizer: Optimizer,
        x: Float[Tensor, "batch channels height width"],
        y: Int[Tensor, " batch"],
    ) -> ConfusingLosses:
        """Update discriminator, generator and classifier once; all in their present modes.

        Arguments:
            features: the classifier's network, from images to (B, d), with branches of batch normalisation.
            optimizer: of the network's and the loss's parameters.

        Raises:
            ValueError: a network without such branches, or a batch that the loss refuses.
        """
        fake = self.generate(len(x))
        real_logits, fake_logits = self.discriminator(x), self.discriminator(fake.detach())
        discriminator_loss = _bce(real_logits, 1.0) + _bce(fake_logits, 0.0)
        _update(self.discriminator_optimizer, discriminator_loss)

        entropy = self.entropy(features, loss, fake)
        generator_loss = _bce(self.discriminator(fake), 1.0) + self.weight * entropy
        _update(self.generator_optimizer, generator_loss)

        with batch_norm_branch(features, REAL):
            classifier_loss = loss(features(x), y)
        entropy = self.entropy(features, loss, self.generate(len(x)).detach())
        classifier_loss = classifier_loss + self.weight * entropy
        _update(optimizer, classifier_loss)
        losses = (discriminator_loss, generator_loss, classifier_loss, entropy)
        return ConfusingLosses(*(value.item() for value in losses))


def confusing_epochs(
    samples: ConfusingSamples,
    features: nn.Module,
    loss: ReciprocalPointLoss,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> list[ConfusingLosses]:
    """One epoch with confusing samples and, as published, a plain one after it, both over the same ``batches``.

    ``batches`` is gone through twice, so a ``DataLoader`` or a list, not an iterator.

    Raises:
        ValueError: an iterator, or no batches.
    """
    if iter(batches) is batches:
        raise ValueError("batches: an iterator cannot be gone through twice; give a list or a loader")
    found = [samples.step(features, loss, optimizer, x, y) for x, y in batches]
    if not found:
        raise ValueError("batches: there are none")
    for x, y in batches:
        with batch_norm_branch(features, REAL):
            _update(optimizer, loss(features(x), y))
    return found


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _check(*sizes: int) -> None:
    if min(sizes) < 1:
        raise ValueError(f"channels, width and latent are {sizes}: must be at least 1")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
