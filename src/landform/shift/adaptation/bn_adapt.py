"""BN adaptation: the statistics of the test data in the place of those of the training data."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.shift.adaptation.adapter import Adapter, check_batch
from landform.shift.adaptation.normalization import batch_norm_layers, use_batch_statistics


class BNAdapt(Adapter):
    """Normalises by the test data's statistics; no gradient, and nothing is uploaded.

    Arguments:
        model: any with BatchNorm; copied.
        momentum: None normalises each batch by its own statistics. A number mixes: each batch moves the running
            statistics, which begin as the training data's, by so much, and is then normalised by them.

    Raises:
        ValueError: a momentum outside [0, 1], or a model without BatchNorm, which this method cannot change; with a
            momentum also one whose BatchNorm keeps no running statistics.

    Source: Schneider et al., arXiv 2006.16971; Nado et al., arXiv 2006.10963.

    >>> adapted = BNAdapt(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    >>> adapted.predict(torch.randn(16, 4)).shape, adapted.ledger.uploads
    (torch.Size([16, 3]), 0)
    """

    def __init__(self, model: nn.Module, momentum: float | None = None) -> None:
        super().__init__()
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum}: must be in [0, 1], or None for each batch's own statistics")
        self.model = copy.deepcopy(model).eval()
        self.momentum = momentum
        layers = batch_norm_layers(self.model)
        if not layers:
            raise ValueError(f"model {type(model).__name__} has no BatchNorm whose statistics could adapt")
        if momentum is None:
            use_batch_statistics(self.model)
            return
        if any(layer.running_mean is None for layer in layers):
            raise ValueError(f"momentum={momentum}: the model's BatchNorm keeps no running statistics to mix with")
        for layer in layers:
            layer.register_forward_pre_hook(self._move)

    def _move(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Before a BatchNorm normalises its input, move its running statistics towards it."""
        assert isinstance(layer.running_mean, Tensor)
        assert isinstance(layer.running_var, Tensor)
        assert self.momentum is not None
        variance, mean = torch.var_mean(inputs[0], [dim for dim in range(inputs[0].ndim) if dim != 1])
        layer.running_mean.lerp_(mean, self.momentum)
        layer.running_var.lerp_(variance, self.momentum)

    @torch.no_grad()
    def predict(self, batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        check_batch(batch)
        self.ledger.seen += len(batch)
        return self.model(batch)
