"""Published weights of residual networks: their names, other numbers of channels, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from landform.models import ResNet
from landform.models.resnet_weights import load_resnet_weights

WIDTHS = (4, 4, 8, 8)


def network(depth=50, channels=3):
    return ResNet(depth, in_channels=channels, widths=WIDTHS, stem_kernel=7, stem_stride=2, stem_pool=True).eval()


def published(depth=50):
    """Random weights under torchvision's names, written down from its layers and not from ours."""
    generator = torch.Generator().manual_seed(0)
    expansion, counts, convolutions = (4, (3, 4, 6, 3), (1, 3, 1)) if depth == 50 else (1, (2, 2, 2, 2), (3, 3))
    state = {}

    def conv(name, out, inputs, kernel):
        state[f"{name}.weight"] = torch.randn(out, inputs, kernel, kernel, generator=generator) / inputs**0.5 / kernel

    def norm(name, width):
        for what, values in (
            ("weight", torch.rand(width, generator=generator)),
            ("bias", torch.randn(width, generator=generator)),
            ("running_mean", torch.randn(width, generator=generator)),
            ("running_var", torch.rand(width, generator=generator) + 0.5),
            ("num_batches_tracked", torch.tensor(7)),
        ):
            state[f"{name}.{what}"] = values

    conv("conv1", WIDTHS[0], 3, 7)
    norm("bn1", WIDTHS[0])
    before = WIDTHS[0]
    for stage, (width, count) in enumerate(zip(WIDTHS, counts, strict=True), start=1):
        for block in range(count):
            name, out = f"layer{stage}.{block}", width * expansion
            if before != out or (block == 0 and stage > 1):
                conv(f"{name}.downsample.0", out, before, 1)
                norm(f"{name}.downsample.1", out)
            inputs = before
            for number, kernel in enumerate(convolutions, start=1):
                outputs = out if number == len(convolutions) else width
                conv(f"{name}.conv{number}", outputs, inputs, kernel)
                norm(f"{name}.bn{number}", outputs)
                inputs = outputs
            before = out
    state["fc.weight"], state["fc.bias"] = torch.randn(1000, before, generator=generator), torch.zeros(1000)
    return state


def forward(state, x, depth=50):
    """The pooled features, by functional calls on the published names."""

    def norm(x, name):
        values = (state[f"{name}.{what}"] for what in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values)

    x = torch.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    strided = 2 if depth == 50 else 1
    blocks = sorted(
        {tuple(name.split(".")[:2]) for name in state if name.startswith("layer")}, key=lambda b: (b[0], int(b[1]))
    )
    for layer, block in blocks:
        name = f"{layer}.{block}"
        stride = 2 if block == "0" and layer != "layer1" else 1
        y, number = x, 1
        while f"{name}.conv{number}.weight" in state:
            weight = state[f"{name}.conv{number}.weight"]
            y = F.conv2d(y, weight, stride=stride if number == strided else 1, padding=weight.shape[-1] // 2)
            y = norm(y, f"{name}.bn{number}")
            number += 1
            y = torch.relu(y) if f"{name}.conv{number}.weight" in state else y
        if f"{name}.downsample.0.weight" in state:
            x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        x = torch.relu(x + y)
    return x.mean((2, 3))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_network_with_published_weights_computes_what_they_mean(depth, suffix, tmp_path):
    state, path = published(depth), tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    net = network(depth)
    head = net.head.weight.clone()
    load_resnet_weights(net, path)
    x = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(net.features(x), forward(state, x, depth))
    assert torch.equal(net.head.weight, head)


@pytest.mark.parametrize("channels", [1, 6, 13])
def test_other_numbers_of_channels_get_the_filters_repeated(channels, tmp_path):
    save_file(published(), tmp_path / "w.safetensors")
    colour, many = network(), network(channels=channels)
    load_resnet_weights(colour, tmp_path / "w.safetensors")
    load_resnet_weights(many, tmp_path / "w.safetensors")
    filters, repeated = colour.stem[0].weight, many.stem[0].weight
    for channel in range(channels):
        torch.testing.assert_close(repeated[:, channel], filters[:, channel % 3] * 3 / channels)
    if channels % 3 == 0:
        grey = torch.rand(1, 1, 32, 32)
        torch.testing.assert_close(
            many.features(grey.expand(-1, channels, -1, -1)), colour.features(grey.expand(-1, 3, -1, -1))
        )


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_resnet_weights(network(), tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        load_resnet_weights(network(), tmp_path / "text.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="dictionary of tensors"):
        load_resnet_weights(network(), tmp_path / "list.pth")
    save_file(published(18), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        load_resnet_weights(network(), tmp_path / "other.safetensors")
