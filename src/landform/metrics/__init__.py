"""Numbers on predictions, scores and features."""

from landform.metrics.paired import Tally, paired_tally
from landform.metrics.ranking import RankAgreement, partial_spearman, rank_agreement

__all__ = ["RankAgreement", "Tally", "paired_tally", "partial_spearman", "rank_agreement"]
