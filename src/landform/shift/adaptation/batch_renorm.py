"""Batch normalisation by running statistics in the forward pass, through which gradients see the batch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchRenormTT(_BatchNorm):
    """Test-time batch renormalisation, in the place of a BatchNorm of any number of dimensions.

    With mean mu_B and unbiased variance s_B² of the batch and running mu, s² for each channel::

        y = gamma [ (x − mu_B)/sqrt(s_B² + eps) r + d ] + beta
        r = sqrt(s_B² + eps)/sqrt(s² + eps),    d = (mu_B − mu)/sqrt(s² + eps),    both without gradient

    The value is that of normalising with the running statistics, but the gradient is the one that batch normalisation
    has, times r: a shift of a whole channel has none. In training mode the running statistics move towards the batch's
    by ``momentum`` afterwards. Arguments are those of ``nn.BatchNorm2d``; ``momentum`` must be a number.

    Shapes: (B, C, …) to the same.

    Raises:
        ValueError: no momentum; an input of another number of channels; in training mode, or without running
            statistics, an input with a single value a channel.

    Source: arXiv 2402.17316 and its released code; Zhao et al., "DELTA", arXiv 2301.13018, equation 2.

    >>> layer = BatchRenormTT(3).eval()
    >>> layer(torch.randn(8, 3, 4, 4)).shape
    torch.Size([8, 3, 4, 4])
    """

    momentum: float

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if momentum is None or not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum}: must be in [0, 1]")
        super().__init__(num_features, eps, momentum, affine, device=device, dtype=dtype)

    @classmethod
    def convert(cls, model: nn.Module) -> nn.Module:
        """Put this layer in the place of every BatchNorm of a model, with its parameters and running statistics.

        The model itself is changed, and given (a BatchNorm by itself gives its replacement). A momentum of None becomes
        0.1.
        """
        if isinstance(model, _BatchNorm) and not isinstance(model, cls):
            layer = cls(model.num_features, model.eps, 0.1 if model.momentum is None else model.momentum, model.affine)
            layer.weight, layer.bias = model.weight, model.bias
            layer.running_mean, layer.running_var = model.running_mean, model.running_var
            layer.num_batches_tracked = model.num_batches_tracked
            return layer.train(model.training)
        for name, child in model.named_children():
            replacement = cls.convert(child)
            if replacement is not child:
                setattr(model, name, replacement)
        return model

    def drop_statistics(self) -> None:
        """Forget the running statistics: the next batch begins them anew."""
        self.running_mean = self.running_var = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"input has shape {tuple(input.shape)}: must be (B, {self.num_features}, …)")

    def forward(self, input: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels ..."]:
        self._check_input_dim(input)
        begins = self.running_mean is None
        alone = input.numel() == self.num_features
        if alone and (self.training or begins):
            raise ValueError(f"input has shape {tuple(input.shape)}: a single value a channel has no variance")
        if not (self.training or begins) and (alone or not torch.is_grad_enabled()):
            # The value alone is wanted, or there is no variance for a gradient to see.
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        mean, variance = self._statistics(input)
        if begins:
            self.running_mean, self.running_var = mean.clone(), variance.clone()
        assert self.running_mean is not None
        assert self.running_var is not None
        running_deviation = (self.running_var + self.eps).sqrt()
        r = (variance + self.eps).sqrt() / running_deviation
        d = (mean - self.running_mean) / running_deviation
        weight, bias = (self.weight, self.bias) if self.affine else (torch.ones_like(r), torch.zeros_like(d))
        # PyTorch normalises by the biased variance, which is ``biased`` of the unbiased one.
        biased = 1 - self.num_features / input.numel()
        output = F.batch_norm(
            input, None, None, weight * r * biased**0.5, bias + weight * d, True, 0.0, self.eps * biased
        )
        if self.training:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return output

    @torch.no_grad()
    def _statistics(self, input: Tensor) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Mean and unbiased variance of each channel, as running statistics that move all the way (the fastest way)."""
        mean, variance = input.new_zeros(2, self.num_features)
        F.batch_norm(input, mean, variance, training=True, momentum=1.0)
        return mean, variance
