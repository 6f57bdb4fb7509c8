"""VGG32 as published, and batch normalisation with several sets of statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from landform.models import VGG32, BatchNormBranches, batch_norm_branch, branch_batch_norm


def test_vgg32_is_built_as_published():
    torch.manual_seed(0)
    model = VGG32(6, dim=96)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions]
    assert shapes == [
        (3, 64, 1), (64, 64, 1), (64, 128, 2),
        (128, 128, 1), (128, 128, 1), (128, 128, 2),
        (128, 128, 1), (128, 128, 1), (128, 96, 2),
    ]  # fmt: skip
    assert all(c.bias is None and c.kernel_size == (3, 3) for c in convolutions)
    for c in convolutions[1:]:
        assert c.weight.std().item() == pytest.approx(0.05, rel=0.03)
    scales = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert (scales.mean().item(), scales.std().item()) == (pytest.approx(1, abs=0.003), pytest.approx(0.02, rel=0.1))
    assert model.head.bias is None
    kinds = [type(m) for m in model.features]
    drops = [i for i, kind in enumerate(kinds) if kind is nn.Dropout2d]
    assert drops == [0, 10, 20]  # on the image, and after each of the first two strided convolutions
    assert {model.features[i].p for i in drops} == {0.2}
    assert {m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    x = torch.rand(2, 3, 32, 32)
    assert model.features(x).shape == (2, 96)
    assert model.features[:-2](x).shape == (2, 96, 4, 4)
    torch.testing.assert_close(model.eval()(x), model.features(x) @ model.head.weight.T)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 6)


def test_vgg32_needs_classes():
    with pytest.raises(ValueError, match="num_classes=0"):
        VGG32(0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), nn.Linear(4, 2))


def test_branches_do_not_meet():
    plain = network()
    model = branch_batch_norm(copy.deepcopy(plain))
    real, fake = torch.randn(16, 3), 5 + 3 * torch.randn(16, 3)
    torch.testing.assert_close(model(real), plain(real))
    with batch_norm_branch(model, 1):
        generated = model(fake)
    torch.testing.assert_close(generated, copy.deepcopy(network())(fake))  # its statistics are of this batch alone
    norm = model[1][0]
    assert isinstance(norm, BatchNormBranches)
    first, second = norm.branches
    torch.testing.assert_close(first.running_mean, plain[1][0].running_mean)
    assert not torch.allclose(first.running_mean, second.running_mean)
    model.eval()
    plain.eval()
    torch.testing.assert_close(model(real), plain(real))
    second.weight.data.fill_(7.0)
    torch.testing.assert_close(model(real), plain(real))


def test_the_branch_in_use_comes_back_also_after_an_error():
    model = branch_batch_norm(network(), 3)

    def fail():
        assert model[1][0].branch == 2
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), batch_norm_branch(model, 2):
        fail()
    assert model[1][0].branch == 0


def test_branches_that_cannot_be():
    with pytest.raises(ValueError, match="no batch normalisation"):
        branch_batch_norm(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="already"):
        branch_batch_norm(branch_batch_norm(network()))
    with pytest.raises(ValueError, match="branches=0"):
        branch_batch_norm(network(), 0)
    with (
        pytest.raises(ValueError, match="branch=2: the model's batch normalisation has 2"),
        batch_norm_branch(branch_batch_norm(network()), 2),
    ):
        pass
    with pytest.raises(ValueError, match="has 0 branches"), batch_norm_branch(network(), 0):
        pass
