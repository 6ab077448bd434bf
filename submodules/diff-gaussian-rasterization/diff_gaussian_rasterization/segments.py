"""Which segments of photos a rendering contradicts; for GPUs, and knows nothing of their origin.

Has no gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


@dataclass(frozen=True)
class SegmentRule:
    """When a segment is taken out.

    Attributes:
        least_feature: mean feature residual that a segment with many high pixels must exceed.
        span: a pixel is distrusted by how much its feature residual exceeds the usual one, in units
            of this, between 0 and 1.
        most_distrust: mean distrust beyond which a segment is taken out in any case.
    """

    least_feature: float
    span: float
    most_distrust: float


def segment_trust(
    by_color: Tensor,
    by_feature: Tensor,
    *,
    high_color: Tensor,
    high_feature: Tensor,
    usual: Tensor,
    rows: Tensor,
    pixels: Tensor,
    segments: Tensor,
    areas: Tensor,
    rule: SegmentRule,
) -> Tensor:
    """0 inside the segments that are taken out, 1 elsewhere: float32 [C, H, W].

    A pixel is high where both residuals exceed their thresholds. A segment is taken out where its
    share of high pixels exceeds the photo's and its mean feature residual `rule.least_feature`, or
    where its mean distrust exceeds `rule.most_distrust`. Sums are of integers, 2^20 for a unit, so
    that they are the same in any order.

    Args:
        by_color: float32 [C, H, W].
        by_feature: float32 [C, H, W].
        high_color: float32 [C], of the colour residual of high pixels.
        high_feature: float32 [C], of their feature residual.
        usual: float32 [C], the feature residual up to which nothing is distrusted.
        rows: int64 [C], of the three tables below.
        pixels: int32 [V, K], pixel of each entry.
        segments: int32 [V, K], segment of each entry; of the S of them the last has no entries.
            Neighbours should mostly be of one segment.
        areas: float64 [V, S], 2^20 times the number of entries of each segment, or more than 0.
    """
    return ops.segment_trust(
        by_color,
        by_feature,
        high_color,
        high_feature,
        usual,
        rows,
        pixels,
        segments,
        areas,
        rule.least_feature,
        rule.span,
        rule.most_distrust,
    )


@torch.library.register_fake(f"{_library.NAME}::segment_trust")
def _segment_trust_fake(
    by_color: Tensor,
    _by_feature: Tensor,
    _high_color: Tensor,
    _high_feature: Tensor,
    _usual: Tensor,
    _rows: Tensor,
    _pixels: Tensor,
    _segments: Tensor,
    _areas: Tensor,
    _least_feature: float,
    _span: float,
    _most_distrust: float,
) -> Tensor:
    return torch.empty_like(by_color)
