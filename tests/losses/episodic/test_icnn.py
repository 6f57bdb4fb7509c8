"""The ICNN score: against the published steps done point by point, at its ends, under symmetries, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from landform.losses.episodic import ICNNLoss, icnn_score


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stepwise(x, y, target=None, target_y=None, k=4, search=None, drop=True) -> float:
    """The score by its steps, one point after another; ``drop`` the first neighbour."""
    own = target is None
    target, target_y = (x, y) if own else (target, target_y)
    m = len(target)
    certain = k + 2 >= m
    k = m - 2 if certain else k
    search = k + 1 if search is None else search
    neighbours = []
    for i in range(len(x)):
        found = sorted((math.sqrt(float((x[i] - t).square().sum()) + 1e-6), j) for j, t in enumerate(target))
        if own:
            found = [(d, j) for d, j in found if j != i]
        elif drop:
            found = found[1:]
        neighbours.append([(d, bool(target_y[j] == y[i])) for d, j in found[:search]])
    intra, inter, purity = [], [], []
    strangers = [d for row in neighbours for d, same in row[:k] if not same]
    for row in neighbours:
        r = min((d for d, same in row if not same), default=math.inf)
        u = [d / (r + 1e-7) for d, _ in row[:k]]
        u = [value / max(1, *u) for value in u]
        same = [value for value, (_, s) in zip(u, row[:k], strict=True) if s]
        other = [d / max(strangers) for d, s in row[:k] if not s]
        if same:
            intra.append(sum(same) / len(same))
        if other:
            inter.append(sum(other) / len(other))
        purity.append(len(same) / k)
    lambda_s = 1 - (sum(intra) / len(intra) if intra else 0)
    lambda_o = sum(inter) / len(inter) if inter else 1
    gamma = 1 if certain else sum(purity) / len(purity)
    return ((lambda_s + lambda_o) / 2 + gamma) / 2


def episode(n_way: int, each: int, spread: float = 1.0, gap: float = 1.0, seed: int = 0):
    centres = gap * randn(n_way, 6, seed=seed)
    y = torch.arange(n_way).repeat_interleave(each)
    return centres[y] + spread * randn(n_way * each, 6, seed=seed + 100), y


@pytest.mark.parametrize("k", [1, 3, 4, 13, 50])
@pytest.mark.parametrize("search", [None, 5, 15])
def test_it_is_what_the_steps_give_point_by_point(k, search):
    if search is not None and search < k:
        pytest.skip("search is at least k")
    for seed, gap in enumerate((0.0, 0.7, 3.0)):
        x, y = episode(3, 5, gap=gap, seed=seed)
        order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
        x, y = x[order], y[order]
        allowed = None if search is None else min(search, 14)
        assert float(icnn_score(x, y, k=k, search=search)) == pytest.approx(
            stepwise(x, y, k=k, search=allowed), abs=1e-13
        )


@pytest.mark.parametrize("drop", [True, False])
def test_with_targets_of_their_own(drop):
    x, y = episode(3, 4, seed=3)
    target, target_y = episode(3, 3, seed=4)
    for k in (1, 4):
        found = icnn_score(x, y, target, target_y, k=k, exclude_self="first" if drop else False)
        assert float(found) == pytest.approx(stepwise(x, y, target, target_y, k=k, drop=drop), abs=1e-13)
    default = icnn_score(x, y, target, target_y)
    assert torch.equal(default, icnn_score(x, y, target, target_y, exclude_self=False))
    assert torch.equal(icnn_score(x, y), icnn_score(x, y, x, y, exclude_self=True))


def test_tight_clusters_far_apart_are_perfect():
    y = torch.arange(4).repeat_interleave(6)
    losses = []
    for spread in (1e-1, 1e-2):
        x = 100 * torch.eye(4, 6, dtype=torch.float64)[y] + spread * randn(24, 6)
        score = icnn_score(x, y, k=4, search=6)
        # gamma = lambda_o = 1, so that score = 1 − (1 − lambda_s)/4, and 1 − lambda_s is of the order spread/gap
        lambda_s = 4 * float(score) - 3
        assert 0 < 1 - lambda_s < 0.1 * spread
        losses.append(float(ICNNLoss()(x, y)))
    assert losses[0] / losses[1] == pytest.approx(10, rel=0.05)


def test_all_labels_distinct():
    x = randn(12, 3)
    nearest = (torch.cdist(x, x).square() + 1e-6).sqrt().sort(1).values[:, 1:5]
    expected = (1 + float((nearest / nearest.max()).mean())) / 4
    assert float(icnn_score(x, torch.arange(12))) == pytest.approx(expected, abs=1e-12)
    assert expected < 0.5


def test_a_single_class_and_few_targets():
    x = randn(8, 3)
    # One class: no r_i, so u = 0 and lambda_s = lambda_o = gamma = 1.
    assert float(icnn_score(x, torch.zeros(8, dtype=torch.long))) == 1
    # Five classes of one shot: k is cut to 3 and gamma is 1; classes are only pushed apart.
    distinct = icnn_score(x[:5], torch.arange(5))
    nearest = (torch.cdist(x[:5], x[:5]).square() + 1e-6).sqrt().sort(1).values[:, 1:4]
    assert float(distinct) == pytest.approx((1 + (1 + float((nearest / nearest.max()).mean())) / 2) / 2, abs=1e-12)


def test_rotation_translation_and_scale_change_nothing():
    x, y = episode(4, 5)
    value = icnn_score(x, y)
    turn = torch.linalg.qr(randn(6, 6, seed=2))[0]
    torch.testing.assert_close(icnn_score(x @ turn - 7, y), value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(icnn_score(30 * x, y), value, rtol=1e-5, atol=1e-5)  # up to the 1e-6 under the root
    relabelled = torch.tensor([40, -3, 7, 0])[y]
    assert torch.equal(icnn_score(x, relabelled), value)


def test_a_duplicate_of_another_class_counts_as_a_neighbour():
    """The point itself is left out, whichever of two at the same place comes first."""
    x = torch.tensor([[0.0], [0.0], [1.0], [10.0], [10.5], [12.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 0, 1, 1])
    expected = stepwise(x, y, k=2)
    assert float(icnn_score(x, y, k=2)) == pytest.approx(expected, abs=1e-13)
    x.requires_grad_()
    assert torch.autograd.grad(icnn_score(x, y, k=2), x)[0].isfinite().all()


@pytest.mark.parametrize("scope", ["full", "support", "query"])
def test_the_gradient_is_that_of_finite_differences(scope):
    x, y = episode(3, 4, gap=1.5)
    support = torch.tensor([0, 1, 4, 5, 8, 9])
    order = torch.cat([support, torch.tensor([2, 3, 6, 7, 10, 11])])
    x, y = x[order].requires_grad_(), y[order]
    loss = ICNNLoss(3, scope)
    assert torch.autograd.gradcheck(lambda x: loss(x, y, 6), x)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, y, 6), x)
    assert torch.autograd.grad(loss(x, y, 6), x)[0].abs().max() > 1e-3


def test_descending_the_loss_unmixes_classes():
    x, y = episode(3, 8, gap=0.6)
    x.requires_grad_()
    before = icnn_score(x, y).item()
    optimizer = torch.optim.Adam([x], 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        ICNNLoss()(x, y).backward()
        optimizer.step()
    assert icnn_score(x, y).item() > before + 0.15


def test_full_scope_finds_a_stranger_for_every_point_as_k_plus_q_neighbours_do():
    """With K + Q neighbours there is always one of another class, so seeking further changes nothing."""
    for seed in range(3):
        x, y = episode(4, 6, spread=0.3, gap=2, seed=seed)
        loss = -icnn_score(x, y, k=4, search=6).log()
        torch.testing.assert_close(ICNNLoss(4, "full")(x, y), loss, rtol=0, atol=0)
        apart = torch.cdist(x, x).argsort(1)[:, 1:7]
        assert (y[apart] != y.unsqueeze(1)).any(1).all()


def test_scopes_are_the_score_of_their_points():
    x, y = episode(3, 5)
    support, query = (x[:6], y[:6]), (x[6:], y[6:])
    torch.testing.assert_close(ICNNLoss(2, "support")(x, y, 6), -icnn_score(*support, k=2).log())
    torch.testing.assert_close(ICNNLoss(2, "query")(x, y, 6), -icnn_score(*query, *support, k=2).log())
    dropped = -icnn_score(*query, *support, k=2, exclude_self="first").log()
    torch.testing.assert_close(ICNNLoss(2, "query", drop_nearest=True)(x, y, 6), dropped)
    assert abs(float(dropped - ICNNLoss(2, "query")(x, y, 6))) > 1e-3


def test_many_episodes_are_what_each_gives_alone():
    x = torch.stack([episode(3, 5, gap=g, seed=s)[0] for s, g in enumerate((0.0, 0.5, 1.0, 1.5, 2.0, 4.0))])
    y = torch.stack([torch.randperm(15, generator=torch.Generator().manual_seed(s)) % 3 for s in range(6)])
    y[3] = torch.arange(15)  # one episode without pairs, one of a single class
    y[4] = 0
    target, target_y = x.flip(0)[:, :9], y[:, :9]
    for labels in (y, y[0]):
        rows = labels.expand(6, 15)
        together = icnn_score(x, labels)
        alone = torch.stack([icnn_score(a, b) for a, b in zip(x, rows, strict=True)])
        torch.testing.assert_close(together, alone, rtol=1e-14, atol=1e-14)
    together = icnn_score(x.view(2, 3, 15, 6), y.view(2, 3, 15), target.view(2, 3, 9, 6), target_y.view(2, 3, 9))
    alone = [icnn_score(*four) for four in zip(x, y, target, target_y, strict=True)]
    torch.testing.assert_close(together.flatten(), torch.stack(alone), rtol=1e-14, atol=1e-14)
    each = ICNNLoss(reduction="none")(x, y)
    assert each.shape == (6,)
    torch.testing.assert_close(ICNNLoss()(x, y), each.mean())
    torch.testing.assert_close(ICNNLoss(reduction="sum")(x, y), each.sum())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"k": 0}, "k=0"),
        ({"search": 3}, "search=3: must be at least k=4"),
        ({"x": randn(2, 3), "y": torch.arange(2)}, "at least 3 targets"),
        ({"x": randn(12), "y": torch.arange(12)}, r"x of shape \(12,\)"),
        ({"y": torch.arange(11)}, r"y of shape \(11,\)"),
        ({"target": randn(5, 3)}, "given together"),
        ({"target": randn(5, 2), "target_y": torch.arange(5)}, "same shape"),
        ({"target": randn(5, 3), "target_y": torch.arange(5), "exclude_self": True}, "12 points and 5 targets"),
        ({"exclude_self": "last"}, "exclude_self='last'"),
        ({"x": randn(12, 3) / 0}, "NaN or infinite"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        icnn_score(**{"x": randn(12, 3), "y": torch.arange(12), **change})


def test_impossible_losses_are_refused():
    with pytest.raises(ValueError, match="scope='all'"):
        ICNNLoss(scope="all")
    with pytest.raises(ValueError, match="drop_nearest"):
        ICNNLoss(drop_nearest=True)
    with pytest.raises(TypeError, match="y have dtype"):
        icnn_score(randn(12, 3), torch.arange(12).double())
    for n_support in (None, 0, 12):
        with pytest.raises(ValueError, match=f"n_support={n_support}"):
            ICNNLoss(scope="support")(randn(12, 3), torch.arange(12), n_support)
