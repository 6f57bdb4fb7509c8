"""What every method of test-time adaptation shares: predict a batch, learn from it, and keep account."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.shift.adaptation.normalization import freeze_all_but_normalization, normalization_parameters

BYTES_PER_NUMBER = 4


@dataclass
class Ledger:
    """What an adaptation has cost so far.

    An uploaded image counts one byte for each of its values, and a parameter that is sent down four. Running
    statistics that travel with the parameters are counted apart, as the paper leaves them out.
    """

    seen: int = 0
    """Samples predicted."""
    uploads: int = 0
    """Samples sent to where gradients are computed."""
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_statistics: int = 0
    """Of running statistics, both ways."""
    foundation_steps: int = 0
    edge_steps: int = 0

    @property
    def fraction_uploaded(self) -> float:
        """Uploads of the samples seen; NaN before the first."""
        return self.uploads / self.seen if self.seen else float("nan")


class Adapter(ABC):
    """A model that adapts to a stream of unlabelled batches.

    ``predict`` gives the logits that the model has for a batch *before* it learns from it: these are what is scored.
    The models given are copied, never changed; for a new episode make a new adapter.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()

    @abstractmethod
    def predict(self, batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits of the stream's next batch; then learn from it.

        Raises:
            TypeError: a batch that is not floating point.
            ValueError: a batch that is empty or not finite.
        """


class EntropyMinimiser(Adapter):
    """The single model of a method that trains on its own predictions' entropy, with SGD on normalisation layers.

    The model stays in evaluation mode, so that dropout is off, but every BatchNorm uses its batch's statistics.
    Gradients need more than an edge device, so the samples that have some are counted as uploaded, and the parameters
    that they change as sent back.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = prepared(model)
        self.parameters = normalization_parameters(self.model)

    def count(self, batch: Tensor, uploads: int) -> None:
        """Enter a batch of which so many samples, if any, made one step."""
        self.ledger.seen += len(batch)
        self.ledger.uploads += uploads
        self.ledger.bytes_up += uploads * batch[0].numel()
        if uploads:
            self.ledger.edge_steps += 1
            self.ledger.bytes_down += BYTES_PER_NUMBER * sum(p.numel() for p in self.parameters)


def prepared(model: nn.Module) -> nn.Module:
    """A copy of a model in evaluation mode, of which gradients reach the normalisation layers alone."""
    return freeze_all_but_normalization(copy.deepcopy(model)).eval()


def check_batch(batch: Tensor) -> None:
    """Raise a TypeError or ValueError unless a batch is floating point, with samples, and finite."""
    if not batch.is_floating_point():
        raise TypeError(f"batch has dtype {batch.dtype}: must be floating point")
    if batch.ndim < 2 or not batch.numel():
        raise ValueError(f"batch has shape {tuple(batch.shape)}: must be (B, …) with at least one sample")
    if not torch.isfinite(batch).all():
        raise ValueError("batch contains NaN or infinite values")


def check_rates(**rates: float) -> None:
    """Raise a ValueError unless all are positive and finite."""
    for name, rate in rates.items():
        if not 0 < rate < float("inf"):
            raise ValueError(f"{name}={rate}: must be positive and finite")


def check_momentum(momentum: float) -> None:
    """Raise a ValueError unless in [0, 1)."""
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: must be in [0, 1)")
