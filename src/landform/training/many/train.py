"""Training a whole stack of models, and what its models predict."""

from __future__ import annotations

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
from landform.training.many.stack import Stack
from landform.training.memory import keep_freed_memory

SampleLoss = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[int], PerModel] | Tensor
Active = Bool[Tensor, " models"] | Callable[[int, Float[Tensor, " models"]], Bool[Tensor, " models"]]
Measure = Callable[[Stack], Mapping[str, Tensor]]

# Memory that the models trained together should stay within: half of a small last-level cache, or a part of a GPU.
CPU_BYTES, GPU_BYTES = 16 * 2**20, 2 * 2**30


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
    one_by_one = stack.engine_for(x[:1].expand(batch_size, *x.shape[1:])) == "loop"
    parts = []
    for start in range(0, len(stack), max(1, chunk)):
        models = slice(start, min(start + max(1, chunk), len(stack)))
        values = {name: p.detach()[models].requires_grad_(p.requires_grad) for name, p in stack.params.items()}
        trained = [p for p in values.values() if p.requires_grad]
        of = {"lr": part_of(lr, models), "weight_decay": part_of(weight_decay, models)}
        if optimizer == "sgd":
            step: StackedSGD | StackedAdamW = StackedSGD(
                trained, momentum=part_of(momentum, models), nesterov=nesterov, **of
            )
        elif optimizer == "adamw":
            step = StackedAdamW(trained, betas=(part_of(betas[0], models), part_of(betas[1], models)), eps=eps, **of)
        else:
            raise ValueError(f"optimizer={optimizer!r}: must be 'sgd' or 'adamw'")
        parts.append(_Part(models, values, {k: b[models] for k, b in stack.buffers.items()}, step, of["lr"]))

    latest = torch.full((len(stack),), torch.inf, device=x.device, dtype=next(stack.parameters()).dtype)
    now = latest.clone()
    kept: list[Tensor] = []
    measured: dict[str, list[Tensor]] = {}
    for t, (index, weights) in enumerate(orders):
        going = active(t, latest.clone()) if callable(active) else active
        if going is not None:
            check_active(going, len(stack))
        index = index.to(x.device)
        batch = (x[index[0]], y[index[0]]) if shared else None
        for part in parts:
            if batch is None:
                rows = index[part.models]
                xb = x.index_select(0, rows.flatten()).unflatten(0, rows.shape)
                yb = y.index_select(0, rows.flatten()).unflatten(0, rows.shape)
            else:
                xb, yb = batch
            w = None if weights is None else weights[part.models].to(x.device)
            gradients = _gradients_one_by_one if one_by_one else _gradients
            losses, grads = gradients(stack, part.params, part.buffers, xb, yb, w, loss, shared)
            touched = None if w is None else w.any(1)
            if going is not None:
                touched = going[part.models].to(x.device) & (True if touched is None else touched)
            if clip is not None:
                _clip(grads, clip)
            for p, g in zip((p for p in part.params.values() if p.requires_grad), grads, strict=True):
                p.grad = g
            part.optimizer.param_groups[0]["lr"] = part.lr * part_of(factors[t], part.models)
            part.optimizer.step(active=touched)
            now[part.models] = losses if touched is None else torch.where(touched, losses, torch.nan)
        latest = torch.where(now.isnan(), latest, now) if going is not None else latest
        if (t + 1) % record == 0:
            kept.append(now.clone())
            for name, value in (measure(stack) if measure is not None else {}).items():
                measured.setdefault(name, []).append(value)
    return TrainManyResult(
        stack.params,
        torch.stack(kept) if kept else latest.new_empty(0, len(stack)),
        {name: torch.stack(values) for name, values in measured.items()},
        torch.arange(record - 1, steps, record),
    )


@dataclass(frozen=True)
class _Part:
    """The models of a stack that run together: views of their parameters and buffers, and their optimiser."""

    models: slice
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: StackedSGD | StackedAdamW
    lr: PerModel


def _gradients(
    stack: Stack,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    loss: SampleLoss,
    shared: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """The models' losses (M,) and the gradients of their sum, which are each model's own."""
    each = sample_losses(loss, stack.forward(params, buffers, x, shared=shared), y, shared)
    means = each.mean(1) if weights is None else _mean_where(weights, each)
    trained = [p for p in params.values() if p.requires_grad]
    return means.detach(), list(torch.autograd.grad(means.sum(), trained, allow_unused=True))


def _mean_where(weights: Tensor, each: Tensor) -> Tensor:
    # where, not a product: what does not count may be infinite
    return torch.where(weights, each, 0.0).sum(1) / weights.sum(1).clamp(min=1)


def _gradients_one_by_one(
    stack: Stack,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    weights: Tensor | None,
    loss: SampleLoss,
    shared: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """The same, backward after forward for each model, so that its activations are still in the cache."""
    losses, grads = [], []
    for m in range(len(next(iter(params.values())))):
        one = slice(m, m + 1)
        means, found = _gradients(
            stack,
            {name: p.detach()[one].requires_grad_(p.requires_grad) for name, p in params.items()},
            {name: b[one] for name, b in buffers.items()},
            x if shared else x[one],
            y if shared else y[one],
            None if weights is None else weights[one],
            loss,
            shared,
        )
        losses.append(means)
        grads.append(found)
    return torch.cat(losses), [None if g[0] is None else torch.cat(g) for g in zip(*grads, strict=True)]


def sample_losses(loss: SampleLoss, outputs: Tensor, targets: Tensor, shared: bool) -> Tensor:
    """(M, B) from outputs (M, B, …) and targets (M, B, …), or (B, …) if shared."""
    if loss is cross_entropy:
        each = loss(outputs, targets.expand(len(outputs), *targets.shape) if shared else targets)
    else:
        each = vmap(loss, in_dims=(0, None if shared else 0))(outputs, targets)
    if each.shape != outputs.shape[:2]:
        raise ValueError(
            f"loss: must give one number a sample, {tuple(outputs.shape[1:2])}, not {tuple(each.shape[1:])}; "
            "PyTorch's own need reduction='none'"
        )
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
