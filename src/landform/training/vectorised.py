"""Which layer cannot be vectorised: a name for an error that ``torch.func`` gives without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


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
