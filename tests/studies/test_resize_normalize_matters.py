"""The study of resizing and normalisation: what a trial measures, other data, the paper's preset, the figure."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from landform.models import ResNet
from landform.studies import resize_normalize_matters as rnm
from landform.study import Arrays, Run, Saved

TINY = replace(rnm.study.presets["smoke"].config, pretraining=128, train=60, validation=20, test=30, features=8)


def values(records, metric):
    return {r.arm: r.value for r in records if r.metric == metric}


def frame(*trials):
    rows = [
        dataclasses.asdict(r) | {"seed": seed, "task": task, "role": "reported"}
        for seed, task, records in trials
        for r in records
    ]
    return pd.DataFrame(rows)


def test_a_trial_repeats_and_measures_every_arm():
    records = list(rnm.trial(TINY, 0, Run()))
    torch.rand(3)  # whatever the global random state is
    assert records == list(rnm.trial(TINY, 0, Run()))
    assert records != list(rnm.trial(TINY, 1, Run()))
    curve = {(r.arm, r.x): r.value for r in records if r.metric == "accuracy"}
    assert set(curve) == {
        (f"{encoder}, {scaling}", size)
        for encoder in ("pre-trained", "random")
        for scaling in rnm.SCALINGS
        for size in TINY.sizes
    }
    at_size, gain = values(records, "accuracy at size"), values(records, "gain")
    for encoder in ("pre-trained", "random"):
        low, high = (curve[f"{encoder}, standardise", size] for size in (16, 48))
        assert gain[encoder] == pytest.approx(high - low)
        assert values(records, "gain, low end")[encoder] <= gain[encoder]
    assert at_size["pre-training size"] - at_size["native size"] == pytest.approx(gain["pre-trained"])
    assert set(values(records, "accuracy by scaling")) == set(rnm.SCALINGS)
    assert set(values(records, "accuracy of features")) == {"pre-trained", "random", *rnm.SIMPLE}
    assert set(values(records, "linear accuracy")) == {"native size", "pre-training size"}
    statistics = values(records, "image statistics")
    assert statistics["shape, chance"] == pytest.approx(1 / 6)
    assert statistics["land cover, chance"] == 1 / 8


def test_a_claim_has_its_records():
    trials = {task: list(rnm.trial(replace(TINY, task=task), 0, Run())) for task in rnm.TASKS}
    for claim in rnm.study.claims:
        there = {(r.metric, r.arm) for r in trials[claim.at["task"]] if r.x is None}
        arms = [claim.arm, *getattr(claim, "baselines", ()), *filter(None, [getattr(claim, "b", None)])]
        assert {(claim.metric, arm) for arm in arms} <= there, str(claim)


def test_patches_show_what_pre_training_did_not():
    world = rnm.world_of(TINY, 0)
    assert world.pretraining is not None
    assert world.pretraining.classes == rnm.SEEN
    assert set(world.patches["train"].classes) == set(rnm.ASKED)
    assert world.pretraining.x.shape[1:] == (3, 48, 48)
    sizes = {name: len(split) for name, split in world.patches.items()}
    assert sizes == {"train": 60, "validation": 20, "test": 30}
    x = torch.cat([split.x for split in world.patches.values()])
    assert x.shape[1:] == (3, 16, 16)
    assert torch.equal(x, x.round())
    low = torch.tensor(TINY.offset).view(3, 1, 1)
    assert (x >= low).all()
    assert (x <= low + torch.tensor(TINY.gain).view(3, 1, 1)).all()
    images = {image.numpy().tobytes() for image in x}
    assert len(images) == 110  # none twice, so none in two parts
    assert world.land_cover["train"].classes == rnm.BACKGROUNDS


def test_pre_training_learns_and_leaves_the_untrained_network_alone():
    config = replace(TINY, pretraining=400, epochs=4)
    images = rnm.scenes(("disk", "bars"), ("snow",), 400, 0, 48)
    encoder, untrained, _ = rnm.pretrained(config, images, 0, Run())
    fresh = rnm.convolutions(3)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in untrained.parameters()]
    assert int(untrained[1].num_batches_tracked) == 0
    assert int(encoder[1].num_batches_tracked) == 4 * (400 // 64)
    standardise = rnm.Preprocess(None, "standardise", rnm.ChannelStatistics.from_loader([images.x]))
    encoder.eval(), untrained.eval()
    scores = []
    for net in (encoder, untrained):
        with torch.no_grad():
            features = net(standardise(images.x))
        scores.append(rnm.KNNProbe().fit(features[:300], images.y[:300]).score(features[300:], images.y[300:]))
    assert scores[0] > 0.95
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "fields"}, "task='fields'"),
        ({"native": 20}, "native=20"),
        ({"sizes": (48, 16)}, "must increase"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_the_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


# Other data.


def test_images_of_ones_own_are_split_by_class():
    config = replace(TINY, data="digits?limit=400", pretraining_size=16, native=8, sizes=(8, 16))
    world = rnm.world_of(config, 0)
    assert world.pretraining is not None
    assert len(world.pretraining.classes) == 6
    assert not set(world.pretraining.classes) & set(world.patches["train"].classes)
    assert world.pretraining.x.shape[1:] == (1, 16, 16)
    records = list(rnm.trial(config, 0, Run()))
    assert values(records, "gain").keys() == {"pre-trained", "random"}
    assert "land cover" not in values(records, "image statistics")
    with pytest.raises(ValueError, match="at least 4 classes"):
        rnm.world_of(replace(TINY, data="tabular:wine"), 0)
    with pytest.raises(ValueError, match="for all 1 channels"):
        rnm.world_of(replace(config, gain=()), 0)


def test_photographs(shared_data):
    path = shared_data("cifar10-jpeg")
    config = replace(
        TINY, data=f"parquet:{path}?limit=200", pretraining_size=32, native=12, sizes=(12, 32), neighbours=3
    )
    world = rnm.world_of(config, 0)
    assert world.pretraining is not None
    assert world.pretraining.x.shape[1:] == (3, 32, 32)
    assert len(world.patches["train"].classes) == 4
    assert len(values(list(rnm.trial(config, 0, Run())), "accuracy by scaling")) == 5


@pytest.fixture
def fields(tmp_path):
    """Four classes of small colour images, and weights of a ResNet-50 by torchvision's names."""
    random = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 1)):
        for k in range(4):
            folder = tmp_path / "images" / part / f"class {k}"
            folder.mkdir(parents=True)
            for i in range(count):
                image = random.integers(60 * k, 60 * k + 60, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{i}.png")
    net = ResNet(50, stem_kernel=7, stem_stride=2, stem_pool=True)
    state = {}
    for ours, value in net.state_dict().items():
        if not ours.startswith("head"):
            state[theirs(ours)] = value
    path = tmp_path / "resnet50.pth"
    torch.save(state, path)
    return f"folder:{tmp_path / 'images'}", str(path), net


def theirs(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "stem":
        return f"{('conv1', 'bn1')[int(parts[1])]}.{parts[2]}"
    stage, block, kind, number, what = int(parts[1]) + 1, parts[2], parts[3], int(parts[4]), parts[5]
    if kind == "shortcut":
        return f"layer{stage}.{block}.downsample.{number}.{what}"
    return f"layer{stage}.{block}.{'bn' if number % 3 else 'conv'}{number // 3 + 1}.{what}"


def test_the_paper_preset_reads_local_images_and_weights(fields):
    uri, weights, net = fields
    paper = rnm.study.presets["paper"].config
    assert paper.sizes == tuple(range(32, 257, 16))
    config = replace(
        paper, data=uri, weights=weights, sizes=(32, 64), native=64, pretraining_size=32, features=8, neighbours=2
    )
    world = rnm.world_of(config, 0)
    assert {name: len(split) for name, split in world.patches.items()} == {"train": 11, "validation": 1, "test": 4}
    assert world.patches["test"].x.max() > 200  # 8-bit numbers
    encoders, _ = rnm.encoders_of(config, world, 0, Run())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = encoders["pre-trained"].eval()(x).mean((2, 3))
        torch.testing.assert_close(features, net.eval().features(x))
        assert features.shape == (2, 2048)
        assert not torch.equal(features, encoders["random"].eval()(x).mean((2, 3)))
    records = list(rnm.trial(config, 0, Run()))
    assert set(values(records, "accuracy of features")) == {"pre-trained", "random", *rnm.SIMPLE}
    assert values(records, "accuracy of features")["image statistics"] == 1  # brightness is the class


# The published table, and the figure.

TABLE = "model,preprocess_method,rgb,size,acc\n" + "".join(
    f"{model},{method},{rgb},{size},{size / 300}\n"
    for model in ("resnet50_pretrained_imagenet", "resnet50_randominit")
    for method in ("standardization", "divide")
    for rgb in ("True", "False")
    for size in (32, 64)
)


def test_the_figure_draws(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    trials = []
    for seed in (0, 1):
        for task in rnm.TASKS:
            config = replace(TINY, task=task, table=str(path))
            trials.append((seed, task, list(rnm.trial(config, seed, Run()))))
    arrays = Arrays([Saved("pre-training size", 0, {"task": "patches"}, np.asarray(48))])
    table = frame(*trials)
    drawn = rnm.study.draw(table, arrays)
    assert [bool(axes.lines) for axes in drawn.axes] == [True] * 3
    without = table[table["metric"] != "published accuracy"]
    assert len(rnm.study.draw(without, Arrays()).axes) == 2
    assert rnm.study.draw(without[without["task"] == "digits"], Arrays()).axes[0].texts


def test_a_table_of_another_kind_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(rnm.published(str(tmp_path / "none.csv")))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        list(rnm.published(str(tmp_path / "other.csv")))


def test_published_accuracies_are_those_of_the_paper(shared_data):
    path = shared_data("resize-normalize-matters") / "eurosat_size_vs_performance.csv"
    table = {(r.arm, r.x): r.value for r in rnm.published(str(path))}
    imagenet = "resnet50_pretrained_imagenet, "
    assert table[imagenet + "standardization", 64] == pytest.approx(0.8209, abs=1e-3)
    assert table[imagenet + "standardization", 224] == pytest.approx(0.9117, abs=1e-3)
    at_224 = {method: table[imagenet + method, 224] for method in ("divide", "standardization", "minmax", "for_seco")}
    assert at_224 == pytest.approx(
        {"divide": 0.687, "standardization": 0.912, "minmax": 0.607, "for_seco": 0.894}, abs=1e-3
    )
