"""The user's own images: folders and IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landform import data
from landform.data.idx import read_idx
from landform.data.images import decode


def picture(path: Path, size=(6, 4), mode="RGB", seed=0) -> np.ndarray:
    """Write a random picture of (width, height), and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) + ((len(mode),) if len(mode) > 1 else ())
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return pixels


@pytest.fixture
def birds(tmp_path) -> Path:
    """Class folders with 8 images each."""
    for number, kind in enumerate(("wren", "owl", "tit")):
        for n in range(8):
            picture(tmp_path / "birds" / kind / f"{n}.png", seed=8 * number + n)
    return tmp_path / "birds"


def test_a_folder_of_class_folders(birds):
    splits = data.load(f"folder:{birds}")
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "test": 6}
    whole = data.merge(*splits.values())
    assert whole.classes == ("owl", "tit", "wren")
    assert whole.x.shape == (24, 3, 4, 6)
    assert whole.x.dtype == torch.float32
    assert splits["test"].y.bincount().tolist() == [2, 2, 2]
    # Every picture is there once, under its own class.
    for number, kind in enumerate(whole.classes):
        ours = sorted(image.tolist() for image in whole.x[whole.y == number])
        files = [torch.from_numpy(np.array(Image.open(path))) for path in (birds / kind).iterdir()]
        theirs = sorted((file.permute(2, 0, 1).float() / 255).tolist() for file in files)
        assert ours == theirs


def test_a_folder_with_splits_of_its_own(tmp_path):
    for part, kinds in {"train": ["b", "a"], "test": ["a"], "val": ["b"]}.items():
        for kind in kinds:
            picture(tmp_path / part / kind / "deeper" / "1.png", mode="L")
    (tmp_path / ".hidden").mkdir()
    splits = data.load(f"folder:{tmp_path}")
    assert list(splits) == ["train", "validation", "test"]
    assert [split.y.tolist() for split in splits.values()] == [[0, 1], [1], [0]]
    assert {split.classes for split in splits.values()} == {("a", "b")}
    assert splits["train"].x.shape == (2, 1, 4, 6)  # grey pictures have one channel
    with pytest.raises(ValueError, match=r"test_fraction=0.5.*train, validation, test"):
        data.load(f"folder:{tmp_path}?test_fraction=0.5")


def test_folder_options(birds):
    small = data.load(f"folder:{birds}?size=2&grayscale=true&limit=5")
    assert [split.x.shape for split in small.values()] == [(5, 1, 2, 2)] * 2
    oblong = data.load(f"folder:{birds}", size=(3, 9), test_fraction=0.5)
    assert [split.x.shape for split in oblong.values()] == [(12, 3, 3, 9)] * 2
    first, again, other = (data.load(f"folder:{birds}", limit=5, seed=seed)["train"].x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_folder_errors(birds, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load(f"folder:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="needs a path"):
        data.load("folder:")
    with pytest.raises(ValueError, match="is a file"):
        data.load(f"folder:{birds / 'owl' / '0.png'}")
    with pytest.raises(ValueError, match="no class folders"):
        data.load(f"folder:{birds / 'owl'}")
    for size in (0, "big", 2.5, (1, 2, 3)):
        with pytest.raises(ValueError, match="size="):
            data.load(f"folder:{birds}", size=size)
    (birds / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        data.load(f"folder:{birds}")


def test_images_of_different_sizes_need_a_size(birds):
    picture(birds / "owl" / "big.png", size=(10, 5))
    with pytest.raises(ValueError, match=r"4 × 6 .*5 × 10|5 × 10 .*4 × 6"):
        data.load(f"folder:{birds}")
    assert data.load(f"folder:{birds}?size=4")["train"].x.shape[1:] == (3, 4, 4)


def test_what_is_no_image_is_named(birds):
    (birds / "owl" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"owl.0.png cannot be read as an image"):
        data.load(f"folder:{birds}")
    whole = (birds / "owl" / "1.png").read_bytes()
    with pytest.raises(ValueError, match="half cannot be read"):
        decode([whole[: len(whole) // 2]], ["half"])
    with pytest.raises(ValueError, match="no images"):
        decode([], [])


def test_decoding_keeps_pixels_channels_and_depth(tmp_path):
    grey = picture(tmp_path / "grey.png", mode="L")
    colour = picture(tmp_path / "colour.png", mode="RGB")
    alpha = picture(tmp_path / "alpha.png", mode="RGBA")
    paths = [tmp_path / f"{name}.png" for name in ("grey", "colour", "alpha")]
    x = decode(paths, ["grey", "colour", "alpha"])
    assert x.shape == (3, 3, 4, 6)  # a grey one among others becomes three equal channels
    np.testing.assert_array_equal(x[0].numpy() * 255, np.broadcast_to(grey, (3, 4, 6)))
    np.testing.assert_allclose(x[1].numpy() * 255, colour.transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(x[2].numpy() * 255, alpha.transpose(2, 0, 1)[:3], rtol=1e-6)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decode(paths[1:2], ["colour"], grayscale=True)[0, 0].numpy() * 255, luma, atol=0.6)
    assert decode(paths[:1], ["grey"], grayscale=False).shape == (1, 3, 4, 6)

    deep = np.random.default_rng(0).integers(0, 65536, (4, 6), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    x = decode([tmp_path / "deep.png"], ["deep"])
    np.testing.assert_allclose(x[0, 0].numpy(), deep / 65535, atol=1e-6)
    assert decode([tmp_path / "deep.png"], ["deep"], size=2).shape == (1, 1, 2, 2)
    Image.fromarray(np.full((4, 6), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="float has pixels of mode F"):
        decode([tmp_path / "float.tif"], ["float"])


def test_images_are_turned_upright(tmp_path):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    x = decode([tmp_path / "turned.png"], ["turned"])
    assert x.shape == (1, 3, 6, 4)
    assert x[0, :, 0, 3].tolist() == [1, 1, 1]


def test_many_images_keep_their_order():
    def png(value: int) -> bytes:
        import io

        file = io.BytesIO()
        Image.new("L", (2, 2), value).save(file, "png")
        return file.getvalue()

    values = np.random.default_rng(0).integers(0, 256, 300).tolist()
    x = decode([png(value) for value in values], list(map(str, values)))
    assert (x[:, 0, 0, 0] * 255).round().int().tolist() == values


def idx_bytes(array: np.ndarray) -> bytes:
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    big = array.astype(array.dtype.newbyteorder(">"))
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + big.tobytes()


def write_pair(folder: Path, part: str, n: int, *, zipped=False, side=5, seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (n, side, side), dtype=np.uint8), rng.integers(0, 4, n).astype(np.uint8)
    for what, array in (("images", images), ("labels", labels)):
        content = idx_bytes(array)
        path = folder / f"{part}-{what}-idx{array.ndim}-ubyte{'.gz' * zipped}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return images, labels


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_arrays_of_every_type_come_back(tmp_path, dtype, zipped):
    array = (np.random.default_rng(0).standard_normal((3, 4, 5)) * 50).astype(dtype)
    content = idx_bytes(array)
    (tmp_path / "file").write_bytes(gzip.compress(content) if zipped else content)
    back = read_idx(tmp_path / "file")
    np.testing.assert_array_equal(back, array)
    assert back.shape == (3, 4, 5)


@pytest.mark.parametrize("zipped", [False, True])
def test_an_idx_folder(tmp_path, zipped):
    pairs = {"train": write_pair(tmp_path, "train", 30, zipped=zipped), "test": write_pair(tmp_path, "t10k", 9, seed=1)}
    splits = data.load(f"idx:{tmp_path}")
    assert list(splits) == ["train", "test"]
    for part, (images, labels) in pairs.items():
        assert torch.equal(splits[part].x, torch.from_numpy(images)[:, None].float() / 255)
        assert splits[part].y.tolist() == labels.tolist()
        assert splits[part].classes == ("0", "1", "2", "3")
    assert [len(split) for split in data.load(f"idx:{tmp_path}?limit=5").values()] == [5, 5]


def test_one_idx_pair_is_divided(tmp_path):
    images, _ = write_pair(tmp_path, "train", 40)
    for address in (tmp_path, tmp_path / "train-images-idx3-ubyte"):
        splits = data.load(f"idx:{address}", test_fraction=0.3)
        assert list(splits) == ["train", "test"]
        whole = data.merge(*splits.values())
        ours = sorted((whole.x * 255).round().int().tolist())
        assert ours == sorted(images[:, None].tolist())
        assert len(splits["test"]) == pytest.approx(12, abs=2)


def test_a_copy_that_is_unpacked_beside_its_gzip_is_one_file(tmp_path):
    write_pair(tmp_path, "train", 10, zipped=True)
    write_pair(tmp_path, "train", 10)
    assert len(data.merge(*data.load(f"idx:{tmp_path}").values())) == 10
    write_pair(tmp_path, "emnist-train", 10)
    with pytest.raises(ValueError, match=r"both emnist-train-images.* are train images"):
        data.load(f"idx:{tmp_path}")


def spoil(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"\1" + content[1:], "not an IDX file; it begins with 01 00 08 03"),
        (lambda content: content[:2] + b"\x07" + content[3:], "not an IDX file"),
        (lambda content: b"", "not an IDX file; it begins with nothing"),
        (lambda content: content[:9], "the header ends within its 3 sizes"),
        (lambda content: content[:-1], r"ask for 250 bytes of values, but there are only 249"),
        (lambda content: content + b"\0", "ask for 250 bytes of values, but there are more"),
        (lambda content: content[:4] + b"\xff" * 12 + content[16:], "only 250"),
        (lambda content: content[:4] + struct.pack(">I", 9) + content[8:], "ask for 225 bytes"),
        (lambda content: gzip.compress(content)[:-9], "damaged gzip"),
        (lambda content: gzip.compress(content)[:-6] + b"\0" * 6, "damaged gzip"),
        (lambda content: idx_bytes(np.zeros((10, 5), np.uint8)), r"holds uint8 \(10, 5\); images are"),
        (lambda content: idx_bytes(np.zeros((10, 5, 5), np.float32)), "images are unsigned bytes"),
        (lambda content: idx_bytes(np.zeros((9, 5, 5), np.uint8)), "holds 9 images, but .* 10 labels"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, change, message):
    write_pair(tmp_path, "train", 10)
    spoil(tmp_path / "train-images-idx3-ubyte", change)
    with pytest.raises(ValueError, match=message):
        data.load(f"idx:{tmp_path}")


def test_idx_labels_and_files_that_do_not_fit(tmp_path):
    write_pair(tmp_path, "train", 10)
    write_pair(tmp_path, "t10k", 10, side=6)
    with pytest.raises(ValueError, match="differ in size"):
        data.load(f"idx:{tmp_path}")
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(10, np.float32)))
    with pytest.raises(ValueError, match="labels are integers"):
        data.load(f"idx:{tmp_path}")
    labels.write_bytes(idx_bytes(np.full(10, -2, np.int8)))
    with pytest.raises(ValueError, match="the label -2 is negative"):
        data.load(f"idx:{tmp_path}")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="neither t10k-labels-idx1-ubyte nor"):
        data.load(f"idx:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no train-images"):
        data.load(f"idx:{tmp_path / 'empty'}")
    (tmp_path / "pictures").touch()
    with pytest.raises(ValueError, match="has 'images' in its name"):
        data.load(f"idx:{tmp_path / 'pictures'}")


def test_mnists_test_set(shared_data):
    splits = data.load(f"idx:{shared_data('mnist-t10k')}")
    assert list(splits) == ["test"]
    test = splits["test"]
    assert test.x.shape == (10_000, 1, 28, 28)
    assert test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.y[:5].tolist() == [7, 2, 1, 0, 4]
    # The widely used mean and standard deviation (of the training set) are 0.1307 and 0.3081.
    assert test.x.mean().item() == pytest.approx(0.1307, abs=0.003)
    assert test.x.std().item() == pytest.approx(0.3081, abs=0.003)
