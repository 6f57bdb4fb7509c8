"""Small models in float64, in evaluation mode, and a batch for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


def make_model(seed: int, channels: int = 2, side: int = 6, classes: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return (
            nn.Sequential(
                nn.Conv2d(channels, 4, 3, padding=1),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(4 * side * side, classes),
            )
            .double()
            .eval()
        )


@pytest.fixture
def models() -> list[nn.Module]:
    return [make_model(seed) for seed in range(3)]


@pytest.fixture
def model(models: list[nn.Module]) -> nn.Module:
    return models[0]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(4, 2, 6, 6, dtype=torch.float64, generator=generator)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return x, torch.tensor([0, 3, 1, 4])
