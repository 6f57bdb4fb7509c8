"""Sinkhorn's matrices against their sums and limits, and the orders that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import (
    PermutationSpec,
    SinkhornRebasin,
    apply_permutation,
    interpolate,
    interpolation_curve,
    sinkhorn,
)


def scores(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(seed: int, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(5, 8), *middle, nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (64,), generator=generator)


def test_rows_sum_to_one_exactly_and_columns_nearly() -> None:
    p = sinkhorn(torch.stack([scores(seed=s) for s in range(5)]))
    assert p.shape == (5, 6, 6)
    torch.testing.assert_close(p.sum(-1), torch.ones(5, 6).double(), rtol=1e-14, atol=0)
    torch.testing.assert_close(p.sum(-2), torch.ones(5, 6).double(), rtol=0, atol=1e-3)


def test_sinkhorn_is_alternate_normalisation() -> None:
    p = (scores() / 0.7).exp()
    for _ in range(4):
        p = p / p.sum(0, keepdim=True)
        p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(sinkhorn(scores(), n_iter=4, tau=0.7), p, rtol=1e-12, atol=0)


def test_the_limit_of_low_temperature_is_the_assignment() -> None:
    for seed in range(5):
        x = 0.5 * scores(seed=seed) + 2 * torch.eye(6, dtype=torch.float64).roll(seed, 0)
        rows, columns = linear_sum_assignment(x.numpy(), maximize=True)
        expected = torch.zeros(6, 6, dtype=torch.float64)
        expected[rows, columns] = 1
        torch.testing.assert_close(sinkhorn(x, n_iter=500, tau=0.02), expected, rtol=0, atol=1e-5)
        assert float((sinkhorn(x, tau=1.0) - expected).abs().max()) > 0.1, "far from it at temperature 1"


def test_gradients_of_sinkhorn_agree_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, 5, 0.8), scores(4).requires_grad_())


def test_scores_start_near_the_identity() -> None:
    spec = PermutationSpec({"w": ("P",), "v": (None, "P")})
    state = {"w": torch.zeros(200), "v": torch.zeros(2, 200)}
    start = SinkhornRebasin(spec, state, generator=torch.Generator().manual_seed(0)).scores[0].detach()
    noise = start - torch.eye(200)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=2e-3)


def test_eval_mode_is_hard_and_train_mode_is_soft() -> None:
    state = net(0).state_dict()
    spec = PermutationSpec.of_sequential(net(0))
    rebasin = SinkhornRebasin(spec, state, l=2.0, tau=0.5, n_iter=7)
    with torch.no_grad():
        for x in rebasin.scores:
            x.copy_(torch.randn_like(x))
    hard = rebasin.eval()(state)
    expected = apply_permutation(spec, rebasin.permutation(), state)
    assert all(torch.equal(hard[k], expected[k]) for k in state)
    soft = rebasin.train()(state)
    p, q = (sinkhorn(2.0 * x, 7, 0.5) for x in rebasin.scores)
    torch.testing.assert_close(soft["0.weight"], p @ state["0.weight"])
    torch.testing.assert_close(soft["2.weight"], q @ state["2.weight"] @ p.T)
    torch.testing.assert_close(soft["2.bias"], q @ state["2.bias"])
    torch.testing.assert_close(soft["4.weight"], state["4.weight"] @ q.T)
    assert torch.equal(soft["4.bias"], state["4.bias"])


def test_blocks_of_a_flattened_image_are_mixed_like_their_channel() -> None:
    spec = PermutationSpec({"conv": ("P",), "linear": (None, "P")})
    state = {"conv": torch.zeros(3).double(), "linear": torch.randn(2, 12).double()}
    rebasin = SinkhornRebasin(spec, state)
    (p,) = rebasin.soft().values()
    expected = torch.einsum("ij,ojb->oib", p, state["linear"].view(2, 3, 4)).reshape(2, 12)
    torch.testing.assert_close(rebasin(state)["linear"], expected)


def test_losses_are_their_formulas(batch: tuple[Tensor, Tensor]) -> None:
    model, a, b = net(0), net(1).state_dict(), net(2).state_dict()
    rebasin = SinkhornRebasin(PermutationSpec.of_sequential(net(0)), a)
    moved = rebasin(b)
    total = sum((a[k] - moved[k]).square().sum() for k in a)
    count = sum(v.numel() for v in a.values())
    torch.testing.assert_close(rebasin.distance(a, b), total / count)
    for t in (0.5, 0.2):
        model.load_state_dict(interpolate(a, {k: v.detach() for k, v in moved.items()}, t))
        found = rebasin.between(model, a, b, batch, F.cross_entropy, t)
        torch.testing.assert_close(found, F.cross_entropy(model(batch[0]), batch[1]).detach(), check_stride=False)
        assert torch.autograd.grad(found, rebasin.scores[0])[0].abs().sum() > 0


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("objective", ["distance", "midpoint", "random_point"])
def test_it_learns_an_order_that_was_applied(objective: str, norm: bool, batch: tuple[Tensor, Tensor]) -> None:
    """b is a in another order. Learned through the loss, the path between them sinks to the level of its ends."""
    model = net(3, norm)
    batch = (batch[0], model(batch[0]).argmax(1))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    a = model.state_dict()
    spec = PermutationSpec.of_sequential(model)
    order = {name: torch.arange(n).roll(1) for name, n in spec.sizes(a).items()}
    b = apply_permutation(spec, order, a)
    rebasin = SinkhornRebasin(spec, a, generator=torch.Generator().manual_seed(0))
    rebasin.eval()
    found = rebasin.fit(
        a, b, objective, model=model, loader=[batch] * 10, loss_fn=F.cross_entropy,  # type: ignore[arg-type]
        passes=100 if objective == "distance" else 20, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert not rebasin.training
    aligned = apply_permutation(spec, found, b)
    before, after = (
        interpolation_curve(model, a, other, [batch], F.cross_entropy, 3).values["loss"] for other in (b, aligned)
    )
    assert float(before[1]) > 5 * float(before[0]), "a barrier to begin with"
    assert float(after[1]) < float(before[0]) + 0.2 * float(before[1] - before[0])
    if objective == "distance":
        assert all(torch.equal(aligned[k], a[k]) for k in a)


def test_mistakes(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., n, n\)"):
        sinkhorn(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        sinkhorn(torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="tau=0"):
        sinkhorn(torch.zeros(2, 2), tau=0)
    with pytest.raises(ValueError, match="n_iter=0"):
        sinkhorn(torch.zeros(2, 2), n_iter=0)
    state, spec = net(0).state_dict(), PermutationSpec.of_sequential(net(0))
    with pytest.raises(ValueError, match="l=-1"):
        SinkhornRebasin(spec, state, l=-1)
    rebasin = SinkhornRebasin(spec, state)
    with pytest.raises(ValueError, match="objective='closest'"):
        rebasin.fit(state, state, "closest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs model, loader and loss_fn"):
        rebasin.fit(state, state, "midpoint", loader=[batch])
    with pytest.raises(ValueError, match="lr=0"):
        rebasin.fit(state, state, lr=0)
    with pytest.raises(ValueError, match="passes=0"):
        rebasin.fit(state, state, passes=0)
