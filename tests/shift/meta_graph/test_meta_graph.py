"""The meta-graph: subsets, overlaps, communities and spectral distances, against networkx and closed forms."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from landform.shift import (
    SubsetCollection,
    graph_communities,
    overlap_coefficient,
    overlap_graph,
    spectral_distance,
    spectral_embedding,
)

# --- collections -------------------------------------------------------------------------------------------------


def test_subsets_from_tags() -> None:
    tags = {1: ["dog", "sofa"], 2: ["dog", "sofa", "boat"], 3: ["sofa"], 4: ["dog", "dog", "boat"], 5: ["dog"]}
    found = SubsetCollection.from_tags(tags, "dog", min_size=1)
    assert found.members == {"dog(boat)": {2, 4}, "dog(sofa)": {1, 2}}
    assert SubsetCollection.from_tags({**tags, 6: ["dog", "sofa"]}, "dog", min_size=3).names == ("dog(sofa)",)


def test_operations_leave_the_collection_and_its_order() -> None:
    collection = SubsetCollection({"dog(b)": {1, 2, 3}, "dog(a)": {3}, "cat(a)": {4, 5}})
    assert collection.filter(2).names == ("dog(b)", "cat(a)")
    assert collection.merge({"m": ["dog(a)", "cat(a)"]}).members == {"m": {3, 4, 5}}
    assert collection.exclude([1, 5]).members == {"dog(b)": {2, 3}, "dog(a)": {3}, "cat(a)": {4}}
    assert collection.of("dog").names == ("dog(b)", "dog(a)")
    assert len(collection) == 3
    assert "dog(a)" in collection
    assert collection["dog(a)"] == {3}


def test_subsets_are_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "subsets.json"
    path.write_text(json.dumps({"cat(a)": [3, 1], "cat(b)": [2]}))
    assert SubsetCollection.from_json(path).members == {"cat(a)": {1, 3}, "cat(b)": {2}}
    for text, message in (("{", "no JSON"), ("[1]", "must map names"), ('{"a": 3}', "must map names")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            SubsetCollection.from_json(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        SubsetCollection.from_json(tmp_path / "missing.json")


def test_collections_refuse() -> None:
    collection = SubsetCollection({"a": {1, 2}, "b": {2}})
    for call, error, message in (
        (lambda: SubsetCollection({}), ValueError, "at least one set"),
        (lambda: SubsetCollection({"a": set()}), ValueError, "'a' is empty"),
        (lambda: SubsetCollection({"a": {-1}}), ValueError, "-1"),
        (lambda: SubsetCollection({"a": {1.5}}), TypeError, "1.5"),  # type: ignore[arg-type]
        (lambda: collection["c"], KeyError, "'c'"),
        (lambda: collection.of("cat"), KeyError, "cat"),
        (lambda: collection.merge({"m": ["a", "c"]}), KeyError, "'c'"),
        (lambda: collection.merge({"m": []}), ValueError, "'m' is empty"),
        (lambda: collection.exclude([2]), ValueError, "'b' is empty"),
        (lambda: collection.filter(3), ValueError, "min_size=3"),
        (lambda: collection.filter(0), ValueError, "min_size=0"),
        (lambda: SubsetCollection.from_tags({1: ["dog"]}, "cat", 1), ValueError, "cat"),
    ):
        with pytest.raises(error, match=message):
            call()


# --- overlaps ----------------------------------------------------------------------------------------------------


def test_overlap_coefficient() -> None:
    a, b = {1, 2, 3, 4}, {3, 4, 5}
    assert overlap_coefficient(a, a) == 1
    assert overlap_coefficient(a, {7}) == 0
    assert overlap_coefficient({1, 2}, a) == 1
    assert overlap_coefficient(a, b) == overlap_coefficient(b, a) == pytest.approx(2 / 3, abs=1e-15)
    with pytest.raises(ValueError, match="empty"):
        overlap_coefficient(a, set())


def test_graph_is_made_of_overlap_coefficients() -> None:
    rng = np.random.default_rng(0)
    members = {f"s{k}": set(rng.choice(60, size, replace=False).tolist()) for k, size in enumerate((5, 9, 20, 31, 8))}
    names, weights = overlap_graph(SubsetCollection(members), threshold=0.4)
    assert names == tuple(members)
    assert weights.dtype == torch.float64
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            expected = overlap_coefficient(members[a], members[b])
            assert float(weights[i, j]) == pytest.approx(expected if i != j and expected >= 0.4 else 0, abs=1e-15)
    assert 0 < (weights > 0).sum() < 20


def test_an_edge_at_the_threshold_stays() -> None:
    collection = SubsetCollection({"a": range(5), "b": range(4, 9)})
    assert overlap_graph(collection)[1][0, 1] == 0.2
    assert overlap_graph(collection, threshold=0.21)[1][0, 1] == 0
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        overlap_graph(collection, threshold=1.5)


# --- communities -------------------------------------------------------------------------------------------------


def random_graph(n: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, n, dtype=torch.float64, generator=generator)
    weights = torch.triu(weights * (weights > 0.3), 1)
    return weights + weights.T


def test_communities_of_two_cliques_with_a_bridge() -> None:
    weights = torch.block_diag(torch.ones(3, 3), torch.ones(4, 4))
    weights[2, 3] = weights[3, 2] = 0.5
    assert graph_communities(weights) == [[3, 4, 5, 6], [0, 1, 2]]
    assert graph_communities(torch.zeros(2, 2)) == [[0], [1]]
    with pytest.raises(ValueError, match="louvain"):
        graph_communities(weights, method="louvain")


def test_weights_count_where_asked() -> None:
    weights = torch.ones(4, 4)  # without weights all four are one another's neighbours
    for i, j in ((0, 1), (2, 3)):
        weights[i, j] = weights[j, i] = 50
    assert graph_communities(weights) == [[0, 1, 2, 3]]
    assert graph_communities(weights, weighted=True) == [[0, 1], [2, 3]]


# --- spectra -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 5])
def test_distances_are_those_of_the_released_layout(dim: int) -> None:
    weights = random_graph()
    layout = nx.spectral_layout(nx.from_numpy_array(weights.numpy()), dim=dim)
    points = np.stack([layout[i] for i in range(len(weights))])
    expected = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(spectral_distance(weights, dim).numpy(), expected, atol=1e-10)


def test_all_unit_eigenvectors_put_every_pair_at_the_root_of_two() -> None:
    weights = random_graph(7)
    points = spectral_embedding(weights, dim=6, scale="none")
    distances = torch.cdist(points, points)
    torch.testing.assert_close(distances[~torch.eye(7, dtype=torch.bool)].square(), torch.full((42,), 2.0).double())


def test_path_graph_is_a_cosine() -> None:
    n = 6
    weights = torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
    expected = torch.cos(torch.pi * (torch.arange(n) + 0.5) / n).double()
    found = spectral_embedding(weights, dim=1, scale="none").squeeze()
    torch.testing.assert_close(found * found[0].sign(), expected / expected.norm())


def test_distances_do_not_depend_on_the_order_of_nodes() -> None:
    weights, order = random_graph(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    moved = spectral_distance(weights[order][:, order], 4)
    torch.testing.assert_close(moved, spectral_distance(weights, 4)[order][:, order])


def test_scale_and_centre() -> None:
    weights = torch.block_diag(random_graph(4), random_graph(5, seed=2))
    with pytest.warns(UserWarning, match="disconnected, in 2 parts"):
        points = spectral_embedding(weights, dim=3)
    assert points.abs().max() == 1
    torch.testing.assert_close(points.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    with pytest.warns(UserWarning, match="disconnected"):
        raw = spectral_embedding(weights, dim=3, centre=False, scale="none")
    torch.testing.assert_close(raw.square().sum(0), torch.ones(3).double())
    assert raw[:, 0].mean().abs() > 1e-3 or raw[:, 0].std() < 1e-12


@pytest.mark.parametrize("dim", [1, 3, 4])
def test_equal_eigenvalues_are_warned_of(dim: int) -> None:
    complete = 0.3 * (torch.ones(5, 5) - torch.eye(5))
    with pytest.warns(UserWarning, match="arbitrary basis"):
        spectral_distance(complete, dim)


def test_a_sound_graph_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectral_distance(random_graph(), 8)
        # All eigenvectors of a complete graph span one known space, and unit vectors need no other scale.
        spectral_embedding(torch.ones(5, 5), dim=4, scale="none")


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (torch.ones(3, 2), {}, r"\(3, 2\)"),
        (torch.ones(3, 3), {"dim": 3}, "dim=3"),
        (torch.ones(3, 3), {"dim": 0}, "dim=0"),
        (torch.ones(3, 3), {"dim": 1, "scale": "unit"}, "unit"),
        (-torch.ones(3, 3), {"dim": 1}, "negative"),
        (torch.full((3, 3), torch.nan), {"dim": 1}, "NaN"),
        (torch.triu(torch.ones(3, 3)), {"dim": 1}, "symmetric"),
    ],
)
def test_bad_graphs_are_refused(weights: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_embedding(weights, **options)  # type: ignore[arg-type]


# --- the real graphs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "subsets"), [("cat", 13), ("dog", 13), ("wall", 26), ("man", 20)])
def test_real_graphs(shared_data: Callable[[str], Path], subject: str, subsets: int) -> None:
    path = shared_data("metashift") / "attribute_subsets.json"
    collection = SubsetCollection.from_json(path).of(subject).filter(25)
    names, weights = overlap_graph(collection)
    assert len(names) == subsets
    # Another way to the same graph: sets of the raw file, and networkx.
    raw = {name: set(ids) for name, ids in json.loads(path.read_text()).items()}
    graph = nx.Graph()
    graph.add_nodes_from(range(subsets))
    for i in range(subsets):
        for j in range(i):
            a, b = raw[names[i]], raw[names[j]]
            if (w := len(a & b) / min(len(a), len(b))) >= 0.2:
                graph.add_edge(i, j, weight=w)
    np.testing.assert_allclose(weights.numpy(), nx.to_numpy_array(graph), atol=1e-15)
    assert {frozenset(c) for c in graph_communities(weights)} == set(nx.community.greedy_modularity_communities(graph))
    connected = nx.is_connected(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if connected else "ignore")
        distances = spectral_distance(weights)
    if connected:
        layout = nx.spectral_layout(graph, dim=5)
        points = np.stack([layout[i] for i in range(subsets)])
        np.testing.assert_allclose(
            distances.numpy(), np.linalg.norm(points[:, None] - points[None], axis=-1), atol=1e-9
        )
