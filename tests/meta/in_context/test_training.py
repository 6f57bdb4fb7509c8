"""Meta-training, its transition, curves and regimes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from landform.meta import (
    ICLLSTM,
    ICLTransformer,
    InContextCurve,
    SequenceSampler,
    TaskAugmentation,
    classify_regime,
    in_context_curve,
    meta_train,
    prefix_nearest_neighbour,
    transition_step,
)


def blobs():
    y = torch.arange(60) % 2
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * 0.1 + F.one_hot(y, 2) - 0.5
    return TensorDataset(x, y)


def sampler(n_tasks=None, split="seen", seed=0, length=6, **options):
    tasks = TaskAugmentation(n_tasks, 2, 2, seed, **options)
    return SequenceSampler(blobs(), tasks, length, split, generator=torch.Generator().manual_seed(seed))


def model():
    torch.manual_seed(0)
    return ICLTransformer(d_model=8, n_layer=1, n_head=2, d_ff=16, max_len=6)


def curve(start, end, n=2000):
    """Accuracies that rise in a line, exactly."""
    shares = torch.linspace(start, end, 12)
    shares[-5:] = end
    return InContextCurve(torch.arange(n).unsqueeze(1) < (n * shares).round())


def test_training_is_clipped_adam_on_every_position():
    trained = model()
    result = meta_train(trained, sampler(), 4, lr=0.01, batch=8, clip=0.05, log_every=2)
    plain = model()
    source = sampler()
    optimizer, losses = None, []
    for _ in range(4):
        x, prev_y, y = source(8)
        log_p = plain(x, prev_y).log_softmax(2)
        loss = -sum(log_p[b, t, y[b, t]] for b in range(8) for t in range(6)) / 48
        optimizer = optimizer or torch.optim.Adam(plain.parameters(), lr=0.01)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in plain.parameters()]).norm()
        assert norm > 0.05
        for p in plain.parameters():
            p.grad *= 0.05 / norm
        optimizer.step()
        losses.append(loss.item())
    assert result.losses.tolist() == pytest.approx(losses, rel=1e-4)
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-4)
    assert result.logged == (0, 2, 4)
    assert result.transition_step is None


def test_the_transition_is_found_on_unseen_tasks_and_ends_the_training_if_asked():
    torch.manual_seed(1)
    learner = ICLLSTM(32)
    result = meta_train(
        learner,
        sampler(projection="orthogonal"),
        400,
        lr=0.01,
        batch=32,
        log_every=20,
        probe=sampler(split="unseen", seed=5, projection="orthogonal"),
        probes=400,
        stop=True,
    )
    assert abs(result.learning[0]) < 0.1
    assert result.transition_step == result.logged[-1] < 400
    assert len(result.losses) == result.transition_step
    assert all(rise <= 0.1 for rise in result.learning[:-1])
    assert result.learning[-1] > 0.1


def test_an_untrained_model_is_at_chance_at_every_position():
    found = in_context_curve(model(), sampler(split="unseen"), 3000)
    assert ((found.accuracy - 0.5).abs() < 4 * 0.5 / 3000**0.5).all()
    assert abs(found.learning.value) < 4 * (0.5 / 3000) ** 0.5


def test_the_first_position_says_nothing_however_good_the_learner():
    found = in_context_curve(
        prefix_nearest_neighbour, sampler(split="unseen", length=20, projection="orthogonal"), 3000
    )
    assert abs(found.accuracy[0] - 0.5) < 4 * 0.5 / 3000**0.5
    assert found.final.low > 0.95


def test_intervals_are_those_of_the_mean_over_sequences():
    correct = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)) < 0.6
    found = InContextCurve(correct)
    last = correct[:, -5:].double().mean(1)
    t = 2.0095752371292397  # Student's 97.5 % quantile with 49 degrees of freedom
    assert found.final.value == pytest.approx(last.mean().item())
    assert found.final.high - found.final.value == pytest.approx(t * last.std().item() / math.sqrt(50))
    rise = correct[:, -1].double() - correct[:, 0].double()
    assert found.learning.value == pytest.approx((found.accuracy[-1] - found.accuracy[0]).item())
    assert found.learning.value - found.learning.low == pytest.approx(t * rise.std().item() / math.sqrt(50))
    assert found.half_width[2].item() == pytest.approx(t * correct[:, 2].double().std().item() / math.sqrt(50))


def test_a_model_keeps_its_mode_and_is_evaluated_in_evaluation_mode():
    modes = []

    class Spy(torch.nn.Module):
        def forward(self, x, prev_y):
            modes.append((self.training, torch.is_grad_enabled()))
            return prev_y

    spy = Spy()
    in_context_curve(spy, sampler(), 5, chunk=2)
    assert modes == [(False, False)] * 3
    assert spy.training


@pytest.mark.parametrize(
    ("seen", "unseen", "regime"),
    [
        ((0.9, 0.92), (0.33, 0.34), "instance memorisation"),
        ((0.4, 0.8), (0.33, 0.36), "task identification"),
        ((0.9, 0.92), (0.8, 0.8), "zero-shot generalisation"),
        ((0.35, 0.7), (0.34, 0.65), "general learning"),
    ],
)
def test_regimes(seen, unseen, regime):
    assert classify_regime(curve(*seen), curve(*unseen), 1 / 3) == regime


def test_a_rise_within_its_interval_does_not_count():
    seen, unseen = curve(0.33, 0.42, n=100), curve(0.33, 0.45, n=100)
    assert classify_regime(seen, unseen, 1 / 3) == "instance memorisation"
    assert classify_regime(curve(0.33, 0.42, n=20_000), curve(0.33, 0.45, n=20_000), 1 / 3) == "general learning"


def test_transition_steps():
    assert transition_step([0, 10, 20], [0.0, 0.1, 0.11]) == 20
    assert transition_step([0, 10, 20], torch.tensor([0.0, 0.1, 0.09])) is None
    assert transition_step([0, 10, 20], [0.0, 0.3, 0.09], threshold=0.2) == 10
    with pytest.raises(ValueError, match="2 and 1 of them"):
        transition_step([0, 1], [0.0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch": 0}, "batch=0"),
        ({"lr": 0.0}, "lr=0"),
        ({"clip": -1.0}, "clip=-1"),
        ({"eps": 0.0}, "eps=0"),
        ({"stop": True}, "stop=True"),
    ],
)
def test_impossible_trainings_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        meta_train(**{"model": model(), "sampler": sampler(), "steps": 2, **change})


def test_impossible_evaluations_are_refused():
    with pytest.raises(ValueError, match="n=1"):
        in_context_curve(model(), sampler(), 1)
    with pytest.raises(ValueError, match="scores"):
        in_context_curve(lambda x, prev_y: prev_y / 0, sampler(), 3)
    with pytest.raises(ValueError, match="chance=0"):
        classify_regime(curve(0.3, 0.4), curve(0.3, 0.4), 0)
