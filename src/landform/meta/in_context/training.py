"""Meta-training: learning to learn from sequences, and when the learning sets in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landform.data.split import check_count
from landform.meta.in_context.curves import predicted
from landform.meta.in_context.samplers import Sampler

RISE = 0.1
"""The rise of accuracy within a sequence, on unseen tasks, that counts as a transition to general learning."""


@dataclass(frozen=True, eq=False)
class MetaTraining:
    """What happened in a meta-training.

    Attributes:
        losses: (steps,) mean cross-entropy of each batch in nats, before its update.
        logged: updates done at each log.
        learning: Δ on the probe's sequences at each log; empty without a probe.
        transition_step: the first log at which Δ > 0.1; None where there was none, which says no more than that it
            takes longer than the training did.
    """

    losses: Float[Tensor, " steps"]
    logged: tuple[int, ...]
    learning: tuple[float, ...]
    transition_step: int | None


def meta_train(
    model: nn.Module,
    sampler: Sampler,
    steps: int,
    lr: float = 1e-3,
    batch: int = 64,
    clip: float | None = 2.0,
    log_every: int = 50,
    *,
    eps: float = 1e-8,
    probe: Sampler | None = None,
    probes: int = 512,
    stop: bool = False,
    on_log: Callable[[int], None] | None = None,
) -> MetaTraining:
    """Train a sequence model with Adam to predict each label from the examples before it.

        min E_task E_sequence (1/L) Σ_t CE(f(x_1, y_1, …, x_{t−1}, y_{t−1}, x_t), y_t)

    Every position is trained, also the first, with no example. What shortens the plateau before general learning goes
    through the arguments: larger batches; a bias of the tasks (:class:`TaskAugmentation`); an ``eps`` below the size of
    the tiny gradients of the plateau, so that Adam still rescales them to full updates.

    Arguments:
        model: ``(x, prev_y) -> logits``, trained in place, in its present mode.
        sampler: gives the training's sequences.
        steps: updates.
        lr, eps: Adam's.
        batch: sequences an update.
        clip: the most that the norm of the whole gradient may be; None for no limit.
        log_every: updates between logs. Before the first update there is one too.
        probe: sequences of unseen tasks, to detect the transition on; ``probes`` of them are drawn once.
        stop: whether to end at the transition.
        on_log: called with the updates done.

    Raises:
        ValueError: a count below 1, a rate, eps or clip that is not positive, ``stop`` without a probe, a loss that is
            not finite.

    Source: arXiv 2212.04458, equation 2 and section 5.2.
    """
    for name, count in {"steps": steps, "batch": batch, "log_every": log_every, "probes": probes}.items():
        check_count(name, count, 1)
    for name, value in {"lr": lr, "eps": eps, "clip": 1.0 if clip is None else clip}.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value}: must be positive and finite")
    if stop and probe is None:
        raise ValueError("stop=True: a transition is detected on a probe, and there is none")
    held_out = None if probe is None else probe(probes)

    optimizer: torch.optim.Adam | None = None
    losses: list[Tensor] = []
    logged: list[int] = []
    learning: list[float] = []
    for step in range(steps + 1):
        if step % log_every == 0 or step == steps:
            if losses and not losses[-1].isfinite():
                raise ValueError(f"the loss is {losses[-1].item()} after {step} updates; lr={lr} may be too large")
            logged.append(step)
            if held_out is not None:
                right = predicted(model, held_out).double().mean(0)
                learning.append(float(right[-1] - right[0]))
            if on_log is not None:
                on_log(step)
            if step == steps or (stop and learning[-1] > RISE):
                break
        x, prev_y, y = sampler(batch)
        loss = F.cross_entropy(model(x, prev_y).flatten(0, 1), y.flatten())
        if optimizer is None:  # by now a lazy model has all its parameters
            optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=eps)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.detach())
    found = transition_step(logged, learning) if learning else None
    return MetaTraining(torch.stack(losses or [torch.empty(0)]), tuple(logged), tuple(learning), found)


def transition_step(steps: Sequence[int], learning: Sequence[float] | Tensor, threshold: float = RISE) -> int | None:
    """The first of ``steps`` at which the learning Δ on unseen tasks is more than the threshold; None if it never is.

    A run without a transition is censored, not missing: its transition takes longer than the run.

    Raises:
        ValueError: other numbers of steps than of Δs, or none.

    >>> transition_step([0, 50, 100, 150], [0.01, -0.02, 0.15, 0.3])
    100
    """
    if len(steps) != len(learning) or not len(steps):
        raise ValueError(f"steps and learning: {len(steps)} and {len(learning)} of them; need as many, at least one")
    return next((step for step, rise in zip(steps, learning, strict=True) if rise > threshold), None)
