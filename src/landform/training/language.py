"""Training a language model: one run, with its learning curve and its compute, that can be stopped, saved, resumed to
the bit, and branched."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landform.models.transformer import ByteTransformer
from landform.training.compute import ComputeLedger

LossHook = Callable[[Float[Tensor, " batch"], int], Float[Tensor, ""]]
"""What is minimised, from the batch's losses (one a sequence) and the number of updates done so far."""


@dataclass(frozen=True)
class Point:
    """One point of a learning curve. Losses are in nats per token (over ln 2: bits).

    Attributes:
        updates, tokens: spent so far.
        flops, flops_full: spent so far, by Kaplan's count and by the full one (see :mod:`landform.training.compute`).
        train_loss: the mean over the batches since the point before, each before its update; NaN without any.
        loss: on the held-out sequences.
        seconds: spent on training so far, without evaluations.
    """

    updates: int
    tokens: int
    flops: int
    flops_full: int
    train_loss: float
    loss: float
    seconds: float


class LanguageRun:
    """One training of a language model on a table of sequences.

    Update k minimises the mean over ``batch_size`` sequences of each one's mean next-token cross-entropy, with the
    gradient's norm clipped to ``clip``. Sequences are drawn without replacement, epoch by epoch, in an order that
    depends on the seed alone: runs of one seed see the same batches, whatever else they differ in. Given the state of
    update k (:meth:`state_dict`), a run goes on exactly as the one that it was taken from.

    Arguments:
        model: trained in place, on the device where it is.
        train: tokens ``(n, length + 1)``, integers of any type; a sequence's first ``length`` tokens are read and its
            last ``length`` predicted. :func:`sequences` makes such a table of a text.
        held_out: such a table, which the loss is measured on.
        optimizer: of the model's parameters. It is stepped with a closure, so that one that needs several gradients
            an update (sharpness-aware minimisation) may ask for them.
        schedule: stepped after every update.
        batch_size: sequences an update.
        clip: the most that the norm of the whole gradient may be; None for no limit.
        scored: only the last so many tokens of each sequence count, in training and evaluation; all unless given.
        loss_hook: gives the loss to minimise in place of the mean, for re-weighting.
        seed: decides the order of the data.

    Attributes:
        curve: the points measured so far.
        ledger: the compute spent so far.
        seconds: spent on training so far.

    Raises:
        TypeError, ValueError: an argument out of its range, by name.

    >>> model = ByteTransformer(d_model=8, n_layer=1, n_head=1, context=16, vocab=4)
    >>> tokens = torch.arange(100).remainder(4).repeat(17, 1)[:, :17]
    >>> run = LanguageRun(model, tokens, tokens, language_adamw(model, lr=0.01), batch_size=8)
    >>> [point.updates for point in run.train(60, evaluate_at=[0, 20, 60])]
    [0, 20, 60]
    >>> run.curve[0].loss > run.curve[-1].loss
    True
    """

    def __init__(
        self,
        model: ByteTransformer,
        train: Int[Tensor, "n length+1"],
        held_out: Int[Tensor, "m length+1"],
        optimizer: Optimizer,
        schedule: LRScheduler | None = None,
        *,
        batch_size: int = 32,
        clip: float | None = 1.0,
        scored: int | None = None,
        loss_hook: LossHook | None = None,
        seed: int = 0,
    ) -> None:
        _check_table("train", train, model)
        _check_table("held_out", held_out, model)
        length = train.shape[1] - 1
        if held_out.shape[1] != length + 1:
            raise ValueError(f"held_out: sequences of {held_out.shape[1]} tokens, but those of train have {length + 1}")
        _check_between("batch_size", batch_size, 1, len(train))
        if scored is not None:
            _check_between("scored", scored, 1, length)
        if clip is not None and not clip > 0:
            raise ValueError(f"clip={clip}: must be positive, or None")
        if schedule is not None and schedule.optimizer is not optimizer:
            raise ValueError("schedule: is of another optimizer")
        self.model = model
        self.sequences = train
        self.held_out = held_out
        self.optimizer = optimizer
        self.schedule = schedule
        self.batch_size = batch_size
        self.clip = clip
        self.scored = scored
        self.loss_hook = loss_hook
        self.seed = seed
        self.ledger = ComputeLedger(model)
        self.curve: list[Point] = []
        self.seconds = 0.0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._loss_count = 0
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    @property
    def device(self) -> torch.device:
        return self.model.tokens.weight.device

    @property
    def updates(self) -> int:
        """How many updates were made."""
        return self.ledger.updates

    @property
    def tokens_per_second(self) -> float:
        """The throughput of training so far, without evaluations."""
        return self.ledger.tokens / self.seconds if self.seconds else 0.0

    def train(self, until: int, evaluate_at: Collection[int] | None = None) -> list[Point]:
        """Go on until so many updates are made in all, and give the new points of the curve.

        The loss is measured after those numbers of updates that are in ``evaluate_at`` (0 is before the first), or at
        the end alone unless given.

        Raises:
            ValueError: ``until`` lies behind.
        """
        if until < self.updates:
            raise ValueError(f"until={until}: {self.updates} updates are made already")
        known = len(self.curve)
        asked = {until} if evaluate_at is None else set(evaluate_at)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for stop in sorted({stop for stop in asked if self.updates <= stop <= until} | {until}):
            start = time.perf_counter()
            while self.updates < stop:
                self._update(parameters)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - start
            measured = bool(self.curve) and self.curve[-1].updates == stop
            if stop in asked and not measured:
                self._measure()
        return self.curve[known:]

    @torch.no_grad()
    def evaluate(self, tokens: Int[Tensor, "m length+1"] | None = None) -> float:
        """The mean loss in nats per scored token on ``tokens``; on the held-out sequences unless given."""
        if tokens is None:
            tokens = self.held_out
        else:
            _check_table("tokens", tokens, self.model)
        training = self.model.training
        self.model.eval()
        losses = [
            sequence_losses(self.model, part.to(self.device), self.scored).double().sum()
            for part in tokens.split(max(self.batch_size, 32))
        ]
        self.model.train(training)
        return float(torch.stack(losses).sum()) / len(tokens)

    def batch(self, update: int) -> Int[Tensor, "batch length+1"]:
        """The sequences of update ``update`` = 0, 1, …, a pure function of it and the seed."""
        epoch, place = divmod(update, len(self.sequences) // self.batch_size)
        if self._order[0] != epoch:
            # Seed and epoch are hashed, so that epoch 1 of seed 0 has nothing to do with epoch 0 of seed 1.
            state = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(state)
            self._order = (epoch, torch.randperm(len(self.sequences), generator=generator))
        rows = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return self.sequences[rows.to(self.sequences.device)].to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that the rest of the run depends on, and of its curve: tensors and plain numbers alone,
        so that it can be saved with ``torch.save`` and loaded with ``torch.load(..., weights_only=True)``.

        Global random numbers are part of it (a model may have dropout), the ``loss_hook`` is not.
        """
        on_gpu = self.device.type == "cuda"
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "ledger": self.ledger.state_dict(),
            "data": self._data(),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "curve": [asdict(point) for point in self.curve],
            "seconds": self.seconds,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any], *, schedule: bool = True) -> None:
        """Go on from where ``state`` was taken.

        Arguments:
            state: of a run with the same model, optimizer, data, batch size and seed.
            schedule: False branches off: this run keeps its own schedule, and the rates that it has set, and takes all
                else from ``state``. A stable phase is decayed so, from the state where the decay begins.

        Raises:
            ValueError: a state of other data, or of a run with a schedule where this one has none or the reverse.
        """
        if state["data"] != self._data():
            raise ValueError(f"state: is of a run with {state['data']}, but this one has {self._data()}")
        if schedule and (state["schedule"] is None) != (self.schedule is None):
            raise ValueError(f"state: is of a run with{'out' if self.schedule else ''} a schedule, unlike this one")
        state = copy.deepcopy(dict(state))
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if not schedule:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        elif self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.ledger.load_state_dict(state["ledger"])
        torch.set_rng_state(state["random"])
        if state["random_gpu"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_gpu"], self.device)
        self.curve = [Point(**point) for point in state["curve"]]
        self.seconds = state["seconds"]
        self._loss_sum = state["loss_sum"].to(self.device)
        self._loss_count = state["loss_count"]

    def _update(self, parameters: list[Tensor]) -> None:
        rows, update = self.batch(self.updates), self.updates
        seen: list[Tensor] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            if self.loss_hook is None:
                loss = _next_token_loss(self.model, rows, self.scored, "mean")
                seen.append(loss.detach())
            else:
                losses = sequence_losses(self.model, rows, self.scored)
                seen.append(losses.detach().mean())
                loss = self.loss_hook(losses, update)
            loss.backward()
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self.clip)
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]  # a tensor, so that nothing waits for its value
        if self.schedule is not None:
            self.schedule.step()
        self._loss_sum += seen[0]
        self._loss_count += 1
        self.ledger.count(rows.numel() - len(rows))

    def _measure(self) -> None:
        train_loss = float(self._loss_sum) / self._loss_count if self._loss_count else float("nan")
        self._loss_sum.zero_()
        self._loss_count = 0
        kaplan, full = self.ledger.flops_by("kaplan"), self.ledger.flops_by("full")
        self.curve.append(
            Point(self.updates, self.ledger.tokens, kaplan, full, train_loss, self.evaluate(), self.seconds)
        )

    def _data(self) -> dict[str, int]:
        """What decides the batches."""
        count, width = self.sequences.shape
        return {"sequences": count, "tokens": width, "batch_size": self.batch_size, "seed": self.seed}


def sequence_losses(
    model: ByteTransformer, tokens: Int[Tensor, "batch length+1"], scored: int | None = None
) -> Float[Tensor, " batch"]:
    """Each sequence's mean cross-entropy in nats per token, over its last ``scored`` tokens (all but the first)."""
    return _next_token_loss(model, tokens, scored, "none").view(len(tokens), -1).mean(1)


def _next_token_loss(model: ByteTransformer, tokens: Tensor, scored: int | None, reduction: str) -> Tensor:
    """The cross-entropy of the scored tokens: their mean, which costs a pass less, or each token's."""
    tokens = tokens.long()
    first = 0 if scored is None else tokens.shape[1] - 1 - scored
    logits, targets = model(tokens[:, :-1])[:, first:], tokens[:, 1 + first :]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def sequences(text: Shaped[Tensor, " n"], length: int) -> Shaped[Tensor, "count length+1"]:
    """Cut a text into stretches of ``length`` tokens, each with the token that follows: a view, without a copy.

    Every token but the first is predicted in exactly one stretch; what is left at the end is dropped.

    Raises:
        ValueError: text that is not a vector, or is shorter than one stretch; a length below 1.

    >>> sequences(torch.arange(10), length=4)
    tensor([[0, 1, 2, 3, 4],
            [4, 5, 6, 7, 8]])
    """
    if text.ndim != 1:
        raise ValueError(f"text has shape {tuple(text.shape)}; it must be a vector of tokens")
    _check_between("length", length, 1, len(text) - 1)
    return text.unfold(0, length + 1, length)


def language_adamw(model: ByteTransformer, lr: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """AdamW as language models use it: beta 0.9 and 0.95, eps 1e-8 (its fused form, where the model lets it)."""
    return torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay, fused=True)


def kaplan_learning_rate(parameters: int) -> float:
    """0.003239 − 0.0001395 ln N: Adam's rate for N non-embedding parameters (arXiv 2001.08361, appendix D.6).

    Raises:
        ValueError: N below 1, or so large (above 1.2e10) that the rule gives no positive rate.
    """
    rate = 0.003239 - 0.0001395 * float(np.log(parameters)) if parameters >= 1 else 0.0
    if rate <= 0:
        raise ValueError(f"parameters={parameters}: the rule holds from 1 to 1.2e10")
    return rate


def log_spaced(first: int, last: int, count: int) -> list[int]:
    """About ``count`` whole numbers from ``first`` to ``last`` at equal ratios, each once.

    >>> log_spaced(1, 1000, 7)
    [1, 3, 10, 32, 100, 316, 1000]
    """
    if not 1 <= first <= last:
        raise ValueError(f"first={first}, last={last}: must be 1 ≤ first ≤ last")
    _check_between("count", count, 2, None)
    return sorted({int(value) for value in np.geomspace(first, last, count).round()})


def _check_between(name: str, value: int, least: int, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r}: must be an int")
    if value < least or (most is not None and value > most):
        raise ValueError(
            f"{name}={value}: must be at least {least}{f' and at most {most}' if most is not None else ''}"
        )


def _check_table(name: str, tokens: Tensor, model: ByteTransformer) -> None:
    """Refuse what is no table of tokens that the model can read."""
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TypeError(f"{name}: must be integers, not {tokens.dtype}")
    if tokens.ndim != 2 or not len(tokens):
        raise ValueError(f"{name} has shape {tuple(tokens.shape)}; it must be a table of sequences (n, length + 1)")
    if not 1 <= tokens.shape[1] - 1 <= model.context:
        raise ValueError(
            f"{name}: sequences of {tokens.shape[1]} tokens; must be 2 to context + 1 = {model.context + 1}"
        )
    low, high, vocab = int(tokens.min()), int(tokens.max()), model.unembed.out_features
    if low < 0 or high >= vocab:
        raise ValueError(f"{name}: holds the token {low if low < 0 else high}; the model's are 0 … {vocab - 1}")
