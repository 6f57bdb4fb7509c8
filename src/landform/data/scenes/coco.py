"""Boxes in the format of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.scenes.placement import OVERHEAD_CLASSES


def to_coco(
    boxes: Float[Tensor, "n slots 4"], labels: Int[Tensor, "n slots"], classes: Sequence[str] = OVERHEAD_CLASSES
) -> dict[str, list[dict[str, Any]]]:
    """The lists ``images``, ``annotations`` and ``categories`` of COCO's format, from padded boxes (x0, y0, x1, y1).

    Boxes become (x0, y0, width, height). Images are numbered from 0 in their order, categories as the labels are, and
    annotations from 1, since evaluators read 0 as "unmatched". Slots of label -1 are left out.

    Raises:
        ValueError: shapes that do not fit, a label without a class, or a box without area.

    >>> import torch
    >>> lists = to_coco(torch.tensor([[[1.0, 2, 5, 4], [0, 0, 0, 0]]]), torch.tensor([[2, -1]]))
    >>> lists["annotations"]
    [{'id': 1, 'image_id': 0, 'category_id': 2, 'bbox': [1.0, 2.0, 4.0, 2.0], 'area': 8.0, 'iscrowd': 0}]
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes have shape {tuple(boxes.shape)}: must be (n, slots, 4)")
    if labels.shape != boxes.shape[:2]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: must be {tuple(boxes.shape[:2])}, as the boxes")
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}: must be in -1 … {len(classes) - 1}"
        )
    there = labels >= 0
    corners = boxes[there].double()
    sides = corners[:, 2:] - corners[:, :2]
    if not bool((sides > 0).all()):
        raise ValueError("boxes hold one without area: must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
    rows = torch.cat((corners[:, :2], sides), 1).tolist()
    found = zip(there.nonzero()[:, 0].tolist(), labels[there].tolist(), rows, sides.prod(1).tolist(), strict=True)
    return {
        "images": [{"id": image} for image in range(len(boxes))],
        "annotations": [
            {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            for number, (image, label, box, area) in enumerate(found, start=1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
    }
