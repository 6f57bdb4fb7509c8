"""Scenes: areas of shapes in closed form, the formula by brute force, and independence of batch, chunk and order."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch.utils.data import DataLoader

from landform import data
from landform.data.counter import Field, hash_uniform
from landform.data.scenes import (
    BACKGROUNDS,
    SHAPES,
    VALUES,
    Factors,
    GeographyDesign,
    SceneDataset,
    SpuriousDesign,
    mask_boxes,
    render_scenes,
)
from landform.data.scenes.appearance import FREQUENCY, GROUND_TEXTURE, LOW, PALETTE, SPAN
from landform.data.scenes.atlas import shape_atlas, texture_atlas
from landform.data.scenes.regions import ASPECT, CONTRAST, OFFSET, TINT
from landform.data.scenes.render import _distractor


def factors(n: int, **fixed: int) -> Factors:
    drawn = SpuriousDesign()(torch.arange(n), 11)
    return drawn._replace(**{name: torch.full((n,), value) for name, value in fixed.items()})


@pytest.mark.parametrize(("gamma", "tolerance"), [(0.0, 1e-5), (0.7, 3e-4)])
def test_a_scene_is_its_formula(gamma, tolerance):
    """One image at a time, one pixel at a time, in Python's own numbers.

    A coordinate that falls on the border between two cells may be rounded to either; that also moves the mean a little.
    """
    seed, size = 5, 16
    index = torch.tensor([3, 900, 41])
    made = SpuriousDesign()(index, seed)
    images, masks = render_scenes(made, index, seed=seed, size=size, gamma=gamma, return_mask=True)
    for k, number in enumerate(index.tolist()):
        u = [hash_uniform(seed, number, field).item() for field in range(13)]
        shape, texture, colour, ground, region = (int(values[k]) for values in made[:5])
        s, th = size * (0.26 + 0.10 * u[0]), (u[1] - 0.5) * math.pi / 6
        centre = [size * (0.5 + 0.24 * (v - 0.5)) for v in u[2:4]]
        g = 0.85 + 0.3 * u[12]
        expected = torch.empty(3, size, size, dtype=torch.float64)
        alpha = torch.empty(size, size, dtype=torch.float64)
        for row in range(size):
            for column in range(size):
                dx, dy = column + 0.5 - centre[0], row + 0.5 - centre[1]
                aspect = 1 - gamma + gamma * ASPECT[region].item()
                ou = (math.cos(th) * dx + math.sin(th) * dy) / s / aspect
                ov = (-math.sin(th) * dx + math.cos(th) * dy) / s
                at = [min(max(math.floor((v + 1.5) * 64 / 3), 0), 63) for v in (ou, ov)]
                a = min(max(0.5 - shape_atlas()[shape, at[1], at[0]].item() * s, 0), 1)
                tile = [math.floor(64 * (0.55 * v + phase)) % 64 for v, phase in ((ou, u[4]), (ov, u[5]))]
                t = texture_atlas()[texture, tile[1], tile[0]].item()
                pace = FREQUENCY[ground].item() * 64 / size * (0.8 + 0.4 * u[6])
                tile = [math.floor((p + 0.5) * pace + 64 * v) % 64 for p, v in ((column, u[7]), (row, u[8]))]
                b = texture_atlas()[GROUND_TEXTURE[ground], tile[1], tile[0]].item()
                for c in range(3):
                    own = min(max(PALETTE[colour, c].item() + 0.12 * (u[9 + c] - 0.5), 0), 1)
                    below = g * (LOW[ground, c].item() + SPAN[ground, c].item() * b)
                    expected[c, row, column] = below + (own * g * (0.45 + 0.55 * t) - below) * a
                alpha[row, column] = a
        mean = expected.mean((1, 2), keepdim=True)
        styled = (expected - mean) * (1 - gamma + gamma * CONTRAST[region]) + mean + gamma * OFFSET[region]
        styled = (styled * (1 - gamma + gamma * TINT[region].view(3, 1, 1))).clamp(0, 1)
        assert ((images[k] - styled).abs() > tolerance).any(0).sum() <= 2
        assert ((masks[k, 0] - alpha).abs() > 1e-5).sum() <= 2


def test_images_do_not_depend_on_chunk_order_or_batch():
    index = torch.arange(60)
    made = SpuriousDesign(strength=0.5)(index, 3)
    for gamma, distractors in ((0.0, 0), (1.0, 2)):
        options = {"seed": 3, "gamma": gamma, "n_distractors": distractors}
        whole = render_scenes(made, index, **options)
        assert whole.shape == (60, 3, 32, 32)
        assert whole.dtype == torch.float32
        assert whole.min() >= 0
        assert whole.max() <= 1
        for chunk in (1, 7):
            assert torch.equal(render_scenes(made, index, chunk=chunk, **options), whole)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        shuffled = Factors(*(values[order] for values in made))
        assert torch.equal(render_scenes(shuffled, order, **options), whole[order])
    assert not torch.equal(render_scenes(made, index, seed=4), render_scenes(made, index, seed=3))
    assert len(render_scenes(made, index, seed=3).flatten(1).unique(dim=0)) == 60


@pytest.mark.parametrize(("shape", "area"), [("disk", math.pi * 0.81), ("square", 2.56), ("hexagon", 1.5 * 3**0.5)])
def test_masks_have_the_shapes_areas(shape, area):
    index = torch.arange(600)
    made = factors(600, shape=SHAPES.index(shape))
    masks = render_scenes(made, index, seed=0, size=64, return_mask=True)[1]
    radius = 64 * (0.26 + 0.10 * hash_uniform(0, index, Field.RADIUS))
    assert (masks.sum((1, 2, 3)) / radius**2).mean().item() == pytest.approx(area, rel=0.01)


def test_shapes_stand_upright_and_are_ten():
    atlas = shape_atlas()
    inside = atlas < 0
    tee = inside[SHAPES.index("tee")]
    assert tee[:32].sum() > 1.4 * tee[32:].sum()  # the bar is above
    triangle = inside[SHAPES.index("triangle")].sum(1)
    assert triangle[20] < triangle[40]
    for name in ("square", "plus", "ring", "hexagon", "bars"):
        assert torch.equal(inside[SHAPES.index(name)], inside[SHAPES.index(name)].flip(0, 1))
    overlap = torch.einsum("aij,bij->ab", inside.double(), inside.double())
    size = overlap.diagonal()
    share = overlap / (size[:, None] + size - overlap)
    assert (share - torch.eye(10)).max() < 0.95


def test_textures_wrap():
    atlas = texture_atlas()
    assert atlas.min() >= 0
    assert atlas.max() <= 1
    assert torch.equal(atlas[0], torch.full((64, 64), 0.5))
    for tile in atlas[1:]:
        for dim in (0, 1):
            steps = (tile - tile.roll(1, dim)).abs().double().mean(1 - dim)
            assert steps[0] < 1.5 * steps[1:].max() + 1e-9  # the seam is like any other line


def test_distractors_lie_below_and_are_never_of_the_label_s_shape():
    index = torch.arange(200)
    made = factors(200)
    plain, mask = render_scenes(made, index, seed=0, return_mask=True)
    busy = render_scenes(made, index, seed=0, n_distractors=3)
    object_alone = mask.expand(-1, 3, -1, -1) == 1
    torch.testing.assert_close(busy[object_alone], plain[object_alone])
    assert ((busy - plain).abs().amax(1) > 0.05).float().mean((1, 2)).gt(0.02).float().mean() > 0.9
    shapes = torch.stack([_distractor(made.shape, k, index, 0, 32).shape for k in range(3)])
    assert (shapes != made.shape).all()
    assert torch.equal(((shapes - made.shape) % 10).unique(), torch.arange(1, 10))


def test_scale_and_rotation_are_options():
    index = torch.arange(50)
    made = factors(50, shape=SHAPES.index("square"))
    masks = render_scenes(
        made, index, seed=0, size=64, return_mask=True, scale_range=(0.3, 0.3), rotation=0.0
    )[1]  # fmt: skip
    box = mask_boxes(masks)
    sides = box[:, 2:] - box[:, :2]
    assert (sides - 2 * 0.8 * 0.3 * 64).abs().max() <= 2
    inside = (masks > 0.5).sum((1, 2, 3))
    assert torch.equal(inside, sides.prod(1).long())  # unturned: the square fills its box


def test_boxes_of_masks_are_tight():
    masks = torch.zeros(3, 1, 8, 9)
    masks[0, 0, 2:5, 3:9] = 1
    masks[1, 0, 7, 0] = 0.6
    masks[2] = 0.5
    assert mask_boxes(masks).tolist() == [[3, 2, 9, 5], [0, 7, 1, 8], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match=r"\(8, 9\)"):
        mask_boxes(masks[0, 0])


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_regions_are_alike_without_gamma_and_apart_with_it(gamma):
    """A forest on the channels' means and deviations tells them apart, or is at chance within three standard errors."""
    dataset = SceneDataset(3000, GeographyDesign([1.0] * 6, gamma), seed=0, size=16)
    x, region = dataset.materialise()[0], dataset.factors().region.numpy()
    features = torch.cat([x.mean((2, 3)), x.std((2, 3))], 1).numpy()
    forest = RandomForestClassifier(30, random_state=0).fit(features[:2000], region[:2000])
    accuracy = forest.score(features[2000:], region[2000:])
    assert accuracy > 0.8 if gamma else abs(accuracy - 1 / 6) < 3 * math.sqrt(5 / 36 / 1000)


def test_means_and_deviations_give_the_ground_away_and_not_the_shape():
    """What a spurious design needs: a shortcut that fails where the ground no longer goes with the shape."""

    def features(dataset: SceneDataset) -> np.ndarray:
        x = dataset.materialise()[0]
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1).numpy()

    train, same, free = (
        SceneDataset(1500, SpuriousDesign(strength=rho), seed, 16) for rho, seed in ((0.95, 0), (0.95, 1), (0.0, 2))
    )
    shortcut = RandomForestClassifier(30, random_state=0).fit(features(train), train.factors().label)
    ground = RandomForestClassifier(30, random_state=0).fit(features(train), train.factors().background)
    assert ground.score(features(free), free.factors().background) > 0.8
    # Eight grounds for ten shapes: at best about .8 of the labels could be read off the ground.
    assert shortcut.score(features(same), same.factors().label) > 0.6
    assert shortcut.score(features(free), free.factors().label) < 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_draws_the_same():
    index = torch.arange(200)
    made = SpuriousDesign()(index, 0)
    here = render_scenes(made, index, seed=0, gamma=1.0, n_distractors=1)
    there = render_scenes(made, index, seed=0, gamma=1.0, n_distractors=1, device="cuda")
    torch.testing.assert_close(there.cpu(), here, atol=1e-6, rtol=0)


def test_a_dataset_draws_what_it_is_asked_for():
    dataset = SceneDataset(40, SpuriousDesign(strength=0.8), seed=2, size=16)
    images, labels = dataset.materialise()
    assert torch.equal(labels, dataset.factors().label)
    image, label = dataset[-1]
    assert torch.equal(image, images[39])
    assert label == labels[39]
    assert torch.equal(pickle.loads(pickle.dumps(dataset)).materialise()[0], images)
    batches = list(DataLoader(dataset, batch_size=16))
    assert torch.equal(torch.cat([x for x, _ in batches]), images)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)
    halved = SceneDataset(40, SpuriousDesign(strength=0.8), 2, 16, transform=lambda x: x / 2)
    assert torch.equal(halved.materialise()[0], images / 2)
    assert torch.equal(halved[3][0], images[3] / 2)
    longer = SceneDataset(60, SpuriousDesign(strength=0.8), seed=2, size=16)
    assert torch.equal(longer.materialise()[0][:40], images)
    abroad = GeographyDesign([0, 0, 0, 0, 1, 0], 1.0)
    assert not torch.equal(
        SceneDataset(4, abroad, 0).materialise()[0], SceneDataset(4, abroad, 0, gamma=0.0).materialise()[0]
    )
    for wrong in (40, -41):
        with pytest.raises(IndexError, match=f"index={wrong}"):
            dataset[wrong]


def test_the_world_has_train_and_test_with_their_factors():
    splits = data.load("scenes?train=300&test=50&size=16&strength=0.9&attribute=colour")
    train, test = splits["train"], splits["test"]
    assert train.x.shape == (300, 3, 16, 16)
    assert train.classes == SHAPES
    assert set(train.fields) == {*VALUES, "group"}
    assert train.names["background"] == BACKGROUNDS
    assert torch.equal(train.y, train.fields["shape"])
    assert torch.equal(train.fields["group"], train.y * 8 + train.fields["colour"])
    assert train.names["group"][9] == "square & green"
    along = train.fields["colour"] == train.y % 8
    assert abs(along.double().mean() - 0.9125) < 4 * math.sqrt(0.08 / 300)
    assert (test.fields["colour"] == test.y % 8).double().mean() < 0.4
    assert not (test.x[:, None, 0] == train.x[None, :50, 0]).flatten(2).all(2).any()
    more = data.load("scenes", train=310, test=50, size=16, strength=0.9, attribute="colour")
    assert torch.equal(more["train"].x[:300], train.x)
    assert torch.equal(more["test"].x, test.x)


@pytest.mark.parametrize("factor", VALUES)
def test_a_factor_out_of_range_is_named(factor):
    for value in (-1, len(VALUES[factor])):
        with pytest.raises(IndexError, match=f"factor {factor} holds {value}"):
            render_scenes(factors(3, **{factor: value}), [0, 1, 2], seed=0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"size": 15}, ValueError, "size=15"),
        ({"size": 257}, ValueError, "size=257"),
        ({"gamma": 1.5}, ValueError, "gamma=1.5"),
        ({"gamma": math.nan}, ValueError, "gamma=nan"),
        ({"chunk": 0}, ValueError, "chunk=0"),
        ({"n_distractors": -1}, ValueError, "n_distractors=-1"),
        ({"scale_range": (0.5, 0.2)}, ValueError, "scale_range"),
        ({"rotation": -1.0}, ValueError, "rotation"),
        ({"index": [0, 1]}, ValueError, r"index has shape \(2,\)"),
        ({"index": [0, 1, -1]}, ValueError, "-1"),
        ({"index": [0.5, 1, 2]}, TypeError, "index"),
        ({"factors": factors(3)._replace(colour=torch.rand(3))}, TypeError, "colour"),
        ({"factors": factors(3)._replace(colour=[0, 1, 2])}, TypeError, "colour"),
        ({"factors": factors(3)._replace(colour=torch.zeros(2).long())}, ValueError, "colour"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, error, match):
    call = {"factors": factors(3), "index": [0, 1, 2], "seed": 0} | change
    with pytest.raises(error, match=match):
        render_scenes(call.pop("factors"), call.pop("index"), **call)


def test_nothing_is_drawn_of_nothing():
    images, masks = render_scenes(factors(0), [], seed=0, return_mask=True)
    assert images.shape == (0, 3, 32, 32)
    assert masks.shape == (0, 1, 32, 32)
