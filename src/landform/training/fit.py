"""The training loop of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landform.training.memory import keep_freed_memory
from landform.training.parallel import Parallel

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    optimizer: Optimizer,
    *,
    steps: int,
    schedule: LRScheduler | None = None,
    fabric: Fabric | None = None,
) -> Float[Tensor, " steps"]:
    """Update a model ``steps`` times, and give the loss of each batch before its update.

    A step hands the optimiser a closure that clears the gradients, computes ``loss(model, batch)``, runs its backward
    pass and returns it; an optimiser may call it more than once (sharpness-aware ones do), on the same batch. What
    changes the loss, the optimiser, the schedule or the batches composes through these four arguments.

    Arguments:
        model: trained in its present mode.
        loss: ``loss(model, batch)``, one number.
        batches: a source of batches, such as a ``DataLoader`` or :func:`landform.training.batches`. It is begun again
            when it ends, if it can be (a list, a loader; not a generator).
        optimizer: any ``torch.optim.Optimizer`` whose ``step`` takes a closure.
        steps: how many updates.
        schedule: stepped after each update.
        fabric: a launched Lightning Fabric. Model and optimiser are given as they are: they are set up here, and the
            model is trained in place on Fabric's device and in its precision. Every process must draw the same
            batches; each takes its share of them, so ``batches`` brings the effective batch, and ``loss`` must be the
            mean over its samples. (A loader from ``fabric.setup_dataloaders`` brings shares already.) Layers that look
            at the whole batch, such as BatchNorm, see the share; ``nn.SyncBatchNorm`` sees all.

    Returns:
        (steps,) losses, of the first call of each step's closure. They are kept as they come: a training that diverges
        shows it in values that are not finite, and the caller decides what that means.

    Raises:
        ValueError: steps below 1, a loss that is not one number, batches that end too early or hold nothing, a
            schedule of another optimiser, or an optimiser that does not call the closure; with a fabric, a batch with
            fewer samples than processes, or the precision 16-mixed.

    >>> model = nn.Linear(2, 1)
    >>> squared = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()
    >>> data = [(torch.randn(8, 2), torch.randn(8, 1))]
    >>> fit(model, squared, data, torch.optim.SGD(model.parameters(), lr=0.1), steps=3).shape
    torch.Size([3])
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("schedule: belongs to another optimiser than the one given")
    keep_freed_memory()
    parallel = None if fabric is None else Parallel(fabric, batches)
    if parallel is not None:
        model, optimizer = parallel.set_up(model, optimizer)
    losses: list[Tensor] = []
    for step, batch in enumerate(_take(batches, steps)):
        if parallel is not None:
            batch = parallel.share(batch)

        def closure(batch: Any = batch, step: int = step) -> Tensor:
            optimizer.zero_grad()
            value = loss(model, batch)
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"loss: must give one number for a batch, got {shape}")
            if parallel is None:
                value.backward()
            else:
                value = parallel.backward(value)
            if len(losses) == step:
                losses.append(value.detach().reshape(()))
            return value

        optimizer.step(closure)  # type: ignore[arg-type]  # torch's stubs want a float, its optimisers take a tensor
        if len(losses) == step:
            raise ValueError(f"optimizer: {type(optimizer).__name__}.step did not call the closure")
        if schedule is not None:
            schedule.step()
    return torch.stack(losses)


def _take(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """The first ``steps`` batches, begun again at each end."""
    taken = 0
    source = iter(batches)
    again = source is not batches
    while taken < steps:
        before = taken
        for batch in source:
            yield batch
            taken += 1
            if taken == steps:
                return
        if taken == before:
            raise ValueError("batches: there are none")
        if not again:
            raise ValueError(f"batches: ended after {taken} of {steps} steps, and an iterator cannot be begun again")
        source = iter(batches)
