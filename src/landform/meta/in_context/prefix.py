"""Reference learners: ordinary ones that are fitted anew, at every position, to the examples before it.

Each has the interface of an in-context learner, ``(x, prev_y) -> scores`` (batch, length, n_classes), and so sees what
that sees: the labels one position late. Scores are such that the largest is the prediction; with no example yet they
are all alike, and the first class is predicted, which is right as often as chance under permuted labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from landform.data.split import check_count
from landform.meta.in_context.learner import check_sequences
from landform.models.mlp import MLP
from landform.training.many import Stack

X = Float[Tensor, "batch length dim"]
Labels = Float[Tensor, "batch length n_classes"]
Scores = Float[Tensor, "batch length n_classes"]


def prefix_majority(x: X, prev_y: Labels) -> Scores:
    """The label that was most frequent: what the labels alone tell. Scores are counts."""
    check_sequences(x, prev_y)
    return prev_y.cumsum(1)


def prefix_nearest_neighbour(x: X, prev_y: Labels) -> Scores:
    """The label of the nearest example in Euclidean distance. Scores are minus the distance to each class's nearest.

    A class without an example scores below every class with one.
    """
    check_sequences(x, prev_y)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    shown = _past(x).unsqueeze(3) & (_labels(prev_y) > 0).unsqueeze(1)  # batch, position, example, class
    nearest = distance.unsqueeze(3).expand(shown.shape).masked_fill(~shown, torch.inf).amin(2)
    return _finite(-nearest)


def prefix_class_mean(x: X, prev_y: Labels) -> Scores:
    """The class whose examples have the nearest mean. Scores are minus the squared distances."""
    check_sequences(x, prev_y)
    onehot = _labels(prev_y)
    sums = torch.einsum("bsk,bsd->bskd", onehot, x).cumsum(1)
    counts = prev_y.cumsum(1)
    sums = F.pad(sums[:, :-1], (0, 0, 0, 0, 1, 0))  # those before each position
    means = sums / counts.clamp(min=1).unsqueeze(3)
    squared = (x.unsqueeze(2) - means).square().sum(3)
    return _finite(-squared.masked_fill(counts == 0, torch.inf))


def prefix_ridge(x: X, prev_y: Labels, *, penalty: float = 1.0) -> Scores:
    """Ridge regression of the one-hot labels on [x, 1], scored by its predictions.

        scores_t = k_tᵀ (K_t + penalty · I)^{-1} Y_t,   K = X Xᵀ + 1

    with K_t and Y_t of the examples before t, and k_t their products with x_t.
    """
    check_sequences(x, prev_y)
    if not 0 < penalty < float("inf"):
        raise ValueError(f"penalty={penalty}: must be positive and finite")
    kernel = x @ x.mT + 1
    past = _past(x)[0].to(x)
    # At every position the examples that are not past are cut off: their rows and columns are those of the identity.
    system = kernel.unsqueeze(1) * past.unsqueeze(1) * past.unsqueeze(2)
    system = system + penalty * torch.eye(x.shape[1]).to(x)
    targets = _labels(prev_y).to(x).unsqueeze(1) * past.unsqueeze(2)
    return torch.einsum("bts,btsk->btk", kernel * past, torch.linalg.solve(system, targets))


def prefix_mlp(
    x: X, prev_y: Labels, *, hidden: int = 64, steps: int = 100, lr: float = 0.1, momentum: float = 0.9, seed: int = 0
) -> Scores:
    """A perceptron with one hidden layer, trained from scratch on the examples before each position.

    Each position's network starts from the same random weights and takes ``steps`` updates by gradient descent with
    momentum on the mean cross-entropy of all its examples. All positions of all sequences train as one stack.
    """
    check_sequences(x, prev_y)
    for name, count in {"hidden": hidden, "steps": steps}.items():
        check_count(name, count, 1)
    batch, length, dim = x.shape
    n_classes = prev_y.shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(dim, (hidden,), n_classes).to(x)
    stack = Stack([network] * (batch * length))
    inputs = x.repeat_interleave(length, dim=0)
    targets = _labels(prev_y).argmax(2).repeat_interleave(length, dim=0)
    past = _past(x)[0].to(x).repeat(batch, 1)  # network, example
    weight = past / past.sum(1, keepdim=True).clamp(min=1)
    optimizer = torch.optim.SGD(stack.parameters(), lr=lr, momentum=momentum)
    with torch.enable_grad():
        for _ in range(steps):
            losses = F.cross_entropy(stack(inputs).flatten(0, 1), targets.flatten(), reduction="none")
            optimizer.zero_grad()
            (losses * weight.flatten()).sum().backward()
            optimizer.step()
    with torch.no_grad():
        return stack(x.flatten(0, 1).unsqueeze(1)).reshape(batch, length, n_classes)


def _labels(prev_y: Tensor) -> Tensor:
    """The one-hot labels at their own positions. That of the last is not known, and zeros: it is in no prefix."""
    return F.pad(prev_y[:, 1:], (0, 0, 0, 1))


def _past(x: Tensor) -> Tensor:
    """Whether example s comes before position t, (1, t, s)."""
    length = x.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=x.device).tril(-1).unsqueeze(0)


def _finite(scores: Tensor) -> Tensor:
    """Scores with a class that has no example one below the least of any that has."""
    missing = scores.isinf()
    least = scores.masked_fill(missing, 0).amin()
    return scores.masked_fill(missing, 0) + missing * (least - 1)
