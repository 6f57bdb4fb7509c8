"""The meta flow matching study: its worlds, its arms, what it records, its paper preset, its figure."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from landform.data import PointPopulations
from landform.studies import meta_flow_matching as mfm
from landform.studies.meta_flow_matching import ARMS, WORLDS, Config, count, draw_world, study
from landform.study import Arrays, Record, Run, Saved

pytest.importorskip("torchdiffeq")

QUICK = replace(study.presets["smoke"].config, cellot_steps=0)


def run(config: Config, seed: int = 0) -> tuple[list[Record], Run]:
    it = Run()
    return list(mfm.trial(config, seed, it)), it


def test_test_letters_and_typefaces_are_never_trained_on():
    train, judged, (few,) = draw_world(replace(Config(), letter_diversity=(4,)), 0, "cpu")
    assert len(train) == 24 * 12
    assert judged["w2"].names["character"] == ("X", "Y")
    assert judged["face_w2"].names == {"character": train.names["character"], "face": Config().unseen_faces}
    assert train.names["face"] == ("DejaVu Sans",)
    number = judged["train_w2"].fields["number"]
    assert torch.equal(judged["train_w2"].x0, train.x0[number])
    assert (len(few), count(Config(), few)) == (4 * 12, 4)


def test_smaller_training_sets_are_parts_of_the_larger():
    config = replace(Config(), world="interacting")
    train, judged, parts = draw_world(config, 0, "cpu")
    assert [count(config, part) for part in (*parts, train)] == [10, 30, 100, 300]
    assert all(torch.equal(part.x0, train.x0[: len(part)]) for part in parts)
    assert len(judged["w2"]) == 60
    again, other = (draw_world(config, seed, "cpu")[0] for seed in (0, 1))
    assert torch.equal(train.x0, again.x0)
    assert not torch.equal(train.x0, other.x0)


@pytest.mark.parametrize("world", WORLDS)
def test_a_trial_repeats_and_measures_every_arm(world):
    config = replace(QUICK, world=world)
    found, it = run(config)
    torch.rand(3)
    assert found == run(config)[0]
    assert found != run(config, 1)[0]
    assert all(np.isfinite(record.value) for record in found)
    everyone = {*ARMS, "identity", "mean_shift", "ideal_shift", "mfm_shuffled"}
    for metric in ("w1", "w2", "mmd"):
        assert {r.arm for r in found if r.metric == metric} == everyone
    value = {(r.arm, r.metric): r.value for r in found if r.x is None}
    assert all(value[arm, "w1"] <= value[arm, "w2"] for arm in everyone)
    assert value["ideal_shift", "w2"] < value["mean_shift", "w2"]
    assert ("fm", "face_w2") in value or world == "interacting"
    curve = {r.x: r.value for r in found if (r.arm, r.metric) == ("mfm", "diversity_w2")}
    full, part = np.log2([3, 2] if world == "letters" else [8, 4])
    assert curve[full] == value["mfm", "w2"]
    assert set(curve) == {full, part}
    assert it.arrays["examples"].shape[:2] == (2, 4)


def test_shuffled_embeddings_are_those_of_another_letter(monkeypatch):
    told = []
    real = mfm.MetaFlowMatching.transport

    def watched(self, x0, **options):
        told.append((self.encoder(x0), options.get("embedding")))
        return real(self, x0, **options)

    monkeypatch.setattr(mfm.MetaFlowMatching, "transport", watched)
    train, judged, _ = draw_world(QUICK, 0, "cpu")
    unseen = judged["w2"]
    ARMS["mfm"](QUICK, train, 0)(unseen.x0, shuffled=True)
    ((own, given),) = told
    letter = unseen.fields["character"]
    came_from = torch.cdist(given, own).argmin(1)
    assert (letter[came_from] != letter).all()
    torch.testing.assert_close(given, own[came_from])


def test_cgfm_knows_the_numbers_of_training_populations(monkeypatch):
    seen = []
    real = mfm.ConditionalFlowMatching.transport

    def watched(self, x0, environment=None, **options):
        seen.append(None if environment is None else environment.tolist())
        return real(self, x0, environment, **options)

    monkeypatch.setattr(mfm.ConditionalFlowMatching, "transport", watched)
    run(QUICK)
    numbers = draw_world(QUICK, 0, "cpu")[1]["train_w2"].fields["number"].tolist()
    assert seen == [None, None, numbers]  # new letters, new typefaces, training populations


def test_flows_of_one_seed_begin_alike():
    train, judged, _ = draw_world(QUICK, 0, "cpu")
    still = replace(QUICK, learning_rate=0.0)
    first, again = (ARMS["mfm"](still, train, 0)(judged["w2"].x0) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, ARMS["mfm"](still, train, 1)(judged["w2"].x0))


def test_the_paper_preset_takes_steps_on_few_letters():
    paper = study.presets["paper"].config
    tiny = replace(
        paper, letters="AB", rotations=1, letter_points=60, letter_steps=2, letter_diversity=(1,), points=50,
        unseen_faces=("STIX",), cellot_steps=1, judged_training=2,
    )  # fmt: skip
    train, _, _ = draw_world(tiny, 0, "cpu")
    assert isinstance(train, PointPopulations)
    found, _ = run(tiny)
    assert {r.arm for r in found if r.metric == "w2"} >= {*ARMS, "cellot"}
    assert all(np.isfinite(r.value) for r in found)
    assert paper.letter_steps == 24 * 10 // paper.batch_size * 12_000


def test_the_figure_is_drawn_from_records_and_arrays():
    rows, saved = [], []
    for world in WORLDS:
        for seed in (0, 1):
            found, it = run(replace(QUICK, world=world), seed)
            rows += [dataclasses.asdict(r) | {"seed": seed, "role": "reported", "world": world} for r in found]
            saved += [Saved(name, seed, {"world": world}, array) for name, array in it.arrays.items()]
    fig = mfm.figure(pd.DataFrame(rows), Arrays(saved))
    fig.canvas.draw()
    first = fig.axes[:6]
    assert [ax.get_title() for ax in first[:4]] == ["source", "FM", "MFM", "target"]
    assert len(first[0].collections[0].get_offsets()) == QUICK.letter_points
    assert len(first[4].get_yticklabels()) == len(ARMS) + 4
    assert len(fig.axes[11].get_lines()) == 2  # the diversity curves, of FM and MFM


@pytest.mark.parametrize(
    ("change", "match"),
    [({"world": "cells"}, "world='cells'"), ({"noise": -1.0}, "noise"), ({"unseen_letters": "AX"}, "unseen_letters")],
)
def test_impossible_configs_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        replace(Config(), **change)
