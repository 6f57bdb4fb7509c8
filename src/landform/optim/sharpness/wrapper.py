"""What all optimisers around another optimiser share: its parameter groups, its state, and the way it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]]
BaseOptimizer: TypeAlias = Optimizer | Callable[..., Optimizer]

ATTACHED = ("step", "_optimizer_", "_zero_grad_profile", "_patch", "_warned", "_opt_called")


class OptimizerWrapper(Optimizer):
    """An optimiser that decides on the gradient and leaves the update to another one, its ``base``.

    Both have the very same parameter groups and state. So a learning-rate schedule of the wrapper sets the base's
    rates, and ``state_dict`` is the base's with the wrapper's own entries in the groups; a checkpoint of the base alone
    can be loaded too, and such entries then keep the values they had.

    Arguments:
        params: tensors, or groups of them as dicts, which may carry the wrapper's own entries (``rho``, …).
        base_optimizer: an optimiser of these parameters, or what makes one of ``params``: a class or a function.
        own: the wrapper's entries in parameter groups that do not have them.
        base_options: keywords for ``base_optimizer`` where it makes one.

    Raises:
        TypeError: a base that is neither, or options for one that is built already.
        ValueError: a base of other parameters.
    """

    def __init__(
        self, params: Params, base_optimizer: BaseOptimizer, own: dict[str, Any], base_options: dict[str, Any]
    ) -> None:
        given: list[Any] = list(params)
        self._own = own
        if isinstance(base_optimizer, Optimizer):
            if base_options:
                raise TypeError(
                    f"unexpected arguments {sorted(base_options)}: base_optimizer is a {type(base_optimizer).__name__} "
                    "that is built already; pass its class for it to be built with them"
                )
            base = base_optimizer
            _adopt(base, given, own)
        elif callable(base_optimizer):
            base = base_optimizer(given, **base_options)
        else:
            kind = type(base_optimizer).__name__
            raise TypeError(f"base_optimizer: must be a torch.optim.Optimizer or make one, not a {kind}")
        # The base's defaults are there too, for add_param_group and for schedules that ask for a momentum.
        super().__init__(base.param_groups, {**base.defaults, **own})
        self.base = base
        self._share()

    def _share(self) -> None:
        """One list of groups and one state for both."""
        for group in self.base.param_groups:
            for name, value in self._own.items():
                group.setdefault(name, value)
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def _update_base(self, scaler: GradScaler | None) -> None:
        if scaler is None:
            self.base.step()
        else:
            scaler.step(self.base)
        torch.clear_autocast_cache()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, of this wrapper or of its base alone."""
        kept = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        for group, values in zip(self.base.param_groups, kept, strict=True):
            for name, value in values.items():
                group.setdefault(name, value)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        # Not what PyTorch attaches to its optimisers: hooks, names for the profiler, a step that a schedule counts.
        return {name: value for name, value in vars(self).items() if not name.startswith(ATTACHED)}


def _adopt(base: Optimizer, given: list[Any], own: dict[str, Any]) -> None:
    """Check that ``base`` has the parameters given, and take the wrapper's entries of given groups over to its own."""
    groups = [group if isinstance(group, dict) else {"params": [group]} for group in given]
    tensors = [[p[1] if isinstance(p, tuple) else p for p in _listed(group["params"])] for group in groups]
    theirs = {id(p) for group in base.param_groups for p in group["params"]}
    if {id(p) for params in tensors for p in params} != theirs:
        raise ValueError(
            f"params: {sum(map(len, tensors))} tensors that are not the {len(theirs)} of base_optimizer; both must be "
            "of the same parameters"
        )
    entries = {
        id(p): {name: group[name] for name in own if name in group}
        for group, params in zip(groups, tensors, strict=True)
        for p in params
    }
    for group in base.param_groups:
        wanted = [entries[id(p)] for p in group["params"]]
        if any(want != wanted[0] for want in wanted):
            raise ValueError(f"params: one group of base_optimizer is asked to have several of {', '.join(own)}")
        group.update(wanted[0])


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def check_rho(name: str, rho: float) -> None:
    """Refuse a radius or weight that is not zero or more."""
    if not 0 <= rho < math.inf:
        raise ValueError(f"{name}={rho}: must be zero or more, and finite")
