"""Information gain and reducible loss from exact losses; images and pairs as tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landform.data import markov_source
from landform.scaling import (
    ConditionalPairs,
    PowerLaw,
    TwoTermLaw,
    fit_power_law,
    image_tokens,
    information_gain,
    reducible_loss,
)

N = np.geomspace(1e3, 1e7, 9)


def test_an_independent_context_tells_nothing_and_a_copy_everything() -> None:
    source = markov_source(order=1, vocab=8, concentration=0.3, seed=0)
    pi = source.stationary
    entropy = float(-(pi * pi.log()).sum())
    assert information_gain(entropy, entropy).information == 0
    gain = information_gain(entropy, 0.0)
    assert (gain.information, gain.gain) == (entropy, 1.0)
    # In between, of two neighbouring tokens, it is the mutual information of their joint distribution.
    joint = pi[:, None] * source.transitions
    mutual = float((joint * (joint / (pi[:, None] * joint.sum(0))).log()).sum())
    found = information_gain(entropy, source.entropy)
    assert found.information == pytest.approx(mutual, rel=1e-9)
    assert found.gain == pytest.approx(mutual / entropy, rel=1e-9)


def test_gains_of_arrays() -> None:
    found = information_gain([4.0, 2.0], [3.0, 2.5])
    np.testing.assert_allclose(found.information, [1.0, -0.5])
    np.testing.assert_allclose(found.gain, [0.25, -0.25])
    for alone, given, named in [(0.0, 1.0, "loss_text"), (1.0, -1.0, "given_context"), (math.nan, 1.0, "loss_text")]:
        with pytest.raises(ValueError, match=named):
            information_gain(alone, given)


def test_reducible_loss_is_a_straight_line() -> None:
    law = PowerLaw(2.2, 63.0, 0.13)
    fit = fit_power_law(N, law(N), "power+const")
    np.testing.assert_allclose(reducible_loss(fit, law(N)), (63.0 / N) ** 0.13, rtol=1e-8)
    assert reducible_loss(fit, 2.0) == pytest.approx(-0.2)
    plain = fit_power_law(N, (63.0 / N) ** 0.13, "power")
    np.testing.assert_allclose(reducible_loss(plain, law(N)), law(N))
    x = np.stack(np.meshgrid(N[::2], 100 * N[::2]), -1).reshape(-1, 2)
    two = TwoTermLaw(1.7, 30.0, 0.4, 50.0, 0.3)
    np.testing.assert_allclose(
        reducible_loss(fit_power_law(x, two(x), "two-term"), two(x)), two(x) - 1.7, rtol=1e-6, atol=1e-8
    )


def test_image_tokens_are_a_raster_scan() -> None:
    images = torch.arange(24, dtype=torch.float32).view(1, 2, 3, 4) / 24
    tokens = image_tokens(images, levels=24)
    by_hand = [12 * channel + 4 * row + column for row in range(3) for column in range(4) for channel in range(2)]
    assert tokens[0].tolist() == pytest.approx(by_hand, abs=1)
    exact = image_tokens((images * 24 + 0.5) / 24.0, levels=24)
    assert exact[0].tolist() == by_hand
    assert image_tokens(torch.tensor([[[[0.0, 0.49, 0.51, 1.0]]]]), levels=2).tolist() == [[0, 0, 1, 1]]
    for bad, error, named in [
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), TypeError, "uint8"),
        (torch.zeros(2, 2), ValueError, "shape"),
        (torch.full((1, 1, 2, 2), 1.5), ValueError, r"\[0, 1\]"),
        (torch.full((1, 1, 2, 2), math.nan), ValueError, r"\[0, 1\]"),
    ]:
        with pytest.raises(error, match=named):
            image_tokens(bad)
    with pytest.raises(ValueError, match="levels=1"):
        image_tokens(images, levels=1)


def test_pairs_share_targets_and_blank_contexts() -> None:
    context, target = torch.randint(5, (7, 6)), torch.randint(3, (7, 2))
    pairs = ConditionalPairs(context, target, context_vocab=5, target_vocab=3)
    given, alone = pairs.given(), pairs.alone()
    assert given.shape == alone.shape == (7, 9)
    assert torch.equal(given[:, :6], context)
    assert torch.equal(given[:, 6:], alone[:, 6:])
    assert torch.equal(given[:, 7:] - 5, target)
    assert (alone[:, :6] == pairs.vocab - 1).all()
    assert (given[:, 6] == pairs.vocab - 2).all()
    assert given.max() < pairs.vocab - 1
    assert pairs.scored == 2
    for arguments, error, named in [
        ((context.float(), target, 5, 3), TypeError, "context"),
        ((context, target[:3], 5, 3), ValueError, "7 contexts, but 3 targets"),
        ((context, target, 2, 3), ValueError, "context: tokens must be 0 … 1"),
        ((context, target[:, 0], 5, 3), ValueError, "target has shape"),
    ]:
        with pytest.raises(error, match=named):
            ConditionalPairs(*arguments)  # type: ignore[arg-type]
