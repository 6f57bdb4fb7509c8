"""Lanczos' process, extreme eigenpairs and sharpness, on matrices whose spectrum is known and on a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from landform.landscape import CurvatureOperator, SymmetricMatrix, lanczos, sharpness, top_eigenpairs


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues, in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(
        torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64, generator=generator)
    )
    matrix = (basis * eigenvalues.double()) @ basis.T
    return (matrix + matrix.T) / 2


class Counted(SymmetricMatrix):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix)
        self.products = 0

    def rows(self, vectors: Tensor) -> Tensor:
        self.products += len(vectors)
        return super().rows(vectors)


def tridiagonal(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.diag(alpha) + torch.diag(beta[:-1], 1) + torch.diag(beta[:-1], -1)


def test_five_steps_resolve_five_distinct_eigenvalues_with_their_shares() -> None:
    eigenvalues = torch.tensor([9.0, 4.0, 4.0, 1.0, 1.0, 1.0, -2.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    alpha, beta, Q = lanczos(torch.diag(eigenvalues), 10, v0=torch.ones(10))
    assert alpha.shape == beta.shape == (5,)
    assert Q.shape == (10, 5)
    nodes, vectors = torch.linalg.eigh(tridiagonal(alpha, beta))
    assert torch.allclose(nodes, torch.tensor([-2.0, 0.5, 1.0, 4.0, 9.0], dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.allclose(vectors[0] ** 2, torch.tensor([0.1, 0.3, 0.3, 0.2, 0.1], dtype=torch.float64), atol=1e-12)
    assert beta[-1] < 1e-12 * 9


def test_lanczos_relation_holds() -> None:
    matrix = symmetric(torch.linspace(-1, 5, 40))
    alpha, beta, Q = lanczos(matrix, 12)
    assert torch.allclose(Q.T @ Q, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-14)
    assert torch.allclose(Q.T @ matrix @ Q, tridiagonal(alpha, beta), rtol=0, atol=1e-13)
    rest = matrix @ Q - Q @ tridiagonal(alpha, beta)
    assert rest[:, :-1].abs().max() < 1e-13
    assert torch.isclose(rest[:, -1].norm(), beta[-1], rtol=1e-12)
    assert alpha.dtype == beta.dtype == torch.float64


def test_without_reorthogonalisation_ghosts_appear() -> None:
    eigenvalues = torch.cat([torch.tensor([1000.0]), torch.linspace(0, 1, 199)])
    matrix = torch.diag(eigenvalues.double())
    for reorthogonalize, copies in ((True, 1), (False, 2)):
        alpha, beta, Q = lanczos(matrix, 60, reorthogonalize=reorthogonalize)
        found = torch.linalg.eigvalsh(tridiagonal(alpha, beta))
        assert (found > 999).sum() >= copies
        assert ((found > 999).sum() == 1) == reorthogonalize
        loss = (Q.T @ Q - torch.eye(60, dtype=torch.float64)).abs().max()
        assert (loss < 1e-13) == reorthogonalize


def test_lanczos_starts_are_reproducible_and_checked() -> None:
    matrix = symmetric(torch.linspace(0, 1, 20))
    same = lanczos(matrix, 4).Q
    assert torch.equal(lanczos(matrix, 4, generator=torch.Generator().manual_seed(0)).Q, same)
    assert not torch.equal(lanczos(matrix, 4, generator=torch.Generator().manual_seed(1)).Q, same)
    assert lanczos(matrix, 100).alpha.shape == (20,)
    assert lanczos(torch.zeros(3, 3), 2).alpha.shape == (1,)
    with pytest.raises(ValueError, match="steps=0"):
        lanczos(matrix, 0)
    with pytest.raises(ValueError, match=r"\(19,\)"):
        lanczos(matrix, 2, v0=torch.ones(19))
    for bad in (torch.zeros(20), torch.full((20,), torch.nan)):
        with pytest.raises(ValueError, match="norm"):
            lanczos(matrix, 2, v0=bad)


class Foreign:
    """An operator of somebody else's: a shape, and products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def matvec(self, v: Tensor) -> Tensor:
        return self.matrix @ v


def test_operators_of_others_are_welcome() -> None:
    matrix = symmetric(torch.linspace(0, 1, 50) ** 4)
    assert float(sharpness(Foreign(matrix))) == pytest.approx(1, rel=1e-4)
    with pytest.raises(ValueError, match="square"):
        sharpness(Foreign(torch.zeros(2, 3)))


ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "LA": lambda values: values.sort(descending=True).values,
    "SA": lambda values: values.sort().values,
    "LM": lambda values: values[values.abs().argsort(descending=True, stable=True)],
}


@pytest.mark.parametrize("which", ORDERS)
def test_eigenpairs_of_a_large_matrix(which: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    bulk = 0.1 * torch.randn(290, generator=generator)
    eigenvalues = torch.cat([torch.tensor([9.0, 8.5, 4.0, 3.0, 2.5, -1.5, -2.0, -3.5, -5.0, -6.0]), bulk]).double()
    matrix = symmetric(eigenvalues)
    for tol in (1e-3, 1e-8):
        values, vectors = top_eigenpairs(matrix, 5, which, tol)
        expected = ORDERS[which](eigenvalues)[:5]
        assert torch.allclose(values, expected, rtol=tol, atol=0)
        residuals = (matrix @ vectors - vectors * values).norm(dim=0)
        assert (residuals <= 1.01 * tol * values.abs()).all()
        assert torch.allclose(vectors.T @ vectors, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_full_basis_is_shrunk_and_still_converges() -> None:
    """Without outliers it takes several times the basis' 40 vectors."""
    eigenvalues = torch.linspace(0, 1, 600).double()
    operator = Counted(symmetric(eigenvalues))
    values, _ = top_eigenpairs(operator, 3, tol=1e-6, max_products=1000)
    assert operator.products > 80
    assert torch.allclose(values, eigenvalues.flip(0)[:3], rtol=1e-6, atol=0)


def test_outliers_take_few_products() -> None:
    bulk = torch.linspace(-0.1, 0.5, 1990)
    operator = Counted(torch.diag(torch.cat([bulk, torch.linspace(2, 20, 10)]).double()))
    values, _ = top_eigenpairs(operator, 5)
    assert torch.allclose(values, torch.linspace(2, 20, 10).double().flip(0)[:5], rtol=1e-5)
    assert operator.products <= 25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ORDERS)
def test_repeated_eigenvalues_come_as_often_as_they_are(which: Any, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    several = torch.tensor([7.0, 7.0, 7.0, 5.0, 5.0, -6.0, -6.0, -8.0])
    eigenvalues = torch.cat([several, 0.5 * torch.rand(100, generator=generator)]).double()
    matrix = symmetric(eigenvalues).to(dtype)
    values, vectors = top_eigenpairs(matrix, 5, which, tol=1e-3, repeated=True)
    assert torch.allclose(values, ORDERS[which](eigenvalues)[:5], rtol=1e-4, atol=1e-3 if which == "SA" else 0)
    assert torch.allclose(vectors.T @ vectors, torch.eye(5, dtype=dtype), rtol=0, atol=1e-5)
    residuals = (matrix @ vectors - vectors * values.to(dtype)).norm(dim=0)
    assert (residuals <= 2e-3 * values.abs().clamp(min=8 if which == "SA" else 0)).all()


def test_few_distinct_eigenvalues_are_noticed_without_being_told() -> None:
    eigenvalues = torch.cat([torch.full((4,), 3.0), torch.full((2,), 2.0), torch.zeros(194)]).double()
    values, _ = top_eigenpairs(torch.diag(eigenvalues), 5)
    assert torch.allclose(values, torch.tensor([3.0, 3, 3, 3, 2], dtype=torch.float64), rtol=1e-12)
    for constant in (0.0, 1.0):
        values, _ = top_eigenpairs(constant * torch.eye(100, dtype=torch.float64), 3)
        assert values.tolist() == pytest.approx([constant] * 3)


@settings(max_examples=60, deadline=None)
@example([2.0, 2.0, 2.0001], "SA", 0, 2)  # a repeated eigenvalue closer to another than the tolerance
@given(
    st.lists(st.sampled_from([-3.0, -1.0, -0.25, 0.0, 0.1, 0.5, 1.0, 2.0, 2.0001, 5.0]), min_size=1, max_size=30),
    st.sampled_from(list(ORDERS)),
    st.integers(0, 10**6),
    st.integers(1, 30),
)
def test_small_operators_are_resolved_completely(values: list[float], which: Any, seed: int, k: int) -> None:
    k = min(k, len(values))
    eigenvalues = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    found, vectors = top_eigenpairs(symmetric(eigenvalues, seed), k, which, generator=generator)
    score = torch.abs if which == "LM" else torch.clone
    assert torch.allclose(score(found), score(ORDERS[which](eigenvalues)[:k]), rtol=0, atol=1e-10)
    assert torch.allclose(vectors.T @ vectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-10)


def test_softmax_regression_at_zero_repeats_every_eigenvalue() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 20, generator=generator, dtype=torch.float64) * torch.linspace(0.3, 3, 20).double()
    model = nn.Linear(20, 4, bias=False).double()
    nn.init.zeros_(model.weight)
    operator = CurvatureOperator(model, "ce", (x, torch.arange(200) % 4))
    expected = (torch.linalg.eigvalsh(x.T @ x / 200) / 4).repeat_interleave(3).flip(0)[:8]
    assert torch.allclose(top_eigenpairs(operator, 8, repeated=True, tol=1e-6).values, expected, rtol=1e-7)


def test_a_network_against_arpack() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 5)).double()
    operator = CurvatureOperator(model, "ce", (torch.randn(50, 10).double(), torch.arange(50) % 5), chunk=20)
    linear = LinearOperator(operator.shape, lambda v: operator.matvec(torch.from_numpy(v).flatten()), dtype=np.float64)
    for which in ("LA", "SA", "LM"):
        expected = eigsh(linear, k=4, which=which, tol=1e-12, return_eigenvectors=False)
        found = top_eigenpairs(operator, 4, which, tol=1e-6)  # type: ignore[arg-type]
        assert np.allclose(np.sort(found.values), np.sort(expected), rtol=1e-9, atol=0)


def test_a_start_near_the_eigenvector_saves_products() -> None:
    matrix = symmetric(torch.linspace(0, 1, 200) ** 2)
    cold = Counted(matrix)
    _, vectors = top_eigenpairs(cold, 1, tol=1e-4)
    warm = Counted(matrix + 1e-4 * torch.eye(200))
    top_eigenpairs(warm, 1, tol=1e-3, v0=vectors[:, 0])
    assert warm.products <= 3 < cold.products


def test_too_few_products_warn() -> None:
    matrix = symmetric(torch.linspace(0, 1, 200))
    with pytest.warns(RuntimeWarning, match="after 10 products"):
        values, vectors = top_eigenpairs(matrix, 3, max_products=10)
    assert values.shape == (3,)
    assert vectors.shape == (200, 3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 21}, "size, 20"),
        ({"which": "top"}, "'LA', 'LM', 'SA'"),
        ({"tol": 0.0}, r"tol=0\.0"),
        ({"tol": 1.0}, r"tol=1\.0"),
        ({"k": 3, "max_products": 2}, "need at least 3"),
        ({"v0": torch.ones(3)}, r"\(3,\)"),
    ],
)
def test_bad_requests_are_named(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        top_eigenpairs(torch.eye(20), **arguments)


def test_sharpness_is_the_largest_not_the_largest_in_modulus() -> None:
    matrix = symmetric(torch.cat([torch.tensor([-9.0, 5.0]), torch.linspace(0, 1, 198)]))
    found = sharpness(matrix)
    assert found.value == float(found) == pytest.approx(5, rel=1e-6)
    assert found.products == 20
    assert (matrix @ found.vector - found.value * found.vector).norm() == pytest.approx(found.residual, abs=1e-10)
    assert found.vector.norm() == pytest.approx(1)


def test_sharpness_goes_on_while_its_residual_is_large_and_warns_at_the_end() -> None:
    hard = symmetric(torch.linspace(0, 1, 300))
    found = sharpness(hard)
    assert 20 < found.products < 60
    assert found.residual <= 0.01 * found.value
    with pytest.warns(RuntimeWarning, match="after 25 products"):
        stopped = sharpness(hard, max_steps=25)
    assert stopped.products == 25
    assert stopped.residual > 0.01 * stopped.value


def test_warm_sharpness_takes_a_few_products() -> None:
    matrix = symmetric(torch.cat([torch.tensor([5.0]), torch.linspace(-1, 1, 199)]))
    found = sharpness(matrix)
    moved = matrix + 0.05 * symmetric(torch.linspace(-1, 1, 200), seed=1)
    warm = sharpness(moved, v0=found.vector)
    assert 2 <= warm.products <= 5
    assert warm.value == pytest.approx(float(torch.linalg.eigvalsh(moved)[-1]), rel=1e-3)


def test_sharpness_of_tiny_operators_and_bad_requests() -> None:
    assert float(sharpness(torch.tensor([[-3.0]]))) == -3
    assert float(sharpness(torch.zeros(5, 5))) == 0
    assert float(sharpness(torch.tensor([[-3.0]]), v0=torch.ones(1))) == -3
    for arguments in ({"steps": 0}, {"steps": 70}, {"rtol": 0.0}):
        with pytest.raises(ValueError, match=r"steps|rtol"):
            sharpness(torch.eye(3), **arguments)  # type: ignore[arg-type]
