"""Layer-wise barriers and increases against networks put together by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import barrier, interpolation_curve, layerwise_barrier, layerwise_increase

LAYERS = {"0": ["0."], "1": ["1."], "4": ["4."]}


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Identity(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    return model


@pytest.fixture
def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (40,), generator=generator)
    return [(x, y)]


A, B, MODEL = net(1).state_dict(), net(2).state_dict(), net(0)


def loss_at(state: dict[str, Tensor], data: list[tuple[Tensor, Tensor]], error: bool = False) -> float:
    """With statistics of the batch measured anew, as the unbiased variance has it."""
    ((x, y),) = data
    model = net(0)
    model.load_state_dict(state)
    torch.optim.swa_utils.update_bn(data, model)
    out = model.eval()(x)
    return (out.argmax(1) != y).double().mean().item() if error else F.cross_entropy(out, y).item()


def mixed(t: float, keys: list[str], rest: dict[str, Tensor]) -> dict[str, Tensor]:
    inside = tuple(keys)
    return {k: (1 - t) * A[k] + t * B[k] if k.startswith(inside) and A[k].is_floating_point() else rest[k] for k in A}


def expected(keys: list[str], base: str, against: str, data: list[tuple[Tensor, Tensor]], error: bool = False) -> float:
    heights = []
    for rest in {"a": [A], "b": [B], "mean": [A, B]}[base]:
        ts = [i / 10 for i in range(11)]
        curve = [loss_at(mixed(t, keys, rest), data, error) for t in ts]
        ends = (loss_at(A, data, error), loss_at(B, data, error)) if against == "full" else (curve[0], curve[-1])
        heights.append(max(v - (1 - t) * ends[0] - t * ends[1] for t, v in zip(ts, curve, strict=True)))
    return sum(heights) / len(heights)


@pytest.mark.parametrize("against", ["full", "swapped"])
@pytest.mark.parametrize("base", ["a", "b", "mean"])
def test_barriers_of_layers(base: str, against: str, data: list[tuple[Tensor, Tensor]]) -> None:
    found = layerwise_barrier(MODEL, A, B, data, F.cross_entropy, base=base, against=against, n_points=11)  # type: ignore[arg-type]
    assert list(found) == list(LAYERS)
    for layer, keys in LAYERS.items():
        assert found[layer] == pytest.approx(expected(keys, base, against, data), rel=1e-9, abs=1e-12)


def test_barriers_of_the_error(data: list[tuple[Tensor, Tensor]]) -> None:
    found = layerwise_barrier(MODEL, A, B, data, F.cross_entropy, base="a", metric="error", n_points=11)
    for layer, keys in LAYERS.items():
        assert found[layer] == pytest.approx(expected(keys, "a", "full", data, error=True), abs=1e-12)


def test_the_two_references_differ(data: list[tuple[Tensor, Tensor]]) -> None:
    """Exchanging one layer alone ends elsewhere than at B: a barrier against the full ends, none by itself."""
    full = layerwise_barrier(MODEL, A, B, data, F.cross_entropy, base="a", n_points=11)
    swapped = layerwise_barrier(MODEL, A, B, data, F.cross_entropy, base="a", against="swapped", n_points=11)
    assert max(abs(full[layer] - swapped[layer]) for layer in full) > 0.05


@pytest.mark.parametrize(
    ("order", "names"), [("shallow", ["0", "1", "4"]), ("deep", ["4", "1", "0"]), ("random", None)]
)
def test_cumulative_layers_grow_from_their_end(
    order: str, names: list[str] | None, data: list[tuple[Tensor, Tensor]]
) -> None:
    found = layerwise_barrier(
        MODEL, A, B, data, F.cross_entropy, base="a", cumulative=order, n_points=11,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    assert names is None or list(found) == names
    grown: list[str] = []
    for layer, height in found.items():
        grown += LAYERS[layer]
        assert height == pytest.approx(expected(grown, "a", "full", data), rel=1e-9, abs=1e-12)
    whole = barrier(interpolation_curve(MODEL, A, B, data, F.cross_entropy, 11))
    assert list(found.values())[-1] == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_random_orders_follow_their_generator(data: list[tuple[Tensor, Tensor]]) -> None:
    def order(seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return list(
            layerwise_barrier(MODEL, A, B, data, F.cross_entropy, cumulative="random", n_points=3, generator=generator)
        )

    assert order(0) == order(0)
    assert len({tuple(order(seed)) for seed in range(8)}) > 1


def test_own_groups(data: list[tuple[Tensor, Tensor]]) -> None:
    found = layerwise_barrier(MODEL, A, B, data, F.cross_entropy, {"body": ["0", "1"]}, base="b", n_points=11)
    assert found == {"body": pytest.approx(expected(["0.", "1."], "b", "full", data), rel=1e-9)}


def test_increases_are_those_of_networks_half_way(data: list[tuple[Tensor, Tensor]]) -> None:
    found = layerwise_increase(MODEL, A, B, data, F.cross_entropy)
    for layer, keys in LAYERS.items():
        weights = {k for k in A if k.startswith(tuple(keys)) and "running" not in k and "num" not in k}
        half = [{k: (A[k] + B[k]) / 2 if k in weights else base[k] for k in A} for base in (A, B)]
        rises = [loss_at(moved, data) - loss_at(base, data) for moved, base in zip(half, (A, B), strict=True)]
        assert found[layer] == pytest.approx(sum(rises) / 2, rel=1e-9, abs=1e-12)


class Length(nn.Module):
    """Tells how far its weights are from the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.far = nn.Parameter(torch.zeros(300, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.near.square().sum() + self.far.square().sum()).expand(len(x))


def test_random_directions_have_the_length_of_the_layer_and_no_other_direction() -> None:
    """From the origin ½ ‖Δ‖ away whatever the direction; from B a random direction is nearly at a right angle."""
    a = Length().state_dict()
    b = {"near": torch.tensor([3.0, 0, 0, 4.0]).double(), "far": torch.ones(300).double()}
    data = [(torch.zeros(2, 1), torch.zeros(2))]
    groups = {"far": ["far"]}

    def rise(seed: int, direction: str) -> float:
        return layerwise_increase(
            Length(), a, b, data, lambda out, _: out.mean(), groups, direction=direction,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(seed),
        )["far"]  # fmt: skip

    assert rise(0, "other") == pytest.approx((75 - 0 + 75 - 300) / 2)
    drawn = torch.tensor([rise(seed, "random") for seed in range(30)])
    # ½ (75 + 75 + 300 cos), where cos has mean zero and deviation 1/√300.
    assert float(drawn.std()) == pytest.approx(150 / 300**0.5, rel=0.4)
    assert float(drawn.mean()) == pytest.approx(75, abs=6)
    assert rise(1, "random") == rise(1, "random")


def test_mistakes(data: list[tuple[Tensor, Tensor]]) -> None:
    for name, value in (("base", "c"), ("against", "ends"), ("cumulative", "middle"), ("grouping", "tensor")):
        with pytest.raises(ValueError, match=f"{name}='{value}'"):
            layerwise_barrier(MODEL, A, B, data, F.cross_entropy, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_points=2"):
        layerwise_barrier(MODEL, A, B, data, F.cross_entropy, n_points=2)
    with pytest.raises(ValueError, match="direction='up'"):
        layerwise_increase(MODEL, A, B, data, F.cross_entropy, direction="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grouping is empty"):
        layerwise_increase(MODEL, A, B, data, F.cross_entropy, {})
    with pytest.raises(ValueError, match=r"grouping\['stats'\] holds no weights"):
        layerwise_increase(MODEL, A, B, data, F.cross_entropy, {"stats": ["1.running_mean"]})
