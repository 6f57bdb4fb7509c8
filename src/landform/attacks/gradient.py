"""The gradient of a model's loss by its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landform.attacks.balls import Batch
from landform.attacks.checks import check_found, check_labels, check_logits, check_models
from landform.attacks.losses import AttackLoss, Labels, Logits, LossName, Values, named_loss


@dataclass(frozen=True)
class Evaluated:
    """A model's logits at some inputs, the loss that the attack climbs, and its gradient by the inputs."""

    logits: Logits
    losses: Values
    gradient: Batch


class InputGradient:
    """∇_x J(f(x), y) of each sample, for an attack to climb; of −J where the attack is ``targeted``.

    Samples do not meet, the model's parameters gather no gradients, and what they require is left as it is.

    Arguments:
        model: raw inputs in, logits (batch, classes) out, in evaluation mode.
        loss: ``"ce"``, ``"dlr"``, ``"margin"``, or a function (logits, y) → (batch,).
        targeted: y are the classes to reach rather than the true ones.

    Raises:
        ValueError: a model in training mode, an unknown loss; when called: outputs that are not logits, labels beyond
            the classes, a loss of another shape, logits or gradients that are not finite.

    >>> gradient = InputGradient(nn.Linear(3, 2).eval())
    >>> gradient(torch.rand(4, 3), torch.tensor([0, 1, 1, 0])).shape
    torch.Size([4, 3])
    """

    def __init__(self, model: nn.Module, loss: LossName | AttackLoss = "ce", *, targeted: bool = False) -> None:
        check_models([model], "model")
        self.model = model
        self.loss = named_loss(loss, targeted)
        self.targeted = targeted
        self._checked: Tensor | None = None  # the labels last checked, as every step comes with the same ones

    def __call__(self, x: Batch, y: Labels) -> Batch:
        return self.evaluate(x, y).gradient

    def evaluate(self, x: Batch, y: Labels) -> Evaluated:
        """The gradient together with the logits and losses it came from."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self.model(x)
            check_logits(logits, x)
            new = y is not self._checked
            if new:
                check_labels(logits, y)
            losses = self.loss(logits, y)
            if losses.shape != y.shape:
                raise ValueError(f"loss: gave shape {tuple(losses.shape)}; must be one number a sample, ({len(y)},)")
            (gradient,) = torch.autograd.grad(losses, x, torch.full_like(losses, -1.0 if self.targeted else 1.0))
        if new:
            check_found(gradient)
            self._checked = y
        losses = -losses.detach() if self.targeted else losses.detach()
        return Evaluated(logits.detach(), losses, gradient)
