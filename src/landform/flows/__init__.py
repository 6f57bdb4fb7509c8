"""Flows between distributions: velocity fields learned by flow matching, told of whole populations or not."""

from landform.flows.cellot import CellOT
from landform.flows.conditional import ConditionalFlowMatching
from landform.flows.coupling import ot_pairs
from landform.flows.encoder import PopulationEncoder, knn_graph
from landform.flows.flow import FlowMatching
from landform.flows.icnn import ICNN
from landform.flows.integrate import integrate
from landform.flows.matching import FlowMatchingLoss
from landform.flows.meta import MetaFlowMatching
from landform.flows.shifts import ideal_shift, mean_shift
from landform.flows.velocity import VelocityField, time_embedding
from landform.metrics.transport import feature_correlation_r, rbf_mmd2, wasserstein_distance

__all__ = [
    "ICNN",
    "CellOT",
    "ConditionalFlowMatching",
    "FlowMatching",
    "FlowMatchingLoss",
    "MetaFlowMatching",
    "PopulationEncoder",
    "VelocityField",
    "feature_correlation_r",
    "ideal_shift",
    "integrate",
    "knn_graph",
    "mean_shift",
    "ot_pairs",
    "rbf_mmd2",
    "time_embedding",
    "wasserstein_distance",
]
