"""Batch normalisation with several sets of statistics, for batches from different distributions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landform.models.mlp import check_sizes


class BatchNormBranches(nn.Module):
    """Copies of a batch normalisation, of which ``branch`` is in use: scales, shifts and statistics of its own each."""

    def __init__(self, layer: _BatchNorm, branches: int = 2) -> None:
        super().__init__()
        check_sizes(branches=branches)
        self.branches = nn.ModuleList([layer, *(copy.deepcopy(layer) for _ in range(branches - 1))])
        self.branch = 0

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.branches[self.branch](x)
        return output


def branch_batch_norm(model: nn.Module, branches: int = 2) -> nn.Module:
    """Give every batch normalisation of a model ``branches`` sets of statistics, in place; the first is its own.

    Real and generated images then do not blur each other's statistics, as in adversarial training with auxiliary batch
    normalisation (Xie et al., arXiv 1911.09665). :func:`batch_norm_branch` says which set is in use.

    Raises:
        ValueError: fewer than one branch, or a model without batch normalisation, or one that has branches already.

    >>> model = branch_batch_norm(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
    >>> with batch_norm_branch(model, 1):
    ...     model[1].branch
    1
    """
    check_sizes(branches=branches)
    modules = list(model.modules())
    if any(isinstance(module, BatchNormBranches) for module in modules):
        raise ValueError("model: its batch normalisation has branches already")
    places = [(m, name, child) for m in modules for name, child in m.named_children() if isinstance(child, _BatchNorm)]
    if not places:
        raise ValueError("model: has no batch normalisation inside that could be given branches")
    for module, name, child in places:
        setattr(module, name, BatchNormBranches(child, branches))
    return model


@contextmanager
def batch_norm_branch(model: nn.Module, branch: int) -> Iterator[None]:
    """While it lasts, the model's batch normalisations use this set of statistics.

    Raises:
        ValueError: a model without branches, or one that has fewer.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNormBranches)]
    if not layers or not all(0 <= branch < len(layer.branches) for layer in layers):
        has = min((len(layer.branches) for layer in layers), default=0)
        raise ValueError(f"branch={branch}: the model's batch normalisation has {has} branches")
    before = [layer.branch for layer in layers]
    try:
        for layer in layers:
            layer.branch = branch
        yield
    finally:
        for layer, branch_before in zip(layers, before, strict=True):
            layer.branch = branch_before
