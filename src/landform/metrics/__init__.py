"""Numbers on predictions, scores and features."""

from landform.metrics.episodes import (
    EpisodeAccuracy,
    episode_accuracy,
    intra_inter_ratio,
    nearest_neighbour_purity,
)
from landform.metrics.groups import GroupAccuracy, group_accuracy
from landform.metrics.open_set import OpenSetMetrics, aupr, auroc, detection_accuracy, oscr, tnr_at_tpr
from landform.metrics.paired import Tally, paired_tally
from landform.metrics.probes import KNNProbe, LinearProbe, extract_features
from landform.metrics.protocol import ProtocolGrid, paired_delta
from landform.metrics.ranking import RankAgreement, partial_spearman, rank_agreement
from landform.metrics.top_k import top_k_accuracy
from landform.metrics.transport import (
    TransportPlan,
    feature_correlation_r,
    rbf_mmd2,
    transport_plan,
    wasserstein_distance,
)

__all__ = [
    "EpisodeAccuracy",
    "GroupAccuracy",
    "KNNProbe",
    "LinearProbe",
    "OpenSetMetrics",
    "ProtocolGrid",
    "RankAgreement",
    "Tally",
    "TransportPlan",
    "aupr",
    "auroc",
    "detection_accuracy",
    "episode_accuracy",
    "extract_features",
    "feature_correlation_r",
    "group_accuracy",
    "intra_inter_ratio",
    "nearest_neighbour_purity",
    "oscr",
    "paired_delta",
    "paired_tally",
    "partial_spearman",
    "rank_agreement",
    "rbf_mmd2",
    "tnr_at_tpr",
    "top_k_accuracy",
    "transport_plan",
    "wasserstein_distance",
]
