"""The NAS-Bench-201 search space: 15,625 cells, and the network that a cell is stacked into.

A cell is a complete directed graph on four nodes. Node 0 is its input, node i = Σ_{j<i} op_ij(node j), node 3 its
output; each of the six edges carries one of five operations (Dong and Yang, arXiv 2001.00326, section 2.1).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The five operations; a cell's digits are indices into this tuple."""

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""The six edges (to, from), in the order in which a cell lists its operations."""


@dataclass(frozen=True, init=False)
class Cell201:
    """One of the 15,625 cells of NAS-Bench-201: an operation for each of the six :data:`EDGES`.

    Arguments:
        ops: six digits ``"333132"``, six integers 0–4 (indices into :data:`OPERATIONS`), or the benchmark's own string
            ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

    Raises:
        ValueError: not six edges, or an unknown operation.
        TypeError: an operation that is no integer.

    >>> cell = Cell201("333132")
    >>> print(cell)
    |nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|
    >>> Cell201(str(cell)) == cell
    True
    """

    ops: tuple[int, ...]

    def __init__(self, ops: str | Sequence[int]) -> None:
        numbers = _parse(ops) if isinstance(ops, str) else tuple(operator.index(op) for op in ops)
        if len(numbers) != len(EDGES) or not all(0 <= op < len(OPERATIONS) for op in numbers):
            raise ValueError(f"ops={ops!r}: a cell has 6 operations, each one of 0–4 ({', '.join(OPERATIONS)})")
        object.__setattr__(self, "ops", numbers)

    @property
    def digits(self) -> str:
        """The six operations as digits: ``"333132"``."""
        return "".join(map(str, self.ops))

    def __str__(self) -> str:
        nodes = [
            "".join(f"|{OPERATIONS[op]}~{j}" for op, (to, j) in zip(self.ops, EDGES, strict=True) if to == i) + "|"
            for i in (1, 2, 3)
        ]
        return "+".join(nodes)


def _parse(text: str) -> tuple[int, ...]:
    if text.isdecimal():
        return tuple(map(int, text))
    edges = {}
    for i, node in enumerate(text.split("+"), start=1):
        for edge in node.strip("|").split("|"):
            name, _, source = edge.partition("~")
            if name not in OPERATIONS or not source.isdecimal() or (i, int(source)) in edges:
                raise ValueError(
                    f"ops={text!r}: {edge!r} is no edge; allowed are six digits, or operation~node with the operations "
                    + ", ".join(OPERATIONS)
                )
            edges[i, int(source)] = OPERATIONS.index(name)
    if set(edges) != set(EDGES):
        raise ValueError(f"ops={text!r}: a cell has exactly the edges (to, from) {EDGES}, not {tuple(edges)}")
    return tuple(edges[edge] for edge in EDGES)


def iter_cells() -> Iterator[Cell201]:
    """All 15,625 cells, in the order of their digits (the benchmark's own index order is another: see its table)."""
    return map(Cell201, itertools.product(range(len(OPERATIONS)), repeat=len(EDGES)))


def random_cell(rng: np.random.Generator) -> Cell201:
    """A cell with each operation drawn uniformly."""
    return Cell201(rng.integers(len(OPERATIONS), size=len(EDGES)).tolist())


def mutate(cell: Cell201, rng: np.random.Generator) -> Cell201:
    """Another cell that differs from ``cell`` in exactly one operation.

    As the benchmark's own evolution does: a node 1–3 uniformly, then one of its incoming edges, then one of the four
    other operations. So an edge into node 1 is edited three times as often as one into node 3.
    """
    node = int(rng.integers(1, 4))
    incoming = [e for e, (to, _) in enumerate(EDGES) if to == node]
    edge = incoming[int(rng.integers(len(incoming)))]
    ops = list(cell.ops)
    ops[edge] = (ops[edge] + int(rng.integers(1, len(OPERATIONS)))) % len(OPERATIONS)
    return Cell201(ops)


def canonical_structure(cell: Cell201) -> str:
    """The benchmark's canonical form: cells with equal strings compute the same function.

    Each node is written as the sorted sum of its inputs; an identity is its source, an operation on nothing is the
    zero ``#``. There are 6,466 distinct strings, the figure generally quoted for this space (arXiv 2001.00326). The
    converse does not hold: zeros stay in the sums and nested sums are not flattened, so some cells that compute the
    same function have different strings (removing both leaves 4,930 functions).
    """
    nodes = ["0"]
    for i in (1, 2, 3):
        terms = []
        for op, (to, j) in zip(cell.ops, EDGES, strict=True):
            if to != i:
                continue
            if OPERATIONS[op] == "none" or nodes[j] == "#":
                terms.append("#")
            elif OPERATIONS[op] == "skip_connect":
                terms.append(nodes[j])
            else:
                terms.append(f"({nodes[j]})@{OPERATIONS[op]}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


class _Zero(nn.Module):
    """0·x. It stays in the graph, so that whatever feeds it has a gradient of zero rather than none."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


def _relu_conv_bn(inputs: int, outputs: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=not affine),
        nn.BatchNorm2d(outputs, affine=affine, track_running_stats=affine),
    )


_BUILD: dict[str, Callable[[int, bool], nn.Module]] = {
    "none": lambda channels, affine: _Zero(),
    "skip_connect": lambda channels, affine: nn.Identity(),
    "nor_conv_1x1": lambda channels, affine: _relu_conv_bn(channels, channels, 1, 1, affine),
    "nor_conv_3x3": lambda channels, affine: _relu_conv_bn(channels, channels, 3, 1, affine),
    "avg_pool_3x3": lambda channels, affine: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
}


class _CellModule(nn.Module):
    def __init__(self, cell: Cell201, channels: int, affine: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleList(_BUILD[OPERATIONS[op]](channels, affine) for op in cell.ops)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for i in (1, 2, 3):
            incoming = [edge(nodes[j]) for edge, (to, j) in zip(self.edges, EDGES, strict=True) if to == i]
            nodes.append(sum(incoming[1:], start=incoming[0]))
        return nodes[-1]


class _Reduction(nn.Module):
    """Halves the resolution: two ReLU-conv3×3-BN, the first of stride 2, beside average pooling and a 1×1 conv."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _relu_conv_bn(inputs, outputs, 3, 2, affine=True), _relu_conv_bn(outputs, outputs, 3, 1, affine=True)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class NASBench201Network(nn.Module):
    """The benchmark's network of a cell: three stages of cells with a residual reduction block between two stages.

    conv3×3 3→C and BN; cells at C; reduction to 2C; cells; reduction to 4C; cells; BN-ReLU, global average pooling,
    a linear classifier. An operation ``nor_conv_k×k`` is ReLU, conv k×k of the same padding, BN. Only the operations
    that the cell has are built, with PyTorch's default initialisation.

    Arguments:
        cell: the cell, or anything that :class:`Cell201` takes.
        num_classes: outputs of the classifier.
        channels: C, the channels of the first stage.
        cells_per_stage: N, five in the benchmark.
        affine: False builds the search-space network that training-free scores are computed on (arXiv 2110.08616): BN
            inside cells has neither an affine map nor running statistics, and the conv before it a bias. True builds
            the benchmark's stand-alone network: affine BN, no bias.

    Shape: (batch, 3, height, width) → (batch, num_classes); height and width at least 4.
    """

    def __init__(
        self,
        cell: Cell201 | str | Sequence[int],
        num_classes: int,
        channels: int = 16,
        cells_per_stage: int = 5,
        *,
        affine: bool = False,
    ) -> None:
        for name, value in (("num_classes", num_classes), ("channels", channels), ("cells_per_stage", cells_per_stage)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        super().__init__()
        self.cell = cell if isinstance(cell, Cell201) else Cell201(cell)
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        stages: list[nn.Module] = []
        for width in (channels, 2 * channels, 4 * channels):
            if width > channels:
                stages.append(_Reduction(width // 2, width))
            stages += [_CellModule(self.cell, width, affine) for _ in range(cells_per_stage)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.BatchNorm2d(4 * channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * channels, num_classes),
        )

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.stages(self.stem(x)))
