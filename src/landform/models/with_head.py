"""Networks in two parts, and training them with their normalisation frozen: what domain generalisation asks for."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class WithHead(nn.Sequential):
    """A network in two parts: ``features``, and a linear ``head`` on them.

    >>> WithHead(nn.Flatten(), nn.Linear(4, 2)).head.in_features
    4
    """

    features: nn.Module
    head: nn.Linear

    def __init__(self, features: nn.Module, head: nn.Linear) -> None:
        super().__init__(OrderedDict(features=features, head=head))


def train_with_frozen_norm(model: nn.Module) -> None:
    """Put a model in training mode, but its batch normalisation in evaluation mode: statistics are used, not updated.

    Its weights and biases still learn. ``model.train()`` undoes it.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
