"""Climate zones: what the ground, the roofs, the vehicles, the light and the mix of objects are like from above."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.scenes.atlas import texture_atlas
from landform.data.scenes.factors import TEXTURES

ZONES = ("tropical", "arid", "temperate", "cold")


@dataclass(frozen=True)
class ZoneTable:
    """The numbers of each zone, a row each.

    ``shadow`` is (dx, dy, length), ``haze`` (weight, grey level); ``ground_tile`` is what makes the ground's colour
    go from low (0) to high (1), ``frequency`` its tiles per image.
    """

    ground_low: Float[Tensor, "zones 3"]
    ground_high: Float[Tensor, "zones 3"]
    ground_tile: Float[Tensor, "zones 64 64"]
    frequency: Float[Tensor, " zones"]
    roofs: Float[Tensor, "zones 3 3"]
    vehicles: Float[Tensor, "zones 3 3"]
    size: Float[Tensor, " zones"]
    density: Float[Tensor, " zones"]
    prior: Float[Tensor, "zones classes"]
    shadow: Float[Tensor, "zones 3"]
    haze: Float[Tensor, "zones 2"]
    tint: Float[Tensor, "zones 3"]


def zone_table(lam: float, device: torch.device) -> ZoneTable:
    """lam z + (1 - lam) mean over the zones, entry by entry: with lam = 0 all zones are alike."""

    def mixed(*rows: object) -> Tensor:
        whole = torch.stack([torch.as_tensor(row, dtype=torch.float32) for row in rows])
        return (lam * whole + (1 - lam) * whole.mean(0)).to(device)

    grain, blotch = (texture_atlas()[TEXTURES.index(name)] for name in ("grain", "blotch"))
    return ZoneTable(
        ground_low=mixed((0.20, 0.42, 0.16), (0.80, 0.70, 0.52), (0.42, 0.50, 0.30), (0.92, 0.93, 0.95)),
        ground_high=mixed((0.10, 0.28, 0.08), (0.68, 0.56, 0.38), (0.34, 0.38, 0.30), (0.80, 0.84, 0.90)),
        ground_tile=mixed(grain, blotch, grain, blotch),
        frequency=mixed(1.2, 0.8, 0.9, 0.7),
        roofs=mixed(
            ((0.55, 0.57, 0.60), (0.45, 0.30, 0.22), (0.70, 0.72, 0.74)),
            ((0.83, 0.77, 0.65), (0.90, 0.87, 0.80), (0.70, 0.62, 0.50)),
            ((0.55, 0.26, 0.20), (0.33, 0.33, 0.36), (0.62, 0.45, 0.36)),
            ((0.88, 0.88, 0.90), (0.45, 0.25, 0.22), (0.35, 0.37, 0.40)),
        ),
        vehicles=mixed(
            ((0.90, 0.90, 0.90), (0.80, 0.20, 0.20), (0.20, 0.30, 0.70)),
            ((0.95, 0.95, 0.95), (0.60, 0.60, 0.60), (0.85, 0.80, 0.70)),
            ((0.15, 0.15, 0.17), (0.70, 0.70, 0.72), (0.55, 0.10, 0.10)),
            ((0.70, 0.70, 0.72), (0.20, 0.20, 0.25), (0.60, 0.10, 0.10)),
        ),
        size=mixed(0.90, 1.05, 1.0, 1.0),
        density=mixed(0.75, 0.50, 0.65, 0.55),
        prior=mixed(
            (0.46, 0.06, 0.26, 0.10, 0.04, 0.08),
            (0.30, 0.12, 0.24, 0.16, 0.08, 0.10),
            (0.34, 0.10, 0.32, 0.10, 0.05, 0.09),
            (0.40, 0.10, 0.28, 0.10, 0.06, 0.06),
        ),
        shadow=mixed((0.5, 0.25, 0.45), (0.2, 0.6, 0.75), (-0.55, 0.55, 0.65), (-0.7, 0.3, 1.0)),
        haze=mixed((0.10, 0.8), (0.05, 0.9), (0.0, 0.8), (0.05, 0.9)),
        tint=mixed((1, 1.03, 0.97), (1.06, 1, 0.90), (0.97, 1, 1.04), (0.95, 1, 1.06)),
    )
