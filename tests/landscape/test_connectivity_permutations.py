"""Units in another order leave the function; matching finds the order; brute force says it cannot be bettered."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from landform.landscape.connectivity import PermutationSpec, activation_matching, apply_permutation, weight_matching
from landform.models.resnet import ResNet

State = dict[str, Tensor]


def mlp(widths: tuple[int, ...] = (5, 16, 12, 3)) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.GroupNorm(1, 6), nn.PReLU(6), nn.Dropout2d(),
        nn.Conv2d(6, 5, 3, bias=False), nn.GELU(), nn.Flatten(), nn.LayerNorm(20), nn.Linear(20, 9),
        nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 3),
    )  # fmt: skip


NETS = {
    "mlp": (mlp, (4, 5)),
    "cnn": (cnn, (4, 2, 8, 8)),
    "resnet18": (lambda: ResNet(18, 3, widths=(4, 6, 8, 10)), (2, 3, 16, 16)),
    "resnet50": (lambda: ResNet(50, 3, widths=(2, 3, 4, 5)), (2, 3, 16, 16)),
    "resnet18, no norm": (lambda: ResNet(18, 3, widths=(4, 6, 8, 10), norm=lambda c: nn.Identity()), (2, 3, 16, 16)),
}


def made(name: str, seed: int) -> tuple[nn.Module, PermutationSpec, Tensor]:
    """A network with statistics that differ from unit to unit, its specification and an input."""
    factory, shape = NETS[name]
    torch.manual_seed(seed)
    model = factory().eval()
    for key, tensor in model.state_dict().items():
        if "running_var" in key or "weight" in key:
            tensor.mul_(1 + torch.rand_like(tensor))
        elif "num_batches" not in key:
            tensor.add_(0.3 * torch.randn_like(tensor))
    spec = PermutationSpec.of_resnet(model) if isinstance(model, ResNet) else PermutationSpec.of_sequential(model)
    return model, spec, torch.randn(shape)


def shuffled(spec: PermutationSpec, state: State, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randperm(size, generator=generator) for name, size in spec.sizes(state).items()}


def distance(a: State, b: State) -> float:
    keys = [k for k in a if a[k].is_floating_point() and "running" not in k]
    return sum(float((a[k].double() - b[k].double()).square().sum()) for k in keys) ** 0.5


@pytest.mark.parametrize("name", NETS)
def test_the_order_of_units_leaves_the_function(name: str) -> None:
    model, spec, x = made(name, 0)
    state = model.state_dict()
    before = model(x)
    moved = apply_permutation(spec, shuffled(spec, state), state)
    assert distance(state, moved) > 1
    model.load_state_dict(moved)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_every_tensor_that_has_units_is_in_the_specification(name: str) -> None:
    """All weights move, but for the outputs' bias and what has one number for all units."""
    model, spec, _ = made(name, 0)
    state = model.state_dict()
    last = list(state)[-1]
    moved = {key for key, names in spec.axes.items() if any(names)}
    assert {key for key, tensor in state.items() if tensor.ndim} - moved == {last}


@pytest.mark.parametrize("name", NETS)
def test_weight_matching_undoes_a_permutation(name: str) -> None:
    model, spec, _ = made(name, 0)
    a = model.state_dict()
    order = shuffled(spec, a)
    b = apply_permutation(spec, order, a)
    found = weight_matching(spec, a, b, generator=torch.Generator().manual_seed(0))
    assert distance(a, apply_permutation(spec, found, b)) == 0
    for unit, size in spec.sizes(a).items():
        assert torch.equal(order[unit][found[unit]], torch.arange(size))


@pytest.mark.parametrize("name", NETS)
def test_weight_matching_never_increases_the_distance(name: str) -> None:
    _, spec, _ = made(name, 0)
    a, b = made(name, 1)[0].state_dict(), made(name, 2)[0].state_dict()
    distances = [distance(a, b)]
    for sweeps in (1, 2, 5, 100):
        found = weight_matching(spec, a, b, sweeps, torch.Generator().manual_seed(0))
        distances.append(distance(a, apply_permutation(spec, found, b)))
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(distances)), distances
    assert distances[-1] < 0.999 * distances[0]


def test_one_hidden_layer_is_matched_in_one_sweep_and_best_of_all() -> None:
    torch.manual_seed(0)
    a, b = mlp((4, 6, 3)).state_dict(), mlp((4, 6, 3)).state_dict()
    spec = PermutationSpec.of_sequential(mlp((4, 6, 3)))
    once, often = weight_matching(spec, a, b, max_sweeps=1), weight_matching(spec, a, b)
    assert torch.equal(once["0"], often["0"])
    orders = map(torch.tensor, itertools.permutations(range(6)))
    best = min(distance(a, apply_permutation(spec, {"0": order}, b)) for order in orders)
    assert distance(a, apply_permutation(spec, once, b)) == pytest.approx(best, rel=1e-6)


def test_every_layer_of_the_result_is_optimal_given_the_others() -> None:
    """Coordinate ascent ends where no permutation of one layer alone does better: by brute force."""
    torch.manual_seed(0)
    a, b = mlp((3, 5, 4, 2)).state_dict(), mlp((3, 5, 4, 2)).state_dict()
    spec = PermutationSpec.of_sequential(mlp((3, 5, 4, 2)))
    found = weight_matching(spec, a, b, generator=torch.Generator().manual_seed(1))
    reached = distance(a, apply_permutation(spec, found, b))
    for name, size in spec.sizes(a).items():
        for order in itertools.permutations(range(size)):
            other = {**found, name: torch.tensor(order)}
            assert distance(a, apply_permutation(spec, other, b)) >= reached - 1e-6


def test_ties_do_not_cycle() -> None:
    """Networks of equal units have nothing to match; the search ends at once and keeps the order."""
    a = {k: torch.ones_like(v) for k, v in mlp().state_dict().items()}
    found = weight_matching(PermutationSpec.of_sequential(mlp()), a, a, max_sweeps=100)
    assert all(torch.equal(order, torch.arange(len(order))) for order in found.values())


def test_matching_follows_its_generator() -> None:
    spec = PermutationSpec.of_sequential(mlp())
    torch.manual_seed(3)
    a, b = mlp().state_dict(), mlp().state_dict()
    first, second = (weight_matching(spec, a, b, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_activation_matching_undoes_a_permutation(name: str, normalise: bool) -> None:
    model, spec, x = made(name, 0)
    a = model.state_dict()
    for key, tensor in a.items():
        if name != "mlp" and "running" not in key and "bias" in key:
            tensor.add_(1)  # no unit is dead, which none could tell from another
    order = shuffled(spec, a)
    b = apply_permutation(spec, order, a)
    data = [(torch.randn(30, *x.shape[1:]), torch.zeros(30)), (torch.randn(10, *x.shape[1:]), torch.zeros(10))]
    found = activation_matching(spec, model, a, b, data, normalise=normalise)
    if normalise:  # covariances can prefer a unit of larger spread to the same unit
        assert distance(a, apply_permutation(spec, found, b)) == 0
    assert all(sorted(o.tolist()) == list(range(len(o))) for o in found.values())


def test_activation_matching_is_the_assignment_of_covariances() -> None:
    """Against NumPy's covariances on the concatenated data, by brute force over the orders."""
    torch.manual_seed(0)
    net = mlp((3, 5, 2)).double()
    a, b = net.state_dict(), mlp((3, 5, 2)).double().state_dict()
    spec = PermutationSpec.of_sequential(net)
    x = torch.randn(60, 3, dtype=torch.float64)
    batches = [(x[:13], torch.zeros(13)), (x[13:], torch.zeros(47))]
    z = []
    for state in (a, b):
        z.append(torch.relu(x @ state["0.weight"].T + state["0.bias"]))
    joint = torch.cat(z, dim=1).T
    for normalise, matrix in ((False, torch.cov(joint)), (True, torch.corrcoef(joint).nan_to_num())):
        common = matrix[:5, 5:]
        best = max(itertools.permutations(range(5)), key=lambda o: float(common[range(5), list(o)].sum()))
        found = activation_matching(spec, net, a, b, batches, normalise=normalise)
        assert found["0"].tolist() == list(best)


def test_activation_matching_leaves_the_model() -> None:
    model, spec, x = made("cnn", 0)
    a, b = made("cnn", 1)[0].state_dict(), made("cnn", 2)[0].state_dict()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    activation_matching(spec, model, a, b, [(x, torch.zeros(len(x)))])
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_permutations_compose() -> None:
    """Unit i of the result is unit order[i] of what came in."""
    state = mlp((2, 4, 2)).state_dict()
    spec = PermutationSpec.of_sequential(mlp((2, 4, 2)))
    moved = apply_permutation(spec, {"0": torch.tensor([2, 0, 3, 1])}, state)
    assert torch.equal(moved["0.weight"], state["0.weight"][[2, 0, 3, 1]])
    assert torch.equal(moved["0.bias"], state["0.bias"][[2, 0, 3, 1]])
    assert torch.equal(moved["2.weight"], state["2.weight"][:, [2, 0, 3, 1]])
    assert torch.equal(moved["2.bias"], state["2.bias"])


def test_blocks_of_a_flattened_image_move_together() -> None:
    spec = PermutationSpec({"conv": ("P",), "linear": (None, "P")})
    state = {"conv": torch.arange(3.0), "linear": torch.arange(6.0)[None]}
    moved = apply_permutation(spec, {"P": torch.tensor([2, 0, 1])}, state)
    assert moved["linear"].tolist() == [[4, 5, 0, 1, 2, 3]]


def test_what_has_no_specification() -> None:
    with pytest.raises(TypeError, match="by hand"):
        PermutationSpec.of_sequential(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a landform"):
        PermutationSpec.of_resnet(mlp())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer '1' \(Softmax\)"):
        PermutationSpec.of_sequential(nn.Sequential(nn.Linear(2, 4), nn.Softmax(1), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"layer '1' \(Conv2d\)"):
        PermutationSpec.of_sequential(
            nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
        )
    with pytest.raises(ValueError, match=r"layer '1' \(GroupNorm\)"):
        PermutationSpec.of_sequential(nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="over space"):
        PermutationSpec.of_sequential(nn.Sequential(nn.Conv1d(2, 4, 1), nn.LayerNorm(4), nn.Conv1d(4, 2, 1)))
    with pytest.raises(ValueError, match="1 linear or convolutional"):
        PermutationSpec.of_sequential(nn.Sequential(nn.Linear(2, 4)))
    with pytest.raises(ValueError, match="GroupNorm"):
        PermutationSpec.of_resnet(ResNet(18, widths=(4, 4, 4, 4), norm=lambda c: nn.GroupNorm(2, c)))
    with pytest.raises(ValueError, match="nothing to reorder"):
        PermutationSpec({"w": (None,)})
    with pytest.raises(ValueError, match="along two axes"):
        PermutationSpec({"w": ("P", "P")})


def test_what_does_not_fit_a_specification() -> None:
    spec = PermutationSpec.of_sequential(mlp())
    state = mlp().state_dict()
    with pytest.raises(ValueError, match=r"names '0.weight'"):
        spec.sizes({"w": torch.zeros(1)})
    with pytest.raises(ValueError, match="no axis 1"):
        spec.sizes({**state, "2.weight": torch.zeros(12)})
    with pytest.raises(ValueError, match=r"orders 16 units, but axis 1 of '2.weight' is 17 long"):
        spec.sizes({**state, "2.weight": torch.zeros(12, 17)})
    with pytest.raises(ValueError, match="permutation 'P9'"):
        apply_permutation(spec, {"P9": torch.arange(3)}, state)
    for wrong in (torch.zeros(16).long(), torch.arange(15), torch.arange(16.0)):
        with pytest.raises(ValueError, match=r"must hold each of 0 ... 15 once"):
            apply_permutation(spec, {"0": wrong}, state)
    with pytest.raises(ValueError, match="max_sweeps=0"):
        weight_matching(spec, state, state, 0)
    with pytest.raises(ValueError, match="b does not match a"):
        weight_matching(spec, state, mlp((5, 16, 6, 3)).state_dict())
    with pytest.raises(ValueError, match="not finite"):
        weight_matching(spec, state, {**state, "0.bias": state["0.bias"] / 0})
    unread = PermutationSpec({"0.weight": ("P",), "0.bias": ("P",)})
    with pytest.raises(ValueError, match="no layer of the model reads"):
        activation_matching(unread, mlp(), state, state, [(torch.zeros(2, 5), torch.zeros(2))])
