"""A contact sheet: the embedded worlds on one page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from torch import Tensor

from landform.data.split import Split, merge
from landform.data.uris import load

PAGE, INK, SOFT = "#faf8f4", "#26241f", "#6f6a60"
# Okabe and Ito's palette, which colour-blind eyes tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73")
# What the typefaces are shown by: a few characters of most scripts.
SPECIMEN = "AaRgQ27ΩξβЖфЯԱքგჰאשعض∮⇄"
# Two columns of each table that show its structure.
VIEWS = {
    "breast_cancer": ("mean radius", "mean concave points"),
    "wine": ("flavanoids", "color_intensity"),
    "iris": ("petal length (cm)", "petal width (cm)"),
    "diabetes": ("bmi", "s5"),
    "hastie": ("x0", "x1"),
    "madelon": ("informative 0", "informative 1"),
}


def contact_sheet(path: str | Path) -> Path:
    """Draw samples of every embedded world on one page, and write it to ``path`` as PNG.

    Handwritten digits by class, glyphs by script and by typeface, a piece of the corpus, drawn scenes by background,
    views from above by climate zone and roofs by material, and two columns of each table.

    Raises:
        ValueError: a path that does not end in .png.
        FileNotFoundError: a folder that is not there.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path={str(path)!r}: the contact sheet is a PNG picture; let its name end in .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no folder {path.parent}")
    with rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 8,
            "text.color": INK,
            "axes.labelcolor": SOFT,
            "axes.facecolor": PAGE,
            "axes.edgecolor": SOFT,
        }
    ):
        figure = Figure(figsize=(15, 20.6), facecolor=PAGE)
        grid = GridSpec(
            4, 2, figure, 0.035, 0.02, 0.975, 0.945, width_ratios=(5, 7), height_ratios=(5.6, 7, 4.9, 2.9), hspace=0.12
        )
        figure.text(0.035, 0.978, "The embedded worlds", size=19, weight="bold", va="center")
        figure.text(0.975, 0.978, "in memory, without a download, the same at every load", color=SOFT, ha="right")
        _digits(figure.add_subplot(grid[0, 0]))
        glyphs = merge(*load("glyphs").values())
        _by_script(figure.add_subplot(grid[0, 1]), glyphs)
        _by_typeface(figure.add_subplot(grid[1, 1]), glyphs)
        _corpus(figure.add_subplot(grid[1, 0]))
        # Every other column is room for the names of the rows.
        drawn = grid[2, :].subgridspec(1, 6, width_ratios=(1.6, 11, 2, 11, 2.4, 11), wspace=0)
        for number, draw in enumerate((_scenes, _overhead, _roofs)):
            draw(figure.add_subplot(drawn[0, 2 * number + 1]))
        tables = grid[3, :].subgridspec(2, len(VIEWS), height_ratios=(1, 100), hspace=0.2, wspace=0.16)
        header = figure.add_subplot(tables[0, :])
        header.set_axis_off()
        _title(header, "tabular", "bundled tables and synthetic ones, by two of their columns")
        for column, table in enumerate(VIEWS):
            _table(figure.add_subplot(tables[1, column]), table)
        figure.savefig(path, format="png", dpi=150)
    return path


def _title(axes: Axes, uri: str, what: str) -> None:
    axes.annotate(uri, (0, 1), (0, 7), textcoords="offset points", xycoords="axes fraction", size=11, weight="bold")
    axes.annotate(what, (1, 1), (0, 7), textcoords="offset points", xycoords="axes fraction", color=SOFT, ha="right")


def _mosaic(axes: Axes, tiles: Tensor, rows: list[str]) -> None:
    """Images ``(rows, columns, side, side)`` in [0, 1] as one picture; NaN leaves the page bare.

    A fifth dimension of 3 holds their colours.
    """
    height, width, side, _, *colours = tiles.shape
    gap = max(1, side // 14)
    page = torch.full((height, side + gap, width, side + gap, *colours), torch.nan)
    if colours:
        page[:] = torch.tensor(to_rgb(PAGE))
    page[:, :side, :, :side] = tiles.transpose(1, 2)
    picture = page.reshape(height * (side + gap), width * (side + gap), *colours)[:-gap, :-gap]
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for row, name in enumerate(rows):
        place = (row * (side + gap) + side / 2) / picture.shape[0]
        axes.annotate(name, (0, 1 - place), (-6, 0), "axes fraction", "offset points", ha="right", va="center", size=7)


def _spread(positions: Tensor, count: int) -> Tensor:
    """``count`` of the positions, evenly spaced."""
    return positions[torch.linspace(0, len(positions) - 1, count).long()]


def _digits(axes: Axes) -> None:
    whole = merge(*load("digits").values())
    tiles = [whole.x[(whole.y == digit).nonzero()[:10, 0], 0] for digit in range(10)]
    _mosaic(axes, torch.stack(tiles), [])
    _title(axes, "digits", f"{len(whole):,} handwritten digits of 8 × 8 pixels")


def _by_script(axes: Axes, whole: Split) -> None:
    tiles, rows = [], []
    for number, script in enumerate(whole.names["script"]):
        inside = (whole.fields["script"] == number).nonzero()[:, 0]
        by_class = inside[whole.y[inside].argsort(stable=True)]
        tiles.append(whole.x[_spread(by_class, 24), 0])
        rows.append(f"{script}\n{len(whole.y[inside].unique())}")
    _mosaic(axes, torch.stack(tiles), rows)
    scripts, typefaces = len(rows), len(whole.names["typeface"])
    what = f"{len(whole):,} glyphs: {len(whole.classes):,} characters of {scripts} scripts in {typefaces} typefaces"
    _title(axes, "glyphs", what)


def _by_typeface(axes: Axes, whole: Split) -> None:
    side = whole.x.shape[-1]
    tiles = torch.full((len(whole.names["typeface"]), len(SPECIMEN), side, side), torch.nan)
    for column, character in enumerate(SPECIMEN):
        found = (whole.y == whole.classes.index(character)).nonzero()[:, 0]
        tiles[whole.fields["typeface"][found], column] = whole.x[found, 0]
    _mosaic(axes, tiles, [name.replace("Computer Modern", "CM") for name in whole.names["typeface"]])
    _title(axes, "glyphs", "by typeface; bare where a typeface lacks the character")


def _corpus(axes: Axes) -> None:
    splits = load("corpus")
    train = splits["train"]
    start = int((train.x == 0).nonzero()[_opening(train), 0]) + 1
    lines = bytes(train.x[start : start + 4000].tolist()).decode(errors="replace").split("\0")[0].split("\n")
    axes.set_axis_off()
    axes.text(
        0,
        1,
        "\n".join(line[:78] for line in lines[:46]),
        family="DejaVu Sans Mono",
        size=6.6,
        va="top",
        linespacing=1.3,
    )
    sizes = " + ".join(f"{len(split) / 1e6:.1f}" for split in splits.values())
    _title(axes, "corpus", f"Python's standard library: {sizes} MB to {', '.join(splits)}")


def _opening(train: Split) -> int:
    """A file whose beginning is worth reading, or else the first."""
    files = train.names["file"]
    return files.index("heapq.py") if "heapq.py" in files else 0


def _in_colour(axes: Axes, whole: Split, rows: Tensor, names: tuple[str, ...], columns: int) -> None:
    """The first images of each row's number, in colour."""
    tiles = [whole.x[(rows == number).nonzero()[:columns, 0]].permute(0, 2, 3, 1) for number in range(len(names))]
    bare = torch.tensor(to_rgb(PAGE)).expand(columns, *tiles[0].shape[1:])
    _mosaic(axes, torch.stack([torch.cat((row, bare[len(row) :])) for row in tiles]), list(names))


def _scenes(axes: Axes) -> None:
    whole = merge(*load("scenes").values())
    _in_colour(axes, whole, whole.fields["background"], whole.names["background"], 10)
    _title(axes, "scenes", "10 shapes, 8 textures, 8 colours, 8 backgrounds")


def _overhead(axes: Axes) -> None:
    whole = merge(*load("overhead").values())
    _in_colour(axes, whole, whole.y, whole.classes, 5)
    _title(axes, "overhead", "with exact boxes, in 4 climate zones")


def _roofs(axes: Axes) -> None:
    whole = merge(*load("roofs").values())
    names = (re.sub("SheetMaterials|Tiles", "", name) for name in whole.classes)
    _in_colour(axes, whole, whole.y, tuple(re.sub("(?<=[a-z])(?=[A-Z])", "\n", name) for name in names), 16)
    _title(axes, "roofs", f"{len(whole.classes)} materials in 6 continents")


def _table(axes: Axes, table: str) -> None:
    whole = merge(*load(f"tabular:{table}").values())
    columns = whole.names["columns"]
    x, y = (whole.x[:1500, columns.index(name)].numpy() for name in VIEWS[table])
    target = whole.y[:1500].numpy()
    if whole.classes:
        colours: Any = np.array(COLOURS)[target]
        axes.scatter(x, y, s=5, c=colours, alpha=0.6, linewidths=0)
        for number, name in enumerate(whole.classes):
            axes.annotate(
                name,
                (0.98, 0.97 - 0.085 * number),
                xycoords="axes fraction",
                ha="right",
                va="top",
                color=COLOURS[number],
                size=7,
                weight="bold",
            )
    else:
        axes.scatter(x, y, s=5, c=target, cmap="viridis", linewidths=0)
    # Room above the points for the names of the classes.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low) * bool(whole.classes))
    axes.set_xlabel(VIEWS[table][0], size=7, labelpad=2)
    axes.set_ylabel(VIEWS[table][1], size=7, labelpad=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(table, loc="left", size=9)
    axes.set_title(f"{len(whole):,} × {len(columns)}", loc="right", size=8, color=SOFT)
