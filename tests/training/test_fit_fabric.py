"""The training loop under Lightning Fabric in one process; two processes are tested with the laboratory's engine."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.training import fit
from landform.training.parallel import Parallel

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def problem() -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    return nn.Linear(4, 3), [(torch.randn(6, 4), torch.randint(0, 3, (6,))) for _ in range(3)]


def one_process(precision: Any) -> Any:
    fabric = pytest.importorskip("lightning_fabric", reason="the extra scale (Lightning Fabric) is not installed")
    return fabric.Fabric(accelerator="cpu", devices=1, precision=precision)


def trained(fabric: Any) -> tuple[Tensor, nn.Module]:
    model, data = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    return fit(model, loss, data, optimizer, steps=8, schedule=schedule, fabric=fabric), model


def test_one_process_trains_as_without_fabric_to_the_bit() -> None:
    alone, together = trained(None), trained(one_process("32-true"))
    assert torch.equal(alone[0], together[0])
    for one, other in zip(alone[1].parameters(), together[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_mixed_precision_computes_in_bfloat16_and_keeps_the_weights() -> None:
    alone, mixed = trained(None), trained(one_process("bf16-mixed"))
    assert next(mixed[1].parameters()).dtype == torch.float32
    difference = (alone[0] - mixed[0]).abs().max()
    assert 0 < difference < 0.05


def test_the_shares_of_all_processes_are_the_batch() -> None:
    x, tags = torch.arange(14.0).view(7, 2), {"rate": torch.tensor(0.1), "name": "all"}
    parts = []
    for rank in range(3):
        fabric = SimpleNamespace(
            global_rank=rank, world_size=3, to_device=copy.copy, strategy=SimpleNamespace(precision=1)
        )
        parallel = Parallel(fabric, [])  # type: ignore[arg-type]
        part, same = parallel.share((x, tags))
        parts.append(part)
        assert same == tags
        with pytest.raises(ValueError, match="2 samples, fewer than the 3 processes"):
            parallel.share((x[:2], tags))
    assert torch.equal(torch.cat(parts), x)
    assert sorted(map(len, parts)) == [2, 2, 3]


def test_a_scaled_loss_is_refused() -> None:
    fabric: Any = SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(precision="16-mixed")))
    model, data = problem()
    with pytest.raises(ValueError, match="bf16-mixed"):
        fit(model, loss, data, torch.optim.SGD(model.parameters(), lr=0.1), steps=1, fabric=fabric)
