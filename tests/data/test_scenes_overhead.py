"""Scenes from above and roofs: boxes against pixels, laws by counting, and independence of the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from landform import data
from landform.data.counter import Field, hash_uniform
from landform.data.scenes import (
    CONTINENTS,
    DAMAGE_CLASSES,
    EVENTS,
    OVERHEAD_CLASSES,
    ROOF_MATERIALS,
    ROOF_SHAPES,
    ZONES,
    mask_boxes,
    overhead_scenes,
    roof_factors,
    roof_material_prior,
    roof_tiles,
    to_coco,
)
from landform.data.scenes.damage import damage, lost_roof
from landform.data.scenes.overhead import paint
from landform.data.scenes.placement import HALL, TANK, place
from landform.data.scenes.zones import zone_table

INDEX = torch.arange(48)
CPU = torch.device("cpu")


def objects_of(n: int, zone: int, *, size: int = 64, grid: int = 5):
    return place(torch.arange(n), torch.full((n,), zone), zone_table(1.0, CPU), 0, size, grid, False)


@pytest.mark.parametrize("size", [64, 128])
def test_boxes_are_tight_around_what_is_painted(size):
    """Each object by itself in white on black, without its shadow; against the extents of the painted pixels."""
    objects = objects_of(24, 3, size=size)
    objects = replace(objects, colour=torch.ones_like(objects.colour), shadow=torch.zeros_like(objects.shadow))
    checked = 0
    for cell in range(25):
        alone = replace(objects, kind=torch.where(torch.arange(25) == cell, objects.kind, -1))
        canvas = torch.zeros(24, size, size, 3)
        paint(canvas, alone)
        there = alone.kind[:, cell] >= 0
        # Half covered, for roofs of their darker half.
        half = torch.where(alone.kind[:, cell] <= HALL, 0.43, 0.5).view(-1, 1, 1)
        boxes = mask_boxes((canvas[..., 0] > half).float().unsqueeze(1))[there]
        off = (boxes - objects.boxes[there, cell]).abs()
        assert off.max() <= 1.0
        checked += int(there.sum())
    assert checked > 200


def test_boxes_are_the_extents_of_turned_corners():
    objects = objects_of(200, 1)
    corners = torch.tensor([(-1, -1), (-1, 1), (1, -1), (1, 1)]) / 2
    there = (objects.kind >= 0) & (objects.kind != TANK)
    w, h, cos, sin = (v[there].double() for v in (objects.width, objects.height, objects.cos, objects.sin))
    x = objects.x[there].double()[:, None] + corners[:, 0] * (w * cos)[:, None] - corners[:, 1] * (h * sin)[:, None]
    y = objects.y[there].double()[:, None] + corners[:, 0] * (w * sin)[:, None] + corners[:, 1] * (h * cos)[:, None]
    expected = torch.stack((x.amin(1), y.amin(1), x.amax(1), y.amax(1)), 1).clamp(0, 64)
    torch.testing.assert_close(objects.boxes[there].double(), expected, atol=1e-4, rtol=0)
    disks = objects.kind == TANK
    sides = objects.boxes[disks][:, 2:] - objects.boxes[disks][:, :2]
    torch.testing.assert_close(sides, objects.width[disks][:, None].expand(-1, 2), atol=1e-4, rtol=0)
    assert torch.equal(objects.boxes[objects.kind < 0], torch.zeros(int((objects.kind < 0).sum()), 4))


def test_scenes_do_not_depend_on_the_batch(monkeypatch):
    zone = INDEX % 4
    whole = overhead_scenes(INDEX, zone, seed=1)
    assert whole.images.shape == (48, 3, 64, 64)
    assert whole.images.min() >= 0
    assert whole.images.max() <= 1
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    shuffled = overhead_scenes(order, zone[order], seed=1)
    assert all(torch.equal(a, b[order]) for a, b in zip(shuffled, whole, strict=True))
    monkeypatch.setattr("landform.data.scenes.overhead.CHUNK", 7)
    assert all(torch.equal(a, b) for a, b in zip(overhead_scenes(INDEX, zone, seed=1), whole, strict=True))
    assert not torch.equal(overhead_scenes(INDEX, zone, seed=2).images, whole.images)
    named = overhead_scenes(INDEX[:3], "arid", seed=1)
    assert torch.equal(named.images[1], whole.images[1])
    assert all(len(part) == 0 for part in overhead_scenes([], 0, seed=0))


@pytest.mark.parametrize("zone", range(4))
def test_classes_and_density_follow_the_zone(zone):
    n = 1600
    table = zone_table(1.0, CPU)
    kind = objects_of(n, zone).kind.flatten()
    found = kind[kind >= 0]
    assert len(found) / kind.numel() == pytest.approx(float(table.density[zone]), abs=4 * 0.5 / math.sqrt(25 * n))
    prior = table.prior[zone].double()
    assert stats.chisquare(found.bincount(minlength=6), prior / prior.sum() * len(found)).pvalue > 1e-4


def test_zones_are_alike_at_lam_0_and_apart_at_1():
    same = [overhead_scenes(INDEX[:6], zone, seed=0, lam=0.0) for zone in ZONES]
    for other in same[1:]:
        assert all(torch.equal(a, b) for a, b in zip(same[0], other, strict=True))
    means = torch.stack([overhead_scenes(INDEX[:12], zone, seed=0).images.mean((2, 3)).mean(0) for zone in ZONES])
    assert (torch.cdist(means, means) + torch.eye(4)).min() > 0.1
    between = overhead_scenes(INDEX[:12], "cold", seed=0, lam=0.5).images.mean()
    assert same[0].images.mean() < between < overhead_scenes(INDEX[:12], "cold", seed=0).images.mean()


def test_shadows_fall_beside_their_objects():
    objects = place(torch.arange(16), torch.full((16,), 3), zone_table(1.0, CPU), 0, 128, 1, True)
    objects = replace(objects, colour=torch.ones_like(objects.colour))
    canvas = torch.full((16, 128, 128, 3), 0.5)
    paint(canvas, objects)
    canvas = canvas[objects.kind[:, 0] >= 0]
    dark = (canvas[..., 0] - 0.5 * 0.45).abs() < 1e-6
    bright = canvas[..., 0] > 0.8
    assert dark.sum((1, 2)).min() > 5

    def middle(mask: torch.Tensor) -> torch.Tensor:
        rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
        return torch.stack([(mask * p).sum((1, 2)) / mask.sum((1, 2)) for p in (columns, rows)], 1)

    direction = middle(dark.float()) - middle(bright.float())
    assert (direction[:, 0] < 0).all()  # the cold zone's sun stands in the east ...
    assert (direction[:, 1] > 0).all()  # ... and north


def test_a_wedge_of_the_roof_is_lost():
    n = 32
    objects = place(torch.arange(n), torch.zeros(n).long(), zone_table(1.0, CPU), 0, 256, 1, True)
    wounds = damage(torch.arange(n), torch.zeros(n).long(), 1, 0).of(torch.arange(n), 0)
    assert wounds.share.min() >= 0.20
    assert wounds.share.max() <= 0.45
    columns = torch.arange(256).view(1, 1, -1).expand(n, 1, 256)
    footprint = objects.footprint(torch.arange(n), 0, columns, columns.mT)
    dark = lost_roof(torch.ones(n, 256, 256), footprint, wounds) < 0.5
    inside = footprint.distance() < 0
    share = (dark & inside).sum((1, 2)) / inside.sum((1, 2))
    hit = wounds.damaged.flatten()
    assert 8 < hit.sum() < 24
    torch.testing.assert_close(share[hit], wounds.share.flatten()[hit], atol=0.03, rtol=0)
    assert share[~hit].max() == 0


def test_events_leave_only_buildings_intact_or_damaged():
    plain = overhead_scenes(INDEX, "temperate", seed=0, events="storm")
    flood = overhead_scenes(INDEX, "temperate", seed=0, events=EVENTS.index("flood"))
    assert set(plain.labels.unique().tolist()) == {-1, 0, 1}
    assert len(DAMAGE_CLASSES) == 2
    assert torch.equal(plain.labels, flood.labels)
    assert torch.equal(plain.boxes, flood.boxes)
    damaged = plain.labels[plain.labels >= 0].double().mean().item()
    assert abs(damaged - 0.5) < 4 * 0.5 / math.sqrt(int((plain.labels >= 0).sum()))
    assert not torch.equal(plain.images, flood.images)


def test_coco_lists_hold_every_box():
    _, boxes, labels = overhead_scenes(INDEX[:5], "tropical", seed=0)
    lists = to_coco(boxes, labels)
    assert [entry["name"] for entry in lists["categories"]] == list(OVERHEAD_CLASSES)
    assert [entry["id"] for entry in lists["images"]] == list(range(5))
    assert len(lists["annotations"]) == int((labels >= 0).sum())
    assert len({entry["id"] for entry in lists["annotations"]}) == len(lists["annotations"])
    for entry in lists["annotations"]:
        x, y, w, h = entry["bbox"]
        slots = (boxes[entry["image_id"]].double() - torch.tensor([x, y, x + w, y + h])).abs().amax(1) < 1e-6
        assert labels[entry["image_id"]][slots].tolist() == [entry["category_id"]]
        assert entry["area"] == pytest.approx(w * h)
    with pytest.raises(ValueError, match=r"labels have shape \(5, 3\)"):
        to_coco(boxes, labels[:, :3])
    with pytest.raises(ValueError, match="labels go from"):
        to_coco(boxes, labels + 6)
    with pytest.raises(ValueError, match="without area"):
        to_coco(torch.zeros(1, 1, 4), torch.zeros(1, 1).long())


def test_roofs_do_not_depend_on_the_batch_and_are_what_was_asked_for(monkeypatch):
    index = torch.arange(400)
    asked = roof_factors(index, 3)
    images, masks, metadata = roof_tiles(index, *asked, seed=3)
    assert images.shape == (400, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    for name, values in zip(("material", "roof_shape", "region"), asked, strict=True):
        assert torch.equal(metadata[name], values)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:50]
    monkeypatch.setattr("landform.data.scenes.roofs.CHUNK", 9)
    again = roof_tiles(order, *(values[order] for values in asked), seed=3)
    assert torch.equal(again.images, images[order])
    assert torch.equal(again.masks, masks[order])
    assert all(torch.equal(again.metadata[name], column[order]) for name, column in metadata.items())
    torch.testing.assert_close(metadata["area"], masks.sum((1, 2, 3)) * 0.3**2)
    flat = metadata["roof_shape"] == 0
    assert not (metadata["hvac"] & ~flat).any()
    for name, share, of in (("solar", 0.06, ~flat | flat), ("mixed", 0.05, ~flat | flat), ("hvac", 0.30, flat)):
        found = metadata[name][of].double().mean().item()
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / int(of.sum()))
    assert roof_tiles([], 0, 1, 0, seed=0).images.shape == (0, 3, 32, 32)


def test_roofs_have_their_area():
    tiles = roof_tiles(torch.arange(300), "ClayTiles", "hip", "North America", seed=0, size=64, gsd=0.15)
    # w = 64 (.55 + .25 u), h = w (.6 + .35 u'), independent; corners that leave the image cost a little.
    mean = 64**2 * (0.675**2 + 0.25**2 / 12) * 0.775 * 0.15**2
    assert tiles.metadata["area"].mean().item() == pytest.approx(mean, rel=0.04)


def test_gables_are_lit_by_the_sun_s_azimuth():
    index = torch.arange(60)
    tiles = roof_tiles(index, "AsphaltTiles", "gable", "North America", seed=0, size=64)
    plain = ~(tiles.metadata["solar"] | tiles.metadata["mixed"])
    angle = math.pi * hash_uniform(0, index, Field.ROOF_ANGLE)
    sun = 0.6 + 0.6 * hash_uniform(0, index, Field.ROOF_SUN)
    position = torch.arange(64) + 0.5 - 32
    dx, dy = (position - 4 * (2 * hash_uniform(0, index, f)[:, None] - 1) for f in (Field.ROOF_X, Field.ROOF_Y))
    across = dy[:, :, None] * angle.cos()[:, None, None] - dx[:, None] * angle.sin()[:, None, None]
    inside, level = tiles.masks[:, 0] == 1, tiles.images.mean(1)
    halves = (inside & (across > 1), inside & (across < -1))
    near, far = ((level * half).sum((1, 2)) / half.sum((1, 2)) for half in halves)
    lit, dim = (0.82 + 0.28 * (angle + turn - sun).cos() for turn in (math.pi / 2, -math.pi / 2))
    assert ((near / far / (lit / dim))[plain] - 1).abs().max() < 0.04


def test_flat_materials_are_drawn_flat_whatever_is_asked_for():
    asked = roof_tiles(torch.arange(20), "AmorphousAsphalt", "hip", "Asia", seed=0)
    assert asked.metadata["roof_shape"].eq(0).all()
    assert torch.equal(asked.images, roof_tiles(torch.arange(20), "AmorphousAsphalt", "flat", "Asia", seed=0).images)
    drawn = [roof_tiles(torch.arange(20), "WoodTiles", shape, "Asia", seed=0) for shape in ROOF_SHAPES[1:]]
    assert all(torch.equal(tiles.masks, drawn[0].masks) for tiles in drawn)
    for k in range(3):
        assert ((drawn[k].images - drawn[k - 1].images).abs().amax((1, 2, 3)) > 0.05).all()


def test_materials_follow_the_continents_priors():
    material, shape, region = roof_factors(torch.arange(60_000), 0)
    prior = roof_material_prior()
    torch.testing.assert_close(prior.sum(1), torch.ones(6).double())
    metal, thatch = ROOF_MATERIALS.index("MetalSheetMaterials"), ROOF_MATERIALS.index("Thatch")
    assert prior[0, metal] / prior[0, thatch] == pytest.approx(1.0 / 0.03)
    for continent in range(len(CONTINENTS)):
        counts = material[region == continent].bincount(minlength=14)
        assert stats.chisquare(counts, prior[continent] * counts.sum()).pvalue > 1e-4
    flat = {ROOF_MATERIALS[m] for m in material[shape == 0].unique()}
    assert flat == {name for name in ROOF_MATERIALS if name.startswith("Amorphous")} | {"GreenVegetative"}
    assert len(ROOF_SHAPES) == 4


def test_the_worlds_are_these_scenes():
    train = data.load("overhead?train=20&test=3&seed=2")["train"]
    _, _, labels = overhead_scenes(torch.arange(20), train.y, seed=2)
    assert torch.equal(train.fields["car"], (labels == 2).sum(1))
    assert train.classes == ZONES
    splits = data.load("roofs", train=30, test=10)
    assert splits["train"].x.shape == (30, 3, 32, 32)
    assert splits["test"].names["region"] == CONTINENTS
    assert splits["test"].classes == ROOF_MATERIALS


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: overhead_scenes([0], "polar", seed=0), ValueError, "zone='polar'.*tropical"),
        (lambda: overhead_scenes([0], 4, seed=0), ValueError, "zone holds 4"),
        (lambda: overhead_scenes([0, 1], [0], seed=0), ValueError, r"zone has shape \(1,\)"),
        (lambda: overhead_scenes([0], [0.5], seed=0), TypeError, "zone"),
        (lambda: overhead_scenes([-1], 0, seed=0), ValueError, "-1"),
        (lambda: overhead_scenes(0, 0, seed=0), ValueError, "index"),
        (lambda: overhead_scenes([0], 0, seed=0, size=16), ValueError, "size=16"),
        (lambda: overhead_scenes([0], 0, seed=0, grid=0), ValueError, "grid=0"),
        (lambda: overhead_scenes([0], 0, seed=0, lam=2), ValueError, "lam=2"),
        (lambda: overhead_scenes([0], 0, seed=0, events="war"), ValueError, "events='war'"),
        (lambda: roof_tiles([0], "Straw", 1, 0, seed=0), ValueError, "material='Straw'"),
        (lambda: roof_tiles([0], 0, 9, 0, seed=0), ValueError, "roof_shape holds 9"),
        (lambda: roof_tiles([0], "ClayTiles", "flat", 0, seed=0), ValueError, "roof_shape is flat.*ClayTiles"),
        (lambda: roof_tiles([0], 0, 1, "Atlantis", seed=0), ValueError, "region='Atlantis'"),
        (lambda: roof_tiles([0], 0, 1, 0, seed=0, gsd=0.0), ValueError, "gsd=0.0"),
        (lambda: roof_tiles([0], 0, 1, 0, seed=0, size=8), ValueError, "size=8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
