"""Sharp, evenly spread pictures from a video: `python -m scene.preparation.frames VIDEO -o OUT`.

Decodes with PyAV: its wheel brings FFmpeg's libraries, so nothing has to be on the PATH, frames
come as arrays with their time and rotation, and one pass over the video is enough.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from arguments.cli import parse, run_command
from arguments.messages import ExitCode, Messages, UserError

JPEG_QUALITY = 95
SHARPNESS_WIDTH = 320  # pixels; compression noise is gone at this size, motion blur is not


@dataclass(frozen=True)
class Frame:
    """One decoded picture.

    Attributes:
        time: seconds since the first picture.
        sharpness: to compare with its neighbours.
        picture: PyAV's own frame, converted only if it is chosen.
    """

    time: float
    sharpness: float
    picture: Any


def sharpness(gray: UInt8[np.ndarray, "H W"]) -> float:
    """Variance of the Laplacian; compares pictures of one size and one scene only."""
    plane = gray.astype(np.float32)
    around = plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:]
    return float(np.var(around - 4 * plane[1:-1, 1:-1])) if around.size else 0.0


def upright(rgb: UInt8[np.ndarray, "H W 3"], degrees: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture turned counterclockwise by a multiple of 90 degrees, as the video asks for."""
    return np.ascontiguousarray(np.rot90(rgb, k=round(degrees / 90) % 4))


def select_sharp(frames: Iterable[Frame], duration: float, count: int) -> Iterator[Frame]:
    """The sharpest picture of each of `count` equal stretches of time; empty ones give none."""
    best: Frame | None = None
    best_stretch = 0
    for frame in frames:
        stretch = min(int(frame.time / duration * count), count - 1) if duration > 0 else 0
        if best is not None and stretch != best_stretch:
            yield best
            best = None
        if best is None or frame.sharpness > best.sharpness:
            best, best_stretch = frame, stretch
    if best is not None:
        yield best


def extract_frames(video: Path, out: Path, count: int, messages: Messages) -> list[str]:
    """Write the chosen pictures as frame_0001.jpg and so on; their names.

    Raises:
        UserError: PyAV is missing, or the file is no video that it can decode.
    """
    if not video.is_file():
        raise UserError(f"video '{video}' not found; check the path")
    out.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for frame in select_sharp(_decoded(video, messages), _duration(video), count):
        names.append(f"frame_{len(names) + 1:04d}.jpg")
        rgb = upright(frame.picture.to_ndarray(format="rgb24"), frame.picture.rotation)
        Image.fromarray(rgb).save(out / names[-1], quality=JPEG_QUALITY, subsampling=0)
    if not names:
        raise UserError(f"video '{video}' holds no picture that can be decoded")
    messages.note(f"{len(names)} sharp pictures of {video.name} in {out}")
    return names


def _open(video: Path) -> Any:
    """The video's container, to be closed by the caller.

    Raises:
        UserError: PyAV is missing, or this is no video.
    """
    try:
        import av  # optional
    except ImportError:
        raise UserError(
            f"reading '{video}' needs PyAV; pip install av", ExitCode.ENVIRONMENT
        ) from None
    try:
        container = av.open(str(video))
    except av.error.FFmpegError as failure:
        raise UserError(f"'{video}' is no video that FFmpeg knows ({failure.strerror})") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"'{video}' has no pictures, only sound or text; give another file")
    return container


def _duration(video: Path) -> float:
    """Seconds from the first to the last picture, as the file says or as decoding tells."""
    with _open(video) as container:
        stream = container.streams.video[0]
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return float(container.duration) / 1e6
    last = 0.0
    for frame in _decoded(video, Messages(quiet=True)):
        last = frame.time
    return last


def _decoded(video: Path, messages: Messages) -> Iterator[Frame]:
    """Every picture that is whole; a damaged end is said and ends the pictures."""
    import av  # after _open has said what is missing

    with _open(video) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first: float | None = None
        try:
            for picture in container.decode(stream):
                if picture.is_corrupt or picture.time is None:
                    continue
                first = picture.time if first is None else first
                height = max(1, round(picture.height * SHARPNESS_WIDTH / picture.width))
                small = picture.reformat(SHARPNESS_WIDTH, height, format="gray")
                score = sharpness(small.to_ndarray())
                yield Frame(picture.time - first, score, picture)
        except av.error.FFmpegError as failure:
            messages.warn(
                f"'{video.name}' is damaged ({failure.strerror}); pictures before it are used"
            )


@dataclass(frozen=True)
class FrameArguments:
    """What the command can be told."""

    video: tyro.conf.Positional[Path]
    """The video file."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the pictures; it must be new or empty."""

    frames: int = 150
    """How many pictures: the sharpest of so many equal stretches of the video."""

    quiet: bool = False
    """Print warnings and errors only."""

    def __post_init__(self) -> None:
        """Refuse values that no video can serve."""
        if self.frames < 1:
            raise UserError(f"--frames is {self.frames}; give 1 or more", ExitCode.USAGE)
        if self.output.is_dir() and any(self.output.iterdir()):
            raise UserError(f"'{self.output}' has files in it; give a new -o", ExitCode.FILE_SYSTEM)


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        """Parse, choose, report."""
        arguments = parse(
            FrameArguments,
            words,
            prog="python -m scene.preparation.frames",
            description="Take sharp pictures from a video, spread evenly over it.",
        )
        messages = Messages(quiet=arguments.quiet)
        extract_frames(arguments.video, arguments.output, arguments.frames, messages)

    run_command(command)
