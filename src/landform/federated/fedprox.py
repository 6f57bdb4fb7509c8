"""FedProx: local training held near the received model."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from landform.federated.client import SGD, Batch, Context, State, check_number, squared_distance


@dataclass(frozen=True, kw_only=True)
class FedProx(SGD):
    """Local SGD on the loss + (mu / 2) ‖w − w^t‖², the distance being to the model that the server sent.

    Source: Li et al., arXiv 1812.06127, equation 2.

    Arguments:
        mu: the strength, at least 0; usually 0.001 … 1.

    Raises:
        ValueError: a setting out of range.

    >>> FedProx(lr=0.1, mu=0.01).mu
    0.01
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mu", self.mu)

    def local_step(self, params: State, batch: Batch, ctx: Context) -> Float[Tensor, " clients"]:
        return super().local_step(params, batch, ctx) + self.mu / 2 * squared_distance(params, ctx.start)
