"""Segments of a photo that look like whole objects, at several levels of detail.

Knows one photo at a time; which segments may be distractors is decided elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from numpy import ndarray
from PIL import Image
from skimage.segmentation import felzenszwalb

from masks.regions import MergeSettings, measure_regions, merge_regions
from masks.static_evidence import StaticEvidence

SegmentKind = Literal["graph"]


@dataclass(frozen=True)
class GraphSettings:
    """The zero-download segmentation: small regions of one colour, merged by likeness."""

    longest_side: int = 400
    """Photos are segmented at this size; the segments are scaled back."""

    scale: float = 30.0
    """Size preference of the first regions (Felzenszwalb and Huttenlocher's k)."""

    blur: float = 0.6
    """Standard deviation, in pixels, of the blur before the first regions are found."""

    min_region: int = 20
    """Smallest first region in pixels."""

    merge: MergeSettings = field(default_factory=MergeSettings)
    """What makes two regions unlike."""

    levels: tuple[float, ...] = (0.35, 0.5, 0.7, 0.9)
    """Unlikeness up to which regions are merged, one layer of segments for each."""


Segmenter = Callable[
    [UInt8[ndarray, "H W 3"], StaticEvidence, GraphSettings], Int32[ndarray, "L H W"]
]


def shrink(
    image: UInt8[ndarray, "H W 3"], evidence: StaticEvidence, longest_side: int
) -> tuple[UInt8[ndarray, "h w 3"], StaticEvidence]:
    """Photo and evidence at most `longest_side` large; sums of the evidence stay what they were."""
    height, width = image.shape[:2]
    factor = longest_side / max(height, width)
    if factor >= 1:
        return image, evidence
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))

    def spread(values: Float32[ndarray, "H W"]) -> Float32[ndarray, "h w"]:
        resized = Image.fromarray(values).resize(size, Image.Resampling.BOX)
        return np.asarray(resized) * np.float32(height * width / (size[0] * size[1]))

    return small, StaticEvidence(spread(evidence.found), spread(evidence.expected))


def graph_segments(
    image: UInt8[ndarray, "H W 3"], evidence: StaticEvidence, settings: GraphSettings
) -> Int32[ndarray, "L H W"]:
    """One layer per level: superpixels merged by colour, texture, border and evidence."""
    small, small_evidence = shrink(image, evidence, settings.longest_side)
    superpixels = felzenszwalb(
        small, scale=settings.scale, sigma=settings.blur, min_size=settings.min_region
    )
    tree = merge_regions(measure_regions(small, superpixels, small_evidence), settings.merge)
    size = (image.shape[1], image.shape[0])
    layers = []
    for level in settings.levels:
        _, label = np.unique(tree.cut(level), return_inverse=True)
        layer = Image.fromarray((label[superpixels] + 1).astype(np.int32))
        layers.append(np.asarray(layer.resize(size, Image.Resampling.NEAREST)))
    return np.stack(layers)


SEGMENTERS: dict[SegmentKind, Segmenter] = {"graph": graph_segments}
"""Every kind of proposals by name; a new kind is one function and one entry."""
