"""Per-sample gradients against a plain loop of backward passes over batches of one."""

from __future__ import annotations

import copy
import re
import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.training.per_sample import (
    per_sample_grad_dot,
    per_sample_grad_norms,
    per_sample_gradients,
    random_projection,
)

METHODS = ("exact", "layerwise", "auto")


def loop(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor]) -> dict[str, Tensor]:
    """What the functions must give: one backward pass a sample."""
    found: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(x)):
        alone = copy.deepcopy(model)
        loss(alone(x[i : i + 1]), y[i : i + 1]).backward()
        for name, param in alone.named_parameters():
            found[name].append(torch.zeros_like(param) if param.grad is None else param.grad)
    return {name: torch.stack(values) for name, values in found.items()}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert list(got) == list(want)
    scale = max(float(value.abs().max()) for value in want.values())
    for name, value in want.items():
        assert got[name].shape == value.shape
        assert float((got[name] - value).abs().max()) <= tolerance * max(scale, 1.0), name


class Tied(nn.Module):
    """One linear layer used three times, twice as a module and once by its weight alone, on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.read = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(x))
        x = torch.tanh(self.layer(x))
        return self.read(F.linear(x, self.layer.weight).mean(1))


class Tokens(nn.Module):
    """Embedding with a padding token, layer norm, RMS norm, and an output layer tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=-2)
        self.norm = nn.LayerNorm((5, 6))
        self.rms = nn.RMSNorm(6, eps=1e-5)
        self.mix = nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed(tokens))
        x = self.rms(torch.relu(self.mix(x)) + x)
        return F.linear(x.mean(1), self.embed.weight)


class OverwrittenViews(nn.Module):
    """Writes in place to the output of every layer, some of which are views inside PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear, self.norm = nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.conv = nn.Conv1d(4, 3, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).tanh_()
        x = self.linear(x).mul_(2.0)
        x[:, 0] *= 3.0
        x = self.norm(x).view(len(x), -1).tanh_().view(x.shape)
        return self.conv(x.mT).sigmoid_().sum(2)


def conv2d_net(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """The strided conv–conv–linear network, with a normalisation between."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        norm(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), padding=(0, 1), bias=False),
        norm(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def odd_convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, (2, 3), padding="same", dilation=(1, 2), groups=2),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
        nn.Tanh(),
        nn.Conv2d(4, 8, 2, padding="valid", stride=(2, 1)),
        nn.Tanh(),
        nn.Conv2d(8, 6, (2, 3), padding="same", dilation=(1, 2), groups=2),
        nn.Tanh(),
        nn.Conv2d(6, 3, 1, padding=(1, 0), bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


IMAGES = (5, 2, 7, 7)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), (5, 4)),
    "conv": (lambda: conv2d_net(lambda c: nn.Identity()), IMAGES),
    "group norm": (lambda: conv2d_net(lambda c: nn.GroupNorm(2, c)), IMAGES),
    "batch norm": (lambda: conv2d_net(nn.BatchNorm2d), IMAGES),
    "batch norm, no statistics": (lambda: conv2d_net(lambda c: nn.BatchNorm2d(c, track_running_stats=False)), IMAGES),
    "instance norm": (
        lambda: conv2d_net(lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)),
        IMAGES,
    ),
    "odd convolutions": (odd_convolutions, IMAGES),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, dilation=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        ),
        (5, 2, 9),
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(1, 3, 2, stride=(1, 2, 1)), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)),
        (5, 1, 3, 4, 3),
    ),
    "reused": (Tied, (5, 6, 4)),
    "tokens": (Tokens, (5, 5)),
    "views, tokens": (OverwrittenViews, (5, 5)),
}


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    make, shape = CASES[name]
    model = make()
    x = torch.randint(0, 7, shape) if "tokens" in name else torch.randn(shape)
    model(x)  # lets lazy layers see their input
    model = model.double()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    return model, x if "tokens" in name else x.double(), torch.tensor([0, 2, 1, 1, 0])


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_gradients_norms_and_products_equal_a_loop_over_samples(name: str, training: bool) -> None:
    model, x, y = case(name)
    model.train(training)
    want = loop(model, x, y, F.cross_entropy)
    flat = torch.cat([value.flatten(1) for value in want.values()], dim=1)
    before = copy.deepcopy(model.state_dict())
    for method in METHODS:
        assert_same(per_sample_gradients(model, x, y, F.cross_entropy, method=method), want)
        norms = per_sample_grad_norms(model, x, y, F.cross_entropy, method=method)
        torch.testing.assert_close(norms, flat.norm(dim=1), rtol=1e-11, atol=0)
        gram = per_sample_grad_dot(model, x, y, F.cross_entropy, method=method)
        torch.testing.assert_close(gram, flat @ flat.T, rtol=1e-10, atol=1e-11 * float(gram.max()))
    assert model.training is training
    assert all(param.grad is None and param.requires_grad for param in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_mean_of_the_gradients_is_the_gradient_of_the_mean_loss() -> None:
    model, x, y = case("group norm")
    F.cross_entropy(model(x), y).backward()
    got = per_sample_gradients(model, x, y, F.cross_entropy)
    for name, param in model.named_parameters():
        torch.testing.assert_close(got[name].mean(0), param.grad, rtol=1e-10, atol=1e-14)


def test_the_reduction_of_the_loss_over_a_batch_does_not_matter() -> None:
    model, x, y = case("conv")
    want = loop(model, x, y, F.cross_entropy)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]).double())  # alone, its weights cancel
    for loss in (nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(reduction="none"), weighted):
        for method in METHODS:
            assert_same(per_sample_gradients(model, x, y, loss, method=method), want)


def test_an_output_that_is_not_a_tensor_and_a_loss_of_ones_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": self.a(x), "b": self.b(x).detach()}

    def loss(output: dict[str, Tensor], y: Tensor) -> Tensor:
        return ((output["a"].sum(1) - y) ** 2 * output["b"].sum(1)).mean()

    model, x, y = Two().double(), torch.randn(5, 4).double(), torch.randn(5).double()
    want = loop(model, x, y, loss)
    assert float(want["b.weight"].abs().max()) == 0.0
    for method in METHODS:
        assert_same(per_sample_gradients(model, x, y, loss, method=method), want)
        norms = per_sample_grad_norms(model, x, y, loss, method=method)
        torch.testing.assert_close(norms**2, sum(value.flatten(1).square().sum(1) for value in want.values()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 99])
def test_chunks_do_not_change_the_result(method: str, chunk_size: int) -> None:
    model, x, y = case("batch norm")
    want = loop(model, x, y, F.cross_entropy)
    flat = torch.cat([value.flatten(1) for value in want.values()], dim=1)
    options = {"method": method, "chunk_size": chunk_size}
    assert_same(per_sample_gradients(model, x, y, F.cross_entropy, **options), want)
    torch.testing.assert_close(per_sample_grad_norms(model, x, y, F.cross_entropy, **options), flat.norm(dim=1))
    products = per_sample_grad_dot(model, x, y, F.cross_entropy, other=(x[1:4], y[1:4]), **options)
    torch.testing.assert_close(products, flat @ flat[1:4].T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_parameters_asked_for_even_if_frozen(method: str) -> None:
    model, x, y = case("group norm")
    want = loop(model, x, y, F.cross_entropy)
    for param in model.parameters():
        param.requires_grad_(False)
    names = ["3.weight", "0.weight", "1.bias"]
    with torch.no_grad():
        got = per_sample_gradients(model, x, y, F.cross_entropy, params=names, method=method)
    assert_same(got, {name: value for name, value in want.items() if name in names})
    assert not any(param.requires_grad for param in model.parameters())
    model[7].weight.requires_grad_(True)
    assert list(per_sample_gradients(model, x, y, F.cross_entropy, method=method)) == ["7.weight"]


def test_float32_layerwise_norms_are_right_to_float32() -> None:
    model, x, y = case("group norm")
    exact = per_sample_grad_norms(model, x, y, F.cross_entropy, method="exact")
    single = per_sample_grad_norms(model.float(), x.float(), y, F.cross_entropy, method="layerwise")
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


def test_ghost_norms_are_used_both_ways() -> None:
    """‖δ Aᵀ‖² = ⟨AᵀA, δᵀδ⟩: 3 positions on 40 channels take the ghost form, 30 positions on 2 the direct one."""
    torch.manual_seed(0)
    for positions, width in ((3, 40), (30, 2)):
        model = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.Flatten(), nn.Linear(positions * width, 2)
        ).double()
        x, y = torch.randn(4, positions, width).double(), torch.tensor([0, 1, 1, 0])
        want = loop(model, x, y, F.cross_entropy)["0.weight"].flatten(1).norm(dim=1)
        got = per_sample_grad_norms(model, x, y, F.cross_entropy, params=["0.weight"], method="layerwise")
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_products_of_a_linear_layer_are_products_of_inputs_times_products_of_errors() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    x, y = torch.randn(6, 4).double(), torch.randint(0, 3, (6,))
    error = (layer(x).softmax(1) - F.one_hot(y, 3)).detach()
    want = (x @ x.T + 1) * (error @ error.T)  # the 1 is the bias
    torch.testing.assert_close(per_sample_grad_dot(layer, x, y, F.cross_entropy, method="layerwise"), want)


class Centred(nn.Module):
    """Couples the samples: subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        return h - 0.1 * h.mean(0)


class Functional(nn.Module):
    """Uses a parameter outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        assert self.scale.shape == (3,)
        return self.layer(x) * self.scale


class SequenceFirst(nn.Module):
    """Gives its layer (time, sample, feature), with as many times as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).tanh().sum(0)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0].sum(1)


def test_a_sequence_with_a_layer_of_ones_own_or_a_hook_is_checked_all_the_same() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 4).double(), torch.tensor([0, 2, 1, 1, 0])
    hooked = nn.Sequential(nn.Linear(4, 3)).double()
    hooked[0].register_forward_hook(lambda module, args, out: out - out.mean(0))
    patched = nn.Sequential(nn.Linear(4, 3)).double()
    patched[0].forward = types.MethodType(lambda self, x: F.linear(x - x.mean(0), self.weight, self.bias), patched[0])
    for model in (nn.Sequential(nn.Sequential(Centred())).double(), hooked, patched):
        assert_same(per_sample_gradients(model, x, y, F.cross_entropy), loop(model, x, y, F.cross_entropy))
        with pytest.raises(ValueError, match="when the batch around it changes"):
            per_sample_gradients(model, x, y, F.cross_entropy, method="layerwise")


@pytest.mark.parametrize(
    ("make", "shape", "reason"),
    [
        (Centred, (5, 4), "when the batch around it changes"),
        (Functional, (5, 4), "uses parameter 'scale' in mul"),
        (SequenceFirst, (5, 5, 4), "samples on its first axis"),
        (Attention, (5, 3, 4), "uses parameter 'attend.in_proj_weight' in multi_head_attention_forward"),
    ],
)
def test_a_model_without_layerwise_form_is_refused_or_done_exactly(
    make: Callable[[], nn.Module], shape: tuple[int, ...], reason: str
) -> None:
    torch.manual_seed(0)
    model, x, y = make().double(), torch.randn(shape).double(), torch.tensor([0, 2, 1, 1, 0])
    want = loop(model, x, y, F.cross_entropy)
    assert_same(per_sample_gradients(model, x, y, F.cross_entropy, method="exact"), want)
    assert_same(per_sample_gradients(model, x, y, F.cross_entropy), want)
    with pytest.raises(ValueError, match=re.escape(reason)):
        per_sample_gradients(model, x, y, F.cross_entropy, method="layerwise")


def test_dropout_in_training_mode_draws_for_each_sample() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(40, 2)).double()
    x, y = torch.ones(6, 40).double(), torch.zeros(6, dtype=torch.long)
    got = per_sample_gradients(model, x, y, F.cross_entropy)["1.weight"][:, 0]
    dropped = got == 0
    assert dropped.any()
    assert not dropped.all()
    assert len(torch.unique(dropped, dim=0)) == 6
    with pytest.raises(ValueError, match="dropout in training mode"):
        per_sample_gradients(model, x, y, F.cross_entropy, method="layerwise")
    assert_same(per_sample_gradients(model.eval(), x, y, F.cross_entropy), loop(model, x, y, F.cross_entropy))


@pytest.mark.parametrize("method", METHODS)
def test_batch_norm_with_one_value_a_channel_says_which_layer_and_what_to_do(method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    message = (
        "batch normalisation in training mode" if method == "layerwise" else r"layer '1' \(BatchNorm1d\).*eval mode"
    )
    with pytest.raises(ValueError, match=message):
        per_sample_gradients(model, torch.randn(5, 4), torch.zeros(5, dtype=torch.long), F.cross_entropy, method=method)


def test_a_layer_that_cannot_be_vectorised_is_named() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Sequential(Branches()))
    with pytest.raises(ValueError, match=r"layer '2.0' \(Branches\) cannot be vectorised"):
        per_sample_gradients(model, torch.randn(5, 4), torch.zeros(5, dtype=torch.long), F.cross_entropy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": ["nothing"]}, "no parameter 'nothing'"),
        ({"params": []}, "no parameter to differentiate"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"method": "fast"}, "method='fast'"),
        ({"x": torch.zeros(4, 4)}, "4 samples but 5 targets"),
        ({"x": torch.zeros(0, 4), "y": torch.zeros(0)}, "at least one sample"),
        ({"loss": lambda output, y: output}, "one number"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    good = {
        "model": nn.Linear(4, 3),
        "x": torch.randn(5, 4),
        "y": torch.zeros(5, dtype=torch.long),
        "loss": F.cross_entropy,
    }
    for method in METHODS:
        with pytest.raises(ValueError, match=message):
            per_sample_gradients(**{**good, "method": method, **change})
    with pytest.raises(TypeError, match="params='weight'"):
        per_sample_gradients(**good, params="weight")


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_projection_is_the_same_matrix_whatever_the_blocks(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 500).double()
    matrix = random_projection(70, seed=5, kind=kind).rows(0, 500)
    assert matrix.shape == (500, 70)
    for block_size in (1, 63, 64, 200, 10_000):
        project = random_projection(70, seed=5, kind=kind, block_size=block_size)
        torch.testing.assert_close(project(x), x @ matrix, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(project.rows(77, 310), matrix[77:310], rtol=0, atol=0)
        pieces = project(x[:, :123]) + project(x[:, 123:], offset=123)
        torch.testing.assert_close(pieces, x @ matrix, rtol=1e-12, atol=1e-12)
        parameters = {"a": x[:, :120].view(3, 4, 5, 6), "b": x[:, 120:]}
        torch.testing.assert_close(project(parameters), x @ matrix, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(matrix, random_projection(70, seed=6, kind=kind).rows(0, 500))
    assert not torch.allclose(matrix[:64], matrix[64:128])
    assert project(x.float()).dtype == torch.float32


def test_rademacher_entries_and_the_spread_of_projected_norms() -> None:
    dim = 128
    matrix = random_projection(dim, seed=3).rows(0, 4000)
    assert set((matrix * dim**0.5).round(decimals=9).unique().tolist()) == {-1.0, 1.0}
    assert abs(float(matrix.sign().mean())) < 5 / (4000 * dim) ** 0.5
    # Columns and rows are uncorrelated: PᵀP ≈ (d / p) I.
    gram = matrix.T @ matrix * dim / 4000
    assert float((gram - torch.eye(dim)).abs().max()) < 6 / 4000**0.5
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 300, generator=generator).double()
    ratio = random_projection(dim, seed=4)(x).square().sum(1) / x.square().sum(1)
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float(ratio.std()) == pytest.approx((2 / dim) ** 0.5, rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim=0"),
        ({"dim": 3, "seed": -1}, "seed=-1"),
        ({"dim": 3, "kind": "sparse"}, "kind='sparse'"),
        ({"dim": 3, "block_size": 0}, "block_size=0"),
    ],
)
def test_bad_projections_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_projection(**arguments)


def test_bad_vectors_are_refused() -> None:
    project = random_projection(3)
    for bad in (torch.zeros(3), torch.zeros(3, 4, dtype=torch.long)):
        with pytest.raises(ValueError, match="floating-point vectors"):
            project(bad)
    with pytest.raises(ValueError, match="nothing to project"):
        project({})
    with pytest.raises(ValueError, match="offset=-1"):
        project(torch.zeros(2, 3), offset=-1)
