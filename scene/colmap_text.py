"""COLMAP's text files as plain records, with the line of every complaint.

Checks structure only: what a record may say is the business of `colmap_records`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arguments.messages import UserError
from scene.colmap_records import (
    NO_POINT,
    ColmapCamera,
    ColmapImage,
    ColmapPoints,
    Located,
    camera_model_of_name,
)
from scene.rigs import Frame, Pose, Rig

LARGEST_INTEGER = 2**63 - 1
ANY_POINT = ("-1", "18446744073709551615")


class Line:
    """One line of a text file, split into words that turn into numbers on request."""

    def __init__(self, file_name: str, number: int, text: str, max_words: int = -1) -> None:
        self.where = f"{file_name} line {number}"
        self.words = text.split(None, max_words - 1) if max_words > 0 else text.split()

    def need(self, count: int) -> None:
        """Refuse a line with fewer than `count` words."""
        if len(self.words) < count:
            raise UserError(
                f"{self.where}: {len(self.words)} values, needs {count}; copy it again or re-export"
            )

    def integer(self, index: int) -> int:
        """A whole number that fits into 64 bits."""
        word = self.words[index]
        digits = word.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            raise self.wrong(word, "a whole number")
        value = int(word)
        if abs(value) > LARGEST_INTEGER:
            raise self.wrong(word, "a possible number")
        return value

    def floats(self, start: int, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Numbers with a decimal point."""
        words = self.words[start:stop:step]
        try:
            return np.array([float(word) for word in words], np.float64)
        except ValueError:
            for word in words:
                if not _is_number(word):
                    raise self.wrong(word, "a number") from None
            raise

    def wrong(self, word: str, kind: str) -> UserError:
        """The error for a word that is not what stands there."""
        return UserError(f"{self.where}: '{word[:40]}' is not {kind}; copy it again or re-export")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """All lines from 1; line ends of every system; undecodable bytes survive as surrogates."""
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        for number, text in enumerate(stream, start=1):
            yield number, text.rstrip("\r\n").removeprefix("\ufeff")


def _records(path: Path) -> Iterator[Line]:
    """The lines that are neither comments nor empty."""
    for number, text in _lines(path):
        if text.strip() and not text.lstrip().startswith("#"):
            yield Line(path.name, number, text)


def read_cameras(path: Path) -> list[tuple[str, ColmapCamera]]:
    """The cameras with the place of each."""
    found = []
    for line in _records(path):
        line.need(4)
        camera_id, width, height = line.integer(0), line.integer(2), line.integer(3)
        model = camera_model_of_name(camera_id, line.words[1])
        line.need(4 + model.num_params)
        params = line.floats(4, 4 + model.num_params)
        found.append((line.where, ColmapCamera(camera_id, model, width, height, params)))
    return found


def read_images(path: Path) -> list[Located]:
    """The images with the place of each; the line of 2D points may be empty, or missing at the end.

    Only keypoints that have a 3D point are kept.
    """
    found = []
    lines = _lines(path)
    for number, text in lines:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        head = Line(path.name, number, text, max_words=10)
        head.need(10)
        pose = head.floats(1, 8)
        number, text = next(lines, (number + 1, ""))
        keypoints, point_ids = _observations(Line(path.name, number, text))
        image = ColmapImage(
            head.integer(0),
            head.words[9].rstrip(),
            pose[:4],
            pose[4:],
            head.integer(8),
            keypoints,
            point_ids,
        )
        found.append(Located(head.where, image))
    return found


def _observations(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and point ids of the keypoints that have a 3D point."""
    if len(line.words) % 3:
        raise UserError(
            f"{line.where}: {len(line.words)} values, needs a multiple of 3 (x, y, point); "
            "copy it again or re-export"
        )
    xy = np.stack([line.floats(0, None, 3), line.floats(1, None, 3)], axis=1)
    indices = range(2, len(line.words), 3)
    ids = np.array(
        [NO_POINT if line.words[i] in ANY_POINT else line.integer(i) for i in indices], np.int64
    )
    seen = ids != NO_POINT
    return xy[seen], ids[seen]


def read_points(path: Path) -> ColmapPoints:
    """The 3D points; of a track only its length is kept."""
    ids, xyz, rgb, lengths = [], [], [], []
    for line in _records(path):
        line.need(8)
        ids.append(line.integer(0))
        xyz.append(line.floats(1, 4))
        color = [line.integer(i) for i in (4, 5, 6)]
        if not all(0 <= value <= 255 for value in color):
            raise UserError(f"{line.where}: colour {color} is outside 0 to 255; re-export")
        rgb.append(color)
        lengths.append((len(line.words) - 8) // 2)
    return ColmapPoints(
        np.array(ids, np.int64),
        np.array(xyz, np.float64).reshape(-1, 3),
        np.array(rgb, np.uint8).reshape(-1, 3),
        np.array(lengths, np.int64),
    )


def read_rigs(path: Path) -> list[Rig]:
    """The rigs: RIG_ID NUM_SENSORS REF_TYPE REF_ID, then per sensor TYPE ID HAS_POSE [pose]."""
    rigs = []
    for line in _records(path):
        line.need(2)
        cameras: dict[int, Pose | None] = {}
        at = 2
        for sensor in range(line.integer(1)):
            line.need(at + 2)
            kind, sensor_id = line.words[at], line.integer(at + 1)
            at += 2
            pose: Pose | None = Pose.identity()
            if sensor > 0:
                line.need(at + 1)
                has_pose = line.integer(at) != 0
                at += 1
                line.need(at + 7 * has_pose)
                pose = Pose.of(line.floats(at, at + 7)) if has_pose else None
                at += 7 * has_pose
            if kind == "CAMERA":
                cameras[sensor_id] = pose
        rigs.append(Rig(line.integer(0), cameras))
    return rigs


def read_frames(path: Path) -> list[Frame]:
    """The frames: FRAME_ID RIG_ID pose NUM_DATA, then per datum TYPE SENSOR_ID DATA_ID."""
    frames = []
    for line in _records(path):
        line.need(10)
        count = line.integer(9)
        line.need(10 + 3 * count)
        images = tuple(
            line.integer(at + 2)
            for at in range(10, 10 + 3 * count, 3)
            if line.words[at] == "CAMERA"
        )
        pose = Pose.of(line.floats(2, 9))
        frames.append(Frame(line.integer(0), line.integer(1), pose, images))
    return frames


def count_records(path: Path, lines_per_record: int = 1) -> int:
    """How many records a text file has, without parsing them."""
    count = 0
    lines = _lines(path)
    for _, text in lines:
        if text.strip() and not text.lstrip().startswith("#"):
            count += 1
            for _ in range(lines_per_record - 1):
                next(lines, None)
    return count
