"""GradSign against a loop of backward passes, in integers, and the invariants that its definition implies."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from landform.search import NASBench201Network, optima_spread, per_sample_sign_agreement
from landform.search.sign_agreement import _SignCount


def loop(model: nn.Module, x: Tensor, y: Tensor, loss_fn=F.cross_entropy, names=None) -> dict[str, Tensor]:
    """|Σ_i sign g_i| by one backward pass a sample."""
    model = copy.deepcopy(model)
    if names is None:
        names = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    params = dict(model.named_parameters())
    total = {name: torch.zeros_like(params[name]) for name in names}
    for i in range(len(x)):
        loss = loss_fn(model(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, [params[n] for n in names], allow_unused=True)
        for name, grad in zip(names, grads, strict=True):
            if grad is not None:
                total[name] += grad.sign()
    return {name: value.abs().to(torch.int32) for name, value in total.items()}


def score(model: nn.Module, x: Tensor, y: Tensor, **options) -> float:
    return float(sum(int(v.sum()) for v in loop(model, x, y, **options).values()))


class Residual(nn.Module):
    """A shared layer used twice, a skip, grouped and dilated convolutions, a linear layer on positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.shared(x).tanh()
        x = self.shared(x)
        x = x + self.mix(x.movedim(1, -1)).movedim(-1, 1)
        return self.head(x.mean((2, 3)))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, 6, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("build", [plain, normed, Residual])
@pytest.mark.parametrize("chunk_size", [None, 1, 5, 100])
def test_it_is_the_loop_over_samples_in_integers(build, chunk_size):
    model, (x, y) = build().double(), batch()
    found = per_sample_sign_agreement(model, x, y, reduce="none", chunk_size=chunk_size)
    expected = loop(model, x, y)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.int32
        assert torch.equal(found[name], value), name
    assert per_sample_sign_agreement(model, x, y, chunk_size=chunk_size) == score(model, x, y)


@pytest.mark.parametrize("build", [plain, normed, Residual])
def test_it_is_the_same_when_memory_allows_but_one_gradient_at_a_time(build, monkeypatch):
    monkeypatch.setattr("landform.search.sign_agreement.BLOCK", 1)
    model, (x, y) = build().double(), batch()
    assert per_sample_sign_agreement(model, x, y) == score(model, x, y)
    joint = per_sample_sign_agreement(model, x, y, batch_mode="joint")
    monkeypatch.undo()
    assert per_sample_sign_agreement(model, x, y, batch_mode="joint") == joint


def test_a_running_average_of_batch_norm_in_eval_mode_is_used():
    model, (x, y) = normed().double(), batch()
    model(x)
    training = per_sample_sign_agreement(model, x, y)
    model.eval()
    assert per_sample_sign_agreement(model, x, y) == score(model, x, y) != training


def test_a_model_without_closed_forms_takes_the_exact_path():
    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(72, 5)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            scale = self.inner.weight.square().mean()  # a weight met outside of its layer
            return self.head((self.inner(x.flatten(1)) * scale).tanh())

    model, (x, y) = Unusual().double(), batch()
    for chunk_size in (None, 5):
        found = per_sample_sign_agreement(model, x, y, reduce="none", chunk_size=chunk_size)
        assert all(torch.equal(found[name], value) for name, value in loop(model, x, y).items())


def test_a_selection_may_count_any_parameter():
    model, (x, y) = normed().double(), batch()
    names = ["0.bias", "1.weight", "1.bias", "6.weight", "6.bias"]
    found = per_sample_sign_agreement(model, x, y, params=lambda name, p: name in names, reduce="none")
    expected = loop(model, x, y, names=names)
    # The bias before a normalisation has no gradient but rounding error, in the loop too: leave it out.
    assert list(found) == names
    assert all(torch.equal(found[name], expected[name]) for name in names[1:])


def test_one_sample_counts_the_weights_with_a_gradient():
    model, (x, y) = plain().double(), batch(1)
    params = [model[i].weight for i in (0, 3, 5)]
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), params)
    alive = sum(int((g != 0).sum()) for g in grads)
    assert 0 < alive < sum(p.numel() for p in params)  # dead ReLUs: sign(0) = 0
    assert per_sample_sign_agreement(model, x, y) == alive


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 9), seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 2.0, 1e5]))
def test_bounds_and_invariances(n, seed, scale):
    torch.manual_seed(seed)
    model = plain().double()
    weights = sum(model[i].weight.numel() for i in (0, 3, 5))
    x, y = torch.randn(n, 2, 6, 6, dtype=torch.float64), torch.randint(3, (n,))
    value = per_sample_sign_agreement(model, x, y)
    assert 0 <= value <= n * weights
    order = torch.randperm(n)
    assert per_sample_sign_agreement(model, x[order], y[order]) == value
    assert per_sample_sign_agreement(model, x, y, lambda z, t: scale * F.cross_entropy(z, t)) == value
    assert per_sample_sign_agreement(model, torch.cat([x, x]), torch.cat([y, y])) == 2 * value
    assert per_sample_sign_agreement(model, x, y, reduce="mean") == pytest.approx(value / weights)
    alike = per_sample_sign_agreement(model, x[:1].expand(n, -1, -1, -1), y[:1].expand(n))
    assert alike == n * per_sample_sign_agreement(model, x[:1], y[:1])


def test_linear_regression_with_one_weight():
    model = nn.Linear(1, 1, bias=False).double()
    x, y = torch.randn(20, 1, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    w = model.weight.item()
    expected = abs(torch.sign(x * (w * x - y)).sum().item())
    assert per_sample_sign_agreement(model, x, y, lambda z, t: 0.5 * ((z - t) ** 2).sum()) == expected


def test_signs_are_added_up_exactly_zeros_and_nan_apart():
    gradients = torch.tensor([[1.0, -2.0, 0.0, 5.0], [-3.0, -0.1, 0.0, float("nan")], [4.0, -9.0, 0.0, 6.0]])
    count = _SignCount({"w": nn.Parameter(torch.zeros(4))})
    count.add("w", gradients[:1])
    count.add("w", gradients[1:])
    assert count.agreement()["w"].tolist() == [1, 3, 0, 0]
    assert count.coordinates() == 3


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_nan_gradient_discards_its_weight_and_no_other(chunk_size):
    model = nn.Linear(2, 2, bias=False).double()
    x = torch.tensor([[1.0, float("inf")], [1.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)

    # The gradient is y xᵀ: 0·∞ for the first sample at weight (0, 1).
    found = per_sample_sign_agreement(
        model, x, y, lambda z, t: (z * t).sum(), params=lambda name, p: True, reduce="none", chunk_size=chunk_size
    )
    assert found["weight"].tolist() == [[2, 0], [3, 1]]


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_joint_mode_differentiates_each_loss_of_the_batch(chunk_size):
    model, (x, y) = normed().double(), batch()
    params = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    clone = copy.deepcopy(model)
    losses = F.cross_entropy(clone(x), y, reduction="none")
    weights = [dict(clone.named_parameters())[n] for n in params]
    total = [torch.zeros_like(w) for w in weights]
    for loss in losses:
        for t, g in zip(total, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
            t += g.sign()
    found = per_sample_sign_agreement(model, x, y, batch_mode="joint", reduce="none", chunk_size=chunk_size)
    for name, t in zip(params, total, strict=True):
        assert torch.equal(found[name], t.abs().to(torch.int32)), name
    joint = sum(int(v.sum()) for v in found.values())
    assert joint != per_sample_sign_agreement(model, x, y)  # BatchNorm couples the samples


def test_joint_and_single_agree_without_batch_statistics():
    model, (x, y) = plain().double(), batch()
    assert per_sample_sign_agreement(model, x, y, batch_mode="joint") == per_sample_sign_agreement(model, x, y)
    tested = normed().double().eval()
    assert per_sample_sign_agreement(tested, x, y, batch_mode="joint") == per_sample_sign_agreement(tested, x, y)


def test_batch_norm_of_a_single_value_needs_joint_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()
    x, y = batch()
    with pytest.raises(ValueError, match="single value"):
        per_sample_sign_agreement(model, x, y)
    assert per_sample_sign_agreement(model, x, y, batch_mode="joint") > 0


@pytest.mark.parametrize("batch_mode", ["single", "joint"])
def test_scoring_leaves_no_trace(batch_mode):
    model, (x, y) = normed().double(), batch()
    model.append(nn.Dropout(0.5))
    F.cross_entropy(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    per_sample_sign_agreement(model, x, y, batch_mode=batch_mode)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert int(model[1].num_batches_tracked) == 1
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_single_and_double_precision_agree_on_a_benchmark_cell():
    torch.manual_seed(0)
    model = NASBench201Network("333132", 10, channels=4, cells_per_stage=1)
    x, y = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    single = per_sample_sign_agreement(model, x, y)
    double = per_sample_sign_agreement(model.double(), x.double(), y)
    assert single == pytest.approx(double, rel=2e-3)
    assert double == score(model, x.double(), y)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": torch.zeros(0, 2, 6, 6), "y": torch.zeros(0)}, "n ≥ 1"),
        ({"y": torch.zeros(3)}, "with a target each"),
        ({"params": lambda name, p: False}, "selects none"),
        ({"params": "biases"}, "params='biases'"),
        ({"model": nn.Flatten()}, "selects none"),
        ({"batch_mode": "both"}, "batch_mode='both'"),
        ({"reduce": "max"}, "reduce='max'"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"loss_fn": lambda z, t: z}, "loss"),
        ({"model": plain().half(), "x": torch.zeros(12, 2, 6, 6, dtype=torch.half)}, "float16"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, match):
    x, y = batch()
    arguments = {"model": plain().double(), "x": x, "y": y, **change}
    with pytest.raises(ValueError, match=match):
        per_sample_sign_agreement(**arguments)


def test_optima_spread_is_the_mean_distance_of_pairs():
    optima = torch.randn(9, 4, dtype=torch.float64)
    pairs = torch.cdist(optima, optima, p=1).sum()
    assert optima_spread(optima, 3.0) == pytest.approx(float(3.0**0.5 * pairs / 81), rel=1e-12)
    assert optima_spread(optima[:1], 3.0) == 0
    with pytest.raises(ValueError, match="curvature=0"):
        optima_spread(optima, 0)
    with pytest.raises(ValueError, match="optima"):
        optima_spread(optima[:0], 1)


def test_the_spread_bounds_the_loss_at_the_joint_optimum_of_quadratics():
    curvature = 2.5
    for n in (2, 7, 30):
        t = torch.randn(n, 1, dtype=torch.float64)
        loss = float((curvature / 2 * (t.mean() - t) ** 2).mean())
        assert loss == pytest.approx(float(curvature / (4 * n**2) * (t - t.T).square().sum()), rel=1e-12)
        assert loss <= n**3 / 4 * optima_spread(t, curvature) ** 2 * (1 + 1e-12)


@pytest.mark.parametrize("n", [64, 300])
def test_wide_layers_are_counted_exactly(n: int) -> None:
    """Where signs are multiplied in bfloat16 (up to 256 samples), and where they are not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 3)).double()
    x, y = torch.randn(n, 32, dtype=torch.float64), torch.randint(3, (n,))
    expected = loop(model, x, y)
    found = per_sample_sign_agreement(model, x, y, reduce="none")
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in expected.items()}
    assert per_sample_sign_agreement(model, x, y) == float(sum(int(v.sum()) for v in expected.values()))


def test_unanimous_samples_beyond_bfloat16_and_float32_sums() -> None:
    """Every weight agrees n times: n is not a bfloat16 number, and the total no float32 one."""
    model = nn.Linear(1024, 128, bias=False)
    x = torch.ones(255, 1024)
    y = torch.full((255, 128), 1e6)
    assert per_sample_sign_agreement(model, x, y, F.mse_loss) == 255 * 1024 * 128
    x, y = torch.ones(257, 1024), torch.full((257, 128), 1e6)
    for chunk_size in (None, 256, 200):  # each chunk is a bfloat16 number, their sum is none
        assert per_sample_sign_agreement(model, x, y, F.mse_loss, chunk_size=chunk_size) == 257 * 1024 * 128


def test_an_infinite_input_where_no_gradient_arrives() -> None:
    """The second sample's gradient is (0 · inf, 0 · 1; 1 · inf, 1 · 1): NaN counts as zero, the others as signs."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.ones_(model.weight)
    x, y = torch.tensor([[1.0, 2.0], [float("inf"), 1.0]]), torch.zeros(2, 2)

    def second(output: Tensor, target: Tensor) -> Tensor:
        return (output - target)[:, 1].sum()

    found = per_sample_sign_agreement(model, x, y, second, reduce="none")
    assert found["weight"].tolist() == [[0, 0], [2, 2]]
