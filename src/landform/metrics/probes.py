"""Probes of fixed features: what a nearest-neighbour vote or a linear classifier reads from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from landform.data.items import images_and_labels

CHUNK_NUMBERS = 2**23
"""So many distances are held at a time."""


@torch.no_grad()
def extract_features(
    model: nn.Module,
    loader: Iterable[Any],
    preprocess: Callable[[Tensor], Tensor] | None = None,
    layer: str | None = None,
) -> tuple[Float[Tensor, "n d"], Shaped[Tensor, "n ..."]]:
    """The features that a fixed encoder gives all images of a loader, and their labels.

    The model runs in evaluation mode, and is left in the mode in which it was. Feature maps (batch, d, height, width)
    are averaged over the image.

    Arguments:
        model: an encoder; images go to the device where it is, and features and labels stay there.
        loader: batches of (images, labels), or mappings with ``"image"`` and ``"label"``.
        preprocess: what becomes of images first, such as :class:`landform.data.Preprocess`.
        layer: the name of a submodule (as in ``model.named_modules()``) whose output to take, instead of the model's.

    Returns: features (n, d); labels (n,), or (n, labels) where an image has several.

    Raises:
        TypeError: a model or layer whose output is not a tensor, or batches of another form.
        ValueError: an unknown layer, or one that did not run once; no batches; batches without labels; features that
            are neither (batch, d) nor (batch, d, height, width), or not finite.

    >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> features, labels = extract_features(encoder, [(torch.rand(4, 3, 9, 9), torch.arange(4))])
    >>> features.shape, labels.shape
    (torch.Size([4, 8]), torch.Size([4]))
    """
    caught: list[Any] = []
    hook = None
    if layer is not None:
        modules = dict(model.named_modules())
        if layer not in modules or not layer:
            raise ValueError(f"layer={layer!r}: must be one of {', '.join(name for name in modules if name)}")
        hook = modules[layer].register_forward_hook(lambda module, inputs, output: caught.append(output))
    modes = [(module, module.training) for module in model.modules()]
    anchor = next(chain(model.parameters(), model.buffers()), None)
    features, labels = [], []
    try:
        model.eval()
        for batch in loader:
            x, y = images_and_labels(batch)
            if not isinstance(y, Tensor):
                raise ValueError("loader: gives batches without labels; they must be (images, labels)")
            x = x if anchor is None else x.to(anchor.device)
            caught.clear()
            output = model(x if preprocess is None else preprocess(x))
            if layer is not None:
                if len(caught) != 1:
                    raise ValueError(f"layer={layer!r}: ran {len(caught)} times for one batch, must run once")
                output = caught[0]
            features.append(_pooled(output))
            labels.append(y.to(features[-1].device))
    finally:
        if hook is not None:
            hook.remove()
        for module, training in modes:
            module.training = training
    if not features:
        raise ValueError("loader: there are no batches")
    found = torch.cat(features)
    if not found.isfinite().all():
        raise ValueError("features are not all finite; check the model and how its images are scaled")
    return found, torch.cat(labels)


def _pooled(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"model gives a {type(output).__name__}: must be a tensor; name a layer whose output is one")
    if output.ndim not in (2, 4):
        raise ValueError(f"features have shape {tuple(output.shape)}: must be (batch, d) or (batch, d, height, width)")
    return output if output.ndim == 2 else output.mean((2, 3))


class _Scaler:
    """x -> (x - mean) / sd as the training features say; constant ones are only centred."""

    def __init__(self, x: Float[Tensor, "n d"]) -> None:
        self.mean = x.mean(0)
        self.sd = torch.where(x.amax(0) > x.amin(0), x.std(0, correction=0), 1.0)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (x - self.mean) / self.sd


class KNNProbe:
    """Classify by a vote of the k nearest training features: exact search, every neighbour counting alike.

    A class's probability is its share of the k votes; the class with most of them is predicted, and of several such
    the lowest. Where samples carry several labels (y is (n, labels) of 0 and 1) each label is voted on by itself, and
    given where more than half of the neighbours have it.

    Distances are computed in float64 about the training features' mean, because the expansion |a|² + |b|² - 2 a·b,
    which makes them quick, cancels badly in float32; a chunk of samples at a time.

    Arguments:
        k: the number of neighbours.
        metric: ``"l2"``, or ``"cosine"``: 1 - a·b / (|a| |b|). A zero vector is at distance 1 of all.
        standardise: centre and scale every feature first, by its mean and (population) standard deviation in training.

    Raises:
        ValueError: an argument out of range; features that are not (n, d) or not finite; fewer than k training samples.
        TypeError: labels that are not whole numbers.
        RuntimeError: a prediction before ``fit``.

    Source: arXiv 2305.13456, section 3 (k = 5).

    >>> probe = KNNProbe(k=1).fit(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    >>> probe.predict(torch.tensor([[0.2], [3.0]]))
    tensor([0, 1])
    """

    def __init__(self, k: int = 5, metric: Literal["l2", "cosine"] = "l2", standardise: bool = False) -> None:
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k={k!r}: must be a whole number of at least 1")
        if metric not in ("l2", "cosine"):
            raise ValueError(f"metric={metric!r}: must be 'l2' or 'cosine'")
        self.k, self.metric, self.standardise = k, metric, standardise
        self._train: Tensor | None = None

    def fit(self, x: Float[Tensor, "n d"], y: Int[Tensor, " n"] | Int[Tensor, "n labels"]) -> Self:
        """Remember training features and their labels."""
        x, y = _features(x), _labels(x, y)
        if len(x) < self.k:
            raise ValueError(f"k={self.k}: there are only {len(x)} training samples")
        self._scale = _Scaler(x) if self.standardise else None
        x = x if self._scale is None else self._scale(x)
        self._centre = x.mean(0) if self.metric == "l2" else torch.zeros_like(x[0])
        self._train = self._placed(x)
        self._votes = y.double() if y.ndim == 2 else torch.nn.functional.one_hot(y).double()
        self._multilabel = y.ndim == 2
        return self

    def _placed(self, x: Tensor) -> Tensor:
        """Features as points whose Euclidean distances put neighbours in order."""
        return x - self._centre if self.metric == "l2" else torch.nn.functional.normalize(x)

    def predict_proba(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Each class's, or label's, share of the votes, float64."""
        if self._train is None:
            raise RuntimeError("KNNProbe: call fit before a prediction")
        x = _features(x).to(self._train.device)
        if x.shape[1] != self._train.shape[1]:
            raise ValueError(f"x has {x.shape[1]} features, those in training had {self._train.shape[1]}")
        points = self._placed(x if self._scale is None else self._scale(x))
        shares = [
            self._votes[torch.cdist(part, self._train).topk(self.k, largest=False).indices].mean(1)
            for part in points.split(max(1, CHUNK_NUMBERS // len(self._train)))
        ]
        return torch.cat(shares)

    def predict(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "n ..."]:
        """The class with most votes (n,), or which labels most neighbours have (n, labels), int64."""
        votes = (self.predict_proba(x) * self.k).round()
        return (2 * votes > self.k).long() if self._multilabel else _first_maximum(votes)

    def score(self, x: Float[Tensor, "n d"], y: Int[Tensor, " n"] | Int[Tensor, "n labels"]) -> float:
        """Accuracy; with several labels, the micro-averaged average precision of the votes."""
        y = _labels(x, y)
        if y.ndim == 1:
            predicted = self.predict(x)
            _same_kind(self._multilabel, y)
            return float((predicted == y.to(predicted.device)).double().mean())
        shares = self.predict_proba(x)
        _same_kind(self._multilabel, y)
        return _micro_average_precision(y, shares)


def _first_maximum(votes: Tensor) -> Tensor:
    """The lowest column with a row's maximum, of which argmax may give any."""
    top = votes == votes.amax(1, keepdim=True)
    places = torch.arange(votes.shape[1], device=votes.device)
    return torch.where(top, places, votes.shape[1]).amin(1)


class LinearProbe:
    """Classify by multinomial logistic regression on the features; scikit-learn's, by L-BFGS.

    Minimises sum_i -log softmax(W x_i + b)[y_i] + |W|² / (2 C). Samples with several labels (y is (n, labels) of 0
    and 1) get a binary regression for each.

    Arguments:
        C: the inverse strength of the penalty; of no meaning without one.
        penalty: ``"l2"``, or None.

    Raises:
        ValueError: an argument out of range; features that are not (n, d) or not finite; a single class.
        TypeError: labels that are not whole numbers.
        RuntimeError: a prediction before ``fit``.

    Source: arXiv 2305.13456, section 4, with at most 3,000 iterations as in its code.

    >>> x, y = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    >>> LinearProbe().fit(x, y).score(x, y)
    1.0
    """

    def __init__(self, C: float = 1.0, penalty: Literal["l2"] | None = "l2") -> None:
        if not (math.isfinite(C) and C > 0):
            raise ValueError(f"C={C}: must be positive and finite")
        if penalty not in ("l2", None):
            raise ValueError(f"penalty={penalty!r}: must be 'l2' or None")
        self.C, self.penalty = C, penalty
        self._model: Any = None

    def fit(self, x: Float[Tensor, "n d"], y: Int[Tensor, " n"] | Int[Tensor, "n labels"]) -> Self:
        """Fit to training features and their labels."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        x, y = _features(x), _labels(x, y)
        if y.ndim == 1 and len(y.unique()) < 2:
            raise ValueError("y holds a single class; a classifier needs two or more")
        model = LogisticRegression(C=self.C if self.penalty else np.inf, max_iter=3000)
        self._multilabel = y.ndim == 2
        self._model = OneVsRestClassifier(model) if self._multilabel else model
        self._classes = int(y.max()) + 1
        self._model.fit(x.cpu().numpy(), y.cpu().numpy())
        return self

    def predict_proba(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Each class's, or label's, probability, float64; 0 for a class that was not there in training."""
        if self._model is None:
            raise RuntimeError("LinearProbe: call fit before a prediction")
        found = torch.from_numpy(np.asarray(self._model.predict_proba(_features(x).cpu().numpy()))).to(x.device)
        if self._multilabel:
            return found
        shares = torch.zeros(len(x), self._classes, dtype=torch.float64, device=x.device)
        shares[:, torch.from_numpy(self._model.classes_).to(x.device)] = found
        return shares

    def predict(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "n ..."]:
        """The most probable class (n,), or which labels are more probable than not (n, labels), int64."""
        shares = self.predict_proba(x)
        return (shares > 0.5).long() if self._multilabel else shares.argmax(1)

    def score(self, x: Float[Tensor, "n d"], y: Int[Tensor, " n"] | Int[Tensor, "n labels"]) -> float:
        """Accuracy; with several labels, the micro-averaged average precision of their probabilities."""
        y = _labels(x, y)
        shares = self.predict_proba(x)
        _same_kind(self._multilabel, y)
        if y.ndim == 2:
            return _micro_average_precision(y, shares)
        return float((shares.argmax(1) == y.to(shares.device)).double().mean())


def _features(x: Tensor) -> Tensor:
    """Features in float64, checked."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {type(x).__name__}: features must be a tensor")
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"x has shape {tuple(x.shape)}: features must be (n, d), and not empty")
    x = x.detach().double()
    if not x.isfinite().all():
        raise ValueError("x holds values that are not finite")
    return x


def _labels(x: Tensor, y: Tensor) -> Tensor:
    """Labels as int64 where x is, checked."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        found = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"y is {found}: labels must be a tensor of whole numbers")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(f"y has shape {tuple(y.shape)}: must be ({len(x)},) or ({len(x)}, labels)")
    y = y.detach().long().to(x.device)
    if len(y) and (int(y.min()) < 0 or (y.ndim == 2 and int(y.max()) > 1)):
        allowed = "0 or 1 where a sample has several" if y.ndim == 2 else "class numbers from 0"
        raise ValueError(f"y holds values from {int(y.min())} to {int(y.max())}: labels must be {allowed}")
    return y


def _same_kind(multilabel: bool, y: Tensor) -> None:
    if multilabel != (y.ndim == 2):
        wanted = "(n, labels)" if multilabel else "(n,)"
        raise ValueError(f"y has shape {tuple(y.shape)}: must be {wanted}, as in training")


def _micro_average_precision(y: Tensor, scores: Tensor) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y.cpu().numpy(), scores.cpu().numpy(), average="micro"))
