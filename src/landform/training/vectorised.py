"""What is known of layers that are to run vectorised, and a name for the one that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

# Activations without parameters that act on each number alone.
ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Softsign, nn.Softshrink, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardshrink, nn.Threshold,
)  # fmt: skip


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does anything but what its class's forward says."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


def is_compiled(model: nn.Module) -> bool:
    """Whether some part of the model runs as ``torch.compile`` made it, which no wrapper around it changes."""
    return any(
        module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
        for module in model.modules()
    )


def failing_layer(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Run ``forward``, which fails, once more and name the innermost module of ``model`` that was running then.

    Gives ``"layer 'blocks.0.norm' (BatchNorm2d)"``, or None where no module was running or the failure does not return.
    """
    running: list[str] = []
    handles = []
    for name, module in model.named_modules():
        described = f"layer {name!r} ({type(module).__name__})" if name else type(module).__name__
        handles.append(module.register_forward_pre_hook(lambda *_, described=described: running.append(described)))
        handles.append(module.register_forward_hook(lambda *_: (running.pop(), None)[1]))
    try:
        forward()
    except Exception:
        return running[-1] if running else None
    finally:
        for handle in handles:
            handle.remove()
    return None
