"""Several models as one: their logits averaged or summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from landform.attacks.checks import check_logits, check_models

Reduce = Literal["mean", "sum"]


class EnsembleLogits(nn.Module):
    """The mean or the sum of several models' logits, (1/n) Σ_i f_i(x) or Σ_i f_i(x).

    Under cross-entropy the two are not the same attack: a sum of n models is a mean at temperature 1/n.

    Raises:
        ValueError: no models, or an unknown reduction; when called: models with different classes.

    >>> import torch
    >>> EnsembleLogits([nn.Identity().eval(), nn.Identity().eval()], "sum")(torch.ones(1, 3))
    tensor([[2., 2., 2.]])
    """

    def __init__(self, models: Sequence[nn.Module], reduce: Reduce = "mean") -> None:
        super().__init__()
        check_models(models)
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce={reduce!r}: must be 'mean' or 'sum'")
        self.models = nn.ModuleList(models)
        self.reduce = reduce
        self.training = any(model.training for model in models)  # the models keep their own

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for model in self.models:
            logits = model(x)
            check_logits(logits, x)
            if total is not None and logits.shape != total.shape:
                raise ValueError(f"models: give {total.shape[1]} and {logits.shape[1]} classes; must be the same")
            total = logits if total is None else total + logits
        assert total is not None
        return total / len(self.models) if self.reduce == "mean" else total
