"""Scenes as a dataset that stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from landform.data.scenes.design import Design
from landform.data.scenes.draw import check_share
from landform.data.scenes.factors import Factors
from landform.data.scenes.render import check_size, render_scenes
from landform.data.split import check_count


class SceneDataset(Dataset[tuple[Any, int]]):
    """The scenes 0 … n - 1 of a design, drawn when they are asked for: items are (image, label).

    A :class:`~torch.utils.data.DataLoader` has whole batches drawn at once; images do not depend on batches, their
    order or the number of workers.

    Arguments:
        n: the number of scenes.
        design: says which factors they have.
        seed: any whole number.
        size: pixels on a side, 16 … 256.
        transform: what becomes of each image ``(3, size, size)``.
        gamma: strength of the regional style; the design's own by default.

    Raises:
        ValueError: an argument out of range.
        IndexError: an item outside the dataset.

    >>> from landform.data.scenes import SpuriousDesign
    >>> dataset = SceneDataset(100, SpuriousDesign(strength=0.9), seed=0, size=32)
    >>> image, label = dataset[7]
    >>> images, labels = dataset.materialise()
    >>> torch.equal(images[7], image), labels.shape
    (True, torch.Size([100]))
    """

    def __init__(
        self,
        n: int,
        design: Design,
        seed: int,
        size: int = 32,
        transform: Callable[[Tensor], Any] | None = None,
        *,
        gamma: float | None = None,
    ) -> None:
        check_count("n", n, 0)
        check_size(size)
        self.n, self.design, self.seed, self.size, self.transform = n, design, seed, size, transform
        self.gamma = check_share("gamma", design.gamma if gamma is None else gamma)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        numbers = [int(index) for index in indices]
        for number in numbers:
            if not -self.n <= number < self.n:
                raise IndexError(f"index={number}: the dataset has {self.n} scenes")
        images, labels = self._draw(torch.tensor([number % self.n for number in numbers], dtype=torch.int64))
        return list(zip(images, labels.tolist(), strict=True))

    def factors(self) -> Factors:
        """What all scenes are made of, with their labels and groups."""
        return self.design(torch.arange(self.n), self.seed)

    def materialise(self) -> tuple[Float[Tensor, "n 3 size size"], Int[Tensor, " n"]]:
        """All images, after the transform, and labels."""
        images, labels = self._draw(torch.arange(self.n))
        return images if isinstance(images, Tensor) else torch.stack(images), labels

    def _draw(self, numbers: Int[Tensor, " k"]) -> tuple[Tensor | list[Any], Int[Tensor, " k"]]:
        factors = self.design(numbers, self.seed)
        images = render_scenes(factors, numbers, seed=self.seed, size=self.size, gamma=self.gamma)
        return images if self.transform is None else [self.transform(image) for image in images], factors.label
