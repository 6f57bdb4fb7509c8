"""Normalisation layers, test-time batch renormalisation and the replay buffer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from landform.models import ConvNet, ResNet
from landform.shift import (
    BatchRenormTT,
    ReplayBuffer,
    freeze_all_but_normalization,
    normalization_parameters,
)


def test_only_normalisation_is_trained():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.LayerNorm(4), nn.Unflatten(1, (4, 1)), nn.BatchNorm1d(4), nn.GroupNorm(2, 4, affine=False),
        nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    parameters = normalization_parameters(model)
    expected = [model[1].weight, model[1].bias, model[3].weight, model[3].bias, model[5].weight, model[5].bias]
    assert [id(p) for p in parameters] == [id(p) for p in expected]
    assert freeze_all_but_normalization(model) is model
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{layer}.{name}" for layer in (1, 3, 5) for name in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="Linear has no"):
        freeze_all_but_normalization(nn.Linear(2, 2))


def test_the_papers_networks_send_as_many_numbers():
    for depth, count in ((18, 9_600), (50, 53_120)):
        with torch.device("meta"):
            model = ResNet(depth, 1000, stem_kernel=7, stem_stride=2, stem_pool=True)
        assert sum(p.numel() for p in normalization_parameters(model)) == count


def renorm(channels: int = 3, **options: float) -> BatchRenormTT:
    layer = BatchRenormTT(channels, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(1)
    for tensor, offset in ((layer.weight, 1), (layer.bias, 0), (layer.running_mean, 0), (layer.running_var, 1)):
        noise = torch.rand(channels, generator=generator, dtype=torch.float64)
        tensor.data.copy_(noise + offset)
    return layer


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1


@pytest.mark.parametrize("training", [True, False])
def test_the_value_is_that_of_the_running_statistics(x, training):
    layer = renorm().train(training)
    reference = nn.BatchNorm2d(3, dtype=torch.float64).eval()
    reference.load_state_dict(layer.state_dict())
    expected = reference(x)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(renorm().eval()(x), expected, rtol=0, atol=1e-10)


def test_the_gradient_is_that_of_the_formula(x):
    layer = renorm(eps=1e-3).eval()
    x.requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = torch.autograd.grad((weights * layer(x)).sum(), [x, layer.weight, layer.bias])
    # Batch normalisation's own gradient (Ioffe & Szegedy), here with the unbiased variance, times r.
    n = x.numel() / 3
    mean, variance = x.detach().mean((0, 2, 3), keepdim=True), x.detach().var((0, 2, 3), keepdim=True)
    deviation = (variance + 1e-3).sqrt()
    r = deviation / (layer.running_var.view(1, 3, 1, 1) + 1e-3).sqrt()
    hat = (x.detach() - mean) / deviation
    g = weights * layer.weight.detach().view(1, 3, 1, 1) * r
    projected = g - g.mean((0, 2, 3), keepdim=True) - hat * (g * hat).sum((0, 2, 3), keepdim=True) / (n - 1)
    torch.testing.assert_close(found[0], projected / deviation, rtol=1e-10, atol=1e-12)
    running = (layer.running_mean.view(1, 3, 1, 1), (layer.running_var.view(1, 3, 1, 1) + 1e-3).sqrt())
    torch.testing.assert_close(found[1], (weights * (x.detach() - running[0]) / running[1]).sum((0, 2, 3)))
    torch.testing.assert_close(found[2], weights.sum((0, 2, 3)))
    # A shift of a channel moves nothing.
    assert found[0].sum((0, 2, 3)).abs().max() < 1e-10
    assert found[0].abs().max() > 0.1


def test_running_statistics_move_in_training_alone(x):
    layer = renorm()
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    layer.eval()(x)
    assert torch.equal(layer.running_mean, mean)
    layer.train()(x)
    torch.testing.assert_close(layer.running_mean, 0.9 * mean + 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, 0.9 * variance + 0.1 * x.var((0, 2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_dropped_statistics_begin_with_the_next_batch(x, training):
    layer = renorm().train(training)
    layer.drop_statistics()
    found = layer(x)
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)))
    hat = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found, layer.weight.view(1, 3, 1, 1) * hat + layer.bias.view(1, 3, 1, 1))


def test_conversion_keeps_what_the_model_computes(x):
    model = ConvNet(3, 4, widths=(8, 8), norm="batch").double()
    model(x)
    model.eval()
    converted = BatchRenormTT.convert(copy.deepcopy(model))
    assert sum(isinstance(m, BatchRenormTT) for m in converted.modules()) == 2
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=1e-10)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert BatchRenormTT.convert(converted) is converted
    alone = nn.BatchNorm1d(4, momentum=None, affine=False)
    layer = BatchRenormTT.convert(alone)
    assert layer.momentum == 0.1
    rows = torch.randn(7, 4)
    torch.testing.assert_close(layer.eval()(rows), alone.eval()(rows))


def test_a_lone_value_has_no_variance():
    layer = renorm().eval()
    alone = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    assert layer(alone).isfinite().all()
    with pytest.raises(ValueError, match="no variance"):
        layer.train()(alone)
    with pytest.raises(ValueError, match=r"\(B, 3, …\)"):
        layer(torch.ones(2, 4))
    with pytest.raises(ValueError, match="momentum=2"):
        BatchRenormTT(3, momentum=2)


def test_the_first_in_is_the_first_out():
    buffer = ReplayBuffer(10)
    kept: list[int] = []
    for start, count in ((0, 3), (3, 0), (3, 6), (9, 4), (13, 25), (38, 1)):
        new = torch.arange(start, start + count)
        buffer.add(new.view(-1, 1, 1).expand(-1, 2, 2))
        kept = (kept + new.tolist())[-10:]
        assert len(buffer) == len(kept)
        drawn = buffer.sample(len(kept), torch.Generator().manual_seed(0))
        assert sorted(drawn[:, 1, 1].tolist()) == kept


def test_samples_are_drawn_without_replacement_and_repeat():
    buffer = ReplayBuffer(50)
    buffer.add(torch.arange(50))
    first, again = (buffer.sample(20, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique()) == 20
    counts = torch.zeros(50)
    generator = torch.Generator().manual_seed(4)
    for _ in range(1000):
        counts[buffer.sample(10, generator)] += 1
    assert counts.min() > 130  # of an expected 200, of standard deviation 13
    assert counts.max() < 270


def test_what_a_buffer_cannot_do_is_refused():
    with pytest.raises(ValueError, match="capacity=0"):
        ReplayBuffer(0)
    buffer = ReplayBuffer(4)
    with pytest.raises(ValueError, match="n=1"):
        buffer.sample(1)
    buffer.add(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="n=3"):
        buffer.sample(3)
    with pytest.raises(ValueError, match="shape"):
        buffer.add(torch.zeros(2, 4))
