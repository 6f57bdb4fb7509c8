"""Domain generalisation: data in domains, and the protocols that hold some of them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landform import data
from landform.data import Split
from landform.data.split import holdout
from landform.training.batches import batches

FIELD = "domain"


@dataclass(frozen=True)
class DomainTask:
    """One experiment: train on the sources, choose by their held-out part, test on domains never seen.

    Every split has the field ``domain``. ``validation`` is of the sources alone, so that nothing that is chosen by it
    (settings, checkpoints) has seen the targets; ``test`` holds all samples of the targets.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def test_by_domain(self) -> dict[str, Split]:
        """The samples of each target."""
        return {name: self.test[_of(self.test, name)] for name in self.targets}


def load_domains(uri: str, by: str | None = None, **options: Any) -> Split:
    """All samples of a dataset, with the field ``domain``.

    ========================  =====================================================================================
    ``glyphs[:SCRIPT,...]``   the domains are the typefaces
    ``folder:PATH``           the domains are the first level of folders, ``PATH/<domain>/<class>/**/*.png``
    anything with fields      the domains are the values of the field ``by``
    ========================  =====================================================================================

    Arguments:
        uri, options: as of :func:`landform.data.load`. Of a folder ``limit`` counts for each domain.
        by: a field of the data; ``"typeface"`` for glyphs, and none for a folder.

    Raises:
        ValueError: an unknown field, folders of domains that have different classes, or a single domain.
        FileNotFoundError: a path where nothing is.

    >>> split = load_domains("glyphs:digits", typefaces=["STIX", "DejaVu Sans"])
    >>> split.names["domain"], len(split)
    (('DejaVu Sans', 'STIX'), 20)
    """
    if uri.startswith("folder:") and by is None:
        return _folders(uri, options)
    whole = data.merge(*data.load(uri, **options).values())
    name = by or ("typeface" if uri.startswith("glyphs") else "")
    if name not in whole.fields or name not in whole.names:
        named = [field for field in whole.fields if field in whole.names]
        raise ValueError(f"by={name!r}: {uri} has no such field with names; it has {', '.join(named) or 'none'}")
    numbers, names = whole.fields[name], whole.names[name]
    return _with_domains(whole, numbers, names)


def leave_one_domain_out(split: Split, *, fraction: float = 0.2, seed: int = 0) -> Iterator[DomainTask]:
    """A task for each domain: it is the target, and all others are the sources.

    Of the sources, ``fraction`` of each class in each domain is held out for validation.

    Raises:
        ValueError: no field ``domain``, fewer than two domains, or a fraction outside (0, 1).

    Source: DomainBed, arXiv 2007.01434, section 3.1, with training-domain validation.
    """
    for name in domains_of(split):
        yield domain_task(split, targets=[name], fraction=fraction, seed=seed)


def single_source(split: Split, *, fraction: float = 0.2, seed: int = 0) -> Iterator[DomainTask]:
    """A task for each domain: it is the only source, and all others are the targets.

    Raises:
        ValueError: no field ``domain``, fewer than two domains, or a fraction outside (0, 1).
    """
    for name in domains_of(split):
        yield domain_task(split, sources=[name], fraction=fraction, seed=seed)


def domain_task(
    split: Split,
    *,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    fraction: float = 0.2,
    seed: int = 0,
) -> DomainTask:
    """The task of these sources and targets; what is not given is all other domains.

    Raises:
        ValueError: neither is given, an unknown domain, one that is on both sides, or none left for a side.

    >>> split = load_domains("glyphs:digits", typefaces=["STIX", "DejaVu Sans", "DejaVu Serif"], copies=10)
    >>> task = domain_task(split, sources=["STIX"])
    >>> task.targets, len(task.train), len(task.validation), len(task.test)
    (('DejaVu Sans', 'DejaVu Serif'), 80, 20, 200)
    """
    domains = domains_of(split)
    if sources is None and targets is None:
        raise ValueError("sources, targets: at least one must be given")
    for side, names in (("sources", sources), ("targets", targets)):
        for name in names or ():
            if name not in domains:
                raise ValueError(f"{side}: unknown domain {name!r}; there are {', '.join(domains)}")
    chosen_sources = tuple(
        name for name in domains if (name not in (targets or ()) if sources is None else name in sources)
    )
    chosen_targets = tuple(
        name for name in domains if (name not in (sources or ()) if targets is None else name in targets)
    )
    if both := set(chosen_sources) & set(chosen_targets):
        raise ValueError(f"{sorted(both)[0]!r} is a source and a target; a target must never be seen in training")
    if not chosen_sources or not chosen_targets:
        raise ValueError(f"sources={chosen_sources}, targets={chosen_targets}: both must hold a domain")
    source = split[_of(split, *chosen_sources)]
    train, held = holdout(source.fields[FIELD] * (int(source.y.max()) + 1) + source.y, fraction, seed)
    return DomainTask(chosen_sources, chosen_targets, source[train], source[held], split[_of(split, *chosen_targets)])


def domain_batches(
    split: Split, per_domain: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches (x, y, domain) without end: ``per_domain`` samples of each domain, stacked domain after domain.

    Every domain is gone through in permutations of its own, less what does not fill a batch at their end.

    Raises:
        ValueError: no field ``domain``, or ``per_domain`` that is not from 1 to the size of the smallest domain.
    """
    if FIELD not in split.fields:
        raise ValueError(f"split: has no field {FIELD!r}; load_domains gives it")
    numbers = split.fields[FIELD]
    present = numbers.unique()
    sources = []
    for number in present:
        rows = numbers == number
        sources.append(batches(split.x[rows], split.y[rows], per_domain, generator, drop_last=True))
    domain = present.repeat_interleave(per_domain)
    for drawn in zip(*sources, strict=True):
        x, y = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        yield x, y, domain


def domains_of(split: Split) -> tuple[str, ...]:
    """The domains of which a split has samples.

    Raises:
        ValueError: no field ``domain``, or fewer than two.
    """
    if FIELD not in split.fields or FIELD not in split.names:
        raise ValueError(f"split: has no field {FIELD!r}; load_domains gives it")
    found = tuple(split.names[FIELD][number] for number in split.fields[FIELD].unique().tolist())
    if len(found) < 2:
        raise ValueError(f"split: has only {', '.join(found) or 'no'} domain; there must be at least two")
    return found


def _of(split: Split, *names: str) -> Tensor:
    """Positions of the samples of these domains."""
    numbers = torch.tensor([split.names[FIELD].index(name) for name in names])
    return torch.isin(split.fields[FIELD], numbers).nonzero().squeeze(1)


def _with_domains(split: Split, numbers: Tensor, names: tuple[str, ...]) -> Split:
    return replace(split, fields={**split.fields, FIELD: numbers}, names={**split.names, FIELD: names})


def _folders(uri: str, options: dict[str, Any]) -> Split:
    """Every folder in the path as a dataset of its own, all with the same classes."""
    address, question, query = uri.partition("?")
    root = Path(address.removeprefix("folder:")).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{uri}: there is no folder {root}")
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"{uri}: must hold at least two folders, one for each domain; it has {', '.join(names) or 'none'}"
        )
    parts = {
        name: data.merge(*data.load(f"folder:{root / name}{question}{query}", **options).values()) for name in names
    }
    for name, part in parts.items():
        if part.classes != parts[names[0]].classes:
            odd = set(part.classes) ^ set(parts[names[0]].classes)
            raise ValueError(f"{uri}: {names[0]} and {name} differ in classes: {', '.join(sorted(odd))}")
    channels = max(part.x.shape[1] for part in parts.values())
    coloured = [replace(part, x=part.x.expand(-1, channels, -1, -1)) for part in parts.values()]
    whole = data.merge(*coloured)
    numbers = torch.arange(len(names)).repeat_interleave(torch.tensor([len(part) for part in coloured]))
    return _with_domains(whole, numbers, tuple(names))
