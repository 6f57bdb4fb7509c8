"""Many small models at once: a stack of them, its optimisers, its training, and the plain loop that it must equal."""

from landform.training.many.seeds import seed_stream
from landform.training.many.stack import Stack

__all__ = ["Stack", "seed_stream"]
