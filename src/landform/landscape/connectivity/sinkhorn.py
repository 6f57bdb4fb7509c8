"""Permutations made soft, so that they can be learned by gradient descent through the loss between two networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from landform.landscape.connectivity.checks import check_choice, check_count
from landform.landscape.connectivity.data import batches_of, check_batch, check_loader, on_device
from landform.landscape.connectivity.evaluation import Loader, LossFn, device_of, placed
from landform.landscape.connectivity.matching import assignment
from landform.landscape.connectivity.permutations import PermutationSpec, apply_permutation
from landform.landscape.connectivity.recalibration import batch_statistics
from landform.landscape.connectivity.states import State, check_states, weights
from landform.landscape.curvature.operators import evaluating

Objective = Literal["distance", "midpoint", "random_point"]


def sinkhorn(log_alpha: Float[Tensor, "*batch n n"], n_iter: int = 20, tau: float = 1.0) -> Float[Tensor, "*batch n n"]:
    """A nearly doubly stochastic matrix: rows and columns of exp(log_alpha / tau) brought to sum 1 in turn.

    Every iteration subtracts in logarithms the sums of the columns and then those of the rows, so that the rows sum to
    1 exactly. As tau goes to 0 the limit is the permutation of the linear assignment that maximises Σ log_alpha.
    Derivatives are those of the iterations themselves.

    Raises:
        ValueError: a matrix that is not square or not finite, no iterations, or a temperature that is not positive.

    Source: arXiv 2212.12042, section 3; Sinkhorn 1964.

    >>> sinkhorn(torch.zeros(2, 2))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    if log_alpha.ndim < 2 or log_alpha.shape[-1] != log_alpha.shape[-2] or not log_alpha.is_floating_point():
        raise ValueError(f"log_alpha is {log_alpha.dtype} {tuple(log_alpha.shape)}; it must be floats (..., n, n)")
    if not torch.isfinite(log_alpha).all():
        raise ValueError("log_alpha has values that are not finite")
    check_count("n_iter", n_iter, 1)
    if not 0 < tau < math.inf:
        raise ValueError(f"tau={tau}: must be positive and finite")
    log_p = log_alpha / tau
    for _ in range(n_iter):
        log_p = log_p - log_p.logsumexp(-2, keepdim=True)
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
    return log_p.exp()


class SinkhornRebasin(nn.Module):
    """Learns the order of a network's hidden units by gradient descent on soft permutations.

        P_l = sinkhorn(l X_l),   X_l = I + 0.1 N(0, 1) at first

    In training mode ``forward(state)`` gives the state dict with every axis multiplied by its soft permutation; in eval
    mode with its units in the hard order, the linear assignment of X. Nothing of the networks is changed. Derivatives
    are taken through the iterations, not implicitly at their limit as in the release: at 20 iterations on layers of up
    to some thousand units that is exact and affordable.

    Arguments:
        spec: which axes are reordered.
        state: a state dict of the networks' shapes (its values do not matter).
        l: the scale of X.
        tau: the temperature.
        n_iter: Sinkhorn iterations.
        generator: draws the noise of X.

    Raises:
        ValueError: tensors that do not fit the specification, or values out of range.

    Source: arXiv 2212.12042 (Sinkhorn re-basin).

    >>> spec = PermutationSpec({"in": ("P",), "out": (None, "P")})
    >>> a = {"in": torch.tensor([1.0, 2.0]), "out": torch.eye(2)}
    >>> b = {"in": torch.tensor([2.0, 1.0]), "out": torch.eye(2).flip(1)}
    >>> rebasin = SinkhornRebasin(spec, a)
    >>> order = rebasin.fit(a, b, passes=50)
    >>> apply_permutation(spec, order, b)["in"]
    tensor([1., 2.])
    """

    def __init__(
        self,
        spec: PermutationSpec,
        state: State,
        l: float = 1.0,  # noqa: E741
        tau: float = 1.0,
        n_iter: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_states({"state": state})
        if not 0 < l < math.inf:
            raise ValueError(f"l={l}: must be positive and finite")
        self.spec = spec
        self.sizes = spec.sizes(state)
        self.l, self.tau, self.n_iter = l, tau, n_iter
        like = state[weights(state)[0]]
        self.scores = nn.ParameterList(
            torch.eye(n).add(0.1 * torch.randn(n, n, generator=generator)).to(like) for n in self.sizes.values()
        )

    def soft(self) -> dict[str, Float[Tensor, "units units"]]:
        """The soft permutations, rows for the new places and columns for the old."""
        return {
            name: sinkhorn(self.l * x, self.n_iter, self.tau) for name, x in zip(self.sizes, self.scores, strict=True)
        }

    def permutation(self) -> dict[str, Int[Tensor, " units"]]:
        """The hard orders: linear assignments of X."""
        return {name: assignment(x.detach().cpu()) for name, x in zip(self.sizes, self.scores, strict=True)}

    def forward(self, state: State) -> dict[str, Tensor]:
        if not self.training:
            return apply_permutation(self.spec, self.permutation(), state)
        soft = self.soft()
        return {key: self._mixed(soft, key, tensor) for key, tensor in state.items()}

    def distance(self, a: State, b: State) -> Tensor:
        """‖A - perm(B)‖² / P over the P weights."""
        moved = self(b)
        keys = weights(a)
        return sum((a[key] - moved[key]).square().sum() for key in keys) / sum(a[key].numel() for key in keys)

    def between(
        self, model: nn.Module, a: State, b: State, batch: tuple[Any, Tensor], loss_fn: LossFn, t: float = 0.5
    ) -> Tensor:
        """The loss of the network at ``t`` on the line from A to perm(B): at the midpoint, or at a random point.

        Batch normalisation uses the statistics of the batch, since soft ones mean nothing; dropout is off.
        """
        inputs, targets = on_device(check_batch(batch), device_of(model))
        moved = self(b)
        point = {key: torch.lerp(a[key], moved[key], t) if key in set(weights(a)) else a[key] for key in a}
        with evaluating(model), batch_statistics(model):
            return loss_fn(functional_call(model, point, (inputs,), tie_weights=False), targets)

    def fit(
        self,
        a: State,
        b: State,
        objective: Objective = "distance",
        *,
        model: nn.Module | None = None,
        loader: Loader | None = None,
        loss_fn: LossFn | None = None,
        passes: int = 20,
        lr: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> dict[str, Int[Tensor, " units"]]:
        """Learn the order of ``b`` with AdamW, and give the hard permutations to hand to :func:`apply_permutation`.

        Arguments:
            objective: ``"distance"`` of the weights; ``"midpoint"``, the loss half-way between the networks; or
                ``"random_point"``, the loss at a uniformly drawn point of the line, anew for each batch. The last two
                need ``model``, ``loader`` and ``loss_fn``.
            passes: over the batches of ``loader``; steps where it is None.
            lr: learning rate of AdamW on X.
            generator: draws the random points.

        Raises:
            ValueError: an unknown objective, one whose data are missing, or values out of range.
        """
        check_choice("objective", objective, get_args(Objective))
        check_count("passes", passes, 1)
        if not 0 < lr < math.inf:
            raise ValueError(f"lr={lr}: must be positive and finite")
        if objective == "distance":
            check_states({"a": a, "b": b})
        elif model is None or loader is None or loss_fn is None:
            raise ValueError(f"objective={objective!r} needs model, loader and loss_fn")
        else:
            check_loader(loader)
            a, b = placed(model, {"a": a, "b": b})

        def losses() -> Iterator[Tensor]:
            """Those of one pass, each made when the step before it is done."""
            if model is None or loader is None or loss_fn is None or objective == "distance":
                yield self.distance(a, b)
                return
            for batch in batches_of(loader, device_of(model)):
                t = 0.5 if objective == "midpoint" else float(torch.rand((), generator=generator))
                yield self.between(model, a, b, batch, loss_fn, t)

        optimizer = torch.optim.AdamW(self.parameters(), lr)
        was_training = self.training
        self.train()
        for _ in range(passes):
            for loss in losses():
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.train(was_training)
        return self.permutation()

    def _mixed(self, soft: Mapping[str, Tensor], key: str, tensor: Tensor) -> Tensor:
        """A tensor with each axis that carries a permutation multiplied by it."""
        for axis, name in enumerate(self.spec.axes.get(key, ())):
            if name is not None:
                front = tensor.movedim(axis, 0)
                mixed = soft[name].to(tensor) @ front.reshape(self.sizes[name], -1)
                tensor = mixed.reshape(front.shape).movedim(0, axis)
        return tensor
