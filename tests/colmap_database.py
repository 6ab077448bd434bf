"""A COLMAP database as version 3.8 lays it out, from rows that a test can bend; SQL of our own."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from tests.scene_builder import SceneRows

PAIR = 2**31 - 1
TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY, model INTEGER, width INTEGER, height INTEGER,
                      params BLOB, prior_focal_length INTEGER);
CREATE TABLE images (image_id INTEGER PRIMARY KEY, name TEXT UNIQUE, camera_id INTEGER,
                     prior_qw REAL, prior_tx REAL);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER, data BLOB);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY, rows INTEGER, cols INTEGER,
                                  data BLOB, config INTEGER, F BLOB, E BLOB, H BLOB);
"""
Pairs = Mapping[tuple[int, int], np.ndarray]


def write_database(
    path: Path, rows: SceneRows, matches: Pairs, verified: Pairs | None = None, columns: int = 4
) -> None:
    """The photos and keypoints of the rows with matches by pairs of image ids, the lower first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(TABLES)
        for camera in rows.cameras:
            head = (camera.camera_id, 0, camera.width, camera.height)
            database.execute("INSERT INTO cameras VALUES (?, ?, ?, ?, NULL, 0)", head)
        for image in rows.images:
            head = (image.image_id, image.name, image.camera_id)
            database.execute("INSERT INTO images VALUES (?, ?, ?, NULL, NULL)", head)
            table = np.zeros((len(image.keypoints), columns), "<f4")
            table[:, :2] = [keypoint[:2] for keypoint in image.keypoints]
            row = (image.image_id, *table.shape, table.tobytes())
            database.execute("INSERT INTO keypoints VALUES (?, ?, ?, ?)", row)
        for name, pairs in (("matches", matches), ("two_view_geometries", verified or {})):
            rest = ", 2, NULL, NULL, NULL" if name == "two_view_geometries" else ""
            for (one, other), match in pairs.items():
                row = (one * PAIR + other, *match.shape, match.astype("<u4").tobytes())
                database.execute(f"INSERT INTO {name} VALUES (?, ?, ?, ?{rest})", row)
        database.commit()


def true_matches(rows: SceneRows) -> dict[tuple[int, int], np.ndarray]:
    """Every pair of photos with the keypoints that see the same point."""
    row_of = [
        {point_id: row for row, (_, _, point_id) in enumerate(image.keypoints) if point_id >= 0}
        for image in rows.images
    ]
    pairs = {}
    for one, first in enumerate(rows.images):
        for other in range(one + 1, len(rows.images)):
            common = sorted(row_of[one].keys() & row_of[other].keys())
            match = [(row_of[one][point], row_of[other][point]) for point in common]
            pairs[first.image_id, rows.images[other].image_id] = np.array(match).reshape(-1, 2)
    return pairs
