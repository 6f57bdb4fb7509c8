"""Pairs of populations: letters that have diffused, and sets that contract about their own centre."""

from __future__ import annotations

import math

import pytest
import torch

from landform.data.populations import InteractingPopulations, PointPopulations, letter_pixels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_letters_are_scaled_turned_and_diffused():
    found = PointPopulations.from_glyphs("IO", ("DejaVu Sans", "STIX"), 0.5, 3, 400, seeded())
    assert found.x0.shape == found.x1.shape == (12, 400, 2)
    assert found.fields["character"].tolist() == [0] * 6 + [1] * 6
    assert found.fields["face"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert found.names["character"] == ("I", "O")
    moved = found.x0 - found.x1  # paired by position
    assert float(moved.std()) == pytest.approx(0.5, rel=0.03)
    assert float((moved[..., 0] * found.x1[..., 0]).mean()) == pytest.approx(0, abs=0.05)


def test_a_letter_is_upright_and_keeps_its_proportions():
    pixels = letter_pixels("L", "DejaVu Sans")
    low, high = pixels.amin(0), pixels.amax(0)
    assert high[1] == 3
    assert low[1] == -3
    assert 1 < high[0] < 2.5
    assert high[0] == -low[0]
    foot = pixels[pixels[:, 1] < -2.5]
    top = pixels[pixels[:, 1] > 2.5]
    assert float(foot[:, 0].amax()) == float(high[0])  # the foot of an L is at the bottom, and points right
    assert float(top[:, 0].amax()) < 0


def test_without_noise_or_turns_targets_are_pixels():
    found = PointPopulations.from_glyphs("E", noise=0, rotations=2, n_points=300, max_angle=0, jitter=0)
    assert torch.equal(found.x0, found.x1)
    pixels = {tuple(point) for point in letter_pixels("E", "DejaVu Sans").tolist()}
    for cloud in found.x1:
        points = {tuple(point) for point in cloud.tolist()}
        assert len(points) == 300  # none twice
        assert points <= pixels
    many = PointPopulations.from_glyphs("I", n_points=len(letter_pixels("I", "DejaVu Sans")) + 1, rotations=1)
    assert torch.isfinite(many.x0).all()


def test_angles_stay_within_their_range():
    found = PointPopulations.from_glyphs("I", noise=0, jitter=0, rotations=200, n_points=400, max_angle=15)
    tilt = [
        abs(float(torch.linalg.eigh(cloud.T.cov()).eigenvectors[:, 1] @ torch.tensor([1.0, 0]))) for cloud in found.x1
    ]
    assert math.sin(math.radians(12)) < max(tilt) < math.sin(math.radians(15.5))


def test_interacting_populations_contract_about_their_own_mean():
    found = InteractingPopulations(40, 60, noise=0.0, generator=seeded())
    mean = found.x0.mean(1, keepdim=True)
    x, y = (found.x0 - mean).unbind(-1)
    torch.testing.assert_close(found.x1, mean + 0.5 * torch.stack([-y, x], -1), atol=1e-5, rtol=0)
    assert mean.abs().max() <= 2
    assert mean.abs().max() > 1.7
    assert set(found.fields["shape"].tolist()) == {0, 1, 2, 3}
    noisy = InteractingPopulations(40, 60, generator=seeded())
    assert torch.equal(noisy.x0, found.x0)
    assert float((noisy.x1 - found.x1).std()) == pytest.approx(0.02, rel=0.05)


def test_draws_repeat_with_their_generator():
    for draw in (
        lambda g: InteractingPopulations(5, 20, generator=g),
        lambda g: PointPopulations.from_glyphs("AB", rotations=2, n_points=20, generator=g),
    ):
        first, again, other = (draw(seeded(seed)) for seed in (0, 0, 1))
        assert torch.equal(first.x0, again.x0)
        assert torch.equal(first.x1, again.x1)
        assert not torch.equal(first.x0, other.x0)


def test_a_part_keeps_all_that_is_known():
    found = PointPopulations(
        torch.arange(12.0).view(3, 2, 2), torch.ones(3, 4, 2),
        treatment=torch.eye(3), node_features=torch.ones(3, 2, 1),
        mask0=torch.tensor([[True, True], [True, False], [False, True]]), fields={"patient": torch.tensor([7, 8, 9])},
    )  # fmt: skip
    part = found[torch.tensor([2, 0])]
    assert torch.equal(part.x0, found.x0[[2, 0]])
    assert torch.equal(part.treatment, torch.eye(3)[[2, 0]])
    assert part.mask0.tolist() == [[False, True], [True, True]]
    assert part.fields["patient"].tolist() == [9, 7]
    assert part.mask1 is None
    assert len(InteractingPopulations(5, 10)[:2]) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"x0": torch.zeros(3, 4)}, "x0"),
        ({"x0": torch.zeros(2, 4, 2)}, "one E and d"),
        ({"x0": torch.full((3, 4, 2), torch.inf)}, "x0 holds"),
        ({"treatment": torch.zeros(2, 1)}, "treatment"),
        ({"node_features": torch.zeros(3, 5, 1)}, "node_features"),
        ({"mask1": torch.zeros(3, 4, dtype=torch.bool)}, "mask1: a population has no point"),
        ({"fields": {"patient": torch.zeros(4)}}, "patient"),
    ],
)
def test_parts_that_do_not_fit_are_named(options, match):
    given = {"x0": torch.zeros(3, 4, 2), "x1": torch.zeros(3, 4, 2), **options}
    with pytest.raises(ValueError, match=match):
        PointPopulations(**given)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"characters": ""}, "at least one"),
        ({"faces": ()}, "at least one"),
        ({"faces": ("Arial",)}, "Arial"),
        ({"characters": "\N{HIRAGANA LETTER A}"}, "no ink"),
        ({"characters": " "}, "no ink"),
        ({"noise": -1.0}, "noise"),
        ({"rotations": 0}, "rotations"),
        ({"n_points": 0}, "n_points"),
    ],
)
def test_letters_that_cannot_be_drawn_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        PointPopulations.from_glyphs(**{"characters": "A", **options})


@pytest.mark.parametrize("options", [{"count": 0}, {"n_points": 1}, {"noise": -0.1}, {"angle": math.nan}])
def test_interacting_populations_refuse_amounts_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        InteractingPopulations(**{"count": 2, **options})
