"""Few-shot episodes, n-way and k-shot, as index tensors: many drawn at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from landform.data.split import check_count

# Random keys are drawn for every item of every class that is shown, for so many of them at a time.
KEYS = 4_000_000


class EpisodeSampler(Sampler[Tensor]):
    """Episodes of N classes with K support and Q query items each, as positions in the dataset.

    An episode is N(K + Q) positions: the support, class by class, and then the query, class by class. Classes are drawn
    uniformly without replacement and come in random order, and so are the items of each. In an episode the classes are
    numbered 0 … N − 1 as they come: :attr:`labels`. :meth:`sample` draws all episodes in a few tensor operations; to
    iterate gives the same ones, one by one, so that the sampler also serves as a ``DataLoader``'s ``batch_sampler``.

    Arguments:
        labels: the class of every item of the dataset, (items,); any integers.
        n_way, n_shot, n_query: N, K and Q.
        n_episodes: how many episodes :meth:`sample`, or one iteration, draws.
        generator: draws them, on the CPU; each draw goes on where the last one stopped.
        disjoint: whether support and query of an episode share no item. False draws the two independently, as the
            released code of arXiv 2305.09062 does: a query may then be one of the support images.
        domain: the domain of every item, such as its typeface. All support of an episode then comes from one domain and
            all query from another; the pair is drawn uniformly among those that share at least N classes with enough
            items in both.

    Raises:
        ValueError: sizes below 1, fewer than N classes, a class with too few items (K + Q; where ``disjoint`` is off,
            the larger of both; with ``domain``, no two domains with N classes of K and Q items), labels that are not a
            vector, a domain of another length.
        TypeError: labels or domains that are not integers.

    >>> sampler = EpisodeSampler(torch.arange(30) // 6, 3, 1, 2, n_episodes=100, generator=torch.Generator())
    >>> sampler.sample().shape
    torch.Size([100, 9])
    >>> sampler.labels.tolist()
    [0, 1, 2, 0, 0, 1, 1, 2, 2]
    """

    def __init__(
        self,
        labels: Int[Tensor, " items"],
        n_way: int,
        n_shot: int,
        n_query: int,
        n_episodes: int,
        generator: torch.Generator,
        disjoint: bool = True,
        *,
        domain: Int[Tensor, " items"] | None = None,
    ) -> None:
        sizes = {"n_way": n_way, "n_shot": n_shot, "n_query": n_query, "n_episodes": n_episodes}
        for name, size in sizes.items():
            check_count(name, size, 1)
        labels = _integers("labels", labels)
        if domain is not None and len(_integers("domain", domain)) != len(labels):
            raise ValueError(f"domain has {len(domain)} items, but labels have {len(labels)}")
        self.n_way, self.n_shot, self.n_query, self.n_episodes = n_way, n_shot, n_query, n_episodes
        self.generator = generator
        self.disjoint = disjoint
        self.labels = torch.cat([torch.arange(n_way).repeat_interleave(n) for n in (n_shot, n_query)])
        """The class in the episode, 0 … N − 1, of each of its items: (N(K + Q),)."""

        classes, of_class = labels.cpu().unique(return_inverse=True)
        if len(classes) < n_way:
            raise ValueError(f"n_way={n_way}: there are only {len(classes)} classes")
        kinds, of_domain = (torch.zeros_like(labels) if domain is None else domain).cpu().unique(return_inverse=True)
        self._domains = len(kinds)
        # A cell holds the items of one class in one domain. Rows of the table are cells, filled up with zeros.
        cell = of_class * self._domains + of_domain
        self._counts = cell.bincount(minlength=len(classes) * self._domains)
        order = cell.argsort(stable=True)
        rank = torch.arange(len(cell)) - (self._counts.cumsum(0) - self._counts)[cell[order]]
        self._table = torch.zeros(len(self._counts), int(self._counts.max()), dtype=torch.int64)
        self._table[cell[order], rank] = order
        self._pairs, self._allowed = self._choices(classes, with_domains=domain is not None)

    def _choices(self, classes: Tensor, *, with_domains: bool) -> tuple[Tensor, Tensor]:
        """The pairs of domains (pairs, 2) for support and query, and the classes that each can show (pairs, C)."""
        counts = self._counts.view(len(classes), self._domains)
        if not with_domains:
            need = self.n_shot + self.n_query if self.disjoint else max(self.n_shot, self.n_query)
            if (poor := (counts[:, 0] < need).nonzero()).numel():
                worst = int(poor[0])
                raise ValueError(
                    f"class {int(classes[worst])} has {int(counts[worst, 0])} items, "
                    f"but n_shot={self.n_shot} and n_query={self.n_query} need {need}"
                )
            return torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, len(classes), dtype=torch.bool)
        first, second = (~torch.eye(self._domains, dtype=torch.bool)).nonzero().unbind(1)
        allowed = ((counts[:, first] >= self.n_shot) & (counts[:, second] >= self.n_query)).T
        usable = allowed.sum(1) >= self.n_way
        if not usable.any():
            raise ValueError(
                f"domain: no two of {self._domains} domains share n_way={self.n_way} classes with "
                f"n_shot={self.n_shot} items in the one and n_query={self.n_query} in the other"
            )
        return torch.stack([first, second], 1)[usable], allowed[usable]

    def __len__(self) -> int:
        return self.n_episodes

    def __iter__(self) -> Iterator[Tensor]:
        for chunk in self._chunks():
            yield from chunk

    def sample(self) -> Int[Tensor, "episodes items"]:
        """All ``n_episodes`` episodes, (episodes, N(K + Q)): support first, grouped by class, then query."""
        return torch.cat(list(self._chunks()))

    def _chunks(self) -> Iterator[Tensor]:
        size = max(1, KEYS // (self.n_way * self._table.shape[1] + self._allowed.shape[1]))
        for start in range(0, self.n_episodes, size):
            yield self._draw(min(size, self.n_episodes - start))

    def _draw(self, episodes: int) -> Int[Tensor, "episodes items"]:
        pair = torch.randint(len(self._pairs), (episodes,), generator=self.generator)
        keys = torch.rand(episodes, self._allowed.shape[1], generator=self.generator, dtype=torch.float64)
        chosen = keys.masked_fill(~self._allowed[pair], torch.inf).topk(self.n_way, largest=False).indices
        first, second = (chosen * self._domains + domain.unsqueeze(1) for domain in self._pairs[pair].unbind(1))
        if self.disjoint and self._domains == 1:
            items = self._members(first, self.n_shot + self.n_query)
            support, query = items.split([self.n_shot, self.n_query], dim=2)
        else:
            support, query = self._members(first, self.n_shot), self._members(second, self.n_query)
        return torch.cat([support.flatten(1), query.flatten(1)], dim=1)

    def _members(self, cells: Int[Tensor, "episodes way"], count: int) -> Int[Tensor, "episodes way count"]:
        """``count`` different items of each cell, in random order: those with the least random keys."""
        keys = torch.rand(*cells.shape, self._table.shape[1], generator=self.generator, dtype=torch.float64)
        absent = torch.arange(self._table.shape[1]) >= self._counts[cells].unsqueeze(2)
        places = keys.masked_fill_(absent, torch.inf).topk(count, dim=2, largest=False).indices
        return self._table[cells.unsqueeze(2), places]


def _integers(name: str, values: Tensor) -> Tensor:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} have dtype {values.dtype}: they must be integers")
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} of shape {tuple(values.shape)}: must be a vector, one number an item")
    return values
