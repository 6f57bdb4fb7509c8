"""Training with features from which no one can tell the domain, given the class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from landform.losses.base import check_argument, check_integers
from landform.models import MLP
from landform.shift.alignment import GradientReversal
from landform.shift.generalisation.base import DomainLoss


class CDANN(DomainLoss):
    """Conditional domain-adversarial training: the mean cross-entropy, and a discriminator that the features deceive.

    The discriminator reads the features plus a learned vector of the sample's class, and its cross-entropy for the
    domain is averaged over the samples of each class and then over the classes present. A gradient reversal lies
    before it: it learns to tell the domains while the features, with ``weight``, learn that it cannot. Give
    ``loss.parameters()`` to the optimiser together with the model's, perhaps in a group of their own.

    DomainBed updates the discriminator and the network in turns, which gives the network every other batch. Here both
    are updated on every batch.

    Arguments:
        features: length of a feature vector.
        classes, domains: how many there are.
        weight: of the discriminator's loss in the features' gradient, at least 0.
        hidden: widths of the discriminator's hidden layers.

    Raises:
        ValueError: an argument out of range; a batch as :class:`DomainLoss` refuses it.

    Source: Li et al., "Deep domain generalization via conditional invariant adversarial networks" (ECCV 2018), as in
    DomainBed (arXiv 2007.01434), whose discriminator this is.

    >>> import torch
    >>> loss = CDANN(3, classes=2, domains=2)
    >>> value = loss(torch.randn(4, 3), torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    >>> value.backward()  # the discriminator's part of the gradient too
    """

    def __init__(
        self,
        features: int,
        classes: int,
        domains: int,
        weight: float = 1.0,
        hidden: tuple[int, ...] = (256, 256),
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("classes", classes), ("domains", domains)):
            check_argument(name, value, value >= 1, "at least 1")
        self.reversal = GradientReversal(weight)
        self.embedding = nn.Embedding(classes, features)
        self.discriminator = MLP(features, hidden, domains)
        self.most_domains = domains

    def objective(self, features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        check_integers("targets", targets, self.embedding.num_embeddings)
        guesses = self.discriminator(self.reversal(features) + self.embedding(targets))
        _, place, count = targets.unique(return_inverse=True, return_counts=True)
        misses = F.cross_entropy(guesses, domains, reduction="none")
        return F.cross_entropy(logits, targets) + (misses / count[place]).sum() / len(count)
