"""What goes in: embedded worlds that need no download, and the user's own files, as tensors."""

from landform.data.split import Split, merge
from landform.data.uris import load

__all__ = ["Split", "load", "merge"]
