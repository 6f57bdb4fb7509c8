"""SCRUB: a student that leaves its teacher on the forget set and stays with it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from landform.training.many import StackedSGD, cross_entropy, predict_many
from landform.unlearn.passes import AfterEpoch, ModelT, Pupils, Samples, check_counts, check_samples


def distillation_kl(
    student: Float[Tensor, "*models batch classes"],
    teacher: Float[Tensor, "*models batch classes"],
    temperature: float = 4.0,
) -> Float[Tensor, "*models"]:
    """T² KL( softmax(teacher / T) ‖ softmax(student / T) ), averaged over the batch; for one model or for many.

    >>> distillation_kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.)
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be positive and finite")
    if student.shape != teacher.shape or student.ndim < 2:
        raise ValueError(
            f"student of shape {tuple(student.shape)} and teacher of shape {tuple(teacher.shape)}: must be the same "
            "(…, B, K)"
        )
    log_p, log_q = F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def scrub_retain_loss(
    student: Float[Tensor, "*models batch classes"],
    teacher: Float[Tensor, "*models batch classes"],
    y: Int[Tensor, "*models batch"],
    gamma: float = 0.99,
    alpha: float = 0.1,
    temperature: float = 4.0,
) -> Float[Tensor, "*models"]:
    """gamma · cross-entropy + alpha · :func:`distillation_kl`, averaged over the batch; for one model or for many.

    >>> scrub_retain_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.6862)
    """
    return gamma * cross_entropy(student, y).mean(-1) + alpha * distillation_kl(student, teacher, temperature)


def scrub_learning_rate(epoch: int, lr: float, decay_epochs: Sequence[int] = (3, 5, 9), decay: float = 0.1) -> float:
    """The learning rate of an epoch, counted from 1: ``lr`` times ``decay`` for each of ``decay_epochs`` that is over.

    >>> [round(scrub_learning_rate(epoch, 1.0), 6) for epoch in (1, 3, 4, 5, 6, 10)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.001]
    """
    return lr * decay ** sum(epoch > over for over in decay_epochs)


def scrub_unlearn(
    model: ModelT,
    forget: Samples,
    retain: Samples,
    *,
    lr: float = 0.01,
    epochs: int = 5,
    m_steps: int = 3,
    temperature: float = 4.0,
    gamma: float = 0.99,
    alpha: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    forget_batch_size: int = 32,
    retain_batch_size: int = 64,
    decay_epochs: Sequence[int] = (3, 5, 9),
    generator: torch.Generator | None = None,
    after_epoch: AfterEpoch | None = None,
) -> ModelT:
    """Unlearn by distillation. A student starts as a copy of the model, its teacher; in each epoch it

    1. maximises T² KL(teacher ‖ student) on the forget set, during the first ``m_steps`` epochs;
    2. minimises gamma · cross-entropy + alpha · T² KL(teacher ‖ student) on the retained samples,

    with one SGD, whose learning rate falls tenfold after each of ``decay_epochs``. The teacher is in evaluation mode,
    the student in the model's present mode.

    Source: Kurmanji et al., arXiv 2302.09880, as run in arXiv 2410.23232. (The cleaned-up benchmark gives the optimiser
    the teacher's parameters, so that its student never moves; the earlier port, which this follows, does not.)

    Arguments:
        model: a module or a :class:`Stack`, left as it was.
        forget, retain: (x, y) each.
        m_steps: 3 or 5 in the paper.
        generator: seeds the shuffles, each model's its own; PyTorch's global one if None.
        after_epoch: called with the number of each epoch that has ended and the model as it is then.

    Raises:
        ValueError, TypeError: samples or settings that cannot be right.

    >>> from torch import nn
    >>> x, y = torch.randn(6, 3), torch.arange(6) % 2
    >>> net = scrub_unlearn(nn.Linear(3, 2), (x[:2], y[:2]), (x[2:], y[2:]))
    """
    check_counts(
        epochs=epochs,
        m_steps=m_steps,
        forget_batch_size=forget_batch_size,
        retain_batch_size=retain_batch_size,
    )
    for name, value in (("gamma", gamma), ("alpha", alpha)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value}: must be finite, and zero or more")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be positive and finite")
    x_forget, _ = check_samples("forget", forget)
    x_retain, y_retain = check_samples("retain", retain)
    pupils = Pupils(model, generator)
    teach_forget, teach_retain = (predict_many(pupils.stack, x) for x in (x_forget, x_retain))
    models = torch.arange(len(pupils.stack), device=x_forget.device).unsqueeze(1)

    def leave(outputs: Tensor, index: Tensor) -> Tensor:
        return -distillation_kl(outputs, teach_forget[models, index], temperature)

    def stay(outputs: Tensor, index: Tensor) -> Tensor:
        return scrub_retain_loss(outputs, teach_retain[models, index], y_retain[index], gamma, alpha, temperature)

    optimizer = StackedSGD(pupils.trained, lr, momentum, weight_decay)
    for epoch in range(1, epochs + 1):
        optimizer.param_groups[0]["lr"] = scrub_learning_rate(epoch, lr, decay_epochs)
        if epoch <= m_steps:
            pupils.pass_over(x_forget, forget_batch_size, optimizer, leave)
        pupils.pass_over(x_retain, retain_batch_size, optimizer, stay)
        if after_epoch is not None:
            after_epoch(epoch, pupils.model)
    return pupils.model
