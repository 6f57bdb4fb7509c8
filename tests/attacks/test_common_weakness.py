"""The common weakness attack: against the algorithm written out, its limits, and why the encourager encourages."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landform.attacks import (
    DiverseInput,
    EnsembleLogits,
    InputGradient,
    IterativeAttack,
    L2Ball,
    LinfBall,
    MomentumIterative,
    ScaleInvariant,
    TranslationInvariant,
    adam_common_weakness_attack,
    common_weakness_attack,
    gradient_cosine,
    scaled_inner_step,
    svre,
)
from landform.attacks.common_weakness import _encourage
from landform.attacks.transforms import transformed

EPS = 0.12


def gradient(logits_of, x, y):
    """Sample by sample."""
    rows = []
    for one, label in zip(x, y, strict=True):
        leaf = one[None].clone().requires_grad_()
        F.cross_entropy(logits_of(leaf), label[None]).backward()
        rows.append(leaf.grad[0])
    return torch.stack(rows)


def clip(z, x):
    return torch.min(torch.max(z, x - EPS), x + EPS).clamp(0, 1)


def norm(d, order):
    return d.flatten(1).norm(order, dim=1).view(-1, 1, 1, 1)


def written_out(models, x, y, steps, beta, *, reverse=EPS / 15, mu=1.0, sign=1, reduce="mean", batch=False, adam=None):
    """Algorithm 1 of the paper, with the normalisations of its code."""

    def joint(z):
        total = sum(model(z) for model in models)
        return total / len(models) if reduce == "mean" else total

    x_t, m, inner = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(steps):
        z = clip(x_t - reverse * (sign * gradient(joint, x_t, y)).sign(), x) if reverse is not None else x_t
        for model in models:
            g = sign * gradient(model, z, y)
            inner = mu * inner + g / norm(g, 2)
            z = clip(z + beta * inner, x)
        d = z - x_t
        if adam is None:
            m = mu * m + d / (d.abs().sum() if batch else norm(d, 1))
            x_t = clip(x_t + EPS / 5 * m.sign(), x)
        else:
            first, second = 0.9 * first + 0.1 * d, 0.999 * second + 0.001 * d**2
            corrected = second / (1 - 0.999 ** (t + 1))
            x_t = clip(x_t + adam * first / (1 - 0.9 ** (t + 1)) / (corrected.sqrt() + 1e-8), x)
    return x_t


CASES = {
    "cwa": ({}, {}),
    "cwa as in the code": ({"reduce": "sum", "outer_norm": "batch"}, {"reduce": "sum", "batch": True}),
    "targeted": ({"targeted": True}, {"sign": -1}),
    "less momentum": ({"momentum": 0.6}, {"mu": 0.6}),
    "mi-cse": ({"sam": False}, {"reverse": None}),
    "longer reverse step": ({"reverse_step": 0.06}, {"reverse": 0.06}),
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("beta", [0.05, 0.4, 50.0])
def test_it_is_the_algorithm_written_out(case, beta, models, batch):
    options, written = CASES[case]
    found = common_weakness_attack(models, *batch, ball=LinfBall(EPS), steps=4, inner_step=beta, **options)
    torch.testing.assert_close(found, written_out(models, *batch, 4, beta, **written), rtol=0, atol=1e-12)


def test_variants_differ(models, batch):
    """So that the cases above tell them apart."""
    found = [
        common_weakness_attack(models, *batch, ball=LinfBall(EPS), steps=4, inner_step=0.4, **options)
        for options, _ in CASES.values()
    ]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


def test_adam_is_the_algorithm_written_out(models, batch):
    found = adam_common_weakness_attack(models, *batch, ball=LinfBall(EPS), steps=6, step_size=0.01, inner_step=0.4)
    torch.testing.assert_close(found, written_out(models, *batch, 6, 0.4, adam=0.01), rtol=0, atol=1e-9)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_without_its_parts_it_is_mi_fgsm_bit_for_bit(reduce, models, batch):
    joint = InputGradient(EnsembleLogits(models, reduce))
    expected = IterativeAttack(joint, [], MomentumIterative(), LinfBall(EPS), steps=5, step_size=EPS / 5)(*batch)
    for options in ({"sam": False, "cse": False}, {"sam": True, "reverse_step": 0.0, "cse": False}):
        found = common_weakness_attack(models, *batch, ball=LinfBall(EPS), steps=5, reduce=reduce, **options)
        assert torch.equal(found, expected)


def test_mi_sam_takes_its_gradient_a_step_back(models, batch):
    x, y = batch

    def joint(z):
        return sum(model(z) for model in models) / len(models)

    x_t, m = x.clone(), torch.zeros_like(x)
    for _ in range(4):
        back = x_t - 0.05 * gradient(joint, x_t, y).sign()  # not projected
        g = gradient(joint, back, y)
        m = m + g / norm(g, 1)
        x_t = clip(x_t + EPS / 5 * m.sign(), x)
    found = common_weakness_attack(models, x, y, ball=LinfBall(EPS), steps=4, cse=False, reverse_step=0.05)
    torch.testing.assert_close(found, x_t, rtol=0, atol=1e-14)


def test_one_model_and_a_small_inner_step_is_the_first_step_of_mi_fgsm(model, batch):
    joint = InputGradient(model)
    expected = IterativeAttack(joint, [], MomentumIterative(), LinfBall(EPS), steps=1, step_size=EPS / 5)(*batch)
    found = common_weakness_attack([model], *batch, ball=LinfBall(EPS), steps=1, reverse_step=0.0, inner_step=1e-6)
    # at the edge of [0, 1] the inner step is clipped, and d = 0 leaves those pixels where MI-FGSM would project them to
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_sequential_steps_follow_the_gradient_of_the_dot_product():
    """On quadratics, over both orders: sequential minus joint steps = ½ β² ∇(g_1ᵀ g_2), exactly."""
    generator = torch.Generator().manual_seed(0)
    halves = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    hessians = halves + halves.mT
    optima = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    x, beta = torch.randn(1, 6, dtype=torch.float64, generator=generator).requires_grad_(), 0.3
    fields = [lambda z, y, h=h, p=p: (z - p) @ h for h, p in zip(hessians, optima, strict=True)]
    ends = [_encourage(order, x, torch.zeros(1), beta, lambda g: g, lambda z: z) for order in (fields, fields[::-1])]
    together = x + beta * (fields[0](x, None) + fields[1](x, None))
    (slope,) = torch.autograd.grad((fields[0](x, None) * fields[1](x, None)).sum(), x)
    torch.testing.assert_close((ends[0] + ends[1]) / 2 - together, beta**2 / 2 * slope, rtol=0, atol=1e-12)


class Scaled(nn.Module):
    """A model whose logits, or else whose gradient alone, are multiplied."""

    def __init__(self, model: nn.Module, logits: float = 1.0, gradient: float = 1.0) -> None:
        super().__init__()
        self.model, self.logits, self.gradient = model, logits, gradient
        self.eval()

    def forward(self, x):
        z = self.logits * self.model(x)
        return self.gradient * z + (1 - self.gradient) * z.detach()


def test_the_scale_of_a_gradient_does_not_matter_to_the_encourager(models, batch):
    options = {"ball": LinfBall(EPS), "steps": 3, "inner_step": 0.4}
    plain = common_weakness_attack(models, *batch, sam=False, **options)
    steep = [Scaled(models[0], gradient=30.0), *models[1:]]
    torch.testing.assert_close(common_weakness_attack(steep, *batch, sam=False, **options), plain, rtol=0, atol=1e-9)
    loud = [Scaled(models[0], logits=30.0), *models[1:]]
    joint = [InputGradient(EnsembleLogits(each))(*batch) for each in (models, loud)]
    assert F.cosine_similarity(joint[0].flatten(1), joint[1].flatten(1)).max() < 0.99


def test_the_encourager_makes_gradients_agree(models, batch):
    """Following only what the sequence adds to a joint step raises the cosine of the models' gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 2, 6, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(5, (64,), generator=generator)
    curved = [nn.Sequential(Bent(), model).eval() for model in models]
    start = gradient_cosine(curved, x, y)
    fields = [InputGradient(model) for model in curved]
    z = x.clone()
    for _ in range(40):
        steps = [
            _encourage(order, z, y, 0.3, lambda g: g / norm(g, 2), lambda z: z) for order in (fields, fields[::-1])
        ]
        unit = [f(z, y) / norm(f(z, y), 2) for f in fields]
        added = (steps[0] + steps[1]) / 2 - z - 0.3 * sum(unit)  # by the sequence to the joint step
        z = (z + 4 * added).clamp(0, 1)
    assert gradient_cosine(curved, z, y) > start + 0.05


class Bent(nn.Module):
    def forward(self, x):
        return torch.sin(3 * x)


def test_transforms_reach_the_inner_gradients(models, batch):
    x, y = batch
    smooth = TranslationInvariant(3)
    transforms = [ScaleInvariant(3), smooth]
    x_t, m, inner = x.clone(), torch.zeros_like(x), torch.zeros_like(x)

    def joint(z):
        return sum(model(z) for model in models) / len(models)

    for _ in range(2):
        z = clip(x_t - EPS / 15 * smooth(gradient(joint, x_t, y)).sign(), x)
        for model in models:
            g = smooth(sum(gradient(model, z / 2**s, y) / 2**s for s in range(3)) / 3)
            inner = inner + g / norm(g, 2)
            z = clip(z + 0.4 * inner, x)
        d = z - x_t
        m = m + d / norm(d, 1)
        x_t = clip(x_t + EPS / 5 * m.sign(), x)
    found = common_weakness_attack(models, x, y, ball=LinfBall(EPS), steps=2, inner_step=0.4, transforms=transforms)
    torch.testing.assert_close(found, x_t, rtol=0, atol=1e-12)


def test_a_saturated_model_gives_its_turn_away(models, batch):
    """Its gradients are exactly zero in float32; the others still move the examples."""
    x, y = batch[0].float(), batch[1]
    float32 = [model.float() for model in models]
    right = (float32[0](x).argmax(1) == y).nonzero().squeeze(1)
    y = float32[0](x).argmax(1) if len(right) < len(y) else y
    sure = Scaled(float32[0], logits=1e5)
    assert (InputGradient(sure)(x, y) == 0).all()
    alone = common_weakness_attack([sure], x, y, ball=LinfBall(EPS), steps=2)
    assert torch.equal(alone, x)
    found = common_weakness_attack([sure, float32[1]], x, y, ball=LinfBall(EPS), steps=2, sam=False)
    assert (found != x).any()


def test_scaled_inner_step():
    assert scaled_inner_step(150_528) == 50
    assert scaled_inner_step(3072) == pytest.approx(7.14, abs=0.01)


def test_svre_is_the_algorithm_written_out(models, batch):
    x, y = batch
    order = torch.Generator().manual_seed(9)
    x_t, outer = x.clone(), torch.zeros_like(x)
    for _ in range(3):
        mean = sum(gradient(model, x_t, y) for model in models) / 3
        z, inner = x_t.clone(), torch.zeros_like(x)
        for k in torch.randint(3, (12,), generator=order).tolist():
            u = gradient(models[k], z, y) - (gradient(models[k], x_t, y) - mean)
            inner = 0.9 * inner + u
            z = clip(z + EPS / 10 * inner.sign(), x)
        outer = 0.9 * outer + inner
        x_t = clip(x_t + EPS / 10 * outer.sign(), x)
    generator = torch.Generator().manual_seed(9)
    found = svre(models, x, y, ball=LinfBall(EPS), steps=3, momentum=0.9, generator=generator)
    torch.testing.assert_close(found, x_t, rtol=0, atol=1e-13)


def test_euclidean_balls_step_by_normalised_momentum(models, batch):
    x, y = batch
    found = common_weakness_attack(models, x, y, ball=L2Ball(0.5), steps=1, inner_step=0.01, reverse_step=0.0)
    z, inner = x.clone(), torch.zeros_like(x)
    for model in models:
        g = gradient(model, z, y)
        inner = inner + g / norm(g, 2)
        z = (z + 0.01 * inner).clamp(0, 1)
    d = z - x
    torch.testing.assert_close(found, (x + 0.1 * d / norm(d, 2)).clamp(0, 1), rtol=0, atol=1e-9)


def test_diverse_input_is_drawn_anew_for_each_gradient(model, batch):
    seen = []

    def spy(z, y):
        seen.append(z.clone())
        return z

    diverse = DiverseInput(p=1.0, smallest=0.5, generator=torch.Generator().manual_seed(0))
    through = transformed(spy, [diverse])
    for _ in range(3):
        through(*batch)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
