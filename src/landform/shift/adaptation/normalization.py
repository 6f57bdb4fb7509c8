"""The few parameters that test-time adaptation trains: those of the normalisation layers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

LAYERS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def normalization_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of every BatchNorm, GroupNorm and LayerNorm of a model, in the order of its modules.

    >>> [p.shape for p in normalization_parameters(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)))]
    [torch.Size([3]), torch.Size([3])]
    """
    found = (p for m in model.modules() if isinstance(m, LAYERS) for p in (m.weight, m.bias) if p is not None)
    return list(dict.fromkeys(found))


def freeze_all_but_normalization(model: nn.Module) -> nn.Module:
    """Let gradients reach the parameters of normalisation layers and no others; the model itself is changed and given.

    Raises:
        ValueError: a model without such parameters.

    >>> model = freeze_all_but_normalization(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)))
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['1.weight', '1.bias']
    """
    trained = normalization_parameters(model)
    if not trained:
        raise ValueError(f"model {type(model).__name__} has no BatchNorm, GroupNorm or LayerNorm with parameters")
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return model


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm of a model."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def use_batch_statistics(model: nn.Module) -> nn.Module:
    """Let every BatchNorm normalise by its batch's own statistics, in evaluation mode too; running ones are dropped."""
    for layer in batch_norm_layers(model):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return model
