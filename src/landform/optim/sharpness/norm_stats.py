"""Extra forward passes that leave the running statistics of normalisation layers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def frozen_norm_stats(model: nn.Module) -> Iterator[None]:
    """Within this context no forward pass of ``model`` changes running statistics; outputs are the usual ones.

    Layers in training mode still normalise by their batch. Sharpness-aware methods need it for passes at perturbed
    weights or on perturbed inputs. Layers work on copies meanwhile, so that not even a batch of NaNs leaves a trace.

    >>> import torch
    >>> layer = nn.BatchNorm1d(2)
    >>> with frozen_norm_stats(layer):
    ...     _ = layer(torch.randn(8, 2))
    >>> layer.running_mean
    tensor([0., 0.])
    """
    kept = [
        (module, name, buffer)
        for module in model.modules()
        for name in STATISTICS
        if (buffer := module._buffers.get(name)) is not None
    ]
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
