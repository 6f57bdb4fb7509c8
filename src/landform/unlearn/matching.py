"""Datamodel matching: fine-tune until the outputs are what a retrained model's are predicted to be."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from landform.training.many import StackedAdamW
from landform.unlearn.passes import AfterEpoch, ModelT, Pupils, check_counts

MatchingLoss = Literal["mse", "ce"]

RELEASED_SEED = 42


def unlearn_by_matching(
    model: ModelT,
    targets: Float[Tensor, "models points classes"] | Float[Tensor, "points classes"],
    forget: Shaped[Tensor, "forgotten ..."],
    retain_pool: Shaped[Tensor, "pool ..."],
    forget_multiplier: float = 5.0,
    retain_multiplier: float = 20.0,
    epochs: int = 4,
    lr: float = 1e-4,
    batch_size: int = 512,
    loss: MatchingLoss = "mse",
    anchor: float = 0.0,
    generator: torch.Generator | None = None,
    *,
    lr_decay: float = 0.95,
    after_epoch: AfterEpoch | None = None,
) -> ModelT:
    """Fine-tune a model, or a stack of models, so that its outputs match given ones on forgotten and on other points.

        minimise  mean over points and logits of (f_x(θ) − h_x)²  +  anchor · ‖θ − θ0‖²

    over the forget points, ``forget_multiplier`` times each, and ``retain_multiplier`` as many points of the pool,
    drawn once without replacement; with ``"ce"`` the first term is the cross-entropy to softmax(h_x), averaged over
    points. Adam, whose learning rate is multiplied by ``lr_decay`` after each epoch.

    With targets of :func:`predict_deletion` this is datamodel matching (DMM); with the logits of retrained models, or
    their mean over several, it is oracle matching (OM), an upper reference. Matching has the retrained outputs as its
    unique minimum, where ascent has no fixed point and descent on the retained points no gradient. Targets must come
    from a copy in evaluation mode. The mean square of logits sees their shift, which softmax ignores: give targets with
    the model's own, or logits that are centred (:func:`centred`) throughout.

    Source: arXiv 2410.23232, section 4 and the released configuration, whose settings are the defaults.

    Arguments:
        model: left as it was. Its copy is trained in the model's present mode: in training mode batch normalisation
            uses the batch's statistics, as in the released code.
        targets: h at the forget points and then at the pool, (F + R, K); for a stack also (M, F + R, K), its models'
            own. Matching all models of an ensemble to one oracle would lose the spread over seeds.
        forget, retain_pool: the inputs, (F, …) and (R, …).
        forget_multiplier: of the forget points; a fraction repeats the first of them once more.
        retain_multiplier: of the number of forget points; at most the pool is taken.
        anchor: w, zero or more.
        generator: draws the pool's part and the shuffles; a new one of seed 42 if None, as in the released code.
        after_epoch: called with the number of each epoch that has ended and the model as it is then.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or settings out of range.
        TypeError: a model that is neither a module nor a :class:`Stack`.

    >>> from torch import nn
    >>> net, x = nn.Linear(3, 2), torch.randn(12, 3)
    >>> same = unlearn_by_matching(net, net(x).detach(), x[:2], x[2:])
    >>> torch.equal(same.weight, net.weight)
    True
    """
    check_counts(epochs=epochs, batch_size=batch_size)
    if loss not in get_args(MatchingLoss):
        raise ValueError(f"loss={loss!r}: must be one of {', '.join(map(repr, get_args(MatchingLoss)))}")
    for name, value in (("retain_multiplier", retain_multiplier), ("anchor", anchor)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value}: must be finite, and zero or more")
    for name, value in (("forget_multiplier", forget_multiplier), ("lr_decay", lr_decay)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value}: must be positive and finite")
    if len(forget) == 0 or forget.shape[1:] != retain_pool.shape[1:]:
        raise ValueError(
            f"forget of shape {tuple(forget.shape)} and retain_pool of shape {tuple(retain_pool.shape)}: need at least "
            "one forget point, and inputs of one shape"
        )
    if generator is None:
        generator = torch.Generator().manual_seed(RELEASED_SEED)
    pupils = Pupils(model, generator)
    points = torch.cat([forget, retain_pool])
    h = targets.detach().expand(len(pupils.stack), -1, -1) if targets.ndim == 2 else targets.detach()
    if h.ndim != 3 or h.shape[:2] != (len(pupils.stack), len(points)):
        raise ValueError(
            f"targets: have shape {tuple(targets.shape)}, must be ({len(points)}, K), or ({len(pupils.stack)}, "
            f"{len(points)}, K) for the {len(pupils.stack)} models"
        )
    if not bool(h.isfinite().all()):
        raise ValueError(f"targets: {int((~h.isfinite()).sum())} values are not finite")

    rows = matched_rows(len(forget), len(retain_pool), forget_multiplier, retain_multiplier, generator)
    x, h = points[rows.to(points.device)], h[:, rows.to(h.device)]
    if loss == "ce":
        h = h.softmax(-1)
    start = [p.detach().clone() for p in pupils.trained]
    models = torch.arange(len(h), device=h.device).unsqueeze(1)

    def distance(outputs: Tensor, index: Tensor) -> Tensor:
        target = h[models, index]
        if loss == "ce":
            value = -(target * F.log_softmax(outputs, -1)).sum(-1).mean(1)
        else:
            value = (outputs - target).square().flatten(1).mean(1)
        if anchor:
            moved = [(p - p0).square().flatten(1).sum(1) for p, p0 in zip(pupils.trained, start, strict=True)]
            value = value + anchor * torch.stack(moved).sum(0)
        return value

    optimizer = StackedAdamW(pupils.trained, lr, weight_decay=0.0)
    for epoch in range(1, epochs + 1):
        pupils.pass_over(x, batch_size, optimizer, distance)
        optimizer.param_groups[0]["lr"] *= lr_decay
        if after_epoch is not None:
            after_epoch(epoch, pupils.model)
    return pupils.model


def matched_rows(
    forget: int, pool: int, forget_multiplier: float, retain_multiplier: float, generator: torch.Generator
) -> Tensor:
    """Positions, among the forget points and then the pool, of what an epoch of matching goes over."""
    repeats, others = (int(m * forget + 1e-9) for m in (forget_multiplier, retain_multiplier))  # 0.29 · 100 is 28.99…
    again = torch.arange(repeats) % forget
    return torch.cat([again, forget + torch.randperm(pool, generator=generator)[:others]])
