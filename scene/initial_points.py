"""The points a reconstruction starts from, and how large the captured scene is.

Knows views and points; reads no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from arguments.messages import Messages, UserError
from scene.colmap_records import ColmapPoints
from scene.rigs import rotation_matrix

NUM_RANDOM_POINTS = 50_000
FEWEST_POINTS = 100
# Random points lie between these shares of the scene's scale in front of a camera.
NEAREST_DEPTH, FARTHEST_DEPTH = 0.3, 3.0
INRIA_MARGIN = 1.1
# Beyond this many extents from the origin a rounding error is a tenth of a pixel or more.
FARTHEST_ORIGIN = 1700.0
RANDOM_SEED = 0


@dataclass(frozen=True)
class PointRays:
    """What a camera needs to send random rays: where it is and what it sees."""

    quat: Float64[np.ndarray, "4"]
    translation: Float64[np.ndarray, "3"]
    K: Float64[np.ndarray, "3 3"]
    image: UInt8[np.ndarray, "H W 3"]

    @property
    def center(self) -> Float64[np.ndarray, "3"]:
        """The camera's place in the world."""
        return -rotation_matrix(self.quat).T @ self.translation


@dataclass(frozen=True)
class StartPoints:
    """Coloured points in world units."""

    xyz: Float32[np.ndarray, "M 3"]
    rgb: UInt8[np.ndarray, "M 3"]


def scale_of_scene(
    centers: Float64[np.ndarray, "C 3"], xyz: Float64[np.ndarray, "M 3"], messages: Messages
) -> float:
    """INRIA's camera extent: 1.1 times the largest distance of a camera to their mean.

    Cameras at one place have none; then it is the distance within which 9 of 10 points lie.
    """
    if len(centers) == 1:
        messages.warn("1 view: geometry is not determined")
    distances = np.linalg.norm(centers - centers.mean(axis=0), axis=1)
    extent = float(distances.max())
    farthest = float(np.abs(centers).max())
    if extent > 1e-6 * (1 + farthest):
        if farthest > FARTHEST_ORIGIN * extent:
            spacing = float(np.spacing(np.float32(farthest)))
            messages.warn(
                f"the cameras are {farthest / extent:.2g} times their extent away from the origin; "
                f"numbers of 32 bits lose digits there, move the model to the origin (they are "
                f"{spacing:.2g} apart, {spacing / extent:.2g} of the extent)"
            )
        return INRIA_MARGIN * extent
    if len(centers) > 1:
        messages.warn(f"{len(centers)} cameras at one place: geometry is not determined")
    if len(xyz) == 0:
        return 1.0
    to_points = np.linalg.norm(xyz - centers[0], axis=1)
    return max(float(np.quantile(to_points, 0.9)), 1e-6)


def start_points(
    points: ColmapPoints,
    cameras: Sequence[PointRays],
    scene_scale: float,
    require_points: bool,
    points_file: str,
    messages: Messages,
) -> StartPoints:
    """The model's points, topped up with random points in view where it has too few.

    Raises:
        UserError: there are none and the user requires them.
    """
    found = StartPoints(points.xyz.astype(np.float32), points.rgb)
    count = len(found.xyz)
    if count >= FEWEST_POINTS:
        return found
    if require_points:
        raise UserError(f"{points_file} has {count} points (--init points); re-run COLMAP")
    if count == 0:
        what = "no initial points; starting from"
    else:
        what = f"{points_file} has only {count} points; adding"
    number = f"{NUM_RANDOM_POINTS:,}".replace(",", " ")
    messages.warn(f"{what} {number} random points in view (--init points to require them)")
    random = _random_points(cameras, scene_scale)
    return StartPoints(
        np.concatenate([found.xyz, random.xyz]), np.concatenate([found.rgb, random.rgb])
    )


def _random_points(cameras: Sequence[PointRays], scene_scale: float) -> StartPoints:
    """Points on random rays through random pixels, with the pixel's colour."""
    rng = np.random.default_rng(RANDOM_SEED)
    shares = np.array_split(np.arange(NUM_RANDOM_POINTS), len(cameras))
    xyz, rgb = [], []
    for camera, share in zip(cameras, shares, strict=True):
        height, width = camera.image.shape[:2]
        pixel = rng.uniform(size=(len(share), 2)) * [width, height]
        depth = scene_scale * rng.uniform(NEAREST_DEPTH, FARTHEST_DEPTH, size=(len(share), 1))
        focal = camera.K[[0, 1], [0, 1]]
        ray = np.concatenate([(pixel - camera.K[:2, 2]) / focal, np.ones_like(depth)], axis=1)
        rotation = rotation_matrix(camera.quat)
        xyz.append((ray * depth - camera.translation) @ rotation)
        column, row = pixel.astype(np.int64).T
        rgb.append(camera.image[np.minimum(row, height - 1), np.minimum(column, width - 1)])
    return StartPoints(np.concatenate(xyz).astype(np.float32), np.concatenate(rgb))
