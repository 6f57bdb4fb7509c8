"""FedLD's aggregation: every client's update rebuilt from the principal directions of all updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from landform.federated.client import rows
from landform.losses.base import check_choice

Per = Literal["tensor", "model"]


@overload
def principal_gradient_aggregate(
    updates: Tensor, keep: float = ..., weights: Tensor | None = ..., per: Per = ..., eps: float = ...
) -> Tensor: ...


@overload
def principal_gradient_aggregate(
    updates: Sequence[Mapping[str, Tensor]],
    keep: float = ...,
    weights: Tensor | None = ...,
    per: Per = ...,
    eps: float = ...,
) -> dict[str, Tensor]: ...


def principal_gradient_aggregate(
    updates: Float[Tensor, "clients d"] | Sequence[Mapping[str, Tensor]],
    keep: float = 0.8,
    weights: Float[Tensor, " clients"] | None = None,
    per: Per = "tensor",
    eps: float = 1e-12,
) -> Tensor | dict[str, Tensor]:
    """Combine the clients' updates along their common principal directions, each with the sign most clients agree on.

    With D (m, d) the updates and s_1 ≥ … ≥ s_m, e_j the eigenpairs of D Dᵀ/m, the directions are u_j = Dᵀe_j/‖Dᵀe_j‖,
    flipped where more clients have ⟨D_i, u_j⟩ < 0 than ≥ 0. The first q = int(keep · m) of them rebuild each update,

        D̃_i = Σ_{j ≤ q} (s_j / Σ_l s_l) ‖D_i‖ sgn(⟨D_i, u_j⟩) u_j,

    and the result is their mean. Its norm is at most max_i ‖D_i‖. Directions with s_j < eps · s_1, which rounding
    makes, are left out. Source: arXiv 2408.12300, and the authors' code, of which this is the closed form.

    Arguments:
        updates: (m, d), or for each client its update of every tensor, as w_k − w.
        keep: the share of directions kept, in (0, 1]; at least one is.
        weights: of the clients in the mean; all the same if None.
        per: of updates by name, whether each tensor has its own directions or the whole model has. Tensors of a single
            number take the mean.

    Returns:
        (d,), or a tensor for each name. A single client's update comes back as it is.

    Raises:
        ValueError: no clients, keep outside (0, 1], values that are not finite, weights that are not m finite numbers
            of at least 0 with a positive sum, names or shapes that differ, or an unknown ``per``.

    >>> principal_gradient_aggregate(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).round(decimals=4)
    tensor([1., 0.])
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: must be in (0, 1]")
    check_choice("per", per, get_args(Per))
    if isinstance(updates, Tensor):
        check_updates(updates)
        return _principal(updates, keep, client_weights(weights, updates), eps)
    stacked = _stacked(updates)
    if per == "model":
        whole = torch.cat([rows(d) for d in stacked.values()], dim=1)
        check_updates(whole)
        parts = _principal(whole, keep, client_weights(weights, whole), eps).split(
            [d[0].numel() for d in stacked.values()]
        )
        return {name: part.view(d.shape[1:]) for (name, d), part in zip(stacked.items(), parts, strict=True)}
    result = {}
    for name, d in stacked.items():
        check_updates(rows(d))
        shares = client_weights(weights, d)
        if d[0].numel() == 1:
            result[name] = torch.tensordot(shares, d, dims=1)
        else:
            result[name] = _principal(rows(d), keep, shares, eps).view(d.shape[1:])
    return result


def principal_shares(updates: Float[Tensor, "clients d"]) -> Float[Tensor, " clients"]:
    """The eigenvalues of D Dᵀ/m, greatest first, as shares of their sum: how far the clients go one way.

    Raises:
        ValueError: no clients, or values that are not finite.

    >>> principal_shares(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).round(decimals=4).abs()
    tensor([1., 0.])
    """
    check_updates(updates)
    values = torch.linalg.eigvalsh(updates @ updates.T).flip(0).clamp(min=0)
    return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)


def _principal(d: Tensor, keep: float, weights: Tensor, eps: float) -> Tensor:
    """All through the m × m inner products: ⟨D_i, Dᵀe_j⟩ = (D Dᵀ e_j)_i."""
    m = len(d)
    if m == 1:
        return d[0].clone()
    gram = d @ d.T
    values, vectors = torch.linalg.eigh(gram / m)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shares = values / values.sum().clamp(min=torch.finfo(d.dtype).tiny)
    kept = (values >= eps * values[0]) & (values > 0) & (torch.arange(m, device=d.device) < max(1, int(keep * m)))
    projections = gram @ vectors
    negative = (projections < 0).sum(0)
    flip = torch.where(2 * negative > m, -1.0, 1.0).to(d)
    signs = torch.where(projections * flip < 0, -1.0, 1.0).to(d)
    lengths = (weights * gram.diagonal().clamp(min=0).sqrt()) @ signs  # Σ_i weight_i ‖D_i‖ sgn, for each direction
    norms = torch.where(kept, (m * values).sqrt(), 1.0)  # ‖Dᵀe_j‖
    along = torch.where(kept, shares * lengths * flip / norms, 0.0)
    return d.T @ (vectors @ along)


def check_updates(updates: Tensor) -> None:
    """That there are clients' updates (m, d), floating and finite."""
    if updates.ndim != 2 or not len(updates):
        raise ValueError(f"updates: need (clients, d) with at least one client, got shape {tuple(updates.shape)}")
    if not updates.is_floating_point():
        raise ValueError(f"updates: need floating-point numbers, not {updates.dtype}")
    if not bool(updates.isfinite().all()):
        raise ValueError("updates: hold values that are not finite")


def client_weights(weights: Tensor | None, updates: Tensor) -> Tensor:
    """Each client's share in the mean, (m,)."""
    m = len(updates)
    if weights is None:
        return updates.new_full((m,), 1 / m)
    shares = torch.as_tensor(weights).to(updates)
    if shares.shape != (m,) or not bool((shares.isfinite() & (shares >= 0)).all()) or not float(shares.sum()) > 0:
        raise ValueError(f"weights={weights}: need {m} finite numbers of at least 0 with a positive sum")
    return shares / shares.sum()


def _stacked(updates: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if not len(updates):
        raise ValueError("updates: there are no clients")
    first = updates[0]
    for client, other in enumerate(updates):
        if other.keys() != first.keys():
            raise ValueError(f"updates: client {client} has other names: {sorted(other.keys() ^ first.keys())}")
        for name, value in other.items():
            if value.shape != first[name].shape:
                raise ValueError(
                    f"updates: {name!r} has shape {tuple(value.shape)} of client {client}, but "
                    f"{tuple(first[name].shape)} of client 0"
                )
    return {name: torch.stack([update[name] for update in updates]) for name in first}
