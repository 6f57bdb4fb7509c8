"""What every in-context learner shares: its interface, and a head as wide as the labels are."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

HEAD_STD = 0.02


class InContextLearner(nn.Module, ABC):
    """A sequence model that reads (x_1, y_1), …, (x_{t−1}, y_{t−1}), x_t and predicts y_t, at every t.

    ``model(x, prev_y)`` takes inputs and the one-hot labels one position late (:func:`shift_labels`), and gives logits;
    those at t depend on x_1 … x_t and y_1 … y_{t−1} alone. The numbers of inputs and classes are taken from the first
    batch, as PyTorch's lazy layers do: run a model once before you count, copy or optimise its parameters.
    """

    embed: nn.LazyLinear
    head: ClassHead

    @abstractmethod
    def features(
        self, x: Float[Tensor, "batch length dim"], prev_y: Float[Tensor, "batch length n_classes"]
    ) -> Float[Tensor, "batch length width"]:
        """What the head reads."""

    @abstractmethod
    def state_size(self, t: int) -> int:
        """The numbers that carry information from the first t positions to the next: the learner's memory."""

    def forward(
        self, x: Float[Tensor, "batch length dim"], prev_y: Float[Tensor, "batch length n_classes"]
    ) -> Float[Tensor, "batch length n_classes"]:
        """Logits of the label at every position.

        Raises:
            TypeError: inputs or labels that are not floating.
            ValueError: other shapes than (batch, length, dim) and (batch, length, n_classes), or another dim or
                n_classes than those of the first batch.
        """
        check_sequences(x, prev_y)
        if not is_lazy(self.head.weight):
            classes, width = len(self.head.weight), self.embed.weight.shape[1]
            if (x.shape[2], prev_y.shape[2]) != (width - classes, classes):
                raise ValueError(
                    f"x has {x.shape[2]} numbers and prev_y {prev_y.shape[2]} classes, "
                    f"but the model was made for {width - classes} and {classes}"
                )
        return self.head(self.features(x, prev_y), prev_y)


class ClassHead(nn.LazyLinear):
    """A linear layer to as many outputs as the labels of the first batch have classes.

    Its weights start at N(0, 0.02) and its biases at 0, so that a model starts close to uniform predictions.
    """

    cls_to_become = None  # type: ignore[assignment]  # it stays what it is: its forward takes two arguments

    def __init__(self) -> None:
        super().__init__(0)

    def initialize_parameters(self, h: Tensor, prev_y: Tensor) -> None:  # type: ignore[override]
        if self.has_uninitialized_params():
            self.out_features = prev_y.shape[-1]
        super().initialize_parameters(h)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_features != 0:
            nn.init.normal_(self.weight, std=HEAD_STD)
            nn.init.zeros_(self.bias)

    def forward(self, h: Tensor, prev_y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(h)


def check_sequences(x: Tensor, prev_y: Tensor) -> None:
    """That these are inputs (batch, length, dim) and previous labels (batch, length, n_classes)."""
    for name, values in (("x", x), ("prev_y", prev_y)):
        if not values.is_floating_point():
            raise TypeError(f"{name}: is {values.dtype}; must be floating")
    if x.ndim != 3 or prev_y.ndim != 3 or x.shape[:2] != prev_y.shape[:2] or 0 in (*x.shape, *prev_y.shape):
        raise ValueError(
            f"x and prev_y have shapes {tuple(x.shape)} and {tuple(prev_y.shape)}: "
            "must be (batch, length, dim) and (batch, length, n_classes), none of them 0"
        )


def check_position(t: int) -> None:
    """That t counts positions."""
    if isinstance(t, bool) or not isinstance(t, int) or t < 0:
        raise ValueError(f"t={t!r}: must be a number of positions, zero or more")


def tokens(x: Tensor, prev_y: Tensor) -> Tensor:
    """What a learner reads at each position: [x_t, onehot(y_{t−1})]."""
    return torch.cat([x, prev_y.to(x)], dim=-1)
