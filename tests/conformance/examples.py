"""How to build every loss, optimiser and schedule for the battery of conformance tests.

A component is tested as soon as it stands in its area's ``__all__``. It is built without arguments unless it is named
here; what can be built neither way fails with a message that says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import landform.losses
import landform.optim
import landform.optim.schedules
import landform.training
from landform.losses import MarginLoss, MulticlassEnsLoss

B, K, D = 12, 5, 4

Inputs = tuple[Tensor, ...]


# Losses. The first input is what gradients flow to; ``like`` has its dtype and device.


def classes(like: Tensor, generator: torch.Generator) -> Inputs:
    """Logits and class numbers."""
    logits = 2 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    return logits.to(like), torch.randint(K, (B,), generator=generator).to(like.device)


def binary(like: Tensor, generator: torch.Generator) -> Inputs:
    """Scores of two sides and labels in {0, 1}."""
    scores = 2 * torch.randn(B, generator=generator, dtype=torch.float64)
    return scores.to(like), torch.randint(2, (B,), generator=generator).to(like.device)


def indexed(like: Tensor, generator: torch.Generator) -> Inputs:
    """Logits, class numbers, and the samples' numbers in a training set of 20."""
    return *classes(like, generator), torch.randperm(20, generator=generator)[:B].to(like.device)


def features(like: Tensor, generator: torch.Generator) -> Inputs:
    """Features of D dimensions and class numbers."""
    vectors = torch.randn(B, D, generator=generator, dtype=torch.float64)
    return vectors.to(like), torch.randint(K, (B,), generator=generator).to(like.device)


@dataclass(frozen=True)
class Loss:
    """A loss's arguments and inputs, and where it must be excused.

    ``extreme`` is how large predictions may be without the loss itself overflowing. ``reductions`` are those that it
    has of mean, sum and none.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[Tensor, torch.Generator], Inputs] = classes
    extreme: float = 1e4
    reductions: tuple[str, ...] = ("mean", "sum", "none")


LOSSES: dict[str, Loss] = {
    "AdaptiveLDRKLLoss": Loss({"num_samples": 20, "lam0": 1.0}, indexed),
    "ExponentialLoss": Loss(inputs=binary, extreme=80.0),  # exp(1e4) is no float
    "LabelSmoothingCrossEntropy": Loss({"smoothing": 0.2}),
    "MarginControlLoss": Loss(reductions=()),  # its penalty is one of the whole batch
    "ReciprocalPointLoss": Loss({"num_classes": K, "dim": D}, features),
    "TailedHingeLoss": Loss({"kind": "inverse_log"}, binary),
    "TruncatedGCELoss": Loss({"num_samples": 20}, indexed),
}


# Optimisers, of parameters whose first axis is models where they are stacked.


@dataclass(frozen=True)
class Optimiser:
    arguments: dict[str, Any] = field(default_factory=lambda: {"lr": 0.1})


OPTIMIZERS: dict[str, Optimiser] = {
    **{
        name: Optimiser({"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.5})
        for name in ("SAM", "GSAM", "SAGM", "UDIM")
    },
    "StackedSGD": Optimiser({"lr": 0.1, "momentum": 0.5}),
}


# Schedules: positional and keyword arguments after the optimiser, for a plan of 12 updates.

TOTAL = 12


@dataclass(frozen=True)
class Plan:
    positional: tuple[Any, ...] = (TOTAL,)
    keywords: dict[str, Any] = field(default_factory=dict)


SCHEDULES: dict[str, Plan] = {
    "CosineOracle": Plan(([4, TOTAL],)),
    "CyclicCosine": Plan(([4, TOTAL],)),
    "Exponential": Plan(keywords={"gamma": 0.8}),
    "Segments": Plan(([(0, 3, "warmup", 0.0, 1.0), (3, TOTAL, "linear", 1.0, 0.1)],)),
    "UBAPhases": Plan(([(5, 1.0, 0.1, 2.0), (7, 0.5, 0.0, 5.0)],)),
    "WSDS": Plan(([4, TOTAL],), {"decay": 0.3}),
    "WarmupStableDecay": Plan(keywords={"warmup": 2, "decay": 0.5}),
}
BASES = ("Schedule", "ShapedSchedule")  # what schedules are made of


# What there is, and how it is built.


def named(kind: type, *modules: ModuleType) -> dict[str, type]:
    """Every concrete class of a kind in the public names of modules."""
    found = {}
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, kind) and not inspect.isabstract(value):
                found[name] = value
    return found


def areas() -> Iterator[ModuleType]:
    yield landform.optim
    yield landform.training
    if hasattr(landform.optim, "sharpness"):
        yield landform.optim.sharpness


ALL_LOSSES = named(nn.Module, landform.losses)
ALL_OPTIMIZERS = named(Optimizer, *areas())
ALL_SCHEDULES = {name: kind for name, kind in named(LRScheduler, landform.optim.schedules).items() if name not in BASES}


def loss_example(name: str) -> Loss:
    if name in LOSSES:
        return LOSSES[name]
    kind = ALL_LOSSES[name]
    return Loss(inputs=binary if issubclass(kind, MarginLoss) and kind is not MulticlassEnsLoss else classes)


def make_loss(name: str, **changes: Any) -> nn.Module:
    """A loss with the arguments of its example, in a state that does not depend on the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(ALL_LOSSES[name], "LOSSES", **{**loss_example(name).arguments, **changes})


def make_optimizer(name: str, params: Any, **changes: Any) -> Any:
    example = OPTIMIZERS.get(name, Optimiser())
    return build(ALL_OPTIMIZERS[name], "OPTIMIZERS", params, **{**example.arguments, **changes})


def make_schedule(name: str, optimizer: Optimizer, **changes: Any) -> Any:
    example = SCHEDULES.get(name, Plan())
    return build(ALL_SCHEDULES[name], "SCHEDULES", optimizer, *example.positional, **example.keywords, **changes)


def build(kind: type, registry: str, /, *positional: Any, **keywords: Any) -> Any:
    """An object of a class, or a failed test that says where to name its arguments."""
    try:
        inspect.signature(kind).bind(*positional, **keywords)
    except TypeError as error:
        pytest.fail(
            f"{kind.__name__} is public, but cannot be built from {positional[1:]} {keywords}: {error}. "
            f"Name its arguments in {registry} of tests/conformance/examples.py"
        )
    return kind(*positional, **keywords)
