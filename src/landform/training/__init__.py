"""Training loops: one model, whole stacks of models at once, and gradients of every sample."""
