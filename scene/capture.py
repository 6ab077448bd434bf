"""A dataset folder as a capture: posed pinhole views with their photos, a split, start points.

The one door for callers; every step is in a module of its own. Never writes to the dataset.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, UInt8
from torch import Tensor

from arguments.messages import ExitCode, Messages, UserError
from scene.cameras import Camera
from scene.capture_settings import CaptureSettings
from scene.colmap import read_model
from scene.colmap_records import ColmapImage, ColmapModel
from scene.host_memory import host_memory
from scene.images import sizes_held_against_cameras
from scene.initial_points import PointRays, scale_of_scene, start_points
from scene.model_folder import find_model
from scene.photo_files import PhotoFiles, check_missing, find_photos, list_photos
from scene.photo_loading import MOST_THREADS, Pixels, load_pixels
from scene.photo_plan import Plan, ViewPlan, plan_views, without
from scene.rigs import rotation_matrix
from scene.splits import Names, choose_split
from scene.undistort import Lens
from scene.user_masks import UserMasks, find_masks, report_masks

__all__ = ["Capture", "CaptureSettings", "PointCloud", "View", "load_capture", "survey_capture"]

OUTLIER_DISTANCE = 1e4
DECODE_BYTES = 7  # for each pixel of a photo while it is decoded: 4 of Pillow, 3 of ours
DIGEST_PARTS = ("COLMAP model", "photos", "masks", "split")


@dataclass(frozen=True)
class PointCloud:
    """The points that a reconstruction starts from, in world units."""

    xyz: Float[Tensor, "M 3"]
    rgb: UInt8[Tensor, "M 3"]


@dataclass(frozen=True)
class View:
    """One photo with its pose.

    Attributes:
        view_id: index in `Capture.views`.
        name: path relative to the image folder, as COLMAP writes it.
        stem: the name as a file name without suffix, unique in the capture.
        camera: pinhole, at working size.
        keypoints: pixels of the view; only those that have a 3D point.
        track_lengths: in how many photos the 3D point of each keypoint was seen.
        point_ids: which 3D point each keypoint saw, the same number in every view.
        point_xyz: where that point is, in world units.
        lens: of the photo file, where it had to be undistorted; None where it is a pinhole's.
    """

    view_id: int
    name: str
    stem: str
    camera: Camera
    keypoints: Float32[np.ndarray, "P 2"]
    track_lengths: Int32[np.ndarray, " P"]
    point_ids: Int64[np.ndarray, " P"]
    point_xyz: Float32[np.ndarray, "P 3"]
    lens: Lens | None = None


@dataclass(frozen=True)
class Capture:
    """Everything that training and evaluation need to know of a dataset.

    Attributes:
        views: sorted by name.
        train: ids of the views that may be trained on.
        test: ids of the views that are held out.
        scene_scale: 1.1 times the largest distance of a training camera to their mean.
        split_rule: how train and test were chosen, in words.
        digest: one number for each of DIGEST_PARTS, joined by dashes; changes with any of them.
        images: photo of every view, sRGB.
        keeps: the user's mask of every view, None where there is none.
    """

    views: tuple[View, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    points: PointCloud
    scene_scale: float
    split_rule: str
    digest: str
    images: tuple[UInt8[Tensor, "..."], ...]
    keeps: tuple[Tensor | None, ...]

    def image(self, view_id: int) -> UInt8[Tensor, "H W 3"]:
        """The photo of a view, undistorted, at working size."""
        return self.images[view_id]

    def mask(self, view_id: int) -> Float[Tensor, "H W"] | None:
        """The user's mask of a view, 1 = keep; None where the user gave none."""
        keep = self.keeps[view_id]
        return None if keep is None else keep.float()


def load_capture(settings: CaptureSettings, messages: Messages) -> Capture:
    """Read, check and prepare the dataset that the settings describe.

    Raises:
        UserError: with the file, the value seen and what to do.
    """
    with sizes_held_against_cameras():
        found = _find(settings, messages)
        plan, masks = found.plan, found.masks
        _check_memory(plan, masks is not None or settings.alpha == "mask")
        pixels = load_pixels(plan.views, masks, settings, messages)
    plan = _without_undecodable(plan, pixels, settings, messages)
    if masks is not None:
        plan = _without_masked_out(plan, pixels, masks, messages)
    capture = _assembled(found, plan, pixels, settings, messages)
    loaded = [pixels[view.name] for view in capture.views]
    return replace(
        capture,
        digest=_digest(found.model, plan, pixels, capture),
        images=tuple(torch.from_numpy(one.rgb) for one in loaded),
        keeps=tuple(_keep(one) for one in loaded),
    )


def _check_memory(plan: Plan, has_masks: bool) -> None:
    """Refuse photos that cannot be held, before the system ends the process for them.

    Raises:
        UserError: they take more than the memory that is free.
    """
    pixels = sum(view.width * view.height for view in plan.views)
    decoded = sorted((view.lens.width * view.lens.height for view in plan.views), reverse=True)
    needed = pixels * (3 + has_masks) + DECODE_BYTES * sum(decoded[:MOST_THREADS])
    free = host_memory().free
    if needed > free:
        raise UserError(
            f"{len(plan.views)} photos take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory "
            "are free; give smaller ones with -r",
            ExitCode.MEMORY,
        )


def survey_capture(settings: CaptureSettings, messages: Messages) -> Capture:
    """What `load_capture` would give as far as the photos' headers tell; decodes nothing.

    The capture has neither images nor masks.

    Raises:
        UserError: with the file, the value seen and what to do.
    """
    with sizes_held_against_cameras():
        found = _find(settings, messages)
    if found.masks is not None:
        color = "black" if found.masks.is_inverted else "white"
        messages.note(
            f"masks: {len(found.masks.paths)}/{len(found.plan.views)}, {color} = keep, not read yet"
        )
    unseen = {view.name: _unseen(view) for view in found.plan.views}
    return _assembled(found, found.plan, unseen, settings, messages)


def _unseen(view: ViewPlan) -> Pixels:
    """What stands for the pixels of a photo that has not been decoded: gray, and no memory."""
    gray = np.broadcast_to(np.full(3, 128, np.uint8), (view.height, view.width, 3))
    return Pixels(gray, None, "", ())


@dataclass(frozen=True)
class _Found:
    """What a dataset holds, before any pixel is read."""

    model: ColmapModel
    plan: Plan
    masks: UserMasks | None
    unposed: list[str]


def _find(settings: CaptureSettings, messages: Messages) -> _Found:
    folder = find_model(settings.source, settings.colmap_model, messages)
    model = read_model(folder, messages)
    files = _found_photos(model, settings, messages)
    unposed = _unposed(files, messages)
    plan = _planned(model, files, settings, messages)
    masks = find_masks(settings, [view.name for view in plan.views])
    return _Found(model, plan, masks, unposed)


def _found_photos(model: ColmapModel, settings: CaptureSettings, messages: Messages) -> PhotoFiles:
    """The photo files of the images with a usable pose."""
    images_file = f"images{model.suffix}"
    if not model.images:
        raise UserError(f"{images_file} in {model.folder} has no images; re-run COLMAP")
    images = model.images
    if not settings.keep_outliers:
        images = _without_outliers(images, messages)
    folder = settings.source / settings.images
    names = [image.name for image in images]
    files = find_photos(folder, names, images_file, settings.follow_links, messages)
    check_missing(files.missing, len(names), settings.allow_missing, "missing", messages)
    return files


def _unposed(files: PhotoFiles, messages: Messages) -> list[str]:
    """Photos in the image folder that no image of the model is."""
    posed = {path.relative_to(files.folder).as_posix() for path in files.paths.values()}
    unposed = [name for name in list_photos(files.folder) if name not in posed]
    if unposed:
        messages.note(f"{len(unposed)} photos in {files.folder} have no pose in the model; unused")
    return unposed


def _planned(
    model: ColmapModel, files: PhotoFiles, settings: CaptureSettings, messages: Messages
) -> Plan:
    """The plan of all views with a photo of the right shape."""
    found = [image for image in model.images if image.name in files.paths]
    plan = plan_views(model, found, files, settings, messages)
    check_missing(plan.broken, len(found), settings.allow_missing, "unusable", messages)
    return plan


def _without_outliers(images: Sequence[ColmapImage], messages: Messages) -> tuple[ColmapImage, ...]:
    """The images less those that lie absurdly far from all others."""
    centers = np.stack([_center(image) for image in images])
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    usual = float(np.median(distances))
    if usual == 0:
        return tuple(images)
    kept = []
    for image, distance in zip(images, distances, strict=True):
        if distance > OUTLIER_DISTANCE * usual:
            times = f"{distance / usual:,.0f}".replace(",", " ")
            messages.warn(
                f"camera '{image.name}' is {times}x farther than the median; "
                "excluded (--keep-outliers)"
            )
        else:
            kept.append(image)
    return tuple(kept)


def _center(image: ColmapImage) -> np.ndarray:
    return -rotation_matrix(image.quat).T @ image.translation


def _without_undecodable(
    plan: Plan, pixels: dict[str, Pixels], settings: CaptureSettings, messages: Messages
) -> Plan:
    """The plan less the photos that no decoder could read to the end."""
    gone = [view.name for view in plan.views if view.name not in pixels]
    if not gone:
        return plan
    total = len(plan.views) + len(plan.broken)
    check_missing([*plan.broken, *gone], total, settings.allow_missing, "unusable", messages)
    return without(plan, gone)


def _without_masked_out(
    plan: Plan, pixels: dict[str, Pixels], masks: UserMasks, messages: Messages
) -> Plan:
    """The plan less the photos of which a mask keeps nothing; reports on the masks."""
    shares = {name: float(p.keep.mean()) for name, p in pixels.items() if p.keep is not None}
    report_masks(masks, len(pixels), list(shares.values()), messages)
    empty = [view.name for view in plan.views if shares.get(view.name, 1.0) == 0]
    if empty:
        messages.warn(f"{len(empty)} masks keep no pixel (first: {empty[0]}); images skipped")
    if len(empty) == len(plan.views):
        raise UserError(f"masks in {masks.folder} keep no pixel of any image; --invert-masks?")
    return without(plan, empty)


def _assembled(
    found: _Found,
    plan: Plan,
    pixels: dict[str, Pixels],
    settings: CaptureSettings,
    messages: Messages,
) -> Capture:
    """The capture of a complete plan, without its pixels."""
    model = found.model
    names = Names(
        tuple(view.name for view in plan.views),
        (*plan.broken, *(image.name for image in model.images), *found.unposed),
    )
    split = choose_split(settings.source, names, settings.eval, messages)
    stems = unique_stems([view.name for view in plan.views])
    views = tuple(
        _view(view_id, plan_view, stem, model)
        for view_id, (plan_view, stem) in enumerate(zip(plan.views, stems, strict=True))
    )
    id_by_name = {view.name: view.view_id for view in views}
    train = tuple(id_by_name[name] for name in split.train)
    centers = np.stack([_center(plan.views[i].image) for i in train])
    scene_scale = scale_of_scene(centers, model.points.xyz, messages)
    rays = [
        PointRays(
            plan.views[i].image.quat,
            plan.views[i].image.translation,
            views[i].camera.K.double().numpy(),
            pixels[views[i].name].rgb,
        )
        for i in train
    ]
    start = start_points(
        model.points,
        rays,
        scene_scale,
        settings.require_points,
        f"points3D{model.suffix}",
        messages,
    )
    return Capture(
        views=views,
        train=train,
        test=tuple(id_by_name[name] for name in split.test),
        points=PointCloud(torch.from_numpy(start.xyz), torch.from_numpy(start.rgb)),
        scene_scale=scene_scale,
        split_rule=split.rule,
        digest="",
        images=(),
        keeps=(),
    )


def _keep(pixels: Pixels) -> Tensor | None:
    return None if pixels.keep is None else torch.from_numpy(pixels.keep)


def _view(view_id: int, plan: ViewPlan, stem: str, model: ColmapModel) -> View:
    """One view with its camera and keypoints at working size."""
    image, lens = plan.image, plan.lens
    scale = np.array([plan.width / lens.width, plan.height / lens.height])
    K = lens.K.copy()
    K[:2] *= scale[:, None]
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation_matrix(image.quat), image.translation
    camera = Camera(
        torch.from_numpy(viewmat).float(), torch.from_numpy(K).float(), plan.width, plan.height
    )
    seen = _seen_points(image, model)
    calibrated = model.cameras[image.camera_id]
    file_scale = np.array([lens.width / calibrated.width, lens.height / calibrated.height])
    keypoints = lens.to_pinhole(image.keypoints[seen.keypoint] * file_scale) * scale
    with np.errstate(invalid="ignore"):
        inside = ((keypoints >= 0) & (keypoints <= [plan.width, plan.height])).all(axis=1)
    row = seen.point[inside]
    return View(
        view_id,
        image.name,
        stem,
        camera,
        keypoints[inside].astype(np.float32),
        model.points.track_lengths[row].astype(np.int32),
        model.points.ids[row],
        model.points.xyz[row].astype(np.float32),
        None if lens.is_pinhole else lens,
    )


@dataclass(frozen=True)
class _Seen:
    """Rows of keypoints in an image, and of the points that they saw in the model."""

    keypoint: Int64[np.ndarray, " P"]
    point: Int64[np.ndarray, " P"]


def _seen_points(image: ColmapImage, model: ColmapModel) -> _Seen:
    """The keypoints inside of the photo whose point exists; a broken track loses its own only."""
    camera = model.cameras[image.camera_id]
    size = [camera.width, camera.height]
    with np.errstate(invalid="ignore"):
        is_inside = ((image.keypoints >= 0) & (image.keypoints <= size)).all(axis=1)
    ids = model.points.ids
    row = np.searchsorted(ids, image.point_ids)
    exists = row < len(ids)
    exists[exists] = ids[row[exists]] == image.point_ids[exists]
    keypoint = np.flatnonzero(is_inside & exists).astype(np.int64)
    return _Seen(keypoint, row[keypoint].astype(np.int64))


def unique_stems(names: Sequence[str]) -> list[str]:
    """File names without suffix for paths; letters outside of ASCII stay, separators go."""
    short = [_safe(name.rsplit(".", 1)[0]) for name in names]
    if len({stem.casefold() for stem in short}) < len(short):
        short = [_safe(name) for name in names]
    taken: set[str] = set()
    unique = []
    for stem in short:
        candidate, number = stem, 2
        while candidate.casefold() in taken:
            candidate, number = f"{stem}_{number}", number + 1
        taken.add(candidate.casefold())
        unique.append(candidate)
    return unique


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name.encode("utf-8", "replace").decode())[-180:]


def _digest(model: ColmapModel, plan: Plan, pixels: dict[str, Pixels], capture: Capture) -> str:
    """A number for each of DIGEST_PARTS: model files, photo files, masks and split."""
    parts = [hashlib.blake2b(digest_size=8) for _ in DIGEST_PARTS]
    of_model, of_photos, of_masks, of_split = parts
    for stem in ("cameras", "images", "points3D"):
        with (model.folder / f"{stem}{model.suffix}").open("rb") as stream:
            of_model.update(hashlib.file_digest(stream, "blake2b").digest())
    for view in plan.views:
        of_photos.update(f"{view.name}\0{pixels[view.name].digest}\0".encode("utf-8", "replace"))
        keep = pixels[view.name].keep
        of_masks.update(b"\0" if keep is None else np.packbits(keep).tobytes())
    for ids in (capture.train, capture.test):
        names = (capture.views[view_id].name for view_id in ids)
        of_split.update("\0".join(names).encode("utf-8", "replace") + b"\1")
    return "-".join(part.hexdigest() for part in parts)
