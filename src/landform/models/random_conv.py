"""Random convolutional features: one layer of fixed random filters, averaged over the image."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landform.data.items import images_and_labels

LEAST_NORM = 1e-8  # patches flatter than this are not brought to unit norm


class Images(Protocol):
    """A dataset by position: items are images (C, H, W), alone, with a label, or in a mapping as ``"image"``."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class RandomConvFeatures(nn.Module):
    """How strongly an image answers to fixed random filters, and to their opposites.

    With z = conv(x, w) + bias, unpadded, the features are [mean relu(z), mean relu(-z)] over the image: two for each
    filter. Filters are Gaussian here, or patches of images (:meth:`from_patches`). Nothing is trained; filters and
    bias are the buffers ``weights`` and ``biases``.

    Arguments:
        in_channels: of the images.
        features: twice the number of filters, so even.
        kernel_size: the filters' side.
        bias: added to every answer.
        seed: draws the filters, the same everywhere; PyTorch's global generator does where it is None.

    Shapes: (batch, in_channels, height, width) to (batch, features).

    Raises:
        ValueError: odd ``features``, sizes below 1, or images that do not fit.

    Source: random kitchen sinks as in MOSAIKS (Rolf et al., Nature Communications 2021), "mosaiks_512_3" of
    arXiv 2305.13456.

    >>> RandomConvFeatures(3, features=8, seed=0)(torch.rand(2, 3, 10, 10)).shape
    torch.Size([2, 8])
    """

    weights: Tensor
    biases: Tensor

    def __init__(
        self,
        in_channels: int,
        features: int = 512,
        kernel_size: int = 3,
        bias: float = -1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("features", features), ("kernel_size", kernel_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")
        if features % 2:
            raise ValueError(f"features={features}: must be even, two for each filter")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        shape = (features // 2, in_channels, kernel_size, kernel_size)
        self.register_buffer("weights", torch.randn(shape, generator=generator))
        self.register_buffer("biases", torch.full((features // 2,), float(bias)))

    @classmethod
    def from_patches(
        cls,
        dataset: Images,
        *,
        features: int = 512,
        kernel_size: int = 3,
        bias: float = -1.0,
        seed: int | None = None,
        zca: bool = True,
        zca_bias: float = 1e-3,
    ) -> Self:
        """Filters that are patches of images: of random images at random places, one a filter.

        Every patch, a row of P, is made zero-mean and of unit norm. With ``zca`` the filters are P Z Zᵀ, where
        Z = V diag((e + zca_bias)^-1/2) Vᵀ whitens the patches: e and V are the eigenvalues and eigenvectors of
        Pᵀ P / n.

        Arguments:
            dataset: training images, all of one number of channels.
            features, kernel_size, bias: as above.
            seed: draws images and places.
            zca: whether the filters are whitened.
            zca_bias: keeps directions that hardly occur from being blown up.

        Raises:
            ValueError: an empty dataset, images smaller than a patch or that are not (C, H, W), or a ``zca_bias`` that
                is not positive.
        """
        if not len(dataset):
            raise ValueError("dataset: is empty, there are no patches to take")
        if not zca_bias > 0:
            raise ValueError(f"zca_bias={zca_bias}: must be positive")
        first = _image(dataset, 0)
        net = cls(len(first), features, kernel_size, bias, seed=0)
        random = np.random.default_rng(seed)
        patches = []
        for _ in range(features // 2):
            image = _image(dataset, int(random.integers(len(dataset))))
            if len(image) != len(first) or min(image.shape[1:]) < kernel_size:
                raise ValueError(
                    f"dataset: an image has shape {tuple(image.shape)}; all must have {len(first)} channels "
                    f"and at least {kernel_size} × {kernel_size} pixels"
                )
            row, column = (int(random.integers(side - kernel_size + 1)) for side in image.shape[1:])
            patches.append(image[:, row : row + kernel_size, column : column + kernel_size])
        filters = torch.stack(patches).flatten(1).double()
        filters = filters - filters.mean(1, keepdim=True)
        norms = filters.norm(dim=1, keepdim=True)
        filters = filters / torch.where(norms < LEAST_NORM, 1.0, norms)
        if zca:
            filters = filters @ zca_squared(filters, zca_bias)
        kind = first.dtype if first.is_floating_point() else torch.get_default_dtype()
        net.weights = filters.view(net.weights.shape).to(kind)
        net.biases = net.biases.to(kind)
        return net

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch features"]:
        channels, kernel = self.weights.shape[1:3]
        if images.ndim != 4 or images.shape[1] != channels or min(images.shape[2:]) < kernel:
            raise ValueError(
                f"images have shape {tuple(images.shape)}: must be (batch, {channels}, height, width), "
                f"at least {kernel} pixels high and wide"
            )
        z = F.conv2d(images, self.weights, self.biases).flatten(2)
        return torch.cat([z.clamp(min=0).mean(2), (-z).clamp(min=0).mean(2)], dim=1)


def zca_squared(patches: Float[Tensor, "n d"], bias: float) -> Float[Tensor, "d d"]:
    """Z Zᵀ = V diag(1 / (e + bias)) Vᵀ with e, V the eigendecomposition of patchesᵀ patches / n."""
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return (vectors / (values + bias)) @ vectors.T


def _image(dataset: Images, index: int) -> Tensor:
    image = images_and_labels(dataset[index])[0]
    if image.ndim != 3:
        raise ValueError(f"dataset: item {index} has shape {tuple(image.shape)}: must be (channels, height, width)")
    return image
