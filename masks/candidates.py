"""Segments of a photo that may be distractors, in memory and as one small file per photo.

Knows nothing of how they were found, of residuals or of training.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32
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
