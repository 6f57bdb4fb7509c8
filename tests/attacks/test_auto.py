"""APGD, Square and the reduced AutoAttack: known optima, monotone searches, and a cascade that only goes down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landform.attacks import InputGradient, L2Ball, LinfBall, apgd, auto_attack, pgd, square
from landform.attacks.apgd import auto_ascend
from landform.attacks.square import square_side


def written_out(model, x, y, eps, steps, rho=0.75):
    """APGD on cross-entropy for one sample, from x itself, L-infinity; also the losses of the points visited."""

    def evaluate(z):
        leaf = z.clone().requires_grad_()
        loss = F.cross_entropy(model(leaf[None]), y[None])
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    def clip(z):
        return torch.min(torch.max(z, x - eps), x + eps).clamp(0, 1)

    at, before = x.clone(), x.clone()
    loss, g = evaluate(at)
    best = (loss, at, g)
    history, bests, eta, halved, best_then = [loss], [loss], 2 * eps, True, loss
    window, next_check = max(int(0.22 * steps), 1), max(int(0.22 * steps), 1)
    for t in range(1, steps + 1):
        a = 1 if t == 1 else 0.75
        z = clip(at + eta * g.sign())
        at, before = clip(at + a * (z - at) + (1 - a) * (at - before)), at
        loss, g = evaluate(at)
        history.append(loss)
        if loss > best[0]:
            best = (loss, at, g)
        bests.append(best[0])
        if t == next_check:
            rises = sum(history[i] > history[i - 1] for i in range(t - window + 1, t + 1))
            halve = rises <= rho * window or (not halved and best[0] <= best_then)
            if halve:
                eta, at, g = eta / 2, best[1], best[2]
            halved, best_then = halve, best[0]
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            next_check = t + window
    return best[1], bests


@pytest.mark.parametrize("steps", [1, 7, 30])
def test_apgd_is_the_algorithm_written_out(steps, model, batch):
    x, y = batch
    wavy = nn.Sequential(Wavy(), model).eval()  # so that the loss does fall at times
    found = apgd(wavy, x, y, ball=LinfBall(0.2), steps=steps, random_start=False)
    for one, start, label in zip(found, x, y, strict=True):
        expected, bests = written_out(wavy, start, label, 0.2, steps)
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-12)
        assert bests == sorted(bests)


class Wavy(nn.Module):
    def forward(self, x):
        return x + 0.3 * torch.sin(25 * x)


def test_more_steps_of_apgd_beat_pgd_with_a_poor_step(model, batch):
    x, y = batch
    wavy = InputGradient(nn.Sequential(Wavy(), model).eval())
    poor = pgd(wavy.model, x, y, ball=LinfBall(0.2), steps=50, step_size=0.35, random_start=False)
    ours = auto_ascend(wavy, x, y, LinfBall(0.2), 50, random_start=False)
    assert (ours.loss_best > wavy.evaluate(poor, y).losses).all()
    torch.testing.assert_close(wavy.evaluate(ours.x_best, y).losses, ours.loss_best, rtol=0, atol=1e-13)
    assert ours.fooled.any()
    assert (wavy.model(ours.x_fooled).argmax(1) != y)[ours.fooled].all()
    assert torch.equal(ours.x_fooled[~ours.fooled], x[~ours.fooled])


def test_a_linear_model_has_its_optimum_in_a_corner():
    linear = nn.Linear(8, 2).double().eval()
    x, y = torch.full((3, 8), 0.5, dtype=torch.float64), torch.tensor([0, 1, 0])
    w = linear.weight[1] - linear.weight[0]
    direction = torch.stack([w, -w, w]).detach()
    for loss in ("ce", "margin"):
        found = apgd(linear, x, y, ball=LinfBall(0.1), steps=20, loss=loss)
        torch.testing.assert_close(found, x + 0.1 * direction.sign(), rtol=0, atol=1e-12)
        found = apgd(linear, x, y, ball=L2Ball(0.1), steps=100, loss=loss)
        expected = x + 0.1 * direction / direction.norm(dim=1, keepdim=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_targeted_apgd(model, batch):
    x, _ = batch
    target = torch.tensor([1, 1, 2, 2])
    found = auto_ascend(InputGradient(model, targeted=True), x, target, LinfBall(0.2), 20, random_start=False)
    assert found.fooled.all()
    assert (model(found.x_fooled).argmax(1) == target).all()
    losses = F.cross_entropy(model(found.x_best), target, reduction="none")
    torch.testing.assert_close(found.loss_best, -losses, rtol=0, atol=1e-13)


def test_the_schedule_of_squares():
    # sides of a 100 × 100 image at some of 10,000 queries, with p = 0.8 halved 0, 1, 2, …, 9 times
    for query, halvings in ((0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (201, 3), (1001, 5), (8000, 8), (8001, 9)):
        assert square_side(query, 10_000, 0.8, 100, 100) == round(math.sqrt(0.8 / 2**halvings * 10_000))
    assert square_side(6, 5000, 0.8, 100, 100) == square_side(12, 10_000, 0.8, 100, 100)
    assert square_side(9999, 10_000, 0.8, 8, 8) == 1
    assert square_side(0, 10, 0.8, 4, 100) == 4


class Recording(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []
        self.eval()

    def forward(self, x):
        self.seen.append(x.clone())
        return self.model(x)


def test_square_climbs_the_margin_by_squares_in_the_corners_of_the_ball(model, batch):
    x = 0.3 + 0.4 * batch[0]  # so that the range does not cut squares
    y = model(x).argmax(1)
    recording = Recording(model)
    found = square(recording, x, y, ball=LinfBall(0.002), queries=40, generator=torch.Generator().manual_seed(0))
    stripes = recording.seen[0] - x
    torch.testing.assert_close(stripes.abs(), torch.full_like(x, 0.002), rtol=0, atol=1e-12)
    assert torch.equal(stripes.sign(), stripes[:, :, :1].sign().expand_as(stripes))  # vertical: rows are alike
    best, best_margin = recording.seen[0], margin(model, recording.seen[0], y)
    places = set()
    for query, tried in enumerate(recording.seen[1:]):
        assert len(tried) == len(x)  # none was fooled so near
        side = square_side(query, 40, 0.8, 6, 6)
        for one, old in zip(tried, best, strict=True):
            changed = ((one - old).abs() > 1e-9).any(0)
            assert changed.sum() <= side**2
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            if len(rows):
                assert max(rows.max() - rows.min(), columns.max() - columns.min()) < side
                places.add((query, int(rows.min()), int(columns.min())))
        better = margin(model, tried, y) < best_margin
        best = torch.where(better.view(-1, 1, 1, 1), tried, best)
        best_margin = margin(model, best, y)
    assert torch.equal(found, best)
    assert (best_margin < margin(model, recording.seen[0], y)).any()
    assert len({place[1:] for place in places}) > 10


def margin(model, x, y):
    z = model(x).detach()
    others = z.scatter(1, y[:, None], -torch.inf).amax(1)
    return z.gather(1, y[:, None]).squeeze(1) - others


def test_square_stops_asking_about_what_is_fooled(model, batch):
    x = batch[0]
    y = model(x).argmax(1)
    recording = Recording(model)
    found = square(recording, x, y, ball=LinfBall(0.5), queries=200, generator=torch.Generator().manual_seed(0))
    assert (model(found).argmax(1) != y).all()
    sizes = [len(seen) for seen in recording.seen[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) < 200


@pytest.mark.parametrize(
    ("classes", "shape", "ball", "attacks"),
    [
        (5, (2, 6, 6), LinfBall(0.03), ["apgd-ce", "apgd-t", "square"]),
        (3, (2, 6, 6), LinfBall(0.03), ["apgd-ce", "apgd-dlr", "square"]),
        (2, (2, 6, 6), LinfBall(0.15), ["apgd-ce", "square"]),
        (5, (2, 6, 6), L2Ball(0.2), ["apgd-ce", "apgd-t"]),
        (5, (72,), LinfBall(0.03), ["apgd-ce", "apgd-t"]),
    ],
)
def test_auto_attack_is_a_cascade(classes, shape, ball, attacks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 20), nn.Tanh(), nn.Linear(20, classes)).eval()
    x = torch.rand(60, *shape)
    y = model(x).argmax(1)
    y[:6] = (y[:6] + 1) % classes
    report = auto_attack(
        model, x, y, ball, steps=10, queries=30, batch_size=25, generator=torch.Generator().manual_seed(1)
    )
    assert list(report.per_attack) == attacks
    shares = [report.clean, *report.per_attack.values()]
    assert shares == sorted(shares, reverse=True)
    assert report.clean == pytest.approx(0.9)
    assert report.robust == shares[-1]
    assert 0 < report.robust < report.clean
    # what it says is what the model says of the examples
    assert float((model(report.x_adv).argmax(1) == y).double().mean()) == pytest.approx(report.robust)
    assert torch.equal(report.x_adv[:6], x[:6])
    order = float("inf") if isinstance(ball, LinfBall) else 2
    assert torch.linalg.vector_norm((report.x_adv - x).flatten(1), order, dim=1).max().item() <= ball.eps
    assert "reduced" in str(report)
    assert "FAB" in str(report)


def test_auto_attack_on_a_model_that_hides_its_gradients():
    """Rounded inputs have no gradient: APGD is blind, Square is not."""

    class Rounded(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model((x * 8).round() / 8 + 0 * x)

    torch.manual_seed(0)
    model = Rounded(nn.Sequential(nn.Flatten(), nn.Linear(72, 20), nn.Tanh(), nn.Linear(20, 5))).eval()
    x = torch.rand(40, 2, 6, 6)
    report = auto_attack(model, x, model(x).argmax(1), LinfBall(0.1), steps=10, queries=200)
    assert report.per_attack["square"] < report.per_attack["apgd-t"] - 0.1


def test_a_constant_model_is_as_robust_as_it_is_right(batch):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 3.0, 1.0, 2.0], dtype=x.dtype) + 0 * x.flatten(1).sum(1, keepdim=True)

    y = torch.tensor([1, 1, 1, 0])
    report = auto_attack(Constant().eval(), batch[0], y, LinfBall(0.3), steps=5, queries=5)
    assert report.clean == report.robust == 0.75
    assert torch.equal(report.x_adv, batch[0])


def test_targeted_dlr_finds_what_cross_entropy_does_not():
    """Of confident models cross-entropy has no gradient in float32; the ratio of logits has one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 20), nn.Tanh(), nn.Linear(20, 5))
    with torch.no_grad():
        net[-1].weight *= 1e4
    x = torch.rand(40, 2, 6, 6)
    report = auto_attack(net.eval(), x, net(x).argmax(1), LinfBall(0.05), steps=10, queries=1)
    assert report.per_attack["apgd-t"] < report.per_attack["apgd-ce"] - 0.1
