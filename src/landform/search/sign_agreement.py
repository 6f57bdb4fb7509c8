"""GradSign (arXiv 2110.08616): how far the gradients of single samples agree in sign at initialisation.

The theory: let l_i be sample i's loss and θ*_i its optimum nearest to the initialisation, with curvature at most H.
Then the training loss at the joint optimum is at most (n³/4) Ψ² with Ψ = (√H / n²) Σ_ij ‖θ*_i − θ*_j‖₁: an
architecture whose per-sample optima lie close together can serve all samples with one set of weights. The optima are
unknown before training; but where two samples' gradients at the initialisation point the same way in a coordinate,
their optima lie on the same side of it. GradSign counts that, at the cost of one gradient a sample.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from landform.training.linear import has_onednn
from landform.training.memory import keep_freed_memory
from landform.training.per_sample import per_sample_gradients
from landform.training.per_sample.layers import (
    EVERY,
    LayerwiseGradients,
    NotLayerwise,
    Product,
    layerwise_gradients,
    scalar,
)

Loss = Callable[[Any, Tensor], Tensor]
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear

# Numbers to hold at a time while per-sample gradients are turned into signs: 4 MiB of float32, which stay in the cache.
BLOCK = 2**20


def per_sample_sign_agreement(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Tensor,
    loss_fn: Loss = F.cross_entropy,
    *,
    params: Literal["weights"] | Callable[[str, nn.Parameter], bool] = "weights",
    chunk_size: int | None = None,
    batch_mode: Literal["single", "joint"] = "single",
    reduce: Literal["sum", "mean", "none"] = "sum",
) -> float | dict[str, Tensor]:
    """The GradSign score: for each weight, how far the samples' gradients agree in sign, summed over the weights.

        GradSign = Σ_k | Σ_{i=1..n} sign(∂l_i/∂θ_k) |,    l_i = loss_fn(model(x_i), y_i),  sign(0) = 0

    Larger is predicted better. It lies between 0 and n times the number of weights, so it grows with the network: rank
    architectures by the sum, but look at the number of parameters too. (Divided by the number of weights it can even
    rank backwards.) A weight with a NaN gradient counts as zero, as does one that the loss does not depend on.

    The signs are added up layer by layer, exactly; the n gradients are never held together. For a linear layer
    no gradient is formed at all: sign(δ aᵀ) = sign(δ) sign(a)ᵀ. The model is left exactly as it was.

    Arguments:
        model: an untrained network, run in the mode that it is in; the paper's score is taken in training mode.
        x, y: n samples (the paper uses 128, with training augmentation) and their targets.
        loss_fn: one number for a batch of one sample.
        params: ``"weights"`` are the weights of convolutions and linear layers, as in the paper; or a function of a
            parameter's name and value that says whether to count it.
        chunk_size: how many samples to push through the network at a time; all by default.
        batch_mode: ``"single"`` is the paper's definition: each sample is forwarded alone, so that BatchNorm in
            training mode normalises with the sample's own spatial statistics. That fails where a channel has a single
            value; ``"joint"`` forwards the batch together, and l_i is the i-th loss of that batch. It takes one
            backward pass through the whole batch for each sample, and it gives other numbers where BatchNorm couples
            the samples, the same numbers where it does not.
        reduce: ``"sum"`` is the score, ``"mean"`` divides by the number of weights, ``"none"`` gives
            |Σ_i sign| for each weight as int32 tensors by parameter name.

    Raises:
        ValueError: no samples or targets of another length, no parameter selected, a loss that is not one number for a
            sample, half precision or autocast (rounding would decide signs), or an unknown option.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[9.0], [9.0], [-9.0]])
    >>> per_sample_sign_agreement(model, x, y, F.mse_loss)  # two samples want a larger weight, one a smaller
    1.0
    """
    if batch_mode not in ("single", "joint"):
        raise ValueError(f"batch_mode={batch_mode!r}: must be 'single' or 'joint'")
    if reduce not in ("sum", "mean", "none"):
        raise ValueError(f"reduce={reduce!r}: must be 'sum', 'mean' or 'none'")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1, or None for all samples at once")
    every = dict(model.named_parameters())
    check_batch(every, x, y)
    if x.device.type == "cpu":
        keep_freed_memory()
    if callable(params):
        names = [name for name, parameter in every.items() if params(name, parameter)]
    elif params == "weights":
        weights = {id(layer.weight) for layer in weighted_layers(model)}
        names = [name for name, parameter in every.items() if id(parameter) in weights]
    else:
        raise ValueError(f"params={params!r}: must be 'weights' or a function of a parameter's name and value")
    if not names:
        raise ValueError(f"params={params!r}: selects none of the model's parameters ({', '.join(every) or 'none'})")

    count = _SignCount({name: every[name] for name in names})
    with scoring_rng(x.device), torch.enable_grad():
        if batch_mode == "joint":
            _add_joint(count, model, x.detach(), y, loss_fn, chunk_size or len(x))
        else:
            _add_single(count, model, x.detach(), y, loss_fn, chunk_size or len(x))
    agreement = count.agreement()
    if reduce == "none":
        return {name: a.to(torch.int32) for name, a in agreement.items()}
    total = math.fsum(_total(a, len(x)) for a in agreement.values())
    return total if reduce == "sum" else total / count.coordinates()


def _total(agreement: Tensor, most: int) -> float:
    """The sum of whole numbers between 0 and ``most``, exactly: row by row in float32 where that is."""
    rows = agreement.flatten(1) if agreement.ndim > 1 else agreement[None]
    exact = most * rows.shape[1] <= 2**24
    return rows.sum(1, dtype=torch.float32 if exact else torch.float64).sum(dtype=torch.float64).item()


def optima_spread(optima: Float[Tensor, "n d"], curvature: float) -> float:
    """Ψ = (√H / n²) Σ_ij ‖θ*_i − θ*_j‖₁: how far apart the optima of single samples lie (arXiv 2110.08616, section 3).

    Arguments:
        optima: θ*_i, one row a sample.
        curvature: H, a bound on the curvature of every sample's loss.

    >>> optima_spread(torch.tensor([[0.0], [1.0]]), curvature=4.0)
    1.0
    """
    if optima.ndim != 2 or not len(optima):
        raise ValueError(f"optima: one row a sample, not shape {tuple(optima.shape)}")
    if not curvature > 0:
        raise ValueError(f"curvature={curvature}: must be positive")
    n = len(optima)
    # In sorted order the j-th value exceeds j others and is exceeded by n − 1 − j.
    rank = torch.arange(n, dtype=torch.float64)
    distances = 2 * ((2 * rank - (n - 1))[:, None] * optima.double().cpu().sort(0).values).sum()
    return math.sqrt(curvature) / n**2 * float(distances)


class _SignCount:
    """Σ_i sign(∂l_i/∂θ_k) of the parameters, with the weights set aside that had a NaN gradient.

    Sums of ±1 are exact in floating point, up to 2²⁴ samples in float32.
    """

    def __init__(self, params: dict[str, nn.Parameter]) -> None:
        self.params = params
        self.numel = sum(p.numel() for p in params.values())
        self.signs: dict[str, Tensor] = {}
        self.undefined: dict[str, Tensor] = {}

    def reset(self) -> None:
        self.signs.clear()
        self.undefined.clear()

    def add(self, name: str, gradients: Float[Tensor, "n ..."]) -> None:
        """Count formed gradients, which are overwritten."""
        if not math.isfinite(gradients.sum().item()):
            nan = gradients.isnan().any(0)
            self.undefined[name] = self.undefined.get(name, torch.zeros_like(nan)) | nan
        self._add_signs(name, gradients.sign_().sum(0))

    def add_layerwise(self, gradients: LayerwiseGradients) -> None:
        """Count gradients that are given as layer inputs and output gradients, forming as few as possible."""
        for name, uses in gradients.uses.items():
            if not uses:
                continue
            use, delta = uses[0]
            if len(uses) > 1 or not isinstance(use, Product):
                self.add(name, gradients.gradient(name).clone())  # it may be a view of another's
            elif (signs := outer_signs(use, delta)) is not None:
                self._add_signs(name, signs)
            else:
                at_a_time = max(1, BLOCK // use.shape.numel())
                for start in range(0, len(delta), at_a_time):
                    self.add(name, use.gradient(delta, slice(start, start + at_a_time)))

    def _add_signs(self, name: str, signs: Tensor) -> None:
        before = self.signs.get(name)
        if before is None:
            self.signs[name] = signs
        else:  # each may be in bfloat16, which their sum may be too large for
            self.signs[name] = before.to(torch.promote_types(before.dtype, torch.float32)) + signs

    def agreement(self) -> dict[str, Tensor]:
        """|Σ_i sign|, in whatever type it was counted; zero where nothing was, or where a gradient was NaN."""
        agreement = {
            name: self.signs[name].abs_() if name in self.signs else torch.zeros_like(param, requires_grad=False)
            for name, param in self.params.items()
        }
        for name, undefined in self.undefined.items():
            agreement[name][undefined] = 0
        return agreement

    def coordinates(self) -> int:
        undefined = sum(int(mask.sum()) for mask in self.undefined.values())
        return max(1, self.numel - undefined)


def outer_signs(use: Product, delta: Tensor) -> Tensor | None:
    """Σ_i sign(δ_i a_iᵀ) = Σ_i sign(δ_i) sign(a_i)ᵀ of a weight that meets one vector a_i a sample; None of another.

    Also None where δ or a are not finite: then a product may be NaN, which the signs do not show.
    """
    rows = use.rows(delta)  # (n, groups, outputs, positions), and the columns (n, groups, inputs, positions)
    if rows.shape[1] != 1 or rows.shape[-1] != 1:
        return None
    rows, columns = rows.flatten(1), use.columns(EVERY).flatten(1)
    if not math.isfinite(rows.sum().item() + columns.sum().item()):
        return None
    signs, others = rows.sign(), columns.sign()
    if len(signs) <= EXACT and use.shape.numel() >= SMALL and multiplies_bfloat16(signs.device):
        signs, others = signs.to(torch.bfloat16), others.to(torch.bfloat16)
    return (signs.T @ others).view(use.shape)


# Whole numbers up to 256 are exact in bfloat16, and their products are summed in float32; where processors multiply it
# at all, they do so several times faster, which pays for the conversion unless the matrix is small.
EXACT, SMALL = 256, 2**14


def multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_onednn()


def _add_single(count: _SignCount, model: nn.Module, x: Tensor, y: Tensor, loss_fn: Loss, chunk_size: int) -> None:
    buffers = dict(model.named_buffers())
    try:
        for start in range(0, len(x), chunk_size):
            part = slice(start, start + chunk_size)
            count.add_layerwise(
                layerwise_gradients(model, count.params, buffers, x[part], y[part], loss_fn, verify=start == 0)
            )
        return
    except NotLayerwise:
        count.reset()
    size = min(chunk_size, max(1, BLOCK // count.numel))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        gradients = per_sample_gradients(model, x[part], y[part], loss_fn, params=list(count.params), method="exact")
        for name, gradient in gradients.items():
            count.add(name, gradient)


def _add_joint(count: _SignCount, model: nn.Module, x: Tensor, y: Tensor, loss_fn: Loss, chunk_size: int) -> None:
    model = copy.deepcopy(model)
    every = dict(model.named_parameters())
    params = [every[name].requires_grad_() for name in count.params]
    losses = vmap(lambda output, target: scalar(loss_fn(output.unsqueeze(0), target.unsqueeze(0))))(model(x), y)
    if not losses.requires_grad:
        return
    each = torch.eye(len(x), dtype=losses.dtype, device=losses.device)
    for rows in each.split(min(chunk_size, max(1, BLOCK // count.numel))):
        gradients = torch.autograd.grad(
            losses, params, rows, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        for name, gradient in zip(count.params, gradients, strict=True):
            if gradient is not None:
                count.add(name, gradient)


def weighted_layers(model: nn.Module) -> list[Layer]:
    """The convolutions and linear layers of a model, each once: the layers whose weights training-free scores read."""
    return [m for m in model.modules() if isinstance(m, Layer)]


def check_batch(parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> None:
    """Refuse what no score can be computed on, of a model's parameters and a batch; ValueError says what."""
    if x.ndim == 0 or len(x) == 0 or len(x) != len(y):
        raise ValueError(
            f"x, y: shapes {tuple(x.shape)} and {tuple(y.shape)}, must hold n ≥ 1 samples with a target each"
        )
    for name, tensor in (("x", x), *parameters.items()):
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name}: {tensor.dtype} is too coarse for signs of gradients; use float32 or float64")
    if torch.is_autocast_enabled(x.device.type):
        raise ValueError("autocast is on: scores need float32 or float64 throughout, compute them outside of it")


@contextlib.contextmanager
def scoring_rng(device: torch.device) -> Iterator[None]:
    """Leave the random state as it was: a score of a network with dropout draws, but nobody notices."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
