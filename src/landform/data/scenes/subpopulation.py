"""Any table of how common each combination of factors is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.design import Design
from landform.data.scenes.draw import choose, weights
from landform.data.scenes.factors import VALUES, Factors, check_name, uniform


class SubpopulationDesign(Design):
    """Combinations of some factors occur as often as a table says; the other factors are uniform.

    The label is the first of these factors, and the group the number of the table's cell, row by row. One uniform
    number finds the cell, by the inverse of the flattened table's cumulative sum; a cell of weight 0 never occurs.

    Arguments:
        table: weights, at least 0, a dimension for each factor. A dimension may be shorter than its factor has values:
            those from there on do not occur.
        factors: the names of the table's dimensions.

    Raises:
        TypeError: a table that is not of numbers.
        ValueError: an unknown or repeated factor, or a table of another shape, with a weight that is negative or not
            finite, or with no mass.

    >>> design = SubpopulationDesign([[0, 3], [1, 0]])  # disks on sand, and a quarter squares on grass
    >>> design([0, 1, 2, 3, 4], seed=0).group
    tensor([1, 2, 2, 1, 1])
    """

    def __init__(
        self, table: Float[Tensor, " *values"] | Sequence[object], factors: Sequence[str] = ("shape", "background")
    ) -> None:
        self.factors = tuple(check_name("factors", name) for name in factors)
        if not self.factors or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors={factors!r}: must be different factors, at least one")
        self.table = weights("table", table, *(-1 for _ in self.factors))
        for name, has in zip(self.factors, self.table.shape, strict=True):
            if has > len(VALUES[name]):
                raise ValueError(f"table has {has} values of {name}, which has only {len(VALUES[name])}")

    @property
    def classes(self) -> tuple[str, ...]:
        return VALUES[self.factors[0]][: self.table.shape[0]]

    def __call__(self, index: Int[Tensor, " n"] | Sequence[int], seed: int) -> Factors:
        drawn = uniform(index, seed)
        u = hash_uniform(seed, index, Field.CELL)
        cell = choose(u, self.table.flatten().to(u.device))
        shape = self.table.shape
        for k, name in enumerate(self.factors):
            drawn[name] = cell // math.prod(shape[k + 1 :]) % shape[k]
        return Factors(**drawn, label=drawn[self.factors[0]], group=cell)
