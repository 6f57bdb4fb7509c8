"""Square attack: random search on the margin alone, without gradients."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from landform.attacks.balls import LinfBall
from landform.attacks.checks import check_batch, check_count, check_found, check_labels, check_logits, check_models
from landform.attacks.losses import Labels, margin_loss
from landform.attacks.transforms import Images, check_images

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the squares' share of the image is halved."""


@torch.no_grad()
def square(
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    ball: LinfBall,
    queries: int = 5000,
    p: float = 0.8,
    generator: torch.Generator | None = None,
) -> Images:
    """Square attack in an L-infinity ball (Andriushchenko et al., arXiv 1912.00049, Alg. 1 and 2).

    Starts with vertical stripes of ± eps. Query i adds ± 2 eps, one sign a channel, in a square of side
    round(sqrt(p_i H W)) at a random place, and projects; what lowers the margin z_y − max_{j≠y} z_j is kept. p_i starts
    at ``p`` and is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries, in proportion to
    the budget. Each sample has squares of its own, and is done with once the model is wrong.

    As it sees no gradient, it finds where a model only hides its own.

    Arguments:
        model, x, y: as of :func:`~landform.attacks.pgd`; images.
        queries: the most that the model is asked about a sample after its start.
        p: the share of the image that the first squares take.
        generator: draws stripes, places and signs.

    Raises:
        ValueError, TypeError: another ball, p outside (0, 1], inputs that are no images, or as
            :func:`~landform.attacks.pgd` does.
    """
    check_models([model], "model")
    check_batch(x, y)
    check_images(x)
    check_count(queries=queries)
    if not isinstance(ball, LinfBall):
        raise TypeError(f"ball={ball!r}: the square attack is for a LinfBall")
    if not 0 < p <= 1:
        raise ValueError(f"p={p}: must be in (0, 1]")
    count, channels, height, width = x.shape
    project = ball.around(x)
    stripes = ball.eps * _signs((count, channels, 1, width), x, generator)
    x_adv = project(x + stripes)
    logits = model(x_adv)
    check_logits(logits, x)
    check_labels(logits, y)
    lead = margin_loss(logits, y)

    for query in range(queries):
        left = (lead <= 0).nonzero().squeeze(1)
        if not len(left):
            break
        side = square_side(query, queries, p, height, width)
        where = _squares(len(left), side, height, width, x.device, generator)
        change = 2 * ball.eps * _signs((len(left), channels, 1, 1), x, generator)
        tried = ball.project(x_adv[left] + where * change, x[left])
        new = margin_loss(model(tried), y[left])
        better = new > lead[left]
        lead[left[better]] = new[better]
        x_adv[left[better]] = tried[better]
    return check_found(x_adv)


def square_side(query: int, queries: int, p: float, height: int, width: int) -> int:
    """The side of the square at a query of a budget, in pixels."""
    scaled = int(query / queries * 10_000)
    share = p / 2 ** sum(scaled > halving for halving in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _squares(
    count: int, side: int, height: int, width: int, device: torch.device, generator: torch.Generator | None
) -> Bool[Tensor, "count 1 height width"]:
    """Masks of one square each, anywhere within the image."""

    def covered(size: int) -> Bool[Tensor, "count size"]:
        start: Int[Tensor, "count 1"] = torch.randint(size - side + 1, (count, 1), device=device, generator=generator)
        pixel = torch.arange(size, device=device)
        return (pixel >= start) & (pixel < start + side)

    return covered(height)[:, None, :, None] & covered(width)[:, None, None, :]


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(2, shape, device=like.device, generator=generator).to(like.dtype).mul_(2).sub_(1)
