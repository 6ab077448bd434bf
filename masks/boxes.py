"""Boxes around masks, and which of many overlapping ones stay; knows no model and no photo.

A box is (left, top, right, bottom) in pixels; the last two are the last row and column inside.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def boxes_of(masks: Bool[Tensor, "K H W"]) -> Int[Tensor, "K 4"]:
    """The smallest box around each mask; four zeros around an empty one."""
    sides = []
    for along in (masks.any(dim=1), masks.any(dim=2)):  # [K, W], then [K, H]
        length = along.shape[1]
        first = along.int().argmax(dim=1)
        last = length - 1 - along.flip(1).int().argmax(dim=1)
        sides.append((first, last))
    (left, right), (top, bottom) = sides
    found = torch.stack([left, top, right, bottom], dim=1)
    return found * masks.flatten(1).any(dim=1)[:, None]


def areas(boxes: Float[Tensor, "K 4"]) -> Float[Tensor, " K"]:
    """Right minus left times bottom minus top."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_iou(box: Float[Tensor, " 4"], boxes: Float[Tensor, "K 4"]) -> Float[Tensor, " K"]:
    """Common area over the area of either; 0 where both are empty."""
    width = torch.minimum(box[2], boxes[:, 2]) - torch.maximum(box[0], boxes[:, 0])
    height = torch.minimum(box[3], boxes[:, 3]) - torch.maximum(box[1], boxes[:, 1])
    common = width.clamp_min(0) * height.clamp_min(0)
    either = areas(box[None]) + areas(boxes) - common
    return torch.where(either > 0, common / either.clamp_min(1e-12), 0.0)


def best_boxes(
    boxes: Float[Tensor, "K 4"], scores: Float[Tensor, " K"], max_iou: float
) -> Int[Tensor, " M"]:
    """Rows of the boxes that stay, the best first: none overlaps a better one by over `max_iou`.

    Non-maximum suppression; of equal scores the earlier row is the better one.
    """
    boxes = boxes.cpu()
    order = torch.argsort(scores.cpu(), descending=True, stable=True)
    boxes = boxes[order]
    is_out = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for row in range(len(boxes)):
        if not is_out[row]:
            kept.append(row)
            is_out |= box_iou(boxes[row], boxes) > max_iou
    return order[torch.tensor(kept, dtype=torch.long)]
