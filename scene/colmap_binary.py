"""COLMAP's binary files as plain records; nothing is allocated that the file cannot fill.

Checks structure only: what a record may say is the business of `colmap_records`.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arguments.messages import Messages, UserError
from scene.colmap_records import (
    LONGEST_NAME,
    NO_POINT,
    ColmapCamera,
    ColmapImage,
    ColmapPoints,
    Located,
    camera_model_of_id,
)
from scene.rigs import Frame, Pose, Rig

# A count above these is damage and is reported as such; below, a short file is a truncated copy.
LARGEST_RECORD_COUNT = 100_000_000
LARGEST_INNER_COUNT = 10_000_000

KEYPOINT = np.dtype([("xy", "<f8", 2), ("point_id", "<i8")])
POINT = np.dtype(
    [("id", "<i8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
)
TRACK_ELEMENT_BYTES = 8
CAMERA_SENSOR = 0


def spaced(number: int) -> str:
    """A file offset in groups of three digits."""
    return f"{number:,}".replace(",", " ")


class RecordReader:
    """Reads numbers from one file and says where the file ended if it ended too early."""

    def __init__(self, stream: io.BufferedReader, name: str, size: int) -> None:
        self.stream = stream
        self.name = name
        self.size = size
        self.count = -1
        self.record = -1

    @property
    def offset(self) -> int:
        """Where the next byte is."""
        return self.stream.tell()

    @property
    def where(self) -> str:
        """The record in words."""
        return f"{self.name} record {self.record}"

    def take(self, num_bytes: int) -> bytes:
        """The next bytes of the file.

        Raises:
            UserError: the file has fewer.
        """
        data = self.stream.read(num_bytes) if self.fits(num_bytes) else b""
        if len(data) != num_bytes:
            raise self.ended(self.offset - len(data) + num_bytes)
        return data

    def fits(self, num_bytes: int) -> bool:
        """Whether the file has that many bytes left."""
        return num_bytes <= self.size - self.offset

    def ended(self, needed: int) -> UserError:
        """The error for a file that stops before offset `needed`."""
        place = "its header" if self.record < 0 else f"record {self.record} of {self.count}"
        return UserError(
            f"{self.name} ends inside {place} (offset {spaced(self.size)}, "
            f"needs {spaced(needed)}); copy it again or re-export"
        )

    def numbers(self, layout: str) -> tuple[int | float, ...]:
        """The next numbers, in the notation of `struct`, little endian."""
        packed = struct.Struct("<" + layout)
        return packed.unpack(self.take(packed.size))

    def integer(self, layout: str) -> int:
        """The next integer."""
        return int(self.numbers(layout)[0])

    def floats(self, count: int) -> np.ndarray:
        """The next `count` doubles."""
        return np.frombuffer(self.take(8 * count), "<f8").astype(np.float64)

    def records(self, what: str, smallest: int) -> Iterator[int]:
        """Count the records of the file and step through them; `smallest` bytes is the least one.

        Raises:
            UserError: the count is absurd.
        """
        count = self.integer("Q")
        capacity = (self.size - self.offset) // smallest
        if count > max(capacity, LARGEST_RECORD_COUNT):
            raise UserError(
                f"{self.name} says {count} {what} but the file can hold at most {capacity}; "
                "copy it again or re-export"
            )
        self.count = count
        for self.record in range(count):
            yield self.record

    def inner_count(self, count: int, what: str, item_bytes: int) -> int:
        """`count` items of a record, after the check that the file can hold them."""
        capacity = (self.size - self.offset) // item_bytes
        if count > max(capacity, LARGEST_INNER_COUNT):
            raise UserError(
                f"{self.where} says {count} {what} but the file can hold at most {capacity}; "
                "copy it again or re-export"
            )
        if count > capacity:
            raise self.ended(self.offset + count * item_bytes)
        return count

    def name_of_image(self) -> str:
        """The next zero-terminated text; undecodable bytes survive as surrogates."""
        start = self.offset
        chunk = self.stream.read(min(LONGEST_NAME + 1, self.size - start))
        end = chunk.find(b"\0")
        if end < 0 and len(chunk) <= LONGEST_NAME:
            raise self.ended(self.size + 1)
        if end < 0:
            raise UserError(
                f"{self.where}: the name has more than {LONGEST_NAME} bytes; "
                "copy it again or re-export"
            )
        self.stream.seek(start + end + 1)
        return chunk[:end].decode("utf-8", "surrogateescape")

    def warn_of_rest(self, messages: Messages) -> None:
        """Say how many bytes follow the last record."""
        rest = self.size - self.offset
        if rest:
            messages.warn(f"{self.name} has {rest} trailing bytes after its last record; ignored")


def read_cameras(path: Path, messages: Messages) -> list[tuple[str, ColmapCamera]]:
    """The cameras with the place of each."""
    found = []
    with path.open("rb") as stream:
        reader = RecordReader(stream, path.name, path.stat().st_size)
        for _ in reader.records("cameras", 24):
            camera_id, model_id, width, height = (int(n) for n in reader.numbers("IiQQ"))
            model = camera_model_of_id(camera_id, model_id)
            params = reader.floats(model.num_params)
            found.append(
                (reader.where, ColmapCamera(camera_id, model, width, height, params)),
            )
        reader.warn_of_rest(messages)
    return found


def read_images(path: Path, messages: Messages) -> list[Located]:
    """The images with the place of each; only keypoints that have a 3D point are kept."""
    found = []
    with path.open("rb") as stream:
        reader = RecordReader(stream, path.name, path.stat().st_size)
        for _ in reader.records("images", 73):
            image_id = reader.integer("I")
            pose = reader.floats(7)
            camera_id = reader.integer("I")
            name = reader.name_of_image()
            count = reader.inner_count(reader.integer("Q"), "2D points", KEYPOINT.itemsize)
            keypoints = np.frombuffer(reader.take(count * KEYPOINT.itemsize), KEYPOINT)
            keypoints = keypoints[keypoints["point_id"] != NO_POINT]
            image = ColmapImage(
                image_id,
                name,
                pose[:4],
                pose[4:],
                camera_id,
                keypoints["xy"].astype(np.float64),
                keypoints["point_id"].astype(np.int64),
            )
            found.append(Located(reader.where, image))
        reader.warn_of_rest(messages)
    return found


def read_points(path: Path, messages: Messages) -> ColmapPoints:
    """The 3D points: one walk over the ragged tracks, then one gather of the fixed parts."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        reader = RecordReader(stream, path.name, size)
        records = reader.records("points", POINT.itemsize)
        first = next(records, None)
        start = reader.offset
        data = stream.read(size - start)
        count = 0 if first is None else reader.count
        offsets, end = _walk_tracks(data, start, count, reader)
        if end < len(data):
            messages.warn(
                f"{path.name} has {len(data) - end} trailing bytes after its last record; ignored"
            )
    raw = np.frombuffer(data, np.uint8)
    rows = np.empty(count, POINT)
    as_bytes = rows.view(np.uint8).reshape(count, POINT.itemsize)
    for chunk in range(0, count, 65_536):  # bounds the index array
        part = slice(chunk, chunk + 65_536)
        as_bytes[part] = raw[offsets[part, None] + np.arange(POINT.itemsize)]
    return ColmapPoints(
        rows["id"].astype(np.int64),
        rows["xyz"].astype(np.float64),
        rows["rgb"].copy(),
        rows["length"].astype(np.int64),
    )


def _walk_tracks(
    data: bytes, start: int, count: int, reader: RecordReader
) -> tuple[np.ndarray, int]:
    """Where each point begins in `data`, and where the last one ends."""
    length_at = POINT.itemsize - 8
    unpack = struct.Struct("<Q").unpack_from
    offsets = np.empty(min(count, len(data) // POINT.itemsize + 1), np.int64)
    position = 0
    for record in range(count):
        reader.record = record
        if position + POINT.itemsize > len(data):
            raise reader.ended(start + position + POINT.itemsize)
        offsets[record] = position
        length = unpack(data, position + length_at)[0]
        position += POINT.itemsize
        if length * TRACK_ELEMENT_BYTES > len(data) - position:
            reader.stream.seek(start + position)
            reader.inner_count(length, "track elements", TRACK_ELEMENT_BYTES)
        position += length * TRACK_ELEMENT_BYTES
    return offsets[:count], position


def read_rigs(path: Path, messages: Messages) -> list[Rig]:
    """The rigs of COLMAP >= 3.12."""
    rigs = []
    with path.open("rb") as stream:
        reader = RecordReader(stream, path.name, path.stat().st_size)
        for _ in reader.records("rigs", 8):
            rig_id, num_sensors = (int(n) for n in reader.numbers("II"))
            reader.inner_count(num_sensors, "sensors", 8)
            cameras: dict[int, Pose | None] = {}
            for sensor in range(num_sensors):
                kind, sensor_id = (int(n) for n in reader.numbers("iI"))
                pose: Pose | None = Pose.identity()
                if sensor > 0:
                    pose = Pose.of(reader.floats(7)) if reader.integer("B") else None
                if kind == CAMERA_SENSOR:
                    cameras[sensor_id] = pose
            rigs.append(Rig(rig_id, cameras))
        reader.warn_of_rest(messages)
    return rigs


def read_frames(path: Path, messages: Messages) -> list[Frame]:
    """The posed frames of COLMAP >= 3.12."""
    frames = []
    with path.open("rb") as stream:
        reader = RecordReader(stream, path.name, path.stat().st_size)
        for _ in reader.records("frames", 68):
            frame_id, rig_id = (int(n) for n in reader.numbers("II"))
            pose = Pose.of(reader.floats(7))
            num_data = reader.inner_count(reader.integer("I"), "data ids", 16)
            images = []
            for _ in range(num_data):
                kind, _, data_id = (int(n) for n in reader.numbers("iIQ"))
                if kind == CAMERA_SENSOR:
                    images.append(data_id)
            frames.append(Frame(frame_id, rig_id, pose, tuple(images)))
        reader.warn_of_rest(messages)
    return frames
