"""The baselines of the label-noise literature against their formulas in plain arithmetic, limits and symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from landform.losses import (
    ClassificationLoss,
    CrammerSingerLoss,
    GCELoss,
    JSLoss,
    MAELoss,
    MSELoss,
    NCEandAGCELoss,
    NCEandAULLoss,
    NCEandRCELoss,
    RLLLoss,
    SCELoss,
    TruncatedGCELoss,
    WestonWatkinsLoss,
)

F64 = torch.float64
Formula = Callable[[list[float], list[float], int], float]


def nce(p: list[float], y: int) -> float:
    return -math.log(p[y]) / -sum(map(math.log, p))


def js(p: list[float], y: int, a: float, b: float) -> float:
    e = [float(k == y) for k in range(len(p))]
    m = [a * i + b * j for i, j in zip(e, p, strict=True)]

    def kl(q: list[float]) -> float:
        return sum(x * math.log(x / z) for x, z in zip(q, m, strict=True) if x > 0)

    return (a * kl(e) + b * kl(p)) / -((1 - a) * math.log(1 - a))


# Each with (logits, probabilities, label).
FORMULAS: dict[str, tuple[ClassificationLoss, Formula]] = {
    **{
        f"cs {c}": (
            CrammerSingerLoss(c),
            lambda f, p, y, c=c: max((c if k != y else 0) + f[k] - f[y] for k in range(len(f))),
        )
        for c in (0.1, 1.0, 10.0)
    },
    **{
        f"ww {c}": (
            WestonWatkinsLoss(c),
            lambda f, p, y, c=c: sum(max(0, (c if k != y else 0) + f[k] - f[y]) for k in range(len(f))) / len(f),
        )
        for c in (0.1, 1.0, 10.0)
    },
    **{f"gce {q}": (GCELoss(q), lambda f, p, y, q=q: (1 - p[y] ** q) / q) for q in (0.05, 0.7, 0.95)},
    **{
        f"sce {b}": (SCELoss(b), lambda f, p, y, b=b: -(1 - b) * math.log(p[y]) + b * 4 * (1 - p[y]))
        for b in (0.05, 0.5, 0.95)
    },
    **{
        f"rll {a}": (
            RLLLoss(a),
            lambda f, p, y, a=a: (
                -math.log(a + p[y]) + sum(math.log(a + p[k]) for k in range(len(p)) if k != y) / (len(p) - 1)
            ),
        )
        for a in (0.1, 1.0, 10.0)
    },
    **{f"js {a}": (JSLoss((a, 1 - a)), lambda f, p, y, a=a: js(p, y, a, 1 - a)) for a in (0.1, 0.5, 0.9)},
    "mae": (MAELoss(), lambda f, p, y: sum(abs((k == y) - p[k]) for k in range(len(p)))),
    "mse": (MSELoss(), lambda f, p, y: sum(((k == y) - p[k]) ** 2 for k in range(len(p)))),
    **{
        f"nce+rce {a}": (
            NCEandRCELoss(a, 10 - a),
            lambda f, p, y, a=a: (
                a * nce(p, y) - (10 - a) * sum(p[k] * math.log(max(float(k == y), 1e-4)) for k in range(len(p)))
            ),
        )
        for a in (0.1, 5.0, 9.9)
    },
    **{
        f"nce+aul {a}": (
            NCEandAULLoss(a, 10 - a),
            lambda f, p, y, a=a: a * nce(p, y) + (10 - a) * ((6 - p[y]) ** 1.5 - 5**1.5) / 1.5,
        )
        for a in (0.1, 5.0, 9.9)
    },
    **{
        f"nce+agce {a}": (
            NCEandAGCELoss(a, 10 - a),
            lambda f, p, y, a=a: a * nce(p, y) + (10 - a) * (4**1.5 - (3 + p[y]) ** 1.5) / 1.5,
        )
        for a in (0.1, 5.0, 9.9)
    },
}


def batch(classes: int = 5, size: int = 30, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, classes, generator=generator, dtype=F64)
    return logits, torch.randint(classes, (size,), generator=generator)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_is_the_formula(name: str, classes: int) -> None:
    loss, formula = FORMULAS[name]
    logits, target = batch(classes)
    probabilities = F.softmax(logits, dim=1)
    expected = [
        formula(f, p, y) for f, p, y in zip(*(t.tolist() for t in (logits, probabilities, target)), strict=True)
    ]
    torch.testing.assert_close(loss.psi(logits, target), torch.tensor(expected, dtype=F64), rtol=1e-11, atol=1e-13)
    assert loss(logits, target).item() == pytest.approx(sum(expected) / len(expected), rel=1e-11)


@pytest.mark.parametrize(
    "loss", [MAELoss(), GCELoss(1.0), NCEandRCELoss(), RLLLoss(), SCELoss(1.0)], ids=lambda loss: type(loss).__name__
)
def test_symmetric_losses_sum_to_a_constant_over_labels(loss: ClassificationLoss) -> None:
    logits, _ = batch()
    total = torch.stack([loss.psi(logits, torch.full((30,), y)) for y in range(5)]).sum(0)
    torch.testing.assert_close(total, total[0].expand(30), rtol=1e-12, atol=1e-12)


def test_gce_lies_between_cross_entropy_and_mae() -> None:
    logits, target = batch()
    torch.testing.assert_close(GCELoss(1e-9)(logits, target), F.cross_entropy(logits, target), rtol=1e-7, atol=0)
    torch.testing.assert_close(2 * GCELoss(1.0)(logits, target), MAELoss()(logits, target))


def test_js_is_bounded_and_has_its_limits() -> None:
    logits, target = batch()
    wrong = torch.tensor([[-1e4, 1e4]], dtype=F64)
    assert JSLoss()(wrong, torch.tensor([0])).item() == pytest.approx(2, rel=1e-14)
    assert JSLoss()(-wrong, torch.tensor([0])).item() == pytest.approx(0, abs=1e-14)
    each = JSLoss(reduction="none")(logits, target)
    assert ((each > 0) & (each < 2)).all()
    near = JSLoss((1e-8, 1 - 1e-8), reduction="none")(logits, target)
    torch.testing.assert_close(near, F.cross_entropy(logits, target, reduction="none"), rtol=1e-5, atol=1e-5)


# --- truncated GCE -----------------------------------------------------------------------------------------------


def test_truncated_gce_is_gce_until_it_prunes() -> None:
    logits, target = batch()
    index = torch.arange(30)
    loss = TruncatedGCELoss(40, 0.7, reduction="none")
    expected = GCELoss(0.7, reduction="none")(logits, target)
    torch.testing.assert_close(loss(logits, target, index), expected)
    loss.prune(logits, target, index)
    believed = F.softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1) > 0.5
    assert 3 < believed.sum() < 27
    torch.testing.assert_close(loss(logits, target, index), expected * believed)
    assert loss.weight[30:].tolist() == [1] * 10
    mean = TruncatedGCELoss(40, 0.7)
    mean.load_state_dict(loss.state_dict())
    torch.testing.assert_close(mean(logits, target, index), (expected * believed).sum() / 30)
    loss.prune(10 * F.one_hot(target, 5).double(), target, index)
    assert (loss.weight == 1).all()


def test_the_threshold_must_be_exceeded() -> None:
    loss = TruncatedGCELoss(2, threshold=0.25)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]], dtype=F64)
    loss.prune(logits - math.log(4), torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert loss.weight[1] == 1


def test_truncated_gce_names_bad_indices() -> None:
    loss = TruncatedGCELoss(3)
    for call in (loss, loss.prune):
        with pytest.raises(ValueError, match="index contain 3"):
            call(torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 3]))
    assert (loss.weight == 1).all()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: GCELoss(0.0), "q=0.0"),
        (lambda: GCELoss(1.1), "q=1.1"),
        (lambda: GCELoss(math.nan), "q=nan"),
        (lambda: TruncatedGCELoss(0), "num_samples=0"),
        (lambda: TruncatedGCELoss(2, threshold=1.0), "threshold=1.0"),
        (lambda: SCELoss(1.5), "balance=1.5"),
        (lambda: SCELoss(scale=math.inf), "scale=inf"),
        (lambda: RLLLoss(0.0), "a=0.0"),
        (lambda: JSLoss((0.5, 0.6)), "weights="),
        (lambda: JSLoss((0.0, 1.0)), "weights="),
        (lambda: JSLoss((math.nan, 0.5)), "weights="),
        (lambda: NCEandRCELoss(-1.0), "alpha=-1"),
        (lambda: NCEandAULLoss(a=1.0), "a=1.0"),
        (lambda: NCEandAGCELoss(q=0.0), "q=0.0"),
        (lambda: CrammerSingerLoss(-1.0), "margin=-1"),
        (lambda: WestonWatkinsLoss(math.nan), "margin=nan"),
    ],
)
def test_bad_arguments_are_named(build: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()
