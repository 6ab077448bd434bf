"""A COLMAP sparse model, binary or text, as checked records.

Knows neither where in a dataset the model lies nor anything of its photos.
"""

import struct
from pathlib import Path

from arguments.messages import ExitCode, Messages, UserError
from scene import colmap_binary, colmap_text
from scene.colmap_records import (
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    Located,
    collect_cameras,
    collect_images,
    sane_points,
)
from scene.rigs import compose_poses

FILES = ("cameras", "images", "points3D")


def is_model(folder: Path) -> bool:
    """Whether a folder holds cameras and images in one of COLMAP's formats."""
    return any(
        all((folder / f"{stem}{suffix}").is_file() for stem in FILES[:2])
        for suffix in (".bin", ".txt")
    )


def count_images(folder: Path) -> int:
    """How many images a model says to have; 0 where its file is too short to say it."""
    path = folder / "images.bin"
    if path.is_file():
        with path.open("rb") as stream:
            header = stream.read(8)
        return int(struct.unpack("<Q", header)[0]) if len(header) == 8 else 0
    return colmap_text.count_records(folder / "images.txt", lines_per_record=2)


def read_model(folder: Path, messages: Messages) -> ColmapModel:
    """Read the model in `folder`; the binary files win where both formats are there.

    Raises:
        UserError: a file is missing, damaged or says what cannot be.
    """
    suffix = _format_of(folder, messages)
    try:
        return _read_files(folder, suffix, messages)
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or folder}: {error.strerror or error}; "
            "check the file and its permissions",
            ExitCode.FILE_SYSTEM,
        ) from error


def _format_of(folder: Path, messages: Messages) -> str:
    """The suffix of the files to read."""
    missing = {
        suffix: [f"{stem}{suffix}" for stem in FILES if not (folder / f"{stem}{suffix}").is_file()]
        for suffix in (".bin", ".txt")
    }
    if missing[".bin"] and missing[".txt"]:
        names = min(missing.values(), key=len)
        raise UserError(f"{', '.join(names)} missing in {folder}; copy it again or re-export")
    if not missing[".bin"] and not missing[".txt"]:
        shown = f"{folder.parent.name}/{folder.name}"
        messages.note(f"{shown} has a binary and a text model; using the binary one")
    elif len(missing[".bin"]) in (1, 2):
        messages.warn(f"{', '.join(missing['.bin'])} missing in {folder}; using the text model")
    return ".txt" if missing[".bin"] else ".bin"


def _read_files(folder: Path, suffix: str, messages: Messages) -> ColmapModel:
    cameras_path, images_path, points_path = (folder / f"{stem}{suffix}" for stem in FILES)
    if suffix == ".bin":
        located_cameras = colmap_binary.read_cameras(cameras_path, messages)
        located_images = colmap_binary.read_images(images_path, messages)
        points = colmap_binary.read_points(points_path, messages)
    else:
        located_cameras = colmap_text.read_cameras(cameras_path)
        located_images = colmap_text.read_images(images_path)
        points = colmap_text.read_points(points_path)
    cameras = collect_cameras(located_cameras, messages)
    located_images = _with_rigs(folder, suffix, located_images, messages)
    images = collect_images(located_images, cameras, cameras_path.name, messages)
    if suffix == ".bin" and (folder / "points3D.txt").is_file():
        _compare_with_text(folder, len(cameras), images, points, messages)
    return ColmapModel(
        folder, suffix, cameras, images, sane_points(points, points_path.name, messages)
    )


def _with_rigs(
    folder: Path, suffix: str, located: list[Located], messages: Messages
) -> list[Located]:
    """The images posed by rigs and frames where the model has them.

    Raises:
        UserError: one of the two files is there without the other.
    """
    rigs_path, frames_path = folder / f"rigs{suffix}", folder / f"frames{suffix}"
    halves = (rigs_path.is_file(), frames_path.is_file())
    if not any(halves):
        return located
    if not all(halves):
        there, absent = (rigs_path, frames_path) if halves[0] else (frames_path, rigs_path)
        raise UserError(
            f"{there.name} without {absent.name} in {folder}: half of a model of COLMAP >= 3.12; "
            f"copy {absent.name} as well"
        )
    if suffix == ".bin":
        rigs = colmap_binary.read_rigs(rigs_path, messages)
        frames = colmap_binary.read_frames(frames_path, messages)
    else:
        rigs = colmap_text.read_rigs(rigs_path)
        frames = colmap_text.read_frames(frames_path)
    images = compose_poses(
        [item.image for item in located], rigs, frames, frames_path.name, messages
    )
    return [Located(item.where, image) for item, image in zip(located, images, strict=True)]


def _compare_with_text(
    folder: Path,
    num_cameras: int,
    images: tuple[ColmapImage, ...],
    points: ColmapPoints,
    messages: Messages,
) -> None:
    """Warn when the text model beside the binary one counts differently."""
    for stem, count, lines in (
        ("cameras", num_cameras, 1),
        ("images", len(images), 2),
        ("points3D", len(points.ids), 1),
    ):
        path = folder / f"{stem}.txt"
        if not path.is_file():
            continue
        in_text = colmap_text.count_records(path, lines)
        if in_text != count:
            messages.warn(
                f"{stem}.bin has {count} records, {stem}.txt has {in_text}; using {stem}.bin"
            )
