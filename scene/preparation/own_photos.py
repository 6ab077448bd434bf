"""One's own photos, or a video, as a scene: registered by COLMAP, undistorted, ready to train on.

The scene gets its name when it is complete; the photos are only read.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.messages import ExitCode, Messages, UserError
from scene.colmap import read_model
from scene.images import SUFFIXES
from scene.photo_files import list_photos
from scene.preparation.colmap_tool import (
    Matcher,
    Reconstruction,
    ToolName,
    find_tool,
    reconstruct,
    undistort,
)
from scene.preparation.downloads import check_photo
from scene.preparation.frames import extract_frames

FEWEST_PHOTOS = 3
USUAL_SHARE = 0.8  # registered photos; fewer are worth a warning


@dataclass(frozen=True)
class ConvertArguments:
    """The command line of convert.py."""

    source_path: Annotated[Path, tyro.conf.arg(aliases=["-s"])]
    """Folder of photos (or one with input/, as INRIA's convert.py wants it), or a video file."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The scene to make: images/ and sparse/0/."""

    camera: str = "OPENCV"
    """COLMAP's camera model for the photos, before they are undistorted."""

    camera_mode: Literal["auto", "single", "each"] = "auto"
    """single: one camera took all photos; each: another one each; auto: single if all photos are
    of one size."""

    matcher: Literal["auto", "exhaustive", "sequential"] = "auto"
    """exhaustive compares every pair of photos, sequential neighbours in name; auto: sequential
    for a video."""

    frames: int = 150
    """Pictures to take from a video, the sharpest of so many equal stretches."""

    longest_side: int | None = None
    """Of the photos in the scene, in pixels; None keeps their size."""

    colmap: ToolName = "auto"
    """auto takes pycolmap, else the colmap program."""

    device: Literal["auto", "cpu"] = "auto"
    """Where features are found and matched; auto takes a GPU when COLMAP can."""

    keep_database: bool = False
    """Keep COLMAP's database and the model of the photos as they were in distorted/, where
    python -m masks --evidence database finds more evidence than the model's tracks."""

    quiet: bool = False
    """Print warnings and errors only."""

    def __post_init__(self) -> None:
        """Refuse values that no photo can serve."""
        for name, value, least in (
            ("frames", self.frames, FEWEST_PHOTOS),
            ("longest_side", self.longest_side, 16),
        ):
            if value is not None and value < least:
                raise UserError(f"--{name} is {value}; give {least} or more", ExitCode.USAGE)


def convert(arguments: ConvertArguments, messages: Messages) -> Path:
    """Make the scene; its folder.

    What an interrupted call found out is used by the next one with the same -o.

    Raises:
        UserError: there are no usable photos, or COLMAP cannot register them.
    """
    out = arguments.output
    if out.exists():
        raise UserError(f"'{out}' exists; remove it or give another -o", ExitCode.FILE_SYSTEM)
    source = arguments.source_path
    is_video = source.is_file() and not source.name.lower().endswith(SUFFIXES)
    photos = source if is_video else _photo_folder(source)
    tool = find_tool(arguments.colmap, arguments.device != "cpu", messages)
    work = out.with_name(f".{out.name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    if is_video:
        photos = work / "frames"
        if not photos.is_dir():
            taken = work / "taken"
            shutil.rmtree(taken, ignore_errors=True)
            extract_frames(source, taken, arguments.frames, messages)
            taken.rename(photos)
    names, sizes = _usable(photos, messages)
    how = Reconstruction(
        arguments.camera, _is_single(arguments, sizes), _matcher(arguments, is_video), tuple(names)
    )
    model = reconstruct(tool, photos, work / "reconstruction", how, messages)
    registered = [image.name for image in read_model(model, messages).images]
    _report(names, registered, messages)
    made = work / "undistorted"
    undistort(tool, photos, model, sorted(registered), arguments.longest_side, made, messages)
    ready = work / "scene"
    shutil.rmtree(ready, ignore_errors=True)
    (ready / "sparse").mkdir(parents=True)
    (made / "images").rename(ready / "images")
    (made / "sparse").rename(ready / "sparse" / "0")
    if arguments.keep_database:
        (ready / "distorted" / "sparse").mkdir(parents=True)
        model.rename(ready / "distorted" / "sparse" / "0")
        (work / "reconstruction" / "database.db").rename(ready / "distorted" / "database.db")
    ready.rename(out)
    shutil.rmtree(work)
    return out


def _photo_folder(source: Path) -> Path:
    """The folder of the photos.

    Raises:
        UserError: it does not exist.
    """
    if not source.is_dir():
        raise UserError(f"'{source}' is no folder of photos and no video; check the path after -s")
    return source / "input" if (source / "input").is_dir() else source


def _usable(photos: Path, messages: Messages) -> tuple[list[str], set[tuple[int, int]]]:
    """Names of the photos that can be decoded, and their sizes.

    Raises:
        UserError: too few.
    """
    names: list[str] = []
    sizes: set[tuple[int, int]] = set()
    for name in list_photos(photos):
        try:
            sizes.add(check_photo(photos / name))
        except UserError as damage:
            messages.warn(f"{damage}; left out")
        else:
            names.append(name)
    if len(names) < FEWEST_PHOTOS:
        raise UserError(
            f"{len(names)} usable photos in '{photos}'; at least {FEWEST_PHOTOS} are needed"
        )
    return names, sizes


def _is_single(arguments: ConvertArguments, sizes: set[tuple[int, int]]) -> bool:
    if arguments.camera_mode == "single" and len(sizes) > 1:
        raise UserError(
            f"--camera_mode single: the photos have {len(sizes)} sizes; use each or auto",
            ExitCode.USAGE,
        )
    return arguments.camera_mode == "single" or (
        arguments.camera_mode == "auto" and len(sizes) == 1
    )


def _matcher(arguments: ConvertArguments, is_video: bool) -> Matcher:
    if arguments.matcher == "auto":
        return "sequential" if is_video else "exhaustive"
    return arguments.matcher


def _report(names: list[str], registered: list[str], messages: Messages) -> None:
    """Say how many photos have a pose; warn of many without."""
    lost = sorted(set(names) - set(registered))
    text = f"{len(registered)} of {len(names)} photos registered"
    if not lost:
        messages.note(text)
    elif len(registered) < USUAL_SHARE * len(names):
        messages.warn(f"{text} (first without a pose: {lost[0]}); look at the result with care")
    else:
        messages.note(f"{text} (without a pose: {lost[0]} and {len(lost) - 1} more)")
