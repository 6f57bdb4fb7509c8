"""A task's data as a sequence: inputs, and at each the label of the one before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import TensorDataset

from landform.data.split import check_count


def sequence_batch(
    base: TensorDataset,
    A: Float[Tensor, "batch dim dim"],
    perm: Int[Tensor, "batch n_classes"],
    length: int,
    class_subset: Sequence[int] | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch length dim"], Int[Tensor, "batch length"]]:
    """One sequence of each task: ``length`` different examples of the base data, projected and relabelled.

        x_t = A x̄_i(t),   y_t = perm[ȳ_i(t)]

    Arguments:
        base: inputs (N, …), flattened here to ``dim`` numbers, and labels (N,).
        A, perm: the tasks, such as :meth:`TaskAugmentation.sample` gives.
        length: examples a sequence. They are drawn uniformly and without replacement.
        class_subset: the base data's classes that are used, as many as ``perm`` has; the k-th counts as label k. All
            of 0 … n_classes − 1 unless given.
        generator: draws the examples, on the CPU; PyTorch's global one if None.

    Returns: x in the wider dtype of A and the inputs, y int64, on the device of the base data.

    Raises:
        TypeError: inputs or A that are not floating, labels or perm that are not integers.
        ValueError: shapes that do not fit, labels or classes out of range, a row of perm that is no permutation, a
            class subset of another size than perm or with repeats, more examples than there are, inputs not finite.

    Source: arXiv 2212.04458, section 3.
    """
    inputs, labels = _examples(base)
    _check_tasks(A, perm, inputs.shape[1])
    check_count("length", length, 1)
    n_classes = perm.shape[1]
    if class_subset is None:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
            found = sorted(set(labels.unique().tolist()) - set(range(n_classes)))
            raise ValueError(f"base: has the labels {found}, but perm has {n_classes} classes: 0 … {n_classes - 1}")
    else:
        classes = torch.as_tensor(class_subset, device=labels.device)
        if classes.ndim != 1 or len(classes) != n_classes or len(classes.unique()) != n_classes:
            raise ValueError(f"class_subset={classes.tolist()}: must be {n_classes} different classes, as perm has")
        member = labels.unsqueeze(1) == classes
        kept = member.any(1)
        inputs, labels = inputs[kept], member[kept].long().argmax(1)
    if length > len(labels):
        raise ValueError(f"length={length}: there are only {len(labels)} examples of these classes")

    rows = distinct(len(labels), len(A), length, generator).to(labels.device)
    dtype = torch.promote_types(A.dtype, inputs.dtype)
    x = inputs[rows].to(dtype) @ A.to(dtype).mT
    if not x.isfinite().all():
        raise ValueError("base or A: holds a value that is not finite")
    return x, perm.gather(1, labels[rows])


def shift_labels(y: Int[Tensor, "batch length"], n_classes: int) -> Float[Tensor, "batch length n_classes"]:
    """The label before each position, one-hot; zeros at the first, which has none.

    Raises:
        TypeError: labels that are not integers.
        ValueError: labels that are not (batch, length), or outside 0 … n_classes − 1.

    >>> shift_labels(torch.tensor([[2, 0, 1]]), 3)
    tensor([[[0., 0., 0.],
             [0., 0., 1.],
             [1., 0., 0.]]])
    """
    check_count("n_classes", n_classes, 1)
    _check_integers("y", y)
    if y.ndim != 2 or not y.numel():
        raise ValueError(f"y has shape {tuple(y.shape)}: must be (batch, length), neither of them 0")
    if not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(f"y holds {int(y.min())} … {int(y.max())}: must be in 0 … {n_classes - 1}")
    onehot = F.one_hot(y.long(), n_classes).to(torch.get_default_dtype())
    return F.pad(onehot[:, :-1], (0, 0, 1, 0))


def distinct(n: int, batch: int, length: int, generator: torch.Generator | None = None) -> Int[Tensor, "batch length"]:
    """Rows of ``length`` different numbers below n, each row uniform among all such.

    Where the rows are short, a number that its row had before is drawn again, until all are different. What is thrown
    away is then always a number that an earlier place keeps, so that each place has the distribution of a draw from the
    rest, as if they were drawn one after another.
    """
    if 4 * length > n:
        return torch.rand(batch, n, generator=generator).argsort(dim=1)[:, :length]
    rows = torch.randint(n, (batch, length), generator=generator)
    while True:
        ordered, place = rows.sort(dim=1, stable=True)
        repeats = torch.zeros_like(rows, dtype=torch.bool)
        repeats.scatter_(1, place[:, 1:], ordered[:, 1:] == ordered[:, :-1])
        count = int(repeats.sum())
        if not count:
            return rows
        rows[repeats] = torch.randint(n, (count,), generator=generator)


def _examples(base: TensorDataset) -> tuple[Tensor, Tensor]:
    if not isinstance(base, TensorDataset) or len(base.tensors) != 2:
        raise TypeError(f"base: must be a TensorDataset of inputs and labels, not {type(base).__name__}")
    inputs, labels = base.tensors
    if not inputs.is_floating_point():
        raise TypeError(f"base: its inputs are {inputs.dtype}; they must be floating")
    _check_integers("base: its labels", labels)
    if labels.ndim != 1:
        raise ValueError(f"base: its labels have shape {tuple(labels.shape)}; they must be a vector")
    return inputs.flatten(1) if inputs.ndim > 1 else inputs.unsqueeze(1), labels.long()


def _check_tasks(A: Tensor, perm: Tensor, dim: int) -> None:
    if not A.is_floating_point():
        raise TypeError(f"A: is {A.dtype}; must be floating")
    _check_integers("perm", perm)
    if A.ndim != 3 or A.shape[1:] != (dim, dim) or not len(A):
        raise ValueError(
            f"A has shape {tuple(A.shape)}: must be (batch, {dim}, {dim}), as the inputs have {dim} numbers"
        )
    if perm.ndim != 2 or len(perm) != len(A):
        raise ValueError(f"perm has shape {tuple(perm.shape)}: must be ({len(A)}, n_classes), as A has {len(A)} tasks")
    if not torch.equal(perm.sort(dim=1).values, torch.arange(perm.shape[1], device=perm.device).expand_as(perm)):
        raise ValueError(f"perm: every row must hold each of 0 … {perm.shape[1] - 1} once")


def _check_integers(name: str, values: Tensor) -> None:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} have dtype {values.dtype}: must be integers")
