"""`folder:PATH`: images in a folder for each class."""

from __future__ import annotations

from pathlib import Path

import torch

from landform.data.arrange import SPLIT_OF, arrange, existing
from landform.data.images import SUFFIXES, Size, check_size, decode
from landform.data.split import Split


def folder(
    rest: str,
    /,
    *,
    size: Size | None = None,
    grayscale: bool | None = None,
    test_fraction: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Split]:
    """Images of the user's own: ``PATH/<class>/**/*.png`` and so on, or ``PATH/train/<class>``, ``PATH/test/<class>``.

    The classes are the folders' names in alphabetical order, the same in all splits. x is float32 ``(N, C, H, W)`` in
    [0, 1]; see :func:`landform.data.images.decode` for channels and formats.

    Arguments:
        size: resize every image to S × S or (height, width); needed where the images differ in size.
        grayscale: True for one channel, False for three, None as the images are.
        test_fraction: the share of each class that is held out (default a quarter) where there is no test folder.
        limit: at most so many images a split.
        seed: draws the held-out images, and those that ``limit`` keeps.

    Raises:
        FileNotFoundError: nothing at PATH.
        ValueError: no class folders, a class without images, images of different sizes without ``size``.
    """
    root = existing("folder", rest)
    check_size(size)
    if not root.is_dir():
        raise ValueError(f"folder:{rest}: {root} is a file, not a folder")
    parts = _parts(root)
    classes = sorted({folder.name for folders in parts.values() for folder in folders})
    files: dict[str, list[Path]] = {}
    targets: dict[str, torch.Tensor] = {}
    for part, folders in parts.items():
        found = [(path, classes.index(folder.name)) for folder in folders for path in _images(folder)]
        files[part] = [path for path, _ in found]
        targets[part] = torch.tensor([number for _, number in found], dtype=torch.int64)

    picks = arrange(targets, classes=True, test_fraction=test_fraction, limit=limit, seed=seed)
    # All splits are decoded together, so that they agree in size and channels.
    paths = [files[pick.part][i] for pick in picks.values() for i in pick.index.tolist()]
    images = decode(paths, [str(path.relative_to(root)) for path in paths], size=size, grayscale=grayscale)
    shares = images.split([len(pick.index) for pick in picks.values()])
    return {
        name: Split(x, targets[pick.part][pick.index], tuple(classes))
        for (name, pick), x in zip(picks.items(), shares, strict=True)
    }


def _parts(root: Path) -> dict[str, list[Path]]:
    """The class folders of each part."""
    inside = _folders(root)
    if inside and all(folder.name.lower() in SPLIT_OF for folder in inside):
        parts = {SPLIT_OF[folder.name.lower()]: _folders(folder) for folder in inside}
        if len(parts) < len(inside):
            raise ValueError(f"{root}: two of {', '.join(folder.name for folder in inside)} mean the same split")
    else:
        parts = {"train": inside}
    for part, folders in parts.items():
        if not folders:
            raise ValueError(f"{root}: no class folders for {part}; images must lie in one folder for each class")
    return parts


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise ValueError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))})")
    return found
