"""Training loops: one model, whole stacks of models at once, and gradients of every sample."""

from landform.training.batches import batches
from landform.training.fit import fit
from landform.training.many import (
    Stack,
    StackedAdamW,
    StackedSGD,
    accuracy_many,
    loop_train,
    predict_many,
    seed_stream,
    subset_masks,
    train_many,
)
from landform.training.per_sample import (
    per_sample_grad_dot,
    per_sample_grad_norms,
    per_sample_gradients,
    random_projection,
)

__all__ = [
    "Stack",
    "StackedAdamW",
    "StackedSGD",
    "accuracy_many",
    "batches",
    "fit",
    "loop_train",
    "per_sample_grad_dot",
    "per_sample_grad_norms",
    "per_sample_gradients",
    "predict_many",
    "random_projection",
    "seed_stream",
    "subset_masks",
    "train_many",
]
