"""Which samples teach: those that a model is neither sure of nor lost with."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def softmax_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """H(z) = −sum_k p_k log p_k in nats, with p = softmax(z): from 0 to ln K. Half precision is widened to float32.

    Raises:
        TypeError: logits that are not floating point.
        ValueError: logits that are not (B, K) with K at least 2.

    >>> softmax_entropy(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    tensor([0.6931, 0.1909])
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits have dtype {logits.dtype}: must be floating point")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: must be (B, K) with K at least 2")
    log_p = (logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


class EntropyScreen:
    """Keeps the samples of a stream with E_min < H(z) < E_max, where E_max follows the mean entropy so far.

    ::

        E_max^t = lambda E_max^0 M_t / M_warm

    M_t is the mean entropy of all samples seen up to batch t, this batch included, and M_warm is what it was at the
    end of the first batch by which ``warm_up`` samples had been seen; until then E_max is E_max^0, without lambda. As a
    model adapts and grows surer, the bar falls with its entropy. (With lambda = 1 this is the product over batches of
    the paper's E_max^t = E_max^(t−1) M_t / M_(t−1); lambda multiplies once, as in the released code.)

    Arguments:
        num_classes: K.
        high, low: E_max^0 and E_min as fractions of ln K.
        warm_up: samples to see before E_max moves; those of the first batch if None, as in the paper.
        lam: lambda.
        dynamic: False keeps E_max at E_max^0.

    Raises:
        ValueError: ``low`` not below ``high``, or another argument out of range; logits that do not have K classes or
            are not finite.

    Source: arXiv 2402.17316, equations 2 to 4.

    >>> screen = EntropyScreen(num_classes=2)
    >>> screen(torch.tensor([[0.0, 0.0], [3.0, 0.0], [9.0, 0.0]]))
    tensor([False,  True, False])
    """

    def __init__(
        self,
        num_classes: int,
        high: float = 0.4,
        low: float = 0.02,
        warm_up: int | None = None,
        lam: float = 1.0,
        dynamic: bool = True,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: must be at least 2")
        if not 0 <= low < high < math.inf:
            raise ValueError(f"low={low}, high={high}: must be fractions of ln K with 0 ≤ low < high")
        if warm_up is not None and warm_up < 1:
            raise ValueError(f"warm_up={warm_up}: must be at least 1 sample, or None for the first batch")
        if not 0 < lam < math.inf:
            raise ValueError(f"lam={lam}: must be positive and finite")
        self.num_classes = num_classes
        self.e_max = high * math.log(num_classes)
        self.e_min = low * math.log(num_classes)
        self.warm_up = warm_up
        self.lam = lam
        self.dynamic = dynamic
        self._kept = self._seen = 0
        self._total = 0.0
        self._reference: float | None = None

    @property
    def threshold(self) -> float:
        """E_max^t in nats, as of the last batch."""
        if not self.dynamic or self._reference is None:
            return self.e_max
        if self._reference == 0:  # every sample was certain: there is nothing to fall from
            return self.lam * self.e_max
        return self.lam * self.e_max * self.mean_entropy / self._reference

    @property
    def mean_entropy(self) -> float:
        """M_t in nats; NaN before the first sample."""
        return self._total / self._seen if self._seen else math.nan

    @property
    def kept(self) -> int:
        """How many samples were kept so far."""
        return self._kept

    @property
    def seen(self) -> int:
        """How many samples there were so far."""
        return self._seen

    @torch.no_grad()
    def __call__(self, logits: Float[Tensor, "batch classes"]) -> Bool[Tensor, " batch"]:
        """Which samples of the stream's next batch to keep."""
        entropy = softmax_entropy(logits)
        if logits.shape[1] != self.num_classes:
            raise ValueError(f"logits have shape {tuple(logits.shape)}: must be (B, {self.num_classes})")
        total = float(entropy.double().sum())
        if not math.isfinite(total):
            raise ValueError("logits contain NaN or infinite values")
        self._total += total
        self._seen += len(entropy)
        if self._reference is None and self._seen >= (self.warm_up or 1):
            self._reference = self.mean_entropy
        keep = (entropy > self.e_min) & (entropy < self.threshold)
        self._kept += int(keep.sum())
        return keep
