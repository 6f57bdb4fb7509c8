"""Flows between populations: what they are told, how they are trained, where they carry new populations."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from landform.data import InteractingPopulations, PointPopulations
from landform.flows import (
    ConditionalFlowMatching,
    FlowMatching,
    FlowMatchingLoss,
    MetaFlowMatching,
    PopulationEncoder,
    VelocityField,
    ideal_shift,
    mean_shift,
)
from landform.flows.flow import Thinning
from landform.flows.meta import Alternation, TrainingEmbeddings
from landform.optim.schedules import Cosine

pytest.importorskip("torchdiffeq")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def field(cond_dim: int = 0) -> VelocityField:
    return VelocityField(2, cond_dim, width=32, depth=3, time_dim=8, n_frequencies=8, frequency_scale=0.1)


def meta(k: int = 5, **options) -> MetaFlowMatching:
    return MetaFlowMatching(PopulationEncoder(2, width=8, depth=2, k=k), field(8), **options)


def sets(count: int, seed: int = 0) -> PointPopulations:
    return InteractingPopulations(count, 40, generator=torch.Generator().manual_seed(seed))


# --- what a field is told ----------------------------------------------------------------------------------------


def test_told_zeros_meta_flow_matching_is_flow_matching():
    model, plain = meta(), FlowMatching(field())
    for name, parameter in plain.velocity.named_parameters():
        other = model.velocity.get_parameter(name).detach()
        parameter.data = other[:, 8:] if name == "net.features.1.weight" else other
    plain.velocity.B = model.velocity.B
    x = torch.randn(3, 20, 2)
    torch.testing.assert_close(
        model.transport(x, embedding=torch.zeros(3, 8), steps=3), plain.transport(x, steps=3), atol=1e-5, rtol=0
    )
    assert not torch.allclose(model.transport(x, steps=3), plain.transport(x, steps=3), atol=1e-3)


def test_a_new_environment_is_the_average_of_all_numbers():
    model = ConditionalFlowMatching(field(4), 4)
    x = torch.randn(2, 6, 2)
    t = torch.tensor(0.0)
    new, known = model.transport(x, steps=1), model.transport(x, torch.tensor([3, 1]), steps=1)
    torch.testing.assert_close(new, x + model.velocity(t, x, torch.full((2, 4), 0.25)))
    torch.testing.assert_close(known, x + model.velocity(t, x, torch.eye(4)[[3, 1]]))
    with pytest.raises(ValueError, match="numbers below 4"):
        model.transport(x, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="n_environments=4"):
        model.fit(sets(3))


def test_a_treatment_follows_what_the_field_is_told():
    model = MetaFlowMatching(PopulationEncoder(2, width=8, k=2), field(8 + 3))
    x, treatment = torch.randn(2, 6, 2), torch.eye(3)[:2]
    found = model.transport(x, treatment=treatment, steps=1)
    told = torch.cat([model.encoder(x), treatment], 1)
    torch.testing.assert_close(found, x + model.velocity(torch.tensor(0.0), x, told))
    environments = PointPopulations(x, x + 1, treatment=treatment)
    assert torch.isfinite(model.fit(environments, steps=2)).all()
    assert torch.isfinite(FlowMatching(field(3)).fit(environments, steps=2)).all()


def test_one_population_alone_is_carried_as_in_a_batch():
    model = meta()
    x = torch.randn(3, 20, 2)
    whole = model.transport(x, steps=2)
    torch.testing.assert_close(model.transport(x[1], steps=2), whole[1], atol=1e-5, rtol=0)
    padded = torch.cat([x, torch.zeros(3, 5, 2)], 1)
    mask = torch.arange(25).expand(3, 25) < 20
    torch.testing.assert_close(model.transport(padded, mask=mask, steps=2)[:, :20], whole, atol=1e-5, rtol=0)


def test_a_gaussian_base_starts_from_noise():
    model = FlowMatching(field(), FlowMatchingLoss(base="gaussian"))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    found = model.transport(torch.full((1, 4000, 2), 9.0), steps=1)
    assert abs(float(found.mean())) < 0.1
    assert float(found.std()) == pytest.approx(1, abs=0.05)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternate", [False, True])
def test_meta_flow_matching_predicts_new_sets_where_flow_matching_cannot(alternate):
    train, new = sets(60), sets(20, seed=1)
    budget = {"steps": 250, "batch_size": 8, "points": 20, "learning_rate": 1e-2}
    schedule = partial(Cosine, total=250)
    told = meta()
    told.fit(train, alternate=alternate, schedule=schedule, **budget)
    plain = FlowMatching(field())
    plain.fit(train, schedule=schedule, **budget)
    errors = {
        name: float((model.transport(new.x0, steps=10) - new.x1).square().sum(-1).mean())
        for name, model in (("told", told), ("plain", plain))
    }
    assert errors["told"] < 0.5 * errors["plain"]


def test_alternation_trains_one_part_at_a_time():
    environments = sets(4)
    model = meta()
    embed = TrainingEmbeddings(model.encoder, environments)
    fields = Alternation(model.velocity, embed, 4)
    index = torch.tensor([2, 0])
    loss = FlowMatchingLoss()

    def touched() -> set[str]:
        velocity, told = fields(index)
        model.zero_grad()
        loss(velocity, environments.x0[index], environments.x1[index], cond=told).backward()
        return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}

    assert touched() == {"velocity"}
    assert touched() == {"encoder"}
    for parameter in model.encoder.parameters():
        parameter.data += 0.3
    _, told = fields(index)  # what was kept, not what the encoder says now
    assert not torch.allclose(told, embed(index), atol=1e-3)


def test_alternation_leaves_the_other_part_as_it_was():
    model = meta()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.fit(sets(4), alternate=True, steps=1)
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"velocity"}


def test_training_embeds_whole_populations_as_the_encoder_does():
    environments = PointPopulations(
        torch.randn(3, 10, 2),
        torch.randn(3, 10, 2),
        mask0=torch.arange(10).expand(3, 10) < torch.tensor([[10], [4], [7]]),
    )
    encoder = PopulationEncoder(2, width=8, k=4)
    index = torch.tensor([1, 2])
    torch.testing.assert_close(
        TrainingEmbeddings(encoder, environments)(index),
        encoder(environments.x0[index], mask=environments.mask0[index]),
    )


def test_fits_repeat_with_their_generators():
    def losses() -> torch.Tensor:
        torch.manual_seed(3)
        model = meta(loss=FlowMatchingLoss(generator=torch.Generator().manual_seed(1)))
        torch.rand(2)
        return model.fit(sets(6), steps=4, batch_size=2, points=7, generator=torch.Generator().manual_seed(2))

    assert torch.equal(losses(), losses())


def test_thinning_draws_points_that_are_there_and_keeps_pairs():
    x0 = torch.arange(20.0).view(2, 10, 1).expand(2, 10, 2)
    environments = PointPopulations(
        x0, x0 + 100, mask0=torch.arange(10).expand(2, 10) < 6, mask1=torch.arange(10).expand(2, 10) >= 2
    )
    a, b = Thinning(environments, None, True, None)(torch.tensor([1, 0]))
    assert torch.equal(b, a + 100)
    assert a[:, :, 0].sort().values.tolist() == [[12.0, 13, 14, 15], [2.0, 3, 4, 5]]
    a, b = Thinning(environments, 5, False, None)(torch.tensor([0]))
    assert a[..., 0].max() <= 5
    assert b[..., 0].min() >= 102
    assert len(a[0, :, 0].unique()) == 5
    a, _ = Thinning(environments, 50, True, None)(torch.tensor([0]))  # more than there are: some twice
    assert a.shape == (1, 50, 2)


def test_populations_that_cannot_be_trained_on_are_named():
    uneven = PointPopulations(torch.zeros(2, 5, 2), torch.zeros(2, 6, 2))
    with pytest.raises(ValueError, match="as many"):
        FlowMatching(field()).fit(uneven, steps=1)
    with pytest.raises(ValueError, match="points=0"):
        FlowMatching(field()).fit(sets(2), steps=1, points=0)
    apart = PointPopulations(
        torch.zeros(1, 2, 2),
        torch.zeros(1, 2, 2),
        mask0=torch.tensor([[True, False]]),
        mask1=torch.tensor([[False, True]]),
    )
    with pytest.raises(ValueError, match="no position"):
        FlowMatching(field()).fit(apart, steps=1)
    loss = FlowMatchingLoss("independent")
    assert torch.isfinite(FlowMatching(field(), loss).fit(uneven, steps=1)).all()


# --- shifts ------------------------------------------------------------------------------------------------------


def test_shifts_move_means_alone():
    x0, x1 = torch.randn(3, 10, 2), torch.randn(4, 8, 2) + 5
    moved = mean_shift(x0, x1)
    torch.testing.assert_close(moved.mean(1), x1.mean((0, 1)).expand(3, 2))
    torch.testing.assert_close(moved - moved.mean(1, keepdim=True), x0 - x0.mean(1, keepdim=True))
    ideal = ideal_shift(x0, x1[:3])
    torch.testing.assert_close(ideal.mean(1), x1[:3].mean(1))
    with pytest.raises(ValueError, match="of one d"):
        mean_shift(x0, torch.zeros(3, 3))
