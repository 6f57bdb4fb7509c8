"""Paths between state dicts: their formulas, their exact ends, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from landform.landscape.connectivity import interpolate


def net(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    model(torch.randn(7, 3, dtype=torch.float64))
    return model.state_dict()


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for k, v in state.items() if v.is_floating_point() and "running" not in k])


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_lerp_is_its_formula_and_integers_are_those_of_a(t: float) -> None:
    a, b = net(0), net(1)
    b["1.num_batches_tracked"] += 5
    found = interpolate(a, b, t)
    for key in a:
        expected = a[key] if "num_batches" in key else (1 - t) * a[key] + t * b[key]
        torch.testing.assert_close(found[key], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["lerp", "slerp", "bezier"])
def test_ends_are_exact_and_nothing_is_shared_with_them(mode: str) -> None:
    a, b = net(0), net(1)
    control = net(2) if mode == "bezier" else None
    for t, end in ((0.0, a), (1.0, b)):
        found = interpolate(a, b, t, mode, control=control)
        for key in a:
            if "num_batches" not in key:
                torch.testing.assert_close(found[key], end[key], rtol=1e-15, atol=0)
            assert found[key].data_ptr() != a[key].data_ptr()


def test_lerp_is_the_same_from_either_end_in_float32() -> None:
    a, b = ({k: v.float() for k, v in net(s).items()} for s in (0, 1))
    there, back = interpolate(a, b, 0.25), interpolate(b, a, 0.75)
    assert all(torch.equal(there[k], back[k]) for k in a)


def test_slerp_turns_one_vector_of_all_weights() -> None:
    """On a circle: equal norms stay, and the angle from a grows evenly; statistics go straight."""
    a, b = net(0), net(1)
    scale = flat(a).norm() / flat(b).norm()
    b = {k: v * scale if v.is_floating_point() and "running" not in k else v for k, v in b.items()}
    whole = math.acos(float(flat(a) @ flat(b) / flat(a).norm() ** 2))
    for t in (0.2, 0.7):
        found = interpolate(a, b, t, "slerp")
        assert float(flat(found).norm()) == pytest.approx(float(flat(a).norm()), rel=1e-12)
        angle = math.acos(float(flat(a) @ flat(found) / flat(a).norm() ** 2))
        assert angle == pytest.approx(t * whole, rel=1e-9)
        expected = (1 - t) * a["1.running_var"] + t * b["1.running_var"]
        torch.testing.assert_close(found["1.running_var"], expected)


def test_slerp_of_parallel_weights_is_straight_and_of_opposite_ones_refused() -> None:
    a = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    b = {"w": 3 * a["w"]}
    torch.testing.assert_close(interpolate(a, b, 0.5, "slerp")["w"], 2 * a["w"])
    with pytest.raises(ValueError, match="opposite"):
        interpolate(a, {"w": -a["w"]}, 0.5, "slerp")
    with pytest.raises(ValueError, match="all zeros"):
        interpolate(a, {"w": 0 * a["w"]}, 0.5, "slerp")


def test_bezier_is_its_formula() -> None:
    a, b, c, t = net(0), net(1), net(2), 0.3
    found = interpolate(a, b, t, "bezier", control=c)
    expected = (1 - t) ** 2 * a["3.weight"] + 2 * t * (1 - t) * c["3.weight"] + t**2 * b["3.weight"]
    torch.testing.assert_close(found["3.weight"], expected, rtol=1e-12, atol=0)


def test_only_named_layers_move() -> None:
    a, b = net(0), net(1)
    found = interpolate(a, b, 0.5, layers=["0", "3.bias"])
    for key in a:
        moved = key.startswith("0.") or key == "3.bias"
        torch.testing.assert_close(found[key], (a[key] + b[key]) / 2 if moved else a[key])


def test_a_layer_name_is_no_mere_beginning() -> None:
    a = {"layer1.w": torch.zeros(1), "layer10.w": torch.zeros(1)}
    b = {key: torch.ones(1) for key in a}
    for name in ("layer1", "layer1."):
        assert interpolate(a, b, 1.0, layers=[name]) == {"layer1.w": torch.ones(1), "layer10.w": torch.zeros(1)}


def test_mismatches_are_named_key_by_key() -> None:
    a, b = net(0), net(1)
    del b["0.bias"]
    b["extra"] = torch.zeros(1)
    b["3.weight"] = torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"b does not match a") as error:
        interpolate(a, b, 0.5)
    for part in ("'0.bias' is missing", "'extra' is not in a", "'3.weight' has shape (2, 5), not (2, 4)"):
        assert part in str(error.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    a, b = net(0), net(1)
    b["3.bias"][1] = bad
    with pytest.raises(ValueError, match=r"b\['3.bias'\] has 1 of 2 values that are not finite"):
        interpolate(a, b, 0.5)
    with pytest.raises(ValueError, match="t=nan"):
        interpolate(a, net(1), math.nan)


def test_other_mistakes() -> None:
    a, b = net(0), net(1)
    with pytest.raises(ValueError, match="mode='cubic'"):
        interpolate(a, b, 0.5, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs control"):
        interpolate(a, b, 0.5, "bezier")
    with pytest.raises(ValueError, match="takes no control"):
        interpolate(a, b, 0.5, control=a)
    with pytest.raises(ValueError, match="nothing lies under 'conv'"):
        interpolate(a, b, 0.5, layers=["conv"])
    with pytest.raises(TypeError, match="give several names"):
        interpolate(a, b, 0.5, layers="0")
    with pytest.raises(TypeError, match="must be a state dict"):
        interpolate(nn.Linear(1, 1), b, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'w' is torch.int64"):
        interpolate({"w": torch.zeros(1)}, {"w": torch.zeros(1).long()}, 0.5)
