"""Selective distillation: the formula written out sample by sample, its gradient in closed form, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from landform.losses import SelectiveDistillationLoss


def softmax(z: list[float]) -> list[float]:
    top = max(z)
    powers = [math.exp(v - top) for v in z]
    return [v / sum(powers) for v in powers]


def entropy(z: list[float]) -> float:
    return -sum(p * math.log(p) for p in softmax(z))


def written_out(student, teacher, a, b, c, tau, e_max) -> list[float]:
    values = []
    for e, f in zip(student, teacher, strict=True):
        w_s, w_t = math.exp(e_max - entropy(e)), math.exp(e_max - entropy(f))
        p, q = softmax([v / tau for v in f]), softmax([v / tau for v in e])
        kl = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        ce = -math.log(softmax(e)[max(range(len(f)), key=f.__getitem__)])
        values.append(a * w_s * entropy(e) + b * tau**2 * w_t * kl + c * w_t * ce)
    return values


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("weights", [(1, 3, 3), (3, 3, 1), (0.5, 0, 2)])
def test_value_and_gradient_are_those_written_out(logits, weights, tau):
    student, teacher = logits
    a, b, c = weights
    e_max = 0.4 * math.log(5)
    loss = SelectiveDistillationLoss(a, b, c, tau, e_max, reduction="none")
    values = loss(student, teacher)
    expected = written_out(student.tolist(), teacher.tolist(), a, b, c, tau, e_max)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)

    values.mean().backward()
    p, q = student.detach().softmax(1), teacher.softmax(1)
    h, h_teacher = (-(r * r.log()).sum(1, keepdim=True) for r in (p, q))
    w_s, w_t = (e_max - h).exp(), (e_max - h_teacher).exp()
    answer = torch.nn.functional.one_hot(teacher.argmax(1), 5)
    slope = (
        a * w_s * -p * (p.log() + h)
        + b * tau * w_t * ((student.detach() / tau).softmax(1) - (teacher / tau).softmax(1))
        + c * w_t * (p - answer)
    )
    torch.testing.assert_close(student.grad, slope / 7, rtol=1e-12, atol=1e-12)


def test_equal_models_have_no_divergence(logits):
    student, _ = logits
    loss = SelectiveDistillationLoss(0, 1, 0, 1.0, 1.0)
    value = loss(student, student)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14)
    assert student.grad.abs().max() < 1e-14


def test_presets_and_defaults(logits):
    student, teacher = logits
    for preset, weights in (("paper", (1, 3, 3)), ("released", (3, 3, 1))):
        loss = SelectiveDistillationLoss.preset(preset, temperature=2.0, e_max=1.5)
        assert torch.equal(loss(student, teacher), SelectiveDistillationLoss(*weights, 2.0, 1.5)(student, teacher))
    assert torch.equal(
        SelectiveDistillationLoss()(student, teacher), SelectiveDistillationLoss.preset("paper")(student, teacher)
    )


def test_without_e_max_all_weigh_one(logits):
    student, teacher = logits
    found = SelectiveDistillationLoss(1, 0, 0)(student, teacher)
    p = student.softmax(1)
    torch.testing.assert_close(found, -(p * p.log()).sum(1).mean())
    assert torch.equal(SelectiveDistillationLoss().weight(torch.tensor([0.0, 2.0])), torch.ones(2))
    weight = SelectiveDistillationLoss(e_max=1.0).weight(torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(weight, torch.tensor([1.0, math.e, math.exp(-2)]))


def test_no_gradient_reaches_the_teacher(logits):
    student, teacher = logits
    teacher.requires_grad_()
    SelectiveDistillationLoss(e_max=1.0)(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"entropy_weight": -1}, "entropy_weight=-1"),
        ({"kl_weight": math.nan}, "kl_weight=nan"),
        ({"ce_weight": math.inf}, "ce_weight=inf"),
        ({"temperature": 0}, "temperature=0"),
        ({"e_max": 0}, "e_max=0"),
        ({"reduction": "max"}, "reduction='max'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        SelectiveDistillationLoss(**arguments)
    if "reduction" not in arguments:
        with pytest.raises(ValueError, match="preset='mine'"):
            SelectiveDistillationLoss.preset("mine")


def test_a_teacher_that_is_not_finite_is_refused(logits):
    student, teacher = logits
    teacher[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        SelectiveDistillationLoss()(student, teacher)
