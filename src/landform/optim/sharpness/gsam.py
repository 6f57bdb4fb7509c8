"""GSAM: downhill for the perturbed loss, and against the gap between it and the loss."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.optim.sharpness.sam import EPS, SAM, Left, total_norm
from landform.optim.sharpness.wrapper import BaseOptimizer, Params, check_rho


class GSAM(SAM):
    """Surrogate-gap guided SAM: lower the perturbed loss, and the surrogate gap (perturbed loss - loss) with it.

        e   = rho_t g / (||g||_2 + 1e-12)                   g = gradient at w
        g_p = gradient at w + e,   g_o = g - <g, g_p> g_p / ||g_p||^2     (the part of g orthogonal to g_p)
        w  <- base(w, g_p - alpha g_o)

    Inner products run over all parameters at once. The climb follows the learning rate down where ``rho_min`` is given:
    rho_t = rho_min + (rho - rho_min) lr_t / lr_0, with lr_0 the group's rate when this optimiser was made, so make it
    before the schedule. Everything else is as in :class:`SAM`.

    Arguments:
        params, base_optimizer, rho, adaptive, model, base_options: as of :class:`SAM`.
        alpha: weight of the orthogonal part; the paper's range is 0.1 to 0.5.
        rho_min: the distance uphill at a learning rate of zero; None keeps ``rho`` constant.

    Raises:
        ValueError: a negative ``rho`` or ``alpha``, or a ``rho_min`` outside [0, rho].

    Source: Zhuang et al., arXiv 2203.08065, algorithm 1.

    >>> weight = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> optimizer = GSAM([weight], torch.optim.SGD, rho=0.1, alpha=0.4, lr=0.01)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (weight.square() * torch.tensor([1.0, 9.0])).sum()
    ...     loss.backward()
    ...     return loss
    >>> [round(optimizer.step(closure).item(), 3) for _ in range(3)]
    [10.0, 6.751, 4.608]
    """

    needs_first_gradient = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        alpha: float = 0.4,
        adaptive: bool = False,
        *,
        rho_min: float | None = None,
        model: nn.Module | None = None,
        **base_options: Any,
    ) -> None:
        check_rho("alpha", alpha)
        super().__init__(params, base_optimizer, rho, adaptive, model=model, **base_options)
        self.alpha = alpha
        self.rho_min = rho_min
        if rho_min is None:
            return
        for group in self.param_groups:
            if not 0 <= rho_min <= group["rho"]:
                raise ValueError(f"rho_min={rho_min}: must be from 0 to rho={group['rho']}")
            peak = group.setdefault("peak_lr", float(group["lr"]))
            if not peak > 0:
                raise ValueError(f"lr={peak}: must be positive for rho to follow it")

    def _scale(self, group: dict[str, Any], norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        rho = group["rho"]
        if self.rho_min is not None:
            rho = self.rho_min + (rho - self.rho_min) * float(group["lr"]) / group["peak_lr"]
        return rho / (norm + EPS)

    def _combine(self, left: list[Left]) -> None:
        pairs = [(m.gradient, m.parameter.grad) for m in left if m.parameter.grad is not None]
        firsts = [first for first, _ in pairs if first is not None]
        seconds = [second for _, second in pairs]
        if not seconds:
            return
        device = seconds[0].device
        inner = torch.stack([(a * b).sum().to(device) for a, b in zip(firsts, seconds, strict=True)]).sum()
        parallel = inner / (total_norm(seconds).square() + EPS)
        for first, second in zip(firsts, seconds, strict=True):
            orthogonal = first - parallel.to(second) * second
            second.sub_(self.alpha * orthogonal)
