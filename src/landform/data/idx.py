"""`idx:PATH`: images and labels in the IDX files of MNIST and its kin."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from landform.data.arrange import arrange, existing, split_in
from landform.data.split import Split

# The third byte of an IDX file: the type of its big-endian numbers.
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(
    rest: str, /, *, test_fraction: float | None = None, limit: int | None = None, seed: int = 0
) -> dict[str, Split]:
    """Images and labels as MNIST has them, gzipped or not: x float32 ``(N, 1, H, W)`` in [0, 1], y the label.

    PATH is a folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and, for the test split, ``t10k-…``
    (or ``test-…``) of the same; or one file of images, whose labels lie beside it. Classes are the numbers from 0 to
    the greatest label.

    Arguments:
        test_fraction: the share of each class that is held out (default a quarter) where there is no test file.
        limit: at most so many samples a split.
        seed: draws the held-out samples, and those that ``limit`` keeps.

    Raises:
        FileNotFoundError: nothing at PATH, or images without their labels.
        ValueError: a file that is damaged or not of this format, or counts of images and labels that differ.
    """
    path = existing("idx", rest)
    parts = _image_files(path) if path.is_dir() else {"train": path}
    images, targets = {}, {}
    for part, file in parts.items():
        images[part], targets[part] = _read_pair(file)
    shapes = {array.shape[1:] for array in images.values()}
    if len(shapes) > 1:
        raise ValueError(f"{path}: the images of its parts differ in size: {' and '.join(map(str, sorted(shapes)))}")
    greatest = max((int(target.max()) for target in targets.values() if len(target)), default=-1)
    classes = tuple(map(str, range(greatest + 1)))

    splits = {}
    for name, pick in arrange(targets, classes=True, test_fraction=test_fraction, limit=limit, seed=seed).items():
        x = torch.from_numpy(images[pick.part][pick.index.numpy()]).unsqueeze(1).to(torch.float32) / 255
        splits[name] = Split(x, targets[pick.part][pick.index], classes)
    return splits


def read_idx(path: Path) -> NDArray[Any]:
    """The array of one IDX file, gzipped or not.

    The format: two zero bytes, a type, the number of dimensions d, d big-endian 32-bit sizes, the values.

    Raises:
        ValueError: another magic number, an unknown type, or more or fewer values than the sizes say.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            if not zipped:
                return _parse(raw, path)
            with gzip.open(raw) as file:
                return _parse(file, path)  # type: ignore[arg-type]
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from error


def _parse(file: BinaryIO, path: Path) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        raise ValueError(f"{path}: not an IDX file; it begins with {magic.hex(' ') or 'nothing'}")
    dtype, ndim = np.dtype(TYPES[magic[2]]), magic[3]
    header = file.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise ValueError(f"{path}: the header ends within its {ndim} sizes")
    shape = struct.unpack(f">{ndim}I", header)
    size = math.prod(shape) * dtype.itemsize
    # Piece by piece, and no more than there may be, whatever the header or a gzip stream would have us allocate.
    values = bytearray()
    while len(values) <= size and (piece := file.read(2**20)):
        values += piece
    if len(values) != size:
        found = f"only {len(values)}" if len(values) < size else "more"
        raise ValueError(f"{path}: its sizes {shape} ask for {size} bytes of values, but there are {found}")
    return np.frombuffer(values, dtype).reshape(shape)


def _read_pair(file: Path) -> tuple[NDArray[np.uint8], torch.Tensor]:
    label_file = _labels_beside(file)
    images = read_idx(file)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(
            f"{file}: holds {images.dtype} {images.shape}; images are unsigned bytes, (count, rows, columns)"
        )
    labels = read_idx(label_file)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"{label_file}: holds {labels.dtype} {labels.shape}; labels are integers, (count,)")
    if len(labels) != len(images):
        raise ValueError(f"{file} holds {len(images)} images, but {label_file.name} {len(labels)} labels")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{label_file}: the label {labels.min()} is negative")
    return images, torch.from_numpy(labels.astype(np.int64))


def _image_files(folder: Path) -> dict[str, Path]:
    """The file of images of each split."""
    parts: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        part = split_in(file.name)
        if part is None or "images" not in file.name or "idx" not in file.name:
            continue
        if part in parts and parts[part].name != file.name.removesuffix(".gz"):
            raise ValueError(
                f"{folder}: both {parts[part].name} and {file.name} are {part} images; give one as the path"
            )
        parts.setdefault(part, file)
    if not parts:
        raise FileNotFoundError(f"{folder}: no train-images-idx3-ubyte or t10k-images-idx3-ubyte (gzipped or not)")
    return parts


def _labels_beside(images: Path) -> Path:
    """The file of labels that belongs to a file of images, gzipped or not."""
    if "images" not in images.name:
        raise ValueError(f"{images}: a file of images has 'images' in its name, and that of its labels 'labels'")
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    for candidate in (images.with_name(name), images.with_name(f"{name}.gz")):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{images}: its labels are missing: there is neither {name} nor {name}.gz beside it")
