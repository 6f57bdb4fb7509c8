"""The common weakness study: what a trial measures, what is trained on what, and the paper preset on stand-ins."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from landform import data
from landform.attacks import LinfBall, pgd
from landform.studies import common_weakness_attack as cwa
from landform.study import Arrays, Run

TINY = cwa.study.presets["smoke"].config
CHOSEN = dict.fromkeys(cwa.ARMS, "0.2")


@pytest.fixture(scope="module")
def records():
    return list(cwa.trial(TINY, 0, Run(chosen=CHOSEN)))


def values(records, metric):
    return {r.arm: r.value for r in records if r.metric == metric and r.x is None and r.unit is None}


def test_a_trial_measures_every_arm(records):
    for metric in ("asr", "asr_all", "robust_surplus", "sharpness", "gradient_cosine", "scale_loss"):
        assert set(values(records, metric)) == set(cwa.ARMS), metric
    assert all(np.isfinite(r.value) for r in records)
    assert set(values(records, "clean_accuracy")) == set(TINY.targets)
    by_target = [r for r in records if r.metric == "asr_target" and r.arm == "mi"]
    assert {r.unit for r in by_target} == set(TINY.targets)
    assert np.mean([r.value for r in by_target]) == pytest.approx(values(records, "asr")["mi"])
    scaled = {r.x: r.value for r in records if r.metric == "asr_scaled" and r.arm == "mi_cwa"}
    assert set(scaled) == {1.0, 10.0}
    assert values(records, "scale_loss")["mi_cwa"] == pytest.approx(scaled[1.0] - scaled[10.0])
    assert len(set(values(records, "asr").values())) > 2  # the arms are not one


def test_a_trial_repeats(records):
    torch.rand(3)  # whatever the global random state is
    assert records == list(cwa.trial(TINY, 0, Run(chosen=CHOSEN)))


def test_on_tuning_seeds_every_setting_is_tried_on_the_validation_images(monkeypatch):
    sizes = set()
    original = cwa.attacked

    def counting(make, models, x, *rest):
        sizes.add(len(x))
        return original(make, models, x, *rest)

    monkeypatch.setattr(cwa, "attacked", counting)
    found = list(cwa.trial(TINY, 1, Run()))
    assert sizes == {TINY.validation_images}
    assert {(r.arm, r.setting) for r in found} == {(arm, str(s)) for arm in cwa.ARMS for s in TINY.step_sizes}


def test_the_images_attacked_are_in_nobodys_training():
    reported = cwa.prepared(TINY, 3, Run(chosen=CHOSEN))
    tuning = cwa.prepared(TINY, 3, Run())
    assert len(tuning[2]) == TINY.validation_images
    whole = data.merge(*data.load(TINY.data).values())
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(3))
    held = 2 * TINY.training_images + TINY.validation_images
    assert torch.equal(reported[2], whole.x[order[held:]])
    assert torch.equal(tuning[2], whole.x[order[held - TINY.validation_images : held]])


def test_robust_training_is_robust():
    digits = data.load("digits")["train"]
    sets = [(digits.x[:600], digits.y[:600])]
    config = dataclasses.replace(TINY, steps=150, robust_steps=3)
    kept = []
    for kind in ("mlp", "mlp robust"):
        model = cwa.train(kind, sets, 10, config, 0).module(0).eval()
        x, y = digits.x[600:900], digits.y[600:900]
        x_adv = pgd(model, x, y, ball=LinfBall(0.15), steps=10, step_size=0.04, random_start=False)
        kept.append(float((model(x_adv).argmax(1) == y).float().mean()))
    assert kept[1] > kept[0] + 0.15


def test_a_louder_member_keeps_its_classes():
    model, x = nn.Linear(4, 3).eval(), torch.rand(5, 4)
    scaled = cwa.Scaled(model, 10.0)
    torch.testing.assert_close(scaled(x), 10 * model(x))
    assert torch.equal(scaled(x).argmax(1), model(x).argmax(1))


def test_the_figure_draws(records):
    frame = pd.concat(
        pd.DataFrame(map(dataclasses.asdict, records)).assign(seed=seed, role="reported") for seed in (0, 1)
    )
    figure = cwa.figure(frame, Arrays())
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(TINY.targets)
    assert {text.get_text() for text in right.texts} == {"MI", "MI-SAM", "MI-CSE", "MI-CWA"}
    figure.savefig("/dev/null", format="png")


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A stand-in for timm whose models are one linear layer, and files of weights for those that want them."""

    def create_model(name, pretrained):
        torch.manual_seed(len(name))
        model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 1000))
        model.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
        return model

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    paper = cwa.study.presets["paper"].config
    for k, name in enumerate((*paper.surrogates, *paper.targets)):
        if "@" in name:
            torch.manual_seed(100 + k)
            file = name.removesuffix(" robust").partition("@")[2]
            save_file(create_model(" " * k, False).state_dict(), tmp_path / file)
    return str(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in (3, 41, 998):
        folder = tmp_path / "pictures" / str(number)
        folder.mkdir(parents=True)
        for k in range(4):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return f"folder:{tmp_path / 'pictures'}?size=16"


def test_the_paper_preset_attacks_pretrained_models(zoo, pictures):
    paper = cwa.study.presets["paper"].config
    config = dataclasses.replace(
        paper, data=pictures, weights=zoo, validation_images=4, attack_steps=2, attack_batch=3, scales=(10.0,)
    )
    surrogates, targets, x, y = cwa.prepared(config, 0, Run(chosen=CHOSEN))
    assert len(surrogates) == 6
    assert len(targets) == 10
    assert set(y.tolist()) <= {3, 41, 998}
    assert x.shape == (8, 3, 16, 16)
    first = next(iter(surrogates.values()))
    torch.testing.assert_close(first.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))
    x_adv = cwa.attacked(
        lambda *a: cwa.ARMS["mi_cwa"](*a, config=config, step=0.2), list(surrogates.values()), x, y, 16 / 255, config
    )
    assert ((x_adv - x).abs() <= 16 / 255).all()
    assert (x_adv != x).any()


def test_missing_zoos_and_weights_are_named(zoo, pictures, monkeypatch):
    paper = dataclasses.replace(cwa.study.presets["paper"].config, data=pictures, validation_images=4)
    with pytest.raises(FileNotFoundError, match="salman2020"):
        cwa.prepared(dataclasses.replace(paper, weights="nowhere"), 0, Run())
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="needs timm"):
        cwa.prepared(paper, 0, Run())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"targets": ()}, "targets: is empty"),
        ({"surrogates": ("rnn",)}, "'rnn'"),
        ({"budgets": (0.1, -0.2)}, "-0.2 is not positive"),
        ({"attack_steps": 0}, "attack_steps=0"),
    ],
)
def test_impossible_configs_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TINY, **change)


def test_too_little_data():
    with pytest.raises(ValueError, match="leave none to attack"):
        cwa.prepared(dataclasses.replace(TINY, data="digits?limit=50"), 0, Run())
