"""Which combinations of factors occur: a design gives the factors of image i by hashes alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from landform.data.scenes.factors import Factors


class Design(ABC):
    """A distribution of :class:`Factors`; ``design(index, seed)`` gives those of the images so numbered.

    An image's factors depend on its number and the seed alone, whatever else is asked for.
    """

    gamma: float = 0.0
    """The strength of the regional style that belongs to the design."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """What the labels mean."""

    @abstractmethod
    def __call__(self, index: Int[Tensor, " n"] | Sequence[int], seed: int) -> Factors:
        """The factors of the images numbered ``index``, with their label and group."""
