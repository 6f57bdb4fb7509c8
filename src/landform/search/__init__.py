"""Architecture search: training-free scores, the NAS-Bench-201 space and table, searches by proposal and evaluation."""

from landform.search.cells import Cell201, NASBench201Network, canonical_structure, iter_cells, mutate, random_cell
from landform.search.evolution import (
    NAS_BENCH_201,
    ArchitecturePool,
    SearchResult,
    SearchSpace,
    proposal_filter,
    random_search,
    regularised_evolution,
    reinforce_search,
)
from landform.search.proxies import (
    PROXIES,
    fisher,
    grad_norm,
    gradsign,
    grasp,
    jacob_cov,
    macs,
    naswot,
    num_params,
    plain,
    snip,
    synflow,
    zero_cost_scores,
)
from landform.search.sign_agreement import optima_spread, per_sample_sign_agreement
from landform.search.small import SMALL_SPACE, SmallArchitecture
from landform.search.table import ArchitectureTable

__all__ = [
    "NAS_BENCH_201",
    "PROXIES",
    "SMALL_SPACE",
    "ArchitecturePool",
    "ArchitectureTable",
    "Cell201",
    "NASBench201Network",
    "SearchResult",
    "SearchSpace",
    "SmallArchitecture",
    "canonical_structure",
    "fisher",
    "grad_norm",
    "gradsign",
    "grasp",
    "iter_cells",
    "jacob_cov",
    "macs",
    "mutate",
    "naswot",
    "num_params",
    "optima_spread",
    "per_sample_sign_agreement",
    "plain",
    "proposal_filter",
    "random_cell",
    "random_search",
    "regularised_evolution",
    "reinforce_search",
    "snip",
    "synflow",
    "zero_cost_scores",
]
