"""Glyphs: what is there, that it is what Unicode says, how it is split, and the cache."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from landform import data
from landform.data import glyphs as world
from landform.data.cache import cache_folder, cached
from landform.data.glyphs import SCRIPTS, TYPEFACES, atlas

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def whole() -> data.Split:
    return data.merge(*data.load("glyphs").values())


def of(whole: data.Split, character: str, typeface: str) -> torch.Tensor:
    """The one image of a character in a typeface."""
    found = (whole.y == whole.classes.index(character)) & (
        whole.fields["typeface"] == whole.names["typeface"].index(typeface)
    )
    return whole.x[found].squeeze()


def test_the_world_has_its_shape_and_size(whole):
    assert whole.x.shape[1:] == (1, 28, 28)
    assert whole.x.dtype == torch.float32
    assert whole.x.min() == 0
    assert whole.x.amax(dim=(1, 2, 3)).min() > 0.3  # ink in every image
    assert len(whole) > 10_000
    assert len(whole.classes) > 1_000
    assert whole.names["script"] == tuple(SCRIPTS)
    assert whole.names["typeface"] == tuple(TYPEFACES)
    latin = whole.fields["script"] == 0
    assert int(latin.sum()) == 52 * len(TYPEFACES)
    assert int((whole.fields["script"] == 1).sum()) == 10 * (len(TYPEFACES) - 1)


def test_classes_are_the_characters_and_every_pair_is_there_once(whole):
    assert [ord(whole.classes[y]) for y in whole.y.tolist()] == whole.fields["codepoint"].tolist()
    pairs = whole.y * len(TYPEFACES) + whole.fields["typeface"]
    assert len(pairs.unique()) == len(whole)
    assert whole.y.bincount().min() >= world.LEAST_TYPEFACES
    for number, script in enumerate(SCRIPTS):
        codes = whole.fields["codepoint"][whole.fields["script"] == number].tolist()
        assert all(any(low <= code <= high for low, high in SCRIPTS[script]) for code in codes)


def test_fonttools_finds_every_pair_in_the_fonts_own_map(whole):
    for number, file in enumerate(TYPEFACES.values()):
        cmap = TTFont(FONTS / f"{file}.ttf", lazy=True).getBestCmap()
        codes = whole.fields["codepoint"][whole.fields["typeface"] == number].tolist()
        assert [hex(code) for code in codes if cmap.get(code, ".notdef") == ".notdef"] == []


def test_no_image_is_the_box_of_a_missing_glyph(whole):
    for number, file in enumerate(TYPEFACES.values()):
        with warnings.catch_warnings(action="ignore"):
            box = world._draw(FT2Font(str(FONTS / f"{file}.ttf")), 0x10FFFF, 28)
        if box is not None:
            images = (whole.x[whole.fields["typeface"] == number, 0] * 255).round().to(torch.uint8)
            assert not (images == torch.from_numpy(box)).flatten(1).all(1).any()


@pytest.mark.parametrize("typeface", TYPEFACES)
@pytest.mark.parametrize("character", "Rgk")
def test_images_are_what_pillow_draws_of_the_same_font(whole, typeface, character):
    font = ImageFont.truetype(FONTS / f"{TYPEFACES[typeface]}.ttf", size=0.9 * 28)
    page = Image.new("L", (28, 28))
    ImageDraw.Draw(page).text((14, 14), character, fill=255, font=font, anchor="mm")
    ours, theirs = of(whole, character, typeface), torch.from_numpy(np.asarray(page) / 255).float()

    def correlation(down: int, right: int) -> float:
        moved = theirs.roll((down, right), (0, 1))
        return torch.corrcoef(torch.stack([ours.flatten(), moved.flatten()]))[0, 1].item()

    # Pillow hints its outlines and centres by the line rather than by the ink.
    assert max(correlation(down, right) for down in range(-5, 6) for right in range(-2, 3)) > 0.8


def test_glyphs_are_centred(whole):
    ink = whole.x[:, 0] > 0
    for axis in (1, 2):
        there = ink.any(dim=3 - axis).int()
        before, after = there.argmax(1), there.flip(1).argmax(1)
        assert (before - after).abs().max() <= 1
        assert torch.minimum(before, after).min() >= 1


def test_twins_of_two_scripts_look_alike_and_are_two_classes(whole):
    def likeness(one: str, two: str, typeface: str) -> float:
        images = [of(whole, character, typeface).flatten() for character in (one, two)]
        return torch.corrcoef(torch.stack(images))[0, 1].item()

    for latin, other in (("A", "А"), ("o", "о"), ("H", "Н"), ("O", "Ο")):
        assert latin != other
        assert whole.classes.index(latin) != whole.classes.index(other)
        # Some typefaces draw Cyrillic by itself, a pixel off.
        assert min(likeness(latin, other, typeface) for typeface in list(TYPEFACES)[:16]) > 0.85
        assert likeness(latin, other, "DejaVu Sans") > 0.999
    assert max(likeness("A", "B", typeface) for typeface in TYPEFACES) < 0.7


def test_no_two_characters_of_a_script_are_drawn_alike(whole):
    keys = torch.stack([whole.fields["typeface"], whole.fields["script"]], 1)
    rows = torch.cat([keys, (whole.x.flatten(1) * 255).round().long()], 1).to(torch.int16)
    assert len(np.unique(rows.numpy(), axis=0)) == len(rows)


def test_scripts_and_typefaces_can_be_chosen():
    some = data.load("glyphs:greek,latin", typefaces="STIX,DejaVu Sans", size=32)
    same = data.load("glyphs", scripts=("latin", "greek"), typefaces=["DejaVu Sans", "STIX"], size=32)
    for part in ("train", "test"):
        assert torch.equal(some[part].x, same[part].x)
        assert some[part].names == {"typeface": ("DejaVu Sans", "STIX"), "script": ("latin", "greek")}
        assert some[part].x.shape[1:] == (1, 32, 32)
    assert some["train"].classes[:3] == ("A", "B", "C")
    assert len(some["train"].classes) == 52 + 49


def test_splits_are_the_same_each_time_and_differ_by_seed():
    first, again, other = (data.load("glyphs:latin", copies=2, seed=seed) for seed in (0, 0, 1))
    for part in ("train", "test"):
        assert torch.equal(first[part].x, again[part].x)
        assert torch.equal(first[part].y, again[part].y)
    assert not torch.equal(first["train"].fields["typeface"], other["train"].fields["typeface"])


def test_a_split_by_sample_holds_out_of_every_character():
    splits = data.load("glyphs:latin,cyrillic")
    train, test = splits["train"], splits["test"]
    assert len(test.y.unique()) == len(train.y.unique()) == len(train.classes) == 52 + 66
    assert test.y.bincount()[0] == round(0.25 * len(TYPEFACES))
    assert not pairs(train) & pairs(test)


def pairs(split: data.Split) -> set[tuple[int, int]]:
    return set(zip(split.y.tolist(), split.fields["typeface"].tolist(), strict=True))


def test_a_split_by_character_holds_out_characters_of_every_script():
    splits = data.load("glyphs", by="character", test_fraction=0.2)
    train, test = splits["train"], splits["test"]
    assert not set(train.y.tolist()) & set(test.y.tolist())
    assert train.classes == test.classes
    assert len(train.y.unique()) + len(test.y.unique()) == len(train.classes)
    for number, script in enumerate(SCRIPTS):
        held, kept = (len(s.y[s.fields["script"] == number].unique()) for s in (test, train))
        assert held == round(0.2 * (held + kept)), script


def test_a_split_by_typeface_holds_out_typefaces_and_asks_no_unseen_character():
    for seed in range(10):
        splits = data.load("glyphs", by="typeface", seed=seed)
        train, test = splits["train"], splits["test"]
        assert not set(train.fields["typeface"].tolist()) & set(test.fields["typeface"].tolist())
        assert len(test.fields["typeface"].unique()) == round(0.25 * len(TYPEFACES))
        assert set(test.y.tolist()) <= set(train.y.tolist())


def test_copies_are_jittered_and_stay_in_their_split():
    plain, many = data.load("glyphs:hebrew"), data.load("glyphs:hebrew", copies=5)
    for part in ("train", "test"):
        assert len(many[part]) == 5 * len(plain[part])
        assert torch.equal(many[part].y, plain[part].y.repeat_interleave(5))
        images = many[part].x.view(-1, 5, 28, 28)
        assert (images[:, 0] - images[:, 1]).abs().amax((1, 2)).min() > 0.05
        # A copy is still nearer to its own glyph than to most others.
        overlap = (many[part].x.flatten(1) @ plain[part].x.flatten(1).T) / plain[part].x.flatten(1).norm(dim=1)
        assert (overlap.argmax(1) == torch.arange(len(plain[part])).repeat_interleave(5)).float().mean() > 0.3
    assert not pairs(many["train"]) & pairs(many["test"])


def test_a_limit_counts_copies_too():
    splits = data.load("glyphs:hebrew", copies=3, limit=10)
    assert [len(split) for split in splits.values()] == [10, 10]


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("glyphs:klingon", {}, "unknown script 'klingon'; allowed: latin"),
        ("glyphs", {"scripts": "latin,"}, "unknown script ''"),
        ("glyphs", {"scripts": []}, "scripts is empty"),
        ("glyphs:latin", {"scripts": "latin"}, "given twice"),
        ("glyphs", {"typefaces": "Comic Sans"}, "unknown typeface 'Comic Sans'; allowed: DejaVu Sans"),
        ("glyphs", {"size": 4}, "size=4"),
        ("glyphs", {"size": 28.0}, "size=28.0"),
        ("glyphs", {"by": "font"}, "by='font'"),
        ("glyphs", {"copies": 0}, "copies=0"),
        ("glyphs", {"test_fraction": 1.0}, "test_fraction=1.0"),
        ("glyphs:latin", {"typefaces": "STIX"}, "leave 52 samples to train and 0 to test"),
        ("glyphs:latin", {"typefaces": "STIX", "by": "typeface"}, "1 typeface"),
        ("glyphs:hebrew", {"typefaces": "STIX"}, "leave 0 samples"),
    ],
)
def test_nonsense_is_refused_by_name(uri, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(uri, **options)


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "landform"


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def test_what_is_read_from_the_cache_is_what_was_drawn(fresh_cache, monkeypatch):
    drawn = atlas(28)
    (file,) = fresh_cache.iterdir()
    monkeypatch.setattr(world, "_draw_all", lambda size: pytest.fail("drawn again"))
    assert same(atlas(28), drawn)
    assert file.name.startswith("glyphs-28-")


def test_another_size_font_or_renderer_is_another_entry(fresh_cache, monkeypatch):
    monkeypatch.setattr(world, "_draw_all", lambda size: {"images": np.zeros(1)})
    atlas(28)
    atlas(29)
    monkeypatch.setattr(matplotlib, "__version__", "0.0")
    atlas(28)
    monkeypatch.setattr(world, "_font_hashes", lambda: ("other",))
    atlas(28)
    assert len(list(fresh_cache.iterdir())) == 4


ARRAYS = {"a": np.arange(1000, dtype=np.int32), "b": np.ones((3, 2), dtype=np.uint8)}


def swapped(path: Path) -> None:
    """A sound file, with another content under the old digest."""
    with np.load(path) as file:
        kept = dict(file)
    np.savez_compressed(path, **kept | {"a": kept["a"][::-1]})


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK nonsense"),
        lambda path: np.savez(path, a=np.array([{"an": "object"}], dtype=object)),
        lambda path: np.savez(path, a=np.arange(3)),
        flipped,
        swapped,
    ],
    ids=["truncated", "empty", "nonsense", "pickle", "without a digest", "flipped", "swapped"],
)
def test_a_damaged_entry_is_made_again(fresh_cache, damage):
    cached("entry", lambda: ARRAYS)
    path = fresh_cache / "entry.npz"
    damage(path)
    made = []
    assert same(cached("entry", lambda: made.append(1) or ARRAYS), ARRAYS)
    assert made
    assert same(cached("entry", lambda: pytest.fail("the entry was not repaired")), ARRAYS)
    assert [file.name for file in fresh_cache.iterdir()] == ["entry.npz"]


def test_without_a_place_to_write_the_cache_is_done_without(fresh_cache):
    fresh_cache.write_text("a file where the folder would be")
    assert same(cached("entry", lambda: ARRAYS), ARRAYS)
    assert fresh_cache.read_text().startswith("a file")


def test_a_write_that_fails_leaves_nothing_behind(fresh_cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert same(cached("entry", lambda: ARRAYS), ARRAYS)
    assert list(fresh_cache.iterdir()) == []


def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    places = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr("sys.platform", platform)
        places[platform] = cache_folder().relative_to(tmp_path).as_posix()
    assert places == {
        "linux": ".cache/landform",
        "darwin": "Library/Caches/landform",
        "win32": "AppData/Local/landform/Cache",
    }
