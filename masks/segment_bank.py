"""The candidate segments of all photos of one size, and which of them a rendering contradicts.

Knows nothing of files, nor of how residuals or their thresholds were found.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from diff_gaussian_rasterization import SegmentRule, segment_trust
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64
from numpy import ndarray
from torch import Tensor

from masks.candidates import Candidates

FIXED_POINT = 1 << 20  # integers per unit: sums of them are exact and depend on no order


@dataclass(frozen=True)
class Residuals:
    """How far photos are from renderings of them, and what is much there.

    Attributes:
        by_color: in [0, 1].
        by_feature: in [0, 2].
        high_color: what the colour residual of a high pixel exceeds.
        high_feature: what its feature residual exceeds, too.
        usual: up to which feature residual a pixel is not distrusted at all.
    """

    by_color: Float[Tensor, "C H W"]
    by_feature: Float[Tensor, "C H W"]
    high_color: Float[Tensor, "C 1 1"]
    high_feature: Float[Tensor, "C 1 1"]
    usual: Float[Tensor, "C 1 1"]


def excess(
    residual: Float[Tensor, "C H W"],
    usual: Float[Tensor, "C 1 1"],
    span: float | Float[Tensor, "C 1 1"],
) -> Float[Tensor, "C H W"]:
    """Distrust: 0 up to the usual residual, 1 where it is exceeded by `span`."""
    return ((residual - usual) / span).clamp(0.0, 1.0)


@dataclass(frozen=True)
class SegmentBank:
    """Candidates of all photos of one size, laid out so that any of them are counted at once.

    An entry is a pixel of a segment; the entries of a photo lie segment by segment, so that a
    segment's sum is the difference of two prefix sums. Sums are integers, hence the same in
    whatever order a device adds.

    Attributes:
        pixels: pixel of each entry; the first entry of a photo belongs to no segment, and what a
            photo has fewer than others is filled up at its end.
        segments: segment of each entry; the last number has no pixels.
        ends: last entry of each segment, after a leading 0.
        areas: pixels of each segment, at least 1, in units of 1 / FIXED_POINT.
    """

    pixels: Int32[Tensor, "V K"]
    segments: Int32[Tensor, "V K"]
    ends: Int64[Tensor, "V S1"]
    areas: Float64[Tensor, "V S"]

    @classmethod
    def of(cls, candidates: Sequence[Candidates], device: torch.device) -> "SegmentBank":
        """Number the segments of all layers of each photo in one row and sort their pixels."""
        with ThreadPoolExecutor() as pool:
            laid_out = list(
                pool.map(lambda one: _sorted_by_segment(one.labels.numpy()), candidates)
            )
        num_entries = max(len(photo.pixels) for photo in laid_out)
        num_segments = max(len(photo.ends) for photo in laid_out)  # one of them without pixels
        pixels = np.zeros((len(laid_out), num_entries), dtype=np.int32)
        segments = np.full_like(pixels, num_segments - 1)
        ends = np.zeros((len(laid_out), num_segments + 1), dtype=np.int64)
        for view, photo in enumerate(laid_out):
            pixels[view, : len(photo.pixels)] = photo.pixels
            segments[view, 1 : len(photo.segments)] = photo.segments[1:]
            ends[view, : len(photo.ends)] = photo.ends
            ends[view, len(photo.ends) :] = photo.ends[-1]
        areas = np.maximum(np.diff(ends), 1) * float(FIXED_POINT)
        arrays = (pixels, segments, ends, areas)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def trust(
        self, rows: Int[Tensor, " C"], seen: Residuals, rule: SegmentRule
    ) -> Float[Tensor, "C H W"]:
        """0 inside the distractors among the segments of the photos at `rows`, 1 elsewhere.

        A segment is one if high pixels are denser in it than in the photo and it differs by more
        than `rule.least_feature` on average, or if its mean distrust exceeds `rule.most_distrust`.
        """
        if seen.by_color.is_cuda:
            return segment_trust(
                seen.by_color,
                seen.by_feature,
                high_color=seen.high_color.flatten(),
                high_feature=seen.high_feature.flatten(),
                usual=seen.usual.flatten(),
                rows=rows,
                pixels=self.pixels,
                segments=self.segments,
                areas=self.areas,
                rule=rule,
            )
        photos = self.at(rows)
        is_high = (seen.by_color > seen.high_color) & (seen.by_feature > seen.high_feature)
        distrust = excess(seen.by_feature, seen.usual, rule.span)
        quantities = torch.stack([is_high.float(), seen.by_feature, distrust], dim=1)
        high, differs, distrusted = photos.density(quantities).unbind(1)
        usually_high = is_high.flatten(1).mean(dim=1, keepdim=True, dtype=torch.float64)
        chosen = (high > usually_high) & (differs > rule.least_feature)
        chosen |= distrusted > rule.most_distrust
        outside = photos.outside(chosen, is_high[0].numel())
        return outside.reshape(is_high.shape).to(seen.by_color.dtype)

    def at(self, rows: Int[Tensor, " C"]) -> "PhotoSegments":
        """The candidates of the photos at `rows`."""
        return PhotoSegments(
            self.pixels[rows].long(), self.segments[rows].long(), self.ends[rows], self.areas[rows]
        )


@dataclass(frozen=True)
class PhotoSegments:
    """Rows of a `SegmentBank`."""

    pixels: Int64[Tensor, "C K"]
    segments: Int64[Tensor, "C K"]
    ends: Int64[Tensor, "C S1"]
    areas: Float64[Tensor, "C S"]

    def density(self, values: Float[Tensor, "C Q H W"]) -> Float64[Tensor, "C Q S"]:
        """Mean of each quantity inside each segment; 0 without pixels."""
        num_quantities = values.shape[1]
        fixed = (values.flatten(2) * FIXED_POINT).long()
        entries = fixed.gather(2, self.pixels[:, None].expand(-1, num_quantities, -1))
        # One row for all: a scan along one long row is fast on every device. The differences
        # below take what the rows before have added away again.
        sums = entries.flatten().cumsum(0).reshape(entries.shape)
        at_ends = sums.gather(2, self.ends[:, None].expand(-1, num_quantities, -1))
        return at_ends.diff(dim=2) / self.areas[:, None]

    def outside(self, chosen: Bool[Tensor, "C S"], num_pixels: int) -> Bool[Tensor, "C P"]:
        """The pixels in none of the chosen segments; one without pixels must not be chosen."""
        hits = chosen.int().gather(1, self.segments)
        count = hits.new_zeros(len(hits), num_pixels)
        return count.scatter_add_(1, self.pixels, hits) == 0


@dataclass(frozen=True)
class _SortedPixels:
    """The entries of one photo; the first belongs to none, `ends` begins with that."""

    pixels: Int[ndarray, " K"]
    segments: Int[ndarray, " K"]
    ends: Int[ndarray, " S1"]


def _sorted_by_segment(labels: Int[ndarray, "L H W"]) -> _SortedPixels:
    layers = labels.reshape(len(labels), -1)
    place = np.flatnonzero(layers)
    layer, pixel = np.divmod(place.astype(np.int32), layers.shape[1])
    label = layers.ravel()[place]
    counts = layers.max(axis=1)
    segment = label + (np.cumsum(counts) - counts)[layer] - 1
    # Short integers are sorted by counting.
    short = segment.astype(np.uint16) if counts.sum() <= 0xFFFF else segment
    order = np.argsort(short, kind="stable")
    ends = np.cumsum(np.bincount(segment, minlength=int(counts.sum())))
    leading = np.zeros(1, dtype=np.int64)
    return _SortedPixels(
        np.concatenate([leading, pixel[order]]),
        np.concatenate([leading, segment[order]]),
        np.concatenate([leading, ends]),
    )
