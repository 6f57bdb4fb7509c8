"""UDIM: flat on the data at hand, and no different on data perturbed into a domain that is not at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from landform.losses.gradient_variance import GradientVarianceInconsistency, last_layer_sample_grads
from landform.optim.sharpness.gsam import GSAM
from landform.optim.sharpness.norm_stats import frozen_norm_stats
from landform.optim.sharpness.perturb import PerturbMode, perturb_inputs
from landform.optim.sharpness.sagm import SAGM
from landform.optim.sharpness.sam import SAM, total_norm
from landform.optim.sharpness.wrapper import BaseOptimizer, OptimizerWrapper, check_rho

Inner = Literal["sam", "sagm", "gsam"]
INNER: dict[Inner, type[SAM]] = {"sam": SAM, "sagm": SAGM, "gsam": GSAM}


@dataclass(frozen=True)
class Crafted:
    """A perturbed batch, and what was measured at the weights on the clean one: L, A = L + rho ||g||, ||g||, and g."""

    x: Float[Tensor, "batch ..."]
    loss: Float[Tensor, ""]
    crafting_loss: Float[Tensor, ""]
    grad_norm: Float[Tensor, ""]
    gradients: list[Tensor | None]


class UDIM(OptimizerWrapper):
    """Unknown-domain inconsistency minimisation, for a domain that is not among the training data.

    A step on a batch x of one or several source domains, with g the gradient of its cross-entropy L at the weights w:

        A(x) = L(x, w) + rho ||g||_2                                 the crafting loss
        x~   = x moved one step up A                                 (:func:`perturb_inputs`), then held constant
        I(w) = sum over domains of GradientVarianceInconsistency     of the last layer's per-sample gradients, x and x~
        w   <- base(w, g_sam + weight grad I(w)),   g_sam = gradient of L at w + rho g / ||g||, on the clean batch

    ``grad I`` reaches all layers through features and logits. A step costs four to six of plain training, and the
    memory of a second-order graph.

    Schedules, ``state_dict``, groups and ``zero_grad`` work as those of the base. To start from SAM, as the paper does
    for the first fifth of the steps, build the base once and give it to :class:`SAM` and to this. In mixed precision
    call ``step(x, y, scaler=scaler)`` within ``torch.autocast``, then ``scaler.update()``; if any gradient overflows,
    the step is skipped.

    Arguments:
        model: with ``features(x)`` of shape (batch, d) and a linear layer ``head`` that turns them into logits.
            Running statistics change in the first pass alone. The paper freezes batch normalisation.
        base_optimizer: an optimiser of all of the model's parameters, or its class, built with ``base_options``.
        rho: the distance that weights go uphill.
        radius, mode, lower, upper: of :func:`perturb_inputs`; released: ``mode="batch", radius=10``, or ``"style"``.
        weight: of I, lambda in the paper. I is divided by the size of the head, so a small one wants more.
        inner: what g_sam is: ``"sam"``, ``"sagm"`` or ``"gsam"``.
        inconsistency: other centring or weights of its terms.

    Raises:
        TypeError: a model without ``features`` or a linear ``head``; a base that is no optimiser.
        ValueError: a negative rho, radius or weight, an unknown mode or inner, a base of other parameters.

    Source: arXiv 2403.07329, section 4; every term as in its code.

    >>> from landform.models import MLP
    >>> udim = UDIM(MLP(4, (8,), 3), torch.optim.Adam, radius=0.5, lr=0.01)
    >>> sorted(udim.step(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
    ['crafting_loss', 'grad_norm', 'inconsistency', 'loss']
    """

    def __init__(
        self,
        model: nn.Module,
        base_optimizer: BaseOptimizer,
        rho: float = 0.05,
        radius: float = 1.0,
        weight: float = 1.0,
        mode: PerturbMode = "sample",
        inner: Inner = "sam",
        *,
        lower: float | None = None,
        upper: float | None = None,
        inconsistency: GradientVarianceInconsistency | None = None,
        **base_options: Any,
    ) -> None:
        head = getattr(model, "head", None)
        if not callable(getattr(model, "features", None)) or not isinstance(head, nn.Linear):
            raise TypeError(f"model: a {type(model).__name__} has not both features(x) and a linear layer `head`")
        for name, value in (("rho", rho), ("radius", radius), ("weight", weight)):
            check_rho(name, value)
        if mode not in get_args(PerturbMode):
            raise ValueError(f"mode={mode!r}: must be one of {', '.join(map(repr, get_args(PerturbMode)))}")
        if inner not in INNER:
            raise ValueError(f"inner={inner!r}: must be one of {', '.join(map(repr, INNER))}")
        parameters = list(model.parameters())
        if isinstance(base_optimizer, Optimizer):
            # Groups that say their rho, as the base may come from a warm-up by SAM with another one.
            groups = [{"params": group["params"], "rho": rho} for group in base_optimizer.param_groups]
            if {id(p) for group in groups for p in group["params"]} != {id(p) for p in parameters}:
                raise ValueError("base_optimizer: must be of all of the model's parameters, and of no others")
            self.inner = INNER[inner](groups, base_optimizer, rho, model=model, **base_options)
        else:
            self.inner = INNER[inner](parameters, base_optimizer, rho, model=model, **base_options)
        super().__init__(self.inner.param_groups, self.inner.base, {}, {})
        self.model = model
        self._biased = head.bias is not None
        self.radius = radius
        self.weight = weight
        self.mode = mode
        self.lower = lower
        self.upper = upper
        self.inconsistency = GradientVarianceInconsistency() if inconsistency is None else inconsistency

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        self._share()

    def step(  # type: ignore[override]  # a batch instead of a closure: its inputs are what is perturbed
        self,
        x: Float[Tensor, "batch ..."],
        y: Int[Tensor, " batch"],
        domain: Int[Tensor, " batch"] | None = None,
        *,
        scaler: GradScaler | None = None,
    ) -> dict[str, float]:
        """One update on a batch. Samples of one number in ``domain`` are compared among themselves; one domain if None.

        Gives ``loss`` L, ``crafting_loss`` A, ``grad_norm`` ||g|| and ``inconsistency`` I, all before the update.

        Raises:
            ValueError: an empty batch, or lengths that differ.
            TypeError: inputs or targets of a wrong dtype.
        """
        if domain is not None:
            domain = torch.as_tensor(domain, device=x.device)
        if len(x) != len(y) or not len(x) or (domain is not None and domain.shape != y.shape):
            shapes = tuple(x.shape), tuple(y.shape), None if domain is None else tuple(domain.shape)
            raise ValueError(f"x, y, domain of shapes {shapes}: must have one length, at least 1")
        x = x.detach()
        with torch.enable_grad():
            crafted = self.craft(x, y, scaler)
            if scaler is not None and not bool(crafted.x.isfinite().all()):
                self._report_overflow(scaler)
                return _measured(crafted, x.new_full((), torch.nan))
            with frozen_norm_stats(self.model):
                penalty = self.penalty(x, crafted.x, y, domain)
            slopes = self._slopes(penalty, scaler)
        self.zero_grad()
        for p, gradient in zip(self._parameters(), crafted.gradients, strict=True):
            p.grad = gradient
        found = self.inner.direction(lambda: _scaled(self._loss(x, y), scaler).backward(), scaler=scaler)
        if found and (scaler is None or all(bool(slope.isfinite().all()) for slope in slopes.values())):
            for p, slope in slopes.items():
                p.grad = slope if p.grad is None else p.grad + slope
            self._update_base(scaler)
        self.zero_grad()
        return _measured(crafted, penalty)

    def craft(self, x: Tensor, y: Tensor, scaler: GradScaler | None = None) -> Crafted:
        """Steps 1 and 2 of the method: the crafting loss at the weights, and inputs moved up it."""
        parameters = self._parameters()
        scale = 1.0 if scaler is None else scaler.get_scale()
        measured: list[Any] = []

        def crafting_loss(inputs: Tensor) -> Tensor:
            loss = self._loss(inputs, y)
            scaled = torch.autograd.grad(_scaled(loss, scaler), parameters, create_graph=True, allow_unused=True)
            norm = total_norm([g for g in scaled if g is not None]) / scale
            total = loss + self.param_groups[0]["rho"] * norm
            gradients = [None if g is None else g.detach() for g in scaled]
            measured[:] = loss.detach(), total.detach(), norm.detach(), gradients
            return _scaled(total, scaler)

        # Where the move is normalised the scale cancels.
        radius = self.radius / scale if self.mode == "style" else self.radius
        moved = perturb_inputs(crafting_loss, x, radius, self.mode, self.lower, self.upper)
        return Crafted(moved, *measured)

    def penalty(self, x: Tensor, moved: Tensor, y: Tensor, domain: Int[Tensor, " batch"] | None) -> Float[Tensor, ""]:
        """The inconsistency I between a batch and what it was moved to, summed over domains."""
        clean, new = self._sample_grads(x, y), self._sample_grads(moved, y)
        if domain is None:
            return self.inconsistency(clean, new)
        parts = [domain == number for number in domain.unique()]
        return sum(
            (self.inconsistency([g[part] for g in clean], [g[part] for g in new]) for part in parts),
            start=x.new_zeros(()),
        )

    def _slopes(self, penalty: Float[Tensor, ""], scaler: GradScaler | None) -> dict[Tensor, Tensor]:
        """The gradient of weight · I by parameter. A scaler checks it for overflow under this optimiser's id."""
        self.zero_grad()
        if not self.weight or not penalty.requires_grad:
            return {}
        _scaled(self.weight * penalty, scaler).backward()
        if scaler is not None:
            scaler.unscale_(self)
        return {p: p.grad for p in self._parameters() if p.grad is not None}

    def _report_overflow(self, scaler: GradScaler) -> None:
        """Let the scaler know that the inputs' gradient has overflowed, though it never sees that one."""
        for p in self._parameters():
            p.grad = torch.full_like(p, torch.inf)
        scaler.unscale_(self)
        self.zero_grad()

    def _sample_grads(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        weight, bias = last_layer_sample_grads(*self._outputs(x), y)
        return (weight, bias) if self._biased else (weight,)

    def _loss(self, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return F.cross_entropy(self._outputs(x)[1], y)

    def _outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits."""
        net: Any = self.model
        features = net.features(x)
        return features, net.head(features)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]


def _measured(crafted: Crafted, penalty: Float[Tensor, ""]) -> dict[str, float]:
    values = {
        "loss": crafted.loss,
        "crafting_loss": crafted.crafting_loss,
        "inconsistency": penalty.detach(),
        "grad_norm": crafted.grad_norm,
    }
    return dict(zip(values, torch.stack([value.double() for value in values.values()]).tolist(), strict=True))


def _scaled(value: Tensor, scaler: GradScaler | None) -> Tensor:
    return value if scaler is None else scaler.scale(value)
