"""The MetaShift study: its album, its tasks, its training, its paper preset on stand-in images, its figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from landform.metrics import rank_agreement
from landform.shift import IRM, overlap_graph, spectral_distance
from landform.studies.metashift import ALGORITHMS, Config, Trainer, make_album, photograph, photographs, study
from landform.study import Arrays, Run, Saved

QUICK = replace(
    study.presets["smoke"].config,
    steps=2,
    checkpoint_every=1,
    pairs=Config().pairs[::4],
    minorities=(5,),
    per_class=300,
)


def run(config: Config, seed: int = 0) -> tuple[list[Any], Run]:
    kept = Run()
    return list(study.run_trial(config, seed, kept)), kept  # type: ignore[misc]


def test_subsets_are_those_of_the_tags() -> None:
    album = make_album(QUICK, 0)
    assert len(album.contexts) == 16
    ring, star = (album.graph(subject) for subject in QUICK.classes)
    assert len(ring) == len(star) == 16
    every = frozenset().union(*ring.members.values())
    assert every == set(range(300))
    assert album.subsets["ring(left)"] | album.subsets["ring(right)"] == every
    assert not album.subsets["ring(left)"] & album.subsets["ring(right)"]
    assert album.load(torch.tensor([3, 500]), None).shape == (2, 3, 16, 16)


def test_distances_in_the_graph_rank_as_those_of_the_contexts() -> None:
    names, weights = overlap_graph(make_album(replace(Config(), size=16), 0).graph("star"))
    places = torch.tensor([[float(v) for v in name[5:-1].split(",")] for name in names])
    graph, plane = spectral_distance(weights, 2)[0, 1:], torch.cdist(places, places)[0, 1:]
    assert rank_agreement(graph, plane).spearman > 0.8


def test_a_trial_is_deterministic_and_complete() -> None:
    (first, kept), (again, _) = run(QUICK), run(QUICK)
    assert first == again
    found = {(record.arm, record.metric) for record in first}
    for arm in ALGORITHMS:
        assert {(arm, m) for m in ("accuracy", "closeness", "worst_accuracy", "nearest_accuracy")} <= found
    assert ("erm_uniform", "mean_worst_accuracy") in found
    for record in first:
        if record.metric == "worst_gap":
            assert record.value >= 0
    assert kept.arrays["conflicts"].shape == (32, 32)
    assert np.abs(kept.arrays["conflicts"]).max() == pytest.approx(1)


def test_arms_start_alike_and_irm_begins_anew_at_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, steps=4, checkpoint_every=4, irm_anneal=3, irm_weight=0.0, learning_rate=1e-2)
    album = make_album(config, 0)
    trainer = Trainer(config, album, 0, "cpu")
    items, labels = torch.arange(280, 320), torch.arange(2).repeat_interleave(20)
    made: list[int] = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *a, **k: made.append(1) or adam(*a, **k))
    course = {}
    for arm in ("erm", "irm"):
        _, checkpoints = trainer.train(arm, items, labels, torch.zeros_like(labels), labels, 4)
        course[arm] = checkpoints
    assert len(made) == 3
    assert len(course["irm"]) == 2  # also where its weight jumps
    assert isinstance(trainer.criterion("irm", 24), IRM)
    assert not torch.equal(course["erm"][0]["head.weight"], trainer.start.head.weight)  # type: ignore[union-attr]


@pytest.fixture
def folder(tmp_path: Path) -> Config:
    """As published: numbered images of two classes, and an index of subsets that overlap."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(140):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(images / f"{number}.jpg")
    paper = study.presets["paper"].config
    contexts = [*dict.fromkeys((*paper.class_a, *(c for pair in paper.pairs for c in pair), paper.test))]
    index = {}
    for start, subject in ((0, "cat"), (68, "dog")):
        for k, context in enumerate(contexts):
            index[f"{subject}({context})"] = [start + (6 * k + i) % 72 for i in range(14)]
        index[f"{subject}(indoor)"] = list(range(start, start + 36))
        index[f"{subject}(outdoor)"] = list(range(start + 36, start + 72))
    path = tmp_path / "subsets.json"
    path.write_text(json.dumps(index))
    return replace(
        paper,
        images=str(images),
        index=str(path),
        weights="",
        size=32,
        pairs=paper.pairs[::3],
        steps=1,
        per_cell=2,
        min_size=2,
        total=40,
        minorities=(4,),
        test_per_group=5,
        conflict_images=2,
    )


def test_the_paper_preset_takes_a_step_on_stand_in_images(folder: Config) -> None:
    records, kept = run(folder)
    assert {record.unit for record in records if record.metric == "accuracy"} == {
        "cabinet & bed",
        "boat & surfboard",
    }
    assert all(np.isfinite(record.value) for record in records)
    album = photographs(folder)
    assert not album.graph("cat").members["cat(sofa)"] & album.graph("dog").members["dog(sofa)"]
    assert kept.arrays["contexts"].tolist() == list(album.contexts)


def test_whole_photographs_are_the_middle_and_augmented_ones_vary(folder: Config) -> None:
    whole = photograph(folder, 3, None)
    assert whole.shape == (3, 32, 32)
    assert torch.equal(whole, photograph(folder, 3, None))
    generator = torch.Generator().manual_seed(0)
    one, other = (photograph(folder, 3, generator) for _ in range(2))
    assert one.shape == (3, 32, 32)
    assert not torch.equal(one, other)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        photographs(replace(folder, images="nowhere"))


def test_real_metadata_gives_graphs(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("metashift") / "attribute_subsets.json"
    records, _ = run(replace(QUICK, metadata=str(path)))
    found = {(r.unit, r.metric): r.value for r in records if r.arm == "metadata"}
    assert [found[subject, "subsets"] for subject in ("cat", "dog", "wall", "man")] == [13, 13, 26, 20]
    assert all(found[subject, "edges"] > 0 for subject in ("cat", "man"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"net": "vgg"}, "net='vgg'"),
        ({"images": "here"}, "together"),
    ],
)
def test_bad_configs_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Config(), **options)


def test_the_figure_draws_what_there_is() -> None:
    rows, saved = [], []
    for seed in range(2):
        records, kept = run(QUICK, seed)
        rows += [{**vars(record), "seed": seed, "role": "reported"} for record in records]
        saved += [Saved(name, seed, {}, value) for name, value in kept.arrays.items()]
    fig = study.draw(pd.DataFrame(rows), Arrays(saved))  # type: ignore[misc]
    fig.canvas.draw()
    graph, distances, shares, conflicts = fig.axes[:4]
    assert len(graph.collections[0].get_offsets()) == 16
    assert len(distances.containers) == len(ALGORITHMS)
    assert len(shares.containers) == 2 * len(ALGORITHMS)
    assert conflicts.images[0].get_array().shape == (32, 32)
