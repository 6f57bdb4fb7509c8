"""Geography: how regions differ in style, in what lies in the background, and in the texture of things.

gamma in [0, 1] is the strength: at 0 all regions are alike, at 1 they differ in full. Region 0 is the reference.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

TINT = torch.tensor(
    [(1, 1, 1), (1.20, 1.02, 0.80), (0.82, 0.95, 1.18), (0.90, 1.15, 0.92), (1.15, 0.85, 1.05), (0.85, 1.08, 1.10)]
)
CONTRAST = torch.tensor([1, 0.9, 0.8, 0.95, 0.75, 0.85])
OFFSET = torch.tensor([0, 0.03, 0.08, -0.05, 0.10, 0.02])
ASPECT = torch.tensor([1, 1, 0.8, 1.2, 0.9, 1.1])

# P(background | region) and P(texture | region).
BACKGROUND_PRIOR = torch.tensor(
    [
        (0.30, 0.02, 0.30, 0.02, 0.02, 0.30, 0.02, 0.02),
        (0.05, 0.60, 0.05, 0.05, 0.05, 0.05, 0.10, 0.05),
        (0.10, 0.05, 0.05, 0.50, 0.05, 0.05, 0.10, 0.10),
        (0.10, 0.05, 0.05, 0.05, 0.55, 0.05, 0.05, 0.10),
        (0.05, 0.30, 0.05, 0.05, 0.05, 0.05, 0.40, 0.05),
        (0.10, 0.10, 0.10, 0.10, 0.10, 0.10, 0.20, 0.20),
    ],
    dtype=torch.float64,
)
TEXTURE_PRIOR = torch.tensor(
    [(0.45, 0.10, 0.10, 0.05, 0.05, 0.15, 0.05, 0.05)] + 5 * [(0.08, 0.12, 0.12, 0.20, 0.20, 0.08, 0.10, 0.10)],
    dtype=torch.float64,
)


def tempered(prior: Float[Tensor, "regions k"], gamma: float) -> Float[Tensor, "regions k"]:
    """P_gamma = gamma P_r + (1 - gamma) mean_r P_r."""
    return gamma * prior + (1 - gamma) * prior.mean(0)


def regional_style(
    images: Float[Tensor, "n 3 height width"], region: Int[Tensor, " n"], gamma: float
) -> Float[Tensor, "n 3 height width"]:
    """((x - m)(1 - gamma + gamma k_r) + m + gamma o_r)(1 - gamma + gamma tint_r), m each channel's mean; not clipped.

    k is the region's contrast and o its offset.
    """
    device = images.device
    # In float64 the mean, once rounded, does not show in which order the pixels were added.
    mean = images.mean((2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
    contrast = (1 - gamma + gamma * CONTRAST.to(device)[region]).view(-1, 1, 1, 1)
    offset = (gamma * OFFSET.to(device)[region]).view(-1, 1, 1, 1)
    tint = (1 - gamma + gamma * TINT.to(device)[region]).view(-1, 3, 1, 1)
    return ((images - mean) * contrast + (mean + offset)) * tint
