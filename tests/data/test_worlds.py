"""The other embedded worlds, and what is said of all of them."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

from landform import data
from landform.data.glyphs import SCRIPTS
from landform.data.tabular import TABLES
from landform.data.uris import LOADERS
from landform.data.worlds import WHAT


def sorted_rows(x: np.ndarray) -> np.ndarray:
    return x[np.lexsort(x.T)]


def test_digits_are_scikit_learns_divided_by_16():
    splits = data.load("digits")
    whole = data.merge(*splits.values())
    assert whole.x.shape == (1797, 1, 8, 8)
    assert whole.x.dtype == torch.float32
    bunch = load_digits()
    ours = np.column_stack([whole.x.flatten(1).numpy() * 16, whole.y.numpy()])
    np.testing.assert_array_equal(sorted_rows(ours), sorted_rows(np.column_stack([bunch.data, bunch.target])))
    assert splits["test"].y.bincount().tolist() == [round(n / 4) for n in np.bincount(bunch.target)]


@pytest.mark.parametrize("uri", ["digits", "tabular:wine", "tabular:diabetes", "tabular:madelon"])
def test_a_world_is_the_same_each_time_and_its_split_depends_on_the_seed(uri):
    first, again, other = (data.load(uri, seed=seed) for seed in (0, 0, 1))
    for part in ("train", "test"):
        assert torch.equal(first[part].x, again[part].x)
        assert torch.equal(first[part].y, again[part].y)
        assert not torch.equal(first[part].x, other[part].x)


def test_a_limit_takes_so_many_of_each_split():
    whole = data.load("digits")["train"]
    some = data.load("digits", limit=20)["train"]
    assert len(some) == 20
    distance = torch.cdist(some.x.flatten(1), whole.x.flatten(1))
    assert distance.amin(1).eq(0).all()


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_float32_with_named_columns(name):
    splits = data.load(f"tabular:{name}")
    whole = data.merge(*splits.values())
    assert whole.x.ndim == 2
    assert whole.x.dtype == torch.float32
    assert whole.x.isfinite().all()
    assert len(whole.names["columns"]) == whole.x.shape[1]
    assert whole.y.dtype == (torch.float32 if name == "diabetes" else torch.int64)
    if whole.classes:
        shares = [split.y.bincount(minlength=len(whole.classes)) / len(split) for split in splits.values()]
        assert (shares[0] - shares[1]).abs().max() < 0.02


def test_bundled_tables_are_scikit_learns():
    for uri, bunch in (("tabular", load_breast_cancer()), ("tabular:diabetes", load_diabetes())):
        whole = data.merge(*data.load(uri).values())
        ours = np.column_stack([whole.x.numpy(), whole.y.numpy()])
        theirs = np.column_stack([bunch.data, bunch.target]).astype(np.float32)
        np.testing.assert_array_equal(sorted_rows(ours), sorted_rows(theirs))
    cancer = data.load("tabular:breast_cancer")["train"]
    assert cancer.classes == ("malignant", "benign")
    assert cancer.names["columns"][0] == "mean radius"


def test_diabetes_high_halves_diabetes_at_its_median():
    target = data.merge(*data.load("tabular:diabetes").values())
    high = data.merge(*data.load("tabular:diabetes-high").values())
    assert high.classes == ("low", "high")
    assert high.y.double().mean() == pytest.approx(0.5, abs=0.005)
    of = {tuple(row.tolist()): y.item() for row, y in zip(target.x, target.y, strict=True)}
    quantity = torch.tensor([of[tuple(row.tolist())] for row in high.x])
    assert quantity[high.y == 0].max() == 140 < quantity[high.y == 1].min() == 141


def test_hastie_is_a_sphere_of_radius_squared_9_34():
    whole = data.merge(*data.load("tabular:hastie").values())
    assert whole.x.shape == (12_000, 10)
    assert torch.equal(whole.y, (whole.x.double().square().sum(1) > 9.34).long())


def test_madelons_columns_are_what_their_names_say():
    whole = data.merge(*data.load("tabular:madelon").values())
    x, columns = whole.x.double(), whole.names["columns"]
    assert x.shape == (4_400, 500)
    informative, mixture, noise = x[:, :5], x[:, 5:20], x[:, 20:]
    assert (columns[4], columns[5], columns[20]) == ("informative 4", "mixture 0", "noise 0")
    # Mixtures are linear in the informative columns, noise is not.
    basis = torch.cat([informative, torch.ones(len(x), 1).double()], 1)
    for part, least, most in ((mixture, 0.0, 1e-6), (noise, 0.95, 1.0)):
        left = part - basis @ torch.linalg.lstsq(basis, part).solution
        share = left.var(0) / part.var(0)
        assert least <= share.min()
        assert share.max() <= most


def test_the_corpus_is_every_library_source_once_and_no_file_twice():
    splits = data.load("corpus")
    assert list(splits) == ["train", "validation", "test"]
    root = Path(sysconfig.get_path("stdlib"))
    files = [name for split in splits.values() for name in split.names["file"]]
    assert len(files) == len(set(files))
    assert {"heapq.py", "json/decoder.py", "asyncio/events.py"} <= set(files)
    assert not [name for name in files if "site-packages" in name or "/test/" in f"/{name}" or "__pycache__" in name]
    assert sum(map(len, splits.values())) > 5_000_000
    assert 0.7 < len(splits["train"].names["file"]) / len(files) < 0.9
    for split in splits.values():
        assert split.x.dtype == split.y.dtype == torch.uint8
        assert torch.equal(split.y[:-1], split.x[1:])
        # A zero byte before every file, and after the last.
        text = bytes(split.x.numpy()) + bytes(split.y[-1:].numpy())
        pieces = text.split(b"\0")
        assert pieces[0] == pieces[-1] == b""
        assert len(pieces) - 2 == len(split.names["file"])
        assert pieces[1] == (root / split.names["file"][0]).read_bytes()
        assert pieces[-2] == (root / split.names["file"][-1]).read_bytes()


def test_the_next_byte_takes_no_memory_of_its_own():
    split = data.load("corpus", max_bytes=10_000)["train"]
    assert split.y.untyped_storage().data_ptr() == split.x.untyped_storage().data_ptr()


def test_max_bytes_cuts_each_split_at_its_beginning():
    whole, cut = data.load("corpus"), data.load("corpus", max_bytes=100_000)
    for part in whole:
        assert len(cut[part]) == 100_000
        assert torch.equal(cut[part].x, whole[part].x[:100_000])
        assert torch.equal(cut[part].y, whole[part].y[:100_000])
        files = cut[part].names["file"]
        assert files == whole[part].names["file"][: len(files)]
        assert int((cut[part].x == 0).sum()) == len(files)


def test_one_more_file_moves_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for n in range(60):
        (tmp_path / f"m{n}.py").write_text(f"x = {n}\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text("")
    before = {part: split.names["file"] for part, split in data.load("corpus").items()}
    assert sum(map(len, before.values())) == 60
    (tmp_path / "one_more.py").write_text("")
    after = {part: split.names["file"] for part, split in data.load("corpus").items()}
    assert sum(map(len, after.values())) == 61
    for part in before:
        assert [name for name in after[part] if name != "one_more.py"] == list(before[part])


def test_an_installation_without_sources_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no Python sources"):
        data.load("corpus")


def test_windows_are_stretches_of_the_text_from_everywhere():
    text = torch.arange(200, dtype=torch.uint8)
    w = data.windows(text, 7, 5000, torch.Generator().manual_seed(0))
    assert w.shape == (5000, 8)
    assert w.dtype == torch.int64
    assert torch.equal(w - w[:, :1], torch.arange(8).expand(5000, 8))
    # Every place from the first to the last that fits, about equally often.
    counts = w[:, 0].bincount()
    assert len(counts) == 193
    assert 5 < counts.min() <= counts.max() < 60
    assert torch.equal(w, data.windows(text, 7, 5000, torch.Generator().manual_seed(0)))


def test_windows_of_just_the_whole_text_and_of_more():
    text = torch.arange(5, dtype=torch.uint8)
    generator = torch.Generator()
    assert data.windows(text, 4, 2, generator).tolist() == [[0, 1, 2, 3, 4]] * 2
    with pytest.raises(ValueError, match="length=5: a window takes 6 bytes, but the text has 5"):
        data.windows(text, 5, 2, generator)
    with pytest.raises(ValueError, match="count=0"):
        data.windows(text, 2, 0, generator)
    with pytest.raises(ValueError, match=r"shape \(1, 5\)"):
        data.windows(text[None], 2, 1, generator)


@pytest.mark.parametrize(
    ("uri", "options", "error", "message"),
    [
        ("imagenet", {}, ValueError, "unknown data URI 'imagenet'.*digits, glyphs, corpus"),
        ("", {}, ValueError, "unknown data URI ''"),
        (Path("digits"), {}, TypeError, "uri is"),
        ("digits:8", {}, ValueError, "digits takes nothing after the colon"),
        ("digits", {"size": 3}, ValueError, "digits has no option 'size'; allowed: test_fraction, seed, limit"),
        ("digits?size=3", {}, ValueError, "digits has no option 'size'"),
        ("digits?seed=3", {"seed": 3}, ValueError, "'seed' is given twice"),
        ("digits", {"test_fraction": 0.0}, ValueError, "test_fraction=0.0"),
        ("digits", {"limit": 0}, ValueError, "limit=0"),
        ("tabular:mnist", {}, ValueError, "unknown table 'mnist'; allowed: breast_cancer"),
        ("corpus", {"max_bytes": 1}, ValueError, "max_bytes=1"),
        ("corpus?max_bytes=1.5", {}, ValueError, "max_bytes=1.5"),
    ],
)
def test_nonsense_is_refused_by_name(uri, options, error, message):
    with pytest.raises(error, match=message):
        data.load(uri, **options)


def test_options_may_stand_in_the_uri():
    by_uri = data.load("digits?test_fraction=0.5&seed=3&limit=100")
    by_keyword = data.load("digits", test_fraction=0.5, seed=3, limit=100)
    assert all(torch.equal(by_uri[part].x, by_keyword[part].x) for part in by_keyword)
    assert data.load("glyphs:hebrew?by=character")["train"].classes == data.load("glyphs:hebrew")["train"].classes


def test_worlds_describes_every_world_that_can_be_loaded():
    described = {world.uri: world for world in data.worlds()}
    assert {uri.partition(":")[0] for uri in described} == set(LOADERS) - {"folder", "idx", "parquet", "omniglot", "hf"}
    assert {uri.partition(":")[2] for uri in WHAT if uri.startswith("tabular")} == set(TABLES)
    assert {uri.partition(":")[2] for uri in WHAT if uri.startswith("glyphs:")} == set(SCRIPTS)
    digits = described["digits"]
    assert (digits.sizes, digits.shape, digits.classes) == ({"train": 1347, "test": 450}, (1, 8, 8), 10)
    assert described["corpus"].shape == ()
    assert described["tabular:diabetes"].classes == 0
