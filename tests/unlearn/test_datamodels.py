"""Datamodels against scikit-learn, plain means and exact group deletion; TRAK against plain gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from torch import nn

from landform.models import MLP
from landform.training.many import Stack
from landform.training.per_sample import random_projection
from landform.unlearn import (
    TrakAttribution,
    centred,
    classification_margin,
    fit_datamodels,
    lds,
    predict_deletion,
    principal_forget_set,
    subset_masks,
    trak_scores,
)

FLOAT = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed))


def subsets(models: int, n: int, keep: float = 0.7, seed: int = 0) -> torch.Tensor:
    return subset_masks(models, n, keep, generator=torch.Generator().manual_seed(seed))


# --- the fits


@pytest.mark.parametrize(("models", "n"), [(40, 12), (15, 30)])
@pytest.mark.parametrize("alpha", [0.5, 30.0])
def test_ridge_is_scikit_learns(models: int, n: int, alpha: float) -> None:
    masks, outputs = subsets(models, n), normal(models, 4, 3)
    beta, bias = fit_datamodels(masks, outputs, "ridge", alpha)
    fit = Ridge(alpha=alpha, solver="svd").fit(masks.double().numpy(), outputs.flatten(1).numpy())
    np.testing.assert_allclose(beta.flatten(1).numpy(), fit.coef_.T, atol=1e-10)
    np.testing.assert_allclose(bias.flatten().numpy(), fit.intercept_, atol=1e-10)
    assert (beta.shape, bias.shape) == ((n, 4, 3), (4, 3))


def test_ridge_without_shrinkage_is_least_squares() -> None:
    masks, outputs = subsets(60, 8), normal(60, 5)
    beta, bias = fit_datamodels(masks, outputs, alpha=0)
    fit = LinearRegression().fit(masks.double().numpy(), outputs.numpy())
    np.testing.assert_allclose(beta.numpy(), fit.coef_.T, atol=1e-10)
    np.testing.assert_allclose(bias.numpy(), fit.intercept_, atol=1e-10)


def test_lasso_meets_its_optimality_conditions() -> None:
    """Where β is not 0 the gradient of the squared error is −alpha · sign β, elsewhere at most alpha in size."""
    masks, outputs, alpha = subsets(80, 10), normal(80, 6), 0.05
    outputs = outputs + masks[:, :1].double() * 2
    beta, bias = fit_datamodels(masks, outputs, "lasso", alpha)
    x = masks.double()
    gradient = x.T @ (x @ beta + bias - outputs) / 80
    used = beta != 0
    assert used.any()
    assert not used.all()
    torch.testing.assert_close(gradient[used], -alpha * beta[used].sign(), rtol=0, atol=1e-6)
    assert gradient[~used].abs().max() <= alpha + 1e-6
    torch.testing.assert_close((x @ beta + bias).mean(0), outputs.mean(0))
    fit = Lasso(alpha=alpha, tol=1e-12, max_iter=10**6).fit(x.numpy(), outputs.numpy())
    np.testing.assert_allclose(beta.numpy(), fit.coef_.T, atol=1e-7)


def test_lasso_of_one_target() -> None:
    beta, bias = fit_datamodels(subsets(30, 5), normal(30, 1), "lasso", 0.01)
    assert (beta.shape, bias.shape) == ((5, 1), (1,))


def test_difference_is_a_difference_of_means() -> None:
    masks, outputs = subsets(50, 7), normal(50, 3, 2)
    beta, bias = fit_datamodels(masks, outputs, "difference")
    for i in range(7):
        expected = outputs[masks[:, i]].mean(0) - outputs[~masks[:, i]].mean(0)
        torch.testing.assert_close(beta[i], expected, rtol=0, atol=1e-12)
    predicted = bias + torch.einsum("jn,nmk->jmk", masks.double(), beta)
    torch.testing.assert_close(predicted.mean(0), outputs.mean(0), rtol=0, atol=1e-12)


def test_all_estimators_find_the_effects_of_a_full_factorial_design() -> None:
    masks = torch.tensor(list(itertools.product([False, True], repeat=4)))
    true_beta, true_bias = normal(4, 5, seed=1), normal(5, seed=2)
    outputs = masks.double() @ true_beta + true_bias
    for method, alpha in (("difference", 1.0), ("ridge", 0.0)):
        beta, bias = fit_datamodels(masks, outputs, method, alpha)  # type: ignore[arg-type]
        torch.testing.assert_close(beta, true_beta, rtol=0, atol=1e-12)
        torch.testing.assert_close(bias, true_bias, rtol=0, atol=1e-12)


def test_fits_come_in_the_dtype_of_the_outputs() -> None:
    beta, bias = fit_datamodels(subsets(20, 5), normal(20, 2).float())
    assert beta.dtype == bias.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"masks": torch.ones(4, 3)}, TypeError, "masks are"),
        ({"outputs": torch.zeros(4, 2).long()}, TypeError, "outputs are"),
        ({"outputs": torch.zeros(5, 2)}, ValueError, r"\(4, 3\) and outputs of shape \(5, 2\)"),
        ({"outputs": torch.full((4, 2), torch.inf)}, ValueError, "8 values are not finite"),
        ({"method": "elastic"}, ValueError, "method='elastic'"),
        ({"alpha": -1.0}, ValueError, "alpha=-1"),
        ({"method": "lasso", "alpha": 0.0}, ValueError, "alpha=0"),
        ({"method": "difference"}, ValueError, "sample 0 is in every subset"),
    ],
)
def test_fits_refuse(change: dict[str, object], error: type[Exception], named: str) -> None:
    arguments = {"masks": torch.ones(4, 3).bool(), "outputs": torch.zeros(4, 2), **change}
    with pytest.raises(error, match=named):
        fit_datamodels(**arguments)  # type: ignore[arg-type]


# --- predictions


def test_deletion_is_additive_and_nothing_without_a_forget_set() -> None:
    logits, beta = normal(6, 4, 3), normal(10, 4, 3, seed=1)
    both = predict_deletion(logits, beta, [1, 7, 3], 0.8)
    torch.testing.assert_close(predict_deletion(predict_deletion(logits, beta, [1, 7], 0.8), beta, [3], 0.8), both)
    torch.testing.assert_close(both[2], logits[2] - 0.8 * (beta[1] + beta[7] + beta[3]), rtol=0, atol=1e-12)
    assert torch.equal(predict_deletion(logits, beta, []), logits)


@pytest.mark.parametrize(
    ("forget", "named"), [([10], "samples are 0 to 9"), ([-1], "-1"), ([2, 2], "twice"), ([0.5], r"\(F,\) integers")]
)
def test_deletion_refuses(forget: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        predict_deletion(torch.zeros(4), torch.zeros(10, 4), forget)
    with pytest.raises(ValueError, match="do not end in"):
        predict_deletion(torch.zeros(5), torch.zeros(10, 4), [0])


def test_deleting_a_group_from_a_ridge_regression() -> None:
    """Weights w(S) of ridge on S. Exactly: w(S∖F) = w(S) − A⁻¹ X_Fᵀ (I − H_F)⁻¹ r_F, and to first order without H_F.

    What predict_deletion adds up are first-order effects; datamodels fitted to subsets close to all find them.
    """
    n, d = 300, 3
    x, query, eye = normal(n, d), normal(5, d, seed=2), torch.eye(d, dtype=FLOAT)
    target = x @ normal(d, seed=3) + normal(n, seed=1)

    def weights(kept: torch.Tensor) -> torch.Tensor:
        held = x * kept.double().unsqueeze(-1)
        return torch.linalg.solve(held.mT @ x + 2 * eye, held.mT @ target)

    everything, forget = torch.ones(n).bool(), torch.tensor([3, 10, 41])
    without = everything.clone()
    without[forget] = False
    w, inverse = weights(everything), torch.linalg.inv(x.T @ x + 2 * eye)
    residual, hat = target[forget] - x[forget] @ w, x[forget] @ inverse @ x[forget].T
    exact = w - inverse @ x[forget].T @ torch.linalg.solve(torch.eye(3, dtype=FLOAT) - hat, residual)
    torch.testing.assert_close(weights(without), exact, rtol=0, atol=1e-12)

    change = (query @ (exact - w)).abs().max().item()
    effects = (target - x @ w).unsqueeze(1) * (x @ inverse @ query.T)
    first = predict_deletion(query @ w, effects, forget)
    torch.testing.assert_close(first, query @ exact, rtol=0, atol=0.05 * change)
    masks = subsets(2000, n, 0.95)
    beta, _ = fit_datamodels(masks, weights(masks) @ query.T, alpha=0.0)
    torch.testing.assert_close(predict_deletion(query @ w, beta, forget), query @ exact, rtol=0, atol=0.1 * change)


def test_centred_logits_have_the_same_softmax_and_no_shift() -> None:
    logits = normal(4, 5)
    torch.testing.assert_close(centred(logits).softmax(-1), logits.softmax(-1))
    torch.testing.assert_close(centred(logits), centred(logits + 3))


def test_lds_of_the_true_effects_is_one() -> None:
    masks, beta = subsets(30, 8, seed=3), normal(8, 5)
    outputs = masks.double() @ beta + 2
    assert lds(beta, masks, outputs) == pytest.approx(1, abs=1e-12)
    assert lds(-beta, masks, outputs) == pytest.approx(-1, abs=1e-12)


def test_lds_is_the_mean_of_spearmans() -> None:
    masks, beta, outputs = subsets(25, 8, seed=3), normal(8, 3, 2), normal(25, 3, 2, seed=1)
    predicted = torch.einsum("jn,nmk->jmk", masks.double(), beta)
    each = [
        stats.spearmanr(predicted[:, x, k].numpy(), outputs[:, x, k].numpy()).statistic
        for x in range(3)
        for k in range(2)
    ]
    assert lds(beta, masks, outputs) == pytest.approx(float(np.mean(each)), abs=1e-12)
    outputs[:, 0, 0] = 1.0  # no order: counts as 0
    assert lds(beta, masks, outputs) == pytest.approx(float(np.sum(each[1:]) / 6), abs=1e-12)
    with pytest.raises(ValueError, match="beta"):
        lds(beta[:, :2], masks, outputs)


# --- principal forget sets


def test_principal_sets_are_the_ends_of_a_known_direction() -> None:
    """Column j is s_j u + small noise: the first component orders the points by s, its larger end first."""
    direction = torch.tensor([3.0, -1.0, 0.5, -2.0, 0.0, 1.0], dtype=FLOAT)
    u = torch.nn.functional.normalize(normal(6), dim=0)
    beta = torch.outer(u, direction) + 1e-3 * normal(6, 6, seed=1)
    assert principal_forget_set(beta, size=2).tolist() == [0, 5]
    assert principal_forget_set(beta, size=2, tail="bottom").tolist() == [3, 1]
    assert principal_forget_set(beta, size=3, tail="both").tolist() == [0, 5, 3]
    assert principal_forget_set(beta, component=1, size=6).sort().values.tolist() == list(range(6))


@pytest.mark.parametrize("change", [{"component": 5}, {"size": 0}, {"size": 7}, {"tail": "left"}])
def test_principal_sets_refuse(change: dict[str, object]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}="):
        principal_forget_set(torch.eye(6), **{"size": 2, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="square"):
        principal_forget_set(torch.ones(3, 4))


# --- TRAK


def plain_trak(
    models: list[nn.Module], x: torch.Tensor, y: torch.Tensor, targets: slice, dim: int, reg: float
) -> torch.Tensor:
    """A gradient at a time, and an explicit inverse."""
    total, p = torch.zeros(len(x), len(x[targets]), dtype=FLOAT), torch.zeros(len(x), dtype=FLOAT)
    for m, model in enumerate(models):
        rows = []
        for i in range(len(x)):
            model.zero_grad()
            classification_margin(model(x[i : i + 1]), y[i : i + 1]).sum().backward()
            rows.append(torch.cat([param.grad.flatten() for param in model.parameters()]))  # type: ignore[union-attr]
        g = random_projection(dim, 5 + 100_000 * m)(torch.stack(rows))
        total += g @ torch.linalg.inv(g.T @ g + reg * torch.eye(dim, dtype=FLOAT)) @ g[targets].T
        p += 1 - model(x).softmax(-1)[torch.arange(len(x)), y].detach()
    return total / len(models) * (p / len(models)).unsqueeze(1)


def test_trak_is_the_plain_formula() -> None:
    stack = Stack.from_factory(lambda: MLP(4, (6,), 3), 2, 0).to(FLOAT)
    x, y = normal(25, 4), torch.arange(25) % 3
    trak = TrakAttribution(stack, proj_dim=8, seed=5, lambda_reg=0.1, chunk_size=7)
    found = trak.features([(x[:10], y[:10]), (x[10:], y[10:])]).scores((x[:4], y[:4]))
    expected = plain_trak([stack.module(0), stack.module(1)], x, y, slice(0, 4), 8, 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_trak_of_a_linear_model_without_projection_is_leverage() -> None:
    """For features X the margin of two classes has gradients ±X: scores are y_i y_x x_iᵀ (XᵀX)⁻¹ x_x (1 − p_i)."""
    x, p = normal(12, 3), torch.rand(1, 12, dtype=FLOAT)
    found = trak_scores(x.unsqueeze(0), x[:2].unsqueeze(0), p)
    torch.testing.assert_close(found, x @ torch.linalg.inv(x.T @ x) @ x[:2].T * (1 - p[0]).unsqueeze(1))


def test_trak_leaves_models_and_their_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2)).double().train()
    before = [p.clone() for p in model.parameters()]
    x, y = normal(20, 4), torch.arange(20) % 2
    one, two = (TrakAttribution(model, proj_dim=6).features((x, y)).scores((x, y)) for _ in range(2))
    assert torch.equal(one, two)  # without dropout
    assert model.training
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_trak_refuses() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="features"):
        TrakAttribution(model).scores((torch.zeros(1, 3), torch.zeros(1).long()))
    data = (torch.randn(5, 3), torch.zeros(5).long())
    short = TrakAttribution(model, proj_dim=8).features(data)
    with pytest.raises(ValueError, match="5 training samples cannot determine 8 dimensions"):
        short.scores(data)
    with pytest.raises(ValueError, match="singular"):
        trak_scores(torch.zeros(1, 5, 2), torch.zeros(1, 3, 2), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="model"):
        TrakAttribution([])
    with pytest.raises(TypeError, match="str"):
        TrakAttribution(["net"])  # type: ignore[list-item]
