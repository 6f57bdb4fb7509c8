"""The vision transformer: its attention against PyTorch's, its parts, and that it stacks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from landform.models import ViT
from landform.models.vit import Block
from landform.training.many import Stack


def test_a_block_is_attention_and_a_perceptron():
    torch.manual_seed(0)
    block, x = Block(12, 3).double(), torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = (part.view(2, 5, 3, 4).transpose(1, 2) for part in block.qkv(block.norm(x)).chunk(3, dim=-1))
    h = x + block.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(block(x), h + block.perceptron(h), rtol=0, atol=1e-12)


def test_patches_and_positions_matter():
    torch.manual_seed(0)
    model, x = ViT(8, 4, 1, 3).eval(), torch.rand(2, 1, 8, 8)
    assert model.features[0](x).shape == (2, 5, 32)
    moved = x.roll(4, dims=3)  # the same patches elsewhere
    assert not torch.allclose(model(x), model(moved))
    with torch.no_grad():
        model.features[0].positions.zero_()
    torch.testing.assert_close(model(x), model(moved), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.head(model.features(x)), model(x))


def test_it_stacks():
    stack, x = Stack.from_factory(lambda: ViT(8, 2, 1, 10), 3, 0), torch.rand(4, 1, 8, 8)
    expected = torch.stack([stack.module(m)(x) for m in range(3)])
    torch.testing.assert_close(stack(x, shared=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sizes", "match"), [((8, 3, 1, 10), "patch=3"), ((8, 0, 1, 10), "patch")])
def test_impossible_sizes(sizes, match):
    with pytest.raises(ValueError, match=match):
        ViT(*sizes)
    with pytest.raises(ValueError, match="heads=5"):
        ViT(8, 2, 1, 10, heads=5)
