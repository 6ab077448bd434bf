"""COLMAP's database: what pycolmap wrote is read, nothing is written, nothing is believed."""

import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from arguments.messages import MAX_LINE, UserError, one_line
from scene.colmap_database import ColmapDatabase
from tests.colmap_database import PAIR, true_matches, write_database
from tests.scene_builder import SceneRows, make_rows

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "colmap_database"


@pytest.fixture
def rows() -> SceneRows:
    rows = make_rows()
    del rows.images[4:]
    return rows


@pytest.fixture
def path(tmp_path: Path, rows: SceneRows) -> Path:
    write_database(tmp_path / "database.db", rows, true_matches(rows))
    return tmp_path / "database.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(";".join(statements))


def read_all(path: Path) -> int:
    """Everything that there is to read; how many matches."""
    database = ColmapDatabase(path)
    count = 0
    for image in database.images.values():
        database.keypoints(image.image_id)
        count += sum(map(len, database.matches(image.image_id).values()))
    return count


def test_keypoints_and_matches_are_those_that_pycolmap_reads() -> None:
    database = ColmapDatabase(GOLDEN / "database.db")
    expected = json.loads((GOLDEN / "expected.json").read_text())
    assert set(database.images) == set(expected)
    for name, image in database.images.items():
        assert [image.width, image.height] == expected[name]["size"]
        keypoints = database.keypoints(image.image_id)
        np.testing.assert_allclose(keypoints, expected[name]["keypoints"], rtol=1e-6)
        found = database.matches(image.image_id)
        assert len(found) == len(expected[name]["matches"])
        for other, matches in expected[name]["matches"].items():
            assert sorted(found[database.images[other].image_id].tolist()) == matches


@pytest.mark.parametrize("columns", [2, 4, 6])
def test_keypoints_of_every_layout_are_read(tmp_path: Path, rows: SceneRows, columns: int) -> None:
    write_database(tmp_path / "a.db", rows, true_matches(rows), columns=columns)
    image = rows.images[2]
    keypoints = ColmapDatabase(tmp_path / "a.db").keypoints(image.image_id)
    np.testing.assert_allclose(keypoints, [k[:2] for k in image.keypoints], rtol=1e-6)


def test_matches_are_found_from_both_sides_verified_or_not(tmp_path: Path, rows: SceneRows) -> None:
    raw, verified = {(1, 2): np.array([[0, 5], [3, 4]])}, {(1, 2): np.array([[3, 4], [7, 9]])}
    write_database(tmp_path / "a.db", rows, raw, verified)
    database = ColmapDatabase(tmp_path / "a.db")
    assert database.matches(3) == {}
    ((other, matches),) = database.matches(1).items()
    assert (other, matches.tolist()) == (2, [[0, 5], [3, 4], [7, 9]])
    ((other, matches),) = database.matches(2).items()
    assert (other, matches.tolist()) == (1, [[5, 0], [4, 3], [9, 7]])


def test_reading_writes_nothing_even_where_colmap_left_its_write_ahead_mode(path: Path) -> None:
    change(path, "PRAGMA journal_mode=WAL", "PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    assert read_all(path) > 100
    with ColmapDatabase(path)._opened() as database:  # the usual way leaves files while it is open
        assert len(database.execute("SELECT name FROM images").fetchall()) == 4
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_changes_that_are_not_merged_yet_are_said(path: Path) -> None:
    path.with_name("database.db-wal").write_bytes(b"pages")
    with pytest.raises(UserError, match=r"changes in database\.db-wal that are not merged"):
        ColmapDatabase(path)


def test_a_name_that_is_no_text_survives_as_in_the_model(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        text = b"CAST(X'66ff2e6a7067' AS TEXT)".decode()  # f, a byte that is no letter, .jpg
        database.execute(f"UPDATE images SET name = {text} WHERE image_id = 1")
        database.commit()
    assert "f\udcff.jpg" in ColmapDatabase(path).images


def test_keypoints_that_are_nowhere_are_no_number(tmp_path: Path, rows: SceneRows) -> None:
    rows.images[0].keypoints[:3] = [(np.nan, 1.0, -1), (np.inf, 2.0, -1), (1e30, 3.0, -1)]
    write_database(tmp_path / "a.db", rows, {})
    keypoints = ColmapDatabase(tmp_path / "a.db").keypoints(1)
    assert np.isnan(keypoints[:3, 0]).all()
    assert np.isfinite(keypoints[3:]).all()


HOSTILE = {
    "short blob": "UPDATE keypoints SET data = X'00000000' WHERE image_id = 1",
    "no blob": "UPDATE matches SET data = NULL",
    "text blob": "UPDATE matches SET data = 'abcdefgh', rows = 1",
    "negative rows": "UPDATE keypoints SET rows = -1 WHERE image_id = 1",
    "endless rows": "UPDATE keypoints SET rows = 9223372036854775807 WHERE image_id = 1",
    "text rows": "UPDATE keypoints SET rows = 'many' WHERE image_id = 1",
    "other columns": "UPDATE matches SET cols = 3",
    "no camera": "DELETE FROM cameras",
    "odd camera": "UPDATE cameras SET width = 'wide'",
    "no table": "DROP TABLE keypoints",
    "no column": "ALTER TABLE matches RENAME COLUMN data TO date",
    "real pair": f"CREATE TABLE m AS SELECT * FROM matches; DROP TABLE matches; ALTER TABLE m "
    f"RENAME TO matches; UPDATE matches SET pair_id = {PAIR}.5",
    "endless view": "DROP TABLE images; CREATE VIEW images AS WITH RECURSIVE n(i) AS (SELECT 1 "
    "UNION ALL SELECT i + 1 FROM n) SELECT i AS image_id, 'a' AS name, 1 AS camera_id FROM n",
    "huge view": "DROP TABLE keypoints; CREATE VIEW keypoints AS SELECT 1 AS image_id, 1 AS rows, "
    "2 AS cols, zeroblob(2000000000) AS data",
    "function": "DROP TABLE keypoints; CREATE VIEW keypoints AS SELECT 1 AS image_id, abs(0) AS "
    "rows, 2 AS cols, NULL AS data",
    "doubled blob": "ALTER TABLE keypoints RENAME TO v0; "
    + ";".join(
        f"CREATE VIEW v{i + 1} AS SELECT image_id, rows, cols, data || data AS data FROM v{i}"
        for i in range(20)
    )
    + "; CREATE VIEW keypoints AS SELECT * FROM v20",
    "wide view": "DROP TABLE matches; CREATE VIEW matches AS SELECT a.image_id AS pair_id, 1 AS "
    "rows, 2 AS cols, a.name AS data FROM images a, images b, images c, images d, images e, "
    "images f, images g, images h, images i, images j, images k, images l, images m",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_content_is_refused_in_one_line_and_at_once(path: Path, kind: str) -> None:
    change(path, HOSTILE[kind])
    began = time.perf_counter()
    with pytest.raises(
        UserError, match=r"COLMAP database .*database\.db cannot be used"
    ) as refused:
        read_all(path)
    assert time.perf_counter() - began < 2
    assert len(one_line(str(refused.value))) < MAX_LINE


@pytest.mark.parametrize("size", [0, 50, 4096, 9000])
def test_cut_files_and_other_files_are_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"database\.db"):
        read_all(path)


def test_a_file_of_another_kind_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    shutil.copyfile(__file__, tmp_path / "text.db")
    with pytest.raises(UserError, match="not a database"):
        ColmapDatabase(tmp_path / "text.db")
    for odd in (tmp_path, tmp_path / "away.db"):
        with pytest.raises(UserError, match="not found; check --database"):
            ColmapDatabase(odd)


def test_a_path_is_no_address_with_settings(tmp_path: Path, rows: SceneRows) -> None:
    odd = tmp_path / "a?mode=rwc#%41.db"
    write_database(tmp_path / "plain.db", rows, {})
    (tmp_path / "plain.db").rename(odd)
    assert len(ColmapDatabase(odd).images) == 4
