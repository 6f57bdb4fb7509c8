"""Reference learners: against a plain loop that fits scikit-learn's, or plain code, to each prefix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from landform.meta import (
    prefix_class_mean,
    prefix_majority,
    prefix_mlp,
    prefix_nearest_neighbour,
    prefix_ridge,
    shift_labels,
)
from landform.models import MLP

LEARNERS = (prefix_majority, prefix_nearest_neighbour, prefix_class_mean, prefix_ridge, prefix_mlp)


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, 5, generator=generator).double()
    y = torch.randint(3, (4, 9), generator=generator)
    x[..., :3] += F.one_hot(y, 3)
    return x, y, shift_labels(y, 3).double()


def prefixes(x, y):
    for b in range(len(x)):
        for t in range(2, x.shape[1]):
            if len(y[b, :t].unique()) > 1:
                yield b, t, x[b, :t].numpy(), y[b, :t].numpy(), x[b, t : t + 1].numpy()


@pytest.mark.parametrize(
    ("learner", "reference"),
    [(prefix_nearest_neighbour, KNeighborsClassifier(1)), (prefix_class_mean, NearestCentroid())],
)
def test_neighbours_and_class_means_are_those_of_scikit_learn(sequences, learner, reference):
    x, y, prev_y = sequences
    found = learner(x, prev_y).argmax(2)
    checked = 0
    for b, t, past_x, past_y, now in prefixes(x, y):
        assert int(found[b, t]) == int(reference.fit(past_x, past_y).predict(now)[0])
        checked += 1
    assert checked > 20


def test_ridge_is_that_of_the_prefix(sequences):
    x, y, prev_y = sequences
    scores = prefix_ridge(x, prev_y, penalty=0.7)
    for b in range(4):
        for t in range(1, 9):
            ones = torch.ones(9, 1).double()
            inputs, targets = torch.cat([x[b], ones], 1), F.one_hot(y[b, :t], 3).double()
            fitted = Ridge(alpha=0.7, fit_intercept=False).fit(inputs[:t].numpy(), targets.numpy())
            expected = torch.from_numpy(fitted.predict(inputs[t : t + 1].numpy()))[0]
            assert torch.allclose(scores[b, t], expected, atol=1e-10)
    assert torch.equal(scores[:, 0], torch.zeros(4, 3).double())


def test_majority_counts(sequences):
    x, y, prev_y = sequences
    counts = prefix_majority(x, prev_y)
    assert all(counts[b, t].tolist() == y[b, :t].bincount(minlength=3).tolist() for b in range(4) for t in range(9))


def test_the_perceptron_is_one_trained_alone_on_each_prefix(sequences):
    x, y, prev_y = sequences
    scores = prefix_mlp(x, prev_y, hidden=6, steps=5, lr=0.3, momentum=0.5, seed=3)
    for b, t in [(0, 0), (1, 5), (2, 8)]:
        torch.manual_seed(3)
        network = MLP(5, (6,), 3).double()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.5)
        for _ in range(5 if t else 0):
            optimizer.zero_grad()
            F.cross_entropy(network(x[b, :t]), y[b, :t]).backward()
            optimizer.step()
        assert torch.allclose(scores[b, t], network(x[b, t : t + 1])[0], atol=1e-10)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda f: f.__name__)
def test_nothing_to_come_is_seen_and_an_easy_task_is_learned(sequences, learner):
    x, y, prev_y = sequences
    scores = learner(x, prev_y)
    later, other = x.clone(), y.clone()
    later[:, 5:] += 1
    other[:, 4:] = (other[:, 4:] + 1) % 3
    before = learner(later, shift_labels(other, 3).double())[:, :5].argmax(2)
    assert torch.equal(before, scores[:, :5].argmax(2))
    if learner is not prefix_majority:
        y = torch.arange(12).remainder(3).repeat(6, 1)
        easy = 3 * F.one_hot(y, 3).double()
        assert (learner(easy, shift_labels(y, 3).double()).argmax(2) == y)[:, 3:].all()


def test_a_class_without_an_example_is_not_predicted():
    x = torch.tensor([[[0.0], [50.0]]])
    y = torch.tensor([[1, 0]])
    for learner in (prefix_nearest_neighbour, prefix_class_mean):
        scores = learner(x, shift_labels(y, 3))
        assert int(scores[0, 1].argmax()) == 1
        assert scores.isfinite().all()


def test_wrong_arguments_are_refused(sequences):
    x, _, prev_y = sequences
    with pytest.raises(ValueError, match="penalty=0"):
        prefix_ridge(x, prev_y, penalty=0)
    with pytest.raises(ValueError, match="steps=0"):
        prefix_mlp(x, prev_y, steps=0)
    for learner in LEARNERS:
        with pytest.raises(ValueError, match="x and prev_y have shapes"):
            learner(x[:, :4], prev_y)
