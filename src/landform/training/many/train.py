"""Training a whole stack of models, and what its models predict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.func import vmap

from landform.training.many.optimizers import PerModel, StackedAdamW, StackedSGD, check_per_model, per_model
from landform.training.many.orders import Batching, Order, Orders
from landform.training.many.stack import Stack, place_of
from landform.training.memory import keep_freed_memory

SampleLoss = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[int], PerModel] | Tensor
Active = Bool[Tensor, " models"] | Callable[[int, Float[Tensor, " models"]], Bool[Tensor, " models"]]
Measure = Callable[[Stack], Mapping[str, Tensor]]

# Memory that the models trained together should stay within: a last-level cache, or a part of a GPU.
CPU_BYTES, GPU_BYTES = 32 * 2**20, 2 * 2**30

STEPS = 64  # that one part of the models takes before the next


def cross_entropy(logits: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The cross-entropy of each sample, for any number of leading axes (at least one)."""
    # Classes go second, as PyTorch wants them: a softmax over an innermost axis of a few classes is ten times slower.
    return F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none")


@dataclass(frozen=True)
class TrainManyResult:
    """A finished training of M models.

    ``params`` are those of the stack, which was trained in place. ``losses[k, m]`` is the mean loss of the batch that
    model m was updated with at step ``steps[k]``, NaN where it was not updated. ``metrics`` maps the names that
    ``measure`` gave to (T', M) values taken after those updates.
    """

    params: Mapping[str, Tensor]
    losses: Float[Tensor, "recorded models"]
    metrics: Mapping[str, Float[Tensor, "recorded models"]]
    steps: Int[Tensor, " recorded"]


def train_many(
    stack: Stack,
    x: Shaped[Tensor, "n ..."],
    y: Shaped[Tensor, "n ..."],
    *,
    steps: int,
    batch_size: int,
    lr: PerModel,
    seed: int = 0,
    masks: Bool[Tensor, "models n"] | None = None,
    order: Order = "independent",
    batching: Batching = "resample",
    optimizer: Literal["sgd", "adamw"] = "sgd",
    momentum: PerModel = 0.0,
    nesterov: bool = False,
    betas: tuple[PerModel, PerModel] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: PerModel = 0.0,
    schedule: Schedule | None = None,
    loss: SampleLoss = cross_entropy,
    clip: float | None = None,
    active: Active | None = None,
    chunk: int | None = None,
    record: int = 1,
    measure: Measure | None = None,
) -> TrainManyResult:
    """Train every model of a stack, in place, as a loop over the models would (:func:`loop_train` is that loop).

    Each model minimises the mean of ``loss`` over its batches. Models do not meet: not in gradients, clipping, moments
    or random numbers. Model number ``stack.ids[m]`` has the same course whatever other models are in the stack, and
    whatever ``chunk``, up to rounding.

    Arguments:
        stack: trained in its present mode.
        x, y: the samples and targets of all models, on the first axis.
        steps, batch_size: the same for all models.
        lr, momentum, weight_decay, betas: a number, or a tensor (M,) of one a model. The defaults are those of
            ``torch.optim``, but for AdamW's weight decay, which is 0 unless given.
        seed: with a model's number, names the order of its data.
        masks: which samples each model may see; all if None.
        order: ``"independent"`` batches for each model, or ``"shared"`` ones, which are gathered once: faster, and a
            different experiment (common random numbers).
        batching: how batches come from a model's own subset. ``"resample"``: each is drawn without replacement;
            ``"epoch"``: permutations of the subset one after another, the last batch of each being short where
            batch_size does not divide the subset; ``"masked"``: drawn from all the data, and the loss is the mean over
            those in the subset, L = Σ mask · l / max(1, Σ mask). A batch that has none does not touch the model.
        schedule: a factor of the learning rate, ``schedule(t)`` at step t = 0 … steps − 1 (a number or (M,)), or a
            table of them, (steps,) or (steps, M).
        loss: gives the loss of each sample of one model, (outputs, targets) → (batch,).
        clip: the norm that each model's whole gradient is clipped to.
        active: models to train, (M,) booleans; the others stay as they are, moments included. Or a function of (step,
            the loss of each model's last update, infinite before its first) that is asked before every step: early
            stopping, as in ``lambda t, losses: losses > 0.1``.
        chunk: how many models run together. If None, as many as fit a processor's cache, or a part of a GPU's memory.
        record: losses are kept, and ``measure`` is called, after every ``record`` updates.
        measure: gives named values of the models, (M,) each; see :func:`accuracy_many`.

    Raises:
        ValueError: an argument out of range or of a wrong shape; a batch larger than the smallest subset; an empty
            subset; batch normalisation where some samples of a batch do not count, which would leak into its
            statistics; a layer that cannot be vectorised (named).

    >>> stack = Stack.from_factory(lambda: nn.Linear(4, 2), 3, seed=0)
    >>> x, y = torch.randn(20, 4), torch.randint(0, 2, (20,))
    >>> train_many(stack, x, y, steps=5, batch_size=10, lr=torch.tensor([0.1, 0.2, 0.3])).losses.shape
    torch.Size([5, 3])
    """
    check_data(x, y)
    if x.device != stack.device or y.device != stack.device:
        raise ValueError(f"x and y: are on {x.device} and {y.device}, but the stack on {stack.device}")
    check_run(steps, record, clip, len(stack), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
    for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
        check_per_model(name, beta, len(stack), below=1.0)
    orders = Orders(stack.ids, len(x), batch_size, steps=steps, seed=seed, masks=masks, order=order, batching=batching)
    check_batch_norm(stack.template, orders)
    factors = schedule_factors(schedule, steps, len(stack))
    if chunk is None:
        cost = stack.cost(x[:1])
        numbers = batch_size * (2 * cost.activations + x[0].numel()) + 4 * sum(p[0].numel() for p in stack.parameters())
        chunk = (CPU_BYTES if x.device.type == "cpu" else GPU_BYTES) // (numbers * x.element_size())
    elif chunk < 1:
        raise ValueError(f"chunk={chunk}: must be at least 1")
    if x.device.type == "cpu":
        keep_freed_memory()

    shared = order == "shared"
    engine = stack.engine_for(x[:1].expand(batch_size, *x.shape[1:]))
    module = stack.module(0)
    parts = []
    size = 1 if engine == "loop" else -(-len(stack) // -(-len(stack) // max(1, chunk)))  # parts of much the same size
    for start in range(0, len(stack), size):
        models = slice(start, min(start + size, len(stack)))
        if engine == "loop":
            part: _Part = _One(stack, models, loss, shared, clip, module)
        else:
            part = _Part(stack, models, loss, shared, clip)
        own = {"lr": part_of(lr, models), "weight_decay": part_of(weight_decay, models)}
        if optimizer == "sgd":
            part.optimizer = StackedSGD(part.trained, momentum=part_of(momentum, models), nesterov=nesterov, **own)
        elif optimizer == "adamw":
            own_betas = (part_of(betas[0], models), part_of(betas[1], models))
            part.optimizer = StackedAdamW(part.trained, betas=own_betas, eps=eps, **own)
        else:
            raise ValueError(f"optimizer={optimizer!r}: must be 'sgd' or 'adamw'")
        parts.append(part)

    latest = torch.full((len(stack),), torch.inf, device=x.device, dtype=next(stack.parameters()).dtype)
    courses: list[Tensor] = []
    measured: dict[str, list[Tensor]] = {}
    source = iter(orders)
    done = 0
    while done < steps:
        # Part after part, each for several steps, so that its parameters and moments stay in the cache; unless
        # something must be known of all models between two steps.
        ahead = 1 if callable(active) else STEPS if measure is None else record - done % record
        batches = [
            (index.to(x.device), None if weights is None else weights.to(x.device))
            for index, weights in itertools.islice(source, ahead)
        ]
        going = active(done, latest.clone()) if callable(active) else active
        if going is not None:
            check_active(going, len(stack))
            going = going.to(x.device)
        course = latest.new_full((len(batches), len(stack)), torch.nan)
        for part in parts:
            for k, (index, weights) in enumerate(batches):
                rate = part_of(lr, part.models) * part_of(factors[done + k], part.models)
                losses, touched = part.update(x, y, index, weights, going, rate)
                if touched is None:
                    course[k, part.models] = losses
                else:
                    course[k, part.models] = torch.where(touched, losses, torch.nan)
                    latest[part.models] = torch.where(touched, losses, latest[part.models])
        done += len(batches)
        courses.append(course)
        if measure is not None and done % record == 0:
            for name, value in measure(stack).items():
                measured.setdefault(name, []).append(value)
    return TrainManyResult(
        stack.params,
        torch.cat(courses)[record - 1 :: record],
        {name: torch.stack(values) for name, values in measured.items()},
        torch.arange(record - 1, steps, record),
    )


class _Part:
    """The models of a stack that run together: views of their parameters and buffers, and their optimiser."""

    optimizer: StackedSGD | StackedAdamW

    def __init__(self, stack: Stack, models: slice, loss: SampleLoss, shared: bool, clip: float | None) -> None:
        self.stack, self.models, self.loss, self.shared, self.clip = stack, models, loss, shared, clip
        self.params = {name: p.detach()[models].requires_grad_(p.requires_grad) for name, p in stack.params.items()}
        self.buffers = {name: b[models] for name, b in stack.buffers.items()}
        self.trained = [p for p in self.params.values() if p.requires_grad]

    def update(
        self,
        x: Tensor,
        y: Tensor,
        index: Tensor,
        weights: Tensor | None,
        going: Tensor | None,
        rate: PerModel,
    ) -> tuple[Tensor, Tensor | None]:
        """One step of these models: their losses (m,), and which of them were updated (all if None)."""
        index = index if self.shared else index[self.models]
        weights = None if weights is None else weights[self.models]
        losses, grads = self.gradients(*self.gather(x, y, index), weights)
        touched = None if weights is None else weights.any(1)
        if going is not None:
            touched = going[self.models] if touched is None else going[self.models] & touched
        if self.clip is not None:
            _clip(grads, self.clip)
        for p, g in zip(self.trained, grads, strict=True):
            p.grad = g
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step(active=touched)
        return losses, touched

    def gather(self, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples (m, B, …), or (B, …) if the order is shared."""
        if self.shared:
            return x.index_select(0, index[0]), y.index_select(0, index[0])
        rows = index.flatten()
        return x.index_select(0, rows).unflatten(0, index.shape), y.index_select(0, rows).unflatten(0, index.shape)

    def gradients(self, x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """The models' losses and the gradients of their sum, which are each model's own."""
        outputs = self.stack.forward(self.params, self.buffers, x, shared=self.shared)
        means = _means(sample_losses(self.loss, outputs, y, self.shared), weights)
        return means.detach(), list(torch.autograd.grad(means.sum(), self.trained, allow_unused=True))


class _One(_Part):
    """A single model, run as an ordinary module: ``module``, which all models take in turns, with its own tensors."""

    def __init__(
        self, stack: Stack, models: slice, loss: SampleLoss, shared: bool, clip: float | None, module: nn.Module
    ) -> None:
        super().__init__(stack, models, loss, shared, clip)
        self.module = module
        own = {name: nn.Parameter(p.detach()[0], p.requires_grad) for name, p in self.params.items()}
        self.leaves = [p for p in own.values() if p.requires_grad]
        every = {**own, **{name: b[0] for name, b in self.buffers.items()}}
        self.places = [(*place_of(module, name), tensor) for name, tensor in every.items()]

    def gather(self, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(0, index[0]), y.index_select(0, index[0])

    def gradients(self, x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        for place, leaf, tensor in self.places:
            place[leaf] = tensor
        each = self.loss(self.module(x), y)
        _check_losses(each, len(y))
        mean = each.mean() if weights is None else _means(each.unsqueeze(0), weights)[0]
        grads = torch.autograd.grad(mean, self.leaves, allow_unused=True)
        return mean.detach().reshape(1), [None if g is None else g.unsqueeze(0) for g in grads]


def _means(each: Tensor, weights: Tensor | None) -> Tensor:
    """(m,) from the losses of samples (m, B): their mean, over those that count."""
    if weights is None:
        return each.mean(1)
    # where, not a product: what does not count may be infinite
    return torch.where(weights, each, 0.0).sum(1) / weights.sum(1).clamp(min=1)


def _check_losses(each: Tensor, batch: int) -> None:
    if each.shape != (batch,):
        raise ValueError(
            f"loss: must give one number a sample, ({batch},), not {tuple(each.shape)}; "
            "PyTorch's own need reduction='none'"
        )


def sample_losses(loss: SampleLoss, outputs: Tensor, targets: Tensor, shared: bool) -> Tensor:
    """(M, B) from outputs (M, B, …) and targets (M, B, …), or (B, …) if shared."""
    if loss is cross_entropy:
        each = loss(outputs, targets.expand(len(outputs), *targets.shape) if shared else targets)
    else:
        each = vmap(loss, in_dims=(0, None if shared else 0))(outputs, targets)
    _check_losses(each[0], outputs.shape[1])
    return each


def _clip(grads: list[Tensor | None], limit: float) -> None:
    """Scale each model's gradient, over all its parameters, to a norm of at most ``limit``, as clip_grad_norm_ does."""
    found = [g for g in grads if g is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found]).sum(0).sqrt()
    scale = (limit / (norms + 1e-6)).clamp(max=1.0)
    for g in found:
        g.mul_(per_model(scale, g))


def part_of(value: PerModel, models: slice) -> PerModel:
    """The hyper-parameter of some of the models."""
    return value[models] if isinstance(value, Tensor) and value.ndim else value


def schedule_factors(schedule: Schedule | None, steps: int, models: int) -> list[PerModel]:
    """The factor of the learning rate at each step."""
    if schedule is None:
        return [1.0] * steps
    if isinstance(schedule, Tensor):
        if schedule.shape not in ((steps,), (steps, models)):
            raise ValueError(
                f"schedule: a table needs shape ({steps},) or ({steps}, {models}), got {tuple(schedule.shape)}"
            )
        factors: list[PerModel] = list(schedule) if schedule.ndim == 2 else schedule.tolist()
    else:
        factors = [schedule(t) for t in range(steps)]
    for factor in factors:
        check_per_model("schedule", factor, models)
    return factors


def check_data(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise ValueError(f"x and y: {len(x)} samples but {len(y)} targets")
    if len(x) == 0:
        raise ValueError("x: there must be at least one sample")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError("x: holds values that are not finite")


def check_run(steps: int, record: int, clip: float | None, models: int, hyper: Mapping[str, PerModel]) -> None:
    for name, value in (("steps", steps), ("record", record)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}: must be more than 0, or None")
    for name, number in hyper.items():
        check_per_model(name, number, models)


def check_active(active: Tensor, models: int) -> None:
    if active.dtype != torch.bool or active.shape != (models,):
        raise ValueError(f"active: need booleans of shape ({models},), got {tuple(active.shape)} {active.dtype}")


def check_batch_norm(module: nn.Module, orders: Orders) -> None:
    """That no sample that does not count can leak into batch statistics."""
    if not orders.weighted:
        return
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            why = (
                "batching='masked' shows it samples that the model must not see; use batching='resample'"
                if orders.masks is not None
                else "batching='epoch' fills up the last batch of an epoch; use a batch_size that divides every subset"
            )
            raise ValueError(f"layer {name!r} ({type(layer).__name__}) normalises over the batch, and {why}")


@torch.no_grad()
def predict_many(
    stack: Stack, x: Shaped[Tensor, "n ..."], *, chunk: int | None = None, batch_size: int = 1000
) -> Float[Tensor, "models n ..."]:
    """What every model of a stack gives on the samples, in evaluation mode: (M, N, K).

    ``chunk`` models (all if None) and ``batch_size`` samples run at a time.
    """
    for name, value in (("chunk", chunk), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if len(x) == 0:
        raise ValueError("x: there must be at least one sample")
    mode = stack.training
    stack.eval()
    try:
        rows = []
        for start in range(0, len(stack), chunk or len(stack)):
            models = slice(start, start + (chunk or len(stack)))
            params = {k: p[models] for k, p in stack.params.items()}
            buffers = {k: b[models] for k, b in stack.buffers.items()}
            rows.append(
                torch.cat([stack.forward(params, buffers, part, shared=True) for part in x.split(batch_size)], dim=1)
            )
        return torch.cat(rows)
    finally:
        stack.train(mode)


def accuracy_many(
    stack: Stack,
    x: Shaped[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    *,
    chunk: int | None = None,
    batch_size: int = 1000,
) -> Float[Tensor, " models"]:
    """The share of the samples that each model puts in the right class, in evaluation mode: (M,), in float64."""
    if y.shape != (len(x),) or y.is_floating_point():
        raise ValueError(f"y: need {len(x)} class numbers, got shape {tuple(y.shape)} {y.dtype}")
    right = torch.zeros(len(stack), dtype=torch.float64, device=x.device)
    for xs, ys in zip(x.split(batch_size), y.split(batch_size), strict=True):
        right += (predict_many(stack, xs, chunk=chunk).argmax(-1) == ys).sum(1)
    return right / len(x)
