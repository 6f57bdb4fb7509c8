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
from landform.models import MLP

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


def among_prototypes(like: Tensor, generator: torch.Generator) -> Inputs:
    """Queries of D dimensions, class numbers, and the classes' prototypes; the last class has a query."""
    vectors, labels = features(like, generator)
    labels[-1] = K - 1
    return vectors, labels, torch.randn(K, D, generator=generator, dtype=torch.float64).to(like)


def distilled(like: Tensor, generator: torch.Generator) -> Inputs:
    """Logits of a student and of its teacher."""
    student, teacher = 2 * torch.randn(2, B, K, generator=generator, dtype=torch.float64)
    return student.to(like), teacher.to(like)


def gradients(like: Tensor, generator: torch.Generator) -> Inputs:
    """Gradients of each of two sets of samples for a matrix."""
    reference, new = torch.randn(2, B, K, D, generator=generator, dtype=torch.float64)
    return reference.to(like), new.to(like)


@dataclass(frozen=True)
class Loss:
    """A loss's arguments and inputs, and where it must be excused.

    ``extreme`` is how large predictions may be without the loss itself overflowing. A loss that is no mean over
    samples does not ``reduce``; one whose inputs are of different samples does not ``pair`` them; one to which labels
    only say what is equal does not ``bound`` them.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[Tensor, torch.Generator], Inputs] = classes
    extreme: float = 1e4
    reduces: bool = True
    pairs: bool = True
    bounds: bool = True


LOSSES: dict[str, Loss] = {
    "AdaptiveLDRKLLoss": Loss({"num_samples": 20, "lam0": 1.0}, indexed),
    "BatchHardTripletLoss": Loss(inputs=features, bounds=False),
    "ExponentialLoss": Loss(inputs=binary, extreme=80.0),  # exp(1e4) is no float
    "GradientVarianceInconsistency": Loss(inputs=gradients, reduces=False, pairs=False),
    "ICNNLoss": Loss(inputs=features, reduces=False, bounds=False),  # a mean over episodes
    "LabelSmoothingCrossEntropy": Loss({"smoothing": 0.2}),
    "MarginControlLoss": Loss(reduces=False),  # its penalty is one of the whole batch
    "ProtoTripletLoss": Loss(inputs=among_prototypes),
    "PrototypicalLoss": Loss(inputs=among_prototypes),
    "ReciprocalPointLoss": Loss({"num_classes": K, "dim": D}, features),
    "SelectiveDistillationLoss": Loss(inputs=distilled),
    "TailedHingeLoss": Loss({"kind": "inverse_log"}, binary),
    "TruncatedGCELoss": Loss({"num_samples": 20}, indexed),
}


# Optimisers. A problem is what an optimiser is tried on: its parameters, their loss, and how a step is asked for.


class Bowl:
    """A quadratic with curvatures from 0.5 to 2 and its minimum, 0, at 1. Its first axis may be read as models."""

    def __init__(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (3, 2, 2))]
        self.params = [w.to(dtype=dtype, device=device).requires_grad_() for w in drawn]

    @property
    def given(self) -> Any:
        """What the optimiser is made with."""
        return self.params

    def loss(self) -> Tensor:
        total = torch.zeros((), device=self.params[0].device)
        for w in self.params:
            curvature = torch.linspace(0.5, 2, w.numel(), dtype=w.dtype, device=w.device).view(w.shape)
            total = total + (curvature * (w - 1).square()).sum().float() / 2
        return total

    def step(self, optimizer: Any) -> float:
        """A step, and the loss that it gives back."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return optimizer.step(closure).item()


class Blobs:
    """Three classes of points and a network, for optimisers that take the model and its batches."""

    def __init__(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.given = MLP(2, (8,), 3).to(dtype=dtype, device=device)
        self.params = list(self.given.parameters())
        self.y = (torch.arange(24) % 3).to(device)
        corners = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        self.x = (corners[self.y.cpu()] + 0.3 * torch.randn(24, 2, generator=generator)).to(dtype=dtype, device=device)

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.given(self.x), self.y)

    def step(self, optimizer: Any) -> float:
        return optimizer.step(self.x, self.y)["loss"]


@dataclass(frozen=True)
class Optimiser:
    arguments: dict[str, Any] = field(default_factory=lambda: {"lr": 0.1})
    problem: type[Bowl] | type[Blobs] = Bowl


OPTIMIZERS: dict[str, Optimiser] = {
    **{
        name: Optimiser({"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.5})
        for name in ("SAM", "GSAM", "SAGM")
    },
    "StackedSGD": Optimiser({"lr": 0.1, "momentum": 0.5}),
    "UDIM": Optimiser({"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.5}, Blobs),
}


# Schedules: positional and keyword arguments after the optimiser, for a plan of 12 updates.

TOTAL = 12


@dataclass(frozen=True)
class Plan:
    positional: tuple[Any, ...] = (TOTAL,)
    keywords: dict[str, Any] = field(default_factory=dict)


SCHEDULES: dict[str, Plan] = {
    "CosineWarmRestartsWithWarmup": Plan((4, 2, 0.01)),
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


def problem_of(name: str) -> type[Bowl] | type[Blobs]:
    return OPTIMIZERS.get(name, Optimiser()).problem


def make_optimizer(name: str, given: Any, **changes: Any) -> Any:
    example = OPTIMIZERS.get(name, Optimiser())
    return build(ALL_OPTIMIZERS[name], "OPTIMIZERS", given, **{**example.arguments, **changes})


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
