"""Datasets of datasets: subsets of a class by context, the graph of their overlaps, and tasks made of them."""

from landform.shift.meta_graph.collection import SubsetCollection
from landform.shift.meta_graph.communities import graph_communities
from landform.shift.meta_graph.conflicts import contribution_regression, group_gradient, training_conflict_matrix
from landform.shift.meta_graph.embedding import spectral_distance, spectral_embedding
from landform.shift.meta_graph.overlap import overlap_coefficient, overlap_graph
from landform.shift.meta_graph.tasks import (
    DomainShiftTask,
    SubpopulationTask,
    domain_shift_task,
    subpopulation_task,
)

__all__ = [
    "DomainShiftTask",
    "SubpopulationTask",
    "SubsetCollection",
    "contribution_regression",
    "domain_shift_task",
    "graph_communities",
    "group_gradient",
    "overlap_coefficient",
    "overlap_graph",
    "spectral_distance",
    "spectral_embedding",
    "subpopulation_task",
    "training_conflict_matrix",
]
