"""The gradient of a model's loss by its input."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landform.attacks.balls import Batch
from landform.attacks.checks import check_found, check_labels, check_logits, check_models
from landform.attacks.losses import AttackLoss, Labels, Logits, LossName, Values, cross_entropy_loss, named_loss
from landform.models.folding import NORMS, Folding, fold_batch_norm, has_fixed_norms
from landform.training.chain import chain, chain_by_input
from landform.training.linear import LinearByInput, fewest_samples
from landform.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Evaluated:
    """A model's logits at some inputs, the loss that the attack climbs, and its gradient by the inputs."""

    logits: Logits
    losses: Values
    gradient: Batch


class InputGradient:
    """∇_x J(f(x), y) of each sample, for an attack to climb; of −J where the attack is ``targeted``.

    Samples do not meet, the model's parameters gather no gradients, and what they require is left as it is. A
    sequence of PyTorch's own layers is run so that it keeps less (see
    :func:`~landform.training.chain.chain_by_input`); otherwise, from the second gradient on, batch normalisation is
    folded into the layers before it where that is possible (see :func:`~landform.models.folding.fold_batch_norm`).
    Neither changes anything but rounding.

    Arguments:
        model: raw inputs in, logits (batch, classes) out, in evaluation mode.
        loss: ``"ce"``, ``"dlr"``, ``"margin"``, or a function (logits, y) → (batch,).
        targeted: y are the classes to reach rather than the true ones.

    Raises:
        ValueError: a model in training mode, an unknown loss; when called: outputs that are not logits, labels beyond
            the classes, a loss of another shape, logits or gradients that are not finite.
        TypeError: when called: labels that are not int64.

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
        self._folding: Folding | Literal["untried"] | None = "untried"

    def __call__(self, x: Batch, y: Labels) -> Batch:
        if self.loss is not cross_entropy_loss:
            return self.evaluate(x, y).gradient
        x, logits = self._logits(x, y)
        # Of cross-entropy by the logits: softmax(z) − onehot(y).
        minus_one = logits.new_full((len(y), 1), -1.0)
        by_logits = torch.softmax(logits.detach(), 1).scatter_add_(1, y.unsqueeze(1), minus_one)
        return self._passed_back(logits, x, y, by_logits)

    def evaluate(self, x: Batch, y: Labels) -> Evaluated:
        """The gradient together with the logits and losses it came from."""
        x, logits = self._logits(x, y)
        with torch.enable_grad():
            losses = self.loss(logits, y)
        if losses.shape != y.shape:
            raise ValueError(f"loss: gave shape {tuple(losses.shape)}; must be one number a sample, ({len(y)},)")
        gradient = self._passed_back(losses, x, y, torch.ones_like(losses))
        losses = -losses.detach() if self.targeted else losses.detach()
        return Evaluated(logits.detach(), losses, gradient)

    def _logits(self, x: Batch, y: Labels) -> tuple[Batch, Logits]:
        """The inputs, as leaves of a graph, and what the model gives for them, checked."""
        if self._checked is None and x.device.type == "cpu":
            keep_freed_memory()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self._outputs(x)
        check_logits(logits, x)
        if y is not self._checked:
            check_labels(logits, y)
        return x, logits

    def _passed_back(self, outputs: Tensor, x: Batch, y: Labels, weights: Tensor) -> Batch:
        """The gradient of the weighted sum of some outputs, or of minus it, by x."""
        (gradient,) = torch.autograd.grad(outputs, x, weights.neg_() if self.targeted else weights)
        if y is not self._checked:
            check_found(gradient)
            self._checked = y
        return gradient

    def _outputs(self, x: Batch) -> Logits:
        """What the model gives, by the way that is fastest for a gradient by x."""
        first = self._checked is None
        layers = chain(self.model)
        if layers is not None and (first or not any(type(layer) in NORMS for layer in layers)):
            return chain_by_input(layers, x)
        with LinearByInput() if len(x) >= self._fewest else nullcontext():
            return self.model(x) if first else self._folded(x)  # a single gradient does not repay the search

    @cached_property
    def _fewest(self) -> float:
        return fewest_samples(self.model)

    def _folded(self, x: Batch) -> Logits:
        """What the model gives, with batch normalisation folded where it can be."""
        if self._folding == "untried" and not has_fixed_norms(self.model):
            self._folding = None
        if self._folding is None:
            return self.model(x)
        tensors = {name: p.detach() for name, p in self.model.named_parameters()} | dict(self.model.named_buffers())
        if self._folding == "untried" or not self._folding.fits(self.model):
            first = (x.detach()[:1],)
            self._folding = fold_batch_norm(
                self.model, tensors, lambda m, state: functional_call(m, dict(state), first)
            )
        if self._folding is None:
            return self.model(x)
        return functional_call(self._folding.module, self._folding.state(tensors), (x,))
