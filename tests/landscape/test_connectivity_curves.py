"""Curves against a plain loop over networks, barriers against hand-made curves, recalibration against update_bn."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import Curve, barrier, interpolate, interpolation_curve, recalibrate_batchnorm

Batches = list[tuple[Tensor, Tensor]]


def mlp(seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)).double()


@pytest.fixture
def data() -> Batches:
    """Batches of unequal sizes, so that a mean of batch means would be wrong."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (50,), generator=generator)
    return [(x[:30], y[:30]), (x[30:47], y[30:47]), (x[47:], y[47:])]


def by_hand(model: nn.Module, state: dict[str, Tensor], data: Batches) -> tuple[float, float]:
    model = copy.deepcopy(model)
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
        out = model(x)
        return float(F.cross_entropy(out, y)), float((out.argmax(1) != y).double().mean())


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_a_curve_is_a_loop_over_interpolated_networks(data: Batches, chunk_size: int | None) -> None:
    model, a, b = mlp().train(), mlp(1).state_dict(), mlp(2).state_dict()
    before = copy.deepcopy(model.state_dict())
    curve = interpolation_curve(model, a, b, data, F.cross_entropy, n_points=7, chunk_size=chunk_size)
    assert torch.equal(curve.t, torch.linspace(0, 1, 7, dtype=torch.float64))
    for t, loss, error in zip(curve.t.tolist(), curve.values["loss"], curve.values["error"], strict=True):
        expected = by_hand(model, interpolate(a, b, t), data)
        assert (float(loss), float(error)) == pytest.approx(expected, rel=1e-12)
    assert model.training, "the mode is left as it was"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "and so are the weights"


def test_curves_of_other_paths_and_of_some_layers(data: Batches) -> None:
    model, a, b, c = mlp(), mlp(1).state_dict(), mlp(2).state_dict(), mlp(3).state_dict()
    bent = interpolation_curve(model, a, b, data, F.cross_entropy, 5, mode="bezier", control=c)
    part = interpolation_curve(model, a, b, data, F.cross_entropy, 5, mode="slerp", layers=["3"])
    for i, t in enumerate(bent.t.tolist()):
        expected = by_hand(model, interpolate(a, b, t, "bezier", control=c), data)
        assert float(bent.values["loss"][i]) == pytest.approx(expected[0], rel=1e-12)
        expected = by_hand(model, interpolate(a, b, t, "slerp", ["3"]), data)
        assert float(part.values["loss"][i]) == pytest.approx(expected[0], rel=1e-12)


class Branching(nn.Module):
    """Control flow that depends on data cannot be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out if out.sum() > 0 else -out


def test_networks_that_cannot_be_vectorised_are_looped_over(data: Batches) -> None:
    torch.manual_seed(0)
    model, a, b = Branching(), Branching().state_dict(), Branching().state_dict()
    curve = interpolation_curve(model, a, b, data[:1], F.cross_entropy, 5)
    for t, loss in zip(curve.t.tolist(), curve.values["loss"].tolist(), strict=True):
        assert loss == pytest.approx(by_hand(model, interpolate(a, b, t), data[:1])[0], rel=1e-12)


class Tied(nn.Module):
    """Its state dict holds one tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.relu(self.encoder(x)))


def test_tied_weights_stay_tied(data: Batches) -> None:
    torch.manual_seed(0)
    model, a, b = Tied(), Tied().state_dict(), Tied().state_dict()
    curve = interpolation_curve(model, a, b, data, F.cross_entropy, 5)
    for t, loss in zip(curve.t.tolist(), curve.values["loss"].tolist(), strict=True):
        assert loss == pytest.approx(by_hand(model, interpolate(a, b, t), data)[0], rel=1e-12)


# Batch normalisation.


def update_bn(model: nn.Module, data: Batches) -> nn.Module:
    """PyTorch's own recalibration, with dropout off."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.optim.swa_utils.update_bn(data, model)
    return model


def test_recalibration_is_that_of_pytorch(data: Batches) -> None:
    model = mlp(norm=True).eval()
    expected = update_bn(model, data)
    recalibrate_batchnorm(model, data)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-12, atol=1e-14)
    assert not any(m.training for m in model.modules())
    assert model[1].momentum == 0.1  # type: ignore[union-attr]


def test_recalibrated_statistics_are_the_moments_of_the_data(data: Batches) -> None:
    x = data[0][0]
    model = nn.Sequential(nn.BatchNorm1d(4)).double()
    recalibrate_batchnorm(model, data[:1])
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    torch.testing.assert_close(model[0].running_var, x.var(0))


def test_recalibration_without_normalisation_changes_nothing(data: Batches) -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    recalibrate_batchnorm(model, data)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_every_point_gets_statistics_of_its_own(data: Batches, chunk_size: int | None) -> None:
    model, a, b = mlp(norm=True), mlp(1, norm=True).state_dict(), mlp(2, norm=True).state_dict()
    train = [(2 * x + 1, y) for x, y in data]
    curve = interpolation_curve(model, a, b, data, F.cross_entropy, 5, chunk_size=chunk_size, recalibrate_on=train)
    plain = interpolation_curve(model, a, b, data, F.cross_entropy, 5, recalibrate_bn=False)
    for i, t in enumerate(curve.t.tolist()):
        model.load_state_dict(interpolate(a, b, t))
        fresh = update_bn(model, train)
        assert float(curve.values["loss"][i]) == pytest.approx(by_hand(model, fresh.state_dict(), data)[0], rel=1e-12)
        stale = by_hand(model, interpolate(a, b, t), data)[0]
        assert float(plain.values["loss"][i]) == pytest.approx(stale, rel=1e-12)
    assert not torch.allclose(curve.values["loss"], plain.values["loss"], rtol=1e-3)


# Barriers.

T = [0.0, 0.25, 0.5, 0.75, 1.0]
RIDGE = Curve(T, {"loss": [1.0, 1.5, 3.0, 4.0, 2.0], "error": [0.1, 0.2, 0.4, 0.5, 0.3]})
VALLEY = Curve(T, {"loss": [1.0, 0.5, 0.2, 0.4, 2.0], "error": [0.1, 0.0, 0.0, 0.1, 0.3]})


def test_barriers_by_hand() -> None:
    assert barrier(RIDGE) == pytest.approx(4.0 - 1.75)
    assert barrier(RIDGE, metric="error") == pytest.approx(0.5 - 0.25)
    assert barrier(RIDGE, "instability") == pytest.approx(0.5 - 0.2)
    assert barrier(RIDGE, "instability", "loss") == pytest.approx(4.0 - 1.5)
    assert barrier(RIDGE, "midpoint") == pytest.approx(3.0 - 1.5)
    assert barrier(RIDGE, "signed_extreme") == pytest.approx(1.5 - 4.0)
    assert barrier(VALLEY) == 0.0
    assert barrier(VALLEY, "instability") == pytest.approx(0.3 - 0.2), "ends that differ make an instability"
    assert barrier(VALLEY, "midpoint") == pytest.approx(0.2 - 1.5)
    assert barrier(VALLEY, "signed_extreme") == pytest.approx(1.5 - 0.2)


@pytest.mark.parametrize("kind", ["max_deviation", "instability", "midpoint", "signed_extreme"])
@pytest.mark.parametrize("curve", [RIDGE, VALLEY])
def test_the_grid_may_run_backwards_and_beyond_the_ends(curve: Curve, kind: str) -> None:
    backwards = Curve(curve.t.flip(0), {k: v.flip(0) for k, v in curve.values.items()})
    assert barrier(backwards, kind) == barrier(curve, kind)  # type: ignore[arg-type]
    other_way = Curve(1 - curve.t, curve.values)
    assert barrier(other_way, kind) == pytest.approx(barrier(curve, kind), rel=1e-12)  # type: ignore[arg-type]
    longer = Curve(
        torch.cat([torch.tensor([-0.5]), curve.t, torch.tensor([1.5])]),
        {k: torch.cat([torch.tensor([99.0]), v, torch.tensor([99.0])]) for k, v in curve.values.items()},
    )
    assert barrier(longer, kind) == barrier(curve, kind)  # type: ignore[arg-type]


def test_barrier_of_a_network_with_itself_is_nothing_and_that_of_two_is_symmetric(data: Batches) -> None:
    model, a, b = mlp(), mlp(1).state_dict(), mlp(2).state_dict()
    assert barrier(interpolation_curve(model, a, a, data, F.cross_entropy)) == 0.0
    there = interpolation_curve(model, a, b, data, F.cross_entropy, 9)
    back = interpolation_curve(model, b, a, data, F.cross_entropy, 9)
    for kind in ("max_deviation", "instability", "midpoint", "signed_extreme"):
        assert barrier(there, kind) == pytest.approx(barrier(back, kind), rel=1e-12, abs=1e-15)  # type: ignore[arg-type]


def test_what_makes_no_barrier() -> None:
    with pytest.raises(ValueError, match="2 points"):
        barrier(Curve([0.0, 1.0], {"loss": [1.0, 1.0]}))
    with pytest.raises(ValueError, match="no point at t = 1,"):
        barrier(Curve([0.0, 0.5, 0.9], {"loss": [1.0] * 3}))
    with pytest.raises(ValueError, match="no point at t = 0,"):
        barrier(Curve([0.1, 0.5, 1.0], {"loss": [1.0] * 3}))
    with pytest.raises(ValueError, match=r"no point at t = 0.5"):
        barrier(Curve([0.0, 0.4, 1.0], {"loss": [1.0] * 3}), "midpoint")
    with pytest.raises(ValueError, match="kind='height'"):
        barrier(RIDGE, "height")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="metric='error'"):
        barrier(Curve(T, {"loss": [1.0] * 5}), "instability")
    with pytest.raises(ValueError, match=r"NaN at t = \[0.5\]"):
        barrier(Curve([0.0, 0.5, 1.0], {"loss": [1.0, math.nan, 1.0]}))
    with pytest.raises(ValueError, match=r"values\['loss'\] has shape"):
        Curve(T, {"loss": [1.0]})
    with pytest.raises(ValueError, match="must map"):
        Curve(T, {})
    with pytest.raises(ValueError, match="finite"):
        Curve([0.0, math.nan], {"loss": [1.0, 1.0]})


def test_what_makes_no_curve(data: Batches) -> None:
    model, a, b = mlp(), mlp(1).state_dict(), mlp(2).state_dict()
    with pytest.raises(ValueError, match="n_points=1"):
        interpolation_curve(model, a, b, data, F.cross_entropy, 1)
    with pytest.raises(ValueError, match=r"'3.bias' is missing"):
        interpolation_curve(model, a, {k: v for k, v in b.items() if k != "3.bias"}, data, F.cross_entropy)
    with pytest.raises(ValueError, match="a does not match the model"):
        interpolation_curve(mlp(norm=True), a, b, data, F.cross_entropy)
    with pytest.raises(ValueError, match="metrics="):
        interpolation_curve(model, a, b, data, F.cross_entropy, metrics=("accuracy",))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="only once"):
        interpolation_curve(model, a, b, iter(data), F.cross_entropy)
    with pytest.raises(TypeError, match="one batch"):
        interpolation_curve(model, a, b, data[0], F.cross_entropy)
    with pytest.raises(ValueError, match="no batches"):
        interpolation_curve(model, a, b, [], F.cross_entropy)
    with pytest.raises(ValueError, match="a batch is empty"):
        interpolation_curve(model, a, b, [(torch.zeros(0, 4), torch.zeros(0).long())], F.cross_entropy)
    with pytest.raises(ValueError, match="30 targets"):
        interpolation_curve(model, a, b, [(torch.zeros(3, 4), data[0][1])], F.cross_entropy)
    with pytest.raises(ValueError, match="scalar"):
        interpolation_curve(model, a, b, data, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match="class numbers"):
        interpolation_curve(model, a, b, [(data[0][0], torch.zeros(30, 3).double())], F.mse_loss)
    with pytest.raises(ValueError, match="chunk_size=0"):
        interpolation_curve(model, a, b, data, F.cross_entropy, chunk_size=0)
