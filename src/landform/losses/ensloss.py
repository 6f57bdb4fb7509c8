"""EnsLoss: a new random convex calibrated loss at every step, drawn through its derivatives.

Stochastic gradient descent meets a loss phi only through its slopes at the margins of the batch. So no loss need be
written down: draw negative numbers and give the smallest to the smallest margin. Slopes that do not decrease with the
margin belong to a convex phi, negative slopes to a calibrated one, and slopes that fade at large margins to one that
does not fall for ever. Each batch is thus a step on another legitimate loss, as dropout's is on another network.

Source: Dai, arXiv 2409.00908 (ICML 2025). The order of operations (clip after the inverse Box-Cox transformation and
the sort, then the tail, then the shift by ``eps``) is that of the author's released implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from landform.losses.base import Reduction, check_choice, check_logits, own_class, reduce
from landform.losses.binary import MarginLoss, TargetFormat, signed_margins

Draw = Callable[[int, torch.Generator | None], Tensor]
Distribution = Literal["boxcox", "exponential"]
Scheme = Literal["one_vs_rest", "pairwise"]


def inverse_box_cox(z: Float[Tensor, "*shape"], lam: float | Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Positive numbers r = max(0, 1 + lam z)^(1/lam), and r = exp(z), its limit, where lam = 0.

    Where 1 + lam z <= 0 the result is 0 for lam > 0 and infinite for lam < 0. ``lam`` may be a tensor that broadcasts
    against ``z``. Computed as exp(log1p(lam z) / lam), which is accurate for lam however near to 0.

    >>> inverse_box_cox(torch.tensor([-2.0, 0.0, 1.0]), 1.0)
    tensor([0., 1., 2.])
    """
    lam = torch.as_tensor(lam, dtype=z.dtype, device=z.device)
    zero = lam.abs() < torch.finfo(z.dtype).tiny ** 0.5  # there the limit is exact to rounding, and lam z may underflow
    log = torch.log1p((lam * z).clamp(min=-1)) / torch.where(zero, 1.0, lam)
    return torch.exp(torch.where(zero, z, log))


def calibrated_derivatives(
    margins: Float[Tensor, "*batch n"],
    draws: Float[Tensor, "*batch n"],
    *,
    clip: float | None = 1.0,
    tail_start: float = 1.0,
    tail_power: float | None = 1.0,
    eps: float = 1e-6,
) -> Float[Tensor, "*batch n"]:
    """The slopes of one random convex calibrated loss at each margin::

        g = max(-sorted draws, -clip)        ascending, matched to the margins by rank
        g <- g (tail_start / m)^tail_power   where m > tail_start
        g <- g - eps

    Pure, without random numbers or checks of values: it works over leading dimensions (a loss each), and under
    ``torch.func.vmap``. No gradient flows into the margins. Minimise ``(g * margins).mean()``.

    Arguments:
        margins: z = y f(x).
        draws: non-negative random numbers, as from :func:`inverse_box_cox`. They may be infinite when ``clip`` is set.
        clip: the steepest slope, or None.
        tail_start: the positive margin from which slopes fade.
        tail_power: how fast they do, or None for no tail. With 1, the released choice, the slope fades as 1/z, which is
            not integrable: the loss still falls without bound, as -log z. With more than 1 it is bounded below.
        eps: what keeps every slope strictly negative.

    Raises:
        ValueError: draws and margins differ in shape.

    >>> calibrated_derivatives(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.4, 3.0, 0.6]), eps=0.0)
    tensor([-0.2000, -0.6000, -1.0000])
    """
    if margins.shape != draws.shape:
        raise ValueError(f"draws of shape {tuple(draws.shape)} must have the margins' shape {tuple(margins.shape)}")
    margins = margins.detach()
    slopes = torch.sort(-draws, dim=-1).values
    if clip is not None:
        slopes = slopes.clamp(min=-clip)
    order = torch.sort(margins, dim=-1, stable=True).indices
    slopes = torch.zeros_like(slopes).scatter(-1, order, slopes)
    if tail_power is not None:
        slopes = slopes * (tail_start / margins.clamp(min=tail_start)) ** tail_power
    return slopes - eps


def calibration_violations(
    margins: Float[Tensor, "*batch n"], derivatives: Float[Tensor, "*batch n"]
) -> Int[Tensor, "*batch"]:
    """How often slopes break what a convex calibrated loss demands, in each sequence.

    Counted are slopes that are not negative and finite, and neighbours by margin where the slope decreases. Among equal
    margins the order is free: at a kink a convex function has many slopes.

    >>> calibration_violations(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([-0.1, -0.5, 0.3]))
    tensor(2)
    """
    if margins.shape != derivatives.shape:
        raise ValueError(
            f"derivatives of shape {tuple(derivatives.shape)} must have the margins' shape {tuple(margins.shape)}"
        )
    by_slope = torch.sort(derivatives, dim=-1).indices
    by_margin = torch.sort(margins.gather(-1, by_slope), dim=-1, stable=True).indices
    ordered = derivatives.gather(-1, by_slope).gather(-1, by_margin)
    good = (derivatives < 0) & torch.isfinite(derivatives)
    return (~good).sum(-1) + (ordered.diff(dim=-1) < 0).sum(-1)


def is_calibrated_sequence(margins: Float[Tensor, "*batch n"], derivatives: Float[Tensor, "*batch n"]) -> bool:
    """Whether there is a convex calibrated loss (in each batch) with these slopes at these margins.

    That is so when every slope is negative and they do not decrease with the margin (arXiv 2409.00908, section on
    calibration).

    >>> is_calibrated_sequence(torch.tensor([0.5, -1.0]), torch.tensor([-0.2, -1.0]))
    True
    """
    return not calibration_violations(margins, derivatives).any()


class EnsLoss(MarginLoss):
    """A new random calibrated loss at every call: a drop-in regulariser for over-parametrised binary classifiers.

    With margins m_i = y_i f(x_i), y_i in {-1, +1}, and slopes g from :func:`calibrated_derivatives`, forward returns::

        L = (1/B) sum_i stopgrad(g_i) m_i,      hence dL/df(x_i) = y_i g_i / B exactly.

    The value of L means nothing: it is linear in the margins, of any sign, and does not fall as training goes on. Watch
    the accuracy or a fixed loss; do not stop early or search learning rates by it. In ``eval()`` mode the module is the
    logistic loss, which can be watched.

    Slopes are smaller than the hinge's (0.76 on average with the default draws, before the tail), so the
    best learning rate may be somewhat larger. Each device, each micro-batch draws a loss of its own, which is fine.

    Arguments:
        distribution: where draws come from: ``"boxcox"`` (the inverse Box-Cox transformation of standard normals),
            ``"exponential"`` (rate 1), or a callable ``(n, generator) -> (n,)`` of non-negative numbers.
        boxcox_lambda: its parameter; 0, the published choice, means log-normal draws. See :class:`BoxCoxSchedule`.
        clip, tail_start, tail_power, eps: see :func:`calibrated_derivatives`.
        reduction: ``"mean"`` (default), ``"sum"`` (gradient y_i g_i), or ``"none"`` (the terms g_i m_i).
        target_format: ``"zero_one"`` (default) for targets in {0, 1}, ``"signed"`` for {-1, +1}.
        generator: the source of random numbers; PyTorch's global one when None, which is the one that a graph of
            ``torch.compile`` can hold (another breaks the graph).

    Shapes: scores and targets (B,) or (B, 1), or any one shape, of which every element is a sample.

    Raises:
        TypeError: scores are not floating point.
        ValueError: an argument out of range; a batch that is empty, not finite or of mismatched shapes; a target
            outside its set; draws of a callable that are negative, NaN or of another shape.

    Source: arXiv 2409.00908, the algorithm.

    >>> loss = EnsLoss(generator=torch.Generator().manual_seed(0))
    >>> scores = torch.tensor([0.3, -0.2, 1.5], requires_grad=True)
    >>> loss(scores, torch.tensor([1, 1, 0])).backward()
    """

    def __init__(
        self,
        distribution: Distribution | Draw = "boxcox",
        *,
        boxcox_lambda: float = 0.0,
        clip: float | None = 1.0,
        tail_start: float = 1.0,
        tail_power: float | None = 1.0,
        eps: float = 1e-6,
        reduction: Reduction = "mean",
        target_format: TargetFormat = "zero_one",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(reduction=reduction, target_format=target_format)
        if not callable(distribution):
            check_choice("distribution", distribution, get_args(Distribution))
        for name, value in {"clip": clip, "tail_start": tail_start, "tail_power": tail_power}.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value}: must be positive and finite")
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps={eps}: must be finite and at least zero")
        self.distribution = distribution
        self.clip, self.tail_start, self.tail_power, self.eps = clip, tail_start, tail_power, eps
        self.generator = generator
        self.boxcox_lambda = boxcox_lambda

    @property
    def boxcox_lambda(self) -> float:
        """The Box-Cox parameter of the draws."""
        return self._boxcox_lambda

    @boxcox_lambda.setter
    def boxcox_lambda(self, value: float) -> None:
        if not abs(value) < float("inf"):
            raise ValueError(f"boxcox_lambda={value}: must be finite")
        if value < 0 and self.clip is None and self.distribution == "boxcox":
            raise ValueError(f"boxcox_lambda={value}: draws may be infinite below zero, which needs a clip, not None")
        self._boxcox_lambda = float(value)

    def draw(self, like: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Fresh non-negative draws in the shape, dtype and device of ``like``."""
        if callable(self.distribution):
            draws = self.distribution(like.numel(), self.generator)
            if draws.shape != (like.numel(),):
                raise ValueError(f"distribution gave draws of shape {tuple(draws.shape)}, not ({like.numel()},)")
            if not (draws >= 0).all() or (self.clip is None and not torch.isfinite(draws).all()):
                raise ValueError("distribution gave draws that are negative, NaN, or infinite while clip is None")
            return draws.to(like).reshape(like.shape)
        device = like.device if self.generator is None else self.generator.device
        if self.distribution == "boxcox":
            normal = torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=device)
            return inverse_box_cox(normal, self.boxcox_lambda).to(like.device)
        return torch.empty(like.shape, dtype=like.dtype, device=device).exponential_(generator=self.generator).to(like)

    def phi(self, margins: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """The terms g m of freshly drawn losses, one along the last dimension; logistic losses in ``eval()`` mode.

        ``torch.func.vmap`` does not reach the generator: give it draws, with :func:`calibrated_derivatives`.
        """
        if not self.training:
            return -F.logsigmoid(margins)
        slopes = calibrated_derivatives(
            margins,
            self.draw(margins),
            clip=self.clip,
            tail_start=self.tail_start,
            tail_power=self.tail_power,
            eps=self.eps,
        )
        return slopes * margins

    def forward(self, scores: Float[Tensor, "*batch"], targets: Shaped[Tensor, "*batch"]) -> Tensor:
        margins = signed_margins(scores, targets, self.target_format)
        return reduce(self.phi(margins.flatten()).reshape(margins.shape), self.reduction)

    def extra_repr(self) -> str:
        return (
            f"distribution={self.distribution!r}, boxcox_lambda={self.boxcox_lambda:g}, clip={self.clip}, "
            f"tail_start={self.tail_start:g}, tail_power={self.tail_power}, eps={self.eps:g}"
        )


class BoxCoxSchedule:
    """Redraws an :class:`EnsLoss`'s Box-Cox parameter uniformly every ``period`` epochs.

    Call ``step()`` at the start of every epoch; the first draw comes with the ``period``-th call. The author's trainer
    offers this with the range (-1, 1); all published results keep lambda = 0.

    Arguments:
        loss: the loss to act on.
        period: epochs between draws, at least 1.
        low, high: the range.
        generator: the source of random numbers; PyTorch's global one when None.

    >>> loss = EnsLoss()
    >>> schedule = BoxCoxSchedule(loss, period=1, generator=torch.Generator().manual_seed(0))
    >>> schedule.step(); -1 < loss.boxcox_lambda < 1
    True
    """

    def __init__(
        self,
        loss: EnsLoss,
        period: int,
        *,
        low: float = -1.0,
        high: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if period < 1:
            raise ValueError(f"period={period}: must be at least 1 epoch")
        if not -float("inf") < low < high < float("inf"):
            raise ValueError(f"low={low}, high={high}: must be finite and low below high")
        if loss.distribution != "boxcox":
            raise ValueError(f"loss draws from distribution={loss.distribution!r}, which has no Box-Cox parameter")
        if low < 0 and loss.clip is None:
            raise ValueError(f"low={low}: draws may be infinite below zero, which needs a loss with a clip, not None")
        self.loss, self.period, self.low, self.high, self.generator = loss, period, low, high, generator
        self.epoch = 0

    def step(self) -> None:
        """Begin an epoch."""
        self.epoch += 1
        if self.epoch % self.period == 0:
            uniform = torch.rand((), generator=self.generator, dtype=torch.float64, device=self._device).item()
            self.loss.boxcox_lambda = self.low + (self.high - self.low) * uniform

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.generator is None else self.generator.device

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the current parameter and the own generator's state: what a resumed training needs."""
        state = None if self.generator is None else self.generator.get_state()
        return {"epoch": self.epoch, "boxcox_lambda": self.loss.boxcox_lambda, "generator": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken."""
        self.epoch = state["epoch"]
        self.loss.boxcox_lambda = state["boxcox_lambda"]
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"])


def one_vs_rest_margins(
    logits: Float[Tensor, "*batch n classes"], targets: Int[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n classes"]:
    """Each class's score against all others: +f_k for k = y and -f_k for k != y. Pure, fit for ``vmap``."""
    return torch.where(own_class(targets, logits.shape[-1]), logits, -logits)


def pairwise_margins(
    logits: Float[Tensor, "*batch n classes"], targets: Int[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n classes-1"]:
    """How far the right class's score is above each other's: f_y - f_k for all k != y. Pure, fit for ``vmap``."""
    others = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = others + (others >= targets.unsqueeze(-1)).long()
    return logits.gather(-1, targets.unsqueeze(-1)) - logits.gather(-1, others)


class MulticlassEnsLoss(EnsLoss):
    """EnsLoss for K classes: an extension, not in the paper.

    ``"one_vs_rest"`` sees K binary problems, class k against the rest with score f_k, and draws a loss for each.
    ``"pairwise"`` (default) sees the margins f_y - f_k for all k != y, and draws one loss for all B (K - 1) of them.
    A sample's term is the mean over k of g_k m_k; ``reduction`` acts over samples. In ``eval()`` mode the same
    margins go through the logistic loss.

    Arguments:
        scheme: ``"pairwise"`` or ``"one_vs_rest"``; the others are those of :class:`EnsLoss`.

    Shapes: logits (B, K) with K >= 2, targets (B,) of class indices.

    Raises:
        TypeError: logits are not floating point, or targets not integers.
        ValueError: shapes that do not fit, an empty or non-finite batch, a class out of range.

    >>> loss = MulticlassEnsLoss()
    >>> logits = torch.randn(4, 3, requires_grad=True)
    >>> loss(logits, torch.tensor([0, 2, 1, 1])).backward()
    """

    def __init__(
        self,
        scheme: Scheme = "pairwise",
        distribution: Distribution | Draw = "boxcox",
        *,
        boxcox_lambda: float = 0.0,
        clip: float | None = 1.0,
        tail_start: float = 1.0,
        tail_power: float | None = 1.0,
        eps: float = 1e-6,
        reduction: Reduction = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("scheme", scheme, get_args(Scheme))
        super().__init__(
            distribution,
            boxcox_lambda=boxcox_lambda,
            clip=clip,
            tail_start=tail_start,
            tail_power=tail_power,
            eps=eps,
            reduction=reduction,
            generator=generator,
        )
        self.scheme: Scheme = scheme

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Tensor:
        logits, targets = check_logits(logits, targets)
        if self.scheme == "one_vs_rest":
            terms = self.phi(one_vs_rest_margins(logits, targets).T).T
        else:
            margins = pairwise_margins(logits, targets)
            terms = self.phi(margins.flatten()).reshape(margins.shape)
        return reduce(terms.mean(1), self.reduction)

    def extra_repr(self) -> str:
        return f"scheme={self.scheme!r}, {super().extra_repr()}"
