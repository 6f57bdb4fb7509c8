"""Which samples are new: those whose prediction is unlike the average one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class RedundancyScreen:
    """Keeps the samples of a stream whose class probabilities point away from the running mean of those kept.

    ::

        |cos(m, p)| < margin,    m <- momentum m + (1 − momentum) mean of the kept p,    p = softmax(z)

    The first batch that is not empty is kept whole, and its mean begins m. What a margin lets through depends on the
    number of classes: a sure prediction has cosine 1/sqrt(K) with a uniform m (0.03 for 1,000 classes, to which the
    usual margin 0.05 belongs; 0.32 for 10, where the authors take 0.4).

    Arguments:
        margin: the least cosine that is too like, in (0, 1].
        momentum: of the running mean, in [0, 1).

    Raises:
        ValueError: an argument out of range, or logits of another number of classes than before.

    Source: Niu et al., "EATA", arXiv 2204.02610, equations 5 and 6.

    >>> screen = RedundancyScreen(margin=0.5)
    >>> screen(torch.tensor([[9.0, 0.0, 0.0]])), screen(torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]))
    (tensor([True]), tensor([False,  True]))
    """

    def __init__(self, margin: float, momentum: float = 0.9) -> None:
        if not 0 < margin <= 1:
            raise ValueError(f"margin={margin}: must be in (0, 1]")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must be in [0, 1)")
        self.margin = margin
        self.momentum = momentum
        self.mean: Float[Tensor, " classes"] | None = None
        """The running mean of class probabilities, None before the first sample."""

    @torch.no_grad()
    def __call__(self, logits: Float[Tensor, "batch classes"]) -> Bool[Tensor, " batch"]:
        """Which samples of the stream's next batch to keep."""
        if logits.ndim != 2 or (self.mean is not None and logits.shape[1] != len(self.mean)):
            classes = "K" if self.mean is None else len(self.mean)
            raise ValueError(f"logits have shape {tuple(logits.shape)}: must be (B, {classes})")
        p = (logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits).softmax(1)
        if self.mean is None:
            if len(p):
                self.mean = p.mean(0)
            return torch.ones(len(p), dtype=torch.bool, device=p.device)
        keep = F.cosine_similarity(self.mean.unsqueeze(0), p, dim=1).abs() < self.margin
        if keep.any():
            self.mean = self.momentum * self.mean + (1 - self.momentum) * p[keep].mean(0)
        return keep
