"""The words a study is written in: Study, Preset, Record and Run.

A study is one file that composes landform's components into a fair test of one paper. It declares a frozen ``Config``
dataclass, presets, claims, a ``trial`` that measures every arm for one seed, and a ``figure``. The laboratory
(``landform.lab``) plans, runs, stores and judges it; the study itself knows nothing of that.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from landform.claims import Claim

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric
    from matplotlib.figure import Figure

Setting = TypeVar("Setting")

PRESETS = ("smoke", "laptop", "paper")
DEFAULT_SEEDS = {"smoke": 2, "laptop": 5, "paper": 5}


@dataclass(frozen=True)
class Record:
    """One number measured by a trial.

    ``x`` places the value on a curve (step, size, temperature); claims other than along ``x`` read records without one.
    ``unit`` names the thing measured when the evidence is
    over architectures, models, clients or episodes rather than over seeds. ``setting`` names the hyper-parameter value
    that the arm ran with (see :meth:`Run.settings`).
    """

    arm: str
    metric: str
    value: float
    x: float | None = None
    unit: str | None = None
    setting: str | None = None


@dataclass(frozen=True)
class Preset:
    """A configuration with the number of reported seeds, and of tuning seeds that the reported ones never touch."""

    config: Any
    seeds: int
    tuning_seeds: int = 0

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds}: a preset needs at least one seed")
        if self.tuning_seeds < 0:
            raise ValueError(f"tuning_seeds={self.tuning_seeds}: must be zero or more")


@dataclass(frozen=True)
class Saved:
    """An array that a trial saved, with the seed and the condition it belongs to."""

    name: str
    seed: int
    condition: Mapping[str, Any]
    value: NDArray[Any]


class Arrays:
    """What the trials of a run saved: ``arrays["spectrum"]`` is the list of every :class:`Saved` of that name."""

    def __init__(self, saved: Sequence[Saved] = ()) -> None:
        self._saved = list(saved)

    def __getitem__(self, name: str) -> list[Saved]:
        found = [s for s in self._saved if s.name == name]
        if not found:
            raise KeyError(f"no array named {name!r} was saved; there are {sorted({s.name for s in self._saved})}")
        return found

    def __contains__(self, name: str) -> bool:
        return any(s.name == name for s in self._saved)


@dataclass
class Run:
    """The little that a trial needs from the laboratory. ``Run()`` alone is enough to call a trial by hand.

    ``device`` is where to compute; ``fabric`` is a launched Lightning Fabric where one training is to take several
    processes (``landform run --devices``), for :func:`landform.training.fit`. ``folder`` survives a kill: long
    trainings keep their checkpoints there. ``chosen`` maps each arm that has settings to the one that the tuning seeds
    chose; it is None while settings are open: on a tuning seed, in a study without tuning seeds, and by hand.
    """

    device: str = "cpu"
    chosen: Mapping[str, str] | None = None
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    on_progress: Callable[[float, str], None] = lambda fraction, note: None
    work: Path | None = None
    fabric: Fabric | None = None

    @property
    def folder(self) -> Path:
        """A folder of this trial's own, made when first asked for."""
        if self.work is None:
            self.work = Path(tempfile.mkdtemp(prefix="landform-"))
        self.work.mkdir(parents=True, exist_ok=True)
        return self.work

    @property
    def tuning(self) -> bool:
        """Whether hyper-parameters are still open: every setting is to be measured."""
        return self.chosen is None

    def settings(self, arm: str, grid: Sequence[Setting]) -> Sequence[Setting]:
        """The hyper-parameter values that ``arm`` is to be run with: the whole ``grid`` while settings are open, and
        else only the value that the tuning seeds chose. Records carry the value as ``setting=str(value)``.

        Raises:
            KeyError: the arm recorded no setting on the tuning seeds.
            ValueError: what was chosen for it is not in ``grid``.
        """
        if self.chosen is None:
            return grid
        if arm not in self.chosen:
            raise KeyError(f"arm {arm!r} recorded no setting on the tuning seeds, only {sorted(self.chosen)} did")
        values = [value for value in grid if str(value) == self.chosen[arm]]
        if not values:
            raise ValueError(f"{self.chosen[arm]!r} was chosen for {arm!r}, but its grid is {list(grid)}")
        return values

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far the trial is."""
        self.on_progress(min(1.0, done / total) if total else 1.0, note)

    def save(self, name: str, array: Any) -> None:
        """Keep an array (NumPy, or a tensor from any device) for the study's figure."""
        if hasattr(array, "detach"):
            array = array.detach().cpu().numpy()
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise TypeError(f"save({name!r}): arrays of objects cannot be stored, only numbers, booleans and text")
        self.arrays[name] = array


class Trial(Protocol):
    """One seed of a study: every arm on the same data, initialisation and budget."""

    def __call__(self, config: Any, seed: int, run: Run, /) -> Iterator[Record]: ...


class Draw(Protocol):
    """A study's figure, from stored records (one row a record) and arrays alone."""

    def __call__(self, records: pd.DataFrame, arrays: Arrays, /) -> Figure: ...


TrialT = TypeVar("TrialT", bound=Callable[..., Iterator[Record]])
DrawT = TypeVar("DrawT", bound=Callable[..., Any])


class Study:
    """A paper's claims and the trial that tests them.

    Arguments:
        slug: the paper's name in the catalogue.
        claims: the first is the paper's headline; the others check its mechanism, or a control that the paper left out.
        presets: ``smoke`` (at most 10 s, never a verdict), ``laptop`` (at most 5 min on two cores, the verdict) and
            ``paper`` (the paper's own scale), each a Config or a :class:`Preset`.
        conditions: overrides of Config fields, crossed with the seeds; a trial just sees its ``config``.
        minimise: the metrics of which less is better.
        tune_by: the metric that chooses each arm's setting on the tuning seeds.
        may_diverge: metrics whose value may be non-finite; any other non-finite value fails the trial.
        reading: what the outcome at laptop scale means, in a sentence or two, for the study's page.

    Raises:
        ValueError, TypeError: a preset, condition or metric name that cannot be right.
    """

    def __init__(
        self,
        slug: str,
        *,
        claims: Sequence[Claim],
        presets: Mapping[str, Any],
        conditions: Mapping[str, Sequence[Any]] | None = None,
        minimise: Sequence[str] = (),
        tune_by: str | None = None,
        may_diverge: Sequence[str] = (),
        reading: str = "",
    ) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug):
            raise ValueError(f"slug={slug!r}: use lower-case words joined by hyphens")
        if not claims:
            raise ValueError(f"{slug}: a study needs at least one claim")
        for name in presets:
            if name not in PRESETS:
                raise ValueError(f"{slug}: unknown preset {name!r}; allowed: {', '.join(PRESETS)}")
        self.slug = slug
        self.claims = tuple(claims)
        self.presets = {
            name: preset if isinstance(preset, Preset) else Preset(preset, DEFAULT_SEEDS[name])
            for name, preset in presets.items()
        }
        self.conditions = {name: tuple(values) for name, values in (conditions or {}).items()}
        self.minimise = frozenset(minimise)
        self.tune_by = tune_by
        self.may_diverge = frozenset(may_diverge)
        self.reading = reading
        self.run_trial: Trial | None = None
        self.draw: Draw | None = None
        self._check_configs()

    def _check_configs(self) -> None:
        kinds = {type(preset.config) for preset in self.presets.values()}
        if len(kinds) != 1:
            raise TypeError(f"{self.slug}: all presets must share one Config dataclass, not {sorted(map(str, kinds))}")
        (kind,) = kinds
        if not is_dataclass(kind):
            raise TypeError(f"{self.slug}: a preset's config must be a dataclass instance, not {kind.__name__}")
        known = {f.name for f in fields(kind)}
        for name, values in self.conditions.items():
            if name not in known:
                raise ValueError(f"{self.slug}: condition {name!r} is no field of {kind.__name__}: {sorted(known)}")
            if not values:
                raise ValueError(f"{self.slug}: condition {name!r} has no values")
        if self.tune_by is None and any(preset.tuning_seeds for preset in self.presets.values()):
            raise ValueError(f"{self.slug}: tuning seeds need tune_by, the metric that chooses the settings")

    def trial(self, function: TrialT) -> TrialT:
        """Decorator: the generator ``(config, seed, run) -> Iterator[Record]`` that measures every arm for one seed."""
        self.run_trial = function
        return function

    def figure(self, function: DrawT) -> DrawT:
        """Decorator: draws the study's figure from ``(records, arrays)``."""
        self.draw = function
        return function
