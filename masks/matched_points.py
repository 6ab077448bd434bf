"""Which matched keypoints stand still: those whose rays meet, from several known places.

Knows poses and pixels; it has no opinion on who matched them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from scene.cameras import Camera

MAX_ERROR = 2.0  # pixels at working size, between a keypoint and where its point appears
MIN_ANGLE = 1.5  # degrees between two rays; below it even what moves may seem to meet


@dataclass(frozen=True)
class Matches:
    """Keypoints of a photo that look like keypoints of another one.

    Attributes:
        camera: of the other photo.
        row: the keypoint of the first photo.
        xy: the keypoint of the other one, in its pixels.
    """

    camera: Camera
    row: Int64[ndarray, " M"]
    xy: Float64[ndarray, "M 2"]


@dataclass(frozen=True)
class _Pinhole:
    """A camera in numpy, double precision."""

    K: Float64[ndarray, "3 3"]
    turn: Float64[ndarray, "3 3"]
    shift: Float64[ndarray, "3"]

    @classmethod
    def of(cls, camera: Camera) -> "_Pinhole":
        viewmat = camera.viewmat.double().numpy()
        return cls(camera.K.double().numpy(), viewmat[:3, :3], viewmat[:3, 3])

    @property
    def center(self) -> Float64[ndarray, "3"]:
        return -self.turn.T @ self.shift

    def rays(self, xy: Float64[ndarray, "M 2"]) -> Float64[ndarray, "M 3"]:
        """Directions of pixels in the world, of length 1."""
        ahead = (xy - self.K[:2, 2]) / self.K[[0, 1], [0, 1]]
        rays = np.column_stack([ahead, np.ones(len(xy))]) @ self.turn
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def shows(
        self, xyz: Float64[ndarray, "M 3"], xy: Float64[ndarray, "M 2"]
    ) -> Bool[ndarray, " M"]:
        """Whether each point appears at its pixel, in front of the camera."""
        seen = xyz @ self.turn.T + self.shift
        depth = np.where(seen[:, 2] > 0, seen[:, 2], np.nan)
        at = seen[:, :2] / depth[:, None] * self.K[[0, 1], [0, 1]] + self.K[:2, 2]
        return np.linalg.norm(at - xy, axis=1) <= MAX_ERROR


@dataclass(frozen=True)
class _Met:
    """Matches whose rays meet: the keypoint, the point where they do, and the angle's cosine."""

    other: _Pinhole
    row: Int64[ndarray, " M"]
    xy: Float64[ndarray, "M 2"]
    xyz: Float64[ndarray, "M 3"]
    cosine: Float64[ndarray, " M"]


def standing_still(
    camera: Camera,
    keypoints: Float64[ndarray, "N 2"],
    matches: Sequence[Matches],
    num_photos: int,
) -> Bool[ndarray, " N"]:
    """The keypoints that `num_photos` photos or more, this one among them, show in one place.

    A point is where a keypoint's ray meets the ray that crosses it at the widest angle; the other
    photos must have their keypoint where that point appears.
    """
    own = _Pinhole.of(camera)
    met = [_where_rays_meet(own, keypoints, one) for one in matches]
    row = np.concatenate([one.row for one in met] + [np.empty(0, np.int64)])
    xyz = np.concatenate([one.xyz for one in met] + [np.empty((0, 3))])
    cosine = np.concatenate([one.cosine for one in met] + [np.empty(0)])
    point = np.full((len(keypoints), 3), np.nan)
    widest_last = np.argsort(-cosine, kind="stable")
    point[row[widest_last]] = xyz[widest_last]
    times = np.ones(len(keypoints), dtype=np.int64)
    for one in met:
        agrees = one.other.shows(point[one.row], one.xy)
        times[np.unique(one.row[agrees])] += 1
    return times >= max(2, num_photos)


def _where_rays_meet(own: _Pinhole, keypoints: Float64[ndarray, "N 2"], matches: Matches) -> _Met:
    """The matches that agree with the poses, triangulated.

    The point is the middle of the shortest line between the two rays (Hartley and Sturm 1997).
    """
    other = _Pinhole.of(matches.camera)
    xy = keypoints[matches.row]
    here, there = own.rays(xy), other.rays(matches.xy)
    cosine = (here * there).sum(axis=1)
    apart = other.center - own.center
    to_here, to_there = here @ apart, there @ apart
    sine2 = np.maximum(1.0 - cosine**2, 1e-12)
    along_here = (to_here - cosine * to_there) / sine2
    along_there = (cosine * to_here - to_there) / sine2
    xyz = 0.5 * (
        own.center + along_here[:, None] * here + other.center + along_there[:, None] * there
    )
    meets = cosine < np.cos(np.radians(MIN_ANGLE))
    meets &= own.shows(xyz, xy) & other.shows(xyz, matches.xy)
    return _Met(other, matches.row[meets], matches.xy[meets], xyz[meets], cosine[meets])
