"""The space of small classifiers: what each decision builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landform.search import SMALL_SPACE, SmallArchitecture


def test_the_space_holds_every_combination_once_and_each_classifies():
    assert len(SMALL_SPACE) == len(set(SMALL_SPACE)) == 3 * 4 * 3 * 3 * 2
    x = torch.randn(2, 3, 6, 8)
    for architecture in SMALL_SPACE[::7]:
        assert architecture.build((3, 6, 8), 5)(x).shape == (2, 5)


def test_depth_and_width_are_those_of_the_weighted_layers():
    for kernel, kind in ((0, nn.Linear), (3, nn.Conv2d)):
        network = SmallArchitecture(kernel, depth=3, width=16, activation="relu", skip=False).build((1, 8, 8), 10)
        weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert [w.shape[0] for w in weights] == [16, 16, 16, 10]
        assert isinstance(network[0 if kernel else 1], kind)
    assert weights[0].shape == (16, 1, 3, 3)
    assert weights[-1].shape == (10, 16 * 4 * 4)


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", torch.relu), ("tanh", torch.tanh), ("none", lambda x: x)]
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_perceptron_computes_what_it_says(activation, function, skip):
    network = SmallArchitecture(0, depth=3, width=4, activation=activation, skip=skip).build((1, 2, 3), 5)
    first, second, third, head = (m for m in network.modules() if isinstance(m, nn.Linear))
    x = torch.randn(7, 1, 2, 3)
    hidden = function(first(x.flatten(1)))
    for layer in (second, third):
        hidden = function(layer(hidden)) + (hidden if skip else 0)
    torch.testing.assert_close(network(x), head(hidden))


@pytest.mark.parametrize("wrong", [{"kernel": 2}, {"kernel": -1}, {"depth": 0}, {"width": 0}, {"activation": "gelu"}])
def test_impossible_architectures_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SmallArchitecture(**{"kernel": 3, "depth": 2, "width": 8, "activation": "relu", "skip": True, **wrong})
