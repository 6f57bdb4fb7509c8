"""Distillation on unlabelled test samples, each weighing the more the surer a model is of it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, check_scores, reduce

Preset = Literal["paper", "released"]
# Weights of entropy, divergence and cross-entropy.
PRESETS: dict[str, tuple[float, float, float]] = {"paper": (1, 3, 3), "released": (3, 3, 1)}


class SelectiveDistillationLoss(nn.Module):
    """The loss with which CEMA distils a foundation model into an edge model.

    For student logits e, teacher logits f, and H the entropy of a softmax in nats, a sample's loss is::

        a w_s H(e) + b tau^2 w_t KL(softmax(f/tau) || softmax(e/tau)) + c w_t CE(e, argmax f)

        w_s = exp(E_max - H(e)),    w_t = exp(E_max - H(f))

    No gradient flows through the weights, nor into the teacher. A sample that passed the screen H < E_max weighs at
    least 1, and up to exp(E_max), which for E_max = 0.4 ln K is K^0.4: the step is several times what its rate says.

    Arguments:
        entropy_weight, kl_weight, ce_weight: a, b, c, at least zero. The defaults are the paper's (1, 3, 3); its
            released configuration has (3, 3, 1), see :meth:`preset`.
        temperature: tau, positive; it acts on the divergence alone.
        e_max: E_max in nats. Without one all samples weigh 1.
        reduction: ``"mean"`` over samples (default), ``"sum"``, or ``"none"`` for a value a sample.

    Shapes: student logits (B, K) and teacher logits (B, K) to a scalar, or (B,). Half precision is widened to float32.

    Raises:
        TypeError: logits that are not floating point.
        ValueError: an argument out of range; logits that are empty, not finite, or of other shapes.

    Source: arXiv 2402.17316, equation 6; weights and order of operations are those of the released code.

    >>> loss = SelectiveDistillationLoss(e_max=0.4)
    >>> student, teacher = torch.zeros(2, 3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> loss(student, teacher)
    tensor(4.0696)
    """

    def __init__(
        self,
        entropy_weight: float = 1.0,
        kl_weight: float = 3.0,
        ce_weight: float = 3.0,
        temperature: float = 1.0,
        e_max: float | None = None,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        weights = {"entropy_weight": entropy_weight, "kl_weight": kl_weight, "ce_weight": ce_weight}
        for name, weight in weights.items():
            check_argument(name, weight, 0 <= weight < float("inf"), "at least zero and finite")
        check_argument("temperature", temperature, 0 < temperature < float("inf"), "positive and finite")
        check_argument("e_max", e_max, e_max is None or 0 < e_max < float("inf"), "positive and finite, or None")
        check_choice("reduction", reduction, get_args(Reduction))
        self.entropy_weight = entropy_weight
        self.kl_weight = kl_weight
        self.ce_weight = ce_weight
        self.temperature = temperature
        self.e_max = e_max
        self.reduction: Reduction = reduction

    @classmethod
    def preset(
        cls,
        preset: Preset,
        *,
        temperature: float = 1.0,
        e_max: float | None = None,
        reduction: Reduction = "mean",
    ) -> SelectiveDistillationLoss:
        """With the weights of the ``"paper"``, (1, 3, 3), or of its ``"released"`` configuration, (3, 3, 1)."""
        check_choice("preset", preset, get_args(Preset))
        return cls(*PRESETS[preset], temperature, e_max, reduction=reduction)

    def forward(self, input: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]) -> Tensor:
        if input.ndim != 2 or input.shape[1] < 2 or target.shape != input.shape:
            raise ValueError(
                f"student logits of shape {tuple(input.shape)} and teacher logits of shape {tuple(target.shape)}: "
                "must both be (B, K) with K at least 2"
            )
        student, teacher = check_scores(input), check_scores(target.detach())
        log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
        student_entropy, teacher_entropy = _entropy(log_student), _entropy(log_teacher)
        divergence = F.kl_div(
            (student / self.temperature).log_softmax(1),
            (teacher / self.temperature).log_softmax(1),
            reduction="none",
            log_target=True,
        ).sum(1)
        cross_entropy = F.nll_loss(log_student, teacher.argmax(1), reduction="none")
        values = (
            self.entropy_weight * self.weight(student_entropy) * student_entropy
            + self.kl_weight * self.temperature**2 * self.weight(teacher_entropy) * divergence
            + self.ce_weight * self.weight(teacher_entropy) * cross_entropy
        )
        return reduce(values, self.reduction)

    def weight(self, entropy: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """What samples of these entropies weigh, without gradient: exp(E_max − H), or 1 without an E_max."""
        return torch.ones_like(entropy) if self.e_max is None else (self.e_max - entropy.detach()).exp()

    def extra_repr(self) -> str:
        weights = f"entropy_weight={self.entropy_weight}, kl_weight={self.kl_weight}, ce_weight={self.ce_weight}"
        return f"{weights}, temperature={self.temperature}, e_max={self.e_max}"


def _entropy(log_probabilities: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    return -(log_probabilities.exp() * log_probabilities).sum(1)
