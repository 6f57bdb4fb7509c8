"""A store with runs of every kind that a report must show, made through the store's own interface.

The studies have the names of real papers and made-up numbers; ``load_sample`` stands in for ``load_study``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from landform.claims import Better, Correlates, Equivalent, Grows, Holds, Trend
from landform.lab.errors import UsageError
from landform.lab.fingerprint import study_fingerprint
from landform.lab.identity import RunKey, TrialKey, plain
from landform.lab.store import Store
from landform.study import Arrays, Preset, Record, Run, Study

HOSTILE = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class Config:
    data: str = "digits"
    noise: float = 0.2
    gain: float = 0.03
    widths: tuple[int, ...] = (64, 64)
    pretrained: bool = False
    fails_on: int | None = None


def study_of(slug: str, claims: Sequence[Any], **options: Any) -> Study:
    base = Config(**options.pop("config", {}))
    presets = {
        "smoke": Preset(replace(base, widths=(8,)), seeds=1),
        "laptop": Preset(base, seeds=8, tuning_seeds=2),
        "paper": Preset(replace(base, data="hf:cifar10", widths=(512, 512)), seeds=3),
    }
    return Study(slug, claims=claims, presets=presets, tune_by="accuracy", **options)


BASELINES = {"synflow": 0.0, "snip": -0.02, "grad_norm": -0.05}


def measure(config: Config, seed: int, run: Run) -> Iterator[Record]:
    if config.fails_on == seed:
        raise RuntimeError(f"loss is not finite {HOSTILE}")
    rng = np.random.default_rng([seed, int(10 * config.noise)])
    level = 0.8 + 0.03 * rng.normal()
    for arm, offset in {"ours": config.gain * (1 + 2 * config.noise), **BASELINES}.items():
        accuracy = level + offset - 0.2 * config.noise + 0.01 * rng.normal()
        for setting in run.settings(arm, (0.1, 0.3)):
            yield Record(arm, "accuracy", accuracy - 0.02 * (setting == 0.3), setting=str(setting))
        yield Record(arm, "loss", 1.1 - accuracy)
        yield Record(arm, "steps", 1e6 if arm == "ours" and seed == 3 and config.noise > 0.3 else 2.5e5 + 1e3 * seed)
        for epoch in range(1, 13):
            yield Record(arm, "curve", accuracy * (1 - np.exp(-epoch / 3)), x=float(epoch))
    for unit in range(12):
        score = rng.normal()
        yield Record("ours", "score", score, unit=f"net {unit}")
        yield Record("ours", "truth", score + 0.6 * rng.normal(), unit=f"net {unit}")
    for size in (1, 2, 4, 8):
        yield Record("ours", "time", 0.01 * size ** (1.5 + 0.01 * rng.normal()), x=float(size))
    yield Record("ours", "deviation", abs(1e-9 * rng.normal()))
    run.save("spectrum", rng.normal(size=50))


def figure(records: pd.DataFrame, arrays: Arrays) -> Any:
    """Accuracy over training, mean of the reported seeds with 95 % intervals, at the first noise level.

    This second paragraph is for programmers.
    """
    import matplotlib.pyplot as plt

    curves = records[(records["metric"] == "curve") & (records["role"] == "reported")]
    drawn, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), width_ratios=(2, 1), layout="constrained")
    for arm, group in curves.groupby("arm", sort=False):
        by_x = group.groupby("x")["value"]
        mean, half = by_x.mean(), 1.96 * by_x.std().fillna(0) / np.sqrt(by_x.size())
        (line,) = left.plot(mean.index, mean, label=arm)
        left.fill_between(mean.index, mean - half, mean + half, alpha=0.2, color=line.get_color(), lw=0)
        left.annotate(arm, (12, mean.iloc[-1]), (6, 0), textcoords="offset points", color=line.get_color(), va="center")
    left.set(xlabel="epoch", ylabel="test accuracy", title="Learning curves", xlim=(1, 14.5))
    right.hist(np.concatenate([saved.value for saved in arrays["spectrum"]]), 20)
    right.set(xlabel="eigenvalue", ylabel="count", title="Spectrum")
    return drawn


def broken_figure(records: pd.DataFrame, arrays: Arrays) -> Any:
    raise ZeroDivisionError(f"no records of that arm {HOSTILE}")


NOISES = {"noise": (0.2, 0.4)}
HEADLINE = Better("accuracy", "ours", than=tuple(BASELINES))

STUDIES = {
    "gradsign": study_of(
        "gradsign",
        [
            HEADLINE,
            Trend("accuracy", "ours", "noise", than="snip"),
            Correlates("score", "truth", at_least=0.3, says=f"The score ranks networks {HOSTILE}"),
            Equivalent("loss", "synflow", "snip", within=0.01),
            Better("steps", "ours", "snip", at={"noise": 0.4}),
            Grows("time", "x", 1.5, arm="ours"),
            Holds("deviation", at_most=1e-6),
            Better("recall", "ours", "snip"),
        ],
        conditions=NOISES,
        minimise=("loss", "steps"),
        reading="The gain is real but small at this scale, and half of it goes when the number of parameters is given.",
    ),
    "ldr-losses": study_of("ldr-losses", [HEADLINE], conditions=NOISES, config={"gain": -0.08, "fails_on": 2}),
    "uba-schedule": study_of(
        "uba-schedule", [Better("accuracy", "ours", than="synflow", by=0.002)], config={"gain": 0.001}
    ),
    "fedka": study_of("fedka", [Better("loss", "ours", than="snip")], minimise=("loss",)),
    "neural-collapse": study_of("neural-collapse", [HEADLINE]),
}
for _study in STUDIES.values():
    _study.trial(measure)
    _study.figure(broken_figure if _study.slug == "fedka" else figure)


def load_sample(slug: str) -> Study:
    if slug not in STUDIES:
        raise UsageError(f"the study of {slug} does not exist yet {HOSTILE}")
    return STUDIES[slug]


def run_key(study: Study, preset: str, fingerprint: str | None = None, **overrides: Any) -> RunKey:
    config = replace(study.presets[preset].config, **overrides)
    fingerprint = fingerprint or study_fingerprint(study)
    return RunKey(study=study.slug, preset=preset, config=plain(config), fingerprint=fingerprint, overrides=overrides)


def add_run(store: Store, study: Study, run: RunKey, seeds: int, tuning_seeds: int = 0) -> None:
    """Runs the study's trials one after the other and stores them, as the runner does."""
    config = Config(**run.config)
    conditions = [{"noise": noise} for noise in study.conditions.get("noise", ())] or [{}]
    for condition in conditions:
        for role, numbers in (("tuning", range(1000, 1000 + tuning_seeds)), ("reported", range(seeds))):
            chosen = dict.fromkeys(("ours", *BASELINES), "0.1") if role == "reported" else None
            for seed in numbers:
                add_trial(store, TrialKey(run, condition, seed, role, chosen), replace(config, **condition), chosen)  # type: ignore[arg-type]


def add_trial(store: Store, key: TrialKey, config: Config, chosen: Mapping[str, str] | None) -> None:
    store.take([key], "test", limit=1)
    run = Run(chosen=chosen)
    environment = {"python": "3.12.1", "torch": "2.13.0", "cpu": "A processor <of> some kind", "threads": 1}
    try:
        records = list(measure(config, key.seed, run))
    except RuntimeError as error:
        store.fail(key, "test", f"Traceback …\nRuntimeError: {error}", seconds=0.1, environment=environment)
    else:
        store.finish(key, "test", records, run.arrays, seconds=1.5, environment=environment)


def make_store(path: Path) -> Path:
    """One run or more of each sample study, and one of a study that no one knows."""
    with Store(path, create=True) as store:
        main = STUDIES["gradsign"]
        add_run(store, main, run_key(main, "laptop", "0" * 64, gain=0.5), 3)
        add_run(store, main, run_key(main, "laptop"), 8, 2)
        add_run(store, main, run_key(main, "laptop", gain=0.0, widths=(8, 16), data="folder:/my data"), 3)
        add_run(store, main, run_key(main, "smoke"), 1)
        for slug in ("ldr-losses", "uba-schedule", "fedka"):
            add_run(store, STUDIES[slug], run_key(STUDIES[slug], "laptop"), 8)
        add_run(store, STUDIES["neural-collapse"], run_key(STUDIES["neural-collapse"], "smoke"), 3)
        stranger = Study("my-own-study", claims=[HEADLINE], presets={"laptop": Config()})
        add_run(
            store,
            stranger,
            RunKey(study="my-own-study", preset="laptop", config=plain(Config()), overrides={}, fingerprint="1" * 64),
            2,
        )
    return path
