"""A COLMAP scene of 12 small photos that tests bend and break; writes both file formats.

The photos show a smooth colour of the ray through each pixel, so that an undistorted photo can be
checked against the colour of the pinhole ray.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from scene.camera_models import MODEL_BY_NAME, undistort_points
from scene.rigs import rotation_matrix

WIDTH, HEIGHT = 64, 48
NUM_IMAGES, NUM_POINTS = 12, 200


@dataclass
class CameraRow:
    """One line of cameras.txt."""

    camera_id: int
    model: str
    width: int
    height: int
    params: list[float]
    model_id: int = -1


@dataclass
class ImageRow:
    """One image; a keypoint is (x, y, point id or -1)."""

    image_id: int
    name: str
    quat: list[float]
    translation: list[float]
    camera_id: int
    keypoints: list[tuple[float, float, int]] = field(default_factory=list)


@dataclass
class PointRow:
    """One 3D point; a track element is (image id, index of the keypoint)."""

    point_id: int
    xyz: list[float]
    rgb: tuple[int, int, int]
    track: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class SceneRows:
    """A whole model as lists that a test may change before they are written."""

    cameras: list[CameraRow]
    images: list[ImageRow]
    points: list[PointRow]


def make_rows(model: str = "PINHOLE", params: list[float] | None = None) -> SceneRows:
    """12 cameras on an arc that look at 200 points around the origin, one shared calibration."""
    rng = np.random.default_rng(7)
    params = params or [60.0, 60.0, WIDTH / 2, HEIGHT / 2]
    camera = CameraRow(1, model, WIDTH, HEIGHT, params)
    points = [
        PointRow(
            7 + 3 * i,
            rng.uniform(-1, 1, 3).tolist(),
            tuple(int(c) for c in rng.integers(256, size=3)),
        )
        for i in range(NUM_POINTS)
    ]
    rows = SceneRows([camera], [], points)
    for index in range(NUM_IMAGES):
        angle = 0.1 * (index - NUM_IMAGES / 2)
        quat = [float(np.cos(angle / 2)), 0.0, float(np.sin(angle / 2)), 0.0]
        image = ImageRow(index + 1, f"img_{index:04d}.jpg", quat, [0.05 * index, 0.0, 5.0], 1)
        _observe(rows, image, camera)
        rows.images.append(image)
    return rows


def _observe(rows: SceneRows, image: ImageRow, camera: CameraRow) -> None:
    """Give the image its keypoints, one without a point among them, and the points their tracks."""
    model = MODEL_BY_NAME[camera.model]
    params = np.array(camera.params)
    xyz = np.array([point.xyz for point in rows.points])
    seen = xyz @ rotation_matrix(np.array(image.quat)).T + image.translation
    distorted = model.distort(seen[:, :2] / seen[:, 2:], params[model.num_focal + 2 :])
    focal = params[[0, model.num_focal - 1]]
    pixels = distorted * focal + params[model.num_focal : model.num_focal + 2]
    image.keypoints.append((1.5, 2.5, -1))
    for point, (x, y) in zip(rows.points, pixels, strict=True):
        if 0 <= x <= camera.width and 0 <= y <= camera.height:
            point.track.append((image.image_id, len(image.keypoints)))
            image.keypoints.append((float(x), float(y), point.point_id))


def ray_color(rays: np.ndarray) -> np.ndarray:
    """A smooth colour, 0 to 255, of pinhole rays (x/z, y/z)."""
    x, y = rays[..., 0], rays[..., 1]
    waves = [np.sin(4 * x + 1), np.cos(3 * y - x), np.sin(3 * (x + y))]
    return 127.5 + 100 * np.stack(waves, axis=-1)


def photo_of(camera: CameraRow) -> np.ndarray:
    """What the camera sees of the rays' colours, as it would store it."""
    model = MODEL_BY_NAME[camera.model]
    params = np.array(camera.params)
    at = np.stack(
        np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5), axis=-1
    ).reshape(-1, 2)
    principal = params[model.num_focal : model.num_focal + 2]
    distorted = (at - principal) / params[[0, model.num_focal - 1]]
    rays = undistort_points(model, params[model.num_focal + 2 :], distorted)
    color = np.rint(ray_color(np.nan_to_num(rays))).astype(np.uint8)
    return color.reshape(camera.height, camera.width, 3)


def write_binary(rows: SceneRows, folder: Path) -> None:
    """cameras.bin, images.bin and points3D.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [struct.pack("<Q", len(rows.cameras))]
    for camera in rows.cameras:
        known = MODEL_BY_NAME.get(camera.model)
        model_id = known.model_id if camera.model_id < 0 and known else camera.model_id
        parts.append(struct.pack("<IiQQ", camera.camera_id, model_id, camera.width, camera.height))
        parts.append(struct.pack(f"<{len(camera.params)}d", *camera.params))
    (folder / "cameras.bin").write_bytes(b"".join(parts))
    parts = [struct.pack("<Q", len(rows.images))]
    for image in rows.images:
        parts.append(struct.pack("<I7d", image.image_id, *image.quat, *image.translation))
        parts.append(struct.pack("<I", image.camera_id))
        parts.append(image.name.encode("utf-8", "surrogateescape") + b"\0")
        parts.append(struct.pack("<Q", len(image.keypoints)))
        parts += [struct.pack("<2dq", *keypoint) for keypoint in image.keypoints]
    (folder / "images.bin").write_bytes(b"".join(parts))
    parts = [struct.pack("<Q", len(rows.points))]
    for point in rows.points:
        parts.append(struct.pack("<Q3d3Bd", point.point_id, *point.xyz, *point.rgb, 0.5))
        parts.append(struct.pack("<Q", len(point.track)))
        parts += [struct.pack("<II", *element) for element in point.track]
    (folder / "points3D.bin").write_bytes(b"".join(parts))


def write_text(rows: SceneRows, folder: Path) -> None:
    """cameras.txt, images.txt and points3D.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list"]
    for camera in rows.cameras:
        head = f"{camera.camera_id} {camera.model} {camera.width} {camera.height}"
        lines.append(" ".join([head, *map(repr, camera.params)]))
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list", "# two lines a image"]
    for image in rows.images:
        pose = " ".join(map(repr, [*image.quat, *image.translation]))
        lines.append(f"{image.image_id} {pose} {image.camera_id} {image.name}")
        lines.append(" ".join(f"{x!r} {y!r} {point}" for x, y, point in image.keypoints))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Point list"]
    for point in rows.points:
        track = " ".join(f"{image} {index}" for image, index in point.track)
        xyz = " ".join(map(repr, point.xyz))
        lines.append(f"{point.point_id} {xyz} {' '.join(map(str, point.rgb))} 0.5 {track}")
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_photos(rows: SceneRows, folder: Path) -> None:
    """One photo for every image, at its camera's size."""
    camera_by_id = {camera.camera_id: camera for camera in rows.cameras}
    cache: dict[int, np.ndarray] = {}
    for image in rows.images:
        if image.camera_id not in cache:
            cache[image.camera_id] = photo_of(camera_by_id[image.camera_id])
        path = folder / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cache[image.camera_id]).save(path, quality=95)


def make_scene(
    root: Path,
    rows: SceneRows | None = None,
    change: Callable[[SceneRows], None] | None = None,
    text: bool = False,
) -> Path:
    """A whole dataset folder: photos of the sound rows, a model of the changed ones."""
    rows = rows or make_rows()
    write_photos(rows, root / "images")
    if change is not None:
        change(rows)
    (write_text if text else write_binary)(rows, root / "sparse" / "0")
    return root
