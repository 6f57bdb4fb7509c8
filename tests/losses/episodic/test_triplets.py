"""The Proto-Triplet and the batch-hard triplet loss: zeros, single violations, invariances, brute force."""

from __future__ import annotations

import math

import pytest
import torch

from landform.losses.episodic import BatchHardTripletLoss, EpisodicLoss, ProtoTripletLoss, prototypes


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dist(a: torch.Tensor, b: torch.Tensor, eps: float = 1e-6) -> float:
    return math.sqrt(float((a - b) @ (a - b)) + eps)


LABELS = torch.tensor([0, 3, 1, 1, 2, 0, 2])


@pytest.mark.parametrize(("margin", "eps"), [(0.5, 1e-6), (0.0, 1e-6), (2.0, 0.3)])
def test_it_is_what_a_loop_over_queries_gives(margin, eps):
    query, centres = randn(7, 5), randn(4, 5, seed=1)
    expected = []
    for q, y in zip(query, LABELS.tolist(), strict=True):
        negative = min(dist(q, c, eps) for n, c in enumerate(centres) if n != y)
        expected.append(max(0.0, dist(q, centres[y], eps) - negative + margin))
    found = ProtoTripletLoss(margin, eps, reduction="none")(query, LABELS, centres)
    assert found.tolist() == pytest.approx(expected, abs=1e-14)
    assert min(expected) < max(expected)
    assert float(ProtoTripletLoss(margin, eps)(query, LABELS, centres)) == pytest.approx(sum(expected) / 7, abs=1e-14)


def test_zero_just_where_every_query_is_nearer_by_the_margin():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64)
    loss = ProtoTripletLoss(margin=2.0)
    satisfied = torch.tensor([[3.9, 0.0], [6.1, 0.0]], dtype=torch.float64, requires_grad=True)
    value = loss(satisfied, torch.tensor([0, 1]), centres)
    assert value.item() == 0
    assert torch.equal(torch.autograd.grad(value, satisfied)[0], torch.zeros(2, 2, dtype=torch.float64))
    violating = torch.tensor([[4.5, 0.0], [6.1, 0.0]], dtype=torch.float64)
    assert float(loss(violating, torch.tensor([0, 1]), centres)) == pytest.approx((2 + 4.5 - 5.5) / 2, abs=1e-6)


def test_equal_embeddings_cost_the_margin_and_have_a_finite_gradient():
    points = torch.full((4, 3), 1.7, dtype=torch.float64, requires_grad=True)
    value = ProtoTripletLoss(0.7)(points, torch.tensor([0, 1, 2, 0]), points[:3])
    assert float(value) == pytest.approx(0.7, abs=1e-15)
    assert torch.autograd.grad(value, points)[0].isfinite().all()


def test_rotation_and_translation_change_nothing_but_scaling_does():
    query, centres, loss = randn(7, 5), randn(4, 5, seed=1), ProtoTripletLoss()
    value = loss(query, LABELS, centres)
    turn = torch.linalg.qr(randn(5, 5, seed=2))[0]
    torch.testing.assert_close(loss(query @ turn + 3, LABELS, centres @ turn + 3), value, rtol=1e-12, atol=1e-12)
    assert abs(float(loss(2 * query, LABELS, 2 * centres) - value)) > 0.1


def test_gradients_reach_the_support_and_are_those_of_finite_differences():
    support, query = randn(8, 3), randn(7, 3, seed=1)

    def loss(support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return ProtoTripletLoss(1.0)(query, LABELS, prototypes(support, 4, 2))

    assert torch.autograd.gradcheck(loss, (support.requires_grad_(), query.requires_grad_()))
    assert torch.autograd.gradgradcheck(loss, (support, query))
    assert torch.autograd.grad(loss(support, query), support)[0].abs().max() > 1e-3


def test_many_episodes_are_what_each_gives_alone():
    query, centres = randn(2, 3, 7, 5), randn(2, 3, 4, 5, seed=1)
    labels = torch.randint(4, (2, 3, 7), generator=torch.Generator().manual_seed(2))
    loss = ProtoTripletLoss(1.0, reduction="none")
    for of, rows in ((labels, labels), (LABELS, LABELS.expand(2, 3, 7))):
        together = loss(query, of, centres)
        for a in range(2):
            for b in range(3):
                torch.testing.assert_close(together[a, b], loss(query[a, b], rows[a, b], centres[a, b]))


@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_batch_hard_is_what_a_loop_over_items_gives(margin):
    features, labels = randn(2, 9, 4), torch.tensor([[5, -1, 5, 2, 2, -1, 5, 2, 7], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
    found = BatchHardTripletLoss(margin, reduction="none")(features, labels)
    assert found[1].tolist() == [0] * 9  # one class has no negatives
    expected = []
    for i in range(9):
        own = [dist(features[0, i], features[0, j]) for j in range(9) if j != i and labels[0, j] == labels[0, i]]
        others = [dist(features[0, i], features[0, j]) for j in range(9) if labels[0, j] != labels[0, i]]
        expected.append(max(0.0, max(own) - min(others) + margin) if own else 0.0)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-14)
    assert expected[8] == 0
    x = features[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: BatchHardTripletLoss(margin)(x, labels[0]), x)


@pytest.mark.parametrize(
    ("query", "labels", "centres", "match"),
    [
        (randn(7, 5), LABELS, randn(1, 5), "at least 2"),
        (randn(7, 5), LABELS, randn(3, 5), r"labels contain 3: must be in 0\.\.2"),
        (randn(7, 5), LABELS - 1, randn(4, 5), r"labels contain -1"),
        (randn(7, 5), LABELS[:5], randn(4, 5), r"labels of shape \(5,\)"),
        (randn(7, 4), LABELS, randn(4, 5), "query of shape"),
        (randn(7, 5) * math.nan, LABELS, randn(4, 5), "NaN"),
        (randn(2, 7, 5), LABELS, randn(4, 5), "query of shape"),
    ],
)
def test_what_does_not_fit_is_refused(query, labels, centres, match):
    with pytest.raises(ValueError, match=match):
        ProtoTripletLoss()(query, labels, centres)


@pytest.mark.parametrize("arguments", [{"margin": -0.1}, {"margin": math.nan}, {"eps": 0.0}, {"reduction": "max"}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ProtoTripletLoss(**arguments)


def test_the_combination_is_the_average_of_its_terms():
    support, query = randn(2, 4 * 2, 3), randn(2, 4 * 3, 3, seed=1)

    def value(*terms: tuple[str, float], average: bool = True) -> torch.Tensor:
        loss = EpisodicLoss(terms, average, margin=1.5, k=3, scale=0.5, reduction="none")
        return loss(support, query, 4)

    names = ("ce", "proto_triplet", "icnn", "icnn_support", "icnn_query", "icnn_prototypes")
    alone = {name: value((name, 1.0)) for name in names}
    assert len({round(float(v[0]), 9) for v in alone.values()}) == 6
    weights = (1.0, 0.5, 2.0, -1.0, 0.0, 3.0)
    total = sum(w * alone[n] for n, w in zip(names, weights, strict=True))
    pairs = list(zip(names, weights, strict=True))
    torch.testing.assert_close(value(*pairs), total / 6, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(value(*pairs, average=False), total, rtol=1e-13, atol=1e-13)
    default = EpisodicLoss()(support, query, 4)
    three = [EpisodicLoss([(name, 1.0)])(support, query, 4) for name in names[:3]]
    torch.testing.assert_close(default, torch.stack(three).mean(), rtol=1e-13, atol=1e-13)


def test_terms_of_the_combination_see_the_episode_in_its_order():
    """Against the single losses on hand-made labels."""
    from landform.losses.episodic import PrototypicalLoss, icnn_score

    support, query = randn(6, 3), randn(9, 3, seed=1)
    of_query = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    of_support = torch.tensor([0, 0, 1, 1, 2, 2])
    means = support.view(3, 2, 3).mean(1)
    expected = {
        "ce": PrototypicalLoss()(query, of_query, means),
        "proto_triplet": ProtoTripletLoss(0.5)(query, of_query, means),
        "icnn": -icnn_score(torch.cat([support, query]), torch.cat([of_support, of_query]), search=2 + 3).log(),
        "icnn_support": -icnn_score(support, of_support).log(),
        "icnn_query": -icnn_score(query, of_query, support, of_support).log(),
        "icnn_prototypes": -icnn_score(query, of_query, means, torch.arange(3)).log(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(EpisodicLoss([(name, 1.0)])(support, query, 3), value, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ([], "need at least one of ce"),
        ([("ce", 1.0), ("fullicn", 1.0)], "term='fullicn': must be one of 'ce'"),
        ([("ce", 1.0), ("ce", 1.0)], "each may be there once"),
        ([("ce", math.inf)], "weight of ce=inf"),
    ],
)
def test_terms_that_are_none_are_refused(terms, match):
    with pytest.raises(ValueError, match=match):
        EpisodicLoss(terms)


def test_episodes_that_are_none_are_refused():
    loss = EpisodicLoss()
    with pytest.raises(ValueError, match="n_way=4"):
        loss(randn(6, 3), randn(8, 3), 4)
    with pytest.raises(ValueError, match="n_way=1"):
        loss(randn(6, 3), randn(8, 3), 1)
    with pytest.raises(ValueError, match="must be of the same shape"):
        loss(randn(2, 6, 3), randn(3, 6, 3), 3)
