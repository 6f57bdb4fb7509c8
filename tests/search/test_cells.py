"""The NAS-Bench-201 space: published counts, parameter totals, and a cell evaluated by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landform.search import Cell201, NASBench201Network, canonical_structure, iter_cells, mutate, random_cell
from landform.search.cells import EDGES, _CellModule


def test_the_space_has_15625_cells_and_6466_canonical_structures():
    cells = list(iter_cells())
    assert len(cells) == len(set(cells)) == 15_625
    assert len({canonical_structure(cell) for cell in cells}) == 6_466


def test_the_three_spellings_of_a_cell_agree():
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    assert Cell201(text) == Cell201("333132") == Cell201((3, 3, 3, 1, 3, 2))
    assert str(Cell201("333132")) == text
    assert Cell201("040123").digits == "040123"
    reordered = "|none~0|+|avg_pool_3x3~1|none~0|+|nor_conv_3x3~2|skip_connect~0|nor_conv_1x1~1|"
    assert Cell201(reordered) == Cell201("004123")


@pytest.mark.parametrize(
    "ops",
    ["33313", "3331325", "333135", "|conv~0|", "", (0, 1, 2, 3, 4, 5), (0, 1, 2), "|none~0|+|none~0|none~0|+|none~0|"],
)
def test_what_is_no_cell_is_refused_by_name(ops):
    with pytest.raises(ValueError, match="ops="):
        Cell201(ops)


def test_operations_must_be_integers():
    with pytest.raises(TypeError):
        Cell201([0.5, 1, 2, 3, 4, 0])


def test_canonical_structures_join_what_identities_and_zeros_make_equal():
    # 1 = x; 2 = 0 + conv(1); 3 = 0 + 0 + 2 — and the same convolution straight from the input.
    through_identity, straight = Cell201("103001"), Cell201("130001")
    assert canonical_structure(through_identity) == canonical_structure(straight)
    assert canonical_structure(Cell201("300000")) == canonical_structure(Cell201("000000"))
    assert canonical_structure(Cell201("300010")) != canonical_structure(Cell201("200010"))


@pytest.mark.parametrize(
    ("cell", "parameters"),
    [("000000", 73_306), ("333333", 1_531_546)],  # the smallest and largest network of the published benchmark
)
def test_stand_alone_networks_have_the_published_size(cell, parameters):
    network = NASBench201Network(cell, num_classes=10, affine=True)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_scoring_networks_normalise_without_affine_map_or_statistics_and_keep_the_bias():
    cell = NASBench201Network("333333", 10, channels=4, cells_per_stage=1).stages[0]
    convolutions = [m for m in cell.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in cell.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 6
    assert all(c.bias is not None for c in convolutions)
    assert all(n.weight is None and n.running_mean is None for n in norms)
    alone = NASBench201Network("333333", 10, channels=4, cells_per_stage=1, affine=True).stages[0]
    assert all(m.bias is None for m in alone.modules() if isinstance(m, torch.nn.Conv2d))


def test_a_cell_computes_its_graph():
    # 1 = conv3x3(0); 2 = x + pool(1); 3 = 0·x + conv1x1(1) + 2
    torch.manual_seed(0)
    cell = _CellModule(Cell201("314021"), channels=3, affine=False).double()
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)

    def op(edge: tuple[int, int], value: torch.Tensor) -> torch.Tensor:
        conv = cell.edges[EDGES.index(edge)][1]
        out = F.conv2d(value.relu(), conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
        mean, var = out.mean((0, 2, 3), keepdim=True), out.var((0, 2, 3), unbiased=False, keepdim=True)
        return (out - mean) / (var + 1e-5).sqrt()

    one = op((1, 0), x)
    counts = F.avg_pool2d(torch.ones_like(one), 3, 1, 1, divisor_override=1)
    two = x + F.avg_pool2d(one, 3, 1, 1, divisor_override=1) / counts  # padding is not counted
    torch.testing.assert_close(cell(x), op((3, 1), one) + two, rtol=1e-12, atol=1e-12)


def test_the_network_halves_resolution_twice_and_doubles_channels():
    network = NASBench201Network("123401", num_classes=7, channels=6, cells_per_stage=2)
    sizes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 7)
    assert sizes == [(6, 16, 16)] * 2 + [(12, 8, 8)] * 3 + [(24, 4, 4)] * 3


@pytest.mark.parametrize("bad", [{"num_classes": 0}, {"channels": 0}, {"cells_per_stage": 0}])
def test_impossible_networks_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        NASBench201Network("000000", **{"num_classes": 10, **bad})


def test_mutation_edits_one_operation_of_a_uniformly_chosen_node():
    rng = np.random.default_rng(0)
    parent = Cell201("012341")
    edges, values = Counter(), Counter()
    for _ in range(6_000):
        child = mutate(parent, rng)
        (edge,) = [e for e in range(6) if child.ops[e] != parent.ops[e]]
        edges[EDGES[edge]] += 1
        values[child.ops[edge] - parent.ops[edge]] += 1
    expected = {(1, 0): 1 / 3, (2, 0): 1 / 6, (2, 1): 1 / 6, (3, 0): 1 / 9, (3, 1): 1 / 9, (3, 2): 1 / 9}
    for edge, share in expected.items():
        assert abs(edges[edge] / 6_000 - share) < 4 * np.sqrt(share * (1 - share) / 6_000)
    assert 0 not in values


def test_random_cells_are_uniform_and_follow_the_generator():
    cells = [random_cell(np.random.default_rng(seed)) for seed in range(2_000)]
    assert cells[3] == random_cell(np.random.default_rng(3))
    for edge in range(6):
        counts = Counter(cell.ops[edge] for cell in cells)
        assert min(counts.values()) > 300
        assert max(counts.values()) < 500
