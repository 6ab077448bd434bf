"""Keypoints and matches in the SQLite database of COLMAP, versions 3.8 to 4.

Knows nothing of poses or of what the photos show. A file is never trusted: it is opened read-only
and immutable, so that SQLite neither waits nor writes beside it, may run plain reads only, and no
row is believed before its size has been held against the bytes that are there.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from arguments.messages import ExitCode, UserError

MOST_IMAGES = 2**31 - 1  # an id of a pair is id1 * MOST_IMAGES + id2
MOST_ROWS = 10_000_000  # keypoints of a photo, or matches of a pair
FARTHEST = 1e6  # pixels; a keypoint beyond is none
KEYPOINT_COLUMNS = (2, 4, 6)  # x y, then scale and orientation, or an affine shape
STEPS = 1000  # of SQLite's virtual machine between two looks at how many there were
READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
UNMERGED = ("-wal", "-journal")


@dataclass(frozen=True)
class DatabaseImage:
    """A photo of the database.

    Attributes:
        width: of its camera, in the pixels that keypoints are counted in.
        height: likewise.
    """

    image_id: int
    name: str
    width: int
    height: int


class ColmapDatabase:
    """The photos of a database, by name; keypoints and matches are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Read what photos there are and which of them are matched.

        Raises:
            UserError: it is not there, no database of COLMAP, damaged, or still being written.
        """
        self.path = path
        _check_merged(path)
        with self._opened() as database:
            self.images = _read_images(database)
            self._pairs = _read_pairs(database)
        self._ids = {image.image_id for image in self.images.values()}

    def keypoints(self, image_id: int) -> Float64[np.ndarray, "N 2"]:
        """Where the keypoints of a photo are, in its camera's pixels; NaN where that is nowhere.

        Raises:
            UserError: the row is damaged.
        """
        with self._opened() as database:
            row = database.execute(
                "SELECT rows, cols, data FROM keypoints WHERE image_id = ?", (image_id,)
            ).fetchone()
            if row is None:
                return np.empty((0, 2))
            table = _table(row, f"keypoints of image {image_id}", "<f4", KEYPOINT_COLUMNS)
        xy = table[:, :2].astype(np.float64)
        with np.errstate(invalid="ignore"):
            xy[~(np.abs(xy) < FARTHEST)] = np.nan
        return xy

    def matches(self, image_id: int) -> dict[int, Int64[np.ndarray, "M 2"]]:
        """Keypoints of a photo and of each other photo that look alike, by their rows.

        Those that COLMAP verified and those that it did not count alike.

        Raises:
            UserError: a row is damaged.
        """
        others = sorted(self._pairs.get(image_id, set()) & self._ids)
        with self._opened() as database:
            return {other: _matches(database, image_id, other) for other in others}

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection that can do nothing but read, for as long as the file's size allows.

        Raises:
            UserError: whatever SQLite or a row has to complain of.
        """
        try:
            size = self.path.stat().st_size
            uri = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as database:
                database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
                database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(size, 2**31 - 1))
                database.set_authorizer(_only_reads)
                database.set_progress_handler(_Budget(10**5 + size), STEPS)
                yield database
        except (sqlite3.Error, ValueError) as failure:
            raise UserError(
                f"COLMAP database {self.path} cannot be used: {failure}; copy it again, or match "
                "the photos again"
            ) from failure
        except OSError as failure:
            raise UserError(
                f"cannot read {self.path}: {failure.strerror or failure}; check the file and its "
                "permissions",
                ExitCode.FILE_SYSTEM,
            ) from failure


class _Budget:
    """Stops a statement after so many steps of SQLite's virtual machine."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __call__(self) -> bool:
        self._left -= STEPS
        return self._left < 0


def _only_reads(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in READS else sqlite3.SQLITE_DENY


def _check_merged(path: Path) -> None:
    """Refuse a file of which a part lies in another one.

    Raises:
        UserError: also where there is no file.
    """
    if not path.is_file():
        raise UserError(f"COLMAP database '{path}' not found; check --database")
    for suffix in UNMERGED:
        beside = path.with_name(path.name + suffix)
        if beside.is_file() and beside.stat().st_size:
            raise UserError(
                f"COLMAP database {path} has changes in {beside.name} that are not merged yet; "
                "end COLMAP, or open the database once with it"
            )


def _read_images(database: sqlite3.Connection) -> dict[str, DatabaseImage]:
    sizes = {
        _whole(camera_id): (_whole(width), _whole(height))
        for camera_id, width, height in database.execute(
            "SELECT camera_id, width, height FROM cameras"
        )
    }
    images = {}
    for image_id, name, camera_id in database.execute(
        "SELECT image_id, name, camera_id FROM images"
    ):
        if not isinstance(name, str) or camera_id not in sizes:
            raise ValueError(f"image {image_id} has camera {camera_id}, which is not there")
        if not 0 <= _whole(image_id) < MOST_IMAGES:
            raise ValueError(f"image id {image_id} is out of range")
        images[name] = DatabaseImage(image_id, name, *sizes[camera_id])
    return images


def _read_pairs(database: sqlite3.Connection) -> dict[int, set[int]]:
    """The partners of every image that has any, matched or verified."""
    pairs: dict[int, set[int]] = {}
    for statement in (
        "SELECT pair_id FROM matches WHERE rows > 0",
        "SELECT pair_id FROM two_view_geometries WHERE rows > 0",
    ):
        for (pair,) in database.execute(statement):
            low, high = divmod(_whole(pair), MOST_IMAGES)
            pairs.setdefault(low, set()).add(high)
            pairs.setdefault(high, set()).add(low)
    return pairs


def _matches(
    database: sqlite3.Connection, image_id: int, other_id: int
) -> Int64[np.ndarray, "M 2"]:
    low, high = sorted((image_id, other_id))
    pair = low * MOST_IMAGES + high
    found = [np.empty((0, 2), np.int64)]
    for table in ("matches", "two_view_geometries"):
        row = database.execute(
            f"SELECT rows, cols, data FROM {table} WHERE pair_id = ?", (pair,)
        ).fetchone()
        if row is not None:
            found.append(_table(row, f"{table} of pair {pair}", "<u4", (2,)))
    both = np.unique(np.concatenate(found).astype(np.int64), axis=0)
    return both if image_id == low else both[:, ::-1]


def _whole(value: object) -> int:
    """An integer; a column of SQLite may hold anything."""
    if not isinstance(value, int):
        raise ValueError(f"a {type(value).__name__} stands where a number should")  # noqa: TRY004
    return value


def _table(
    row: tuple[object, object, object], what: str, dtype: str, columns: tuple[int, ...]
) -> np.ndarray:
    """The numbers of one row, after the check that they are there.

    Raises:
        ValueError: rows, columns and bytes do not fit.
    """
    num_rows, num_columns, data = _whole(row[0]), _whole(row[1]), row[2]
    if num_rows == 0 and not data:
        return np.empty((0, 2), dtype)
    content = data if isinstance(data, bytes) else b""
    needed = num_rows * num_columns * 4
    if not (0 < num_rows <= MOST_ROWS and num_columns in columns and len(content) == needed):
        raise ValueError(f"{what} are {num_rows} x {num_columns} numbers in {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(num_rows, num_columns)
