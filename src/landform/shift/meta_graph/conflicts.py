"""Which training subsets help which others, and which they hurt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import check_scores
from landform.losses.gradient_variance import one_hot

Samples = tuple[Tensor, Tensor]


def group_gradient(
    features: Float[Tensor, "batch d"], logits: Float[Tensor, "batch k"], targets: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """The gradient of a group's mean cross-entropy for the weight and bias of the linear layer that gave its logits.

    With r_i = softmax(logits_i) - onehot(targets_i) and h_i = features_i it is mean_i r_i h_i^T and mean_i r_i: the
    mean of :func:`landform.losses.last_layer_sample_grads`, by one product of matrices.

    Raises:
        TypeError: targets that are not integers, or scores that are not floating point.
        ValueError: shapes that do not fit, an empty group, values that are not finite, or targets that are no classes.

    >>> weight, bias = group_gradient(torch.ones(1, 3), torch.zeros(1, 2), torch.tensor([0]))
    >>> weight.tolist(), bias.tolist()
    ([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]], [-0.5, 0.5])
    """
    if features.ndim != 2 or logits.ndim != 2 or not len(features) == len(logits) == len(targets):
        raise ValueError(
            f"features {tuple(features.shape)}, logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: must "
            "be (batch, d), (batch, k) and (batch,)"
        )
    features, logits = check_scores(features), check_scores(logits)
    residual = logits.softmax(1) - one_hot(targets, logits)
    return residual.T @ features / len(features), residual.mean(0)


def training_conflict_matrix(
    model: nn.Module,
    head: nn.Linear,
    train_groups: Sequence[Samples],
    eval_groups: Sequence[Samples],
    checkpoints: Sequence[Mapping[str, Tensor]],
    lrs: Sequence[float],
) -> Float[Tensor, "n_train n_eval"]:
    """What a step on each training group does for each evaluation group: positive helps, negative hurts.

        C_sq = Σ_c lr_c <mean_{i in s} ∇ l_i, mean_{j in q} ∇ l_j>

    over checkpoints c, with the gradients of cross-entropy for the last linear layer alone (its bias too, if it has
    one). To first order that is how much plain gradient descent on s lowers the loss on q. Divide by the largest
    absolute entry to compare models. The model runs in evaluation mode and is left as it was.

    Arguments:
        model: gives logits.
        head: the linear layer in it that gives them.
        train_groups, eval_groups: (x, y) of each group.
        checkpoints: state dictionaries of the model, along its training.
        lrs: the learning rate at each.

    Raises:
        ValueError: no groups or checkpoints, lrs of another number, or a head that is not in the model or is not what
            gives its output.

    Source: arXiv 2202.06523, section 4.3, after TracIn (arXiv 2002.08484).
    """
    if not train_groups or not eval_groups or not checkpoints or len(lrs) != len(checkpoints):
        raise ValueError(
            f"{len(train_groups)} train_groups, {len(eval_groups)} eval_groups, {len(checkpoints)} checkpoints and "
            f"{len(lrs)} lrs: must be at least one of each, and as many lrs as checkpoints"
        )
    if not any(module is head for module in model.modules()):
        raise ValueError("head: is no part of the model")
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {module: module.training for module in model.modules()}
    total: Tensor | None = None
    try:
        model.eval()
        for state, lr in zip(checkpoints, lrs, strict=True):
            model.load_state_dict(state)
            train, evaluated = (_gradients(model, head, groups) for groups in (train_groups, eval_groups))
            term = lr * (train @ evaluated.T)
            total = term if total is None else total + term
    finally:
        model.load_state_dict(kept)
        for module, mode in modes.items():
            module.training = mode
    assert total is not None
    return total


@torch.no_grad()
def _gradients(model: nn.Module, head: nn.Linear, groups: Sequence[Samples]) -> Float[Tensor, "groups parameters"]:
    """Each group's gradient for the head, flat. All groups run through the model as one batch."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits = model(torch.cat([x for x, _ in groups]))
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].ndim != 2 or not torch.equal(head(seen[0]), logits):
        raise ValueError("head: is not the linear layer that gives the model's output")
    sizes = [len(y) for _, y in groups]
    rows = []
    for h, scores, (_, y) in zip(seen[0].split(sizes), logits.split(sizes), groups, strict=True):
        weight, bias = group_gradient(h, scores, y)
        rows.append(weight.flatten() if head.bias is None else torch.cat([weight.flatten(), bias]))
    return torch.stack(rows)


def contribution_regression(
    counts: Float[Tensor, "steps n_train"], changes: Float[Tensor, "steps n_eval"]
) -> Float[Tensor, "n_train n_eval"]:
    """The same question answered without gradients: what an image of each training subset adds to each score.

    The change of every evaluation score in a step is regressed on how many images of each training subset the step
    saw, changes ≈ counts C, by least squares. There is no constant: counts that sum to the batch size hold one.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or steps whose counts do not determine C.

    Source: an earlier version of arXiv 2202.06523.

    >>> counts = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> contribution_regression(counts, counts @ torch.tensor([[0.1], [-0.2]])).squeeze().tolist()
    [0.1..., -0.2...]
    """
    if counts.ndim != 2 or changes.ndim != 2 or len(counts) != len(changes) or not counts.numel():
        raise ValueError(
            f"counts {tuple(counts.shape)} and changes {tuple(changes.shape)}: must be (steps, n_train) and "
            "(steps, n_eval)"
        )
    seen, scores = counts.double(), changes.double()
    if not seen.isfinite().all() or not scores.isfinite().all():
        raise ValueError("counts or changes contain NaN or infinite values")
    rank = int(torch.linalg.matrix_rank(seen))
    if rank < seen.shape[1]:
        raise ValueError(f"counts: have rank {rank}, so do not tell {seen.shape[1]} subsets apart; vary the batches")
    return torch.linalg.lstsq(seen, scores).solution
