"""MOON: local features drawn towards the global model's, away from the client's own last ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from landform.federated.client import SGD, Batch, Context, State, check_number
from landform.training.many.stack import Stack

KEPT = "previous."


@dataclass(frozen=True, kw_only=True)
class MOON(SGD):
    """Local SGD on the loss + mu · the model-contrastive loss

        ℓ = −log( e^{sim(z, z_g)/T} / (e^{sim(z, z_g)/T} + e^{sim(z, z_p)/T}) ),   sim the cosine

    with z, z_g and z_p the features of the same input under the current, the received global and the client's own
    previous local model; the last two are constants. Before a client's first round its previous model is the server's
    first. Source: Li et al., arXiv 2103.16257, equation 3.

    Arguments:
        mu: the strength, at least 0.
        temperature: T, positive.
        head: the submodule whose input is z (the paper puts a projection before it).

    Raises:
        ValueError: a setting out of range, or a model without that submodule.

    >>> MOON(lr=0.1, mu=1.0).temperature
    0.5
    """

    mu: float = 1.0
    temperature: float = 0.5
    head: str = "head"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mu", self.mu)
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: must be positive")

    def init_state(self, params: State) -> State:
        return {KEPT + name: p for name, p in params.items()}

    def finish(self, params: State, ctx: Context, steps: Float[Tensor, " clients"]) -> State:
        return {KEPT + name: p for name, p in params.items()}

    def local_step(self, params: State, batch: Batch, ctx: Context) -> Float[Tensor, " clients"]:
        encoder = encoder_of(ctx.model, self.head)
        previous = {name.removeprefix(KEPT): p for name, p in ctx.state.items()}
        z = self.encode(encoder, params, batch, ctx)
        with torch.no_grad():
            z_global, z_previous = (self.encode(encoder, p, batch, ctx) for p in (ctx.start, previous))
        towards, away = (F.cosine_similarity(z, other, dim=-1) / self.temperature for other in (z_global, z_previous))
        contrast = F.softplus(away - towards)
        return super().local_step(params, batch, ctx) + self.mu * batch.mean(contrast)

    def encode(self, encoder: Stack, params: State, batch: Batch, ctx: Context) -> Float[Tensor, "clients batch d"]:
        prefix = self.head + "."
        own = {name: p for name, p in params.items() if not name.startswith(prefix)}
        # Copies: statistics of batch normalisation are updated by the pass for the data's loss alone.
        buffers = {name: b.clone() for name, b in ctx.buffers.items() if not name.startswith(prefix)}
        return encoder.forward(own, buffers, batch.x, shared=False).flatten(2)


@lru_cache(maxsize=16)
def encoder_of(model: Stack, head: str) -> Stack:
    """The models without their head."""
    encoder = deepcopy(model.template)
    if head not in dict(encoder.named_modules()) or not head:
        names = ", ".join(child for child, _ in encoder.named_children())
        raise ValueError(f"head={head!r}: the model has no such submodule, but {names}")
    encoder.set_submodule(head, nn.Identity())
    return Stack([encoder], engine=model.engine)
