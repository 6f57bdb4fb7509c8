"""The `digits` world: scikit-learn's 1,797 handwritten digits of 8 × 8 pixels."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from landform.data.split import Split, divide, limited


def digits(*, test_fraction: float = 0.25, seed: int = 0, limit: int | None = None) -> dict[str, Split]:
    """Handwritten digits: x is float32 ``(N, 1, 8, 8)`` in [0, 1] (the sixteen grey levels over 16), y the digit.

    Arguments:
        test_fraction: the share of each digit's samples that the test split holds.
        seed: draws the split (and the samples that ``limit`` keeps).
        limit: at most so many samples a split.
    """
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1) / 16
    whole = Split(x, torch.from_numpy(bunch.target).long(), classes=tuple("0123456789"))
    return limited(divide(whole, test_fraction, seed), limit, seed)
