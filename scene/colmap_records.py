"""The plain records of a COLMAP model and what every one of them must satisfy.

Knows neither of the two file formats nor of photos.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from arguments.messages import Messages, UserError
from scene.camera_models import MODEL_BY_ID, MODEL_BY_NAME, SUPPORTED_NAMES, CameraModel

LARGEST_SIDE = 65_535
LONGEST_NAME = 4096
LARGEST_COORDINATE = 1e7
SMALLEST_QUATERNION, LARGEST_QUATERNION = 1e-6, 1e6
LARGEST_TRANSLATION = 1e12
LARGEST_PARAMETER = 1e9
UNIT_TOLERANCE = 1e-3
NO_POINT = -1


@dataclass(frozen=True)
class ColmapCamera:
    """One calibrated camera, possibly distorted, in pixels of the photo that COLMAP saw."""

    camera_id: int
    model: CameraModel
    width: int
    height: int
    params: Float64[np.ndarray, " Q"]

    @property
    def focal(self) -> Float64[np.ndarray, "2"]:
        """fx, fy in pixels."""
        return self.params[[0, self.model.num_focal - 1]]

    @property
    def principal(self) -> Float64[np.ndarray, "2"]:
        """cx, cy in pixels; the centre of the top left pixel is (0.5, 0.5)."""
        return self.params[self.model.num_focal : self.model.num_focal + 2]

    @property
    def extra(self) -> Float64[np.ndarray, " E"]:
        """The parameters of the distortion."""
        return self.params[self.model.num_focal + 2 :]


@dataclass(frozen=True)
class ColmapImage:
    """One posed photo and its observations of 3D points.

    Attributes:
        quat: rotation world to camera, wxyz.
        translation: world to camera.
        keypoints: pixels of the distorted photo; only those that have a 3D point.
        point_ids: the 3D point of each keypoint.
    """

    image_id: int
    name: str
    quat: Float64[np.ndarray, "4"]
    translation: Float64[np.ndarray, "3"]
    camera_id: int
    keypoints: Float64[np.ndarray, "P 2"]
    point_ids: Int64[np.ndarray, " P"]


@dataclass(frozen=True)
class ColmapPoints:
    """The 3D points, sorted by id."""

    ids: Int64[np.ndarray, " M"]
    xyz: Float64[np.ndarray, "M 3"]
    rgb: UInt8[np.ndarray, "M 3"]
    track_lengths: Int64[np.ndarray, " M"]

    def rows(self, mask: np.ndarray) -> "ColmapPoints":
        """The points that a boolean mask or an index array chooses."""
        return ColmapPoints(
            self.ids[mask], self.xyz[mask], self.rgb[mask], self.track_lengths[mask]
        )


@dataclass(frozen=True)
class ColmapModel:
    """One sparse model.

    Attributes:
        suffix: ".bin" or ".txt", whichever was read.
    """

    folder: Path
    suffix: str
    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    points: ColmapPoints


@dataclass(frozen=True)
class Located:
    """A record and the words that say where it stood, such as `images.bin record 17`."""

    where: str
    image: ColmapImage


def camera_model_of_id(camera_id: int, model_id: int) -> CameraModel:
    """The model with COLMAP's number `model_id`."""
    if model_id not in MODEL_BY_ID:
        raise UserError(
            f"camera {camera_id} uses model id {model_id} (unknown); supported: {SUPPORTED_NAMES}"
        )
    return MODEL_BY_ID[model_id]


def camera_model_of_name(camera_id: int, name: str) -> CameraModel:
    """The model with COLMAP's name `name`."""
    if name not in MODEL_BY_NAME:
        raise UserError(
            f"camera {camera_id} uses model '{name[:40]}' (unknown); supported: {SUPPORTED_NAMES}"
        )
    return MODEL_BY_NAME[name]


def collect_cameras(
    located: Iterable[tuple[str, ColmapCamera]], messages: Messages
) -> dict[int, ColmapCamera]:
    """Cameras by id, each checked.

    Raises:
        UserError: a size or focal length that no photo can have, or an id used twice.
    """
    cameras: dict[int, ColmapCamera] = {}
    for where, camera in located:
        if camera.camera_id in cameras:
            raise UserError(f"{where}: camera id {camera.camera_id} is used twice; re-export")
        check_camera(where, camera, messages)
        cameras[camera.camera_id] = camera
    return cameras


def check_camera(where: str, camera: ColmapCamera, messages: Messages) -> None:
    """Refuse a camera without a real image size and focal length."""
    what = f"{where}: camera {camera.camera_id}"
    width, height = camera.width, camera.height
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise UserError(
            f"{what} has size {width}x{height}; "
            f"sides from 1 to {LARGEST_SIDE} are possible, re-export the model"
        )
    if camera.model.num_focal == 0:
        return
    if not (np.abs(camera.params) < LARGEST_PARAMETER).all():
        raise UserError(f"{what} has parameters {_numbers(camera.params)}; re-run the calibration")
    if (camera.focal <= 0).any():
        raise UserError(f"{what} has focal length {_numbers(camera.focal)}; it must be positive")
    size = np.array([width, height])
    if ((camera.principal < -size) | (camera.principal > 2 * size)).any():
        messages.warn(
            f"{what} has its principal point at {_numbers(camera.principal)}, "
            f"far outside of {width}x{height}"
        )


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)


def collect_images(
    located: Iterable[Located],
    cameras: dict[int, ColmapCamera],
    cameras_file: str,
    messages: Messages,
) -> tuple[ColmapImage, ...]:
    """The images, each checked.

    Raises:
        UserError: ids or names used twice, names that leave the image folder, cameras that do
            not exist, poses that are none.
    """
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}
    images = []
    for item in located:
        image, where = item.image, item.where
        check_name(where, image.name)
        if image.image_id in by_id:
            other = by_id[image.image_id]
            raise UserError(f"{where}: image id {image.image_id} already used by '{other}'")
        if image.name in by_name:
            other_id = by_name[image.name]
            raise UserError(f"{where}: name '{image.name}' already used by image id {other_id}")
        if image.camera_id not in cameras:
            raise UserError(
                f"image '{image.name}' refers to camera {image.camera_id}, "
                f"{cameras_file} has {ranges(cameras)}"
            )
        check_pose(where, image)
        by_id[image.image_id], by_name[image.name] = image.name, image.image_id
        images.append(image)
    norms = np.array([np.linalg.norm(image.quat) for image in images])
    far = np.abs(norms - 1) > UNIT_TOLERANCE
    if far.any():
        first = images[int(np.argmax(far))].name
        messages.warn(
            f"{int(far.sum())} rotations are not unit quaternions (first: {first}); normalised"
        )
    return tuple(images)


def check_name(where: str, name: str) -> None:
    """Refuse an image name that could open a file outside of the image folder."""
    if not name or len(name) > LONGEST_NAME:
        raise UserError(f"{where}: name of {len(name)} characters; 1 to {LONGEST_NAME} are allowed")
    is_outside = (
        name.startswith("/")
        or "\\" in name
        or "\0" in name
        or ".." in name.split("/")
        or re.match(r"[A-Za-z]:", name) is not None
    )
    if is_outside:
        raise UserError(f"{where}: name '{name[:100]}' leaves the image folder; rename the image")


def is_rotation(quat: Float64[np.ndarray, "4"]) -> bool:
    """Whether a quaternion can be normalised."""
    if not (np.abs(quat) < LARGEST_QUATERNION).all():
        return False
    return bool(np.linalg.norm(quat) > SMALLEST_QUATERNION)


def check_pose(where: str, image: ColmapImage) -> None:
    """Refuse a pose that holds no rotation or no place."""
    if not is_rotation(image.quat):
        raise UserError(
            f"{where}: image '{image.name}' has the rotation {_numbers(image.quat)}; "
            "re-export the model or remove the image"
        )
    if not (np.abs(image.translation) < LARGEST_TRANSLATION).all():
        raise UserError(
            f"{where}: image '{image.name}' has the translation {_numbers(image.translation)}; "
            "re-export the model or remove the image"
        )


def sane_points(points: ColmapPoints, file_name: str, messages: Messages) -> ColmapPoints:
    """The points with usable coordinates, sorted by id; the others are counted in a warning."""
    with np.errstate(invalid="ignore"):
        sane = (np.abs(points.xyz) <= LARGEST_COORDINATE).all(axis=1)
    if not sane.all():
        messages.warn(
            f"{file_name}: {int((~sane).sum())} of {len(sane)} points are not finite or beyond "
            f"{LARGEST_COORDINATE:g}; dropped"
        )
        points = points.rows(sane)
    return points.rows(np.argsort(points.ids, kind="stable"))


def ranges(ids: Iterable[int]) -> str:
    """Sorted ids in short: 1-3, 7."""
    runs: list[list[int]] = []
    for number in sorted(ids):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:8]]
    return ", ".join(shown) + (", ..." if len(runs) > 8 else "") if shown else "none"
