"""A description of every embedded world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from landform.data.glyphs import SCRIPTS
from landform.data.split import Split
from landform.data.uris import load


@dataclass(frozen=True)
class World:
    """What ``load(uri)`` gives.

    Arguments:
        uri: its name.
        what: what it is, in a few words.
        sizes: the number of samples in each split; bytes for text.
        shape: the shape of one sample; empty for text, whose samples are bytes.
        classes: the number of classes; 0 where the target is a quantity, or the next byte.
    """

    uri: str
    what: str
    sizes: Mapping[str, int]
    shape: tuple[int, ...]
    classes: int


WHAT = {
    "digits": "handwritten digits of 8 × 8 pixels (scikit-learn)",
    "glyphs": "printed characters of all scripts, in matplotlib's typefaces",
    **{f"glyphs:{script}": f"printed characters: {script}" for script in SCRIPTS},
    "corpus": "the source of Python's standard library, as bytes",
    "tabular:breast_cancer": "benign or malignant, from cell nuclei in a biopsy",
    "tabular:wine": "the cultivar of a wine, from its chemistry",
    "tabular:iris": "the species of an iris, from petals and sepals",
    "tabular:diabetes": "progression of diabetes after a year (a quantity)",
    "tabular:diabetes-high": "progression of diabetes above its median",
    "tabular:hastie": "synthetic: is a normal vector's squared length above its median",
    "tabular:madelon": "synthetic: clusters in 5 of 500 columns, the rest mixtures and noise",
    "scenes": "drawn: a shape, with its texture and colour, on a background that may go along with it",
    "overhead": "drawn: houses, vehicles and tanks from above, in four climate zones",
    "roofs": "drawn: roofs from above, of 14 materials in six continents",
}


def worlds() -> list[World]:
    """Every embedded world as it is on this machine, each loaded once to see (about a second in all).

    >>> [world.classes for world in worlds() if world.uri == "digits"]
    [10]
    """
    return [_describe(uri, load(uri)) for uri in WHAT]


def _describe(uri: str, splits: Mapping[str, Split]) -> World:
    first = next(iter(splits.values()))
    sizes = {name: len(split) for name, split in splits.items()}
    return World(uri, WHAT[uri], sizes, tuple(first.x.shape[1:]), len(first.classes))
