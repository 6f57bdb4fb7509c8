"""SAM: the gradient at the worst weights nearby."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from landform.optim.sharpness.norm_stats import frozen_norm_stats
from landform.optim.sharpness.wrapper import BaseOptimizer, OptimizerWrapper, Params, check_rho

EPS = 1e-12


class SAM(OptimizerWrapper):
    """Sharpness-aware minimisation: step along the gradient that the loss has a distance rho uphill.

        e = rho g / (||g||_2 + 1e-12)                       g = gradient at w
        e = rho w^2 g / (||w g||_2 + 1e-12)                 with adaptive=True (elementwise products)
        w <- base(w, gradient at w + e)

    The norm is one over all parameters of all groups, and each group goes up by its own ``rho``. Weights return to w
    from a copy, to the bit. rho = 0 is the base optimiser.

    ``step(closure)`` calls the closure twice: it clears gradients, computes the loss, runs backward (of as many
    micro-batches as one likes) and returns the loss. Schedules, ``state_dict`` and parameter groups work as those of
    the base, which has the same groups. Loops that call no closure take the two halves::

        loss(model, batch).backward()
        optimizer.first_step(zero_grad=True)
        loss(model, batch).backward()
        optimizer.second_step(zero_grad=True)

    In mixed precision the closure's backward is of ``scaler.scale(loss)``, the step is
    ``optimizer.step(closure, scaler=scaler)`` and not ``scaler.step(optimizer)``, and ``scaler.update()`` follows it.
    If a gradient of either pass is infinite or NaN, the step is skipped.

    Arguments:
        params: tensors, or groups of them that may have their own ``rho`` and ``adaptive``.
        base_optimizer: an optimiser of the same parameters, or its class, which is then built with ``base_options``.
        rho: the distance uphill.
        adaptive: measure it relative to the weights (ASAM).
        model: whose running statistics the second pass is not to change, where it has batch normalisation.

    Raises:
        ValueError: a negative ``rho``; a base of other parameters.
        TypeError: a base that is no optimiser.

    Source: arXiv 2010.01412, equation 3; adaptive: arXiv 2102.11600, equation 5 with eta = 0.

    >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = SAM([weight], torch.optim.SGD, rho=1.0, lr=0.5)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = weight.square().sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), weight  # half of (3, 4) + (0.6, 0.8) is taken off
    (12.5, tensor([1.2000, 1.6000], requires_grad=True))
    """

    needs_first_gradient: ClassVar[bool] = False

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        model: nn.Module | None = None,
        **base_options: Any,
    ) -> None:
        check_rho("rho", rho)
        super().__init__(params, base_optimizer, {"rho": rho, "adaptive": adaptive}, base_options)
        for group in self.param_groups:
            check_rho("rho", group["rho"])
        self.model = model
        self._left: list[Left] = []
        self._halfway = False
        self._overflow = False

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Go from w up to w + e along the gradients that are there.

        Raises:
            RuntimeError: no gradients, sparse ones, or a first step that no second one has followed yet.
        """
        if self._halfway:
            raise RuntimeError("first_step: was taken already; second_step must follow it")
        held = [(group, p, p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not held:
            raise RuntimeError("first_step: no parameter has a gradient; run backward before")
        if any(grad.is_sparse for _, _, grad in held):
            raise RuntimeError(f"{type(self).__name__} does not take sparse gradients")
        if scaler is not None:
            # The scaler knows the two passes' gradients apart by their optimisers: this one, and then the base.
            scaler.unscale_(self)
        norm = total_norm([grad * p.abs() if group["adaptive"] else grad for group, p, grad in held])
        self._halfway = True
        self._overflow = scaler is not None and not bool(norm.isfinite())
        if not self._overflow:
            for group, p, grad in held:
                self._left.append(Left(p, p.clone(), grad.clone() if self.needs_first_gradient else None))
                ascent = grad * self._scale(group, norm).to(grad)
                p.add_(ascent * p.square() if group["adaptive"] else ascent)
            torch.clear_autocast_cache()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Go back to w and update along the gradients that are there, those at w + e.

        Raises:
            RuntimeError: there was no first step.
        """
        if self.restore(scaler=scaler):
            self._update_base(scaler)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self, *, scaler: GradScaler | None = None) -> bool:
        """Go back to w, and turn the gradients, those at w + e, into the direction that the base is to be given.

        Gives False if the first step's gradients had overflowed, so that no update is to be made.

        Raises:
            RuntimeError: there was no first step.
        """
        if not self._halfway:
            raise RuntimeError("second_step: no first_step went before it")
        overflow, left = self._overflow, self._return()
        if overflow:
            return False
        if scaler is not None:
            scaler.unscale_(self.base)
        self._combine(left)
        return True

    @torch.no_grad()
    def _return(self) -> list[Left]:
        """Go back to w."""
        left, self._left = self._left, []
        self._halfway = self._overflow = False
        for moved in left:
            moved.parameter.copy_(moved.weight)
        # Where one autocast surrounds the whole step, a cast made of weights uphill would be taken for one at w.
        torch.clear_autocast_cache()
        return left

    def step(  # type: ignore[override]  # torch's stubs want a float, its optimisers take a tensor
        self, closure: Callable[[], Tensor] | None = None, *, scaler: GradScaler | None = None
    ) -> Tensor | None:
        """One update, with two calls of the closure. Gives the loss at w, that of the first call.

        Without a closure this is :meth:`second_step`, for loops that know no closures and have called
        :meth:`first_step`.

        Raises:
            ValueError: no closure, and no first step before.
        """
        if closure is None:
            if not self._halfway:
                raise ValueError(
                    f"closure=None: {type(self).__name__}.step needs a closure that computes the loss and runs "
                    "backward, unless first_step went before"
                )
            self.second_step(scaler=scaler)
            return None
        with torch.enable_grad():
            loss = closure()
        if self.direction(closure, scaler=scaler):
            self._update_base(scaler)
        return loss

    @torch.no_grad()
    def direction(self, closure: Callable[[], Any], *, scaler: GradScaler | None = None) -> bool:
        """Turn the gradients at w into the direction that the base is to be given, by a call of the closure at w + e.

        This is a step without its update, for what adds something to the direction. Gives False if the gradients at w
        had overflowed, so that there is no direction.
        """
        self.first_step(zero_grad=True, scaler=scaler)
        if not self._overflow:
            try:
                with torch.enable_grad(), self._second_pass():
                    closure()
            except BaseException:
                self._return()  # a pass that fails must not leave the weights uphill
                raise
        return self.restore(scaler=scaler)

    def _second_pass(self) -> AbstractContextManager[None]:
        return nullcontext() if self.model is None else frozen_norm_stats(self.model)

    def _scale(self, group: dict[str, Any], norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What the gradient of a group is multiplied by to give the way up, where it is not adaptive."""
        return group["rho"] / (norm + EPS)

    def _combine(self, left: list[Left]) -> None:
        """Turn the gradients at w + e, which the parameters have, into the base's, knowing those at w."""


class Left:
    """A parameter that was moved, the weight that it left, and the gradient that it had there, if it is needed."""

    __slots__ = ("gradient", "parameter", "weight")

    def __init__(self, parameter: Tensor, weight: Tensor, gradient: Tensor | None) -> None:
        self.parameter = parameter
        self.weight = weight
        self.gradient = gradient


def total_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    """The Euclidean norm of all gradients as one vector; differentiable."""
    device = gradients[0].device
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g).to(device) for g in gradients]))
