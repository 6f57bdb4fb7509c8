"""Published weights of residual networks, from a local file."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from landform.models.resnet import ResNet


def load_resnet_weights(model: ResNet, path: str | Path) -> None:
    """Give a residual network the weights of a file that names them as torchvision and timm do.

    The layers ``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.downsample.0`` … of such a file are those of
    :class:`ResNet` with the stem for large images. Its classifier ``fc`` is left out. A model of other than 3 input
    channels gets the first layer's filters repeated over its C channels and scaled by 3 / C, so that an image with all
    channels alike is answered as before (timm's rule).

    Arguments:
        path: a ``.safetensors`` file, or a dictionary of tensors saved by ``torch.save``; nothing but tensors is
            unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another form, or weights that do not fit the model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r}: no such file; it must hold the weights of a ResNet")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as weights: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: must hold a dictionary of tensors")
    state = {_ours(name): value for name, value in content.items() if not name.startswith("fc.")}
    state |= {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
    filters = state.get("stem.0.weight")
    channels = model.state_dict()["stem.0.weight"].shape[1]
    if filters is not None and filters.ndim == 4 and filters.shape[1] == 3 != channels:
        repeated = filters.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
        state["stem.0.weight"] = repeated * (3 / channels)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the model: {error}") from error


def _ours(name: str) -> str:
    """``layer2.0.conv3.weight`` -> ``stages.1.0.residual.6.weight``, and so on."""
    stem = {"conv1": "stem.0", "bn1": "stem.1"}
    head, _, rest = name.partition(".")
    if head in stem:
        return f"{stem[head]}.{rest}"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))\.(\w+)", name)
    if not found:
        return name
    stage, block, kind, number, shortcut, what = found.groups()
    part = f"shortcut.{shortcut}" if shortcut else f"residual.{3 * (int(number) - 1) + (kind == 'bn')}"
    return f"stages.{int(stage) - 1}.{block}.{part}.{what}"
