"""The built-in capture: its geometry is exact, its masks are exact, its seed decides it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from arguments.messages import ExitCode, Messages
from scene.colmap import read_model
from scene.synthetic import PRESETS, SUPERSAMPLE, main, make_capture
from scene.synthetic_colmap import quaternion
from scene.synthetic_solids import View, box, cast, ellipsoid, rod
from scene.synthetic_textures import plain

TINY = PRESETS["tiny"]
GRAY = plain((0.5, 0.5, 0.5), 8, 8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny capture."""
    out = tmp_path_factory.mktemp("capture") / "tiny"
    make_capture(out, TINY, seed=3)
    return out


def pixels(path: Path) -> np.ndarray:
    """A file's pixels."""
    with Image.open(path) as image:
        return np.asarray(image)


def digest(folder: Path) -> str:
    """A hash of all names and bytes below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def test_the_lists_name_every_photo_once(tiny: Path) -> None:
    train = (tiny / "train_list.txt").read_text().split()
    test = (tiny / "test_list.txt").read_text().split()
    assert (len(train), len(test)) == (TINY.views, TINY.test_views)
    assert sorted(train + test) == sorted(p.name for p in (tiny / "images").iterdir())


def test_photo_and_clean_photo_differ_only_where_something_moves(tiny: Path) -> None:
    for name in (tiny / "train_list.txt").read_text().split():
        same = (pixels(tiny / "images" / name) == pixels(tiny / "images_clean" / name)).all(-1)
        moving = pixels(tiny / "gt_distractors" / name) == 255
        assert same[~moving].all()
        assert same[moving].mean() < 0.05 or not moving.any()


def test_test_photos_are_clean(tiny: Path) -> None:
    for name in (tiny / "test_list.txt").read_text().split():
        clean = (tiny / "images_clean" / name).read_bytes()
        assert (tiny / "images" / name).read_bytes() == clean


def test_most_training_photos_are_cluttered_in_part(tiny: Path) -> None:
    shares = [(pixels(p) == 255).mean() for p in sorted((tiny / "gt_distractors").iterdir())]
    assert np.mean([share > 0 for share in shares]) > 0.7
    assert 0.08 < np.mean(shares) < 0.25
    assert max(shares) < 0.6


@dataclass(frozen=True)
class Sighting:
    """One photo of the model: where its points really are, and where it says they are."""

    name: str
    place: np.ndarray
    exact: np.ndarray
    keypoints: np.ndarray
    rgb: np.ndarray


def sightings(capture: Path) -> list[Sighting]:
    """What each photo of the model sees, projected by the test itself."""
    model = read_model(capture / "sparse" / "0", Messages(quiet=True))
    (camera,) = model.cameras.values()
    fx, fy, cx, cy = camera.params
    found = []
    for image in model.images:
        rows = np.searchsorted(model.points.ids, image.point_ids)
        w, x, y, z = image.quat
        rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
        local = model.points.xyz[rows] @ rotation.T + image.translation
        exact = local[:, :2] / local[:, 2:] * (fx, fy) + (cx, cy)
        place = -rotation.T @ image.translation
        found.append(Sighting(image.name, place, exact, image.keypoints, model.points.rgb[rows]))
    return found


def test_points_project_onto_their_keypoints(tiny: Path) -> None:
    errors = np.concatenate([s.keypoints - s.exact for s in sightings(tiny)])
    assert np.std(errors) == pytest.approx(0.3, abs=0.03)
    assert abs(np.mean(errors)) < 0.03


def test_tracks_and_keypoints_agree(tiny: Path) -> None:
    model = read_model(tiny / "sparse" / "0", Messages(quiet=True))
    assert len(model.points.ids) > 0.7 * TINY.points
    seen = np.concatenate([image.point_ids for image in model.images])
    ids, counts = np.unique(seen, return_counts=True)
    assert np.array_equal(ids, model.points.ids)
    assert np.array_equal(counts, model.points.track_lengths)
    assert counts.min() >= 2


def test_colmap_itself_reads_the_model(tiny: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is optional (extra: prep)")
    model = pycolmap.Reconstruction(tiny / "sparse" / "0")
    assert model.num_reg_images() == TINY.views + TINY.test_views
    assert model.compute_mean_reprojection_error() < 1.0


def test_no_track_runs_through_what_moves(tiny: Path) -> None:
    hidden = []
    for photo in sightings(tiny):
        path = tiny / "gt_distractors" / photo.name
        if path.exists():
            u, v = photo.exact.astype(int).T
            # A rim pixel moves in part only, so points in its other part are seen rightly; so may
            # be those in a gap thinner than a pixel.
            hidden.append(binary_erosion(pixels(path) == 255, np.ones((3, 3)))[v, u])
    assert np.concatenate(hidden).mean() < 0.002


def test_points_have_the_colour_of_the_photos(tiny: Path) -> None:
    differences = []
    for photo in sightings(tiny):
        u, v = photo.exact.astype(int).T
        shown = pixels(tiny / "images_clean" / photo.name)[v, u].astype(int)
        differences.append(np.abs(shown - photo.rgb).mean(-1))
    assert np.median(np.concatenate(differences)) < 25


def test_cameras_stand_in_the_room_and_are_apart(tiny: Path) -> None:
    places = np.stack([photo.place for photo in sightings(tiny)])
    assert (np.abs(places[:, :2]) < (4.0, 3.2)).all()
    assert ((places[:, 2] > 1.2) & (places[:, 2] < 1.9)).all()
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(places))
    assert gaps.min() > 0.1


def test_the_seed_decides_every_byte(tiny: Path, tmp_path: Path) -> None:
    make_capture(tmp_path / "again", TINY, seed=3)
    make_capture(tmp_path / "other", TINY, seed=4)
    assert digest(tmp_path / "again") == digest(tiny)
    assert digest(tmp_path / "other") != digest(tiny)


def test_a_capture_is_not_overwritten(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digest(tiny)
    assert main([str(tiny), "--preset", "tiny"]) == ExitCode.FILE_SYSTEM
    assert "images/" in capsys.readouterr().err
    assert digest(tiny) == before


def test_rays_meet_solids_where_they_are() -> None:
    rays = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]]], np.float32)
    solids = [
        box((3, 0, 0), (1, 1, 1), GRAY),
        ellipsoid((0, 4, 0), (1, 0.5, 1), GRAY),
        rod((0, 0, 5), (0, 0, 6), 0.5, GRAY),
    ]
    hits = cast(np.zeros(3), rays, solids)
    assert hits.distance[0].tolist() == pytest.approx([2.0, 3.5, 5.0, np.inf])
    assert hits.index[0].tolist() == [0, 1, 2, -1]


def test_windows_lose_no_ray() -> None:
    rng = np.random.default_rng(0)
    view = View(np.eye(3), np.zeros(3), 40.0, 60, 45)
    rays = view.rays(SUPERSAMPLE)
    for _ in range(40):
        center = rng.uniform((-4, -3, -1), (4, 3, 6))
        solid = ellipsoid(center, rng.uniform(0.1, 1.2, 3), GRAY, yaw=rng.uniform(0, 6))
        whole = cast(np.zeros(3), rays, [solid])
        part = cast(np.zeros(3), rays, [solid], [view.window(solid, SUPERSAMPLE)])
        assert np.array_equal(whole.index, part.index)


def test_quaternions_turn_as_their_matrices() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.linalg.det(rotation)
        w, x, y, z = quaternion(rotation)
        assert np.allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), rotation, atol=1e-9)
