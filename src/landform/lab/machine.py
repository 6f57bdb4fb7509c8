"""The machine that trials run on."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import landform
from landform.lab.errors import UsageError


def check_device(device: str) -> None:
    """Refuse a device that does not exist here.

    Raises:
        UsageError: not one of ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or not available.
    """
    if device == "cpu":
        return
    import torch

    if device == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("device=mps: this machine has no Metal device that PyTorch can use")
        return
    named = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not named:
        raise UsageError(f"device={device}: allowed are cpu, cuda, cuda:N and mps")
    count = torch.cuda.device_count()
    if int(named[1] or 0) >= count:
        raise UsageError(f"device={device}: this machine has {count or 'no'} CUDA devices that PyTorch can use")


def environment(device: str) -> dict[str, Any]:
    """What results may depend on besides the code: versions and hardware, to be stored beside them."""
    found: dict[str, Any] = {
        "landform": landform.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": 1,
    }
    kind = device.partition(" ")[0]  # A device may have options (see engines.together).
    if kind.startswith("cuda"):
        import torch

        # A run may begin on a machine that has none itself.
        found["gpu"] = torch.cuda.get_device_name(kind) if torch.cuda.is_available() else None
    return found


def default_workers(device: str) -> int:
    """One worker for each core that this process may use; on an accelerator one, since its memory is shared."""
    if device != "cpu":
        return 1
    from joblib import cpu_count  # type: ignore[import-untyped]

    return int(cpu_count())


def _cpu() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()
