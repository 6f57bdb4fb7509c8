"""Open-set recognition: classes that are known, classes that are not, and scores that tell them apart."""

from landform.shift.open_set.confusing import (
    ConfusingLosses,
    ConfusingSamples,
    ImageDiscriminator,
    ImageGenerator,
    confusing_epochs,
)
from landform.shift.open_set.correlation import ClosedOpenCorrelation, closed_open_correlation
from landform.shift.open_set.dataset import OpenSetDataset, UnlabelledSamples
from landform.shift.open_set.look_alikes import character_split, look_alikes
from landform.shift.open_set.scores import energy_score, entropy_score, max_logit_score, max_softmax_score
from landform.shift.open_set.splits import (
    OpenSetSplit,
    class_split,
    openness,
    read_semantic_shift_splits,
    read_small_splits,
)

__all__ = [
    "ClosedOpenCorrelation",
    "ConfusingLosses",
    "ConfusingSamples",
    "ImageDiscriminator",
    "ImageGenerator",
    "OpenSetDataset",
    "OpenSetSplit",
    "UnlabelledSamples",
    "character_split",
    "class_split",
    "closed_open_correlation",
    "confusing_epochs",
    "energy_score",
    "entropy_score",
    "look_alikes",
    "max_logit_score",
    "max_softmax_score",
    "openness",
    "read_semantic_shift_splits",
    "read_small_splits",
]
