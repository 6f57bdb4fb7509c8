"""landform: a PyTorch library and laboratory of how neural networks generalise."""

__version__ = "0.1.0"
