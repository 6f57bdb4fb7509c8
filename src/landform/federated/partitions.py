"""Partitions: which samples each client holds.

Every function takes the labels (or groups) of n samples and gives a list with one array of positions, int64, for each
client. Positions are disjoint, and cover all samples but where a function says otherwise. ``rng`` is a NumPy generator
or a seed of one: the same seed gives the same partition.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike, NDArray

Part = Int[NDArray[np.int64], " samples"]
RNG = np.random.Generator | int

TRIES = 1000
"""Draws of a partition until every client has enough samples."""

log = logging.getLogger(__name__)


def partition_iid(labels: ArrayLike, clients: int, *, rng: RNG) -> list[Part]:
    """Shuffle all samples and split them as evenly as possible.

    Raises:
        ValueError: fewer than one client, or more clients than samples.

    >>> [len(part) for part in partition_iid([0, 0, 1, 1, 1], 2, rng=0)]
    [3, 2]
    """
    y = _labels(labels, clients)
    return np.array_split(np.random.default_rng(rng).permutation(len(y)), clients)


def partition_dirichlet(
    labels: ArrayLike, clients: int, alpha: float, *, min_size: int = 10, balanced: bool = False, rng: RNG
) -> list[Part]:
    """Label skew drawn from Dirichlet distributions: the smaller ``alpha``, the fewer classes a client has.

    By default each class c is divided over the clients by shares q ~ Dir(alpha · 1_K): its shuffled samples are cut at
    floor(cumsum(q) · N_c), and all is drawn again until every client has ``min_size`` samples. At tiny alpha that
    favours balanced draws; the number of redraws is logged. Source: Li et al., arXiv 2102.02079.

    With ``balanced`` each client instead draws class proportions ~ Dir(alpha · p), p being those of all labels, and
    takes floor(n / K) samples by them without replacement; where its classes run out, it draws proportions of those
    left (Hsu et al., arXiv 1909.06335). Up to K − 1 samples are then left over.

    Raises:
        ValueError: alpha not positive, fewer than one client, more clients than samples, ``min_size`` below 1 or more
            than the samples allow, or 1,000 draws that each left a client with fewer than ``min_size``.

    >>> parts = partition_dirichlet(np.arange(200) % 10, 4, 0.5, rng=0)
    >>> sorted(np.concatenate(parts)) == list(range(200))
    True
    """
    y = _labels(labels, clients)
    _check_alpha(alpha)
    _check_min_size(min_size, clients, len(y))
    rng = np.random.default_rng(rng)
    classes, y = np.unique(y, return_inverse=True)
    if balanced:
        return _balanced(y, clients, alpha, rng)
    members = [np.flatnonzero(y == c) for c in range(len(classes))]
    counts = np.array([len(m) for m in members])
    for redraws in range(TRIES):
        shares = rng.dirichlet(np.full(clients, alpha), size=len(classes))
        cuts = np.floor(np.cumsum(shares, axis=1)[:, :-1] * counts[:, None]).astype(int)
        sizes = np.diff(cuts, axis=1, prepend=0, append=counts[:, None]).sum(0)
        if sizes.min() >= min_size:
            log.info("a partition by Dirichlet(%g) over %d clients took %d redraws", alpha, clients, redraws)
            pieces = [np.split(rng.permutation(m), cut) for m, cut in zip(members, cuts, strict=True)]
            return [np.concatenate(part) for part in zip(*pieces, strict=True)]
    raise ValueError(
        f"alpha={alpha}, clients={clients}, min_size={min_size}: of {TRIES:,} draws none gave every client that many "
        "samples; take a larger alpha, fewer clients or a smaller min_size"
    )


def _balanced(y: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator) -> list[Part]:
    left = np.bincount(y)
    queues = [rng.permutation(np.flatnonzero(y == c)) for c in range(len(left))]
    size = len(y) // clients
    parts = []
    for shares in rng.dirichlet(alpha * left / len(y), size=clients):
        taken = np.zeros(len(left), dtype=np.int64)
        while (missing := size - taken.sum()) > 0:
            open_ = left > taken
            odds = np.where(open_, shares, 0.0)
            if odds.sum() == 0:  # none of the client's own classes has any left
                odds[open_] = rng.dirichlet(alpha * left[open_] / left.sum())
            wanted = missing * odds / odds.sum()
            whole = np.floor(wanted + 1e-9).astype(int)
            rest = missing - whole.sum()  # the fractions together, which go to as many classes at most
            if rest > 0:
                fractions = np.clip(wanted - whole, 1e-12, None) * (odds > 0)
                rest = min(rest, (fractions > 0).sum())
                whole[rng.choice(len(left), rest, replace=False, p=fractions / fractions.sum())] += 1
            taken = np.minimum(taken + whole, left)
        parts.append(np.concatenate([queue[n - k : n] for queue, n, k in zip(queues, left, taken, strict=True)]))
        left = left - taken
    return parts


def partition_shards(labels: ArrayLike, clients: int, shards: int = 2, *, rng: RNG) -> list[Part]:
    """Pathological label skew: sort by label, cut into K · ``shards`` shards, deal each client that many at random.

    With two shards most clients have two classes. Samples of one class are in random order. Source: McMahan et al.,
    arXiv 1602.05629, section 3.

    Raises:
        ValueError: fewer than one client or shard, or more shards than samples.
    """
    y = _labels(labels, clients)
    if shards < 1 or clients * shards > len(y):
        raise ValueError(f"shards={shards}: {clients} clients with {len(y)} samples take from 1 to {len(y) // clients}")
    rng = np.random.default_rng(rng)
    shuffled = rng.permutation(len(y))
    pieces = np.array_split(shuffled[np.argsort(y[shuffled], kind="stable")], clients * shards)
    dealt = rng.permutation(len(pieces)).reshape(clients, shards)
    return [np.concatenate([pieces[i] for i in row]) for row in dealt]


def partition_packages(
    labels: ArrayLike,
    labels_per_client: int = 2,
    samples_per_package: int = 35,
    max_per_label: int = 500,
    *,
    rng: RNG,
) -> list[Part]:
    """Packages of few labels: each client has ``samples_per_package`` samples of each of ``labels_per_client`` labels.

    At most ``max_per_label`` samples of each label are used. While so many labels have a package left, the next client
    picks among them at random; the number of clients follows, and samples are left over. Source: arXiv 2207.03448.

    Raises:
        ValueError: an argument below 1, or labels that do not fill the packages of one client.
    """
    y = _labels(labels, 1)
    for name, value in (
        ("labels_per_client", labels_per_client),
        ("samples_per_package", samples_per_package),
        ("max_per_label", max_per_label),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    rng = np.random.default_rng(rng)
    queues = [rng.permutation(np.flatnonzero(y == c))[:max_per_label] for c in np.unique(y)]
    used = np.zeros(len(queues), dtype=int)
    packages = np.array([len(queue) // samples_per_package for queue in queues])
    parts = []
    while len(open_ := np.flatnonzero(packages > used)) >= labels_per_client:
        chosen = rng.choice(open_, labels_per_client, replace=False)
        starts = used[chosen] * samples_per_package
        parts.append(
            np.concatenate([queues[c][s : s + samples_per_package] for c, s in zip(chosen, starts, strict=True)])
        )
        used[chosen] += 1
    if not parts:
        raise ValueError(
            f"labels_per_client={labels_per_client}, samples_per_package={samples_per_package}: only "
            f"{int((packages > 0).sum())} labels have that many samples, which is not enough for one client"
        )
    return parts


def partition_quantity(labels: ArrayLike, clients: int, alpha: float, *, min_size: int = 10, rng: RNG) -> list[Part]:
    """Quantity skew: IID samples, in client sizes whose shares are drawn from Dir(alpha · 1_K).

    Drawn again until every client has ``min_size`` samples.

    Raises:
        ValueError: as :func:`partition_dirichlet`.
    """
    y = _labels(labels, clients)
    _check_alpha(alpha)
    _check_min_size(min_size, clients, len(y))
    rng = np.random.default_rng(rng)
    for _ in range(TRIES):
        cuts = np.floor(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(y)).astype(int)
        if np.diff(cuts, prepend=0, append=len(y)).min() >= min_size:
            return np.split(rng.permutation(len(y)), cuts)
    raise ValueError(
        f"alpha={alpha}, clients={clients}, min_size={min_size}: of {TRIES:,} draws none gave every client that many "
        "samples; take a larger alpha, fewer clients or a smaller min_size"
    )


def partition_by_group(groups: ArrayLike) -> list[Part]:
    """Natural clients: one for each value in ``groups`` (a writer, a typeface, a hospital, a domain), in sorted order.

    Raises:
        ValueError: no samples, or groups that are not one value a sample.

    >>> [part.tolist() for part in partition_by_group(["b", "a", "b"])]
    [[1], [0, 2]]
    """
    values = _labels(groups, 1)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])


@dataclass(frozen=True, eq=False)
class PartitionStats:
    """How unequal the clients of a partition are.

    Arguments:
        labels: of all samples, (n,).
        parts: the positions that each client holds.

    Raises:
        ValueError: no clients, or one without samples.

    >>> stats = PartitionStats([0, 0, 1, 1], [np.array([0, 1]), np.array([2, 3])])
    >>> stats.mean_total_variation, stats.effective_classes.tolist()
    (0.5, [1.0, 1.0])
    """

    labels: ArrayLike
    parts: list[Part]

    def __post_init__(self) -> None:
        if not len(self.parts):
            raise ValueError("parts: there are no clients")
        for number, part in enumerate(self.parts):
            if not len(part):
                raise ValueError(f"parts: client {number} has no samples")

    @cached_property
    def counts(self) -> Int[NDArray[np.int64], "clients classes"]:
        """How many samples of each class, in sorted order, each client holds."""
        classes, y = np.unique(np.asarray(self.labels), return_inverse=True)
        return np.stack([np.bincount(y[np.asarray(part)], minlength=len(classes)) for part in self.parts])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many samples each client holds, (K,)."""
        return self.counts.sum(1)

    @property
    def distributions(self) -> NDArray[np.float64]:
        """Each client's distribution of labels, (K, C)."""
        return self.counts / self.sizes[:, None]

    @property
    def total_variation(self) -> NDArray[np.float64]:
        """½ Σ_c |client's share of class c − share among all that clients hold|, (K,)."""
        pooled = self.counts.sum(0) / self.counts.sum()
        return np.abs(self.distributions - pooled).sum(1) / 2

    @property
    def mean_total_variation(self) -> float:
        """The mean over clients: 0 where all have the same mix of labels."""
        return float(self.total_variation.mean())

    @property
    def effective_classes(self) -> NDArray[np.float64]:
        """exp(entropy of the client's labels), (K,): k where it has k classes in equal shares."""
        p = self.distributions
        return np.exp(-(p * np.log(np.where(p > 0, p, 1.0))).sum(1))


def _labels(labels: ArrayLike, clients: int) -> NDArray[np.int64]:
    y = np.asarray(labels)
    if y.ndim != 1:
        raise ValueError(f"labels: need one a sample, (n,), got shape {y.shape}")
    if not 1 <= clients <= len(y):
        raise ValueError(f"clients={clients}: {len(y)} samples can be held by from 1 to {len(y)} clients")
    return y


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha={alpha}: must be positive and finite")


def _check_min_size(min_size: int, clients: int, n: int) -> None:
    if not 1 <= min_size <= n // clients:
        raise ValueError(f"min_size={min_size}: {clients} clients with {n} samples take from 1 to {n // clients}")
