"""Curvature along a line, the identity that ties it to barriers, and what the ends predict."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import simpson
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import (
    PermutationSpec,
    apply_permutation,
    barrier,
    barrier_from_curvature,
    interpolate,
    interpolation_curve,
    layerwise_estimate,
    layerwise_increase,
    line_curvature,
    local_barrier_estimate,
    mountainside,
)

State = dict[str, Tensor]


class Quadratic(nn.Module):
    """Its output is its weight vector, so that a loss of the output is a function of the weights alone."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.tail = nn.Parameter(torch.zeros(dim - 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head, self.tail]).expand(len(x), -1)


Known = tuple[Quadratic, State, State, tuple[Tensor, Tensor], Tensor]


@pytest.fixture
def quadratic() -> Known:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    a, b = ({"head": v[:2], "tail": v[2:]} for v in w)
    return Quadratic(), a, b, (torch.zeros(3, 1), torch.zeros(3)), root + root.T


def quadratic_loss(hessian: Tensor) -> Callable[[Tensor, object], Tensor]:
    return lambda out, _: (0.5 * (out @ hessian) * out).sum(1).mean()


def flat(state: State) -> Tensor:
    return torch.cat([v.flatten() for v in state.values()])


def smooth(seed: int, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(8)] if norm else []
    net = nn.Sequential(nn.Linear(3, 8), *middle, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
    return net


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (40,), generator=generator)


# Quadratics: everything is known.


def test_the_midpoint_of_a_quadratic_deviates_by_an_eighth_of_its_curvature(quadratic: Known) -> None:
    model, a, b, data, hessian = quadratic
    delta = flat(b) - flat(a)
    expected = -float(delta @ hessian @ delta) / 8
    curve = interpolation_curve(model, a, b, [data], quadratic_loss(hessian), metrics=("loss",))
    assert barrier(curve, "midpoint") == pytest.approx(expected, rel=1e-12)
    curvature = line_curvature(model, a, b, data, quadratic_loss(hessian), n=5)
    torch.testing.assert_close(curvature, torch.full((5,), -8 * expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert float(barrier_from_curvature(curvature, 0.5)) == pytest.approx(expected, rel=1e-12)


def test_the_estimate_of_a_quadratic_is_its_deviation(quadratic: Known) -> None:
    model, a, b, data, hessian = quadratic
    wa, wb = flat(a), flat(b)
    delta = wb - wa
    found = local_barrier_estimate(model, a, b, data, quadratic_loss(hessian))
    assert found["estimate"] == pytest.approx(-float(delta @ hessian @ delta) / 8, rel=1e-12)
    assert found["sq_distance"] == pytest.approx(float(delta @ delta), rel=1e-12)
    rayleigh = float(delta @ hessian @ delta / (delta @ delta))
    assert (found["rayleigh_a"], found["rayleigh_b"]) == pytest.approx((rayleigh, rayleigh), rel=1e-12)
    assert found["slope_a"] == pytest.approx(float(wa @ hessian @ delta), rel=1e-12)
    assert found["slope_b"] == pytest.approx(float(wb @ hessian @ delta), rel=1e-12)


def test_the_estimate_of_a_layer_of_a_quadratic_is_its_measured_increase(quadratic: Known) -> None:
    """Second-order expansions are exact: each layer's own, from both bases."""
    model, a, b, data, hessian = quadratic
    groups = {"front": ["head"], "back": ["tail"]}
    loss = quadratic_loss(hessian)
    predicted = layerwise_estimate(model, a, b, data, loss, groups)
    measured = layerwise_increase(model, a, b, [data], loss, groups)
    for name, keys in groups.items():
        half = {k: (b[k] - a[k]) / 2 if k in keys else 0 * a[k] for k in a}
        value = {
            where: float(loss(flat(state)[None], None))
            for where, state in {
                "a": a, "b": b, "from a": {k: a[k] + half[k] for k in a}, "from b": {k: b[k] - half[k] for k in b}
            }.items()
        }  # fmt: skip
        expected = (value["from a"] - value["a"] + value["from b"] - value["b"]) / 2
        assert measured[name] == pytest.approx(expected, rel=1e-11)
        assert predicted[name]["estimate"] == pytest.approx(expected, rel=1e-11)
        alone = local_barrier_estimate(model, a, b, data, loss, layers=keys)
        assert alone == pytest.approx(predicted[name], rel=1e-12)


# Networks.


def test_curvature_is_the_second_difference_of_the_loss(batch: tuple[Tensor, Tensor]) -> None:
    model, a, b, h = smooth(0), smooth(1).state_dict(), smooth(2).state_dict(), 1e-4
    found = line_curvature(model, a, b, batch, F.cross_entropy, n=5)

    def loss(t: float) -> float:
        model.load_state_dict(interpolate(a, b, t))
        return F.cross_entropy(model(batch[0]), batch[1]).item()

    for t, value in zip(torch.linspace(0, 1, 5).tolist(), found.tolist(), strict=True):
        assert value == pytest.approx((loss(t + h) - 2 * loss(t) + loss(t - h)) / h**2, rel=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_curvature_does_not_depend_on_chunks_and_layers_are_their_own_line(
    batch: tuple[Tensor, Tensor], chunk_size: int
) -> None:
    model, a, b = smooth(0), smooth(1).state_dict(), smooth(2).state_dict()
    whole = line_curvature(model, a, b, batch, F.cross_entropy, n=5)
    torch.testing.assert_close(line_curvature(model, a, b, batch, F.cross_entropy, 5, chunk_size=chunk_size), whole)
    part = line_curvature(model, a, b, batch, F.cross_entropy, n=5, layers=["2"])
    swapped = {k: b[k] if k.startswith("2.") else a[k] for k in a}
    torch.testing.assert_close(part, line_curvature(model, a, swapped, batch, F.cross_entropy, n=5))


def test_the_identity_reproduces_the_barrier_of_a_smooth_network(batch: tuple[Tensor, Tensor]) -> None:
    """Between a network that fits its labels and itself with its hidden units in another order."""
    model, fitted = smooth(0), smooth(1)
    batch = batch[0], fitted(batch[0]).argmax(1)
    a = fitted.state_dict()
    order = {"0": torch.arange(7, -1, -1), "2": torch.tensor([3, 0, 1, 2, 7, 4, 5, 6])}
    b = apply_permutation(PermutationSpec.of_sequential(fitted), order, a)
    curve = interpolation_curve(model, a, b, [batch], F.cross_entropy, 25)
    loss, t = curve.values["loss"], curve.t
    deviation = loss - torch.lerp(loss[0], loss[-1], t)
    assert float(deviation.max()) > 0.5, "a barrier to speak of"
    curvature = line_curvature(model, a, b, batch, F.cross_entropy, n=201)
    assert float(curvature.min()) < 0, "no barrier without a ridge"
    torch.testing.assert_close(barrier_from_curvature(curvature, t), deviation, rtol=0, atol=1e-6)
    # Simpson's rule on the definition, as the sheet has it.
    s = np.linspace(0, 1, 201)
    for place, expected in zip(t.tolist(), deviation.tolist(), strict=True):
        green = np.minimum(place, s) * (1 - np.maximum(place, s))
        assert -simpson(green * curvature.numpy(), x=s) == pytest.approx(expected, abs=1e-4)


def test_batch_statistics_make_the_identity_hold_for_batch_normalisation(batch: tuple[Tensor, Tensor]) -> None:
    model, a, b = smooth(0, norm=True), smooth(1, norm=True).state_dict(), smooth(2, norm=True).state_dict()

    def loss(t: float) -> float:
        model.load_state_dict(interpolate(a, b, t))
        return F.cross_entropy(model.train()(batch[0]), batch[1]).item()

    curvature = line_curvature(model, a, b, batch, F.cross_entropy, n=201)
    expected = loss(0.5) - (loss(0) + loss(1)) / 2
    assert float(barrier_from_curvature(curvature, 0.5)) == pytest.approx(expected, abs=1e-6)
    kept = model.state_dict()["1.running_mean"].clone()
    model.eval()
    line_curvature(model, a, b, batch, F.cross_entropy, n=3)
    assert torch.equal(model.state_dict()["1.running_mean"], kept)
    assert not model[1].training
    assert model[1].track_running_stats


def test_integration_is_exact_for_cubic_curvature_on_any_grid() -> None:
    """ℓ = t⁵: ℓ'' = 20 t³, and the deviation from the chord is t⁵ - t."""
    for n in (4, 7, 50):
        s = torch.linspace(0, 1, n, dtype=torch.float64)
        t = torch.tensor([[0.0, 0.111], [0.5, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(barrier_from_curvature(20 * s**3, t), t**5 - t, rtol=1e-10, atol=1e-13)


def test_the_layerwise_estimate_agrees_with_finite_differences(batch: tuple[Tensor, Tensor]) -> None:
    model, a, b, h = smooth(0), smooth(1).state_dict(), smooth(2).state_dict(), 1e-4
    found = layerwise_estimate(model, a, b, batch, F.cross_entropy)
    assert list(found) == ["0", "2", "4"]

    def loss(base: State, other: State, layer: str, t: float) -> float:
        model.load_state_dict({k: v + t * (other[k] - v) if k.startswith(layer) else v for k, v in base.items()})
        return F.cross_entropy(model(batch[0]), batch[1]).item()

    for layer, values in found.items():
        sides = []
        for base, other in ((a, b), (b, a)):
            low, mid, high = (loss(base, other, layer, t) for t in (-h, 0, h))
            sides.append((high - low) / (2 * h) / 2 + (high - 2 * mid + low) / h**2 / 8)
        assert values["estimate"] == pytest.approx(sum(sides) / 2, rel=1e-5)


def test_equal_networks_have_nothing_between_them(batch: tuple[Tensor, Tensor]) -> None:
    a = smooth(1).state_dict()
    found = local_barrier_estimate(smooth(0), a, a, batch, F.cross_entropy)
    assert set(found.values()) == {0.0}


def test_a_mountainside_puts_its_parts_together(batch: tuple[Tensor, Tensor]) -> None:
    model, origin, a, b = smooth(0), smooth(3).state_dict(), smooth(1).state_dict(), smooth(2).state_dict()
    found = mountainside(model, origin, a, b, batch, F.cross_entropy, 11)
    curve = interpolation_curve(model, a, b, [batch], F.cross_entropy, 11)
    assert found.distance == pytest.approx(float((flat(a) - flat(b)).norm()), rel=1e-12)
    cosine = torch.cosine_similarity(flat(a) - flat(origin), flat(b) - flat(origin), dim=0)
    assert found.cosine == pytest.approx(float(cosine), rel=1e-12)
    assert (found.loss_a, found.loss_b) == (float(curve.values["loss"][0]), float(curve.values["loss"][-1]))
    assert found.barrier == barrier(curve)
    assert found.min_curvature == float(line_curvature(model, a, b, batch, F.cross_entropy, 11).min())
    assert math.isnan(mountainside(model, a, a, b, batch, F.cross_entropy, 3).cosine)


def test_mistakes(batch: tuple[Tensor, Tensor]) -> None:
    model, a, b = smooth(0), smooth(1).state_dict(), smooth(2).state_dict()
    with pytest.raises(ValueError, match="n=1"):
        line_curvature(model, a, b, batch, F.cross_entropy, n=1)
    with pytest.raises(TypeError, match="a batch must be"):
        line_curvature(model, a, b, [batch], F.cross_entropy)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing lies under '9'"):
        local_barrier_estimate(model, a, b, batch, F.cross_entropy, layers=["9"])
    with pytest.raises(ValueError, match="scalar"):
        local_barrier_estimate(model, a, b, batch, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match="not finite"):
        local_barrier_estimate(model, a, {**b, "0.bias": b["0.bias"] * math.inf}, batch, F.cross_entropy)
    with pytest.raises(ValueError, match=r"t=1.5"):
        barrier_from_curvature(torch.zeros(5), 1.5)
    with pytest.raises(ValueError, match="at least 2 values"):
        barrier_from_curvature(torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match="not finite"):
        barrier_from_curvature(torch.tensor([0.0, math.nan]), 0.5)
