"""Omniglot's archives: made-up ones, and the real small sets where they are there."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landform import data
from landform.data import EpisodeSampler


def drawing(seed: int, size: int = 105) -> bytes:
    """A white page with one black stroke of its own."""
    pixels = np.full((size, size), 255, dtype=np.uint8)
    pixels[5 + seed : 15 + seed, 20:80] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return file.getvalue()


def archive(path: Path, alphabets: dict[str, int], drawers: int = 4) -> Path:
    """An archive with so many characters of each alphabet."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{path.stem}/readme.txt", "not a drawing")
        for alphabet, count in alphabets.items():
            for c in range(count):
                for d in range(drawers):
                    name = f"{path.stem}/{alphabet}/character{c + 1:02d}/{c:04d}_{d + 1:02d}.png"
                    file.writestr(name, drawing(4 * c + d))
    return path


@pytest.fixture
def both(tmp_path):
    archive(tmp_path / "images_background.zip", {"Runes": 4, "Signs": 8})
    archive(tmp_path / "images_evaluation.zip", {"Moon": 3})
    return tmp_path


def test_background_trains_and_evaluation_tests(both):
    splits = data.load(f"omniglot:{both}")
    train, test = splits["train"], splits["test"]
    assert train.x.shape == (48, 1, 28, 28)
    assert len(test) == 12
    assert train.classes == test.classes
    assert not set(train.y.tolist()) & set(test.y.tolist())
    assert {test.classes[y] for y in test.y.tolist()} == {f"Moon/character0{i}" for i in (1, 2, 3)}
    assert train.names["script"] == ("Moon", "Runes", "Signs")
    of = [train.classes[y].split("/")[0] for y in train.y.tolist()]
    assert of == [train.names["script"][s] for s in train.fields["script"].tolist()]
    assert train.fields["drawer"].bincount(minlength=20).tolist() == [12] * 4 + [0] * 16


def test_ink_is_white_and_where_it_was_drawn(both):
    split = data.load(f"omniglot:{both}?size=105")["train"]
    first = split.x[(split.y == split.classes.index("Signs/character03")) & (split.fields["drawer"] == 1)]
    expected = torch.zeros(1, 1, 105, 105)
    expected[:, :, 5 + 9 : 15 + 9, 20:80] = 1
    assert torch.equal(first, expected)


def test_one_set_alone_holds_out_characters_of_each_alphabet(both):
    splits = data.load(f"omniglot:{both / 'images_background.zip'}?test_fraction=0.25")
    names = [splits["test"].classes[y] for y in splits["test"].y.unique().tolist()]
    assert sorted(name.split("/")[0] for name in names) == ["Runes", "Signs", "Signs"]
    assert not set(splits["train"].y.tolist()) & set(splits["test"].y.tolist())
    assert len(splits["train"]) + len(splits["test"]) == 48
    assert len(data.load(f"omniglot:{both / 'images_background.zip'}?limit=7")["train"]) == 7


def test_alphabets_of_several_background_sets_are_taken_once(tmp_path):
    archive(tmp_path / "images_background_small1.zip", {"Runes": 4, "Signs": 4})
    archive(tmp_path / "images_background_small2.zip", {"Runes": 4, "Moon": 4})
    splits = data.load(f"omniglot:{tmp_path}")
    assert len(splits["train"]) + len(splits["test"]) == 3 * 4 * 4


def test_what_is_no_archive_of_omniglot_is_refused(tmp_path, both):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load(f"omniglot:{tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"images_evaluation\.zip"):
        data.load(f"omniglot:{tmp_path}/empty")
    (tmp_path / "images_text.zip").write_text("no archive")
    with pytest.raises(ValueError, match=r"images_text\.zip cannot be read"):
        data.load(f"omniglot:{tmp_path / 'images_text.zip'}")
    with pytest.raises(ValueError, match="none of Omniglot's"):
        data.load(f"omniglot:{archive(tmp_path / 'images_none.zip', {})}")
    with pytest.raises(ValueError, match="no drawing of Omniglot's 20 drawers"):
        data.load(f"omniglot:{archive(tmp_path / 'images_many.zip', {'Runes': 1}, drawers=21)}")
    with zipfile.ZipFile(tmp_path / "images_bad.zip", "w") as file:
        file.writestr("Runes/character01/0001_01.png", "no image")
    with pytest.raises(ValueError, match="Runes/character01/0 cannot be read as an image"):
        data.load(f"omniglot:{tmp_path / 'images_bad.zip'}")
    for name in ("images_text.zip", "images_none.zip", "images_many.zip", "images_bad.zip"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"test_fraction=0\.5"):
        data.load(f"omniglot:{both}?test_fraction=0.5")


def test_the_real_small_sets(shared_data):
    splits = data.load(f"omniglot:{shared_data('omniglot-small')}", size=20)
    whole = data.merge(*splits.values())
    assert whole.names["script"] == (
        "Balinese", "Early_Aramaic", "Greek", "Japanese_(katakana)", "Korean", "Latin", "Sanskrit", "Tagalog"
    )  # fmt: skip
    # Characters of these alphabets as published: 24, 22, 24, 47, 40, 26, 42 and 17, each drawn by twenty.
    script = torch.tensor([whole.names["script"].index(name.split("/")[0]) for name in whole.classes])
    assert script.bincount().tolist() == [24, 22, 24, 47, 40, 26, 42, 17]
    assert (whole.y.bincount() == 20).all()
    assert 0.02 < float(whole.x.mean()) < 0.15  # thin white strokes on black
    drawn = EpisodeSampler(splits["test"].y, 5, 1, 5, 300, torch.Generator().manual_seed(0)).sample()
    support, query = splits["test"].x[drawn].flatten(2).split([5, 25], 1)
    answers = torch.cdist(query, support).argmin(2)
    accuracy = (answers == torch.arange(5).repeat_interleave(5)).double().mean()
    assert 0.3 < accuracy < 0.8  # for cosines of pixels arXiv 1606.04080 gives 0.417
