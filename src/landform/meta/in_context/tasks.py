"""Families of tasks made of one labelled dataset: random projections of the inputs, permutations of the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import hash_uniform
from landform.data.split import check_count

Projection = Literal["gaussian", "orthogonal", "identity"]
Family = Literal["seen", "unseen"]

# What a task draws numbers for: fields of landform.data.counter.
PROJECTION, PERMUTATION = 200, 201
# Tasks without end are drawn among so many that none comes twice.
FRESH = 2**48


class TaskAugmentation:
    """Tasks (A, ρ) that turn one labelled dataset {(x, y)} into as many as wanted: {(A x, ρ(y))}.

        A_ij ~ N(0, 1/N_x), so that E‖A x‖² = ‖x‖²;   ρ a uniform permutation of the N_y labels

    A task is a function of (seed, its number, its family) alone: matrices are not kept but hashed anew, the same to the
    bit in any batch. The families "seen" and "unseen" share no task. Seen tasks are numbered 0 … n_tasks − 1, or are
    new ones each time without ``n_tasks``; unseen tasks are new ones each time.

    Arguments:
        n_tasks: the number of seen tasks; None for no limit.
        dim, n_classes: N_x and N_y.
        seed: names the families, and draws which tasks :meth:`sample` gives.
        projection: "gaussian"; "orthogonal", the uniformly distributed rotations and reflections; or "identity".
        permute: whether labels are permuted.
        fixed_permutation_fraction: the share of each batch of *seen* tasks whose labels are all permuted alike (they
            are left as they are), a bias that shortens the plateau before a model learns in context. Its A stay
            random. These tasks come first in the batch; unseen tasks have no such bias.

    Raises:
        ValueError: sizes below 1, an unknown projection or family, a fraction outside [0, 1], a task number that is
            out of range.

    Source: arXiv 2212.04458, sections 3 and 5. Matrices have variance 1/N_x as there; released replications divide by
    N_x instead, which shrinks inputs by sqrt(N_x).

    >>> tasks = TaskAugmentation(8, dim=16, n_classes=3, seed=0)
    >>> A, perm = tasks.sample(5)
    >>> A.shape, perm.shape
    (torch.Size([5, 16, 16]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        n_tasks: int | None,
        dim: int,
        n_classes: int,
        seed: int,
        projection: Projection = "gaussian",
        permute: bool = True,
        fixed_permutation_fraction: float = 0.0,
    ) -> None:
        for name, count in {"dim": dim, "n_classes": n_classes, "n_tasks": 1 if n_tasks is None else n_tasks}.items():
            check_count(name, count, 1)
        if projection not in get_args(Projection):
            raise ValueError(f"projection={projection!r}: must be one of {get_args(Projection)}")
        if not 0 <= fixed_permutation_fraction <= 1:
            raise ValueError(f"fixed_permutation_fraction={fixed_permutation_fraction}: must be in [0, 1]")
        self.n_tasks = n_tasks
        self.dim = dim
        self.n_classes = n_classes
        self.seed = seed
        self.projection = projection
        self.permute = permute
        self.fixed_permutation_fraction = fixed_permutation_fraction
        # Each family has its own order, so that to evaluate on unseen tasks does not change what is trained on.
        self._orders = {family: torch.Generator().manual_seed(seed) for family in get_args(Family)}

    def sample(
        self, batch: int, split: Family = "seen", device: str | torch.device = "cpu"
    ) -> tuple[Float[Tensor, "batch dim dim"], Int[Tensor, "batch n_classes"]]:
        """The next ``batch`` tasks of a family, independent and uniform: A float32 and the permutation int64.

        Class y of a task's data becomes ``perm[y]``.
        """
        check_count("batch", batch, 1)
        self._check_family(split)
        many = FRESH if self.n_tasks is None or split == "unseen" else self.n_tasks
        ids = torch.randint(many, (batch,), generator=self._orders[split])
        projections, permutations = self.tasks(ids.to(device), split)
        if split == "seen":
            fixed = round(self.fixed_permutation_fraction * batch)
            permutations[:fixed] = torch.arange(self.n_classes, device=device)
        return projections, permutations

    def tasks(
        self, ids: Int[Tensor, " batch"] | Sequence[int], split: Family = "seen"
    ) -> tuple[Float[Tensor, "batch dim dim"], Int[Tensor, "batch n_classes"]]:
        """The tasks of these numbers, on the device of ``ids``."""
        self._check_family(split)
        ids = torch.as_tensor(ids)
        limit = self.n_tasks if split == "seen" and self.n_tasks is not None else FRESH
        if ids.ndim != 1 or not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= limit:
            raise ValueError(f"ids={ids.tolist()}: must be a vector of {split} task numbers, 0 … {limit - 1}")
        index = 2 * ids + (split == "unseen")
        return self._project(index), self._permute(index)

    def _project(self, index: Tensor) -> Tensor:
        n = self.dim
        if self.projection == "identity":
            return torch.eye(n, device=index.device).repeat(len(index), 1, 1)
        # Box and Muller's transform, in float64: what float32 keeps of it is the same on every device.
        radius, angle = hash_uniform(self.seed, index, PROJECTION, (2, n, n)).double().unbind(1)
        normal = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
        if self.projection == "gaussian":
            return (normal / math.sqrt(n)).float()
        q, r = torch.linalg.qr(normal)
        return (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).float()  # else Q would not be uniform

    def _permute(self, index: Tensor) -> Tensor:
        if not self.permute:
            return torch.arange(self.n_classes, device=index.device).repeat(len(index), 1)
        return hash_uniform(self.seed, index, PERMUTATION, (self.n_classes,)).argsort(dim=1, stable=True)

    def _check_family(self, split: str) -> None:
        if split not in get_args(Family):
            raise ValueError(f"split={split!r}: must be one of {get_args(Family)}")
