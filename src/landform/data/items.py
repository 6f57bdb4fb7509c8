"""What a dataset or loader hands out, in whichever of the usual forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def images_and_labels(item: Any) -> tuple[Tensor, Tensor | int | None]:
    """The images and the labels of a batch, or of one sample.

    An item is a tensor of images alone, a sequence that begins with images and labels, or a mapping with ``"image"``
    and perhaps ``"label"``. Where there are no labels they are None.

    Raises:
        TypeError: an item of another form.
    """
    if isinstance(item, Mapping):
        images, labels = item.get("image"), item.get("label")
    elif isinstance(item, Sequence) and item:
        images, labels = item[0], item[1] if len(item) > 1 else None
    else:
        images, labels = item, None
    if not isinstance(images, Tensor):
        found = f"a {type(item).__name__} of {type(images).__name__}" if images is not item else type(item).__name__
        raise TypeError(f"item is {found}: must be images, (images, labels), or a mapping with 'image' and 'label'")
    return images, labels
