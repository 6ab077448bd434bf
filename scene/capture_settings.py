"""What a caller can ask of a capture; knows no command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scene.images import LARGEST_MEGAPIXELS


@dataclass(frozen=True)
class CaptureSettings:
    """How a dataset folder becomes a capture.

    Attributes:
        source: the dataset folder; never written to.
        images: the image folder inside it.
        resolution: 1, 2, 4, 8 divide the photos' size; -1 keeps it up to a width of 1600; any
            other number is the width to reach.
        eval: hold out every 8th view where the dataset says nothing about a split.
        colmap_model: which of several models to read, such as `sparse/1` or `1`.
        white_background: transparent photos are composited on white instead of black.
        allow_missing: largest share of photos that may be missing or broken.
        alpha: what an alpha channel means: something to composite away, or a mask.
        masks: folder of masks, white = keep; relative to the dataset or to the working folder.
        invert_masks: black = keep.
        cache_dir: where undistorted photos are kept for the next run; None keeps none.
        require_points: refuse a model without points instead of starting from random ones.
        keep_outliers: use cameras that lie absurdly far away from all others.
        max_mp: megapixels that may be decoded of a photo; a larger JPEG is decoded in part where
            the resolution allows it.
        follow_links: allow photos that are links to files outside of the image folder.
    """

    source: Path
    images: str = "images"
    resolution: int = -1
    eval: bool = False
    colmap_model: str | None = None
    white_background: bool = False
    allow_missing: float = 0.2
    alpha: Literal["composite", "mask"] = "composite"
    masks: Path | None = None
    invert_masks: bool = False
    cache_dir: Path | None = None
    require_points: bool = False
    keep_outliers: bool = False
    follow_links: bool = False
    max_mp: float = LARGEST_MEGAPIXELS
