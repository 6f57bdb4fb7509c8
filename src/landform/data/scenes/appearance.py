"""What the values of the factors look like: the colours of objects, and the grounds that they lie on."""

from __future__ import annotations

import torch

from landform.data.scenes.factors import TEXTURES

# In the order of COLOURS: red, green, blue.
PALETTE = torch.tensor(
    [
        (0.85, 0.20, 0.20),
        (0.20, 0.65, 0.25),
        (0.20, 0.35, 0.85),
        (0.90, 0.80, 0.20),
        (0.70, 0.30, 0.75),
        (0.20, 0.75, 0.75),
        (0.95, 0.55, 0.15),
        (0.90, 0.90, 0.90),
    ]
)

# In the order of BACKGROUNDS: the colour where the texture is 0, that where it is 1, the texture, and how many of its
# tiles span the image.
_GROUNDS = (
    ((0.35, 0.55, 0.25), (0.20, 0.40, 0.15), "grain", 1.0),
    ((0.85, 0.78, 0.60), (0.70, 0.60, 0.42), "blotch", 0.8),
    ((0.20, 0.40, 0.65), (0.35, 0.55, 0.75), "stripes_h", 1.5),
    ((0.95, 0.96, 0.98), (0.82, 0.86, 0.92), "blotch", 0.7),
    ((0.12, 0.28, 0.12), (0.05, 0.16, 0.07), "grain", 2.0),
    ((0.45, 0.45, 0.47), (0.35, 0.35, 0.37), "grain", 1.5),
    ((0.60, 0.35, 0.25), (0.50, 0.27, 0.20), "checker", 1.2),
    ((0.75, 0.70, 0.65), (0.65, 0.60, 0.55), "stripes_v", 1.0),
)
LOW = torch.tensor([low for low, _, _, _ in _GROUNDS])
SPAN = torch.tensor([high for _, high, _, _ in _GROUNDS]) - LOW
GROUND_TEXTURE = torch.tensor([TEXTURES.index(texture) for _, _, texture, _ in _GROUNDS])
FREQUENCY = torch.tensor([frequency for _, _, _, frequency in _GROUNDS])
