"""Where a photo shows what other photos show too, and which segments that speaks for.

Knows keypoints, texture and agreement with other photos; it has no opinion on how segments are made
or what a render looks like.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import gaussian_filter

from masks.agreement import Agreement
from masks.neighbors import DuePoints
from scene.capture import View

BRIGHTNESS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601 luma

EvidenceKind = Literal["tracks", "database", "features"]
KINDS: tuple[EvidenceKind, ...] = get_args(EvidenceKind)

# Texture with less than this share of the photo's mean density of keypoints is no place to expect
# any: over a large blank wall even a tiny rate would add up to a promise.
BARREN = 0.3


class Verdict(enum.IntEnum):
    """Why a segment stays a candidate or not."""

    CANDIDATE = 0  # keypoints were to be expected, and are missing
    STATIC = 1  # it has keypoints that other photos have seen in the same place
    UNDECIDABLE = 2  # so little texture that even a static segment would have no keypoint
    AGREES = 3  # no candidate: other photos show the same colours in the same place
    DIFFERS = 4  # a candidate: other photos show other colours there, at whatever depth
    MATCHED = 5  # as STATIC, but only with matches of COLMAP's database
    RECOGNIZED = 6  # as STATIC, but only with features matched here


CANDIDATES = (Verdict.CANDIDATE, Verdict.DIFFERS)
PROVED_BY = np.array([Verdict.STATIC, Verdict.MATCHED, Verdict.RECOGNIZED])  # in the order of KINDS


@dataclass(frozen=True)
class EvidenceSettings:
    """When a segment counts as static."""

    min_track_length: int = 3
    """Photos that must have seen a point before it proves that something stands still."""

    density: float = 0.1
    """A segment with more than this share of the keypoints to be expected in it is static."""

    min_expected: float = 1.5
    """A segment in which fewer keypoints are to be expected is left alone: their absence says
    nothing."""

    min_expected_in_static: float = 4.0
    """The same for a segment that lies in a larger one that is static, and so is probably a part
    of it."""

    neighbors: float = 0.5
    """How much the points that neighbouring photos see count for what to expect, against the
    texture of the photo itself."""

    texture_aware: bool = True
    """Expect keypoints where there is texture, as measured in the same photo; False expects them
    everywhere alike, as the paper does."""

    compare_photos: bool = True
    """Look the colours up in other photos too; False goes by keypoints alone, as the paper does."""

    agrees_from: float = 0.65
    """A segment is static whose cells agree with other photos at this share of the photo's usual
    rate or more."""

    differs_below: float = 0.33
    """A segment is a candidate whose cells agree at less than this share of the usual rate."""

    outvoted_below: float = 0.5
    """But not one that has more than this share of the keypoints to be expected in it."""

    min_cells: float = 3.0
    """Comparable cells, of 80 along the photo, that a segment needs for either."""

    min_usual: float = 0.3
    """A photo of which less agrees with others cannot be compared: another light, another place."""


@dataclass(frozen=True)
class ProvedPoints:
    """Pixels of one photo that show what stands still, as one kind of evidence proves it."""

    kind: EvidenceKind
    xy: Float32[ndarray, "P 2"]


def track_points(view: View, min_track_length: int) -> ProvedPoints:
    """The keypoints of a view whose point so many photos have seen."""
    return ProvedPoints("tracks", view.keypoints[view.track_lengths >= min_track_length])


@dataclass(frozen=True)
class StaticEvidence:
    """Keypoints found and expected, pixel by pixel.

    Attributes:
        found: 1 at pixels with a keypoint that is proved to stand still.
        expected: number of such keypoints to be expected in each pixel if nothing in the photo
            moved; sums to the number that was found.
        agreement: with other photos, on a coarser grid; None where none could be compared.
        proof: 1 + the number in KINDS of the first kind that proved a pixel, 0 where none did;
            None where all were proved by tracks.
    """

    found: Float32[ndarray, "H W"]
    expected: Float32[ndarray, "H W"]
    agreement: Agreement | None = None
    proof: UInt8[ndarray, "H W"] | None = None


@dataclass(frozen=True)
class SegmentVerdicts:
    """One entry for each segment of all layers, and why it was kept or dropped.

    Attributes:
        layer: the layer of the segment.
        label: its number in that layer.
        area: its pixels.
        found: keypoints in it.
        expected: keypoints to be expected in it.
        agreeing: cells in it that agree with other photos.
        comparable: cells in it that could.
        verdict: a `Verdict`.
    """

    layer: UInt8[ndarray, " S"]
    label: Int32[ndarray, " S"]
    area: Int32[ndarray, " S"]
    found: Float32[ndarray, " S"]
    expected: Float32[ndarray, " S"]
    agreeing: Float32[ndarray, " S"]
    comparable: Float32[ndarray, " S"]
    verdict: UInt8[ndarray, " S"]


def slopes(
    values: Float32[ndarray, "H W"],
) -> tuple[Float32[ndarray, "H W"], Float32[ndarray, "H W"]]:
    """Change per pixel downwards and to the right; none along a side of one pixel."""
    down, right = (
        np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)
        for axis in (0, 1)
    )
    return down, right


def cornerness(image: UInt8[ndarray, "H W 3"]) -> Float32[ndarray, "H W"]:
    """Log of the smaller eigenvalue of the structure tensor: where keypoints like to sit."""
    brightness = image.astype(np.float32) @ BRIGHTNESS
    down, right = slopes(brightness)
    blur = 1.5  # pixels; about the neighbourhood that a keypoint at working size looks at
    yy, xx, xy = (gaussian_filter(p, blur) for p in (down * down, right * right, down * right))
    smaller = 0.5 * (yy + xx) - np.sqrt(0.25 * (yy - xx) ** 2 + xy * xy)
    return np.log1p(np.maximum(smaller, 0.0))


def keypoint_density(
    texture: Float32[ndarray, "H W"], found: Float32[ndarray, "H W"]
) -> Float32[ndarray, "H W"]:
    """Keypoints to be expected per pixel: the share of the pixels of like texture that have one.

    The share may only rise with the texture, so that a few keypoints say enough.
    """
    num_bins = 12
    shares = np.linspace(0, 1, num_bins + 1)[1:-1]
    bins = np.digitize(texture, np.quantile(texture[::2, ::2], shares))
    pixels = np.bincount(bins.ravel(), minlength=num_bins)
    keypoints = np.bincount(bins.ravel(), weights=found.ravel(), minlength=num_bins)
    rate = np.maximum.accumulate(keypoints / np.maximum(pixels, 1))
    rate[rate < BARREN * found.mean()] = 0.0
    rate *= keypoints.sum() / max((rate * pixels).sum(), 1e-12)
    return rate[bins].astype(np.float32)


def gather_evidence(
    image: UInt8[ndarray, "H W 3"],
    view: View,
    due: DuePoints,
    settings: EvidenceSettings,
    agreement: Agreement | None = None,
    points: Sequence[ProvedPoints] | None = None,
) -> StaticEvidence:
    """Evidence in one photo from its own keypoints and from what its neighbours see.

    Args:
        due: points that the photo ought to show; without any, texture alone says what to expect.
        agreement: with other photos, where it was looked for.
        points: of every kind of evidence; None stands for the tracks alone.
    """
    if points is None:
        points = [track_points(view, settings.min_track_length)]
    shape = image.shape[:2]
    proof = np.zeros(shape, dtype=np.uint8)
    for one in sorted(points, key=lambda one: KINDS.index(one.kind)):
        proof[(proof == 0) & (splat(one.xy, shape) > 0)] = 1 + KINDS.index(one.kind)
    found = (proof > 0).astype(np.float32)
    if not settings.texture_aware:
        return StaticEvidence(found, np.full_like(found, found.mean()), agreement, proof)
    expected = keypoint_density(cornerness(image), found)
    if len(due.xy):
        from_neighbors = splat(due.xy, shape) * np.float32(found.sum() / len(due.xy))
        expected += settings.neighbors * (from_neighbors - expected)
    return StaticEvidence(found, expected, agreement, proof)


def splat(xy: Float32[ndarray, "P 2"], shape: tuple[int, int]) -> Float32[ndarray, "H W"]:
    """Number of points in each pixel; those outside of the image are left out."""
    x, y = np.floor(xy).astype(int).T
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    counts = np.zeros(shape, dtype=np.float32)
    np.add.at(counts, (y[inside], x[inside]), 1.0)
    return counts


def judge_segments(
    labels: Int32[ndarray, "L H W"], evidence: StaticEvidence, settings: EvidenceSettings
) -> SegmentVerdicts:
    """Every segment with its keypoints and the verdict; label 0 is no segment.

    The last layer is the coarsest. A photo without any keypoint proves nothing static: all its
    segments stay candidates unless they agree with other photos.
    """
    maps = _maps(evidence, labels.shape[1:])
    counts = [_count_layer(layer, of_pixel, maps) for layer, of_pixel in enumerate(labels)]
    is_static = _has_enough(counts[-1], settings)
    static_surroundings = np.isin(labels[-1], counts[-1].label[is_static])
    parts = []
    for of_pixel, count in zip(labels, counts, strict=True):
        inside = np.bincount(of_pixel.ravel(), weights=static_surroundings.ravel())
        lies_in_static = inside[count.label] > 0.5 * count.area
        enough = np.where(lies_in_static, settings.min_expected_in_static, settings.min_expected)
        count.verdict[count.expected < enough] = Verdict.UNDECIDABLE
        count.verdict[_has_enough(count, settings)] = Verdict.STATIC
        if not evidence.found.any():
            count.verdict[:] = Verdict.CANDIDATE
        _compare(count, evidence.agreement, settings)
        parts.append(count)
    names = [field.name for field in fields(SegmentVerdicts)]
    verdicts = SegmentVerdicts(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )
    _name_proof(verdicts, found_by_kind(labels, evidence), settings)
    return verdicts


def _has_enough(count: SegmentVerdicts, settings: EvidenceSettings) -> Bool[ndarray, " S"]:
    """Whether a segment has keypoints, and as many as what stands still would have."""
    return (count.found > 0) & (count.found >= settings.density * count.expected)


def found_by_kind(
    labels: Int32[ndarray, "L H W"], evidence: StaticEvidence
) -> Float32[ndarray, "K S"]:
    """Keypoints in every segment, as `judge_segments` lists them, that each of KINDS proved first.

    A segment's numbers add up to its `found`.
    """
    proof = evidence.proof
    if proof is None:
        proof = (evidence.found > 0).astype(np.uint8)
    width = 1 + len(KINDS)
    counts = []
    for of_pixel in labels:
        flat = of_pixel.ravel()
        label = np.flatnonzero(np.bincount(flat))
        cells = np.bincount(
            flat * width + proof.ravel(),
            weights=evidence.found.ravel(),
            minlength=(int(flat.max()) + 1) * width,
        )
        counts.append(cells.reshape(-1, width)[label[label > 0], 1:])
    return np.concatenate(counts).T.astype(np.float32)


def _name_proof(
    verdicts: SegmentVerdicts, found: Float32[ndarray, "K S"], settings: EvidenceSettings
) -> None:
    """Let the verdict on a static segment say which of KINDS was enough, with those before it."""
    enough = np.cumsum(found, axis=0) >= settings.density * verdicts.expected
    static = verdicts.verdict == Verdict.STATIC
    verdicts.verdict[static] = PROVED_BY[enough.argmax(axis=0)[static]]


def _compare(
    count: SegmentVerdicts, agreement: Agreement | None, settings: EvidenceSettings
) -> None:
    """Overrule the keypoints where other photos clearly agree or differ."""
    if agreement is None or agreement.usual < settings.min_usual:
        return
    enough = count.comparable >= settings.min_cells
    rate = count.agreeing / np.maximum(count.comparable, 1e-6) / agreement.usual
    has_keypoints = count.found >= settings.outvoted_below * count.expected
    differs = enough & (rate < settings.differs_below)
    count.verdict[differs & ~(has_keypoints & (count.found > 0))] = Verdict.DIFFERS
    count.verdict[enough & (rate >= settings.agrees_from)] = Verdict.AGREES


def _maps(evidence: StaticEvidence, shape: tuple[int, ...]) -> tuple[Float32[ndarray, "H W"], ...]:
    """Keypoints found and expected, cells agreeing and comparable, all pixel by pixel."""
    agreement = evidence.agreement
    if agreement is None:
        none = np.zeros(shape, dtype=np.float32)
        return evidence.found, evidence.expected, none, none
    cells = np.float32(agreement.agreeing.size / (shape[0] * shape[1]))  # in a pixel
    spread = (
        np.asarray(Image.fromarray(c).resize((shape[1], shape[0]), Image.Resampling.NEAREST))
        * cells
        for c in (agreement.agreeing, agreement.comparable)
    )
    return evidence.found, evidence.expected, *spread


def _count_layer(
    layer: int, of_pixel: Int32[ndarray, "H W"], maps: tuple[Float32[ndarray, "H W"], ...]
) -> SegmentVerdicts:
    """The segments of one layer, all of them candidates so far."""
    flat = of_pixel.ravel()
    area = np.bincount(flat)
    label = np.flatnonzero(area)
    label = label[label > 0]
    found, expected, agreeing, comparable = (
        np.bincount(flat, weights=values.ravel())[label].astype(np.float32) for values in maps
    )
    return SegmentVerdicts(
        layer=np.full(len(label), layer, dtype=np.uint8),
        label=label.astype(np.int32),
        area=area[label].astype(np.int32),
        found=found,
        expected=expected,
        agreeing=agreeing,
        comparable=comparable,
        verdict=np.full(len(label), Verdict.CANDIDATE, dtype=np.uint8),
    )


def is_candidate(verdicts: SegmentVerdicts) -> Bool[ndarray, " S"]:
    """Which segments may be distractors."""
    return np.isin(verdicts.verdict, CANDIDATES)


def keep_candidates(
    labels: Int32[ndarray, "L H W"], verdicts: SegmentVerdicts
) -> Int32[ndarray, "L H W"]:
    """`labels` with 0 at every segment that is no candidate."""
    kept = np.zeros_like(labels)
    for layer, of_pixel in enumerate(labels):
        mine = (verdicts.layer == layer) & is_candidate(verdicts)
        stays = np.zeros(int(of_pixel.max()) + 1, dtype=bool)
        stays[verdicts.label[mine]] = True
        kept[layer] = np.where(stays[of_pixel], of_pixel, 0)
    return kept
