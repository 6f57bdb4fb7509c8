"""Prototypes, logits and the cross-entropy on them; the network and its encoders."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landform.losses.episodic import (
    Conv4,
    PrototypicalLoss,
    PrototypicalNetwork,
    ResNet12,
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


def test_conv4_is_four_blocks_and_a_mean():
    torch.manual_seed(0)
    net = Conv4(6, in_channels=1).double().eval()
    x = randn(2, 1, 37, 33)
    h = x
    for block in list(net)[:4]:
        conv, norm = block[0], block[1]
        h = F.conv2d(h, conv.weight, conv.bias, padding=1)
        h = (h - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + norm.eps).sqrt()
        h = F.max_pool2d(h.clamp(min=0), 2)
    torch.testing.assert_close(net(x), h.mean((2, 3)), rtol=1e-12, atol=1e-12)
    # 9·(3·64) + 3 · 9·64² weights, 4·64 biases, 4·128 of batch normalisation
    assert sum(p.numel() for p in Conv4().parameters()) == 9 * 3 * 64 + 3 * 9 * 64**2 + 4 * 64 * 3


def test_resnet12_has_the_released_shape():
    net = ResNet12()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [3, 3, 3, 1] * 4
    assert all(m.bias is None for m in convolutions)
    widths = (3, 64, 128, 256, 512)
    size = sum(9 * a * b + 2 * 9 * b * b + a * b + 4 * 2 * b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in net.parameters()) == size
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 512)
    # He's initialisation by fan-out, for the default slope 0.01 of the released call
    weight = convolutions[-2].weight
    assert float(weight.detach().std()) == pytest.approx((2 / (1 + 0.01**2) / (9 * 512)) ** 0.5, rel=0.01)


def test_a_block_of_resnet12_adds_its_shortcut_before_the_last_activation():
    torch.manual_seed(0)
    net = ResNet12((4,), 0.2, in_channels=2).double().eval()
    block, x = net[0], randn(2, 2, 8, 8)
    conv1, norm1, _, conv2, norm2, _, conv3, norm3 = block.residual
    h = F.leaky_relu(norm1(conv1(x)), 0.2)
    h = norm3(conv3(F.leaky_relu(norm2(conv2(h)), 0.2)))
    h = F.leaky_relu(h + block.shortcut[1](block.shortcut[0](x)), 0.2)
    torch.testing.assert_close(net(x), F.max_pool2d(h, 2).mean((2, 3)), rtol=1e-12, atol=1e-12)


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
    for make in (lambda: Conv4(0), lambda: ResNet12(()), lambda: ResNet12((4, 0))):
        with pytest.raises(ValueError, match=r"widths|channels|out_features"):
            make()
