"""Training-free scores of an architecture: numbers from an untrained network and one batch that should rank accuracy.

Every score is also a function of its own, ``snip(model, x, y)``, and an entry of :data:`PROXIES`;
:func:`zero_cost_scores` computes several and shares the work. Larger is predicted better. All follow the definitions
that the benchmarks of this field use (arXiv 2101.08134; NASWOT: 2006.04647; GradSign: 2110.08616): one batch, at
initialisation, in **training mode** (BatchNorm normalises with the batch), sums over the weights W of every convolution
and linear layer, biases and normalisation left out. L is the mean loss over the batch.

A score works on a copy: parameters, buffers, mode, gradients and the random state of the given model stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landform.search.sign_agreement import (
    Layer,
    Loss,
    check_batch,
    per_sample_sign_agreement,
    scoring_rng,
    weighted_layers,
)

RELU = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU)


class Proxy(Protocol):
    """A training-free score: larger is predicted better."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, loss_fn: Loss = ..., /) -> float: ...


class _Subject:
    """The network under examination: a copy of it in training mode, the batch, and what several scores share."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, loss_fn: Loss) -> None:
        check_batch(dict(model.named_parameters()), x, y)
        self.original, self.x, self.y, self.loss_fn = model, x.detach(), y, loss_fn
        self.model = copy.deepcopy(model).train()
        self.layers = weighted_layers(self.model)
        if not self.layers:
            raise ValueError("model: has no convolution and no linear layer, so there is no weight to score")
        self.weights = [layer.weight.requires_grad_(True) for layer in self.layers]

    def loss(self) -> Tensor:
        loss = self.loss_fn(self.model(self.x), self.y)
        if loss.ndim:
            raise ValueError(f"loss_fn: must return a scalar for a batch, returned shape {tuple(loss.shape)}")
        return loss

    @cached_property
    def gradients(self) -> list[Tensor]:
        """∂L/∂W of every layer; zeros for a weight that the loss does not depend on."""
        return _gradients(self.loss(), self.weights)

    def differentiable_input(self, score: str) -> Tensor:
        if not self.x.is_floating_point():
            raise ValueError(f"x: {score} differentiates with respect to the input, which cannot be {self.x.dtype}")
        return self.x.clone().requires_grad_(True)


def _gradients(output: Tensor, weights: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    if not output.requires_grad:
        return [torch.zeros_like(w) for w in weights]
    found = torch.autograd.grad(output, weights, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _total(terms: Iterable[Tensor]) -> float:
    return float(sum(term.detach().sum() for term in terms))


PROXIES: dict[str, Callable[[_Subject], float]] = {}
"""Every score by name."""


def _proxy(measure: Callable[[_Subject], float]) -> Proxy:
    """Register a score, and make it a function of a model and a batch."""
    PROXIES[measure.__name__] = measure

    def score(model: nn.Module, x: Tensor, y: Tensor, loss_fn: Loss = F.cross_entropy, /) -> float:
        return zero_cost_scores(model, x, y, (measure.__name__,), loss_fn)[measure.__name__]

    score.__name__, score.__doc__ = measure.__name__, measure.__doc__
    return score


def zero_cost_scores(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    y: Tensor,
    names: Iterable[str] | None = None,
    loss_fn: Loss = F.cross_entropy,
) -> dict[str, float]:
    """Training-free scores of ``model`` on one batch, by name.

    Each score sees the same weights, batch and random state, whichever others are asked for.

    Arguments:
        model: an untrained network; it is left exactly as it was.
        x, y: one batch of training data with its targets.
        names: which of :data:`PROXIES`, all by default.
        loss_fn: (model(x), y) → scalar, a mean over the batch.

    Raises:
        ValueError: an unknown name, an empty batch or targets of another length, half precision (signs and sums of
            cancelling terms are meaningless in it), no weight to score, or a loss that is not a scalar.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> scores = zero_cost_scores(model, torch.randn(16, 4), torch.randint(3, (16,)), ("num_params", "macs"))
    >>> scores
    {'num_params': 67.0, 'macs': 56.0}
    """
    names = tuple(PROXIES) if names is None else tuple(names)
    for name in names:
        if name not in PROXIES:
            raise ValueError(f"names: unknown score {name!r}; there are {', '.join(PROXIES)}")
    subject = _Subject(model, x, y, loss_fn)
    scores = {}
    for name in names:
        with scoring_rng(x.device), torch.enable_grad():
            scores[name] = PROXIES[name](subject)
    return scores


@_proxy
def gradsign(subject: _Subject) -> float:
    """GradSign: Σ_k |Σ_i sign(∂l_i/∂θ_k)|, see :func:`~landform.search.per_sample_sign_agreement`."""
    score = per_sample_sign_agreement(subject.model, subject.x, subject.y, subject.loss_fn)
    assert isinstance(score, float)
    return score


@_proxy
def grad_norm(subject: _Subject) -> float:
    """Σ_layers ‖∂L/∂W‖₂: the sum of the layers' gradient norms, not the norm of their concatenation."""
    return _total(g.norm() for g in subject.gradients)


@_proxy
def snip(subject: _Subject) -> float:
    """SNIP (arXiv 1810.02340): Σ |W ⊙ ∂L/∂W|, how much the loss would change if single weights were removed."""
    return _total((w * g).abs() for w, g in zip(subject.weights, subject.gradients, strict=True))


@_proxy
def plain(subject: _Subject) -> float:
    """Σ W ⊙ ∂L/∂W: SNIP with its signs."""
    return _total(w * g for w, g in zip(subject.weights, subject.gradients, strict=True))


@_proxy
def grasp(subject: _Subject) -> float:
    """GraSP (arXiv 2002.07376): Σ −W ⊙ (H g) with g = ∂L/∂W and H the Hessian of L over all weights, temperature 1.

    The minus sign is the benchmark's (arXiv 2101.08134): the value without it ranks architectures backwards.
    """
    g = _gradients(subject.loss(), subject.weights, create_graph=True)
    gg = torch.stack([(gradient.detach() * gradient).sum() for gradient in g]).sum()
    return -_total(w * hg for w, hg in zip(subject.weights, _gradients(gg, subject.weights), strict=True))


@_proxy
def fisher(subject: _Subject) -> float:
    """Fisher pruning (arXiv 1801.05787): Σ_layers Σ_c n_c ½ mean_i (Σ_positions a_ic δ_ic)².

    a is a layer's output at channel c, δ = ∂L/∂a, and n_c the number of weights that make the channel.
    """
    outputs: list[tuple[Layer, Tensor]] = []

    def remember(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs.append((layer, output))
        return output.clone()  # what follows may work in place

    hooks = [layer.register_forward_hook(remember) for layer in subject.layers]
    loss = subject.loss()
    for hook in hooks:
        hook.remove()
    delta = torch.autograd.grad(loss, [a for _, a in outputs], allow_unused=True)
    score = 0.0
    for (layer, a), d in zip(outputs, delta, strict=True):
        if d is None:
            continue
        channel = a.ndim - 1 if isinstance(layer, nn.Linear) else 1
        product = (a.detach() * d).movedim(channel, 1).flatten(2) if a.ndim > 2 else (a.detach() * d)[..., None]
        score += 0.5 * float(product.sum(2).square().mean(0).sum()) * layer.weight[0].numel()
    return score


@_proxy
def synflow(subject: _Subject) -> float:
    """SynFlow (arXiv 2006.05467): Σ |W ⊙ ∂R/∂W|, R the sum of the outputs of |W|-weights on an input of ones.

    Every parameter and buffer is replaced by its absolute value, BatchNorm by the identity; double precision. Needs
    no data beyond the shape of one sample.
    """
    model = copy.deepcopy(subject.model).double()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.abs_()
    weights = [layer.weight for layer in weighted_layers(model)]
    ones = torch.ones(1, *subject.x.shape[1:], dtype=torch.float64, device=subject.x.device)
    gradients = _gradients(model(ones).sum(), weights)
    return _total((w * g).abs() for w, g in zip(weights, gradients, strict=True))


@_proxy
def jacob_cov(subject: _Subject) -> float:
    """Jacobian covariance (arXiv 2006.04647v1): −Σ [log(v + k) + 1/(v + k)], k = 1e−5.

    v are the eigenvalues of the correlation matrix over samples of J_i = ∂(Σ_c f_c(x_i))/∂x_i, in double precision.
    NaN when the output does not depend on some sample, as in a cell whose output is disconnected.
    """
    x = subject.differentiable_input("jacob_cov")
    (jacobian,) = torch.autograd.grad(subject.model(x).sum(), x)
    correlation = torch.corrcoef(jacobian.flatten(1).double()).reshape(len(x), len(x))
    if not correlation.isfinite().all():
        return float("nan")
    v = torch.linalg.eigvalsh(correlation) + 1e-5
    return -float((v.log() + 1 / v).sum())


@_proxy
def naswot(subject: _Subject) -> float:
    """NASWOT (arXiv 2006.04647): log|det K|, K_ij = number of ReLUs that are on, or off, for both samples i and j.

    Over the units of every ReLU module (leaky and parametric ones too) that the output depends on; ReLUs called as
    functions are not seen. −∞ when two samples have the same code, and so for a network without ReLU modules.
    """
    x = subject.differentiable_input("naswot") if subject.x.is_floating_point() else subject.x
    seen: list[tuple[Tensor, Tensor]] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # With s = ±1 for on and off, s_i·s_j = agreements − disagreements. The sign survives in-place rectification.
        s = (inputs[0].detach().flatten(1) > 0).double() * 2 - 1
        seen.append(((s @ s.T + s.shape[1]) / 2, output))

    hooks = [m.register_forward_hook(count) for m in subject.model.modules() if isinstance(m, RELU)]
    outputs = subject.model(x)
    for hook in hooks:
        hook.remove()
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    live = [(agreement, output) for agreement, output in seen if output.requires_grad]
    if live:
        reached = torch.autograd.grad(outputs.sum(), [output for _, output in live], allow_unused=True)
        for (agreement, _), gradient in zip(live, reached, strict=True):
            if gradient is not None:
                kernel += agreement
    return float(torch.linalg.slogdet(kernel).logabsdet)


@_proxy
def num_params(subject: _Subject) -> float:
    """The number of trainable parameters: the trivial score that a good one must beat."""
    return float(sum(p.numel() for p in subject.original.parameters() if p.requires_grad))


@_proxy
def macs(subject: _Subject) -> float:
    """Multiply–accumulate operations of the convolutions and linear layers for one sample."""
    counts: list[int] = []

    def count(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    model = copy.deepcopy(subject.model).eval()
    for layer in weighted_layers(model):
        layer.register_forward_hook(count)
    with torch.no_grad():
        model(subject.x[:1])
    return float(sum(counts))
