"""AutoAttack, reduced: a cascade of attacks without parameters, for a reliable robust accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.attacks.apgd import auto_ascend
from landform.attacks.balls import Ball, Batch, LinfBall
from landform.attacks.checks import check_batch, check_count, check_labels, check_logits, check_models
from landform.attacks.gradient import InputGradient
from landform.attacks.losses import Labels, targeted_dlr_loss
from landform.attacks.square import square


@dataclass(frozen=True)
class RobustnessReport:
    """The accuracy that a model keeps under a cascade of attacks.

    Arguments:
        clean: the share of samples classified correctly as they are.
        per_attack: for each attack, in order, the share still correct once it and those before it are through.
        robust: the share correct under all of them.
        x_adv: for each sample an example that the model gets wrong, where one was found; the sample itself elsewhere.
        version: which cascade.
    """

    clean: float
    per_attack: dict[str, float]
    robust: float
    x_adv: Float[Tensor, "batch ..."]
    version: str = "reduced"

    def __str__(self) -> str:
        attacks = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.per_attack.items())
        return (
            f"AutoAttack ({self.version}, without FAB): clean {100 * self.clean:.1f} %, then {attacks}; "
            f"robust accuracy {100 * self.robust:.1f} %"
        )


def auto_attack(
    model: nn.Module,
    x: Batch,
    y: Labels,
    ball: Ball,
    version: Literal["reduced"] = "reduced",
    *,
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    batch_size: int = 250,
    generator: torch.Generator | None = None,
) -> RobustnessReport:
    """Accuracy under APGD on cross-entropy, then APGD on targeted DLR, then Square (Croce and Hein, arXiv 2003.01690).

    Each attack only sees the samples that are still classified correctly. This is AutoAttack's standard version without
    FAB-T, hence "reduced": its robust accuracy is an upper bound of the standard one, close in general. The targeted
    attack is run for each of the ``targets`` wrong classes (at most all) with the highest logits. It needs 4 classes;
    with 3, untargeted DLR takes its place, and with 2 there is none. Square is for images in an L-infinity ball, and
    left out elsewhere; ``per_attack`` names the attacks that were run.

    Arguments:
        model, x, y: as of :func:`~landform.attacks.pgd`.
        ball: where the examples stay.
        steps: of each APGD.
        queries: of Square.
        batch_size: samples attacked at once.
        generator: draws starts and squares.

    Raises:
        ValueError, TypeError: an unknown version, a count below 1, or as :func:`~landform.attacks.pgd` does.
    """
    if version != "reduced":
        raise ValueError(f"version={version!r}: must be 'reduced' (the standard version's FAB-T is not part of this)")
    check_models([model], "model")
    check_batch(x, y)
    check_count(steps=steps, targets=targets, queries=queries, batch_size=batch_size)
    logits = _logits(model, x, batch_size)
    check_logits(logits, x)
    check_labels(logits, y)

    correct = logits.argmax(1) == y
    clean = float(correct.double().mean())
    x_adv = x.detach().clone()
    per_attack = {}
    for name, attack in _cascade(model, x, logits, ball, steps, targets, queries, generator):
        for left in correct.nonzero().squeeze(1).split(batch_size):
            if len(left):
                found = attack(left, y[left])
                wrong = _logits(model, found, batch_size).argmax(1) != y[left]
                x_adv[left[wrong]], correct[left[wrong]] = found[wrong], False
        per_attack[name] = float(correct.double().mean())
    return RobustnessReport(clean, per_attack, float(correct.double().mean()), x_adv)


def _cascade(
    model: nn.Module,
    x: Batch,
    logits: Float[Tensor, "batch classes"],
    ball: Ball,
    steps: int,
    targets: int,
    queries: int,
    generator: torch.Generator | None,
) -> Iterator[tuple[str, Callable[[Tensor, Labels], Batch]]]:
    """The attacks' names, and the attacks themselves: from positions in the batch and their labels to examples."""
    classes = logits.shape[1]

    def ascend(gradient: InputGradient) -> Callable[[Tensor, Labels], Batch]:
        return lambda left, y: auto_ascend(gradient, x[left], y, ball, steps, generator=generator).x_fooled

    def towards_others(left: Tensor, y: Labels) -> Batch:
        best = logits[left].scatter(1, y[:, None], -torch.inf).topk(min(targets, classes - 1), dim=1).indices
        found, still = x[left].clone(), torch.ones_like(y, dtype=torch.bool)
        for target in best.unbind(1):
            own, wanted = y[still], target[still]

            def loss(z: Tensor, y: Tensor, wanted: Tensor = wanted) -> Tensor:
                return targeted_dlr_loss(z, y, wanted)

            ascent = auto_ascend(InputGradient(model, loss), x[left][still], own, ball, steps, generator=generator)
            found[still] = ascent.x_fooled
            still[still.clone()] = ~ascent.fooled
            if not bool(still.any()):
                break
        return found

    yield "apgd-ce", ascend(InputGradient(model, "ce"))
    if classes >= 4:
        yield "apgd-t", towards_others
    elif classes == 3:
        yield "apgd-dlr", ascend(InputGradient(model, "dlr"))
    if isinstance(ball, LinfBall) and x.ndim == 4:
        yield (
            "square",
            lambda left, y: square(model, x[left], y, ball=ball, queries=queries, generator=generator),
        )


@torch.no_grad()
def _logits(model: nn.Module, x: Batch, batch_size: int) -> Float[Tensor, "batch classes"]:
    return torch.cat([model(part) for part in x.detach().split(batch_size)])
