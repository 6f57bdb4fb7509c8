"""Training-free scores: the authors' own numbers, the definitions by hand, and that nothing is disturbed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform import search
from landform.search import PROXIES, zero_cost_scores


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(phase + 1.7 * n + 0.01 * n**2).reshape(shape)


def network(*, norm: bool) -> nn.Sequential:
    """conv–ReLU–conv–ReLU–linear, with or without BatchNorm, with weights that no random generator decides."""
    layers = [
        nn.Conv2d(2, 5, 3, stride=2, padding=1),
        *([nn.BatchNorm2d(5)] if norm else []),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, padding=1),
        *([nn.BatchNorm2d(4)] if norm else []),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 9, 3),
    ]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.3 * wave(p.shape, k) + (1.0 if norm and k in (2, 6) else 0.0))
    return model


X = wave((6, 2, 6, 6), 0.5)
Y = torch.tensor([0, 1, 2, 2, 1, 0])

# What the published implementations (zero-cost-nas, nas-without-training, GradSign) give in float64 for these networks.
REFERENCE = {
    False: {
        "grad_norm": 1.8770781314882803,
        "snip": 2.7456603442368475,
        "grasp": -2.068093130842633,
        "fisher": 0.09077254750707019,
        "jacob_cov": -13.574572729747063,
        "plain": -0.005602227718577438,
        "synflow": 969.6158186041132,
        "gradsign": 622.0,
        "naswot": 22.534843454918814,
    },
    True: {
        "grad_norm": 5.591129877404998,
        "snip": 7.975661785234907,
        "grasp": -1.043808184102116,
        "fisher": 1.716845299972872,
        "jacob_cov": -9.514541918661322,
        "plain": 0.8489341165538172,
        "synflow": 933.793387076276,
        "gradsign": 596.0,
        "naswot": 23.441384219118895,
    },
}


@pytest.mark.parametrize("norm", [False, True])
def test_scores_are_those_of_the_published_implementations(norm):
    scores = zero_cost_scores(network(norm=norm), X, Y)
    assert set(scores) == set(PROXIES)
    for name, value in REFERENCE[norm].items():
        assert scores[name] == pytest.approx(value, rel=1e-10), name


def test_sizes_are_counted_by_hand():
    scores = zero_cost_scores(network(norm=False), X, Y, ("num_params", "macs"))
    assert scores["num_params"] == (5 * 2 * 9 + 5) + (4 * 5 * 9 + 4) + (3 * 36 + 3)
    assert scores["macs"] == 9 * 5 * 2 * 9 + 9 * 4 * 5 * 9 + 3 * 36
    frozen = network(norm=False)
    frozen[0].weight.requires_grad_(False)
    assert zero_cost_scores(frozen, X, Y, ("num_params",))["num_params"] == scores["num_params"] - 90


@pytest.mark.parametrize("norm", [False, True])
def test_each_score_is_also_a_function(norm):
    model = network(norm=norm)
    scores = zero_cost_scores(model, X, Y)
    for name in PROXIES:
        assert getattr(search, name)(model, X, Y) == scores[name], name


@pytest.mark.parametrize("mode", [True, False])
def test_scoring_leaves_no_trace(mode):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3)
    )
    model[0].weight.requires_grad_(False)
    x, y = torch.randn(8, 2, 6, 6), torch.randint(3, (8,))
    F.cross_entropy(model(x), y).backward()
    model.train(mode)
    before = copy.deepcopy(model.state_dict())
    grads = {name: p.grad if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    data = x.clone()
    with torch.no_grad():  # the caller's grad mode does not matter
        scores = zero_cost_scores(model, x, y)
    assert all(math.isfinite(score) for score in scores.values())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, p in model.named_parameters():
        assert p.requires_grad == (name != "0.weight")
        assert (p.grad is None) == (grads[name] is None)
        assert p.grad is None or torch.equal(p.grad, grads[name])
    assert all(m.training == mode for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, data)
    assert x.grad is None
    assert not x.requires_grad


def test_scores_are_taken_in_training_mode_whatever_the_mode():
    model = network(norm=True)
    assert zero_cost_scores(model.eval(), X, Y) == zero_cost_scores(network(norm=True), X, Y)


def test_a_score_does_not_depend_on_which_others_are_asked_for():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    together = zero_cost_scores(model, X, Y)
    for name in reversed(PROXIES):
        assert zero_cost_scores(model, X, Y, (name,))[name] == together[name], name


def test_grasp_is_minus_the_weights_times_a_hessian_gradient_product():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double()
    shapes = [p.shape for p in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        first, second = (
            part.reshape(s) for part, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)
        )
        return F.cross_entropy(torch.tanh(X.flatten(1) @ first.T) @ second.T, Y)

    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    g = torch.autograd.functional.jacobian(loss, w)
    h = torch.autograd.functional.hessian(loss, w)
    assert search.grasp(model, X, Y) == pytest.approx(float(-(w @ h @ g)), rel=1e-10)


def test_snip_is_the_change_per_relative_change_of_a_weight():
    model = network(norm=True)
    total = 0.0
    for index in (0, 3, 7):
        weight = model[index].weight
        for k in range(weight.numel()):
            changed = []
            for step in (1e-5, -1e-5):
                moved = copy.deepcopy(model)
                with torch.no_grad():
                    moved[index].weight.view(-1)[k] *= 1 + step
                    changed.append(float(F.cross_entropy(moved(X), Y)))
            total += abs(changed[0] - changed[1]) / 2e-5
    assert search.snip(model, X, Y) == pytest.approx(total, rel=1e-7)


def test_fisher_survives_in_place_activations_and_sums_positions_of_sequences():
    torch.manual_seed(0)
    careful = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    hasty = copy.deepcopy(careful)
    hasty[1] = nn.ReLU(inplace=True)
    x = torch.randn(6, 7, 4, dtype=torch.float64)  # sequences of 7

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.mean(1), y)

    a1 = careful[0](x).detach().requires_grad_()
    a2 = careful[2](a1.relu())
    d1, d2 = torch.autograd.grad(loss(a2, Y), [a1, a2])
    expected = sum(
        0.5 * float((a.detach() * d).sum(1).square().mean(0).sum()) * inputs
        for a, d, inputs in ((a1, d1, 4), (a2, d2, 5))
    )
    assert search.fisher(careful, x, Y, loss) == pytest.approx(expected, rel=1e-12)
    assert search.fisher(hasty, x, Y, loss) == pytest.approx(expected, rel=1e-12)


def test_synflow_sums_the_products_along_all_paths():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    first, second = model[1], model[3]
    paths = second.weight.detach().abs() @ first.weight.detach().abs()  # through both weights
    biased = second.weight.detach().abs() @ first.bias.detach().abs()[:, None]  # through the second alone
    assert search.synflow(model, X, Y) == pytest.approx(float(2 * paths.sum() + biased.sum()), rel=1e-12)


def test_naswot_counts_agreements_of_the_relus_that_the_output_depends_on():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(72, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            self.unused(x + 1)
            return self.head(self.used(x))

    codes = (X.flatten(1) > 0).double()
    kernel = codes @ codes.T + (1 - codes) @ (1 - codes).T
    assert search.naswot(Two().double(), X, Y) == pytest.approx(float(torch.logdet(kernel)), rel=1e-12)
    assert search.naswot(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double(), X, Y) == -math.inf


def test_jacob_cov_by_hand_and_undefined_for_a_dead_network():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = X.clone().requires_grad_()
    rows = [torch.autograd.grad(model(x)[i].sum(), x)[0][i].flatten() for i in range(len(x))]
    centred = torch.stack([(r - r.mean()) / (r - r.mean()).norm() for r in rows])
    v = torch.linalg.eigvalsh(centred @ centred.T)
    expected = -float((torch.log(v + 1e-5) + 1 / (v + 1e-5)).sum())
    assert search.jacob_cov(model, X, Y) == pytest.approx(expected, rel=1e-8)
    with torch.no_grad():
        model[3].weight.zero_()
    assert math.isnan(search.jacob_cov(model, X, Y))


def test_a_disconnected_cell_has_no_gradsign_and_no_jacob_cov():
    torch.manual_seed(0)
    model = search.NASBench201Network("333000", 3, channels=4, cells_per_stage=1).double()
    scores = zero_cost_scores(model, torch.randn(4, 3, 16, 16, dtype=torch.float64), Y[:4])
    assert scores["gradsign"] == 0
    assert math.isnan(scores["jacob_cov"])
    assert scores["num_params"] > 0


def test_weights_that_the_loss_does_not_reach_score_nothing():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.idle = network(norm=False), nn.Linear(3, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    scores = zero_cost_scores(Idle(), X, Y)
    for name, value in REFERENCE[False].items():
        assert scores[name] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"names": ("gradsign", "magic")}, "unknown score 'magic'"),
        ({"x": X[:0], "y": Y[:0]}, "n ≥ 1"),
        ({"y": Y[:4]}, "with a target each"),
        ({"model": network(norm=False).half(), "x": X.half()}, "float16"),
        ({"model": network(norm=False).bfloat16(), "x": X.bfloat16()}, "bfloat16"),
        ({"model": nn.Flatten()}, "no weight to score"),
        ({"loss_fn": lambda z, y: F.cross_entropy(z, y, reduction="none"), "names": ("snip",)}, "must return a scalar"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, match):
    arguments = {"model": network(norm=False), "x": X, "y": Y, **change}
    with pytest.raises(ValueError, match=match):
        zero_cost_scores(**arguments)


def test_inputs_that_cannot_be_differentiated_are_refused_where_it_matters():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)).double()
    tokens = torch.randint(9, (6, 3))
    assert zero_cost_scores(model, tokens, Y, ("snip", "gradsign"))["gradsign"] > 0
    with pytest.raises(ValueError, match="jacob_cov"):
        search.jacob_cov(model, tokens, Y)


def test_autocast_is_refused():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast"):
        zero_cost_scores(network(norm=False).float(), X.float(), Y)
