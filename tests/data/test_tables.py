"""The user's own tables, and images in tables: Parquet files and Hugging Face datasets."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landform import data

pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra `data`")


def png(value: int, size=(3, 2)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "png")
    return file.getvalue()


def write(path: Path, columns: dict, metadata: dict | None = None) -> Path:
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)
    return path


def images(values, **more) -> dict:
    return {"img": [{"bytes": png(value), "path": f"{value}.png"} for value in values], **more}


def test_images_in_a_folder_of_splits(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", images([10, 20], label=[1, 0]))
    write(tmp_path / "train-00001-of-00002.parquet", images([30], label=[2]))
    write(tmp_path / "test-00000-of-00001.parquet", images([40], label=[1]))
    splits = data.load(f"parquet:{tmp_path}")
    assert list(splits) == ["train", "test"]
    train, test = splits["train"], splits["test"]
    assert train.x.shape == (3, 1, 2, 3)
    assert (train.x[:, 0, 0, 0] * 255).round().tolist() == [10, 20, 30]
    assert (train.y.tolist(), test.y.tolist()) == ([1, 0, 2], [1])
    assert train.classes == test.classes == ("0", "1", "2")
    assert data.load(f"parquet:{tmp_path}", size=4, grayscale=False)["test"].x.shape == (1, 3, 4, 4)


@pytest.mark.parametrize("layout", ["data/{}-0.parquet", "config/{}/0000.parquet", "{}/part.parquet"])
def test_the_folders_that_the_hub_uses(tmp_path, layout):
    for part in ("train", "validation", "test"):
        write(tmp_path / layout.format(part), images([10, 20, 30], label=[0, 1, 1]))
    assert list(data.load(f"parquet:{tmp_path}")) == ["train", "validation", "test"]


def test_class_names_and_fields_as_hugging_faces_writer_leaves_them(tmp_path):
    names = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "img": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": names}})}
    columns = images(range(8), label=[1, 0] * 4, place=["sea", "land", "air", "sea"] * 2, year=[2001, 1999] * 4)
    path = write(tmp_path / "a.parquet", columns, metadata)
    whole = data.merge(*data.load(f"parquet:{path}?fields=place,year").values())
    assert whole.classes == ("cat", "dog")
    assert whole.names == {"place": ("air", "land", "sea"), "year": ("1999", "2001")}
    for value, y, place, year in zip(
        (whole.x[:, 0, 0, 0] * 255).round().int().tolist(),
        whole.y.tolist(),
        whole.fields["place"].tolist(),
        whole.fields["year"].tolist(),
        strict=True,
    ):
        assert y == columns["label"][value]
        assert whole.names["place"][place] == columns["place"][value]
        assert whole.names["year"][year] == str(columns["year"][value])
    write(path, images([1, 2], label=[0, 5]), metadata)
    with pytest.raises(ValueError, match="y holds 5, but there are 2 names"):
        data.load(f"parquet:{path}")


def test_a_table_of_numbers(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "height": rng.standard_normal(40),
        "count": rng.integers(0, 9, 40),
        "old": rng.integers(0, 2, 40).astype(bool),
        "species": np.array(["wren", "owl"])[rng.integers(0, 2, 40)],
        "id": np.arange(40),
    }
    path = write(tmp_path / "t.parquet", columns)
    splits = data.load(f"parquet:{path}", label="species", fields=["id"], test_fraction=0.5)
    whole = data.merge(*splits.values())
    assert whole.names["columns"] == ("height", "count", "old")
    assert whole.classes == ("owl", "wren")
    order = whole.fields["id"].argsort()
    expected = np.stack([columns["height"], columns["count"], columns["old"]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(whole.x[order].numpy(), expected)
    assert [whole.classes[y] for y in whole.y[order]] == columns["species"].tolist()
    # A floating-point label is a quantity.
    quantity = data.load(f"parquet:{path}", label="height", fields="species,id")
    assert quantity["train"].y.dtype == torch.float32
    assert quantity["train"].classes == ()
    assert len(quantity["test"]) == 10


def test_integer_labels_of_any_values_are_numbered_over_all_splits(tmp_path):
    write(tmp_path / "train.parquet", {"x": [0.0, 1.0, 2.0], "y": [30, 10, 30]})
    write(tmp_path / "test.parquet", {"x": [0.0, 1.0], "y": [20, 10]})
    splits = data.load(f"parquet:{tmp_path}")
    assert splits["train"].classes == ("10", "20", "30")
    assert splits["train"].y.tolist() == [2, 0, 2]
    assert splits["test"].y.tolist() == [1, 0]


def test_a_part_without_labels_is_left_out(tmp_path):
    write(tmp_path / "train.parquet", {"x": [0.0] * 8, "label": [0, 1] * 4})
    write(tmp_path / "test.parquet", {"x": [0.0] * 8, "label": [-1] * 8})
    splits = data.load(f"parquet:{tmp_path}")
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "test": 2}
    with pytest.raises(ValueError, match="nothing is labelled"):
        data.load(f"parquet:{tmp_path / 'test.parquet'}")


def test_a_limit_decodes_no_more_than_it_keeps(tmp_path):
    columns = images(range(20), label=[0, 1] * 10)
    path = write(tmp_path / "train.parquet", columns)
    wanted = data.load(f"parquet:{path}", limit=3)
    kept = {int(v) for split in wanted.values() for v in (split.x[:, 0, 0, 0] * 255).round()}
    assert len(kept) == 6
    for value in set(range(20)) - kept:
        columns["img"][value]["bytes"] = b"damaged"
    write(path, columns)
    again = data.load(f"parquet:{path}", limit=3)
    assert all(torch.equal(again[part].x, wanted[part].x) for part in wanted)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": [1.0], "z": [1]}, {}, "no column is called label.*one of x, z"),
        ({"x": [1.0], "y": [1]}, {"label": "cls"}, "label='cls': no such column; there are x, y"),
        ({"x": [1.0], "y": [1]}, {"fields": "place"}, "fields='place': no such column"),
        ({"x": [1.0], "y": [1]}, {"image": "img"}, "image='img': no such column"),
        ({"a": [b"1"], "b": [b"2"], "y": [1]}, {}, "several columns may be images: a, b"),
        ({"x": [1.0, 2.0], "y": [1, None]}, {}, r"column 'y' of train has 1 missing"),
        ({"x": [1.0, None, float("nan")], "y": [1, 0, 1]}, {}, "column 'x' of train has 2 missing"),
        ({"x": ["a", "b"], "y": [1, 0]}, {}, "column 'x' is of type string; a table's inputs are numbers.*fields='x'"),
        ({"y": [1, 0]}, {}, "nothing to learn from"),
        ({"x": [1.0], "y": [[1]]}, {}, "column 'y' is of type list"),
        ({"x": [1.0], "y": [1], "f": [0.5]}, {"fields": "f"}, "column 'f' is of type double; it must hold integers"),
        ({"x": pa.array([], pa.float32()), "y": pa.array([], pa.int64())}, {}, "the train part is empty"),
        ({"img": [{"bytes": None, "path": "/etc/hostname"}] * 4, "y": [0, 1] * 2}, {}, "holds no image bytes"),
        ({"img": [b"no image"] * 4, "y": [0, 1] * 2}, {}, "cannot be read as an image"),
        ({"img": [png(1), png(1, (5, 5))] * 2, "y": [0, 1] * 2}, {}, "5 × 5"),
    ],
)
def test_columns_that_cannot_be_used_are_named(tmp_path, columns, options, message):
    path = write(tmp_path / "t.parquet", columns)
    with pytest.raises(ValueError, match=message):
        data.load(f"parquet:{path}", **options)


def test_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load(f"parquet:{tmp_path}/nowhere")
    with pytest.raises(FileNotFoundError, match=r"no \*.parquet"):
        data.load(f"parquet:{tmp_path}")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(ValueError, match=r"train.parquet: cannot be read as Parquet"):
        data.load(f"parquet:{tmp_path}")
    write(tmp_path / "train.parquet", {"x": [1.0], "y": [1]})
    write(tmp_path / "test.parquet", {"z": [1.0], "y": [1]})
    with pytest.raises(ValueError, match=r"columns of (test|train) are"):
        data.load(f"parquet:{tmp_path}")
    write(tmp_path / "extra.parquet", {"x": [1.0], "y": [1]})
    with pytest.raises(ValueError, match=r"what split is extra.parquet\?"):
        data.load(f"parquet:{tmp_path}")
    for name in ("one", "two"):
        write(tmp_path / "configs" / name / "train.parquet", {"x": [1.0], "y": [1]})
    with pytest.raises(ValueError, match=r"what split is one\?"):
        data.load(f"parquet:{tmp_path / 'configs'}")


@pytest.mark.parametrize("uri", ["parquet:{}", "hf:{}"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, uri):
    path = write(tmp_path / "train.parquet", {"x": [1.0], "y": [1]})
    for module in ("pyarrow", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'landform\[data\]'"):
        data.load(uri.format(path))


def test_cifar_10(shared_data):
    folder = shared_data("cifar10-jpeg")
    splits = data.load(f"parquet:{folder}", limit=200)
    assert {name: split.x.shape for name, split in splits.items()} == {
        "train": (200, 3, 32, 32),
        "test": (200, 3, 32, 32),
    }
    test = data.merge(*data.load(f"parquet:{folder}/test.parquet", size=8).values())
    assert test.y.bincount().tolist() == [1000] * 10
    # CIFAR-10's widely used channel means: red over green over blue.
    mean = test.x.mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01, rtol=0)


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    module = pytest.importorskip("datasets", reason="needs the extra `data`")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    return module


def pet_images(datasets, values):
    features = datasets.Features(
        {"image": datasets.Image(), "pet": datasets.ClassLabel(names=["cat", "dog"]), "place": datasets.Value("string")}
    )
    rows = {
        "image": [{"bytes": png(v), "path": None} for v in values],
        "pet": [v % 2 for v in values],
        "place": ["sea" if v < 5 else "land" for v in values],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_hugging_face_dataset_saved_to_disk(datasets, tmp_path):
    whole = datasets.DatasetDict(
        {"train": pet_images(datasets, range(10)), "valid": pet_images(datasets, [3, 4, 5]).select([2, 0])}
    )
    whole.save_to_disk(tmp_path / "pets")
    splits = data.load(f"hf:{tmp_path / 'pets'}", label="pet", fields="place", test_fraction=0.4)
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 2, "test": 4}
    assert splits["test"].classes == ("cat", "dog")
    for split in splits.values():
        values = (split.x[:, 0, 0, 0] * 255).round().int()
        assert torch.equal(values % 2, split.y.int())
        assert [split.names["place"][i] == "sea" for i in split.fields["place"]] == [v < 5 for v in values.tolist()]
    assert (splits["validation"].x[:, 0, 0, 0] * 255).round().tolist() == [5, 3]

    pet_images(datasets, range(8)).save_to_disk(tmp_path / "one")
    assert {name: len(s) for name, s in data.load(f"hf:{tmp_path / 'one'}?label=pet&fields=place").items()} == {
        "train": 6,
        "test": 2,
    }


def test_a_folder_that_load_dataset_reads(datasets, tmp_path):
    for kind, part in (("cat", "train"), ("dog", "train"), ("cat", "test"), ("dog", "test")):
        folder = tmp_path / "images" / part / kind
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(png(50 if kind == "cat" else 200))
    splits = data.load(f"hf:{tmp_path / 'images'}")
    assert list(splits) == ["train", "test"]
    for split in splits.values():
        assert split.classes == ("cat", "dog")
        assert (split.x[:, 0, 0, 0] * 255).round().tolist() == [[50, 200][y] for y in split.y.tolist()]


def test_hugging_face_errors(datasets, tmp_path):
    with pytest.raises(ValueError, match="needs a dataset's name"):
        data.load("hf:")
    both = datasets.DatasetDict({"validation": pet_images(datasets, [1]), "dev": pet_images(datasets, [1])})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match="two of its splits validation, dev are validation"):
        data.load(f"hf:{tmp_path / 'both'}?label=pet")
