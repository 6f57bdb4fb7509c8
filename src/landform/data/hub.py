"""`hf:NAME`: datasets of the Hugging Face hub, or saved by its library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landform.data.arrange import SPLIT_OF, extra
from landform.data.images import Size
from landform.data.split import Split
from landform.data.tables import to_splits


def hub(
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
    """A Hugging Face dataset, ``hf:NAME`` or ``hf:NAME@CONFIG``, of images or of numbers; columns as for ``parquet:``.

    NAME is a dataset of the hub, or a local folder that ``load_dataset`` can read or ``save_to_disk`` has written.
    Code that a dataset brings along is not run. Splits keep their names, but ``valid``, ``val`` and ``dev`` are called
    ``validation``; one without labels (all -1) is left out.

    Arguments and errors: as for ``parquet:``; besides, what ``datasets`` raises when the hub cannot be reached.
    """
    datasets = extra("datasets", "hf")
    name, _, config = rest.partition("@")
    if not name:
        raise ValueError("hf: needs a dataset's name after the colon, as in hf:NAME or hf:NAME@CONFIG")
    folder = Path(name).expanduser()
    if any((folder / kept).exists() for kept in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(str(folder))
    else:
        loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config or None)
    parts: dict[str, Any] = {}
    for split, dataset in (loaded if isinstance(loaded, dict) else {"train": loaded}).items():
        if SPLIT_OF.get(split, split) in parts:
            raise ValueError(f"hf:{rest}: two of its splits {', '.join(loaded)} are {SPLIT_OF[split]}")
        parts[SPLIT_OF.get(split, split)] = dataset
    known = {
        column: tuple(feature.names)
        for dataset in parts.values()
        for column, feature in dataset.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return to_splits(
        {part: dataset.with_format("arrow")[:] for part, dataset in parts.items()},
        known,
        label=label,
        image=image,
        fields=fields,
        size=size,
        grayscale=grayscale,
        test_fraction=test_fraction,
        limit=limit,
        seed=seed,
        follow_paths=True,
    )
