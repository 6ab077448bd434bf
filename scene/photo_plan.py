"""From which file, through which lens and to which size every view is made.

Reads headers of photos, decodes none.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arguments.messages import ExitCode, Messages, UserError
from scene.capture_settings import CaptureSettings
from scene.colmap_records import ColmapCamera, ColmapImage, ColmapModel
from scene.images import (
    FACTORS,
    WIDEST_BY_DEFAULT,
    BadPhotoError,
    Header,
    NoDecoderError,
    decoded_size,
    read_header,
    working_size,
)
from scene.photo_files import PhotoFiles
from scene.undistort import Lens, make_lens

# One warning a broken photo, up to this many; the closing line counts them all.
MOST_WARNINGS = 5


@dataclass(frozen=True)
class ViewPlan:
    """How one view is made: decode `path`, look through `lens`, resize to `width` x `height`."""

    image: ColmapImage
    path: Path
    lens: Lens
    width: int
    height: int

    @property
    def name(self) -> str:
        """The image's name in the model."""
        return self.image.name


@dataclass(frozen=True)
class Plan:
    """The views that can be made, sorted by name, and the names of those that cannot."""

    views: tuple[ViewPlan, ...]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class _Sized:
    """An image, its file, and the size that the file's header claims."""

    image: ColmapImage
    path: Path
    header: Header


def plan_views(
    model: ColmapModel,
    images: Sequence[ColmapImage],
    files: PhotoFiles,
    settings: CaptureSettings,
    messages: Messages,
) -> Plan:
    """Match every photo's header with its camera, and choose file and size.

    Raises:
        UserError: a camera that cannot be undistorted, or photos of a format without decoder.
    """
    sized, broken = _read_headers(model, images, files, settings, messages)
    _report_scales(model, sized, settings, messages)
    provided = _provided_files(sized, settings, messages)
    lenses: dict[tuple[int, int, int], Lens] = {}
    command = (
        f"colmap image_undistorter --image_path {files.folder} "
        f"--input_path {model.folder} --output_path DIR"
    )
    views = []
    num_shrunk = 0
    for item, path, header in provided:
        size = whole = (header.width, header.height)
        if path == item.path:
            size = working_size(*whole, settings.resolution)
            whole = decoded_size(header, settings.resolution, settings.max_mp)
            num_shrunk += whole != (header.width, header.height)
        key = (item.image.camera_id, *whole)
        if key not in lenses:
            lenses[key] = make_lens(model.cameras[item.image.camera_id], *whole, command)
        views.append(ViewPlan(item.image, path, lenses[key], *size))
    if num_shrunk:
        messages.note(
            f"{num_shrunk} photos of more than {settings.max_mp:.4g} MP (--max_mp) are decoded at "
            "a half, a quarter or an eighth of their size"
        )
    _report_sizes(views, settings, messages)
    return Plan(tuple(views), tuple(broken))


def _read_headers(
    model: ColmapModel,
    images: Sequence[ColmapImage],
    files: PhotoFiles,
    settings: CaptureSettings,
    messages: Messages,
) -> tuple[list[_Sized], list[str]]:
    """The images with sound headers that fit their cameras, and the names of the others."""
    sized, broken = [], []
    undecodable: Counter[str] = Counter()
    for image in sorted(images, key=lambda image: image.name):
        path = files.paths[image.name]
        camera = model.cameras[image.camera_id]
        try:
            header = read_header(path, camera.width * camera.height / 1e6)
            _check_size(header, camera)
            decoded_size(header, settings.resolution, settings.max_mp)
        except NoDecoderError as error:
            undecodable[str(error)] += 1
        except BadPhotoError as error:
            broken.append(image.name)
            if len(broken) <= MOST_WARNINGS:
                messages.warn(f"{image.name}: {error}; excluded")
        else:
            sized.append(_Sized(image, path, header))
    for kind, count in undecodable.items():
        raise UserError(
            f"{count} {kind} files in {files.folder}, no decoder: convert them to JPEG or PNG",
            ExitCode.ENVIRONMENT,
        )
    return sized, broken


def _is_common_scale(width: int, height: int, camera: ColmapCamera) -> bool:
    """Whether one factor leads from the camera's size to the file's, to one pixel."""
    by_width = abs(height - camera.height * width / camera.width) <= 1
    by_height = abs(width - camera.width * height / camera.height) <= 1
    return by_width or by_height


def _check_size(header: Header, camera: ColmapCamera) -> None:
    """Refuse a photo that is not of the camera's shape.

    Raises:
        BadPhotoError: also when it would be if it were turned.
    """
    if _is_common_scale(header.width, header.height, camera):
        return
    if header.is_turned and _is_common_scale(header.height, header.width, camera):
        raise BadPhotoError(
            "image is turned by EXIF, COLMAP model is for the other orientation; "
            "re-run COLMAP upright"
        )
    raise BadPhotoError(
        f"photo is {header.width}x{header.height}, "
        f"camera {camera.camera_id} says {camera.width}x{camera.height}"
    )


def _report_scales(
    model: ColmapModel, sized: Sequence[_Sized], settings: CaptureSettings, messages: Messages
) -> None:
    """Say by how much photos differ in size from their cameras."""
    scales: Counter[str] = Counter()
    first: dict[str, str] = {}
    for item in sized:
        camera = model.cameras[item.image.camera_id]
        if (item.header.width, item.header.height) != (camera.width, camera.height):
            factor = f"{item.header.width / camera.width:.4g}"
            scales[factor] += 1
            first.setdefault(
                factor,
                f"{item.header.width}x{item.header.height}, "
                f"camera {camera.camera_id} says {camera.width}x{camera.height}",
            )
    named = re.search(r"_(\d+)$", settings.images)
    for factor, count in scales.items():
        text = f"{count} photos are {factor} x the size of their camera ({first[factor]})"
        if named and abs(float(factor) * int(named.group(1)) - 1) < 0.01:
            messages.note(f"{text}, as {settings.images} says; intrinsics scaled")
        else:
            messages.warn(f"{text}; intrinsics scaled")


def _provided_files(
    sized: Sequence[_Sized], settings: CaptureSettings, messages: Messages
) -> list[tuple[_Sized, Path, Header]]:
    """The file to decode for every view: from `images_N` if all of them fit, else the original."""
    originals = [(item, item.path, item.header) for item in sized]
    factor = settings.resolution
    folder = settings.source / f"{settings.images}_{factor}"
    if factor not in FACTORS[1:] or not folder.is_dir():
        return originals
    found = []
    for item in sized:
        path, header = _provided_file(item, folder, factor)
        if path is None or header is None:
            messages.note(
                f"{folder.name} not used: no photo of the right size for {item.image.name}"
            )
            return originals
        found.append((item, path, header))
    messages.note(f"using the provided {folder.name} instead of resizing {settings.images}")
    return found


def _provided_file(item: _Sized, folder: Path, factor: int) -> tuple[Path | None, Header | None]:
    """The smaller copy of a photo, of the same or another file type, if its size fits."""
    exact = folder / item.image.name
    for path in (exact, *(exact.with_suffix(suffix) for suffix in (".png", ".jpg", ".JPG"))):
        if not path.is_file():
            continue
        try:
            header = read_header(path, item.header.megapixels)
        except BadPhotoError:
            return None, None
        fits = (
            abs(header.width - item.header.width / factor) <= 1
            and abs(header.height - item.header.height / factor) <= 1
        )
        return (path, header) if fits else (None, None)
    return None, None


def _report_sizes(views: Sequence[ViewPlan], settings: CaptureSettings, messages: Messages) -> None:
    """Say what is scaled down unasked, and what is undistorted."""
    wide = [view for view in views if view.lens.width > WIDEST_BY_DEFAULT]
    if settings.resolution == -1 and wide:
        messages.note(
            f"{len(wide)} photos are wider than {WIDEST_BY_DEFAULT} px and are scaled down to it "
            "(-r 1 keeps their size)"
        )
    areas: dict[str, list[float]] = {}
    for view in views:
        if not view.lens.is_pinhole:
            areas.setdefault(view.lens.model.name, []).append(view.lens.valid_area)
    for name, shares in areas.items():
        valid = 100 * sum(shares) / len(shares)
        messages.note(f"undistorting {len(shares)} images ({name}), valid area {valid:.4g} %")


def without(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan less some views, which count as broken from now on."""
    gone = set(names)
    views = tuple(view for view in plan.views if view.name not in gone)
    return replace(plan, views=views, broken=(*plan.broken, *names))
