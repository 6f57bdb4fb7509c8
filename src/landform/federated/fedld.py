"""FedLD: margin control on the clients, principal-gradient aggregation on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from jaxtyping import Float, Shaped
from torch import Tensor

from landform.federated.client import SGD, Batch, Context, State, check_number, rows
from landform.federated.pairwise import moved_history
from landform.federated.principal import principal_gradient_aggregate
from landform.federated.server import FedAvg, ServerRule, check_clients
from landform.losses.base import check_choice
from landform.losses.margin_control import On, PenaltyReduction, margin_penalty


@dataclass(frozen=True, kw_only=True)
class MarginControl(SGD):
    """Local SGD on :class:`landform.losses.MarginControlLoss`: the loss + lam · log(1 + ‖softmax of the batch‖²).

    Arguments:
        lam: the penalty's weight, at least 0.
        on, reduction: as of that loss.

    Raises:
        ValueError: a setting out of range.

    >>> MarginControl(lam=0.03).on
    'probs'
    """

    lam: float = 0.1
    on: On = "probs"
    reduction: PenaltyReduction = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("lam", self.lam)
        check_choice("on", self.on, get_args(On))
        check_choice("reduction", self.reduction, get_args(PenaltyReduction))

    def local_step(self, params: State, batch: Batch, ctx: Context) -> Float[Tensor, " clients"]:
        outputs = ctx.forward(params, batch.x)
        penalty = margin_penalty(outputs, batch.mask, on=self.on, reduction=self.reduction)
        return self.data_loss(outputs, batch) + self.lam * penalty


@dataclass(frozen=True)
class PrincipalGradient(ServerRule):
    """w ← w + lr · :func:`principal_gradient_aggregate` of the participants' updates, for each tensor.

    As in the authors' code a tensor's first round, a tensor of one number, and one whose past steps are all zero take
    the unweighted mean instead.

    Arguments:
        keep: the share of directions kept, in (0, 1].
        lr: the server's step, positive; the paper's is 1.

    Raises:
        ValueError: a setting out of range.

    >>> PrincipalGradient().keep
    0.8
    """

    keep: float = 0.8
    lr: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: must be in (0, 1]")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr={self.lr}: must be positive and finite")

    def init(self, params: State) -> State:
        """Each tensor's history of steps: none."""
        return {}

    def aggregate(
        self, state: State, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, State]:
        check_clients(params, client_params, num_samples)
        moved, histories = {}, {}
        for name, p in params.items():
            updates = rows(client_params[name] - p)
            history = state.get(name)
            if p.numel() == 1 or history is None or not bool(history.any()):
                step = updates.mean(0)
            else:
                step = principal_gradient_aggregate(updates, self.keep)
            histories[name] = moved_history(history, step)
            moved[name] = p + self.lr * step.view(p.shape)
        return moved, histories


@dataclass(frozen=True)
class FedLDStrategy(ServerRule):
    """FedLD as a whole: a server rule, and the client update that goes with it.

    ``simulate(data, model_fn, strategy.client_update(), strategy, …)`` runs it in process, and
    ``to_flower(strategy.client_update(), strategy, …)`` on real machines. With both parts off it is FedAvg, weighted by
    the clients' samples. Source: arXiv 2408.12300.

    Arguments:
        margin: whether clients control margins, else they descend the plain loss.
        principal: whether the server aggregates along principal directions, else it averages.
        lam: the margin penalty's weight.
        keep: the share of directions kept.
        lr: the server's step along the principal directions.

    Raises:
        ValueError: a setting out of range.

    >>> FedLDStrategy(margin=False).client_update(steps=12).lr
    0.01
    """

    margin: bool = True
    principal: bool = True
    lam: float = 0.1
    keep: float = 0.8
    lr: float = 1.0

    def __post_init__(self) -> None:
        MarginControl(lam=self.lam)
        PrincipalGradient(self.keep, self.lr)

    def client_update(self, **settings: Any) -> SGD:
        """Local training as published (rate 0.01, momentum 0.5, weight decay 5e-4, batches of 50, one epoch), but for
        the settings of :class:`SGD` given here."""
        settings = {"lr": 0.01, "momentum": 0.5, "weight_decay": 5e-4, "batch_size": 50} | settings
        return MarginControl(lam=self.lam, **settings) if self.margin else SGD(**settings)

    @property
    def rule(self) -> ServerRule:
        """What the server does."""
        return PrincipalGradient(self.keep, self.lr) if self.principal else FedAvg()

    def init(self, params: State) -> Any:
        return self.rule.init(params)

    def aggregate(
        self, state: Any, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Any]:
        return self.rule.aggregate(state, params, client_params, num_samples)
