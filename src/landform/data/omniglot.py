"""`omniglot:PATH`: handwritten characters of many alphabets, from the archives as they are published."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch

from landform.data.arrange import HELD_OUT, existing
from landform.data.images import Size, check_size, decode
from landform.data.split import Split, holdout, limited

# Where the drawings of a character lie in an archive: ALPHABET/characterNN/NNNN_DRAWER.png.
DRAWING = re.compile(r"(?:[^/]+/)?(?P<alphabet>[^/]+)/(?P<character>character\d+)/\d+_(?P<drawer>\d+)\.png")
DRAWERS = 20
# A drawing takes some hundred bytes; an entry that claims to unpack to more than this is none.
LARGEST = 1_000_000


def omniglot(
    rest: str,
    /,
    *,
    size: Size = 28,
    test_fraction: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Split]:
    """Omniglot (Lake et al., 2015): x is float32 ``(N, 1, size, size)`` in [0, 1], white on black; y the character.

    PATH is one of the archives, or a folder with some: ``images_background*.zip`` (also the small ones, whose alphabets
    overlap and are taken once) and ``images_evaluation.zip``. No class is in two splits: the training split holds the
    background set, the test split the evaluation set; where one is missing, some characters of every alphabet of the
    other are held out. Classes are named ``ALPHABET/characterNN``; fields are ``script`` (the alphabet) and ``drawer``.

    Arguments:
        size: of the images, which are drawn on 105 × 105 pixels: S × S, or (height, width).
        test_fraction: the share of characters held out (default a quarter) where there is only one of the sets.
        limit: at most so many images a split.
        seed: draws the held-out characters, and the images that ``limit`` keeps.

    Raises:
        FileNotFoundError: nothing at PATH, or a folder without such archives.
        ValueError: a file that is no archive of Omniglot, a damaged one, or an option out of range.
    """
    root = existing("omniglot", rest)
    check_size(size)
    archives = sorted(root.glob("images_*.zip")) if root.is_dir() else [root]
    if not archives:
        raise FileNotFoundError(f"omniglot:{rest}: {root} holds no images_background*.zip or images_evaluation.zip")
    found: dict[tuple[str, str, int], tuple[bytes, bool]] = {}
    for archive in archives:
        for key, drawing in _drawings(archive).items():
            found.setdefault(key, (drawing, "evaluation" in archive.name))
    keys = sorted(found)
    classes = sorted({(alphabet, character) for alphabet, character, _ in keys})
    scripts = sorted({alphabet for alphabet, _ in classes})
    whole = Split(
        x=1 - decode([found[k][0] for k in keys], ["/".join(map(str, k)) for k in keys], size=size, grayscale=True),
        y=torch.tensor([classes.index(key[:2]) for key in keys]),
        classes=tuple("/".join(pair) for pair in classes),
        fields={
            "script": torch.tensor([scripts.index(alphabet) for alphabet, _, _ in keys]),
            "drawer": torch.tensor([drawer for _, _, drawer in keys]),
        },
        names={"script": tuple(scripts), "drawer": tuple(str(number + 1) for number in range(DRAWERS))},
    )
    test = torch.tensor([found[key][1] for key in keys])
    if test.all() or not test.any():
        script = torch.tensor([scripts.index(alphabet) for alphabet, _ in classes])
        held = holdout(script, HELD_OUT if test_fraction is None else test_fraction, seed)[1]
        test = torch.isin(whole.y, held)
    elif test_fraction is not None:
        raise ValueError(f"test_fraction={test_fraction}: the archives have a background and an evaluation set")
    return limited({"train": whole[~test], "test": whole[test]}, limit, seed)


def _drawings(archive: Path) -> dict[tuple[str, str, int], bytes]:
    """The image files of an archive by alphabet, character and drawer, counted from 0."""
    drawings = {}
    try:
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                if (match := DRAWING.fullmatch(entry.filename)) is None:
                    continue
                drawer = int(match["drawer"])
                if not 1 <= drawer <= DRAWERS or entry.file_size > LARGEST:
                    raise ValueError(f"{archive}: {entry.filename} is no drawing of Omniglot's {DRAWERS} drawers")
                drawings[match["alphabet"], match["character"], drawer - 1] = file.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{archive} cannot be read as a zip archive: {error}") from error
    if not drawings:
        raise ValueError(f"{archive} holds no ALPHABET/characterNN/NNNN_DRAWER.png, so it is none of Omniglot's sets")
    return drawings
