"""TRAK: data attribution from the gradients of a few trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import of_class
from landform.training.many import Stack
from landform.training.per_sample import per_sample_gradients, random_projection
from landform.unlearn.margins import margin

Samples = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]

PROJECTIONS_APART = 100_000
"""Between the seeds of two models' projections."""


def trak_scores(
    train: Float[Tensor, "models n p"],
    targets: Float[Tensor, "models m p"],
    probabilities: Float[Tensor, "models n"],
    lambda_reg: float = 0.0,
) -> Float[Tensor, "n m"]:
    """TRAK scores from projected gradients: how much training on sample i raises the output at target x.

        score(i, x) = mean over models of ( G (GᵀG + λ I)⁻¹ φ_x )_i · mean over models of (1 − p_i)

    Source: Park et al., arXiv 2303.14186, equation 17 and algorithm 1, and the released code. Its block-wise version
    divides the inverse by its mean absolute entry, for half precision: scores of it agree up to scale.

    Arguments:
        train: G of each model: projected gradients of the output at the training samples.
        targets: φ of each model: the same at the targets.
        probabilities: of the right class of each training sample, under each model.
        lambda_reg: λ, zero or more.

    Raises:
        ValueError: shapes that do not fit, λ out of range, or GᵀG that cannot be inverted.

    >>> eye = torch.eye(2).unsqueeze(0)
    >>> trak_scores(eye, 4 * eye, torch.tensor([[0.5, 1.0]]))
    tensor([[2., 0.],
            [0., 0.]])
    """
    if train.ndim != 3 or targets.ndim != 3 or train.shape[::2] != targets.shape[::2]:
        raise ValueError(
            f"train of shape {tuple(train.shape)} and targets of shape {tuple(targets.shape)}: must be (models, n, p) "
            "and (models, m, p)"
        )
    if probabilities.shape != train.shape[:2]:
        raise ValueError(f"probabilities: has shape {tuple(probabilities.shape)}, must be {tuple(train.shape[:2])}")
    if not 0 <= lambda_reg < float("inf"):
        raise ValueError(f"lambda_reg={lambda_reg}: must be finite, and zero or more")
    n, p = train.shape[1:]
    if lambda_reg == 0 and n < p:
        raise ValueError(f"lambda_reg=0: {n} training samples cannot determine {p} dimensions; regularise or project")
    kernel = train.mT @ train + lambda_reg * torch.eye(p).to(train)
    solution, info = torch.linalg.solve_ex(kernel, targets.mT)
    if bool(info.any()):
        raise ValueError(f"lambda_reg={lambda_reg}: the gradients' second moments are singular; regularise more")
    return (train @ solution).mean(0) * (1 - probabilities).mean(0).unsqueeze(1)


class TrakAttribution:
    """Attributes a model's outputs to its training samples, by TRAK (:func:`trak_scores`).

    ``features`` is called once with the training samples, then ``scores`` with any targets. The score of sample i for
    target x plays the part of β_i(x) in :func:`predict_deletion` once a multiplier has been calibrated: it has the
    right sign and order, but not the scale of an effect of removal.

    Arguments:
        model: one trained model, or several (a sequence or a :class:`Stack`), over which scores are averaged. They are
            used in evaluation mode, and left as they were.
        output_fn: (logits (1, K), y (1,)) → one number; the margin of the right class.
        proj_dim: p, the length of the projected gradients; at most the number of training samples unless regularised.
        seed: of the projections (±1/√p), another one for each model.
        lambda_reg: λ.
        chunk_size: samples whose whole gradients are held at a time.

    Raises:
        ValueError: no models, or settings out of range; ``scores`` before ``features``.
        TypeError: something that is not a module.

    >>> model = nn.Linear(3, 2)
    >>> trak = TrakAttribution(model, proj_dim=4, seed=0, lambda_reg=1.0)
    >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
    >>> trak.features([(x, y)]).scores([(x[:5], y[:5])]).shape
    torch.Size([20, 5])
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module] | Stack,
        output_fn: Callable[[Tensor, Tensor], Tensor] = margin,
        proj_dim: int = 2048,
        seed: int = 0,
        lambda_reg: float = 0.0,
        *,
        chunk_size: int = 256,
    ) -> None:
        if isinstance(model, Stack):
            models = [model.module(m) for m in range(len(model))]
        elif isinstance(model, nn.Module):
            models = [model]
        else:
            models = list(model)
        for each in models:
            if not isinstance(each, nn.Module):
                raise TypeError(f"model: {type(each).__name__} is not a torch.nn.Module")
        if not models:
            raise ValueError("model: there must be at least one")
        if not 0 <= lambda_reg < float("inf"):
            raise ValueError(f"lambda_reg={lambda_reg}: must be finite, and zero or more")
        self.models, self.output_fn, self.lambda_reg, self.chunk_size = models, output_fn, lambda_reg, chunk_size
        self.projections = [random_projection(proj_dim, seed + PROJECTIONS_APART * m) for m in range(len(models))]
        self.train: Float[Tensor, "models n p"] | None = None
        self.probabilities: Float[Tensor, "models n"] | None = None

    def features(self, loader: Samples) -> TrakAttribution:
        """Compute what scores need of the training samples: (x, y), or batches of them such as a ``DataLoader``."""
        batches = _batches(loader)
        self.train = self._gradients(batches)
        self.probabilities = torch.stack([_probabilities(model, batches) for model in self.models])
        return self

    def scores(self, targets: Samples) -> Float[Tensor, "n m"]:
        """The score of every training sample for every target, given as the training samples are."""
        if self.train is None or self.probabilities is None:
            raise ValueError("scores: call features with the training samples first")
        return trak_scores(self.train, self._gradients(_batches(targets)), self.probabilities, self.lambda_reg)

    def _gradients(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        rows = []
        for model, project in zip(self.models, self.projections, strict=True):
            mode = model.training
            model.eval()
            try:
                parts = [
                    project(per_sample_gradients(model, xs, ys, self.output_fn))
                    for x, y in batches
                    for xs, ys in zip(x.split(self.chunk_size), y.split(self.chunk_size), strict=True)
                ]
            finally:
                model.train(mode)
            rows.append(torch.cat(parts))
        return torch.stack(rows)


@torch.no_grad()
def _probabilities(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Float[Tensor, " n"]:
    mode = model.training
    model.eval()
    try:
        return torch.cat([of_class(model(x).softmax(-1), y.long()) for x, y in batches])
    finally:
        model.train(mode)


def _batches(samples: Samples) -> list[tuple[Tensor, Int[Tensor, " batch"]]]:
    if isinstance(samples, tuple) and len(samples) == 2 and all(isinstance(part, Tensor) for part in samples):
        batches = [samples]
    else:
        batches = [(x, y) for x, y in samples]
    if not batches or any(len(x) != len(y) or len(x) == 0 for x, y in batches):
        raise ValueError(
            "samples: need (x, y) or batches of them, each with as many targets as inputs and at least one"
        )
    return batches  # type: ignore[return-value]  # what a tuple holds has been looked at
