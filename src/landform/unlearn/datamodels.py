"""Datamodels: linear predictors of a model's outputs from the set of samples that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats
from torch import Tensor

Method = Literal["ridge", "difference", "lasso"]


def fit_datamodels(
    masks: Bool[Tensor, "models n"],
    outputs: Float[Tensor, "models m ..."],
    method: Method = "ridge",
    alpha: float = 1.0,
) -> tuple[Float[Tensor, "n m ..."], Float[Tensor, "m ..."]]:
    """Fit f_x(S') ≈ b_x + Σ_{i ∈ S'} β_i(x) to the outputs of models that were trained on subsets.

    With X = masks as 0 and 1, and for each target x and each of its outputs by itself:

    - ``"ridge"``: argmin ‖f − b − Xβ‖² + alpha ‖β‖², the bias not penalised; least squares if alpha = 0;
    - ``"lasso"``: argmin ‖f − b − Xβ‖² / (2 models) + alpha ‖β‖₁;
    - ``"difference"``: β_i = mean of f with i in the subset − mean without; alpha plays no part.

    Logits are only defined up to a number common to all classes, which softmax ignores and a linear fit does not:
    centre them over the classes before (:func:`centred`). The variance of β falls as 1/(a(1 − a) · models) for subsets
    of share a, while effects measured far below a = 1 are larger than those of removing a few samples from all.

    Source: Ilyas et al., arXiv 2202.00622 (lasso); Feldman and Zhang, arXiv 2008.03703 (difference); arXiv 2410.23232.

    Arguments:
        masks: (M, n), which samples each model saw; see :func:`subset_masks`.
        outputs: (M, m) or (M, m, K), of the M models at m targets.
        alpha: the strength of shrinkage, zero or more (more than zero for the lasso).

    Returns:
        β (n, m[, K]) and b (m[, K]), fitted in float64, in the outputs' dtype.

    Raises:
        ValueError: shapes that do not fit, outputs that are not finite, fewer than two models, an unknown method, alpha
            out of range, or with ``"difference"`` a sample that every model saw, or none.
        TypeError: masks that are not booleans, or outputs that are not floating point.

    >>> masks = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).bool()
    >>> beta, bias = fit_datamodels(masks, torch.tensor([[1.0], [4.0], [3.0], [6.0]]), "difference")
    >>> beta.flatten(), bias
    (tensor([2., 3.]), tensor([1.]))
    """
    _check_masks(masks, outputs)
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: must be one of {', '.join(map(repr, get_args(Method)))}")
    if not 0 <= alpha < float("inf") or (method == "lasso" and alpha == 0):
        raise ValueError(f"alpha={alpha}: must be finite, and zero or more (more than zero for the lasso)")
    x, f = masks.to(outputs.device, torch.float64), outputs.double().flatten(1)
    centre, mean = x.mean(0), f.mean(0)
    if method == "difference":
        fixed = ((centre == 0) | (centre == 1)).nonzero().flatten().tolist()
        if fixed:
            raise ValueError(
                f"masks: sample {fixed[0]} is in every subset or in none, so it has no difference of means"
            )
        seen = x.sum(0).unsqueeze(1)
        inside = x.T @ f
        beta = inside / seen - (f.sum(0) - inside) / (len(x) - seen)
    elif method == "lasso":
        beta = _lasso(x, f, alpha)
    else:
        beta = _ridge(x - centre, f - mean, alpha)
    bias = mean - centre @ beta
    shape = outputs.shape[1:]
    return beta.unflatten(1, shape).to(outputs.dtype), bias.unflatten(0, shape).to(outputs.dtype)


def predict_deletion(
    logits: Float[Tensor, "*models m classes"],
    beta: Float[Tensor, "n m classes"],
    forget: Int[Tensor, " forgotten"] | Sequence[int],
    multiplier: float = 1.0,
) -> Float[Tensor, "*models m classes"]:
    """What a model's outputs would have been without some samples: its own, less the samples' effects.

        h_x = f_x(θ0) − multiplier · Σ_{i ∈ F} β_i(x)

    Source: arXiv 2410.23232, section 4 ("DM-Direct" where it is the answer, the target of matching otherwise).

    Arguments:
        logits: (m[, K]) outputs of one model at the targets of ``beta``, or (M, m[, K]) of many.
        beta: (n, m[, K]), from :func:`fit_datamodels`; or scores (n, m) of :class:`TrakAttribution` for margins.
        forget: numbers of the samples, each once; none of them leaves the outputs as they are.
        multiplier: c, which makes up for effects measured on smaller subsets.

    Raises:
        ValueError: shapes that do not fit, a number out of range or given twice, or a multiplier that is not finite.

    >>> predict_deletion(torch.tensor([5.0]), torch.tensor([[1.0], [2.0], [4.0]]), [0, 2])
    tensor([0.])
    """
    if logits.shape[-(beta.ndim - 1) :] != beta.shape[1:]:
        raise ValueError(f"logits of shape {tuple(logits.shape)} do not end in {tuple(beta.shape[1:])}, as beta does")
    if not abs(multiplier) < float("inf"):
        raise ValueError(f"multiplier={multiplier}: must be finite")
    rows = check_forget(forget, len(beta)).to(beta.device)
    return logits - multiplier * beta[rows].sum(0)


def lds(
    beta: Float[Tensor, "n m ..."], masks: Bool[Tensor, "models n"], outputs: Float[Tensor, "models m ..."]
) -> float:
    """The linear datamodelling score: how well datamodels order held-out subset models by their outputs.

    Spearman's correlation over the models between Σ_{i ∈ S_j} β_i(x) and f_x(S_j), averaged over the targets (and
    their outputs). Where either is the same for all models the target counts as 0. Source: arXiv 2303.14186, section 2.

    Arguments:
        masks, outputs: of subset models that ``beta`` was not fitted on.

    Raises:
        ValueError, TypeError: as :func:`fit_datamodels`.

    >>> masks = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).bool()
    >>> lds(torch.tensor([[2.0], [3.0]]), masks, torch.tensor([[1.0], [4.0], [3.0], [6.0]]))
    1.0
    """
    _check_masks(masks, outputs)
    if beta.shape != (masks.shape[1], *outputs.shape[1:]):
        raise ValueError(f"beta: has shape {tuple(beta.shape)}, must be {(masks.shape[1], *outputs.shape[1:])}")
    predicted = masks.to(beta.device, torch.float64) @ beta.double().flatten(1)
    actual = outputs.double().flatten(1)
    ranks = [stats.rankdata(v.cpu().numpy(), axis=0) - (len(masks) + 1) / 2 for v in (predicted, actual)]
    covariance, spread = (ranks[0] * ranks[1]).sum(0), np.sqrt((ranks[0] ** 2).sum(0) * (ranks[1] ** 2).sum(0))
    return float(np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0).mean())


def centred(logits: Shaped[Tensor, "*batch classes"]) -> Shaped[Tensor, "*batch classes"]:
    """Logits less their mean over the classes: the same probabilities, and nothing that softmax would ignore.

    >>> centred(torch.tensor([3.0, 5.0]))
    tensor([-1.,  1.])
    """
    return logits - logits.mean(-1, keepdim=True)


def check_forget(forget: Int[Tensor, " forgotten"] | Sequence[int], n: int) -> Int[Tensor, " forgotten"]:
    """The numbers of the samples to forget as a tensor, once they are found to be distinct and below n."""
    rows = torch.as_tensor(forget)
    if rows.numel() == 0:
        return rows.reshape(0).long()
    if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise ValueError(f"forget: need numbers of samples, (F,) integers, got shape {tuple(rows.shape)} {rows.dtype}")
    if int(rows.min()) < 0 or int(rows.max()) >= n:
        raise ValueError(f"forget: holds {int(rows.min())} to {int(rows.max())}, but samples are 0 to {n - 1}")
    if len(rows.unique()) < len(rows):
        raise ValueError("forget: holds a sample twice")
    return rows.long()


def _check_masks(masks: Tensor, outputs: Tensor) -> None:
    if masks.dtype != torch.bool:
        raise TypeError(f"masks are {masks.dtype}; they must be booleans")
    if not outputs.is_floating_point():
        raise TypeError(f"outputs are {outputs.dtype}; they must be floating point")
    if masks.ndim != 2 or outputs.ndim < 2 or len(masks) != len(outputs) or len(masks) < 2 or outputs.numel() == 0:
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} and outputs of shape {tuple(outputs.shape)}: must be (M, n) and "
            "(M, m) or (M, m, K), for M = 2 models or more"
        )
    if not bool(outputs.isfinite().all()):
        raise ValueError(f"outputs: {int((~outputs.isfinite()).sum())} values are not finite")


def _ridge(x: Tensor, f: Tensor, alpha: float) -> Tensor:
    """Of centred inputs and outputs; in the smaller of the two spaces, that of samples or that of models."""
    if alpha == 0:
        return torch.linalg.lstsq(x, f, driver="gelsd" if x.device.type == "cpu" else "gels").solution
    models, n = x.shape
    if n <= models:
        return torch.linalg.solve(x.T @ x + alpha * torch.eye(n).to(x), x.T @ f)
    return x.T @ torch.linalg.solve(x @ x.T + alpha * torch.eye(models).to(x), f)


def _lasso(x: Tensor, f: Tensor, alpha: float) -> Tensor:
    from sklearn.linear_model import Lasso

    fit = Lasso(alpha=alpha, precompute=True, tol=1e-10, max_iter=100_000).fit(x.cpu().numpy(), f.cpu().numpy())
    return torch.from_numpy(fit.coef_.reshape(f.shape[1], -1).T.copy()).to(x)
