"""Wrong labels put in on purpose: uniform over classes, to the next class, and between pairs of classes.

Each function hits every sample with probability ``level``, and gives the labels together with a mask of those that are
now wrong. It may be fewer than were hit: a class drawn at random may be the true one, and a class without a partner
keeps its label.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Noisy = tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]


def uniform_label_noise(
    labels: Int[Tensor, " n"], level: float, num_classes: int, *, generator: torch.Generator | None = None
) -> Noisy:
    """With probability ``level``, replace a label by a class drawn uniformly from all K.

    The class may be the true one, so that a share level (K − 1)/K of labels becomes wrong.

    Arguments:
        labels: class numbers; left as they are.
        level: in [0, 1].
        num_classes: K.
        generator: the source of random numbers, on the CPU; PyTorch's global one if None.

    Returns: the labels with noise, and where they differ from the true ones.

    Raises:
        TypeError: labels are not integers.
        ValueError: labels that are no vector or outside 0 … K − 1, or a level outside [0, 1].

    Source: as in the released code of arXiv 2112.14869.

    >>> labels, corrupted = uniform_label_noise(torch.zeros(6, dtype=torch.long), 0.0, 10)
    >>> labels.tolist(), corrupted.any().item()
    ([0, 0, 0, 0, 0, 0], False)
    """
    hit = _hit(labels, level, num_classes, generator)
    drawn = torch.randint(num_classes, labels.shape, generator=generator).to(labels)
    return _noisy(labels, torch.where(hit, drawn, labels))


def cyclic_label_noise(
    labels: Int[Tensor, " n"], level: float, num_classes: int, *, generator: torch.Generator | None = None
) -> Noisy:
    """With probability ``level``, replace label y by (y + 1) mod K. Arguments and errors: :func:`uniform_label_noise`.

    >>> cyclic_label_noise(torch.tensor([0, 1, 2]), 1.0, 3)
    (tensor([1, 2, 0]), tensor([True, True, True]))
    """
    hit = _hit(labels, level, num_classes, generator)
    return _noisy(labels, torch.where(hit, (labels + 1) % num_classes, labels))


def pair_label_noise(
    labels: Int[Tensor, " n"],
    level: float,
    pairs: Iterable[tuple[int, int]],
    *,
    num_classes: int,
    generator: torch.Generator | None = None,
) -> Noisy:
    """With probability ``level``, exchange a label for its partner; a class in no pair keeps its labels.

    Arguments:
        pairs: disjoint pairs of different classes; the others as for :func:`uniform_label_noise`.

    Raises:
        ValueError: also for a class that is outside 0 … K − 1 or stands in two pairs.

    >>> pair_label_noise(torch.tensor([0, 1, 2]), 1.0, [(0, 2)], num_classes=3)
    (tensor([2, 1, 0]), tensor([ True, False,  True]))
    """
    hit = _hit(labels, level, num_classes, generator)
    partner = torch.arange(num_classes)
    for a, b in pairs:
        for k in (a, b):
            if not 0 <= k < num_classes:
                raise ValueError(f"pairs: class {k} of ({a}, {b}) is not in 0..{num_classes - 1}")
            if partner[k] != k:
                raise ValueError(f"pairs: class {k} of ({a}, {b}) stands in another pair too")
        if a == b:
            raise ValueError(f"pairs: ({a}, {b}) is no pair of two classes")
        partner[a], partner[b] = b, a
    return _noisy(labels, torch.where(hit, partner.to(labels)[labels.long()], labels))


def _hit(labels: Tensor, level: float, num_classes: int, generator: torch.Generator | None) -> Bool[Tensor, " n"]:
    """Which samples are hit, once the arguments are found to be right."""
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(f"labels have dtype {labels.dtype}: they must be integers")
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: must be (N,)")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: must be at least 2")
    if not 0 <= level <= 1:
        raise ValueError(f"level={level}: must be in [0, 1]")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(f"labels contain {outside[0].item()}: must be in 0..{num_classes - 1}")
    return (torch.rand(labels.shape, generator=generator, dtype=torch.float64) < level).to(labels.device)


def _noisy(clean: Tensor, noisy: Tensor) -> Noisy:
    return noisy, noisy != clean
