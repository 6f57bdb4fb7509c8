"""Runs a study: plans its trials, has an engine carry them out, stores them, and asks what the claims came to."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from landform.claims import Claim, Finding
from landform.lab.engines import Engine, Inline, Job, Outcome, Processes
from landform.lab.errors import Interrupted, StudyError, UsageError
from landform.lab.fingerprint import study_fingerprint
from landform.lab.identity import RunKey, TrialKey, canonical
from landform.lab.machine import check_device, default_workers, environment
from landform.lab.owner import describe, ownership
from landform.lab.plan import Plan, choose
from landform.lab.store import Store
from landform.study import Study

if TYPE_CHECKING:
    import pandas as pd

Ending = Literal["done", "cached", "failed"]

POLL = 0.5
"""Seconds between looks at trials that another run computes."""

ATTEMPTS = 2
"""How often a trial is begun before it counts as failed, if its worker dies under it."""


class Observer:
    """Is told how a run goes. Does nothing of itself; override what is to be shown."""

    def planned(self, total: int) -> None:
        """The run has this many trials, stored ones among them."""

    def started(self, trial: TrialKey) -> None:
        """A trial has been given to a worker."""

    def progress(self, trial: TrialKey, fraction: float, note: str) -> None:
        """A trial tells how far it is."""

    def retrying(self, trial: TrialKey, reason: str) -> None:
        """A trial's worker died, and it is begun again."""

    def finished(self, trial: TrialKey, status: Ending, seconds: float, error: str | None) -> None:
        """A trial is settled; ``error`` is the traceback of one that failed, ``seconds`` is 0 for a cached one."""

    def waiting(self, trials: int, holder: str) -> None:
        """All that is left is being computed by other runs, such as ``holder``. Told again every half second."""


@dataclass(frozen=True)
class Tally:
    """How many trials a run has, and of these how many it computed, found stored, and could not get."""

    total: int
    done: int
    cached: int
    failed: int


@dataclass(frozen=True)
class RunResult:
    """What a run came to. ``findings`` has each claim of the study with what the records say of it."""

    study: str
    preset: str
    run: RunKey
    trials: Tally
    findings: list[tuple[Claim, Finding]]
    seconds: float


def run_study(
    study: Study,
    preset: str,
    *,
    seeds: int | None = None,
    overrides: Mapping[str, str] | None = None,
    store: Store,
    workers: int | None = None,
    device: str = "cpu",
    engine: Engine | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
) -> RunResult:
    """Run every trial of a study that the store does not have, and judge its claims from the stored records.

    The records are the same to the bit whatever ``workers`` is, and on a cluster of like machines. A trial that fails
    is stored with its traceback and the others go on; the next run tries it again. Two runs may share a store: each
    trial is computed by one of them.

    Arguments:
        seeds: how many reported seeds; the preset's own number if None.
        overrides: fields of the study's Config as text, such as ``{"steps": "100"}``.
        workers: worker processes; 0 runs the trials in this process. Default: one a core, or one on an accelerator.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; with an ``engine``, what that computes on.
        engine: what carries out the trials, in the place of ``workers`` processes of this machine.
        fresh: compute also what the store has; each stored trial is replaced when the new one has finished.

    Raises:
        UsageError: a preset, seeds, override, number of workers or device that is not allowed.
        StudyError: a study that breaks the rules of a fair comparison, or cannot be sent to the workers.
        StoreError: the store cannot be written.
        Interrupted: Ctrl-C. Finished trials are stored, and the same call goes on from there.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"workers={workers}: 0 or more")
    if engine is None:
        check_device(device)
    if study.run_trial is None:
        raise StudyError(f"{study.slug} has no @study.trial")
    plan = Plan(study, preset, seeds=seeds, overrides=overrides, fingerprint=study_fingerprint(study), device=device)
    began = time.perf_counter()
    with ownership() as owner, store.heartbeat(owner):
        try:
            with engine or _local(workers, device) as entered:
                run = _Run(study, plan, store, entered, owner, fresh, observer or Observer())
                run.go()
        except KeyboardInterrupt:
            message = "interrupted; the trials that finished are stored, and the same run goes on from there"
            raise Interrupted(message) from None
        finally:
            store.release(owner)
    records = store.records(plan.run, only=run.planned)
    return RunResult(
        study=study.slug,
        preset=preset,
        run=plan.run,
        trials=Tally(plan.total, run.endings["done"], run.endings["cached"], run.endings["failed"]),
        findings=[(claim, _finding(study, claim, records, preset != "smoke")) for claim in study.claims],
        seconds=time.perf_counter() - began,
    )


def _local(workers: int | None, device: str) -> Engine:
    """Worker processes of this machine, or this process alone for 0."""
    workers = default_workers(device) if workers is None else workers
    return Processes(workers) if workers else Inline()


def _finding(study: Study, claim: Claim, records: pd.DataFrame, verdict: bool) -> Finding:
    from landform.lab.verdicts import judge

    try:
        if records.empty:
            raise ValueError("no trial has finished")
        return judge(claim, records, minimise=study.minimise, tune_by=study.tune_by, verdict=verdict)
    except ValueError as error:
        return Finding(math.nan, math.nan, math.nan, 0, None, str(error))


class _Run:
    """One run under way."""

    def __init__(
        self, study: Study, plan: Plan, store: Store, engine: Engine, owner: str, fresh: bool, observer: Observer
    ) -> None:
        self.study = study
        self.plan = plan
        self.store = store
        self.engine = engine
        self.owner = owner
        self.fresh = fresh
        self.observer = observer
        self.since = time.time()
        self.environment = environment(plan.run.device)
        self.planned: list[TrialKey] = []
        self.pending: list[TrialKey] = []
        self.under_way: dict[str, TrialKey] = {}
        self.untuned: dict[str, set[TrialKey]] = {}
        self.deaths: Counter[TrialKey] = Counter()
        self.endings: Counter[Ending] = Counter()
        self.look_again = 0.0

    def go(self) -> None:
        self.observer.planned(self.plan.total)
        conditions = self.plan.conditions
        if self.plan.tuning_seeds:
            tuning = [self.plan.tuning(condition) for condition in conditions]
            self.untuned = {canonical(c): set(trials) for c, trials in zip(conditions, tuning, strict=True)}
            self.add(_by_seed(tuning))
        else:
            self.add(_by_seed([self.plan.reported(condition, None) for condition in conditions]))
        while self.pending or self.engine.busy:
            if self.pending and self.engine.free and time.monotonic() >= self.look_again:
                self.take()
            if self.engine.busy or time.monotonic() < self.look_again:
                for outcome in self.engine.wait(POLL, self.progress):
                    self.end(outcome)

    def add(self, trials: Iterable[TrialKey]) -> None:
        trials = list(trials)
        self.planned += trials
        self.pending += trials
        self.look_again = 0.0

    def take(self) -> None:
        """Settle what the store has, and start what is free as far as the engine allows."""
        taken = self.store.take(self.pending, self.owner, limit=self.engine.free, since=self.since, fresh=self.fresh)
        over = {*taken.claimed, *taken.done, *taken.failed}
        self.pending = [trial for trial in self.pending if trial not in over]
        for trial in taken.claimed:
            if self.fresh:
                shutil.rmtree(self.folder(trial), ignore_errors=True)
            self.start(trial)
        for trial in taken.done:
            self.settle(trial, "cached")
        for trial in taken.failed:
            self.settle(trial, "failed", error="it failed in another run just now")
        if self.pending and len(taken.held) == len(self.pending):
            self.look_again = time.monotonic() + POLL
            if not self.engine.busy:
                self.observer.waiting(len(self.pending), describe(next(iter(taken.held.values()))))

    def start(self, trial: TrialKey) -> None:
        assert self.study.run_trial is not None
        job = Job(
            trial.id,
            self.study.run_trial,
            self.plan.config(trial.condition),
            trial.seed,
            trial.chosen,
            trial.run.device,
            self.folder(trial),
            trial.randomness,
            self.study.may_diverge,
        )
        self.engine.start(job)
        self.under_way[trial.id] = trial
        self.observer.started(trial)

    def folder(self, trial: TrialKey) -> Path:
        return Path(f"{self.store.path.absolute()}.work") / trial.id[:16]

    def progress(self, job: str, fraction: float, note: str) -> None:
        self.observer.progress(self.under_way[job], fraction, note)

    def end(self, outcome: Outcome) -> None:
        trial = self.under_way.pop(outcome.id)
        if outcome.died and self.deaths[trial] + 1 < ATTEMPTS:
            self.deaths[trial] += 1
            self.store.retry(trial, self.owner)
            self.observer.retrying(trial, str(outcome.error))
            self.start(trial)
            return
        seconds, where = outcome.seconds, outcome.environment or self.environment
        if outcome.error is None:
            stored = self.store.finish(
                trial, self.owner, outcome.records, outcome.arrays, seconds=seconds, environment=where
            )
        else:
            stored = self.store.fail(trial, self.owner, outcome.error, seconds=seconds, environment=where)
        if not stored:  # Another run took it, as happens to a run that was suspended for long.
            self.pending.append(trial)
        elif outcome.error is None:
            self.clear(trial)
            self.settle(trial, "done", seconds)
        else:
            self.settle(trial, "failed", seconds, outcome.error)

    def clear(self, trial: TrialKey) -> None:
        folder = self.folder(trial)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # Other trials may have theirs there.
            folder.parent.rmdir()

    def settle(self, trial: TrialKey, ending: Ending, seconds: float = 0.0, error: str | None = None) -> None:
        self.endings[ending] += 1
        self.observer.finished(trial, ending, seconds, error)
        if trial.role == "tuning":
            untuned = self.untuned[canonical(trial.condition)]
            untuned.discard(trial)
            if not untuned:
                self.tuned(trial.condition)

    def tuned(self, condition: Mapping[str, Any]) -> None:
        """The tuning seeds of a condition are settled: choose each arm's setting and go on to its reported seeds."""
        records = self.store.records(self.plan.run, only=self.plan.tuning(condition))
        if records.empty:
            self.give_up(self.plan.reported(condition, None), "no tuning seed finished, so no setting could be chosen")
            return
        assert self.study.tune_by is not None
        chosen = choose(records, self.study.tune_by, minimise=self.study.tune_by in self.study.minimise)
        self.add(self.plan.reported(condition, chosen))

    def give_up(self, trials: list[TrialKey], reason: str) -> None:
        self.planned += trials
        taken = self.store.take(trials, self.owner, limit=len(trials), since=self.since)
        for trial in taken.claimed:
            self.store.fail(trial, self.owner, reason, seconds=0.0, environment=self.environment)
        for trial in trials:
            self.settle(trial, "failed", error=reason)


def _by_seed(trials: list[list[TrialKey]]) -> Iterable[TrialKey]:
    """The trials of all conditions, one seed after the other."""
    return itertools.chain.from_iterable(zip(*trials, strict=True))
