"""Writes a small pinhole model as COLMAP's three binary files; reads none, and knows no scene."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

PINHOLE = 1  # COLMAP's number of the camera model with fx, fy, cx, cy


@dataclass(frozen=True)
class Photo:
    """One registered photo.

    Attributes:
        rotation: world to camera (x right, y down, z forward).
        keypoints: pixel positions; the centre of the top left pixel is (0.5, 0.5).
        point_ids: row in the model's points of each keypoint.
    """

    name: str
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, "3"]
    keypoints: Float64[np.ndarray, "P 2"]
    point_ids: Int64[np.ndarray, "P"]


@dataclass(frozen=True)
class Model:
    """Photos of one pinhole camera and the points that they see."""

    width: int
    height: int
    focal: float
    photos: tuple[Photo, ...]
    xyz: Float64[np.ndarray, "N 3"]
    rgb: UInt8[np.ndarray, "N 3"]
    errors: Float64[np.ndarray, "N"]


def write_model(folder: Path, model: Model) -> None:
    """Writes cameras.bin, images.bin and points3D.bin into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    middle = (model.width / 2, model.height / 2)
    camera = struct.pack("<QiiQQ", 1, 1, PINHOLE, model.width, model.height)
    camera += struct.pack("<4d", model.focal, model.focal, *middle)
    (folder / "cameras.bin").write_bytes(camera)
    blocks = [struct.pack("<Q", len(model.photos))]
    blocks += [_photo_block(number, photo) for number, photo in enumerate(model.photos, 1)]
    (folder / "images.bin").write_bytes(b"".join(blocks))
    tracks: list[list[tuple[int, int]]] = [[] for _ in model.xyz]
    for number, photo in enumerate(model.photos, 1):
        for row, point in enumerate(photo.point_ids.tolist()):
            tracks[point].append((number, row))
    blocks = [struct.pack("<Q", len(model.xyz))]
    for row, track in enumerate(tracks):
        blocks.append(struct.pack("<Q3d", row + 1, *model.xyz[row]))
        blocks.append(struct.pack("<3Bd", *model.rgb[row].tolist(), model.errors[row]))
        blocks.append(struct.pack("<Q", len(track)))
        blocks.append(np.asarray(track, "<u4").tobytes())
    (folder / "points3D.bin").write_bytes(b"".join(blocks))


def quaternion(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4"]:
    """The unit quaternion (w, x, y, z), w >= 0, of a rotation matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    # The eigenvector form holds for every angle, also where w is near 0.
    matrix = np.array(
        [
            [xx + yy + zz, 0, 0, 0],
            [zy - yz, xx - yy - zz, 0, 0],
            [xz - zx, xy + yx, yy - xx - zz, 0],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    best = np.linalg.eigh(matrix)[1][:, -1]
    return best if best[0] >= 0 else -best


def _photo_block(number: int, photo: Photo) -> bytes:
    head = struct.pack("<I4d3dI", number, *quaternion(photo.rotation), *photo.translation, 1)
    rows = np.empty(len(photo.keypoints), np.dtype([("xy", "<f8", 2), ("point", "<i8")]))
    rows["xy"] = photo.keypoints
    rows["point"] = photo.point_ids + 1
    name = photo.name.encode() + b"\0"
    return head + name + struct.pack("<Q", len(rows)) + rows.tobytes()
