"""Segments of a photo that may be distractors, in memory and as one small file per photo.

Knows nothing of how they were found, of residuals or of training.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64
from numpy import ndarray
from torch import Tensor

from arguments.messages import ExitCode, UserError
from masks.static_evidence import SegmentVerdicts
from scene.atomic import write_atomic

LARGEST_FILE = 1 << 28  # bytes in memory; 8 layers of a 16 megapixel photo
MOST_LABELS = 0xFFFF  # labels are kept in 16 bits
COLUMNS = ("layer", "label", "area", "found", "expected", "agreeing", "comparable", "verdict")
MEMBERS = ("labels", "digest", *COLUMNS)
# What a damaged archive raises; RuntimeError where it claims an encryption or a compression.
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Candidates:
    """The segments of one photo that a mask may take out.

    Attributes:
        labels: layers of segments; within a layer they do not overlap, 0 is no segment, and a
            number means the same segment in one layer only.
    """

    labels: Int[Tensor, "L H W"]


@dataclass(frozen=True)
class CandidateFile:
    """What one file holds.

    Attributes:
        labels: the candidate segments only, as in `Candidates`.
        verdicts: every proposed segment and why it was kept or dropped.
        digest: of the photo, its keypoints and the settings that the file was made from.
    """

    labels: Int32[ndarray, "L H W"]
    verdicts: SegmentVerdicts
    digest: str


def write_candidates(path: Path, content: CandidateFile) -> None:
    """Write one photo's candidates; the file appears whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    if content.labels.max(initial=0) > MOST_LABELS:
        raise ValueError(f"{content.labels.max()} segments in a layer; 16 bits hold {MOST_LABELS}")
    verdicts = content.verdicts
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        labels=content.labels.astype(np.uint16),
        digest=np.frombuffer(content.digest.encode("ascii"), dtype=np.uint8),
        layer=verdicts.layer,
        label=verdicts.label,
        area=verdicts.area,
        found=verdicts.found,
        expected=verdicts.expected,
        agreeing=verdicts.agreeing,
        comparable=verdicts.comparable,
        verdict=verdicts.verdict,
    )
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder",
            ExitCode.FILE_SYSTEM,
        ) from error


def read_candidates(path: Path) -> CandidateFile:
    """Read and check one photo's candidates.

    Raises:
        UserError: the file is missing, cut short, changed, too large or of another kind.
    """
    try:
        arrays = _read_arrays(path)
        return _checked(arrays)
    except DAMAGE as error:
        raise UserError(
            f"candidates in {path} cannot be used: {error}; delete the file, it is made again"
        ) from error


def _read_arrays(path: Path) -> Mapping[str, ndarray]:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if sorted(info.filename for info in infos) != sorted(f"{name}.npy" for name in MEMBERS):
            raise ValueError(f"it holds {[info.filename for info in infos][:10]}")
        size = sum(info.file_size for info in infos)
        if size > LARGEST_FILE:
            raise ValueError(f"it unpacks to {size} bytes, more than {LARGEST_FILE}")
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in MEMBERS}
    odd = [name for name, array in arrays.items() if not isinstance(array, ndarray)]
    if odd:
        raise ValueError(f"'{odd[0]}' is no array")
    return arrays


def _checked(arrays: Mapping[str, ndarray]) -> CandidateFile:
    labels = arrays["labels"]
    if labels.ndim != 3 or labels.dtype != np.uint16 or 0 in labels.shape:
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}, not uint16 L H W")
    columns = [arrays[name] for name in COLUMNS]
    if any(column.shape != columns[0].shape or column.ndim != 1 for column in columns):
        raise ValueError(f"columns have shapes {[column.shape for column in columns]}")
    verdicts = SegmentVerdicts(
        layer=arrays["layer"].astype(np.uint8),
        label=arrays["label"].astype(np.int32),
        area=arrays["area"].astype(np.int32),
        found=arrays["found"].astype(np.float32),
        expected=arrays["expected"].astype(np.float32),
        agreeing=arrays["agreeing"].astype(np.float32),
        comparable=arrays["comparable"].astype(np.float32),
        verdict=arrays["verdict"].astype(np.uint8),
    )
    digest = arrays["digest"].astype(np.uint8).tobytes().decode("ascii")
    return CandidateFile(labels.astype(np.int32), verdicts, digest)


FIXED_POINT = 1 << 20  # integers per unit: sums of them are exact and depend on no order


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
        laid_out = [_sorted_by_segment(one.labels.numpy()) for one in candidates]
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
    layers = labels.reshape(len(labels), -1).astype(np.int64)
    counts = layers.max(axis=1)
    before = np.cumsum(counts) - counts
    layer, pixel = np.nonzero(layers)
    segment = layers[layer, pixel] + before[layer] - 1
    order = np.argsort(segment, kind="stable")
    ends = np.cumsum(np.bincount(segment, minlength=int(counts.sum())))
    leading = np.zeros(1, dtype=np.int64)
    return _SortedPixels(
        np.concatenate([leading, pixel[order]]),
        np.concatenate([leading, segment[order]]),
        np.concatenate([leading, ends]),
    )
