"""The curvature of whole networks: against brute force, in pieces, in every mode, and within its memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from landform.landscape import CurvatureOperator, ParameterVector, SymmetricMatrix, class_structure, lanczos

CE = nn.CrossEntropyLoss()


def data(n: int = 7, shape: tuple[int, ...] = (3,), classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def brute(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """The Hessian by torch.func, independent of what is tested."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in params.values()]

    def flat(w: Tensor) -> Tensor:
        parts = {name: part.view(p.shape) for (name, p), part in zip(params.items(), w.split(sizes), strict=True)}
        return loss(functional_call(model, parts, (batch[0],)), batch[1])

    return hessian(flat)(torch.cat([p.flatten() for p in params.values()]))


def differences(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """The Hessian by central differences of the gradient: torch's forward mode is wrong for batch statistics."""
    layout = ParameterVector.of(model)
    w = layout.flatten({name: p.detach() for name, p in model.named_parameters()})

    def gradient(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(loss(functional_call(model, layout.unflatten(at), (batch[0],)), batch[1]), at)[0]

    return torch.stack([(gradient(w + e) - gradient(w - e)) / 2e-6 for e in 1e-6 * torch.eye(len(w)).double()])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh())


class Upsampled(nn.Module):
    """Its backward pass has no vectorised form in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.conv(x), scale_factor=2, mode="bilinear")
        return self.head(x.tanh().mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (3,)),
    "convolutions, in-place ReLU": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(2, 2, 2), nn.ELU(inplace=True), nn.Flatten(), nn.Linear(2, 3),
        ),
        (1, 4, 4),
    ),
    "attention": (Attention, (5, 4)),
    "recurrent": (Recurrent, (3, 4)),
    "tied": (Tied, (3,)),
    "not to be vectorised": (Upsampled, (1, 5, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_hessian_matches_brute_force(name: str) -> None:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build().double().eval()
    batch = data(4, shape)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = brute(model, CE, batch)
    operator = CurvatureOperator(model, CE, batch)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(operator.to_dense(), expected, rtol=0, atol=1e-13)
    v = torch.randn(len(expected), dtype=torch.float64)
    assert torch.allclose(operator @ v, expected @ v, rtol=0, atol=1e-12)


def test_golden_network_spectrum_trace_and_parts() -> None:
    model, batch = mlp(), data()
    whole, gauss_newton, rest = (CurvatureOperator(model, CE, batch, kind).to_dense() for kind in KINDS)
    eigenvalues = torch.linalg.eigvalsh(whole)
    assert torch.isclose(whole.trace(), eigenvalues.sum(), rtol=1e-12)
    assert torch.linalg.eigvalsh(gauss_newton).min() > -1e-15
    # Seven samples of three classes: G has at most n (K - 1) directions.
    assert torch.linalg.matrix_rank(gauss_newton, tol=1e-12) == 14
    assert torch.allclose(gauss_newton + rest, whole, rtol=0, atol=1e-15)
    model_outputs = model(batch[0]).detach()
    slopes = (model_outputs.softmax(1) - F.one_hot(batch[1], 3)) / 7
    frozen = brute(model, lambda f, _: (slopes * f).sum(), batch)
    assert torch.allclose(rest, frozen, rtol=0, atol=1e-14)


KINDS = ("hessian", "ggn", "residual")


def test_softmax_regression_at_zero_has_the_closed_form() -> None:
    x, y = data(40, (4,), 5)
    model = nn.Linear(4, 5, bias=False).double()
    nn.init.zeros_(model.weight)
    found = torch.linalg.eigvalsh(CurvatureOperator(model, CE, (x, y)).to_dense())
    second_moments = torch.linalg.eigvalsh(x.T @ x / 40) / 5
    expected = torch.cat([torch.zeros(4, dtype=torch.float64), second_moments.repeat_interleave(4)])
    assert torch.allclose(found, expected, rtol=0, atol=1e-15)


def test_rescaling_a_relu_layer_keeps_the_loss_and_changes_the_sharpness() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)).double()
    batch = data(20)
    before = CE(model(batch[0]), batch[1])
    top = torch.linalg.eigvalsh(CurvatureOperator(model, CE, batch).to_dense())[-1]
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[2].weight.div_(10)
    assert torch.isclose(CE(model(batch[0]), batch[1]), before, rtol=1e-12)
    assert torch.linalg.eigvalsh(CurvatureOperator(model, CE, batch).to_dense())[-1] > 5 * top


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_any_size_give_the_whole(kind: Any) -> None:
    model, (x, y) = mlp(), data(11)
    expected = CurvatureOperator(model, CE, (x, y), kind).to_dense()
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    for pieces in (
        CurvatureOperator(model, CE, (x, y), kind, chunk=3),
        CurvatureOperator(model, CE, [(x[:2], y[:2]), (x[2:], y[2:])], kind),
        CurvatureOperator(model, CE, [(x[:7], y[:7]), [x[7:], y[7:]]], kind, chunk=5),  # type: ignore[list-item]
        CurvatureOperator(model, CE, loader, kind),
        CurvatureOperator(model, CE, [(x, y)], kind),
    ):
        assert torch.allclose(pieces.to_dense(), expected, rtol=0, atol=1e-15)


def test_a_loss_that_sums_is_summed() -> None:
    model, (x, y) = mlp(), data(6)
    total = nn.CrossEntropyLoss(reduction="sum")
    expected = 6 * CurvatureOperator(model, CE, (x, y)).to_dense()
    for chunk in (None, 4):
        found = CurvatureOperator(model, total, (x, y), chunk=chunk).to_dense()
        assert torch.allclose(found, expected, rtol=0, atol=1e-14)


def test_names_of_losses() -> None:
    model, (x, y) = mlp(), data()
    assert torch.equal(
        CurvatureOperator(model, "ce", (x, y)).to_dense(), CurvatureOperator(model, CE, (x, y)).to_dense()
    )
    target = torch.randn(7, 3, dtype=torch.float64)
    expected = brute(model, lambda f, y: (f - y).square().sum() / 14, (x, target))
    assert torch.allclose(CurvatureOperator(model, "mse", (x, target)).to_dense(), expected, rtol=0, atol=1e-14)


def test_some_parameters_give_a_block() -> None:
    model, batch = mlp(), data()
    whole = CurvatureOperator(model, CE, batch).to_dense()
    block = CurvatureOperator(model, CE, batch, parameters=["2.weight", "2.bias"])
    assert torch.allclose(block.to_dense(), whole[16:, 16:], rtol=0, atol=1e-16)
    assert list(block.layout.shapes) == ["2.weight", "2.bias"]
    model[0].requires_grad_(False)
    assert CurvatureOperator(model, CE, batch).shape == (15, 15)


def test_several_vectors_together_and_one_by_one() -> None:
    operator = CurvatureOperator(mlp(), CE, data())
    vectors = torch.randn(31, 5, dtype=torch.float64)
    one_by_one = torch.stack([operator.matvec(v) for v in vectors.T], dim=1)
    assert torch.allclose(operator @ vectors, one_by_one, rtol=0, atol=1e-15)
    assert operator.matmat(vectors).shape == (31, 5)


def test_it_measures_the_weights_as_they_were() -> None:
    model, batch = mlp(), data()
    operator = CurvatureOperator(model, CE, batch)
    before = operator.to_dense()
    lazy = CurvatureOperator(model, CE, batch)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(operator.to_dense(), before)
    assert torch.equal(lazy.to_dense(), before)
    assert not torch.allclose(CurvatureOperator(model, CE, batch).to_dense(), before)
    assert all(p.grad is None for p in model.parameters())


def test_precision_is_chosen() -> None:
    model, (x, y) = mlp().float(), data()
    single = CurvatureOperator(model, CE, (x.float(), y))
    double = CurvatureOperator(model, CE, (x.float(), y), dtype=torch.float64)
    assert single.matvec(torch.ones(31, dtype=torch.float64)).dtype == torch.float32
    assert double.to_dense().dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32
    expected = brute(model.double(), CE, (x.float().double(), y))
    assert torch.allclose(double.to_dense(), expected, rtol=0, atol=1e-14)


class Named(nn.Module):
    """Takes several inputs, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(1, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.a(first) + self.b(second)).tanh()


def test_inputs_in_tuples_and_dicts() -> None:
    torch.manual_seed(0)
    model, (x, y) = Named().double(), data()
    first, second = x[:, :2], x[:, 2:]
    by_place = CurvatureOperator(model, CE, ((first, second), y)).to_dense()
    by_name = CurvatureOperator(model, CE, ({"second": second, "first": first}, y), chunk=2).to_dense()
    assert by_place.abs().max() > 1e-3
    assert torch.allclose(by_place, by_name, rtol=0, atol=1e-16)


def normalised(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 3)).double()
    model(data(50, seed=3)[0])  # running statistics of their own
    return model


def test_eval_mode_by_default_and_modes_restored() -> None:
    model, batch = normalised(dropout=0.5), data()
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    found = CurvatureOperator(model, CE, batch).to_dense()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert torch.allclose(found, brute(model.eval(), CE, batch), rtol=0, atol=1e-13)


def test_modes_are_restored_after_an_error() -> None:
    model, (x, y) = normalised(), data()
    with pytest.raises(RuntimeError):
        CurvatureOperator(model, CE, (x[:, :2], y)).matvec(torch.ones(39))
    assert all(module.training for module in model.modules())


def test_training_mode_when_told_uses_the_statistics_of_the_batch() -> None:
    model, batch = normalised(), data()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    operator = CurvatureOperator(model, CE, batch, eval_mode=False)
    found = operator.to_dense()
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    for norm in model:
        if isinstance(norm, nn.BatchNorm1d):
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    assert torch.allclose(found, differences(model, CE, batch), rtol=0, atol=1e-8)
    assert not torch.allclose(found, CurvatureOperator(normalised(), CE, batch).to_dense(), atol=1e-3)


def test_wrong_modes_are_refused() -> None:
    batch = data()
    with pytest.raises(ValueError, match="draws random numbers"):
        CurvatureOperator(normalised(dropout=0.5), CE, batch, eval_mode=False)
    with pytest.raises(ValueError, match="no batches"):
        CurvatureOperator(mlp(), CE, DataLoader(TensorDataset(batch[0][:0], batch[1][:0])), eval_mode=False)
    with pytest.raises(ValueError, match="batch statistics of '1'"):
        CurvatureOperator(normalised(), CE, batch, eval_mode=False, chunk=3)
    CurvatureOperator(normalised(dropout=0.5).eval(), CE, batch, eval_mode=False, chunk=3)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"kind": "fisher"}, ValueError, "'hessian', 'ggn', 'residual'"),
        ({"chunk": 0}, ValueError, "chunk=0"),
        ({"dtype": torch.int64}, TypeError, "int64"),
        ({"parameters": []}, ValueError, "no parameters of the model"),
        ({"parameters": ["5.weight"]}, ValueError, r"5\.weight"),
        ({"parameters": "0.weight"}, TypeError, "not one text"),
        ({"loss_fn": "hinge"}, ValueError, "hinge"),
        ({"data": []}, ValueError, "no batches"),
        ({"data": iter([data()])}, TypeError, "only once"),
        ({"data": data()[0]}, TypeError, "Tensor"),
        ({"data": (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))}, ValueError, "empty"),
        ({"data": (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64))}, ValueError, "3 targets"),
        ({"data": [torch.zeros(4, 3)]}, TypeError, "batch must be"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type, match: str) -> None:
    given = {"model": mlp(), "loss_fn": CE, "data": data(), **arguments}
    with pytest.raises(error, match=match):
        CurvatureOperator(**given)


def test_models_and_losses_without_curvature_are_refused() -> None:
    model, (x, y) = mlp(), data()
    v = torch.ones(31, dtype=torch.float64)
    with pytest.raises(ValueError, match="scalar"):
        CurvatureOperator(model, nn.CrossEntropyLoss(reduction="none"), (x, y)).matvec(v)
    with pytest.raises(ValueError, match="does not depend"):
        CurvatureOperator(model, lambda f, y: CE(f.detach(), y), (x, y)).matvec(v)
    with pytest.raises(ValueError, match="does not depend"):
        CurvatureOperator(model, lambda f, y: CE(f.detach(), y), (x, y), "ggn").matvec(v)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        CurvatureOperator(model, CE, (x * torch.nan, y)).matvec(v)
    with pytest.raises(FloatingPointError, match="product"):
        CurvatureOperator(model, CE, (x, y)).matvec(v * torch.inf)
    with pytest.raises(ValueError, match=r"\(30,\)"):
        CurvatureOperator(model, CE, (x, y)).matvec(v[:-1])
    with pytest.raises(ValueError, match="no batches"):
        CurvatureOperator(model, CE, DataLoader(TensorDataset(x[:0], y[:0]))).matvec(v)
    with pytest.raises(ValueError, match="requires a gradient"):
        CurvatureOperator(mlp().requires_grad_(False), CE, (x, y))
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="parameters"):
        CurvatureOperator(model, CE, (x, y))


def test_a_linear_loss_has_no_curvature() -> None:
    model, (x, y) = nn.Linear(3, 3).double(), data()
    for kind in KINDS:
        assert not CurvatureOperator(model, lambda f, y: f.sum(), (x, y), kind).to_dense().any()  # type: ignore[arg-type]


def test_products_work_without_gradients_around_them() -> None:
    model, batch = mlp(), data()
    expected = CurvatureOperator(model, CE, batch).to_dense()
    with torch.no_grad():
        found = CurvatureOperator(model, CE, batch).to_dense()
        part = CurvatureOperator(model, CE, batch, "ggn").to_dense()
        between = class_structure(model, batch).between.to_dense()
    assert torch.equal(found, expected)
    assert torch.equal(part, CurvatureOperator(model, CE, batch, "ggn").to_dense())
    assert torch.equal(between, class_structure(model, batch).between.to_dense())
    assert not any(matrix.requires_grad for matrix in (found, part, between))


def test_dense_matrix_has_a_limit() -> None:
    operator = CurvatureOperator(mlp(), CE, data())
    with pytest.raises(ValueError, match=r"31 × 31.*max_params=30"):
        operator.to_dense(max_params=30)


def test_a_wrong_second_derivative_is_noticed() -> None:
    """torch's fused weight normalisation takes a norm for a constant where it is differentiated twice."""
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 5))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3)).double()
    operator = CurvatureOperator(model, CE, data())
    with pytest.warns(RuntimeWarning, match="one symmetric matrix"):
        operator.to_dense()
    with pytest.warns(RuntimeWarning, match="one symmetric matrix"):
        lanczos(operator, 10)


def test_matrices_are_checked() -> None:
    with pytest.raises(ValueError, match="square"):
        SymmetricMatrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="transpose by 1"):
        SymmetricMatrix(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(TypeError, match="int64"):
        SymmetricMatrix(torch.eye(2, dtype=torch.int64))
    with pytest.raises(FloatingPointError, match="matrix"):
        SymmetricMatrix(torch.full((2, 2), torch.inf))
    with pytest.raises(TypeError, match="str"):
        lanczos("matrix", 2)  # type: ignore[arg-type]


class Live(TorchDispatchMode):
    """The bytes of all tensors made within it that are still alive, and their peak."""

    def __init__(self, *outside: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in outside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return out

    def freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("chunk", [None, 8])
def test_memory_grows_with_the_basis_alone(chunk: int | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 5))
    batch = torch.randn(24, 20), torch.randint(5, (24,))
    peaks = []
    for steps in (5, 25):
        with Live(*model.parameters(), *batch) as live:
            lanczos(CurvatureOperator(model, CE, batch, chunk=chunk), steps)
        peaks.append(live.peak)
        gc.collect()
        assert live.now == 0  # no graph outlives its operator
    vector = 4 * 1045
    assert peaks[1] - peaks[0] == pytest.approx(20 * vector, rel=0.02)


def test_class_structure_splits_the_gauss_newton_matrix() -> None:
    model, (x, y) = mlp(), data(12)
    structure = class_structure(model, (x, y))
    between, within = structure.between.to_dense(), structure.within.to_dense()
    whole = CurvatureOperator(model, CE, (x, y), "ggn").to_dense()
    assert torch.allclose(between + within, whole, rtol=0, atol=1e-15)

    params = {name: p.detach() for name, p in model.named_parameters()}
    jacobians = jacrev(lambda params: functional_call(model, params, (x,)))(params)
    flat = torch.cat([j.flatten(2) for j in jacobians.values()], dim=2)
    p = model(x).detach().softmax(1)
    factors = []
    for j, probability in zip(flat, p, strict=True):
        values, directions = torch.linalg.eigh(torch.diag(probability) - torch.outer(probability, probability))
        values = torch.where(values > 1e-14, values, 0)
        factors.append(j.T @ (directions * values.sqrt()) @ directions.T)
    parts = torch.stack(factors)
    means = torch.stack([parts[y == label].mean(0) for label in range(3)])
    expected_between = sum((y == c).double().mean() * means[c] @ means[c].T for c in range(3))
    spread = parts - means[y]
    expected_within = torch.einsum("npk,nqk->pq", spread, spread) / 12
    assert torch.allclose(between, expected_between, rtol=0, atol=1e-12)
    assert torch.allclose(within, expected_within, rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(between, tol=1e-9) <= 3 * 2
    eigenvalues = structure.between.eigenvalues()
    assert torch.allclose(eigenvalues[:6], torch.linalg.eigvalsh(between).flip(0)[:6], rtol=0, atol=1e-14)


def test_class_structure_needs_logits() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (3, 1))).double()
    x, y = data()
    with pytest.raises(ValueError, match="logits"):
        class_structure(model, (x, y[:, None]))
