"""The CEMA study: what a trial measures, which images it sees, and that the paper preset adapts on stand-in data."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from landform.models import ResNet
from landform.studies import cema
from landform.study import Arrays, Record, Run, Saved

TINY = cema.Config(
    data="glyphs:latin?size=20&typefaces=DejaVu Sans,DejaVu Serif",
    classes=5,
    copies=8,
    stream_copies=24,
    corruptions="brightness,pixelate",
    severity=1,
    edge_widths=(8, 16),
    foundation_widths=(8, 16),
    edge_steps=150,
    foundation_steps=150,
    train_rate=2e-2,
    upload_batch=16,
    rates=(3e-3,),
    highs=(0.7,),
)
ADAPTED = {"tent", "eata", "sar", "cema", "static", "no_replay", "random", "upload_all", "frozen_foundation"}


@pytest.fixture(scope="module")
def measured() -> tuple[list[Record], Run]:
    run = Run()
    return list(cema.trial(TINY, 3, run)), run


def value(records: list[Record], metric: str, arm: str, unit: str) -> float:
    (found,) = (r.value for r in records if (r.metric, r.arm, r.unit, r.x) == (metric, arm, unit, None))
    return found


def test_a_trial_repeats_and_measures_every_arm(measured):
    records, run = measured
    torch.rand(3)
    again = Run()
    assert list(cema.trial(TINY, 3, again)) == records
    assert all(np.array_equal(again.arrays[name], array) for name, array in run.arrays.items())
    for metric in ("accuracy", "uploaded"):
        found = {(r.arm, r.unit) for r in records if r.metric == metric}
        assert found == {(arm, unit) for arm in ADAPTED | {"none", "bn"} for unit in ("brightness", "pixelate")}
    assert all(0 <= r.value <= 100 for r in records)
    assert {r.x for r in records if r.metric == "swept_accuracy"} == {0.2, 0.4, 0.7}
    assert {r.arm for r in records if r.metric == "few_accuracy"} == {"cema", "eata", "no_replay"}
    bars = run.arrays["threshold"]
    assert bars.shape == (2 * 8, 3)  # 240 images in batches of 32, twice
    assert bars[0, 1] == pytest.approx(0.4 * np.log(5))


def test_uploads_are_those_of_the_arm(measured):
    records, _ = measured
    for unit in ("brightness", "pixelate"):
        uploaded = {arm: value(records, "uploaded", arm, unit) for arm in ADAPTED | {"none", "bn"}}
        assert uploaded["none"] == uploaded["bn"] == 0
        assert uploaded["tent"] == uploaded["upload_all"] == 100
        assert uploaded["random"] == uploaded["cema"]
        assert 0 < uploaded["cema"] < 100


def test_an_episode_begins_anew_and_a_continual_stream_does_not(measured):
    records, _ = measured
    alone = list(cema.trial(dataclasses.replace(TINY, corruptions="brightness"), 3, Run()))
    both = list(cema.trial(dataclasses.replace(TINY, order="continual"), 3, Run()))
    for arm in ("cema", "tent", "none"):
        assert value(alone, "accuracy", arm, "brightness") == value(records, "accuracy", arm, "brightness")
        assert value(both, "accuracy", arm, "brightness") == value(records, "accuracy", arm, "brightness")
    pixels = [
        {arm: value(found, "accuracy", arm, "pixelate") for arm in ("none", "bn", "cema", "tent", "upload_all")}
        for found in (records, both)
    ]
    assert pixels[0]["none"] == pixels[1]["none"]
    assert pixels[0] != pixels[1]
    mixed = list(cema.trial(dataclasses.replace(TINY, order="mixed"), 3, Run()))
    assert {r.unit for r in mixed} == {"mixed"}


def test_the_source_is_scored_on_the_stream():
    clean = cema.clean_parts(TINY, 3, tuning=False)
    assert clean is not None
    edge, _ = cema.pretrained(TINY, clean, 3, Run())
    assert not edge.training
    right = seen = 0
    for batch in cema.stream(dataclasses.replace(TINY, corruptions="brightness"), clean, 3):
        right += int((edge(batch.x).argmax(1) == batch.y).sum())
        seen += len(batch.y)
    assert seen == len(clean[1]) == 240
    alone = list(cema.trial(dataclasses.replace(TINY, corruptions="brightness"), 3, Run()))
    assert value(alone, "accuracy", "none", "brightness") == pytest.approx(100 * right / seen)


def test_tuning_measures_every_setting_on_validation_images():
    config = dataclasses.replace(TINY, rates=(1e-3, 1e-2), corruptions="brightness")
    tuning = list(cema.trial(config, 3, Run()))
    assert {r.metric for r in tuning} == {"validation_accuracy", "validation_uploaded"}
    settings = {(r.arm, r.setting) for r in tuning}
    assert settings == {(arm, str(rate)) for arm in ADAPTED for rate in config.rates} | {("none", None), ("bn", None)}
    for setting in ("0.001", "0.01"):
        shares = {r.arm: r.value for r in tuning if (r.metric, r.setting) == ("validation_uploaded", setting)}
        assert shares["random"] == shares["cema"]
    chosen = dict.fromkeys(ADAPTED, "0.001") | {"random": "0.01"}
    reported = list(cema.trial(config, 3, Run(chosen=chosen)))
    assert {r.setting for r in reported if r.arm == "random"} == {"0.01"}
    assert value(reported, "uploaded", "random", "brightness") == value(reported, "uploaded", "cema", "brightness")
    held = cema.clean_parts(config, 3, tuning=True)[1]
    assert len(held) == 120
    test = cema.clean_parts(config, 3, tuning=False)[1]
    assert not torch.equal(held.x, test.x[: len(held)])
    own = dataclasses.replace(config, data="digits", classes=0, copies=0)
    parts = [cema.clean_parts(own, 3, tuning=tuning) for tuning in (True, False)]
    assert len(parts[0][0]) + len(parts[0][1]) == len(parts[1][0])  # a quarter of the training split is held out


def test_the_figure_is_drawn_from_records_and_arrays():
    records, saved = [], []
    for seed in (3, 4):
        run = Run()
        records += [dataclasses.asdict(r) | {"seed": seed, "role": "reported"} for r in cema.trial(TINY, seed, run)]
        saved += [Saved(name, seed, {}, array) for name, array in run.arrays.items()]
    left, right = cema.figure(pd.DataFrame(records), Arrays(saved)).axes
    assert {text.get_text() for text in left.texts} == set(cema.NAMES.values())
    assert [text.get_text() for text in right.texts if text.get_text()]
    assert len(right.lines) == 4  # threshold and entropy of two corruptions


def folder_of_images(path, classes: int, each: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for c in range(classes):
        (path / f"n{c}").mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"n{c}" / f"{i}.png")


def test_the_paper_preset_adapts_on_stand_in_data(tmp_path):
    paper = cema.study.presets["paper"].config
    for number, name in enumerate(("snow", "fog")):
        folder_of_images(tmp_path / "imagenet-c" / name / "3", 3, 4, number)
    for depth in (18, 101):
        torch.manual_seed(depth)
        net = ResNet(depth, 3, stem_kernel=7, stem_stride=2, stem_pool=True)
        save_file(net.state_dict(), tmp_path / f"resnet{depth}.safetensors")
    tiny = dataclasses.replace(
        paper,
        corrupted=f"folder:{tmp_path}/imagenet-c/{{corruption}}/{{severity}}?size=32",
        corruptions="snow,fog",
        edge_weights=str(tmp_path / "resnet18.safetensors"),
        foundation_weights=str(tmp_path / "resnet101.safetensors"),
        batch_size=6,
        upload_batch=4,
        highs=(),
    )
    assert cema.clean_parts(tiny, 0, tuning=False) is None
    edge, foundation = cema.pretrained(tiny, None, 0, Run())
    stream = list(cema.stream(tiny, None, 0))
    assert [(len(batch.x), batch.fresh, int(batch.corruption[0])) for batch in stream] == [
        (6, True, 0), (6, False, 0), (6, True, 1), (6, False, 1)
    ]  # fmt: skip
    arms = [a for a in cema.lined_up(tiny, edge, foundation, 0, Run(), sweep=False) if a.arm in ("upload_all", "cema")]
    tallies, _ = cema.streamed(iter(stream), arms, tiny, Run())
    assert {(arm.arm, unit) for arm, unit in tallies} == {
        (a, u) for a in ("cema", "upload_all") for u in ("snow", "fog")
    }
    assert all(tally.seen == 12 for tally in tallies.values())
    assert len(cema.IMAGENET_C.split(",")) == 15


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rates": ()}, "rates"),
        ({"rates": (0.0,)}, "rates"),
        ({"copies": -1}, "copies=-1"),
        ({"corrupted": "folder:x", "order": "mixed"}, "order='mixed'"),
        ({"corrupted": "folder:x", "rates": (1e-3, 1e-2)}, "one rate"),
    ],
)
def test_impossible_configs_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TINY, **change)


def test_unknown_corruptions_and_missing_images_are_named():
    with pytest.raises(ValueError, match="rain"):
        list(cema.trial(dataclasses.replace(TINY, corruptions="rain"), 0, Run()))
    missing = dataclasses.replace(TINY, corrupted="folder:/nowhere/{corruption}", edge_steps=1, foundation_steps=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(cema.trial(missing, 0, Run()))
