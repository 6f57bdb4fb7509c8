"""Training conflicts against gradients by autograd, first-order loss changes, and planted contributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.losses import last_layer_sample_grads
from landform.models import MLP
from landform.shift import contribution_regression, group_gradient, training_conflict_matrix

Groups = list[tuple[Tensor, Tensor]]


def groups(count: int, seed: int) -> Groups:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(4 + k, 5, generator=generator).double(), torch.randint(3, (4 + k,), generator=generator))
        for k in range(count)
    ]


def net(seed: int, dropout: float = 0.0) -> MLP:
    torch.manual_seed(seed)
    return MLP(5, (6,), 3, dropout=dropout).double()


def by_autograd(model: MLP, group: tuple[Tensor, Tensor]) -> Tensor:
    loss = F.cross_entropy(model(group[0]), group[1])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [model.head.weight, model.head.bias])])


def test_group_gradient_is_the_gradient_of_the_mean_loss() -> None:
    model, (x, y) = net(0), groups(1, 0)[0]
    h = model.features(x)
    weight, bias = group_gradient(h, model.head(h), y)
    torch.testing.assert_close(torch.cat([weight.flatten(), bias]), by_autograd(model, (x, y)), rtol=0, atol=1e-12)
    every = last_layer_sample_grads(h, model.head(h), y)
    torch.testing.assert_close(weight, every[0].mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(bias, every[1].mean(0), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="must be"):
        group_gradient(h, model.head(h)[:2], y)


def test_matrix_sums_products_of_gradients_over_checkpoints() -> None:
    model, train, evaluated = net(0, dropout=0.5), groups(3, 1), groups(2, 2)
    states, lrs = [net(seed).state_dict() for seed in (3, 4)], [0.1, 0.03]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = training_conflict_matrix(model, model.head, train, evaluated, states, lrs)
    expected = torch.zeros(3, 2).double()
    for seed, lr in zip((3, 4), lrs, strict=True):
        other = net(seed)
        expected += lr * torch.stack(
            [torch.stack([by_autograd(other, s) @ by_autograd(other, q) for q in evaluated]) for s in train]
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert model.training  # and left as it was
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_matrix_of_a_linear_softmax_model_is_the_closed_form() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False)).double()
    data = groups(3, 5)
    found = training_conflict_matrix(model, model[0], data, data, [model.state_dict()], [1.0])  # type: ignore[arg-type]
    gradients = torch.stack(
        [
            torch.einsum("nk,nd->kd", model(x).softmax(1) - torch.eye(3).double()[y], x).flatten() / len(y)
            for x, y in data
        ]
    )
    torch.testing.assert_close(found, gradients @ gradients.T, rtol=0, atol=1e-12)
    assert (found.diagonal() >= 0).all()


def test_an_entry_is_the_loss_that_a_step_removes() -> None:
    model, (train, evaluated) = net(0), groups(2, 6)
    rate = 1e-6
    (entry,) = training_conflict_matrix(model, model.head, [train], [evaluated], [model.state_dict()], [rate])
    before = F.cross_entropy(model(evaluated[0]), evaluated[1]).detach()
    F.cross_entropy(model(train[0]), train[1]).backward()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter -= rate * parameter.grad
    after = F.cross_entropy(model(evaluated[0]), evaluated[1]).detach()
    assert float(entry) == pytest.approx(float(before - after), rel=1e-4)


def test_bad_matrices_are_refused() -> None:
    model, data = net(0), groups(1, 0)
    state = [model.state_dict()]
    for arguments, message in (
        ((model, nn.Linear(6, 3), data, data, state, [1.0]), "no part of the model"),
        ((model, model.features[1], data, data, state, [1.0]), "not the linear layer"),
        ((model, model.head, data, data, state, [1.0, 2.0]), "2 lrs"),
        ((model, model.head, [], data, state, [1.0]), "0 train_groups"),
    ):
        with pytest.raises(ValueError, match=message):
            training_conflict_matrix(*arguments)  # type: ignore[arg-type]


def test_regression_recovers_planted_contributions() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack([torch.randint(4, (16,), generator=generator).bincount(minlength=4) for _ in range(40)])
    planted = torch.randn(4, 3, generator=generator).double()
    changes = counts.double() @ planted
    torch.testing.assert_close(contribution_regression(counts, changes), planted, rtol=0, atol=1e-10)
    noisy = changes + torch.randn(40, 3, generator=generator).double()
    x = counts.double()
    normal = torch.linalg.solve(x.T @ x, x.T @ noisy)
    torch.testing.assert_close(contribution_regression(counts, noisy), normal, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        (torch.ones(5, 2), torch.ones(5, 1), "rank 1"),
        (torch.ones(5, 2), torch.ones(4, 1), "must be"),
        (torch.eye(2), torch.full((2, 1), torch.nan), "NaN"),
    ],
)
def test_regression_refuses(counts: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contribution_regression(counts, changes)
