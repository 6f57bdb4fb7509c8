"""SGD and AdamW on stacked parameters, with hyper-parameters and a stop of its own for each model.

Both do to each model what ``torch.optim`` does to it alone. Hyper-parameters are numbers, or tensors (M,) of one value
a model. ``step(active=mask)`` leaves the models outside the mask as they are, their moments and step counts included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PerModel = float | Float[Tensor, " models"]


def per_model(value: PerModel, like: Tensor) -> Any:
    """A value for each model, in a shape that broadcasts over that model's slice of ``like``."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.to(like).view(-1, *[1] * (like.ndim - 1))


def check_per_model(name: str, value: PerModel, models: int, *, below: float = math.inf) -> None:
    """That a hyper-parameter is one number or one a model, finite, not negative and less than ``below``."""
    tensor = torch.as_tensor(value)
    if tensor.ndim and tensor.shape != (models,):
        raise ValueError(f"{name}: need a number or a tensor of shape ({models},), got shape {tuple(tensor.shape)}")
    if not bool(((tensor >= 0) & (tensor < below)).all()):
        allowed = "finite and not negative" if below == math.inf else f"in [0, {below:g})"
        raise ValueError(f"{name}={value}: must be {allowed}")


class _Stacked(torch.optim.Optimizer):
    """What the optimisers share: checked hyper-parameters, and a step that leaves idle models alone."""

    moments: tuple[str, ...] = ()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            self._set_up(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _set_up(self, group: dict[str, Any]) -> None:
        """Check a new group, and add what it needs."""
        counts = {len(p) for group in self.param_groups for p in group["params"]}
        if len(counts) != 1:
            raise ValueError(f"params: not all have the same number of models on their first axis: {sorted(counts)}")
        (self.models,) = counts
        for name in ("lr", "momentum", "weight_decay"):
            check_per_model(name, group.get(name, 0.0), self.models)
        for name in ("beta1", "beta2"):
            check_per_model(name, group.get(name, 0.0), self.models, below=1.0)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "models": self.models, "moments": self.moments}

    @overload
    def step(self, closure: None = None, *, active: Tensor | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, active: Tensor | None = None) -> float: ...

    @torch.no_grad()
    def step(
        self, closure: Callable[[], float] | None = None, *, active: Bool[Tensor, " models"] | None = None
    ) -> float | None:
        """One update of the models in ``active`` (all if None)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        idle: Tensor | None = None
        if active is not None:
            if active.dtype != torch.bool or active.shape != (self.models,):
                raise ValueError(
                    f"active: need booleans of shape ({self.models},), got {tuple(active.shape)} {active.dtype}"
                )
            idle = (~active).nonzero().flatten()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                for name in self.moments:
                    if name not in self.state[p]:
                        self.state[p][name] = torch.zeros_like(p)
            kept: list[tuple[Tensor, Tensor]] = []
            if idle is not None and len(idle):
                tensors = [*params, *(self.state[p][name] for p in params for name in self.moments)]
                kept = [(tensor, tensor[idle.to(tensor.device)]) for tensor in tensors]
            self._update(group, params, [p.grad for p in params], active)
            for tensor, old in kept:
                assert idle is not None
                tensor[idle.to(tensor.device)] = old
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], active: Tensor | None) -> None:
        """Update every model; the caller puts the idle ones back. Step counts alone need to know who is active."""
        raise NotImplementedError


class StackedSGD(_Stacked):
    """Stochastic gradient descent with momentum on a stack, as ``torch.optim.SGD`` (dampening 0) on each model.

        g ← g + weight_decay · p;  v ← momentum · v + g;  p ← p − lr · (g + momentum · v if nesterov else v)

    Arguments:
        params: tensors (M, …), such as ``stack.parameters()``.
        lr, momentum, weight_decay: a number, or (M,).

    Raises:
        ValueError: a hyper-parameter that is negative, not finite or of another shape, or Nesterov without momentum.

    >>> w = torch.ones(2, 3, requires_grad=True)
    >>> w.square().sum().backward()
    >>> StackedSGD([w], lr=torch.tensor([0.1, 0.5])).step()
    >>> w.detach().round(decimals=4)
    tensor([[0.8000, 0.8000, 0.8000],
            [0.0000, 0.0000, 0.0000]])
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: PerModel,
        momentum: PerModel = 0.0,
        weight_decay: PerModel = 0.0,
        *,
        nesterov: bool = False,
    ) -> None:
        if nesterov and not bool((torch.as_tensor(momentum) > 0).all()):
            raise ValueError(f"nesterov=True needs momentum > 0, got momentum={momentum}")
        self.moments = ("momentum_buffer",) if _used(momentum) else ()
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], active: Tensor | None) -> None:
        momentum, decay = group["momentum"], group["weight_decay"]
        if _used(decay):
            grads = [g.clone() for g in grads]
            _add(grads, params, decay)
        if self.moments:
            moments = [self.state[p]["momentum_buffer"] for p in params]
            _scale(moments, momentum)
            torch._foreach_add_(moments, grads)
            if group["nesterov"]:
                grads = [g.clone() for g in grads]
                _add(grads, moments, momentum)
            else:
                grads = moments
        _add(params, grads, -group["lr"])


class StackedAdamW(_Stacked):
    """Adam with decoupled weight decay on a stack, as ``torch.optim.AdamW`` on each model.

        p ← (1 − lr · weight_decay) p
        m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
        p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps)

    with t the number of updates that the model has had. Without weight decay it is Adam.

    Arguments:
        params: tensors (M, …), such as ``stack.parameters()``.
        lr, weight_decay: a number, or (M,).
        betas: (β₁, β₂), each a number or (M,).

    Raises:
        ValueError: a hyper-parameter that is negative, not finite or of another shape, or a beta of 1 or more.

    >>> w = torch.ones(2, 1, requires_grad=True)
    >>> w.square().sum().backward()
    >>> StackedAdamW([w], lr=torch.tensor([0.1, 0.5]), weight_decay=0.0).step()
    >>> [round(x, 4) for x in w.flatten().tolist()]
    [0.9, 0.5]
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: PerModel = 1e-3,
        betas: tuple[PerModel, PerModel] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: PerModel = 1e-2,
    ) -> None:
        if not eps >= 0:
            raise ValueError(f"eps={eps}: must be zero or more")
        super().__init__(
            params, {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
        )

    def _set_up(self, group: dict[str, Any]) -> None:
        super()._set_up(group)
        group["updates"] = torch.zeros(self.models, dtype=torch.float64)

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], active: Tensor | None) -> None:
        lr, decay, beta1, beta2 = (group[key] for key in ("lr", "weight_decay", "beta1", "beta2"))
        group["updates"] += 1.0 if active is None else active.to(group["updates"])
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        _scale(first, beta1)
        _add(first, grads, 1 - beta1)
        _scale(second, beta2)
        _add(second, torch._foreach_mul(grads, grads), 1 - beta2)
        count = group["updates"].clamp(min=1)  # of an idle model that was never updated: any number will do
        size, power1, power2 = (torch.as_tensor(value, dtype=torch.float64) for value in (lr, beta1, beta2))
        size = size.to(count.device) / (1 - power1.to(count.device) ** count)
        root = (1 - power2.to(count.device) ** count).sqrt()
        below = torch._foreach_sqrt(second)
        _scale(below, 1 / root)
        torch._foreach_add_(below, group["eps"])
        if _used(decay):
            _scale(params, 1 - lr * decay)
        _add(params, torch._foreach_div(first, below), -size)


def _used(value: PerModel) -> bool:
    return bool(value.any()) if isinstance(value, Tensor) else value != 0


def _scale(targets: Sequence[Tensor], scale: PerModel) -> None:
    """targets *= scale, of each model its own."""
    if isinstance(scale, Tensor):
        for target in targets:
            target.mul_(per_model(scale, target))
    else:
        torch._foreach_mul_(list(targets), scale)


def _add(targets: Sequence[Tensor], values: Sequence[Tensor], scale: PerModel) -> None:
    """targets += scale · values, of each model its own."""
    if isinstance(scale, Tensor):
        for target, value in zip(targets, values, strict=True):
            target.addcmul_(value, per_model(scale, target))
    else:
        torch._foreach_add_(list(targets), list(values), alpha=scale)
