"""A COLMAP model with fewer images: the other photos of a download need not be kept or decoded.

Copies records as they are, byte for byte; what a record says is the business of `scene.colmap`.
"""

import shutil
import struct
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import TypeVar

import numpy as np

from arguments.messages import UserError

Record = TypeVar("Record")
IMAGE_HEAD = 64  # bytes of an image record before its name: id, quaternion, translation, camera
KEYPOINT_BYTES = 24
POINT_HEAD = struct.Struct("<Q3d3Bd")  # id, position, colour, error
COUNT = struct.Struct("<Q")


def write_subset(model: Path, names: Set[str], out: Path) -> None:
    """Write the model in `model` to `out` with those images only.

    All points stay; their tracks lose the images that are gone. Rigs and frames of COLMAP >= 3.12
    are left out: the images carry their own poses.

    Raises:
        UserError: a file ends early.
    """
    out.mkdir(parents=True)
    if (model / "images.bin").is_file():
        shutil.copyfile(model / "cameras.bin", out / "cameras.bin")
        kept = [
            record for name, record in _read(model / "images.bin", _image_records) if name in names
        ]
        (out / "images.bin").write_bytes(COUNT.pack(len(kept)) + b"".join(kept))
        ids = np.array([struct.unpack_from("<I", record)[0] for record in kept], np.uint32)
        points = [_shortened(*record, ids) for record in _read(model / "points3D.bin", _points)]
        (out / "points3D.bin").write_bytes(COUNT.pack(len(points)) + b"".join(points))
    else:
        shutil.copyfile(model / "cameras.txt", out / "cameras.txt")
        images, texts = _text_images(model / "images.txt", names)
        (out / "images.txt").write_bytes(images)
        (out / "points3D.txt").write_bytes(_text_points(model / "points3D.txt", texts))


def _read(path: Path, records: Callable[[bytes], Iterator[Record]]) -> list[Record]:
    data = path.read_bytes()
    try:
        return list(records(data))
    except (struct.error, ValueError):
        raise UserError(f"{path} ends early ({len(data)} bytes); copy it again") from None


def _image_records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every image."""
    at = COUNT.size
    for _ in range(COUNT.unpack_from(data)[0]):
        end = data.index(b"\0", at + IMAGE_HEAD)
        (num_keypoints,) = COUNT.unpack_from(data, end + 1)
        after = end + 1 + COUNT.size + KEYPOINT_BYTES * num_keypoints
        if after > len(data):
            raise ValueError
        yield data[at + IMAGE_HEAD : end].decode("utf-8", "surrogateescape"), data[at:after]
        at = after


def _points(data: bytes) -> Iterator[tuple[bytes, np.ndarray]]:
    """What stands before the track of every point, and the track: image id, keypoint."""
    at = COUNT.size
    for _ in range(COUNT.unpack_from(data)[0]):
        head = data[at : at + POINT_HEAD.size]
        at += POINT_HEAD.size
        (length,) = COUNT.unpack_from(data, at)
        at += COUNT.size
        yield head, np.frombuffer(data, "<u4", 2 * length, at).reshape(length, 2)
        at += 8 * length


def _shortened(head: bytes, track: np.ndarray, ids: np.ndarray) -> bytes:
    kept = track[np.isin(track[:, 0], ids)]
    return head + COUNT.pack(len(kept)) + kept.tobytes()


def _text_images(path: Path, names: Set[str]) -> tuple[bytes, set[bytes]]:
    """The lines of the images that stay, and their ids as written."""
    rows = [line for line in path.read_bytes().splitlines() if not line.startswith(b"#")]
    kept: list[bytes] = []
    ids: set[bytes] = set()
    for pose, keypoints in zip(rows[::2], [*rows[1::2], b""], strict=False):
        words = pose.split(maxsplit=9)
        if len(words) > 9 and words[9].strip().decode("utf-8", "surrogateescape") in names:
            kept += [pose, keypoints]
            ids.add(words[0])
    return b"".join(line + b"\n" for line in kept), ids


def _text_points(path: Path, ids: Set[bytes]) -> bytes:
    lines = []
    for line in path.read_bytes().splitlines():
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        track = [(a, b) for a, b in zip(words[8::2], words[9::2], strict=False) if a in ids]
        lines.append(b" ".join([*words[:8], *(word for pair in track for word in pair)]) + b"\n")
    return b"".join(lines)
