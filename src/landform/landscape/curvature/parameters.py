"""The parameters of a network as one flat vector, and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ParameterVector:
    """The layout of named tensors in one flat vector: in the mapping's order, each in row-major order.

    For a network this is the order of ``named_parameters()``, that of ``torch.nn.utils.parameters_to_vector``.

    Arguments:
        params: the tensors by name. Only their names and shapes are kept.

    Raises:
        ValueError: no tensors.
        TypeError: a tensor that is not of real floating-point numbers, and so cannot be differentiated.

    >>> layout = ParameterVector({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})
    >>> layout.flatten({"weight": torch.eye(2), "bias": torch.ones(2)})
    tensor([1., 0., 0., 1., 1., 1.])
    >>> layout.unflatten(torch.arange(6.0))["bias"]
    tensor([4., 5.])
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        if not params:
            raise ValueError("params is empty: there is nothing to differentiate")
        for name, tensor in params.items():
            if not tensor.is_floating_point():
                raise TypeError(f"parameter {name!r} is {tensor.dtype}; only floating-point tensors have derivatives")
        self.shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self._sizes)
        if not self.size:
            raise ValueError(f"params holds no number: the shapes are {self.shapes}")

    @classmethod
    def of(cls, model: nn.Module, names: Collection[str] | None = None) -> ParameterVector:
        """The layout of a network's parameters: those of ``names``, or all that require a gradient.

        Raises:
            ValueError: a name that is no parameter, or a network in which no parameter requires a gradient.
        """
        return cls(trainable(model, names))

    def flatten(self, params: Mapping[str, Tensor]) -> Float[Tensor, "*batch P"]:
        """One vector of all tensors; leading dimensions that all of them share stay in front.

        Raises:
            ValueError: names or shapes that are not those of the layout.
        """
        if params.keys() != self.shapes.keys():
            raise ValueError(f"params has the names {sorted(params)}; the layout has {sorted(self.shapes)}")
        parts = []
        for name, shape in self.shapes.items():
            lead = params[name].ndim - len(shape)
            if lead < 0 or tuple(params[name].shape[lead:]) != shape:
                raise ValueError(f"params[{name!r}] has shape {tuple(params[name].shape)}; the layout has {shape}")
            parts.append(params[name].reshape(*params[name].shape[:lead], -1))
        return torch.cat(parts, dim=-1)

    def unflatten(self, vector: Float[Tensor, "*batch P"]) -> dict[str, Tensor]:
        """The tensors by name: views of ``vector``, with its leading dimensions in front.

        Raises:
            ValueError: a last dimension that is not the layout's size.
        """
        if not vector.ndim or vector.shape[-1] != self.size:
            raise ValueError(f"vector has shape {tuple(vector.shape)}; its last dimension must be {self.size}")
        lead = vector.shape[:-1]
        parts = vector.split(self._sizes, dim=-1)
        return {name: part.view(*lead, *shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}


def trainable(model: nn.Module, names: Collection[str] | None = None) -> dict[str, nn.Parameter]:
    """A network's parameters of these names, or all that require a gradient, in the network's order."""
    known = dict(model.named_parameters())
    if names is None:
        found = {name: p for name, p in known.items() if p.requires_grad}
        if not found:
            raise ValueError(f"no parameter of {type(model).__name__} requires a gradient")
        return found
    if isinstance(names, str):
        raise TypeError(f"parameters={names!r} must be a collection of names, not one text")
    unknown = sorted(set(names) - known.keys())
    if unknown or not names:
        raise ValueError(f"parameters={unknown or names} are no parameters of the model; it has {sorted(known)}")
    return {name: p for name, p in known.items() if name in set(names)}
