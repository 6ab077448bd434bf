"""A dataset of nerfbaselines as a capture; knows nothing of methods or training.

Arrays keep nerfbaselines' own names in `NerfbaselinesDataset`; its dicts end here.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8

from arguments.messages import Messages, UserError
from gaussian_renderer import NEAR_PLANE
from scene.cameras import Camera
from scene.capture import SMALLEST_EXTENT, Capture, PointCloud, View, unique_stems
from scene.colmap_records import ColmapPoints
from scene.initial_points import PointRays, scale_of_scene, start_points
from scene.synthetic_colmap import quaternion

PINHOLE = 0  # nerfbaselines' number of the camera model


@dataclass(frozen=True)
class NerfbaselinesDataset:
    """What is read of a training dataset.

    Attributes:
        poses: camera to world, OpenCV axes.
        intrinsics: fx, fy, cx, cy in pixels.
        masks: True = use the pixel; None where there are none.
        point_rows: for each image, rows of the points that its keypoints saw.
        keypoints: of each image, pixels.
        background: colour under transparent pixels.
    """

    names: tuple[str, ...]
    images: Sequence[UInt8[np.ndarray, "..."]]
    masks: Sequence[Bool[np.ndarray, "..."]] | None
    poses: Float32[np.ndarray, "N 3 4"]
    intrinsics: Float32[np.ndarray, "N 4"]
    xyz: Float32[np.ndarray, "M 3"]
    rgb: UInt8[np.ndarray, "M 3"]
    point_rows: Sequence[Int[np.ndarray, "..."]]
    keypoints: Sequence[Float[np.ndarray, "... 2"]]
    background: UInt8[np.ndarray, "3"]

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> "NerfbaselinesDataset":
        """Take what is needed of nerfbaselines' dict.

        Raises:
            UserError: a camera is distorted.
        """
        cameras = dataset["cameras"]
        paths, root = dataset["image_paths"], dataset["image_paths_root"]
        if (np.asarray(cameras.camera_models) != PINHOLE).any():
            first = paths[int(np.argmax(np.asarray(cameras.camera_models) != PINHOLE))]
            raise UserError(f"{first}: the camera is distorted; nerfbaselines undistorts on load")
        count = len(paths)
        xyz, rgb = dataset.get("points3D_xyz"), dataset.get("points3D_rgb")
        if xyz is None or rgb is None:
            xyz, rgb = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
        rows = dataset.get("images_points3D_indices")
        keypoints = dataset.get("images_points2D_xy")
        if rows is None or keypoints is None or len(xyz) == 0:
            rows = [np.zeros(0, np.int64)] * count
            keypoints = [np.zeros((0, 2), np.float32)] * count
        background = dataset["metadata"].get("background_color")
        return cls(
            names=tuple(os.path.relpath(path, root) if root else path for path in paths),
            images=dataset["images"],
            masks=dataset.get("masks"),
            poses=np.asarray(cameras.poses, np.float32),
            intrinsics=np.asarray(cameras.intrinsics, np.float32),
            xyz=np.asarray(xyz, np.float32),
            rgb=np.asarray(rgb, np.uint8),
            point_rows=rows,
            keypoints=keypoints,
            background=np.asarray((0, 0, 0) if background is None else background, np.uint8),
        )


def as_rgb(
    image: UInt8[np.ndarray, "..."], background: UInt8[np.ndarray, "3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A photo of one to four channels as RGB, its transparent pixels over the background."""
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[2]
    color = np.repeat(image[..., :1], 3, axis=2) if channels < 3 else image[..., :3]
    if channels in (2, 4):
        alpha = image[..., -1:].astype(np.float32) / 255
        color = np.rint(color * alpha + background * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(color)


def world_to_camera(pose: Float32[np.ndarray, "3 4"]) -> Float32[np.ndarray, "4 4"]:
    """The inverse of a rigid pose, as a matrix."""
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:, :3].T
    inverse[:3, 3] = -pose[:, :3].T.astype(np.float64) @ pose[:, 3]
    return inverse.astype(np.float32)


def camera_of(
    pose: Float32[np.ndarray, "3 4"], intrinsics: Float32[np.ndarray, "4"], width: int, height: int
) -> Camera:
    """One of nerfbaselines' pinhole cameras; its principal point need not be the centre."""
    K = np.diag(np.array([intrinsics[0], intrinsics[1], 1.0], np.float32))
    K[:2, 2] = intrinsics[2:]
    return Camera(torch.from_numpy(world_to_camera(pose)), torch.from_numpy(K), width, height)


def capture_of(data: NerfbaselinesDataset, messages: Messages) -> Capture:
    """The capture; every view trains, since nerfbaselines keeps the test views to itself."""
    order = sorted(range(len(data.names)), key=lambda i: data.names[i])
    images = [as_rgb(data.images[i], data.background) for i in order]
    rows = np.concatenate([np.asarray(r, np.int64) for r in data.point_rows])
    lengths = np.bincount(rows, minlength=len(data.xyz))
    stems = unique_stems([data.names[i] for i in order])
    views = tuple(
        _view(data, i, view_id, stems[view_id], images[view_id], lengths)
        for view_id, i in enumerate(order)
    )
    centers = data.poses[order, :, 3].astype(np.float64)
    points = ColmapPoints(
        np.arange(len(data.xyz)), data.xyz.astype(np.float64), data.rgb, lengths.astype(np.int64)
    )
    scene_scale = scale_of_scene(centers, points.xyz, messages)
    if scene_scale < SMALLEST_EXTENT:  # train.py enlarges its own scenes; here poses come and go
        messages.warn(
            f"the dataset's extent is {scene_scale:.2g}: nothing nearer than {NEAR_PLANE} is shown"
            f"; scale its poses and points to an extent of {SMALLEST_EXTENT:g} or more"
        )
    rays = [
        PointRays(
            quaternion(view.camera.viewmat[:3, :3].double().numpy()),
            view.camera.viewmat[:3, 3].double().numpy(),
            view.camera.K.double().numpy(),
            image,
        )
        for view, image in zip(views, images, strict=True)
    ]
    start = start_points(points, rays, scene_scale, False, "the dataset", messages)
    keeps = [None if data.masks is None else np.asarray(data.masks[i], bool) for i in order]
    return Capture(
        views=views,
        train=tuple(range(len(views))),
        test=(),
        points=PointCloud(torch.from_numpy(start.xyz), torch.from_numpy(start.rgb)),
        scene_scale=scene_scale,
        split_rule="nerfbaselines",
        digest=_digest(data, order, images, keeps),
        images=tuple(torch.from_numpy(image) for image in images),
        keeps=tuple(None if keep is None else torch.from_numpy(keep) for keep in keeps),
    )


def _view(
    data: NerfbaselinesDataset,
    index: int,
    view_id: int,
    stem: str,
    image: UInt8[np.ndarray, "H W 3"],
    lengths: Int[np.ndarray, " M"],
) -> View:
    height, width = image.shape[:2]
    keypoints = np.asarray(data.keypoints[index], np.float32).reshape(-1, 2)
    rows = np.asarray(data.point_rows[index], np.int64)
    inside = ((keypoints >= 0) & (keypoints <= [width, height])).all(axis=1)
    rows = rows[inside]
    return View(
        view_id,
        data.names[index],
        stem,
        camera_of(data.poses[index], data.intrinsics[index], width, height),
        keypoints[inside],
        lengths[rows].astype(np.int32),
        rows,
        data.xyz[rows],
    )


def _digest(
    data: NerfbaselinesDataset,
    order: Sequence[int],
    images: Sequence[UInt8[np.ndarray, "... 3"]],
    keeps: Sequence[Bool[np.ndarray, "..."] | None],
) -> str:
    """A number for model, photos, masks and split, as a capture from a folder has."""
    parts = [hashlib.blake2b(digest_size=8) for _ in range(4)]
    of_model, of_photos, of_masks, of_split = parts
    for array in (data.poses[order], data.intrinsics[order], data.xyz, data.rgb):
        of_model.update(np.ascontiguousarray(array).tobytes())
    for image, keep in zip(images, keeps, strict=True):
        of_photos.update(image.tobytes())
        of_masks.update(b"\0" if keep is None else np.packbits(keep).tobytes())
    of_split.update("\0".join(data.names[i] for i in order).encode("utf-8", "replace"))
    return "-".join(part.hexdigest() for part in parts)
