"""The loss after a federated round, split into what the clients, the shift between them and the averaging make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from landform.training.many import Stack


class Decomposition(NamedTuple):
    """The three parts of a global loss, and their sum."""

    local: float
    """Σ_k p_k L_k(w_k): the local models' losses on their own data."""
    shift: float
    """Σ_k p_k (L(w_k) − L_k(w_k)): how much worse they are on everybody's."""
    aggregation: float
    """L(w̄) − Σ_k p_k L(w_k): how much worse than they the aggregate is."""
    total: float
    """L(w̄), their sum."""


def loss_decomposition(
    models: Sequence[nn.Module] | Stack,
    aggregate: nn.Module,
    datasets: Sequence[tuple[Tensor, Tensor]],
    weights: Float[Tensor, " clients"] | Sequence[float],
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Decomposition:
    """Split the global loss L(w) = Σ_k p_k L_k(w) of an aggregated model w̄ by its clients' models w_k.

        L(w̄) = Σ_k p_k L_k(w_k)  +  Σ_k p_k (L(w_k) − L_k(w_k))  +  (L(w̄) − Σ_k p_k L(w_k))
                  local                distribution shift               aggregation

    For a convex loss and the weighted mean the aggregation term is at most 0. All models run on all clients' data, at
    once where they can (:class:`landform.training.Stack`), in evaluation mode. Source: arXiv 2408.12300, section 2.

    Arguments:
        models: the clients' models after local training.
        aggregate: the server's model made of them, of the same architecture.
        datasets: (x, y) of each client.
        weights: p_k, such as the numbers of samples; scaled to sum to 1.
        loss_fn: the mean loss of a batch, (outputs, targets) → scalar; a function of tensors that
            ``torch.func.vmap`` can run.

    Raises:
        ValueError: numbers of models, datasets and weights that differ, no samples, or weights that are negative, not
            finite or all zero.

    >>> models = [nn.Linear(2, 3) for _ in range(2)]
    >>> data = [(torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])) for _ in range(2)]
    >>> parts = loss_decomposition(models, models[0], data, [1.0, 1.0])
    >>> abs(parts.local + parts.shift + parts.aggregation - parts.total) < 1e-6
    True
    """
    clients = models if isinstance(models, Stack) else Stack(list(models))
    if not len(clients) == len(datasets) == len(weights):
        raise ValueError(
            f"models, datasets, weights: {len(clients)}, {len(datasets)} and {len(weights)} are not the same number"
        )
    for client, (x, y) in enumerate(datasets):
        if not len(x) or len(x) != len(y):
            raise ValueError(f"datasets: client {client} has {len(x)} samples and {len(y)} targets")
    merged = Stack([aggregate], engine=clients.engine)
    losses = torch.stack([_losses(clients, x, y, loss_fn) for x, y in datasets], dim=1)
    pooled = torch.cat([_losses(merged, x, y, loss_fn) for x, y in datasets])
    return decompose(losses, pooled, torch.as_tensor(weights))


def decompose(
    losses: Float[Tensor, "models datasets"],
    aggregate: Float[Tensor, " datasets"],
    weights: Float[Tensor, " datasets"],
) -> Decomposition:
    """The same from losses that are known: ``losses[i, k]`` is L_k(w_i), ``aggregate[k]`` is L_k(w̄).

    Raises:
        ValueError: shapes that do not match, or weights that are negative, not finite or all zero.
    """
    if losses.shape != (len(aggregate),) * 2 or weights.shape != aggregate.shape:
        raise ValueError(
            f"losses {tuple(losses.shape)}, aggregate {tuple(aggregate.shape)}, weights {tuple(weights.shape)}: "
            "need (K, K), (K,) and (K,)"
        )
    p = weights.to(device=losses.device, dtype=torch.float64)
    if not bool((p.isfinite() & (p >= 0)).all()) or not float(p.sum()) > 0:
        raise ValueError(f"weights={weights.tolist()}: must be finite, at least 0, and not all zero")
    p = p / p.sum()
    losses, aggregate = losses.double(), aggregate.double()
    own, everywhere, total = losses.diagonal() @ p, (losses @ p) @ p, aggregate @ p
    return Decomposition(float(own), float(everywhere - own), float(total - everywhere), float(total))


@torch.no_grad()
def _losses(models: Stack, x: Tensor, y: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(M,) the mean loss of each model on one client's samples."""
    mode = models.training
    models.eval()
    try:
        return vmap(loss_fn, in_dims=(0, None))(models(x, shared=True), y)
    finally:
        models.train(mode)
