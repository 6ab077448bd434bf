"""All objects of a photo, from a model that segments what lies at a point, asked on a grid.

Kirillov et al. 2023 (Segment Anything), appendix B; knows no files and no scene.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from masks.boxes import best_boxes, boxes_of
from masks.sam import THRESHOLD, Embedding, SegmentAnything

CROP_MARGIN = 20.0  # pixels; a mask that ends so close to the side of a crop is cut off by it
ENLARGED_BYTES = 1 << 28  # of masks that are held at full size at a time
TOUCHING = np.ones((3, 3))  # pixels touch at corners too

Encoder = Callable[[UInt8[ndarray, "H W 3"]], Embedding]


@dataclass(frozen=True)
class Window:
    """A crop of the photo, in pixels; `right` and `bottom` lie outside."""

    left: int
    top: int
    right: int
    bottom: int
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class GridSettings:
    """How densely a photo is asked, and which answers count.

    Attributes:
        points_per_side: points along each side of the photo.
        points_per_batch: points that the model sees at a time.
        levels: which of the three masks at a point: 0 parts, 1 larger parts, 2 wholes.
        min_iou: promised IoU that a mask must exceed.
        min_stability: IoU that the mask must have with itself when its threshold moves.
        stability_offset: by how much it moves, in logits, up and down.
        max_box_iou: of two masks whose boxes overlap by more, the better one stays.
        crop_layers: layer n looks at 4^n overlapping crops as well.
        crop_overlap: of neighbouring crops in the first layer, as a share of the shorter side.
        points_divisor: points along a side are divided by it from layer to layer.
        min_region: holes and islands of fewer pixels are filled and removed.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    levels: tuple[int, ...] = (1, 2)
    min_iou: float = 0.88
    min_stability: float = 0.92
    stability_offset: float = 1.0
    max_box_iou: float = 0.7
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    points_divisor: int = 1
    min_region: int = 10


@dataclass(frozen=True)
class FoundMasks:
    """Masks of one photo, the best first within a crop.

    Attributes:
        boxes: around them, in pixels.
        iou: their promised quality.
        stability: IoU of the masks at a higher and at a lower threshold.
    """

    masks: Bool[ndarray, "K H W"]
    boxes: Float[Tensor, "K 4"]
    iou: Float[Tensor, " K"]
    stability: Float[Tensor, " K"]


@dataclass(frozen=True)
class _Answers:
    """Masks that passed the filters, still as small logits: full masks of all would not fit."""

    logits: Float[Tensor, "K 256 256"]
    iou: Float[Tensor, " K"]
    stability: Float[Tensor, " K"]
    boxes: Int[Tensor, "K 4"]

    def __getitem__(self, rows: Tensor) -> "_Answers":
        rows = rows.to(self.logits.device)
        return _Answers(self.logits[rows], self.iou[rows], self.stability[rows], self.boxes[rows])


def point_grid(points_per_side: int) -> Float[ndarray, "P 2"]:
    """(x, y) in [0, 1] of the centres of equal cells, row by row."""
    along = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(along, along)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def windows(height: int, width: int, settings: GridSettings) -> list[Window]:
    """The whole photo, then the crops of every layer."""
    found = [Window(0, 0, width, height, 0)]
    for layer in range(1, settings.crop_layers + 1):
        count = 2**layer
        overlap = int(settings.crop_overlap * min(height, width) * (2 / count))
        crop_height, crop_width = (
            math.ceil((overlap * (count - 1) + side) / count) for side in (height, width)
        )
        for column, row in itertools.product(range(count), repeat=2):
            left, top = column * (crop_width - overlap), row * (crop_height - overlap)
            right, bottom = min(left + crop_width, width), min(top + crop_height, height)
            found.append(Window(left, top, right, bottom, layer))
    return found


def stability(logits: Float[Tensor, "K H W"], offset: float) -> Float[Tensor, " K"]:
    """IoU of each mask at a higher and a lower threshold; 0 where there is none at either."""
    high, low = (
        (logits > THRESHOLD + step).flatten(1).sum(dim=1).float() for step in (offset, -offset)
    )
    return torch.where(low > 0, high / low.clamp_min(1.0), 0.0)


def is_cut_off(
    boxes: Int[Tensor, "K 4"], window: Window, height: int, width: int
) -> Bool[Tensor, " K"]:
    """Whether a box, in pixels of the crop, ends at a side of the crop but not of the photo."""
    in_photo = boxes.float() + boxes.new_tensor([window.left, window.top] * 2)
    crop = in_photo.new_tensor([window.left, window.top, window.right, window.bottom])
    photo = in_photo.new_tensor([0, 0, width, height])
    near_crop, near_photo = (abs(in_photo - side) <= CROP_MARGIN for side in (crop, photo))
    return (near_crop & ~near_photo).any(dim=1)


def without_small_regions(
    mask: Bool[ndarray, "H W"], min_region: int
) -> tuple[Bool[ndarray, "H W"], bool]:
    """The mask with small holes filled and small islands removed, and whether there were any.

    Where every island is small the largest one stays.
    """
    touched = False
    for is_hole in (True, False):
        number, count = ndimage.label(mask ^ is_hole, structure=TOUCHING)
        area = np.bincount(number.ravel(), minlength=count + 1)[1:]
        small = np.flatnonzero(area < min_region) + 1
        if not len(small):
            continue
        touched = True
        if is_hole:
            mask = mask | np.isin(number, small)
        elif len(small) == count:
            mask = number == np.argmax(area) + 1
        else:
            mask = mask & ~np.isin(number, small)
    return mask, touched


def find_masks(
    model: SegmentAnything,
    image: UInt8[ndarray, "H W 3"],
    settings: GridSettings,
    encode: Encoder | None = None,
) -> FoundMasks:
    """Every mask of the photo that passes the filters; no two are nearly the same.

    Args:
        encode: stands in for `model.encode`, for example to remember its results.

    Raises:
        torch.OutOfMemoryError: `points_per_batch` points are too many for the device.
    """
    encode = encode or model.encode
    height, width = image.shape[:2]
    parts, window_area = [], []
    for window in windows(height, width, settings):
        crop = np.ascontiguousarray(image[window.top : window.bottom, window.left : window.right])
        found = _in_window(model, encode(crop), window, (height, width), settings)
        parts.append(found)
        window_area += [float(window.size[0] * window.size[1])] * len(found.iou)
    found = FoundMasks(
        np.concatenate([part.masks for part in parts]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.iou for part in parts]),
        torch.cat([part.stability for part in parts]),
    )
    if len(parts) > 1:  # of the same object in two crops, that of the smaller crop is the finer
        found = _rows(
            found, best_boxes(found.boxes, 1 / torch.tensor(window_area), settings.max_box_iou)
        )
    return _cleaned(found, settings) if settings.min_region > 0 else found


def _in_window(
    model: SegmentAnything,
    embedding: Embedding,
    window: Window,
    photo_size: tuple[int, int],
    settings: GridSettings,
) -> FoundMasks:
    """The masks of one crop, in the frame of the photo."""
    height, width = photo_size
    along = int(settings.points_per_side / settings.points_divisor**window.layer)
    points = torch.from_numpy(point_grid(max(1, along)) * window.size[::-1])
    answers = []
    for batch in points.split(settings.points_per_batch):
        logits, iou = model.decode(embedding, batch)
        levels = list(settings.levels)
        logits, iou = logits[:, levels].flatten(0, 1), iou[:, levels].flatten()
        good = torch.nonzero(iou > settings.min_iou)[:, 0] if settings.min_iou > 0 else slice(None)
        answers.append(_stable(model, embedding, logits[good], iou[good], settings))
    found = _Answers(
        torch.cat([a.logits for a in answers]),
        torch.cat([a.iou for a in answers]),
        torch.cat([a.stability for a in answers]),
        torch.cat([a.boxes for a in answers]),
    )
    found = found[torch.nonzero(~is_cut_off(found.boxes, window, height, width))[:, 0]]
    found = found[best_boxes(found.boxes.float(), found.iou, settings.max_box_iou)]
    masks = np.zeros((len(found.iou), height, width), dtype=bool)
    inside = masks[:, window.top : window.bottom, window.left : window.right]
    for rows, large in _enlarged(model, embedding, found.logits):
        inside[rows] = (large > THRESHOLD).cpu().numpy()
    boxes = found.boxes.cpu().float() + torch.tensor([window.left, window.top] * 2)
    return FoundMasks(masks, boxes, found.iou.cpu(), found.stability.cpu())


def _enlarged(
    model: SegmentAnything, embedding: Embedding, logits: Float[Tensor, "K 256 256"]
) -> Iterator[tuple[slice, Float[Tensor, "k H W"]]]:
    """The logits at the size of the crop, as many at a time as memory is meant for them."""
    height, width = embedding.photo_size
    num_rows = max(1, ENLARGED_BYTES // (4 * (height * width + 1024 * 1024)))
    for start in range(0, len(logits), num_rows):
        rows = slice(start, min(start + num_rows, len(logits)))
        yield rows, model.enlarge(embedding, logits[rows])


def _stable(
    model: SegmentAnything,
    embedding: Embedding,
    logits: Float[Tensor, "K 256 256"],
    iou: Float[Tensor, " K"],
    settings: GridSettings,
) -> _Answers:
    """Those that stay nearly the same when their threshold moves, with their boxes."""
    scores, boxes = [iou.new_zeros(0)], [torch.zeros(0, 4, dtype=torch.long, device=iou.device)]
    for _, large in _enlarged(model, embedding, logits):
        scores.append(stability(large, settings.stability_offset))
        boxes.append(boxes_of(large > THRESHOLD))
    found = _Answers(logits, iou, torch.cat(scores), torch.cat(boxes))
    return found[torch.nonzero(found.stability >= settings.min_stability)[:, 0]]


def _rows(found: FoundMasks, rows: Int[Tensor, " M"]) -> FoundMasks:
    return FoundMasks(
        found.masks[rows.numpy()], found.boxes[rows], found.iou[rows], found.stability[rows]
    )


def _cleaned(found: FoundMasks, settings: GridSettings) -> FoundMasks:
    """Without small holes and islands; what is a duplicate afterwards goes."""
    if not len(found.iou):
        return found
    clean = [without_small_regions(mask, settings.min_region) for mask in found.masks]
    masks = np.stack([mask for mask, _ in clean])
    boxes = boxes_of(torch.from_numpy(masks)).float()
    untouched = torch.tensor([0.0 if touched else 1.0 for _, touched in clean])
    rows = best_boxes(boxes, untouched, settings.max_box_iou)
    return _rows(FoundMasks(masks, boxes, found.iou, found.stability), rows)
