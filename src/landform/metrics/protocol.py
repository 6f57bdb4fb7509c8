"""A grid of evaluation protocols: encoders × input sizes × normalisations × probes, and differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from landform.data.channel_statistics import ChannelStatistics
from landform.data.preprocess import Preprocess, Scale
from landform.data.split import Split
from landform.metrics.probes import extract_features

if TYPE_CHECKING:
    import pandas as pd

RESAMPLED_NUMBERS = 2**22
"""So many counts of resampled images are held at a time."""


class Probe(Protocol):
    """What reads labels from features: :class:`KNNProbe`, :class:`LinearProbe`, or anything alike."""

    def fit(self, x: Tensor, y: Tensor, /) -> Self: ...
    def predict(self, x: Tensor, /) -> Tensor: ...


class ProtocolGrid:
    """Evaluate fixed encoders under every protocol of a grid, and keep the outcome of every single image.

    Arguments:
        encoders: by name; evaluated as they are.
        sizes: input sizes as :class:`landform.data.Preprocess` takes them; None is the native one.
        normalisations: names of Preprocess's scales, or for any name the options of a Preprocess, as in
            ``{"divide": {"scale": "divide", "divisor": 255}}``. Statistics that are needed and not among the options
            are those of the training images.
        probes: by name; each is fitted anew for every protocol.
        batch_size: of images that come as a :class:`landform.data.Split`.

    Raises:
        ValueError: an empty axis, or options that Preprocess refuses.

    >>> from landform.data import load
    >>> from landform.metrics import KNNProbe
    >>> from landform.models import RandomConvFeatures
    >>> encoders = {"random filters": RandomConvFeatures(1, features=64, seed=0)}
    >>> table = ProtocolGrid(encoders, [8, 16], ["none", "standardise"], {"knn": KNNProbe()}).run(load("digits"))
    >>> table.groupby(["normalisation", "size"])["correct"].mean().shape
    (4,)
    >>> paired_delta(table, "size", 8, 16).columns.tolist()
    ['encoder', 'normalisation', 'probe', 'split', 'a', 'b', 'delta', 'low', 'high', 'n']
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        sizes: Sequence[int | tuple[int, int] | None],
        normalisations: Sequence[Scale] | Mapping[str, Mapping[str, Any]],
        probes: Mapping[str, Probe],
        *,
        batch_size: int = 256,
    ) -> None:
        for name, axis in (
            ("encoders", encoders),
            ("sizes", sizes),
            ("normalisations", normalisations),
            ("probes", probes),
        ):
            if not len(axis):
                raise ValueError(f"{name}: is empty, a grid needs at least one")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self.encoders, self.sizes, self.probes, self.batch_size = dict(encoders), list(sizes), dict(probes), batch_size
        if not isinstance(normalisations, Mapping):
            normalisations = {name: {"scale": name} for name in normalisations}
        self.normalisations = {name: dict(options) for name, options in normalisations.items()}

    def run(self, dataset: Mapping[str, Split | Iterable[Any]]) -> pd.DataFrame:
        """Fit every probe on the split ``"train"``, and predict all the others.

        Arguments:
            dataset: by split name, a :class:`landform.data.Split` or batches of (images, labels) that can be gone
                through again and again, such as a DataLoader that does not shuffle.

        Returns: one row for every encoder, size (a number, "height x width" or "native"), normalisation, probe, split
            and image (its number in the split), with ``correct``: 1 or 0, or the share of an image's labels that are
            right where it has several. So the mean of ``correct`` is the accuracy.

        Raises:
            ValueError: no split "train", or none besides it.
        """
        import pandas as pd

        if "train" not in dataset or len(dataset) < 2:
            raise ValueError(f"dataset has the splits {list(dataset)}: must have 'train' and at least one other")
        loaders = {name: self._batches(source) for name, source in dataset.items()}
        statistics = ChannelStatistics.from_loader(loaders["train"])
        frames = []
        for encoder, model in self.encoders.items():
            anchor = next(model.parameters(), torch.empty(0))
            for size in self.sizes:
                for normalisation, options in self.normalisations.items():
                    preprocess = Preprocess(size, **{"stats": statistics} | options).to(anchor.device)
                    features = {name: extract_features(model, loader, preprocess) for name, loader in loaders.items()}
                    for probe, reader in self.probes.items():
                        reader.fit(*features["train"])
                        for split, (x, y) in features.items():
                            if split == "train":
                                continue
                            right = (reader.predict(x) == y).double().flatten(1 if y.ndim > 1 else 0)
                            correct = (right.mean(1) if y.ndim > 1 else right).cpu().numpy()
                            protocol = {
                                "encoder": encoder,
                                "size": _name(size),
                                "normalisation": normalisation,
                                "probe": probe,
                                "split": split,
                            }
                            frames.append(pd.DataFrame(protocol | {"image": np.arange(len(y)), "correct": correct}))
        return pd.concat(frames, ignore_index=True)

    def _batches(self, source: Split | Iterable[Any]) -> Iterable[Any]:
        if not isinstance(source, Split):
            return source
        return list(zip(source.x.split(self.batch_size), source.y.split(self.batch_size), strict=True))


def _name(size: int | tuple[int, int] | None) -> int | str:
    if size is None:
        return "native"
    return size if isinstance(size, int) else f"{size[0]} x {size[1]}"


def paired_delta(
    table: pd.DataFrame, column: str, a: Any, b: Any, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """How much more accurate ``b`` is than ``a``, all else equal, with a bootstrap over the test images.

    For every protocol that the table has with both values of ``column``, delta = mean(correct at b - correct at a).
    The interval holds the middle ``level`` of the deltas on images drawn with replacement; an image's two outcomes
    stay together, and all protocols of a split see the same draws.

    Arguments:
        table: from :meth:`ProtocolGrid.run`.
        column: ``"size"``, ``"normalisation"``, ``"encoder"`` or ``"probe"``.
        a, b: two of the column's values.
        resamples: bootstrap draws.
        level: coverage of the interval, in (0, 1).
        seed: of the draws.

    Returns: one row for each combination of the other columns, with a, b (their accuracies), delta, low, high and n.

    Raises:
        ValueError: a column or value that the table does not have, the same value twice, images of a split that differ
            between protocols, or an argument out of range.
    """
    import pandas as pd

    keys = [name for name in ("encoder", "size", "normalisation", "probe", "split") if name in table]
    if column not in keys or column == "split":
        raise ValueError(f"column={column!r}: must be one of {', '.join(key for key in keys if key != 'split')}")
    values = table[column].unique().tolist()
    for name, value in (("a", a), ("b", b)):
        if value not in values:
            raise ValueError(f"{name}={value!r}: {column} has the values {values}")
    if a == b:
        raise ValueError(f"a={a!r}, b={b!r}: must differ")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples={resamples}, level={level}: must be at least 1, and between 0 and 1")
    rest = [key for key in keys if key != column]
    chosen = table[table[column].isin((a, b))]
    wide = chosen.pivot(index=[*rest, "image"], columns=column, values="correct").dropna()
    rows = []
    for split, part in wide.groupby("split", sort=False):
        matrix = (part[b] - part[a]).unstack("image")
        if matrix.isna().any(axis=None):
            raise ValueError(f"table: protocols of split {split!r} were measured on different images")
        differences = matrix.to_numpy()
        draws = _resampled_means(differences, resamples, seed)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        accuracies = part.groupby(rest, sort=False).mean().loc[matrix.index]
        rows.append(
            pd.DataFrame(
                {
                    "a": accuracies[a],
                    "b": accuracies[b],
                    "delta": differences.mean(1),
                    "low": low,
                    "high": high,
                    "n": differences.shape[1],
                },
                index=matrix.index,
            )
        )
    return pd.concat(rows).reset_index()


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over n images drawn with replacement, (resamples, rows), for rows of n values."""
    n = values.shape[1]
    random = np.random.default_rng(seed)
    means, left = [], resamples
    while left:
        count = min(left, max(1, RESAMPLED_NUMBERS // n))
        means.append(random.multinomial(n, np.full(n, 1 / n), size=count) @ values.T / n)
        left -= count
    return np.concatenate(means)
