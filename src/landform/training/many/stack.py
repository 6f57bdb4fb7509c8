"""A stack of models of one architecture, as tensors with a leading axis of models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import copy as shallow_copy
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, vmap

from landform.training.many.dense import Dense
from landform.training.many.seeds import stream_seed
from landform.training.vectorised import failing_layer

Engine = Literal["auto", "dense", "vmap", "loop"]

# Multiply-adds in convolutions, per model and batch, above which a loop over the models is faster on a CPU: the gain of
# a stack is overhead saved, and the grouped convolution that it becomes is slower than a convolution of each model.
LOOP_ABOVE = 5_500_000


class Stack:
    """M models of one architecture whose parameters are stacked tensors, so that they run and train as one.

    ``stack(x)`` is what each model gives, and a gradient of the sum of the models' losses is the stack of their
    gradients: models do not meet. Any elementwise ``torch.optim`` optimiser on ``stack.parameters()`` therefore trains
    them all as it would each alone (``StackedSGD`` and ``StackedAdamW`` also take a learning rate per model).

    Arguments:
        models: modules of the same structure; their parameters and buffers are copied.
        ids: a number for each model, which names its random streams (see :func:`seed_stream`): 0 … M − 1 if None.
        engine: how a forward pass is done. ``"dense"``: batched matrix products, for sequences of linear layers;
            ``"vmap"``: ``torch.func`` on any module without data-dependent control flow; ``"loop"``: model after
            model, for everything else and for convolutions too large to gain. ``"auto"`` takes the first that fits.

    Attributes:
        params, buffers: name → (M, \\*shape).
        ids: the models' numbers.
        template: a module of the architecture on the meta device, whose mode is the stack's.
        training: the mode, as of ``nn.Module``; see :meth:`train`.

    In training mode each model draws its own dropout masks, and batch normalisation updates each model's statistics.

    Raises:
        ValueError: no models, models of different structure, tied parameters (stacking would untie them), or ids that
            are not distinct and as many as the models.

    >>> stack = Stack.from_factory(lambda: nn.Linear(4, 2), 3, seed=0)
    >>> tuple(stack(torch.randn(5, 4), shared=True).shape)
    (3, 5, 2)
    """

    def __init__(
        self, models: Sequence[nn.Module], *, ids: Sequence[int] | None = None, engine: Engine = "auto"
    ) -> None:
        models = list(models)
        if not models:
            raise ValueError("models: a stack needs at least one model")
        _check_same(models)
        self.ids = list(range(len(models))) if ids is None else [int(i) for i in ids]
        if len(self.ids) != len(models) or len(set(self.ids)) != len(models) or min(self.ids) < 0:
            raise ValueError(f"ids={self.ids}: need {len(models)} distinct numbers, zero or more")
        states = [(dict(model.named_parameters()), dict(model.named_buffers())) for model in models]
        self.params = {
            name: torch.stack([params[name].detach() for params, _ in states]).requires_grad_(param.requires_grad)
            for name, param in states[0][0].items()
        }
        self.buffers = {name: torch.stack([buffers[name] for _, buffers in states]) for name in states[0][1]}
        self.template = deepcopy(models[0]).to("meta")
        self._dense = Dense.of(self.template)
        self._costs: dict[tuple[int, ...], Cost] = {}
        self.engine = engine
        self.train(models[0].training)

    @classmethod
    def from_factory(
        cls, factory: Callable[[], nn.Module], count: int | Sequence[int], seed: int, *, engine: Engine = "auto"
    ) -> Stack:
        """A stack of freshly made models, each initialised from a stream of its own, by (seed, its number).

        ``count`` is how many (numbers 0 … count − 1), or which numbers: model 3 is the same in both. The factory draws
        from PyTorch's global generator, whose state is restored.
        """
        ids = list(range(count)) if isinstance(count, int) else list(count)
        if not ids:
            raise ValueError(f"count={count!r}: a stack needs at least one model")
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        models = []
        with torch.random.fork_rng(devices=devices):
            for i in ids:
                torch.manual_seed(stream_seed(seed, i, "init"))
                models.append(factory())
        return cls(models, ids=ids, engine=engine)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def training(self) -> bool:
        return self.template.training

    def train(self, mode: bool = True) -> Stack:
        """Set the training mode of all models; gives the stack."""
        self.template.train(mode)
        return self

    def eval(self) -> Stack:
        """Set the evaluation mode of all models; gives the stack."""
        return self.train(False)

    def parameters(self) -> Iterator[Tensor]:
        """The stacked parameters, for an optimiser."""
        return iter(self.params.values())

    def to(self, *args: Any, **kwargs: Any) -> Stack:
        """Move or cast the parameters and floating-point buffers, as ``nn.Module.to`` does; gives the stack.

        The tensors are new: make optimisers afterwards.
        """
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)

        def move(tensor: Tensor) -> Tensor:
            cast = dtype if tensor.is_floating_point() else None
            return tensor.detach().to(device=device, dtype=cast).requires_grad_(tensor.requires_grad)

        self.params = {name: move(param) for name, param in self.params.items()}
        self.buffers = {name: move(buffer) for name, buffer in self.buffers.items()}
        return self

    def module(self, m: int) -> nn.Module:
        """The model at position ``m`` as a module of its own (a copy)."""
        module = deepcopy(self.template)
        for name, value in (self.params | self.buffers).items():
            place, leaf = place_of(module, name)
            own = value[m].detach().clone()
            place[leaf] = nn.Parameter(own, value.requires_grad) if name in self.params else own
        return module

    def subset(self, positions: Sequence[int] | Tensor) -> Stack:
        """A stack of the models at these positions (a copy); they keep their ``ids``."""
        chosen = torch.as_tensor(positions, dtype=torch.long).reshape(-1)
        if len(chosen) == 0 or int(chosen.min()) < -len(self) or int(chosen.max()) >= len(self):
            raise ValueError(f"positions={chosen.tolist()}: need at least one, each below {len(self)}")
        other = shallow_copy(self)
        other.ids = [self.ids[i] for i in chosen.tolist()]
        if len(set(other.ids)) < len(other.ids):
            raise ValueError(f"positions={chosen.tolist()}: a model may be taken once")
        index = chosen.to(self.device)
        other.params = {k: v.detach()[index].requires_grad_(v.requires_grad) for k, v in self.params.items()}
        other.buffers = {k: v[index] for k, v in self.buffers.items()}
        other.template = deepcopy(self.template)
        other._dense = Dense.of(other.template)
        return other

    @property
    def device(self) -> torch.device:
        return next(iter((self.params | self.buffers).values())).device

    def save(self, path: str | Path) -> None:
        """Write parameters, buffers and ids to a safetensors file."""
        tensors = {f"params.{k}": v.detach().contiguous() for k, v in self.params.items()}
        tensors |= {f"buffers.{k}": v.contiguous() for k, v in self.buffers.items()}
        save_file(tensors, str(path), metadata={"ids": json.dumps(self.ids)})

    @classmethod
    def load(cls, path: str | Path, factory: Callable[[], nn.Module], *, engine: Engine = "auto") -> Stack:
        """Read a stack that :meth:`save` wrote; ``factory`` makes a model of its architecture.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file holds no stack, or one of another architecture (the first difference is named).
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path={str(path)!r}: there is no such file")
        with safe_open(str(path), framework="pt") as file:
            ids = (file.metadata() or {}).get("ids")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
        if ids is None:
            raise ValueError(f"path={str(path)!r}: this file was not written by Stack.save")
        stack = cls([factory()], engine=engine)
        stack.ids = [int(i) for i in json.loads(ids)]
        expected = {f"params.{k}": v for k, v in stack.params.items()} | {
            f"buffers.{k}": v for k, v in stack.buffers.items()
        }
        for key in sorted(set(expected) ^ set(tensors)):
            where = "the file" if key in tensors else "the factory's model"
            raise ValueError(f"path={str(path)!r}: only {where} has {key!r}")
        for key, value in tensors.items():
            if value.shape != (len(stack.ids), *expected[key].shape[1:]):
                raise ValueError(
                    f"path={str(path)!r}: {key!r} has shape {tuple(value.shape)} in the file but "
                    f"{(len(stack.ids), *expected[key].shape[1:])} in {len(stack.ids)} of the factory's models"
                )
        stack.params = {k: tensors[f"params.{k}"].requires_grad_(v.requires_grad) for k, v in stack.params.items()}
        stack.buffers = {k: tensors[f"buffers.{k}"] for k in stack.buffers}
        return stack

    def __call__(
        self, x: Shaped[Tensor, "models batch ..."] | Shaped[Tensor, "batch ..."], *, shared: bool = False
    ) -> Shaped[Tensor, "models batch ..."]:
        """What each model gives on its own batch ``x[m]``, or with ``shared=True`` on the one batch ``x``.

        Raises:
            ValueError: x has another number of models on its first axis, or a layer cannot be vectorised (named; make
                the stack with ``engine="loop"``).
        """
        if not shared and (x.ndim == 0 or len(x) != len(self)):
            raise ValueError(
                f"x: has shape {tuple(x.shape)}, not {len(self)} models on its first axis; "
                "pass shared=True to give every model the same batch"
            )
        return self.forward(self.params, self.buffers, x, shared=shared)

    def forward(self, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, *, shared: bool) -> Tensor:
        """The same on other values of the parameters and buffers, such as those of some of the models."""
        engine = self.engine_for(x if shared else x[0])
        if engine == "dense":
            assert self._dense is not None
            return self._dense(params, buffers, x, shared=shared)
        if engine == "loop":
            return self._loop(params, buffers, x, shared)
        return self._vmap(params, buffers, x, shared)

    def engine_for(self, batch: Tensor) -> Engine:
        """The engine that a batch for one model runs on."""
        if self.engine == "auto":
            if self._dense is not None and self._dense.takes(batch, shared=True):
                return "dense"
            if batch.device.type == "cpu" and self.cost(batch).convolutions * len(batch) > LOOP_ABOVE:
                return "loop"
            return "vmap"
        if self.engine not in ("dense", "vmap", "loop"):
            raise ValueError(f"engine={self.engine!r}: must be 'auto', 'dense', 'vmap' or 'loop'")
        if self.engine == "dense" and (self._dense is None or not self._dense.takes(batch, shared=True)):
            raise ValueError("engine='dense': the models are not sequences of linear layers on vectors")
        return self.engine

    def cost(self, batch: Tensor) -> Cost:
        """What one sample costs one model, measured once for each shape of sample by running a model on one."""
        shape = tuple(batch.shape[1:])
        if shape not in self._costs:
            self._costs[shape] = _measure(self, batch[:1])
        return self._costs[shape]

    def _loop(self, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, shared: bool) -> Tensor:
        # unbind, whose backward pass stacks once, where indexing would add M whole-stack gradients
        each = {name: value.unbind() for name, value in (params | buffers).items()}
        count = len(next(iter(each.values())))
        outputs = []
        for m in range(count):
            state = {name: values[m] for name, values in each.items()}
            outputs.append(functional_call(self.template, state, (x if shared else x[m],)))
        return torch.stack(outputs)

    def _vmap(self, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, shared: bool) -> Tensor:
        def forward() -> Tensor:
            return vmap(
                lambda params, buffers, x: functional_call(self.template, (params, buffers), (x,)),
                in_dims=(0, 0, None if shared else 0),
                randomness="different",
            )(params, buffers, x)

        try:
            return forward()
        except (RuntimeError, ValueError) as error:
            layer = failing_layer(self.template, forward)
            if layer is None:
                raise
            raise ValueError(
                f"models: {layer} cannot be vectorised over models (engine='loop' can): {error}"
            ) from error


class Cost:
    """What one sample costs one model: multiply-adds in convolutions, and numbers written by its layers."""

    def __init__(self) -> None:
        self.convolutions = 0
        self.activations = 0

    def add(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.activations += output.numel() // 2
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                self.convolutions += output.numel() // 2 * (module.weight.numel() // module.out_channels)


def _measure(stack: Stack, sample: Tensor) -> Cost:
    cost = Cost()
    module = stack.module(0).eval()
    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(cost.add)
    with torch.no_grad():
        module(sample.expand(2, *sample.shape[1:]))  # two, as some normalisations refuse a batch of one
    return cost


def place_of(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds a module's parameter or buffer of this name, and its key there."""
    owner, _, leaf = name.rpartition(".")
    place = module.get_submodule(owner)
    return (place._parameters if leaf in place._parameters else place._buffers), leaf


def _check_same(models: Sequence[nn.Module]) -> None:
    first = models[0]
    owners: dict[int, str] = {}
    for name, param in first.named_parameters(remove_duplicate=False):
        if id(param) in owners:
            raise ValueError(f"models: parameter {name!r} is tied to {owners[id(param)]!r}; stacking would untie them")
        owners[id(param)] = name
    if not owners:
        raise ValueError("models: they have no parameters")
    described = _describe(first)
    for m, model in enumerate(models[1:], start=1):
        for one, other in zip(described, _describe(model), strict=False):
            if one != other:
                raise ValueError(f"models: model {m} differs from model 0 in structure: {other} instead of {one}")
        if len(described) != len(_describe(model)):
            raise ValueError(f"models: model {m} differs from model 0 in its number of layers or parameters")


def _describe(model: nn.Module) -> list[str]:
    """A line for each module and each tensor of a model, equal in models of one architecture."""
    lines = [
        f"{name or 'model'} {type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules()
    ]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return lines + [f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.device}" for name, tensor in tensors]
