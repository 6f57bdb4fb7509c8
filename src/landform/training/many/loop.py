"""The plain loop over models that training a stack must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from landform.training.many.optimizers import PerModel
from landform.training.many.orders import Batching, Order, Orders
from landform.training.many.train import (
    Active,
    SampleLoss,
    Schedule,
    TrainManyResult,
    check_active,
    check_batch_norm,
    check_data,
    check_run,
    cross_entropy,
    schedule_factors,
)


def loop_train(
    models: Sequence[nn.Module],
    x: Shaped[Tensor, "n ..."],
    y: Shaped[Tensor, "n ..."],
    *,
    steps: int,
    batch_size: int,
    lr: PerModel,
    ids: Sequence[int] | None = None,
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
    record: int = 1,
) -> TrainManyResult:
    """Train modules one after another, in place, with ``torch.optim``; the reference for :func:`train_many`.

    Arguments, results and errors are those of :func:`train_many`; a function ``active`` is asked for each model with
    the losses of the others unknown (infinite), so it must judge each model by itself.
    """
    check_data(x, y)
    check_run(steps, record, clip, len(models), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
    names = list(range(len(models))) if ids is None else list(ids)

    def orders(ids: Sequence[int], masks: Tensor | None) -> Orders:
        return Orders(ids, len(x), batch_size, steps=steps, seed=seed, masks=masks, order=order, batching=batching)

    check_batch_norm(models[0], orders(names, masks))
    factors = schedule_factors(schedule, steps, len(models))
    losses = x.new_full((steps, len(models)), torch.nan, dtype=x.dtype if x.is_floating_point() else torch.float32)

    def of(value: PerModel, m: int) -> float:
        return float(value[m]) if isinstance(value, Tensor) and value.ndim else float(value)

    for m, model in enumerate(models):
        params = [p for p in model.parameters() if p.requires_grad]
        if optimizer == "sgd":
            step: torch.optim.Optimizer = torch.optim.SGD(
                params, lr=1.0, momentum=of(momentum, m), nesterov=nesterov, weight_decay=of(weight_decay, m)
            )
        elif optimizer == "adamw":
            step = torch.optim.AdamW(
                params, lr=1.0, betas=(of(betas[0], m), of(betas[1], m)), eps=eps, weight_decay=of(weight_decay, m)
            )
        else:
            raise ValueError(f"optimizer={optimizer!r}: must be 'sgd' or 'adamw'")
        mask = None if masks is None else masks[m : m + 1]
        latest = torch.full((len(models),), torch.inf, device=x.device, dtype=losses.dtype)
        for t, (index, weights) in enumerate(orders([names[m]], mask)):
            going = active(t, latest) if callable(active) else active
            if going is not None:
                check_active(going, len(models))
            rows = index[0] if weights is None else index[0][weights[0]]
            if len(rows) == 0 or (going is not None and not bool(going[m])):
                continue
            rows = rows.to(x.device)
            value = loss(model(x[rows]), y[rows]).mean()
            step.zero_grad()
            value.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(params, clip)
            step.param_groups[0]["lr"] = of(lr, m) * of(factors[t], m)
            step.step()
            latest[m] = losses[t, m] = value.detach()
    return TrainManyResult({}, losses[record - 1 :: record], {}, torch.arange(record - 1, steps, record))
