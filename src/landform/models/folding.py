"""Batch normalisation in evaluation mode, folded into the layer before it.

There it is an affine map of each channel, with fixed statistics. After a convolution or a linear layer,

    γ (W x + b − μ) / √(σ² + ε) + β  =  (s W) x + s (b − μ) + β,    s = γ / √(σ² + ε),

so one layer does the work of two, and what the second would keep for a backward pass is not kept.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from landform.training.vectorised import has_hooks, is_compiled

Outputs = Callable[[nn.Module, Mapping[str, Tensor]], Any]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Pair(NamedTuple):
    """The names of a layer and of the normalisation after it, and that one's ε."""

    layer: str
    norm: str
    eps: float


class Folding:
    """A network's structure without the normalisation that is folded away; see :func:`fold_batch_norm`.

    Attributes:
        module: gives the network's outputs when called with the tensors of :meth:`state`.
        pairs: what is folded into what.
    """

    def __init__(self, model: nn.Module, module: nn.Module, pairs: list[Pair]) -> None:
        self.module = module
        self.pairs = pairs
        self._structure = [(module, module.training) for module in model.modules()]

    def fits(self, model: nn.Module) -> bool:
        """Whether the network still consists of the modules that it did, in the modes that they were in."""
        now = [(module, module.training) for module in model.modules()]
        return len(now) == len(self._structure) and all(
            module is before and training == mode
            for (module, training), (before, mode) in zip(now, self._structure, strict=True)
        )

    def state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of ``module``, from the network's parameters and buffers by name; differentiable in them."""
        state = dict(tensors)
        for layer, norm, eps in self.pairs:
            mean, scale = state.pop(f"{norm}.running_mean"), (state.pop(f"{norm}.running_var") + eps).rsqrt()
            gamma, beta = state.pop(f"{norm}.weight", None), state.pop(f"{norm}.bias", None)
            state.pop(f"{norm}.num_batches_tracked", None)
            if gamma is not None:
                scale = scale * gamma
            weight, bias = state[f"{layer}.weight"], state.get(f"{layer}.bias")
            shift = -mean * scale if bias is None else (bias - mean) * scale
            state[f"{layer}.weight"] = weight * scale.view(-1, *(1,) * (weight.ndim - 1))
            state[f"{layer}.bias"] = shift if beta is None else shift + beta
        return state


def has_fixed_norms(model: nn.Module) -> bool:
    """Whether there is any batch normalisation in evaluation mode."""
    return any(type(module) in NORMS and not module.training for module in model.modules())


def fold_batch_norm(model: nn.Module, tensors: Mapping[str, Tensor], outputs: Outputs) -> Folding | None:
    """A network with every batch normalisation folded that follows a layer and is in evaluation mode; None without any.

    Parameters and buffers are shared, not copied, and the network itself is left as it is. The structure is found
    by symbolic tracing (``torch.fx``), so that it holds for all inputs: a module whose course depends on the data is
    only folded within its children. A network that has hooks, is compiled, or changes with each call is not folded, nor
    is a layer that is used twice, or whose output or weights serve something else too.

    Arguments:
        tensors: its parameters and buffers by name, or others in their place.
        outputs: ``outputs(module, tensors)``, what a module gives for some inputs (by ``torch.func.functional_call``):
            the network and what it is folded to must give the same, to rounding. One sample will do.
    """
    if not has_fixed_norms(model) or is_compiled(model):
        return None
    if any(has_hooks(module) or isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return None
    shared = (*model.parameters(), *model.buffers())
    try:
        shell = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    except Exception:  # a module may hold anything, such as a lock
        return None
    before = [dict(vars(module)) for module in shell.modules()]
    owners = Counter(id(parameter) for _, parameter in shell.named_parameters(remove_duplicate=False))
    pairs = [pair for pair in _pairs(shell) if all(owners[id(p)] == 1 for p in _parameters(shell, pair))]
    for module, attributes in zip(shell.modules(), before, strict=True):
        now = vars(module)
        if now.keys() != attributes.keys() or any(now[key] is not value for key, value in attributes.items()):
            return None
    if not pairs:
        return None
    for layer, norm, _ in pairs:
        folded = shell.get_submodule(layer)
        if folded.bias is None:  # a place for the one that the normalisation brings
            folded.bias = nn.Parameter(torch.empty(0), requires_grad=False)
        shell.set_submodule(norm, nn.Identity())
    folding = Folding(model, shell, pairs)
    with torch.no_grad():
        same = _agree(outputs(model, tensors), outputs(shell, folding.state(tensors)))
    return folding if same else None


def _parameters(model: nn.Module, pair: Pair) -> Iterator[nn.Parameter]:
    for name in (pair.layer, pair.norm):
        yield from model.get_submodule(name).parameters()


def _pairs(module: nn.Module, prefix: str = "") -> list[Pair]:
    """The pairs within a module; where its own course cannot be traced, those within its children."""
    if not any(type(m) in NORMS for m in module.modules()):
        return []
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # the module's own code runs on stand-ins here, and may object to them in any way
        return [pair for name, child in module.named_children() for pair in _pairs(child, f"{prefix}{name}.")]
    modules = dict(module.named_modules())
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    pairs = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        names = str(source.target), str(node.target)
        layer, norm = (modules[name] for name in names)
        if (
            type(layer) in LAYERS
            and type(norm) in NORMS
            and not norm.training
            and norm.running_mean is not None
            and norm.running_var is not None
            and calls[id(layer)] == calls[id(norm)] == 1
            and not any(target.startswith(f"{name}.") for name in names for target in read)
        ):
            pairs.append(Pair(prefix + names[0], prefix + names[1], norm.eps))
    return pairs


def _agree(plain: Any, changed: Any) -> bool:
    for one, other in zip(tree_leaves(plain), tree_leaves(changed), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point():
            size = float(one.abs().max()) if one.numel() else 0.0
            if not torch.allclose(one, other, rtol=0, atol=1e4 * torch.finfo(one.dtype).eps * size, equal_nan=True):
                return False
    return True
