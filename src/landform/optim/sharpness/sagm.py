"""SAGM: the loss, the loss uphill, and the angle between their gradients."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from landform.optim.sharpness.sam import EPS, SAM, Left
from landform.optim.sharpness.wrapper import BaseOptimizer, Params, check_rho


class SAGM(SAM):
    """Sharpness-aware gradient matching: the mean of the gradient at w and of that uphill, from a shorter climb.

        e = g (rho / (||g||_2 + 1e-12) - alpha)             g = gradient at w
        w <- base(w, (g + gradient at w + e) / 2)

    The ``- alpha`` is what matches the two gradients: to first order it adds -alpha <g, gradient uphill> to the loss.
    Everything else, ``adaptive`` and mixed precision among it, is as in :class:`SAM`.

    Arguments:
        params, base_optimizer, rho, adaptive, model, base_options: as of :class:`SAM`.
        alpha: how much of the gradient the climb is shortened by.

    Raises:
        ValueError: a negative ``rho`` or ``alpha``.

    Source: Wang et al., arXiv 2303.10353; the update as its code makes it.

    >>> import torch
    >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = SAGM([weight], torch.optim.SGD, rho=1.0, alpha=0.1, lr=1.0)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = weight.square().sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), weight  # e = (0.3, 0.4): off comes the mean of w and w + e
    (12.5, tensor([-0.1500, -0.2000], requires_grad=True))
    """

    needs_first_gradient = True

    def __init__(
        self,
        params: Params,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        alpha: float = 0.001,
        adaptive: bool = False,
        *,
        model: nn.Module | None = None,
        **base_options: Any,
    ) -> None:
        check_rho("alpha", alpha)
        super().__init__(params, base_optimizer, rho, adaptive, model=model, **base_options)
        self.alpha = alpha

    def _scale(self, group: dict[str, Any], norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return group["rho"] / (norm + EPS) - self.alpha

    def _combine(self, left: list[Left]) -> None:
        for moved in left:
            first, gradient = moved.gradient, moved.parameter.grad
            assert first is not None
            if gradient is None:
                moved.parameter.grad = first / 2
            else:
                gradient.add_(first).div_(2)
