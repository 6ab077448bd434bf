"""Segments of a photo that look like whole objects, at several levels of detail, by name of a kind.

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

from arguments.messages import ExitCode, UserError
from masks.imported import ImportedSegmenter, ImportSettings
from masks.regions import MergeSettings, measure_regions, merge_regions
from masks.sam import RELEASES
from masks.sam_segments import SamSegmenter, SamSettings
from masks.segmenter import Photo, Segmenter, Surroundings
from masks.static_evidence import StaticEvidence
from masks.weights import find_weights, weight_folders

SegmentKind = Literal["graph", "mobile_sam", "sam_vit_b", "sam_vit_l", "sam_vit_h", "imported"]


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


@dataclass(frozen=True)
class SegmentSettings:
    """Which kind of segments, and the settings of each kind."""

    kind: SegmentKind = "graph"
    """Where segments come from: graph needs no download; mobile_sam and sam_vit_* are Segment
    Anything with weights that you bring; imported reads what other tools made."""

    graph: GraphSettings = field(default_factory=GraphSettings)
    """The graph segmentation."""

    sam: SamSettings = field(default_factory=SamSettings)
    """Segment Anything."""

    imported: ImportSettings = field(default_factory=ImportSettings)
    """Segments from files."""


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


class GraphSegmenter:
    """Superpixels merged by likeness: the default, which needs no download."""

    def __init__(self, settings: GraphSettings) -> None:
        self._settings = settings
        self.description = f"graph segmentation: the zero-download default ({sam_hint()})"

    def identity(self, name: str) -> str:  # noqa: ARG002 - the same for every photo
        """The settings."""
        return str(self._settings)

    def __call__(self, photo: Photo) -> Int32[ndarray, "L H W"]:
        """As `graph_segments`."""
        return graph_segments(photo.image, photo.evidence, self._settings)


def sam_hint() -> str:
    """Whether official weights of Segment Anything lie where they would be found, in words."""
    for kind, release in RELEASES.items():
        path = find_weights(release, None)
        if path is not None:
            return f"{path} is there: python -m masks --kind {kind} finds whole objects"
    return f"no Segment Anything weights in {weight_folders()[0]}"


def _graph(settings: SegmentSettings, surroundings: Surroundings) -> Segmenter:  # noqa: ARG001
    return GraphSegmenter(settings.graph)


def _sam(settings: SegmentSettings, surroundings: Surroundings) -> Segmenter:
    if settings.kind == "graph" or settings.kind == "imported":
        raise ValueError(f"{settings.kind} is no kind of Segment Anything")
    return SamSegmenter(settings.kind, settings.sam, surroundings.folder, surroundings.messages)


def _imported(settings: SegmentSettings, surroundings: Surroundings) -> Segmenter:
    return ImportedSegmenter(settings.imported, surroundings.names, surroundings.messages)


SEGMENTERS: dict[SegmentKind, Callable[[SegmentSettings, Surroundings], Segmenter]] = {
    "graph": _graph,
    "mobile_sam": _sam,
    "sam_vit_b": _sam,
    "sam_vit_l": _sam,
    "sam_vit_h": _sam,
    "imported": _imported,
}
"""Every kind of proposals by name; a new kind is one function and one entry."""


def make_segmenter(settings: SegmentSettings, surroundings: Surroundings) -> Segmenter:
    """The source of segments that the settings name.

    Raises:
        UserError: its weights, files or packages are missing, or flags of another kind are given.
    """
    if settings.imported.segments is not None and settings.kind != "imported":
        raise UserError(
            f"--segments {settings.imported.segments} is for --kind imported, not {settings.kind}",
            ExitCode.USAGE,
        )
    if settings.sam.checkpoint is not None and settings.kind in ("graph", "imported"):
        raise UserError(
            f"--sam-checkpoint {settings.sam.checkpoint} is for Segment Anything, not for --kind "
            f"{settings.kind}; name the model, e.g. --kind mobile_sam",
            ExitCode.USAGE,
        )
    return SEGMENTERS[settings.kind](settings, surroundings)
