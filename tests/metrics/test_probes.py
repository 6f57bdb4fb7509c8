"""Probes against scikit-learn and brute force; feature extraction; the grid of protocols."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from landform.data import ChannelStatistics, Preprocess, Split
from landform.metrics import KNNProbe, LinearProbe, ProtocolGrid, extract_features, paired_delta, probes
from landform.models import ImageStatistics


def clusters(n=120, d=5, classes=4, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return centres[y] + spread * torch.randn(n, d, generator=generator, dtype=torch.float64), y


# Nearest neighbours.


@pytest.mark.parametrize("k", [1, 5, 8])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("standardise", [False, True])
def test_votes_are_scikit_learns(k, metric, standardise, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK_NUMBERS", 7 * 120)  # several chunks
    (x, y), (held, held_y) = clusters(), clusters(50, seed=1)
    x, held = x * torch.tensor([1, 1, 50, 1, 0.1]) + 3, held * torch.tensor([1, 1, 50, 1, 0.1]) + 3
    probe = KNNProbe(k, metric, standardise).fit(x, y)
    a, b = x.numpy(), held.numpy()
    if standardise:
        scaler = StandardScaler().fit(a)
        a, b = scaler.transform(a), scaler.transform(b)
    peer = KNeighborsClassifier(k, metric={"l2": "euclidean"}.get(metric, metric), algorithm="brute").fit(a, y.numpy())
    np.testing.assert_allclose(probe.predict_proba(held).numpy(), peer.predict_proba(b), atol=1e-12)
    assert probe.predict(held).tolist() == peer.predict(b).tolist()
    assert probe.score(held, held_y) == pytest.approx(peer.score(b, held_y.numpy()))


def test_one_neighbour_knows_its_training_set():
    x, y = clusters()
    assert KNNProbe(k=1).fit(x, y).score(x, y) == 1
    far = (x + 1e4).float()  # where float32's expansion of the distance would fail
    assert KNNProbe(k=1).fit(far, y).score(far, y) == 1


def test_equal_votes_go_to_the_lowest_class():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert KNNProbe(k=4).fit(x, torch.tensor([3, 1, 3, 1])).predict(x).tolist() == [1] * 4
    assert KNNProbe(k=4).fit(x, torch.tensor([2, 0, 3, 1])).predict(x).tolist() == [0] * 4


def test_labels_are_voted_on_one_by_one():
    (x, _), (held, _) = clusters(), clusters(30, seed=1)
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(120, 3, generator=generator) < 0.5).long()
    held_y = (torch.rand(30, 3, generator=generator) < 0.5).long()
    probe = KNNProbe().fit(x, y)
    shares = probe.predict_proba(held)
    assert set((shares * 5).round(decimals=9).unique().tolist()) <= {0, 1, 2, 3, 4, 5}
    for label in range(3):
        alone = KNNProbe().fit(x, y[:, label])
        torch.testing.assert_close(shares[:, label], alone.predict_proba(held)[:, 1])
        assert torch.equal(probe.predict(held)[:, label], alone.predict(held))
    expected = average_precision_score(held_y.numpy().ravel(), shares.numpy().ravel())
    assert probe.score(held, held_y) == pytest.approx(expected)
    even = KNNProbe(k=2).fit(x[:2], torch.tensor([[1, 0], [0, 0]]))
    assert even.predict(x[:1]).tolist() == [[0, 0]]  # one vote of two is no majority


def test_standardising_is_fitted_on_training_features_alone():
    x, y = clusters()
    x[:, 0] = 7  # constant: only centred
    probe = KNNProbe(standardise=True).fit(x, y)
    scaled = probe._scale(x)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.var(0, correction=0)[1:], torch.ones(4, dtype=torch.float64))
    before = probe.predict(x[:10])
    probe.predict(x + 1000)  # a test set of another kind
    assert torch.equal(probe.predict(x[:10]), before)
    assert torch.equal(probe.predict(torch.cat([x[:10], 1e6 + x]))[:10], before)


def test_knn_refuses():
    x, y = clusters(10)
    for arguments in ({"k": 0}, {"k": 2.5}, {"metric": "l1"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            KNNProbe(**arguments)
    with pytest.raises(RuntimeError, match="fit"):
        KNNProbe().predict(x)
    with pytest.raises(ValueError, match="only 4 training"):
        KNNProbe().fit(x[:4], y[:4])
    with pytest.raises(ValueError, match="not finite"):
        KNNProbe().fit(x * math.nan, y)
    with pytest.raises(ValueError, match="y has shape"):
        KNNProbe().fit(x, y[:-1])
    with pytest.raises(ValueError, match="from -1"):
        KNNProbe().fit(x, y - 1 - y.min())
    with pytest.raises(TypeError, match="y is"):
        KNNProbe().fit(x, y.float())
    with pytest.raises(ValueError, match="3 features"):
        KNNProbe().fit(x, y).predict(x[:, :3])
    with pytest.raises(ValueError, match="as in training"):
        KNNProbe().fit(x, y).score(x, y[:, None] % 2)


# Logistic regression.


def test_the_linear_probe_minimises_its_objective():
    (x, y), (held, held_y) = clusters(), clusters(50, seed=1)
    for C, penalty in ((0.3, "l2"), (1.0, "l2"), (1.0, None)):
        probe = LinearProbe(C, penalty).fit(x, y)
        # At the minimum the gradient of the summed loss plus the penalty is zero, in closed form.
        w = torch.from_numpy(probe._model.coef_)
        residual = probe.predict_proba(x) - nn.functional.one_hot(y, 4)
        gradient = residual.T @ x + (w / C if penalty else 0)
        assert gradient.abs().max() < 0.05
        assert residual.sum(0).abs().max() < 0.05
    peer = LogisticRegression(max_iter=3000).fit(x.numpy(), y.numpy())
    assert LinearProbe().fit(x, y).score(held, held_y) == pytest.approx(peer.score(held.numpy(), held_y.numpy()))


def test_the_linear_probe_knows_classes_that_are_missing_and_several_labels():
    x, y = clusters(classes=3)
    shares = LinearProbe().fit(x, 2 * y).predict_proba(x)
    assert shares.shape == (120, 5)
    assert (shares[:, [1, 3]] == 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(120, dtype=torch.float64))
    several = torch.stack([y == 0, y > 0], 1).long()
    probe = LinearProbe().fit(x, several)
    alone = LogisticRegression(max_iter=3000).fit(x.numpy(), several[:, 0].numpy())
    np.testing.assert_allclose(probe.predict_proba(x)[:, 0], alone.predict_proba(x.numpy())[:, 1], atol=1e-6)
    assert probe.predict(x).shape == (120, 2)
    assert probe.score(x, several) > 0.8


def test_the_linear_probe_refuses():
    x, y = clusters(10)
    with pytest.raises(ValueError, match="C=0"):
        LinearProbe(C=0)
    with pytest.raises(ValueError, match="penalty='l1'"):
        LinearProbe(penalty="l1")
    with pytest.raises(ValueError, match="single class"):
        LinearProbe().fit(x, y * 0)
    with pytest.raises(RuntimeError, match="fit"):
        LinearProbe().predict(x)


# Feature extraction.


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6)
    )


def test_features_are_of_evaluation_mode_whatever_the_batches():
    model = encoder()
    model[1].eval()
    x, y = torch.rand(7, 3, 6, 6), torch.arange(7)
    features, labels = extract_features(model, zip(x.split(3), y.split(3), strict=True), lambda x: 2 * x)
    assert torch.equal(labels, y)
    assert [m.training for m in model] == [True, False, True, True, True, True]  # as it was
    model.eval()
    torch.testing.assert_close(features, model(2 * x))
    assert not features.requires_grad


def test_a_layers_maps_are_averaged_over_the_image():
    model = encoder().eval()
    x = torch.rand(4, 3, 6, 6)
    features, _ = extract_features(model, [{"image": x, "label": torch.zeros(4)}], layer="3")
    torch.testing.assert_close(features, model[:4](x).mean((2, 3)))
    assert not model[3]._forward_hooks


def test_extraction_refuses():
    model, batch = encoder(), (torch.rand(4, 3, 6, 6), torch.zeros(4))
    with pytest.raises(ValueError, match="layer='head'"):
        extract_features(model, [batch], layer="head")
    with pytest.raises(ValueError, match="no batches"):
        extract_features(model, [])
    with pytest.raises(ValueError, match="without labels"):
        extract_features(model, [batch[0]])
    with pytest.raises(ValueError, match="not all finite"):
        extract_features(model, [batch], lambda x: x / 0)
    with pytest.raises(ValueError, match="features have shape"):
        extract_features(nn.Flatten(0), [batch])
    assert model.training


# Protocols.


def world(n=60, seed=0):
    """Images whose class is the brightness of one channel among others of far larger values."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 2, 4, 4, generator=generator) * torch.tensor([1.0, 1000.0]).view(2, 1, 1)
    x[:, 0] += 3 * y.view(-1, 1, 1)
    return Split(x, y, classes=("a", "b", "c"))


def test_rescaled_inputs_leave_standardised_protocols_as_they_are():
    train, test = world(), world(40, 1)
    rescaled = [Split(s.x * torch.tensor([500.0, 0.01]).view(2, 1, 1) + 7, s.y, s.classes) for s in (train, test)]
    grid = ProtocolGrid({"pixels": nn.Flatten()}, [None], ["standardise", "none"], {"knn": KNNProbe()})
    first, second = (
        grid.run({"train": a, "test": b}).groupby("normalisation")["correct"].apply(list)
        for a, b in ((train, test), rescaled)
    )
    assert first["standardise"] == second["standardise"]
    assert first["none"] != second["none"]


def test_the_table_has_every_protocol_and_image():
    data = {"train": world(), "validation": world(10, 2), "test": world(20, 1)}
    stats = ChannelStatistics.from_loader([data["train"].x])
    grid = ProtocolGrid(
        {"statistics": ImageStatistics(), "pixels": nn.Flatten()},
        [None, 3, (5, 4)],
        {"standardise": {"scale": "standardise"}, "8 bit": {"scale": "divide", "divisor": 255}},
        {"knn": KNNProbe(), "scaled": KNNProbe(standardise=True)},
        batch_size=7,
    )
    table = grid.run(data)
    assert len(table) == 2 * 3 * 2 * 2 * 30
    assert set(table["size"]) == {"native", 3, "5 x 4"}
    keys = ["encoder", "size", "normalisation", "probe", "split"]
    assert (table.groupby(keys)["image"].nunique() == table.groupby(keys).size()).all()
    rows = table[
        (table["encoder"] == "pixels")
        & (table["size"] == 3)
        & (table["normalisation"] == "standardise")
        & (table["probe"] == "knn")
        & (table["split"] == "test")
    ]
    preprocess = Preprocess(3, "standardise", stats)  # the training images' statistics
    probe = KNNProbe().fit(preprocess(data["train"].x).flatten(1), data["train"].y)
    right = probe.predict(preprocess(data["test"].x).flatten(1)) == data["test"].y
    assert rows["correct"].tolist() == right.double().tolist()
    loaders = {name: [(s.x, s.y)] for name, s in data.items()}
    pd.testing.assert_frame_equal(grid.run(loaders), table)


def test_several_labels_count_by_the_share_that_is_right():
    data = {
        name: [(s.x, torch.stack([s.y == 0, s.y > 0], 1).long())]
        for name, s in {"train": world(), "test": world(20, 1)}.items()
    }
    table = ProtocolGrid({"s": ImageStatistics()}, [None], ["standardise"], {"knn": KNNProbe()}).run(data)
    assert len(table) == 20
    assert set(table["correct"]) <= {0, 0.5, 1}
    assert table["correct"].mean() > 0.7


def outcomes(size, correct, encoder="e"):
    return pd.DataFrame(
        {
            "encoder": encoder,
            "size": size,
            "normalisation": "none",
            "probe": "knn",
            "split": "test",
            "image": range(len(correct)),
            "correct": correct,
        }
    )


def test_the_paired_difference_and_its_interval():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 2, 400).astype(float), generator.integers(0, 4, 400).clip(0, 1).astype(float)
    other = outcomes(16, a, "other"), outcomes(48, a, "other")
    table = pd.concat([outcomes(16, a), outcomes(48, b), *other], ignore_index=True)
    found = paired_delta(table, "size", 16, 48).set_index("encoder")
    row = found.loc["e"]
    assert row["delta"] == pytest.approx((b - a).mean())
    assert (row["a"], row["b"], row["n"]) == (pytest.approx(a.mean()), pytest.approx(b.mean()), 400)
    half = 1.96 * (b - a).std() / 20  # what the bootstrap tends to
    assert row["high"] - row["delta"] == pytest.approx(half, rel=0.1)
    assert row["delta"] - row["low"] == pytest.approx(half, rel=0.1)
    assert found.loc["other", ["delta", "low", "high"]].tolist() == [0, 0, 0]
    back = paired_delta(table, "size", 48, 16).set_index("encoder").loc["e"]
    assert (back["delta"], back["low"], back["high"]) == pytest.approx((-row["delta"], -row["high"], -row["low"]))


def test_the_paired_difference_refuses():
    table = pd.concat([outcomes(16, [1.0, 0.0]), outcomes(48, [1.0, 0.0])])
    for arguments, message in (
        (("colour", 1, 2), "column='colour'"),
        (("split", "test", "train"), "column='split'"),
        (("size", 16, 20), "b=20"),
        (("size", 16, 16), "must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_delta(table, *arguments)
    with pytest.raises(ValueError, match="level=1"):
        paired_delta(table, "size", 16, 48, level=1)


def test_the_grid_refuses():
    with pytest.raises(ValueError, match="sizes: is empty"):
        ProtocolGrid({"s": ImageStatistics()}, [], ["none"], {"knn": KNNProbe()})
    grid = ProtocolGrid({"s": ImageStatistics()}, [None], ["none"], {"knn": KNNProbe()})
    with pytest.raises(ValueError, match="must have 'train'"):
        grid.run({"test": world()})
    with pytest.raises(ValueError, match="scale='log'"):
        ProtocolGrid({"s": ImageStatistics()}, [None], ["log"], {"knn": KNNProbe()}).run(
            {"train": world(), "test": world()}
        )
