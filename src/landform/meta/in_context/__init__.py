"""General-purpose in-context learning: endless tasks of one dataset, learners that read them, and what they learn."""

from landform.meta.in_context.curves import Estimate, InContextCurve, classify_regime, in_context_curve
from landform.meta.in_context.learner import InContextLearner
from landform.meta.in_context.lstm import ICLLSTM
from landform.meta.in_context.outer_product import OuterProductLSTM
from landform.meta.in_context.prefix import (
    prefix_class_mean,
    prefix_majority,
    prefix_mlp,
    prefix_nearest_neighbour,
    prefix_ridge,
)
from landform.meta.in_context.samplers import MixedSampler, SequenceSampler
from landform.meta.in_context.sequences import sequence_batch, shift_labels
from landform.meta.in_context.stateless import NoStateMLP
from landform.meta.in_context.tasks import TaskAugmentation
from landform.meta.in_context.training import MetaTraining, meta_train, transition_step
from landform.meta.in_context.transformer import ICLTransformer

__all__ = [
    "ICLLSTM",
    "Estimate",
    "ICLTransformer",
    "InContextCurve",
    "InContextLearner",
    "MetaTraining",
    "MixedSampler",
    "NoStateMLP",
    "OuterProductLSTM",
    "SequenceSampler",
    "TaskAugmentation",
    "classify_regime",
    "in_context_curve",
    "meta_train",
    "prefix_class_mean",
    "prefix_majority",
    "prefix_mlp",
    "prefix_nearest_neighbour",
    "prefix_ridge",
    "sequence_batch",
    "shift_labels",
    "transition_step",
]
