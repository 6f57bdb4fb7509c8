"""Numbers on predictions, scores and features."""

from landform.metrics.paired import Tally, paired_tally
from landform.metrics.ranking import RankAgreement, partial_spearman, rank_agreement
from landform.metrics.top_k import top_k_accuracy

__all__ = ["RankAgreement", "Tally", "paired_tally", "partial_spearman", "rank_agreement", "top_k_accuracy"]
