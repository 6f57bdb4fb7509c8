"""Prototypes, logits and the cross-entropy on them; and the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landform.losses.episodic import (
    PrototypicalLoss,
    PrototypicalNetwork,
    episode_logits,
    prototype_logits,
    prototypes,
)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_prototype_is_the_mean_of_its_class_and_of_one_shot_the_shot_itself():
    support = randn(3, 4 * 2, 5)
    for episode, found in zip(support, prototypes(support, 4, 2), strict=True):
        for n in range(4):
            torch.testing.assert_close(found[n], (episode[2 * n] + episode[2 * n + 1]) / 2, rtol=1e-14, atol=1e-14)
    assert torch.equal(prototypes(support, 8, 1), support)


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_logits_are_what_their_formulas_say(scale):
    query, centres = randn(2, 6, 5), 3 * randn(2, 4, 5, seed=1)
    squares, cosines = (prototype_logits(query, centres, metric, scale) for metric in ("sqeuclidean", "cosine"))
    for e in range(2):
        for i in range(6):
            for n in range(4):
                a, b = query[e, i], centres[e, n]
                assert float(squares[e, i, n]) == pytest.approx(-scale * float((a - b) @ (a - b)), rel=1e-12)
                assert float(cosines[e, i, n]) == pytest.approx(scale * float(a @ b / a.norm() / b.norm()), rel=1e-12)


def test_logits_stay_where_points_are_shifted_far_away_even_in_float32():
    query, centres = randn(6, 5).float(), randn(4, 5, seed=1).float()
    reference = prototype_logits(query.double(), centres.double())
    torch.testing.assert_close(prototype_logits(query, centres).double(), reference, rtol=1e-5, atol=1e-6)
    shifted = prototype_logits(query + 1000, centres + 1000).double()
    torch.testing.assert_close(shifted, reference, rtol=2e-3, atol=2e-3)  # as the shifted points themselves are rounded


def test_loss_is_the_cross_entropy_of_a_softmax_over_negative_squares():
    query, centres, labels = randn(6, 5), randn(3, 5, seed=1), torch.tensor([0, 2, 1, 1, 0, 2])
    for scale in (1.0, 0.1):
        expected = []
        for q, y in zip(query, labels, strict=True):
            exponents = [torch.exp(-scale * (q - c).square().sum()) for c in centres]
            expected.append(-torch.log(exponents[y] / sum(exponents)))
        found = PrototypicalLoss(scale=scale, reduction="none")(query, labels, centres)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_many_episodes_are_what_each_gives_alone():
    features, labels = randn(3, 2, 4 * (2 + 3), 5), torch.arange(4).repeat_interleave(3)
    for metric in ("sqeuclidean", "cosine"):
        together = episode_logits(features, 4, 2, metric, 0.3)
        assert together.shape == (3, 2, 12, 4)
        for a in range(3):
            for b in range(2):
                centres = prototypes(features[a, b, :8], 4, 2)
                alone = prototype_logits(features[a, b, 8:], centres, metric, 0.3)
                torch.testing.assert_close(together[a, b], alone, rtol=1e-12, atol=1e-12)
    support, query = features[0].split([8, 12], 1)
    each = [PrototypicalLoss()(q, labels, prototypes(s, 4, 2)) for s, q in zip(support, query, strict=True)]
    joint = PrototypicalLoss()(query, labels, prototypes(support, 4, 2))
    torch.testing.assert_close(joint, torch.stack(each).mean(), rtol=1e-12, atol=1e-12)


def test_autocast_does_not_round_distances():
    query, centres = randn(6, 8).float(), randn(4, 8, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prototype_logits(query, centres)
    torch.testing.assert_close(found, prototype_logits(query, centres), rtol=0, atol=0)


def test_the_network_embeds_an_episode_at_once_and_classifies_its_query():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    items = randn(5 * (2 + 3), 1, 4, 4)
    found = PrototypicalNetwork(encoder, scale=0.5)(items, 5, 2)
    expected = -0.5 * torch.cdist(encoder(items)[10:], prototypes(encoder(items)[:10], 5, 2)).square()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert len(list(PrototypicalNetwork(encoder).parameters())) == 2


def test_what_does_not_fit_is_refused():
    support, query = randn(6, 4), randn(5, 4)
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 4, d\), n_way=2 times n_shot=2"):
        prototypes(support, 2, 2)
    with pytest.raises(ValueError, match="n_way=0"):
        prototypes(support, 0, 2)
    with pytest.raises(ValueError, match="metric='l1'"):
        prototype_logits(query, support, "l1")
    with pytest.raises(ValueError, match="scale=0"):
        prototype_logits(query, support, scale=0)
    with pytest.raises(ValueError, match=r"query of shape \(5, 4\) and prototypes of shape \(6, 3\)"):
        prototype_logits(query, support[:, :3])
    with pytest.raises(ValueError, match=r"query of shape \(0, 4\)"):
        episode_logits(support, 3, 2)
    with pytest.raises(ValueError, match=r"at least 2"):
        PrototypicalLoss()(query, torch.zeros(5, dtype=torch.long), support[:1])
