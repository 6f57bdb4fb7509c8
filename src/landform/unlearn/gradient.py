"""Unlearning by gradient steps alone: up on what is to be forgotten, down on the rest, or both."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from landform.training.many import StackedSGD, cross_entropy
from landform.training.many.optimizers import PerModel
from landform.unlearn.passes import AfterEpoch, BatchLoss, ModelT, Pupils, Samples, check_counts, check_samples


def gradient_ascent_unlearn(
    model: ModelT,
    forget: Samples,
    *,
    lr: PerModel,
    epochs: int,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    after_epoch: AfterEpoch | None = None,
) -> ModelT:
    """Ascend the cross-entropy on the forget set, by plain SGD, for a few epochs.

    It has no fixed point: each forgotten point reaches a retrained model's margin at another time, and passes it.
    Source: the baseline "GA" of arXiv 2410.23232 (learning rates 1e-5 to 5e-2, 1 to 10 epochs).

    Arguments:
        model: a module or a :class:`Stack`, left as it was; its copy is trained in the model's present mode. Put one
            with batch normalisation in evaluation mode where batches are tiny.
        forget: (x, y), the inputs and class numbers.
        lr: a number, or one for each model of a stack.
        generator: seeds the shuffles, each model's its own; PyTorch's global one if None.
        after_epoch: called with the number of each epoch that has ended and the model as it is then, so that one run
            shows every stopping time.

    Raises:
        ValueError, TypeError: samples or settings that cannot be right.

    >>> from torch import nn
    >>> x, y = torch.randn(6, 3), torch.arange(6) % 2
    >>> net = gradient_ascent_unlearn(nn.Linear(3, 2), (x, y), lr=0.1, epochs=2)
    """
    check_counts(epochs=epochs, batch_size=batch_size)
    x, y = check_samples("forget", forget)
    pupils = Pupils(model, generator)
    optimizer = StackedSGD(pupils.trained, lr)
    for epoch in range(1, epochs + 1):
        pupils.pass_over(x, batch_size, optimizer, mean_cross_entropy(y, sign=-1))
        if after_epoch is not None:
            after_epoch(epoch, pupils.model)
    return pupils.model


def gradient_descent_unlearn(
    model: ModelT,
    retain: Samples,
    *,
    lr: PerModel,
    epochs: int,
    batch_size: int = 64,
    momentum: PerModel = 0.9,
    weight_decay: PerModel = 5e-4,
    generator: torch.Generator | None = None,
    after_epoch: AfterEpoch | None = None,
) -> ModelT:
    """Train on with the retained samples alone, by SGD with momentum.

    A model that interpolates them has no gradient there, and does not forget. Source: the baseline "GD" of arXiv
    2410.23232 (learning rates 5e-5 to 1e-2). Arguments and errors as of :func:`gradient_ascent_unlearn`.

    >>> from torch import nn
    >>> x, y = torch.randn(6, 3), torch.arange(6) % 2
    >>> net = gradient_descent_unlearn(nn.Linear(3, 2), (x, y), lr=0.01, epochs=2)
    """
    check_counts(epochs=epochs, batch_size=batch_size)
    x, y = check_samples("retain", retain)
    pupils = Pupils(model, generator)
    optimizer = StackedSGD(pupils.trained, lr, momentum, weight_decay)
    for epoch in range(1, epochs + 1):
        pupils.pass_over(x, batch_size, optimizer, mean_cross_entropy(y))
        if after_epoch is not None:
            after_epoch(epoch, pupils.model)
    return pupils.model


def ascent_descent_unlearn(
    model: ModelT,
    forget: Samples,
    retain: Samples,
    *,
    lr: PerModel,
    epochs: int,
    ascent_epochs: int = 3,
    forget_batch_size: int = 64,
    retain_batch_size: int = 64,
    generator: torch.Generator | None = None,
    after_epoch: AfterEpoch | None = None,
) -> ModelT:
    """In each epoch ascend on the forget set, during the first ``ascent_epochs``, then descend on the retained samples.

    Plain SGD with one learning rate for both. Source: the released benchmark of arXiv 2410.23232 (ascent in the first 3
    or 5 epochs). Arguments and errors as of :func:`gradient_ascent_unlearn`.

    >>> from torch import nn
    >>> x, y = torch.randn(6, 3), torch.arange(6) % 2
    >>> net = ascent_descent_unlearn(nn.Linear(3, 2), (x[:2], y[:2]), (x[2:], y[2:]), lr=0.01, epochs=2)
    """
    check_counts(
        epochs=epochs,
        ascent_epochs=ascent_epochs,
        forget_batch_size=forget_batch_size,
        retain_batch_size=retain_batch_size,
    )
    x_forget, y_forget = check_samples("forget", forget)
    x_retain, y_retain = check_samples("retain", retain)
    pupils = Pupils(model, generator)
    optimizer = StackedSGD(pupils.trained, lr)
    for epoch in range(1, epochs + 1):
        if epoch <= ascent_epochs:
            pupils.pass_over(x_forget, forget_batch_size, optimizer, mean_cross_entropy(y_forget, sign=-1))
        pupils.pass_over(x_retain, retain_batch_size, optimizer, mean_cross_entropy(y_retain))
        if after_epoch is not None:
            after_epoch(epoch, pupils.model)
    return pupils.model


def mean_cross_entropy(y: Int[Tensor, " n"], sign: int = 1) -> BatchLoss:
    """The mean over each model's batch, of samples whose classes are ``y``."""
    return lambda outputs, index: sign * cross_entropy(outputs, y[index]).mean(1)
