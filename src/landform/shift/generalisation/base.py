"""What losses over several training domains share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import check_integers, check_logits, check_scores


class DomainLoss(nn.Module, ABC):
    """A loss of classifiers that are trained on several domains together, for any loop.

    ``loss(features, logits, targets, domains)`` is one number: features (B, d) are what enters the model's last layer,
    logits (B, K) what leaves it, and domains (B,) number the samples' domains from 0. As a closure for
    :func:`landform.training.fit`, of a model with the parts ``features`` and ``head``:

        def objective(model, batch):
            x, y, domain = batch
            h = model.features(x)
            return loss(h, model.head(h), y, domain)

    What a loss learns or keeps count of (``parameters()``, ``state_dict()``) goes with it; it changes in training mode
    alone.

    Raises:
        TypeError: logits or features that are not floating point, or targets or domains that are not integers.
        ValueError: shapes that do not fit, an empty or non-finite batch, or a class or domain out of range.
    """

    def forward(
        self,
        features: Float[Tensor, "batch d"],
        logits: Float[Tensor, "batch classes"],
        targets: Int[Tensor, " batch"],
        domains: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        logits, targets = check_logits(logits, targets)
        features = check_scores(features)
        if features.ndim != 2 or len(features) != len(targets) or domains.shape != targets.shape:
            raise ValueError(
                f"features {tuple(features.shape)} and domains {tuple(domains.shape)}: must be (B, d) and (B,), with "
                f"B = {len(targets)}"
            )
        check_integers("domains", domains, self.most_domains)
        return self.objective(features, logits, targets, domains.long())

    most_domains: int = 2**31

    @abstractmethod
    def objective(self, features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        """The loss of a batch that was found to fit."""


def by_domain(values: Float[Tensor, " batch"], domains: Int[Tensor, " batch"]) -> Float[Tensor, " present"]:
    """The mean over each domain that is present, in ascending order."""
    _, place, count = domains.unique(return_inverse=True, return_counts=True)
    return values.new_zeros(len(count)).index_add(0, place, values) / count


def domain_risks(logits: Tensor, targets: Tensor, domains: Tensor) -> Float[Tensor, " present"]:
    """The cross-entropy of each domain that is present."""
    return by_domain(F.cross_entropy(logits, targets, reduction="none"), domains)
