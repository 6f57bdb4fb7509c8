"""Which trials a run consists of: conditions crossed with seeds, the tuning seeds first."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from landform.lab.errors import LabError, StudyError, UsageError
from landform.lab.identity import RunKey, TrialKey, canonical, plain
from landform.lab.overrides import typed_overrides
from landform.study import Study

if TYPE_CHECKING:
    import pandas as pd

FIRST_TUNING_SEED = 1_000_000
RECORD_COLUMNS = {"arm", "metric", "value", "x", "unit", "setting", "seed", "role"}


class Plan:
    """The trials of a study at a preset.

    Arguments:
        seeds: how many reported seeds, 0, 1, ...; the preset's number if None.
        overrides: Config fields as text (see :func:`typed_overrides`). One of a condition pins it to that one value.

    Raises:
        UsageError: a preset, number of seeds or override that is not allowed.
        StudyError: a condition that cannot be had or stored.
    """

    def __init__(
        self,
        study: Study,
        preset: str,
        *,
        seeds: int | None = None,
        overrides: Mapping[str, str] | None = None,
        fingerprint: str,
        device: str = "cpu",
    ) -> None:
        if preset not in study.presets:
            raise UsageError(f"{study.slug} has no preset {preset!r}; it has {', '.join(study.presets)}")
        if seeds is not None and not 1 <= seeds <= FIRST_TUNING_SEED:
            raise UsageError(f"seeds={seeds}: allowed are 1 to {FIRST_TUNING_SEED}")
        overrides = overrides or {}
        base = study.presets[preset]
        config = typed_overrides(base.config, overrides)
        pinned = {name: getattr(config, name) for name in overrides}
        self._values = {
            name: (pinned[name],) if name in pinned else values for name, values in study.conditions.items()
        }
        try:
            before, now = plain(base.config, "config"), plain(config, "config")
            self._configs = self._cross(study, config, UsageError if overrides else StudyError)
        except TypeError as error:
            raise StudyError(f"{study.slug}: {error}") from error
        self.run = RunKey(
            study=study.slug,
            preset=preset,
            config=now,
            fingerprint=fingerprint,
            overrides={name: value for name, value in now.items() if value != before[name]},
            device=device,
        )
        self.seeds = range(base.seeds if seeds is None else seeds)
        self.tuning_seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + base.tuning_seeds)

    def _cross(self, study: Study, config: Any, refusal: type[LabError]) -> dict[str, tuple[dict[str, Any], Any]]:
        """Every condition in plain terms with its Config, by the condition's JSON."""
        if clash := RECORD_COLUMNS & set(study.conditions):
            raise StudyError(f"{study.slug}: {', '.join(sorted(clash))} names a part of a record, so no condition can")
        crossed = {}
        for values in itertools.product(*self._values.values()):
            condition = dict(zip(self._values, values, strict=True))
            try:
                changed = dataclasses.replace(config, **condition)
            except (ValueError, TypeError) as error:
                at = ", ".join(f"{name} = {value}" for name, value in condition.items())
                raise refusal(f"{study.slug}: not allowed where {at}: {' '.join(str(error).split())}") from error
            condition = plain(condition, "condition")
            crossed[canonical(condition)] = condition, changed
        return crossed

    @property
    def conditions(self) -> list[dict[str, Any]]:
        """What is crossed with the seeds; one empty condition if the study has none."""
        return [condition for condition, _ in self._configs.values()]

    @property
    def total(self) -> int:
        return len(self._configs) * (len(self.seeds) + len(self.tuning_seeds))

    def config(self, condition: Mapping[str, Any]) -> Any:
        """The Config of one of ``conditions``."""
        return self._configs[canonical(condition)][1]

    def tuning(self, condition: Mapping[str, Any]) -> list[TrialKey]:
        return [TrialKey(self.run, condition, seed, "tuning") for seed in self.tuning_seeds]

    def reported(self, condition: Mapping[str, Any], chosen: Mapping[str, str] | None) -> list[TrialKey]:
        return [TrialKey(self.run, condition, seed, "reported", chosen) for seed in self.seeds]


def choose(records: pd.DataFrame, tune_by: str, *, minimise: bool) -> dict[str, str]:
    """For each arm that has settings, the one whose mean of ``tune_by`` over the tuning seeds is best.

    A mean that is not finite is the worst; of equals, the one recorded first is chosen.

    Arguments:
        records: those of the tuning seeds under one condition.

    Raises:
        StudyError: a comparison that would be unfair, since some arm has more settings to choose from than another or
            was not measured at each on every seed; or settings without a value of ``tune_by``.
    """
    tuned = records[records["setting"].notna()]
    grids: dict[str, list[str]] = {}
    for arm, setting in tuned[["arm", "setting"]].drop_duplicates().itertuples(index=False):
        grids.setdefault(arm, []).append(setting)
    if len({len(grid) for grid in grids.values()}) > 1:
        sizes = ", ".join(f"{arm} has {len(grid)}" for arm, grid in grids.items())
        raise StudyError(f"unfair: every arm must be tuned over equally many settings, but {sizes}")
    scores = tuned[(tuned["metric"] == tune_by) & tuned["x"].isna()]
    means = {key: _mean(group) for key, group in scores.groupby(["arm", "setting", "seed"])["value"]}
    seeds = sorted(set(records["seed"]))
    sign = -1.0 if minimise else 1.0
    chosen = {}
    for arm, grid in grids.items():
        worth = {}
        for setting in grid:
            missing = [seed for seed in seeds if (arm, setting, seed) not in means]
            if missing:
                raise StudyError(
                    f"unfair: {arm} at {setting} has no {tune_by} on tuning seed {missing[0]}, by which it is chosen"
                )
            mean = sign * _mean(means[arm, setting, seed] for seed in seeds)
            worth[setting] = mean if math.isfinite(mean) else -math.inf
        chosen[arm] = max(grid, key=worth.__getitem__)
    return chosen


def _mean(values: Iterable[float]) -> float:
    """Not pandas', which passes over NaN."""
    values = [float(value) for value in values]
    return sum(values) / len(values)
