"""Arrays kept on disk between runs, named by the hash of what they were made from."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


def cache_folder() -> Path:
    """Where this user's cached data lie: ``$XDG_CACHE_HOME/landform``, or the platform's own place for caches."""
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "landform"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "landform"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "landform" / "Cache"
    return Path.home() / ".cache" / "landform"


def cached(name: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays kept under ``name``; made, and kept for the next time, where they are missing or damaged.

    Files appear whole or not at all, so that processes may share the folder. Where it cannot be written, the arrays are
    made each time.
    """
    path = cache_folder() / f"{name}.npz"
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        arrays = make()
    with suppress(OSError):
        _write(path, arrays)
    return arrays


def _digest(arrays: Arrays) -> NDArray[np.uint8]:
    """A hash of names, dtypes, shapes and values."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        whole.update(f"{name} {array.dtype.str} {array.shape}".encode())
        whole.update(array.data)
    return np.frombuffer(whole.digest(), dtype=np.uint8)


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if not np.array_equal(arrays.pop("digest"), _digest(arrays)):
        raise ValueError(f"{path} does not hold what was written to it")
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            np.savez_compressed(part, allow_pickle=False, digest=_digest(arrays), **arrays)
            part.close()
            Path(part.name).replace(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
