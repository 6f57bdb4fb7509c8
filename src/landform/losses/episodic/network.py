"""A prototypical network: an encoder whose class means classify."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from landform.losses.episodic.prototypes import Metric, episode_logits


class PrototypicalNetwork(nn.Module):
    """Classifies an episode's queries by the class means of what ``encoder`` makes of its support.

    The episode's items, N(K + Q) of them in the order of an ``EpisodeSampler``, go through the encoder in one batch: in
    training, batch normalisation thus takes its statistics from support and query together. Many episodes of items that
    are embedded already go through :func:`episode_logits`.

    Arguments:
        encoder: items (B, ...) to embeddings (B, d).
        metric, scale: of :func:`prototype_logits`.

    Raises:
        ValueError, TypeError: as :func:`episode_logits`, of what the encoder gives.

    Source: Snell et al., arXiv 1703.05175.

    >>> import torch
    >>> network = PrototypicalNetwork(nn.Flatten())
    >>> network(torch.randn(5 * (1 + 3), 1, 8, 8), n_way=5, n_shot=1).shape
    torch.Size([15, 5])
    """

    def __init__(self, encoder: nn.Module, *, metric: Metric = "sqeuclidean", scale: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.metric: Metric = metric
        self.scale = scale

    def forward(self, items: Float[Tensor, "items ..."], n_way: int, n_shot: int) -> Float[Tensor, "query way"]:
        return episode_logits(self.encoder(items), n_way, n_shot, self.metric, self.scale)
