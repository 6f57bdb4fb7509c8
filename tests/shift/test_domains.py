"""Domains of glyphs and of folders, the protocols that hold some back, and the choice by held-out sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from landform.data import Split
from landform.shift import (
    BestCheckpoint,
    DomainTask,
    domain_batches,
    domain_task,
    leave_one_domain_out,
    load_domains,
    single_source,
)

FACES = ["DejaVu Sans", "DejaVu Serif", "STIX"]


@pytest.fixture
def glyphs() -> Split:
    return load_domains("glyphs:digits", typefaces=FACES, copies=10, size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two domains of two classes; every pixel of an image says where it comes from."""
    for d, domain in enumerate(("photo", "sketch")):
        for c, kind in enumerate(("cat", "dog")):
            where = tmp_path / domain / kind
            where.mkdir(parents=True)
            for i in range(5):
                pixels = np.full((4, 4) if domain == "sketch" else (4, 4, 3), 100 * d + 50 * c + i, np.uint8)
                Image.fromarray(pixels).save(where / f"{i}.png")
    return tmp_path


def domains(split: Split) -> set[str]:
    return {split.names["domain"][n] for n in split.fields["domain"].tolist()}


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.x}


# --- loading -----------------------------------------------------------------------------------------------------


def test_typefaces_are_the_domains_of_glyphs(glyphs: Split) -> None:
    assert glyphs.names["domain"] == tuple(FACES)
    assert torch.equal(glyphs.fields["domain"], glyphs.fields["typeface"])
    assert len(glyphs) == 3 * 10 * 10
    scripts = load_domains("glyphs:digits,greek?size=8", by="script")
    assert domains(scripts) == {"digits", "greek"}


@pytest.mark.parametrize("query", ["", "?test_fraction=0.4"])
def test_the_first_level_of_a_folder_is_the_domain(folder: Path, query: str) -> None:
    split = load_domains(f"folder:{folder}{query}")
    assert split.names["domain"] == ("photo", "sketch")
    assert split.classes == ("cat", "dog")
    assert split.x.shape == (20, 3, 4, 4)
    value = (split.x[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(value // 100, split.fields["domain"])
    assert torch.equal(value % 100 // 50, split.y)
    assert len(set(value.tolist())) == 20


def test_options_reach_every_domain(folder: Path) -> None:
    split = load_domains(f"folder:{folder}", size=2, grayscale=True)
    assert split.x.shape == (20, 1, 2, 2)


def test_what_cannot_be_loaded_is_named(folder: Path) -> None:
    (folder / "sketch" / "cat").rename(folder / "sketch" / "cow")
    with pytest.raises(ValueError, match="photo and sketch differ in classes: cat, cow"):
        load_domains(f"folder:{folder}")
    with pytest.raises(ValueError, match="at least two folders"):
        load_domains(f"folder:{folder / 'photo' / 'cat'}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_domains("folder:/nowhere")
    with pytest.raises(ValueError, match=r"by='font'.*typeface, script"):
        load_domains("glyphs:digits?size=8", by="font")
    with pytest.raises(ValueError, match="by=''"):
        load_domains("digits")


# --- protocols ---------------------------------------------------------------------------------------------------


def check(task: DomainTask, whole: Split) -> None:
    """Targets are seen in the test alone, sources nowhere in it, and no sample is lost or in two places."""
    assert domains(task.train) == domains(task.validation) == set(task.sources)
    assert domains(task.test) == set(task.targets)
    assert not set(task.sources) & set(task.targets)
    parts = (task.train, task.validation, task.test)
    assert sum(map(len, parts)) == len(whole)
    assert sum(len(rows(part)) for part in parts) == len(set.union(*map(rows, parts)))
    for name in task.sources:  # a fifth of every class of every source
        for c in range(10):
            counts = [
                int(((part.y == c) & (part.fields["domain"] == FACES.index(name))).sum())
                for part in (task.train, task.validation)
            ]
            assert counts == [8, 2]


def test_leave_one_out_and_single_source(glyphs: Split) -> None:
    tasks = list(leave_one_domain_out(glyphs))
    assert [task.targets for task in tasks] == [(face,) for face in FACES]
    singles = list(single_source(glyphs))
    assert [task.sources for task in singles] == [(face,) for face in FACES]
    for task in tasks + singles:
        check(task, glyphs)
    by_domain = singles[0].test_by_domain()
    assert {name: domains(part) for name, part in by_domain.items()} == {name: {name} for name in FACES[1:]}
    assert all(len(part) == 100 for part in by_domain.values())


def test_a_seed_draws_the_held_out_part(glyphs: Split) -> None:
    first, again, other = (domain_task(glyphs, sources=FACES[:1], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.x, again.validation.x)
    assert rows(first.validation) != rows(other.validation)
    assert torch.equal(first.test.x, other.test.x)


def test_a_task_may_leave_domains_out(glyphs: Split) -> None:
    task = domain_task(glyphs, sources=["STIX"], targets=["DejaVu Sans"])
    assert (task.sources, task.targets) == (("STIX",), ("DejaVu Sans",))
    assert domains(task.train) | domains(task.test) == {"STIX", "DejaVu Sans"}


def test_tasks_that_cannot_be(glyphs: Split) -> None:
    wrong: list[tuple[str, Callable[[], Any]]] = [
        ("at least one", lambda: domain_task(glyphs)),
        ("unknown domain 'Arial'", lambda: domain_task(glyphs, sources=["Arial"])),
        ("'STIX' is a source and a target", lambda: domain_task(glyphs, sources=["STIX"], targets=["STIX"])),
        ("both must hold", lambda: domain_task(glyphs, sources=FACES)),
        ("test_fraction=1.5", lambda: domain_task(glyphs, sources=["STIX"], fraction=1.5)),
        ("no field 'domain'", lambda: domain_task(Split(torch.zeros(2, 1), torch.zeros(2).long()), sources=["a"])),
        ("only STIX", lambda: list(single_source(glyphs[glyphs.fields["domain"] == 2]))),
    ]
    for message, act in wrong:
        with pytest.raises(ValueError, match=message):
            act()


def test_batches_are_stacked_domain_after_domain(glyphs: Split) -> None:
    source = domain_batches(glyphs, 40, torch.Generator().manual_seed(0))
    drawn = [next(source) for _ in range(4)]
    label = {
        image.numpy().tobytes(): (int(y), int(d))
        for image, y, d in zip(glyphs.x, glyphs.y, glyphs.fields["domain"], strict=True)
    }
    for x, y, d in drawn:
        assert d.tolist() == [0] * 40 + [1] * 40 + [2] * 40
        assert [label[image.numpy().tobytes()] for image in x] == list(zip(y.tolist(), d.tolist(), strict=True))
    # 100 samples a domain: two batches are of one permutation, the third begins another.
    first = torch.cat([drawn[0][0][:40], drawn[1][0][:40]])
    assert len({image.numpy().tobytes() for image in first}) == 80
    with pytest.raises(ValueError, match="batch_size=101"):
        next(domain_batches(glyphs, 101))
    with pytest.raises(ValueError, match="no field"):
        next(domain_batches(Split(torch.zeros(2, 1), torch.zeros(2).long()), 1))


# --- the choice of a checkpoint ----------------------------------------------------------------------------------


def test_the_best_state_comes_back_with_its_optimiser() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    best = BestCheckpoint(model=model, optimizer=optimizer)
    with pytest.raises(RuntimeError, match="no score"):
        best.restore()
    weights, moments = [], []
    for step, score in enumerate((0.2, 0.7, 0.7, 0.1)):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        weights.append(model.weight.detach().clone())
        moments.append(optimizer.state[model.weight]["exp_avg"].clone())
        assert best.offer(score, step) == (step < 2)
    for _ in range(2):  # what is kept does not change with what was restored
        best.restore()
        assert (best.score, best.step) == (0.7, 1)
        assert torch.equal(model.weight, weights[1])
        assert torch.equal(optimizer.state[model.weight]["exp_avg"], moments[1])
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def test_no_choice_by_nan_or_of_nothing() -> None:
    with pytest.raises(ValueError, match="NaN"):
        BestCheckpoint(model=nn.Linear(1, 1)).offer(float("nan"), 0)
    with pytest.raises(ValueError, match="at least one part"):
        BestCheckpoint()
