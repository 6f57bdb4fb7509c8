"""What :func:`landform.training.fit` needs to train on the processes of a Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Parallel:
    """One process of a training over several, which together do what one would do with the whole batches.

    Every process draws the same batches and takes its share of each; the gradient is the mean over the whole batch,
    also where it does not divide evenly. So batch size and result do not depend on the number of processes. A loader
    that Fabric set up (``fabric.setup_dataloaders``) brings shares already.

    Raises:
        ValueError: the precision ``16-mixed``, whose scaling of the loss no closure can have.
    """

    def __init__(self, fabric: Fabric, batches: Iterable[Any]) -> None:
        if getattr(fabric.strategy.precision, "precision", None) == "16-mixed":
            raise ValueError("fabric: precision 16-mixed scales the loss, which a closure cannot; use bf16-mixed")
        self.fabric = fabric
        self.whole = type(batches).__name__ != "_FabricDataLoader"
        self._weight = 1.0

    def set_up(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Model and optimiser as Fabric wraps them. The parameters are those given, moved to the device."""
        wrapped: tuple[nn.Module, Optimizer] = self.fabric.setup(model, optimizer)
        return wrapped

    def share(self, batch: Any) -> Any:
        """This process's part of a batch, on its device: a stretch along the first dimension of every tensor.

        Raises:
            ValueError: a batch without a sample for every process.
        """
        if self.whole and self.fabric.world_size > 1:
            rank, world = self.fabric.global_rank, self.fabric.world_size
            samples = next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 0)
            if samples < world:
                raise ValueError(f"batches: one has {samples} samples, fewer than the {world} processes that share it")
            begin, end = rank * samples // world, (rank + 1) * samples // world
            self._weight = (end - begin) * world / samples

            def part(leaf: Any) -> Any:
                divisible = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == samples
                return leaf[begin:end] if divisible else leaf

            batch = tree_map(part, batch)
        return self.fabric.to_device(batch)

    def backward(self, value: Tensor) -> Tensor:
        """Backward of the mean over the last batch shared, and its value: the same on every process, so that an
        optimiser that looks at it decides alike everywhere."""
        value = value * self._weight
        self.fabric.backward(value)
        value = value.detach().clone()
        if self.fabric.world_size > 1:
            value = self.fabric.all_reduce(value, reduce_op="mean")  # type: ignore[assignment]
        return value
