"""Which parts of a model stay with the client."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def normalisation_names(model: nn.Module) -> Callable[[str], bool]:
    """Whether a parameter or buffer of ``model`` belongs to a normalisation layer: ``personal`` for FedBN.

    FedBN averages everything but these; each client is tested with its own (Li et al., arXiv 2102.07623).

    >>> is_norm = normalisation_names(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    >>> is_norm("0.weight"), is_norm("1.running_mean")
    (False, True)
    """
    layers = {name for name, layer in model.named_modules() if isinstance(layer, NORMALISATIONS)}
    return lambda name: name.rpartition(".")[0] in layers
