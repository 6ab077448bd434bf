"""Rigs and frames of COLMAP >= 3.12: several cameras that moved as one body.

Knows how a camera's pose follows from its rig and frame; reads no file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from arguments.messages import Messages, UserError
from scene.colmap_records import LARGEST_TRANSLATION, ColmapImage, is_rotation

# COLMAP writes both forms of a pose with all digits; beyond this they are different poses.
POSE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Pose:
    """A rigid map: rotation as a unit quaternion wxyz, then translation."""

    quat: Float64[np.ndarray, "4"]
    translation: Float64[np.ndarray, "3"]

    @classmethod
    def identity(cls) -> "Pose":
        """The map that moves nothing."""
        return cls(np.array([1.0, 0, 0, 0]), np.zeros(3))

    @classmethod
    def of(cls, numbers: Float64[np.ndarray, "7"]) -> "Pose":
        """Qw qx qy qz tx ty tz."""
        return cls(numbers[:4], numbers[4:])

    def after(self, first: "Pose") -> "Pose":
        """`first`, then this map."""
        aw, av = self.quat[0], self.quat[1:]
        bw, bv = first.quat[0], first.quat[1:]
        quat = np.concatenate([[aw * bw - av @ bv], aw * bv + bw * av + np.cross(av, bv)])
        rotated = rotation_matrix(self.quat) @ first.translation
        return Pose(quat, rotated + self.translation)


@dataclass(frozen=True)
class Rig:
    """Cameras fixed to one another: camera id -> camera from rig, None where it is not known."""

    rig_id: int
    cameras: dict[int, Pose | None]


@dataclass(frozen=True)
class Frame:
    """One placement of a rig, and the ids of the images taken there."""

    frame_id: int
    rig_id: int
    rig_from_world: Pose
    image_ids: tuple[int, ...]


def rotation_matrix(quat: Float64[np.ndarray, "4"]) -> Float64[np.ndarray, "3 3"]:
    """The rotation of a quaternion wxyz of any norm."""
    w, x, y, z = quat / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def compose_poses(
    images: Iterable[ColmapImage],
    rigs: Iterable[Rig],
    frames: Iterable[Frame],
    frames_file: str,
    messages: Messages,
) -> list[ColmapImage]:
    """The images with the pose of their rig and frame; those in no frame keep their own.

    Raises:
        UserError: a frame names a rig that does not exist, or has no valid pose.
    """
    rig_by_id = {rig.rig_id: rig for rig in rigs}
    frame_of_image: dict[int, Frame] = {}
    for frame in frames:
        if frame.rig_id not in rig_by_id:
            raise UserError(
                f"{frames_file}: frame {frame.frame_id} refers to rig {frame.rig_id}, "
                "which the rigs file does not have; re-export both"
            )
        frame_of_image.update(dict.fromkeys(frame.image_ids, frame))
    composed, changed = [], 0
    for image in images:
        of_frame = frame_of_image.get(image.image_id)
        pose = _image_pose(image, of_frame, rig_by_id, frames_file) if of_frame else None
        if pose is None:
            composed.append(image)
            continue
        changed += not _is_same(pose, image)
        composed.append(replace(image, quat=pose.quat, translation=pose.translation))
    if changed:
        messages.warn(
            f"{changed} images have another pose than their rig and frame in {frames_file}; "
            "using rig and frame"
        )
    return composed


def _image_pose(
    image: ColmapImage, frame: Frame, rigs: dict[int, Rig], frames_file: str
) -> Pose | None:
    """Camera from world of one image, None where the rig does not know its camera's place."""
    camera_from_rig = rigs[frame.rig_id].cameras.get(image.camera_id)
    if camera_from_rig is None:
        return None
    for pose in (frame.rig_from_world, camera_from_rig):
        is_place = bool((np.abs(pose.translation) < LARGEST_TRANSLATION).all())
        if not (is_rotation(pose.quat) and is_place):
            raise UserError(
                f"{frames_file}: frame {frame.frame_id} of image '{image.name}' has no valid pose; "
                "re-export the model"
            )
    return camera_from_rig.after(frame.rig_from_world)


def _is_same(pose: Pose, image: ColmapImage) -> bool:
    """Whether both maps agree to the digits that text files keep."""
    if not is_rotation(image.quat):
        return False
    turned = np.abs(rotation_matrix(pose.quat) - rotation_matrix(image.quat)).max()
    scale = 1 + np.abs(pose.translation).max()
    moved = np.abs(pose.translation - np.nan_to_num(image.translation)).max() / scale
    return bool(turned < POSE_TOLERANCE and moved < POSE_TOLERANCE)
