"""Random crops and mirror images of whole batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def random_crop(
    x: Float[Tensor, "batch channels height width"], padding: int = 4, generator: torch.Generator | None = None
) -> Float[Tensor, "batch channels height width"]:
    """Every image padded with zeros by ``padding`` pixels on all sides, and cut to its size again where chance says.

    Raises:
        ValueError: images that are not 4-dimensional, or a negative padding.

    >>> random_crop(torch.rand(2, 3, 8, 8), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; images are (batch, channels, height, width)")
    if padding < 0:
        raise ValueError(f"padding={padding}: must be zero or more")
    n, _, height, width = x.shape
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator).to(x.device)
    rows = (top + torch.arange(height, device=x.device)).unsqueeze(2)
    columns = (left + torch.arange(width, device=x.device)).unsqueeze(1)
    image = torch.arange(n, device=x.device).view(n, 1, 1)
    return F.pad(x, [padding] * 4)[image, :, rows, columns].movedim(-1, 1).contiguous()


def random_flip(
    x: Float[Tensor, "batch channels height width"], generator: torch.Generator | None = None
) -> Float[Tensor, "batch channels height width"]:
    """Every image mirrored left to right with probability ½.

    >>> random_flip(torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    mirrored = torch.rand(len(x), generator=generator).to(x.device) < 0.5
    return torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
