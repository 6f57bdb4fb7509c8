"""The architecture table: look-ups, refusals, and the published facts of the real NAS-Bench-201 numbers."""

from __future__ import annotations

import numpy as np
import pytest

from landform.metrics import rank_agreement
from landform.search import ArchitectureTable, Cell201, NASBench201Network, canonical_structure, iter_cells

SMALL = "index,cell,acc,acc_12ep\n0,000000,10.0,9.5\n1,333333,93.5,80\n2,013240,70.25,66.6\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text(SMALL)
    return file


def test_numbers_are_found_by_cell(path):
    table = ArchitectureTable.from_csv(path)
    assert len(table) == 3
    assert table.metrics == ("acc", "acc_12ep")
    assert table.index(Cell201("013240")) == 2
    assert table.lookup("acc_12ep")(Cell201("333333")) == 80.0
    assert table.best("acc") == (Cell201("333333"), 93.5)
    assert Cell201("000000") in table
    assert Cell201("111111") not in table
    np.testing.assert_array_equal(table["acc"], [10.0, 93.5, 70.25])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cell,acc\n000000,1\n", "columns index and cell"),
        ("index,cell,acc\n1,000000,1\n", "line 2: index 1 where 0"),
        ("index,cell,acc\n0,000000,1\n1,999999,1\n", "line 3: ops='999999'"),
        ("index,cell,acc\n0,000000,fast\n", "line 2: .*fast"),
        ("index,cell,acc\n0,000000\n", "line 2"),
        ("index,cell,acc\n0,000000,nan\n", r"columns\['acc'\]"),
        ("index,cell,acc\n0,000000,1\n1,000000,2\n", "000000 is there more than once"),
        ("index,cell,acc\n", "at least one"),
        ("index,cell\n0,000000\n", "at least one"),
    ],
)
def test_broken_files_are_refused_with_the_place(tmp_path, text, match):
    file = tmp_path / "broken.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=match):
        ArchitectureTable.from_csv(file)


def test_missing_files_metrics_and_cells_are_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        ArchitectureTable.from_csv(tmp_path / "nowhere.csv")
    table = ArchitectureTable.from_csv(path)
    with pytest.raises(KeyError, match="acc_200ep"):
        table.lookup("acc_200ep")
    with pytest.raises(ValueError, match="111111"):
        table.index(Cell201("111111"))


def test_the_real_table_holds_the_published_facts(shared_data):
    table = ArchitectureTable.from_csv(shared_data("gradsign") / "nasbench201_accuracy.csv")
    assert set(table.cells) == set(iter_cells())
    assert table.best("cifar10_test_200ep") == (Cell201("333132"), 94.3733)
    assert table.index(Cell201("333132")) == 6111
    assert len({canonical_structure(cell) for cell in table.cells}) == 6_466
    groups: dict[str, set[float]] = {}
    for cell, group in zip(table.cells, table["structure_group"], strict=True):
        groups.setdefault(canonical_structure(cell), set()).add(group)
    assert all(len(group) == 1 for group in groups.values())


@pytest.mark.parametrize(
    ("metric", "rho"),
    [("cifar10_test_200ep", 0.7527), ("cifar100_test_200ep", 0.728), ("imagenet16_test_200ep", 0.692)],
)
def test_the_number_of_parameters_ranks_the_real_table_as_published(shared_data, metric, rho):
    table = ArchitectureTable.from_csv(shared_data("gradsign") / "nasbench201_accuracy.csv")
    weights = {3: 9, 2: 1}
    size = [sum(weights.get(op, 0) for op in cell.ops) for cell in table.cells]
    assert rank_agreement(size, table[metric]).spearman == pytest.approx(rho, abs=5e-4)
    if metric == "cifar10_test_200ep":
        assert rank_agreement(size, table[metric]).spearman == pytest.approx(0.7527, abs=5e-5)
        assert rank_agreement(size, table[metric]).kendall_tau_b == pytest.approx(0.5778, abs=5e-5)
        # Nine and one stand for the weights of a 3×3 and a 1×1 convolution: whole networks rank the same.
        networks = [NASBench201Network(c, 10, channels=2, cells_per_stage=1, affine=True) for c in table.cells[:60]]
        parameters = [sum(p.numel() for p in network.parameters()) for network in networks]
        assert rank_agreement(parameters, size[:60]).spearman == pytest.approx(1.0)


def test_a_sample_takes_as_many_cells_from_every_tenth():
    cells = list(iter_cells())[:100]
    table = ArchitectureTable(cells, {"acc": np.random.default_rng(1).permutation(100).astype(float)})
    rng = np.random.default_rng(0)
    sample = table.sample("acc", 30, rng)
    assert len(set(sample)) == 30
    tenths = [int(table.lookup("acc")(cell)) // 10 for cell in sample]
    assert [tenths.count(tenth) for tenth in range(10)] == [3] * 10
    assert table.sample("acc", 30, rng) != sample
    assert set(table.sample("acc", 100, rng)) == set(cells)
    assert len(set(table.sample("acc", 7, rng))) == 7
    for count in (0, 101):
        with pytest.raises(ValueError, match=f"count={count}"):
            table.sample("acc", count, rng)
