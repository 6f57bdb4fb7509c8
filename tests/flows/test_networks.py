"""The encoder of populations and the velocity field, against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from landform.flows import PopulationEncoder, VelocityField, knn_graph, time_embedding
from landform.flows.encoder import averaging


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# --- the encoder -------------------------------------------------------------------------------------------------


def by_hand(encoder: PopulationEncoder, x: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
    """One population, with the normalised adjacency matrix of the directed graph as a matrix."""
    n, k = len(x), min(encoder.k, len(x) - 1)
    distance = (x.unsqueeze(1) - x.unsqueeze(0)).norm(dim=-1)
    entering = torch.eye(n, dtype=x.dtype)
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: float(distance[i, j]))
        entering[i, others[:k]] = 1
    scale = entering.sum(1).rsqrt().diag()
    z = x if features is None else torch.cat([x, features], 1)
    for number, layer in enumerate(encoder.layers):
        z = scale @ entering @ scale @ z @ layer.weight.T + layer.bias
        if number < len(encoder.layers) - 1:
            z = z.clamp(min=0)
    h = z.mean(0)
    return h / h.norm()


@pytest.mark.parametrize("k", [0, 1, 3, 50])
@pytest.mark.parametrize("n", [6, 70])
def test_embedding_is_that_of_the_formula(k, n):
    encoder = PopulationEncoder(3, width=8, depth=3, k=k).double()
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.bias)
    x, features = torch.randn(2, n, 2).double(), torch.randn(2, n, 1).double()
    expected = torch.stack([by_hand(encoder, *each) for each in zip(x, features, strict=True)])
    torch.testing.assert_close(encoder(x, features), expected, atol=1e-12, rtol=0)


def test_small_and_large_sets_average_alike(monkeypatch):
    graph = knn_graph(torch.randn(2, 30, 2), 4, torch.arange(30).expand(2, 30) < torch.tensor([[30], [3]]))
    assert (graph == -1).any()
    z = torch.randn(2, 30, 5).double()
    dense = averaging(graph, z.dtype)(z)
    monkeypatch.setattr("landform.flows.encoder.DENSE", 0)
    torch.testing.assert_close(averaging(graph, z.dtype)(z), dense, atol=1e-14, rtol=0)
    torch.testing.assert_close(dense[0, 7], z[0, graph[0, 7]].mean(0))


def test_embedding_ignores_order_padding_and_repetition():
    encoder = PopulationEncoder(2, width=8, k=5).double()
    x = torch.randn(4, 20, 2).double()
    h = encoder(x)
    torch.testing.assert_close(h.norm(dim=1), torch.ones(4).double())
    torch.testing.assert_close(encoder(x[:, torch.randperm(20)]), h, atol=1e-12, rtol=0)
    padded = torch.cat([x, 100 * torch.randn(4, 7, 2)], 1)
    mask = torch.arange(27).expand(4, 27) < 20
    torch.testing.assert_close(encoder(padded, mask=mask), h, atol=1e-12, rtol=0)
    assert not torch.allclose(encoder(padded), h, atol=1e-3)
    sets = PopulationEncoder(2, width=8, k=0).double()
    torch.testing.assert_close(sets(x.repeat(1, 2, 1)), sets(x), atol=1e-12, rtol=0)


def test_sets_smaller_than_a_neighbourhood_are_as_without_padding():
    encoder = PopulationEncoder(2, width=8, k=5).double()
    x = torch.randn(1, 3, 2).double()
    padded = torch.cat([x, torch.zeros(1, 9, 2)], 1)
    torch.testing.assert_close(encoder(padded, mask=torch.arange(12).unsqueeze(0) < 3), encoder(x), atol=1e-12, rtol=0)


def test_pooling_and_norms():
    x = torch.randn(2, 10, 2)
    encoder = PopulationEncoder(2, width=8, depth=1, k=0, normalise=False, pool="max")
    torch.testing.assert_close(encoder(x), encoder.layers[0](x).amax(1))
    for layer in (zero := PopulationEncoder(2, width=8)).layers:
        torch.nn.init.zeros_(layer.weight)
    assert torch.equal(zero(x), torch.zeros(2, 8))  # and no NaN


@pytest.mark.parametrize(
    ("options", "match"),
    [({"in_dim": 0}, "in_dim=0"), ({"k": -1}, "k=-1"), ({"pool": "median"}, "median"), ({"depth": 0}, "depth=0")],
)
def test_impossible_encoders_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        PopulationEncoder(**{"in_dim": 2, **options})


def test_populations_that_cannot_be_encoded_are_named():
    encoder = PopulationEncoder(2)
    with pytest.raises(ValueError, match="in_dim=2"):
        encoder(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="no point"):
        encoder(torch.zeros(2, 4, 2), mask=torch.tensor([[True] * 4, [False] * 4]))
    with pytest.raises(ValueError, match="mask has shape"):
        encoder(torch.zeros(2, 4, 2), mask=torch.ones(2, 5, dtype=torch.bool))


# --- the velocity field ------------------------------------------------------------------------------------------


def test_time_embedding_is_the_transformers():
    t = torch.tensor([[0.3]], dtype=torch.float64)
    angle = [0.3 * math.exp(-math.log(10_000) * i / 63) for i in range(64)]
    expected = [math.sin(a) for a in angle] + [math.cos(a) for a in angle]
    torch.testing.assert_close(
        time_embedding(t, 128)[0], torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert time_embedding(t, 7)[0, -1] == 0
    high = time_embedding(t, 6, (1.0, 9.0))[0, :3]
    torch.testing.assert_close(high, torch.tensor([0.3, 0.9, 2.7]).double().sin())


@pytest.mark.parametrize("residual", [False, True])
def test_velocity_is_that_of_the_formula(residual):
    field = VelocityField(2, 3, width=16, depth=3, time_dim=6, n_frequencies=5, residual=residual).double()
    t, x, cond = torch.tensor(0.4).double(), torch.randn(4, 2).double(), torch.randn(4, 3).double()
    angle = 2 * math.pi * x @ field.B
    z = torch.cat([cond, time_embedding(t.expand(4, 1), 6), angle.cos(), angle.sin(), x], 1)
    linear = [module for module in field.net.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == (4 if residual else 3)
    for number, layer in enumerate(linear[:-1]):
        z = torch.selu(layer(z) + (z if residual and number else 0))
    torch.testing.assert_close(field(t, x, cond), linear[-1](z), atol=1e-12, rtol=0)


def test_times_and_conditions_broadcast():
    field = VelocityField(2, 3, width=16, time_dim=6, n_frequencies=5)
    x, h, t = torch.randn(4, 7, 2), torch.randn(4, 3), torch.rand(4, 7)
    whole = field(t.unsqueeze(-1), x, h)
    torch.testing.assert_close(field(t, x, h), whole)
    torch.testing.assert_close(field(t, x, h.unsqueeze(1).expand(4, 7, 3)), whole)
    each = torch.stack([field(t[i], x[i], h[i]) for i in range(4)])
    torch.testing.assert_close(each, whole)
    torch.testing.assert_close(field(t[1, 2], x, h)[1, 2], whole[1, 2])


def test_frequencies_are_kept_in_checkpoints_and_small():
    field = VelocityField(3, width=8, frequency_scale=0.01, n_frequencies=2000)
    assert field.state_dict()["B"].shape == (3, 2000)
    assert float(field.B.std()) == pytest.approx(0.01, rel=0.05)
    assert "B" not in dict(field.named_parameters())
    other = VelocityField(3, width=8, n_frequencies=2000)
    other.load_state_dict(field.state_dict())
    t, x = torch.rand(5, 1), torch.randn(5, 3)
    assert torch.equal(other(t, x), field(t, x))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dim": 0}, "dim=0"),
        ({"cond_dim": -1}, "cond_dim=-1"),
        ({"frequency_scale": 0.0}, "frequency_scale"),
        ({"time_frequencies": (0.0, 1.0)}, "time_frequencies"),
        ({"depth": 0}, "depth=0"),
    ],
)
def test_impossible_fields_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        VelocityField(**{"dim": 2, **options})


def test_points_and_conditions_that_do_not_fit_are_named():
    t = torch.tensor(0.5)
    with pytest.raises(ValueError, match="dim=2"):
        VelocityField(2, width=8)(t, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="cond_dim=3"):
        VelocityField(2, 3, width=8)(t, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="cond_dim=0"):
        VelocityField(2, width=8)(t, torch.zeros(4, 2), torch.zeros(4, 1))
