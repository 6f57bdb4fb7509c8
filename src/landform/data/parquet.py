"""`parquet:PATH`: tables of images or of numbers in Parquet files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from landform.data.arrange import existing, extra, split_in
from landform.data.images import Size
from landform.data.split import Split
from landform.data.tables import Columns, to_splits

if TYPE_CHECKING:
    import pyarrow as pa


def parquet(
    rest: str,
    /,
    *,
    label: str | None = None,
    image: str | None = None,
    fields: str | Sequence[str] = (),
    size: Size | None = None,
    grayscale: bool | None = None,
    test_fraction: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Split]:
    """Parquet tables: one file, or a folder whose files or subfolders (``train*.parquet``, ``test*`` …) are the splits.

    A column of encoded images (the Hugging Face layout ``{bytes, path}``, or plain bytes) gives x float32
    ``(N, C, H, W)`` in [0, 1]. Without one, x is float32 ``(N, D)``: every numeric column but the label and the fields,
    in their order, ``names["columns"]``. Integer, boolean and text labels become class numbers in sorted order (or as
    the file's own metadata name them); floating-point labels stay quantities.

    Arguments:
        label: the label's column; by default the first there is of label, labels, fine_label, target, class and y.
        image: the images' column, where several could be it.
        fields: columns of integers or text to keep as metadata of each sample, as names or joined by commas.
        size, grayscale: as for ``folder:``.
        test_fraction: the share of each class that is held out (default a quarter) where there is no test split.
        limit: at most so many samples a split; the others' images are not decoded.
        seed: draws the held-out samples, and those that ``limit`` keeps.

    Raises:
        FileNotFoundError: nothing at PATH, or no Parquet file in it.
        ModuleNotFoundError: the extra ``data`` is not installed.
        ValueError: a damaged file, or columns that are missing, ambiguous, incomplete or of an unusable type.
    """
    path = existing("parquet", rest)
    tables = {part: _read(files) for part, files in _parts(path).items()}
    known: Columns = {}
    for table in tables.values():
        known |= _class_names(table.schema)
    return to_splits(
        tables,
        known,
        label=label,
        image=image,
        fields=fields,
        size=size,
        grayscale=grayscale,
        test_fraction=test_fraction,
        limit=limit,
        seed=seed,
    )


def _parts(path: Path) -> dict[str, list[Path]]:
    """The files of each split."""
    if path.is_file():
        return {"train": [path]}
    if files := sorted(path.glob("*.parquet")):
        return _by_split(path, {file: [file] for file in files})
    folders = {f: sorted(f.rglob("*.parquet")) for f in sorted(path.iterdir()) if f.is_dir()}
    folders = {folder: files for folder, files in folders.items() if files}
    if not folders:
        raise FileNotFoundError(f"parquet:{path}: there is no *.parquet in it")
    if len(folders) == 1 and split_in(next(iter(folders)).name) is None:
        return _parts(next(iter(folders)))
    return _by_split(path, folders)


def _by_split(root: Path, entries: dict[Path, list[Path]]) -> dict[str, list[Path]]:
    """Group files by the split that the entry's name speaks of; entries of which none does are one whole."""
    splits = {entry: split_in(entry.name) for entry in entries}
    if not any(splits.values()) and all(entry.is_file() for entry in entries):
        return {"train": [file for files in entries.values() for file in files]}
    parts: dict[str, list[Path]] = {}
    for entry, split in splits.items():
        if split is None:
            raise ValueError(f"{root}: what split is {entry.name}? Its name says neither train, validation nor test")
        parts.setdefault(split, []).extend(entries[entry])
    return parts


def _read(files: list[Path]) -> pa.Table:
    pa, pq = extra("pyarrow", "parquet"), extra("pyarrow.parquet", "parquet")
    tables = []
    for file in files:
        try:
            tables.append(pq.ParquetFile(file).read())
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: cannot be read as Parquet: {error}") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise ValueError(f"{files[0].parent}: the columns of {', '.join(f.name for f in files)} differ") from error


def _class_names(schema: pa.Schema) -> Columns:
    """The class names that Hugging Face's writer leaves in a file, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: tuple(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
