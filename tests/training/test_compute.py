"""The compute ledger against a count of every matrix product of a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from landform.models.transformer import ByteTransformer, count_parameters
from landform.training.compute import PF_DAY, ComputeLedger, forward_flops


def net(**options: Any) -> ByteTransformer:
    return ByteTransformer(**({"d_model": 16, "n_layer": 1, "n_head": 2, "context": 8, "vocab": 32} | options))


def test_one_layer_by_hand() -> None:
    d, context, vocab = 16, 8, 32
    weights = 3 * d * d + d * d + d * 4 * d + 4 * d * d  # queries, keys and values; output; the two of the MLP
    attention = 2 * (d * context / 2)  # scores and averages, over half of the context on average
    assert forward_flops(net(), "full") == 2 * (weights + attention + d * vocab)
    biases_and_norms = (3 * d + d + 4 * d + d) + 2 * 2 * d + 2 * d
    assert forward_flops(net(), "kaplan") == 2 * (weights + biases_and_norms)


@pytest.mark.parametrize("options", [{}, {"n_layer": 3, "d_ff": 40}, {"positions": "rotary", "tie": True}])
def test_the_full_count_is_what_torch_counts(options: dict[str, Any]) -> None:
    model = net(**options)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(torch.zeros(1, model.context, dtype=torch.long))
    # The counter's attention is over the whole square, not the half that is causal.
    square = 2 * 2 * len(model.blocks) * model.context * 16
    assert counter.get_total_flops() / model.context == forward_flops(model, "full") + square / 2


def test_training_is_three_forward_passes_by_either_convention() -> None:
    model = net()
    for convention in ("kaplan", "full"):
        ledger = ComputeLedger(model, convention)
        ledger.count(256)
        ledger.count(100)
        assert (ledger.updates, ledger.tokens) == (2, 356)
        assert ledger.flops == 3 * forward_flops(model, convention) * 356
        assert ledger.pf_days == ledger.flops / PF_DAY
        assert {ledger.flops_by("kaplan"), ledger.flops_by("full")} > {ledger.flops}
    assert ComputeLedger(model).flops_by("kaplan") == 0
    ledger = ComputeLedger(model)
    ledger.count(10)
    assert ledger.flops == 6 * count_parameters(model) * 10
    assert PF_DAY == 1e15 * 24 * 3600


def test_state_goes_round() -> None:
    ledger, other = ComputeLedger(net()), ComputeLedger(net())
    ledger.count(7)
    other.load_state_dict(ledger.state_dict())
    assert (other.tokens, other.updates, other.flops) == (7, 1, ledger.flops)
    assert "7 tokens" in repr(other)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="convention='six'"):
        ComputeLedger(net(), "six")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="convention='six'"):
        ComputeLedger(net()).flops_by("six")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ByteTransformer"):
        ComputeLedger(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens=0"):
        ComputeLedger(net()).count(0)
