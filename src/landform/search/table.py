"""A table of architectures whose accuracies were measured once, so that a search can be simulated by look-ups."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landform.search.cells import Cell201


class ArchitectureTable:
    """Measured numbers of NAS-Bench-201 cells, looked up by cell.

    ``table.cells`` are the cells in the table's own order, ``table[metric]`` is a column in that order (float64), and
    ``table.lookup(metric)`` is the function cell → number that a search evaluates. Columns of different training
    lengths are different measurements (12 and 200 epochs rank-correlate by 0.87 on CIFAR-10): name the one you mean.

    Arguments:
        cells: the architectures, all different.
        columns: metric name → one number a cell.

    Raises:
        ValueError: no cells, a cell twice, no metric, or a column of the wrong length or with non-finite numbers.
    """

    def __init__(self, cells: Sequence[Cell201], columns: dict[str, NDArray[np.float64]]) -> None:
        self.cells = tuple(cells)
        self._row = {cell: row for row, cell in enumerate(self.cells)}
        if not self.cells or not columns:
            raise ValueError(f"cells={len(self.cells)}, columns={list(columns)}: a table needs at least one of each")
        if len(self._row) < len(self.cells):
            twice = next(cell for row, cell in enumerate(self.cells) if self._row[cell] != row)
            raise ValueError(f"cells: {twice.digits} is there more than once")
        self._columns = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
        for name, column in self._columns.items():
            if column.shape != (len(self.cells),) or not np.isfinite(column).all():
                raise ValueError(f"columns[{name!r}]: must be {len(self.cells)} finite numbers, one a cell")

    @classmethod
    def from_csv(cls, path: str | Path) -> ArchitectureTable:
        """Read a CSV file with a header line: ``index`` (0, 1, …), ``cell`` (six digits, read as text), and metrics.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a missing column, an index out of order, or a value that cannot be read; names the line.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"path={str(path)!r}: no such file; it must be a CSV with the columns index, cell, …"
            )
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            if not {"index", "cell"} <= set(header):
                raise ValueError(f"{path}: needs the columns index and cell, has {list(header)}")
            metrics = [name for name in header if name not in ("index", "cell")]
            cells, values = [], []
            for row, line in enumerate(reader):
                try:
                    if int(line["index"]) != row:
                        raise ValueError(f"index {line['index']} where {row} was due")
                    cells.append(Cell201(line["cell"]))
                    values.append([float(line[name]) for name in metrics])
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        columns = np.array(values, dtype=np.float64).reshape(len(cells), len(metrics))
        return cls(cells, dict(zip(metrics, columns.T, strict=True)))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(self.cells)

    def __contains__(self, cell: object) -> bool:
        return cell in self._row

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        if metric not in self._columns:
            raise KeyError(f"metric={metric!r}: the table has {', '.join(self._columns)}")
        return self._columns[metric]

    def index(self, cell: Cell201) -> int:
        """The row of a cell; ValueError when the table does not have it."""
        if cell not in self._row:
            raise ValueError(f"cell={cell.digits}: not one of the table's {len(self)} cells")
        return self._row[cell]

    def lookup(self, metric: str) -> Callable[[Cell201], float]:
        """The function cell → value of ``metric``: what a simulated search calls instead of training the cell."""
        column = self[metric]
        return lambda cell: float(column[self.index(cell)])

    def sample(self, metric: str, count: int, rng: np.random.Generator) -> list[Cell201]:
        """``count`` different cells, as many (give or take one) from each tenth of the values of ``metric``."""
        if not 1 <= count <= len(self):
            raise ValueError(f"count={count}: must be from 1 to the table's {len(self)} cells")
        tenths = np.array_split(self[metric].argsort(kind="stable"), min(10, count))
        shares = np.array_split(np.arange(count), len(tenths))
        rows = [rng.choice(t, len(share), replace=False) for t, share in zip(tenths, shares, strict=True)]
        return [self.cells[row] for row in np.concatenate(rows)]

    def best(self, metric: str) -> tuple[Cell201, float]:
        """The cell with the largest ``metric``, and its value."""
        row = int(self[metric].argmax())
        return self.cells[row], float(self[metric][row])
