"""Arrow tables, of images or of numbers, as splits: what `parquet:` and `hf:` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landform.data.arrange import Pick, arrange
from landform.data.images import Size, check_size, decode
from landform.data.split import Split

if TYPE_CHECKING:
    import pyarrow as pa

# Where no label column is named, the first of these that there is.
LABELS = ("label", "labels", "fine_label", "target", "class", "y")

Columns = dict[str, tuple[str, ...]]


def to_splits(
    tables: Mapping[str, pa.Table],
    known: Columns,
    *,
    label: str | None,
    image: str | None,
    fields: str | Sequence[str],
    size: Size | None,
    grayscale: bool | None,
    test_fraction: float | None,
    limit: int | None,
    seed: int,
    follow_paths: bool = False,
) -> dict[str, Split]:
    """Turn one table a part into splits.

    A column of images (``{bytes, path}`` or bytes) gives x ``(N, C, H, W)``; without one, x is every numeric column but
    the label and the fields. Integer, boolean and text labels are classes, floating-point labels quantities. A part
    whose labels are all -1, as the hub marks an unlabelled one, is left out.

    Arguments:
        tables: by part.
        known: what the integers of a column mean, by column, where the source says it.
        follow_paths: read images of which the table holds only the path; a stranger's file is not to say what we open.

    Raises:
        ValueError: columns that are missing, ambiguous, empty in places or of a type that cannot be used.
    """
    check_size(size)
    columns = _common_columns(tables)
    label = label or _default_label(columns)
    kept = [f.strip() for f in fields.split(",") if f.strip()] if isinstance(fields, str) else list(fields)
    for what, name in [("label", label), *(("fields", f) for f in kept), *([("image", image)] if image else [])]:
        if name not in columns:
            raise ValueError(f"{what}={name!r}: no such column; there are {', '.join(columns)}")
    schema = next(iter(tables.values())).schema
    image = image or _image_column(schema, {label, *kept})

    tables = {part: table for part, table in tables.items() if not _unlabelled(table, label)}
    if not tables:
        raise ValueError(f"label={label!r}: every label is -1, so nothing is labelled")
    targets, classes = _numbers(tables, label, known, quantity=True)
    numbered = {name: _numbers(tables, name, known, quantity=False) for name in kept}
    picks = arrange(targets, classes=bool(classes), test_fraction=test_fraction, limit=limit, seed=seed)
    names = {name: meaning for name, (_, meaning) in numbered.items()}
    if image is not None:
        x = _images(tables, image, picks, size, grayscale, follow_paths)
    else:
        features = [name for name in columns if name not in {label, *kept} and not name.startswith("__index_level_")]
        x = _features(tables, features, picks)
        names["columns"] = tuple(features)
    return {
        split: Split(
            x[split],
            targets[pick.part][pick.index],
            classes,
            fields={name: values[pick.part][pick.index] for name, (values, _) in numbered.items()},
            names=names,
        )
        for split, pick in picks.items()
    }


def _common_columns(tables: Mapping[str, pa.Table]) -> list[str]:
    (first, columns), *others = ((part, table.column_names) for part, table in tables.items())
    for part, theirs in others:
        if set(theirs) != set(columns):
            raise ValueError(
                f"the columns of {first} are {', '.join(columns)}, but those of {part} {', '.join(theirs)}"
            )
    return list(columns)


def _default_label(columns: list[str]) -> str:
    for name in LABELS:
        if name in columns:
            return name
    raise ValueError(f"no column is called {', '.join(LABELS)}; name it by label=, one of {', '.join(columns)}")


def _image_column(schema: pa.Schema, others: set[str]) -> str | None:
    """The one column that holds images, if any does."""
    found = [field.name for field in schema if field.name not in others and _holds_files(field.type)]
    if len(found) > 1:
        raise ValueError(f"several columns may be images: {', '.join(found)}; name one by image=")
    return found[0] if found else None


def _holds_files(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _unlabelled(table: pa.Table, label: str) -> bool:
    import pyarrow as pa

    column = table.column(label)
    return len(column) > 0 and pa.types.is_integer(column.type) and set(column.unique().to_pylist()) == {-1}


def _numbers(
    tables: Mapping[str, pa.Table], name: str, known: Columns, *, quantity: bool
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A column's integers by part and what they mean; or, where it is a ``quantity``, its floats and no meanings."""
    import pyarrow as pa

    values: dict[str, NDArray[Any]] = {}
    for part, table in tables.items():
        column = table.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        _refuse_missing(column, name, part)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            values[part] = np.array(column.to_pylist(), dtype=np.str_)
        elif pa.types.is_integer(kind) or pa.types.is_boolean(kind) or (quantity and pa.types.is_floating(kind)):
            values[part] = column.to_numpy()
        else:
            raise ValueError(f"column {name!r} is of type {kind}; it must hold integers, text{', floats' * quantity}")
    if quantity and all(array.dtype.kind == "f" for array in values.values()):
        return {part: torch.from_numpy(array.astype(np.float32)) for part, array in values.items()}, ()
    if name in known:
        return {part: torch.from_numpy(array.astype(np.int64)) for part, array in values.items()}, known[name]
    meanings = np.unique(np.concatenate(list(values.values())))
    numbers = {part: torch.from_numpy(np.searchsorted(meanings, array)) for part, array in values.items()}
    return numbers, tuple(map(str, meanings.tolist()))


def _features(tables: Mapping[str, pa.Table], features: list[str], picks: Mapping[str, Pick]) -> dict[str, Tensor]:
    """The numeric columns of each split, as float32 (N, D)."""
    import pyarrow as pa

    if not features:
        raise ValueError("there is no column but the label and the fields: nothing to learn from")
    matrices = {}
    for part in {pick.part for pick in picks.values()}:
        columns = []
        for name in features:
            column = tables[part].column(name)
            if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or column.type == pa.bool_()):
                raise ValueError(
                    f"column {name!r} is of type {column.type}; a table's inputs are numbers "
                    f"(fields={name!r} sets a column of text or integers aside)"
                )
            _refuse_missing(column, name, part)
            columns.append(column.to_numpy().astype(np.float32))
        matrices[part] = torch.from_numpy(np.stack(columns, axis=1))
    return {split: matrices[pick.part][pick.index] for split, pick in picks.items()}


def _refuse_missing(column: pa.ChunkedArray, name: str, part: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = column.null_count
    if pa.types.is_floating(column.type):
        missing += pc.sum(pc.is_nan(column)).as_py() or 0
    if missing:
        raise ValueError(f"column {name!r} of {part} has {missing} missing value(s)")


def _images(
    tables: Mapping[str, pa.Table],
    column: str,
    picks: Mapping[str, Pick],
    size: Size | None,
    grayscale: bool | None,
    follow_paths: bool,
) -> dict[str, Tensor]:
    """The images of each split, all decoded together so that splits agree in size and channels."""
    sources: list[Path | bytes] = []
    names: list[str] = []
    for pick in picks.values():
        cells = tables[pick.part].column(column).take(pick.index.numpy()).to_pylist()
        for row, cell in zip(pick.index.tolist(), cells, strict=True):
            name = f"row {row} of {pick.part}"
            sources.append(_file(cell, name, follow_paths))
            names.append(name)
    images = decode(sources, names, size=size, grayscale=grayscale)
    return dict(zip(picks, images.split([len(pick.index) for pick in picks.values()]), strict=True))


def _file(cell: Any, name: str, follow_paths: bool) -> Path | bytes:
    """The bytes of an image, or its path where that is allowed."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content is not None:
        return bytes(content)
    path = cell.get("path") if isinstance(cell, dict) else None
    if path and follow_paths:
        return Path(path)
    raise ValueError(f"{name} holds no image bytes")
