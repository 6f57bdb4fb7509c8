"""The `corpus` world: the source of Python's own standard library, as bytes."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from landform.data.split import Split, check_count

# Not the library itself: what is installed beside it, what is built from it, and its tests.
LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
# A file's place in [0, 1), drawn by hashing its name, decides its split.
SHARES = (("train", 0.8), ("validation", 0.9), ("test", 1.0))


def corpus(*, max_bytes: int | None = None) -> dict[str, Split]:
    """Python source as text: x is the bytes, uint8 ``(N,)``, and y the byte that follows each.

    The splits (train, validation, test: about 80, 10 and 10 % of the files) share no file. Which split a file belongs
    to, and its place there, depends on its name alone, so that one more file moves no other. A zero byte, which no
    source holds, stands before every file; ``names["file"]`` are the files in their order. ``classes`` is empty: the
    256 bytes are their own names.

    Arguments:
        max_bytes: so many bytes of each split, from its beginning (files are in no meaningful order).

    Raises:
        FileNotFoundError: an installation without the library's sources.
        ValueError: ``max_bytes`` below 2.
    """
    if max_bytes is not None:
        check_count("max_bytes", max_bytes, 2)
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted((_place(name), name) for name in _sources(root))
    if not files:
        raise FileNotFoundError(f"no Python sources in {root}: this installation has the library in compiled form only")
    splits, low = {}, 0.0
    for split, high in SHARES:
        splits[split] = _read(root, [name for place, name in files if low <= place < high], max_bytes)
        low = high
    return splits


def windows(text: UInt8[Tensor, " n"], length: int, count: int, generator: torch.Generator) -> Int64[Tensor, "count l"]:
    """``count`` stretches of ``length + 1`` bytes from uniformly drawn places of ``text``, as int64 tokens.

    A language model reads ``w[:, :-1]`` and is asked for ``w[:, 1:]``.

    Raises:
        ValueError: text that is not a vector, or is shorter than ``length + 1``; length or count below 1.

    >>> text = torch.arange(10, dtype=torch.uint8)
    >>> w = windows(text, length=3, count=2, generator=torch.Generator().manual_seed(0))
    >>> w.shape, (w[:, 1:] - w[:, :-1]).unique()
    (torch.Size([2, 4]), tensor([1]))
    """
    if text.ndim != 1:
        raise ValueError(f"text has shape {tuple(text.shape)}; it must be a vector of bytes")
    check_count("length", length, 1)
    check_count("count", count, 1)
    if len(text) < length + 1:
        raise ValueError(f"length={length}: a window takes {length + 1} bytes, but the text has {len(text)}")
    starts = torch.randint(len(text) - length, (count,), generator=generator, device=generator.device)
    return text.unfold(0, length + 1, 1)[starts.to(text.device)].long()


def _sources(root: Path) -> list[str]:
    """The library's source files, relative to ``root``, with forward slashes on every platform."""
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    return [path.as_posix() for path in paths if LEFT_OUT.isdisjoint(path.parts[:-1])]


def _place(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def _read(root: Path, names: list[str], max_bytes: int | None) -> Split:
    """Files in order, a zero byte before each and one after the last, cut to ``max_bytes`` inputs."""
    text, read = bytearray(), []
    for name in names:
        if max_bytes is not None and len(text) > max_bytes:
            break
        text += b"\0" + (root / name).read_bytes()
        read.append(name)
    text += b"\0"
    if max_bytes is not None:
        del text[max_bytes + 1 :]
    # One stream, seen twice: y is x moved on by one byte, and takes no memory of its own.
    stream = torch.frombuffer(text, dtype=torch.uint8)
    return Split(stream[:-1], stream[1:], names={"file": tuple(read)})
