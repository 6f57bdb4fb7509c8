"""Roofs by material: how each looks, and where in the world it is common."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.scenes.regions import TINT

CONTINENTS = ("North America", "Europe", "Asia", "Africa", "South America", "Oceania")
ROOF_SHAPES = ("flat", "gable", "hip", "pyramidal")


class Material(NamedTuple):
    """Colours where the pattern is 0 and 1, the pattern, its pitches in pixels of an image of 32, and its contrast."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    pattern: str
    pitch_u: float
    pitch_v: float
    contrast: float


MATERIALS = {
    "Thatch": Material((0.50, 0.40, 0.24), (0.66, 0.55, 0.34), "fibre", 1.5, 6, 0.9),
    "GreenVegetative": Material((0.18, 0.34, 0.12), (0.34, 0.48, 0.22), "blotch", 5, 5, 0.9),
    "StoneSlates": Material((0.22, 0.24, 0.28), (0.38, 0.40, 0.44), "brick", 4, 3, 0.7),
    "ClayTiles": Material((0.58, 0.26, 0.16), (0.74, 0.40, 0.26), "barrel", 3, 40, 0.8),
    "AsphaltTiles": Material((0.24, 0.23, 0.23), (0.34, 0.32, 0.31), "rows", 5, 2.5, 0.5),
    "ConcreteTiles": Material((0.48, 0.46, 0.43), (0.60, 0.57, 0.53), "brick", 5, 4, 0.6),
    "WoodTiles": Material((0.40, 0.28, 0.18), (0.52, 0.38, 0.26), "rows", 3, 4, 0.8),
    "MetalSheetMaterials": Material((0.55, 0.58, 0.62), (0.80, 0.83, 0.87), "barrel", 4, 40, 0.6),
    "PolycarbonateSheetMaterials": Material((0.66, 0.76, 0.80), (0.84, 0.92, 0.94), "barrel", 7, 40, 0.4),
    "GlassSheetMaterials": Material((0.30, 0.45, 0.55), (0.70, 0.85, 0.92), "panes", 7, 7, 0.9),
    "AmorphousConcrete": Material((0.60, 0.59, 0.57), (0.70, 0.69, 0.67), "joints", 16, 16, 0.5),
    "AmorphousAsphalt": Material((0.12, 0.12, 0.13), (0.20, 0.20, 0.21), "blotch", 9, 9, 0.4),
    "AmorphousMembrane": Material((0.86, 0.86, 0.86), (0.96, 0.96, 0.95), "joints", 20, 40, 0.25),
    "AmorphousFabric": Material((0.80, 0.74, 0.68), (0.94, 0.90, 0.86), "folds", 14, 40, 0.5),
}
ROOF_MATERIALS = tuple(MATERIALS)
ALWAYS_FLAT = torch.tensor([name.startswith("Amorphous") or name == "GreenVegetative" for name in ROOF_MATERIALS])

# The share of each continent's cities that list a material, in the order of CONTINENTS.
_LISTED = {
    "MetalSheetMaterials": (1.0, 0.81, 0.97, 0.91, 0, 1.0),
    "AmorphousAsphalt": (0.85, 0.68, 0.46, 0.62, 0, 1.0),
    "AsphaltTiles": (0.85, 0.68, 0.44, 0.62, 1.0, 1.0),
    "AmorphousConcrete": (0.38, 0.84, 0.87, 0.97, 1.0, 1.0),
    "ConcreteTiles": (0.38, 0.82, 0.87, 1.0, 1.0, 1.0),
    "AmorphousMembrane": (0.79, 0.05, 0.03, 0.09, 0.11, 0.33),
    "GreenVegetative": (0.48, 0, 0, 0, 0, 0),
    "ClayTiles": (0.15, 0.19, 0.56, 0.12, 1.0, 0),
    "WoodTiles": (0.06, 0.37, 0.13, 0, 0, 0),
    "StoneSlates": (0, 0.31, 0, 0, 0, 0),
    "Thatch": (0, 0.18, 0, 0.28, 0, 0),
    "AmorphousFabric": (0, 0, 0.05, 0, 0, 0),
}
UNLISTED = 0.03


def roof_material_prior() -> Float[Tensor, "6 14"]:
    """P(material | continent): the share of its cities that list the material, or .03 where none does, normalised.

    >>> prior = roof_material_prior()
    >>> prior.shape, round(float(prior[1].sum()), 6)
    (torch.Size([6, 14]), 1.0)
    """
    none = (0.0,) * len(CONTINENTS)
    shares = torch.tensor([_LISTED.get(name, none) for name in ROOF_MATERIALS], dtype=torch.float64).T
    shares = torch.where(shares > 0, shares, UNLISTED)
    return shares / shares.sum(1, keepdim=True)


# The ground around from low to high, and how large roofs are beside the largest.
GROUND_LOW = torch.tensor(
    [
        (0.38, 0.50, 0.28),
        (0.32, 0.48, 0.24),
        (0.48, 0.46, 0.36),
        (0.66, 0.48, 0.34),
        (0.30, 0.46, 0.20),
        (0.62, 0.58, 0.38),
    ]
)
GROUND_HIGH = torch.tensor(
    [
        (0.30, 0.38, 0.24),
        (0.22, 0.36, 0.18),
        (0.38, 0.36, 0.30),
        (0.54, 0.38, 0.26),
        (0.20, 0.34, 0.14),
        (0.50, 0.46, 0.30),
    ]
)
ROOF_SIZE = torch.tensor([1.0, 0.9, 0.85, 0.8, 0.9, 0.95])
ROOF_TINT = (1 + TINT) / 2
