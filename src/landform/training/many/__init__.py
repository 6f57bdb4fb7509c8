"""Many small models at once: a stack of them, its optimisers, its training, and the plain loop that it must equal."""

from landform.training.many.loop import loop_train
from landform.training.many.optimizers import StackedAdamW, StackedSGD
from landform.training.many.orders import subset_masks
from landform.training.many.seeds import seed_stream
from landform.training.many.stack import Stack
from landform.training.many.train import TrainManyResult, accuracy_many, cross_entropy, predict_many, train_many

__all__ = [
    "Stack",
    "StackedAdamW",
    "StackedSGD",
    "TrainManyResult",
    "accuracy_many",
    "cross_entropy",
    "loop_train",
    "predict_many",
    "seed_stream",
    "subset_masks",
    "train_many",
]
