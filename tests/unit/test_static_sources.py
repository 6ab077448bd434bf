"""Evidence beyond the tracks: what agrees with the poses counts, and what moved does not."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arguments.messages import ExitCode, Messages, UserError
from masks.contact_sheet import FOUND, TILE_WIDTH, Tile, draw_tile, write_contact_sheet
from masks.database_source import DatabaseSource
from masks.feature_source import FeatureSource
from masks.matched_points import Matches, standing_still
from masks.neighbors import NONE_DUE
from masks.proposals import ProposalSettings, propose
from masks.reasons import WORDS, rule
from masks.static_evidence import (
    KINDS,
    EvidenceSettings,
    ProvedPoints,
    StaticEvidence,
    Verdict,
    found_by_kind,
    gather_evidence,
    judge_segments,
)
from masks.static_sources import (
    SOURCES,
    THIN,
    SourceSettings,
    SourceSurroundings,
    StaticSource,
    make_sources,
    thin_hint,
)
from scene.cameras import Camera
from scene.capture import Capture, CaptureSettings, PointCloud, View, load_capture
from tests.colmap_database import true_matches, write_database
from tests.scene_builder import make_rows, make_scene

QUIET = Messages(quiet=True)
SIZE, FOCAL = 200, 200.0


def camera_at(x: float, y: float = 0.0) -> Camera:
    """A camera at (x, y, 0) that looks along z."""
    K = torch.tensor([[FOCAL, 0.0, SIZE / 2], [0.0, FOCAL, SIZE / 2], [0.0, 0.0, 1.0]])
    viewmat = torch.eye(4)
    viewmat[:2, 3] = -torch.tensor([x, y])
    return Camera(viewmat, K, SIZE, SIZE)


def pixels(camera: Camera, xyz: np.ndarray) -> np.ndarray:
    seen = xyz + camera.viewmat[:3, 3].double().numpy()
    return seen[:, :2] / seen[:, 2:] * FOCAL + SIZE / 2


def points(count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.column_stack([rng.uniform(-1, 1, (count, 2)), rng.uniform(3, 5, count)])


def still(
    shifts: list[tuple[float, float]], moved: list[np.ndarray], num_photos: int
) -> list[bool]:
    """Which of the points stand still for photos from `shifts`, which see them `moved`."""
    own, rows = camera_at(0.0), np.arange(len(points()))
    matches = [
        Matches(camera_at(*shift), rows, pixels(camera_at(*shift), points() + move))
        for shift, move in zip(shifts, moved, strict=True)
    ]
    return standing_still(own, pixels(own, points()), matches, num_photos).tolist()


NOT_MOVED = np.zeros(3)


def test_keypoints_that_other_photos_see_where_the_poses_say_stand_still() -> None:
    assert all(still([(0.5, 0.0), (-0.4, 0.2)], [NOT_MOVED] * 2, 3))


def test_keypoints_of_fewer_photos_than_asked_for_do_not() -> None:
    assert not any(still([(0.5, 0.0)], [NOT_MOVED], 3))
    assert all(still([(0.5, 0.0)], [NOT_MOVED], 2))


def test_a_keypoint_matched_twice_in_one_photo_was_seen_there_once() -> None:
    own, other = camera_at(0.0), camera_at(0.5)
    twice = Matches(other, np.array([0, 0]), pixels(other, points()[[0, 0]]))
    seen = standing_still(own, pixels(own, points()), [twice], 3)
    assert not seen.any()


def test_what_moved_across_the_epipolar_line_does_not() -> None:
    assert not any(still([(0.5, 0.0)], [np.array([0.0, 0.1, 0.0])], 2))


def test_what_moved_along_it_fools_one_other_photo_but_not_two() -> None:
    along = np.array([0.2, 0.0, 0.0])
    assert all(still([(0.5, 0.0)], [along], 2))  # as if it were nearer
    assert not any(still([(0.5, 0.0), (1.0, 0.0)], [along, 3 * along], 3))


def test_an_error_that_only_the_sharper_photo_shows_counts() -> None:
    own, far = camera_at(0.0), camera_at(0.5)
    far.K[[0, 1], [0, 1]] = FOCAL / 10
    seen = points() + np.array([0.5, 0.1, 0.0]) - np.array([1.0, 0.0, 0.0])
    there = seen[:, :2] / seen[:, 2:] * FOCAL / 10 + SIZE / 2  # half a pixel from the line
    matches = [Matches(far, np.arange(len(there)), there)]
    assert not standing_still(own, pixels(own, points()), matches, 2).any()


def test_rays_that_meet_behind_the_cameras_prove_nothing() -> None:
    assert not any(still([(0.5, 0.0)], [np.array([1.5, 0.0, 0.0])], 2))


def test_rays_that_are_nearly_parallel_prove_nothing() -> None:
    assert not any(still([(0.02, 0.0)], [NOT_MOVED], 2))


def test_keypoints_that_are_nowhere_and_photos_without_matches_are_left_out() -> None:
    own, xy = camera_at(0.0), pixels(camera_at(0.0), points())
    other = camera_at(0.5)
    broken = xy.copy()
    broken[0] = np.nan
    there = pixels(other, points())
    there[1] = np.nan
    nothing = Matches(other, np.empty(0, np.int64), np.empty((0, 2)))
    matches = [Matches(other, np.arange(len(xy)), there), nothing]
    assert standing_still(own, broken, matches, 2).tolist() == [False, False] + [True] * 10
    assert not standing_still(own, xy, [], 2).any()


def make_database(path: Path, rows: object, wrong: int) -> None:
    """True matches of all pairs, of which the first `wrong` of every pair are mixed up."""
    matches = true_matches(rows)
    for pair in matches.values():
        pair[:wrong, 1] = np.roll(pair[:wrong, 1], 1)
    write_database(path, rows, matches)


LENSES = {"PINHOLE": [60.0, 60.0, 32.0, 24.0], "RADIAL": [60.0, 32.0, 24.0, -0.2, 0.05]}


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize("resolution", [-1, 2])
def test_a_database_proves_the_points_of_its_true_matches(
    tmp_path: Path, model: str, resolution: int
) -> None:
    rows = make_rows(model, LENSES[model])
    root = make_scene(tmp_path / "scene", rows)
    found = CaptureSettings(root, resolution=resolution)
    capture = load_capture(found, QUIET)
    make_database(root / "database.db", rows, wrong=40)
    source = DatabaseSource(root / "database.db", capture, found, 3)
    assert "12/12 photos" in source.description
    for view in capture.views[:3]:
        proved = source(view).xy
        # Point by point: the model's own keypoints, of which some are matched wrongly everywhere.
        nearest = np.linalg.norm(proved[:, None] - view.keypoints[None], axis=2).min(axis=1)
        assert nearest.max() < 1e-3
        assert 0.5 * len(view.keypoints) < len(proved) < 0.95 * len(view.keypoints)


def test_matches_mixed_up_prove_nothing(tmp_path: Path) -> None:
    rows = make_rows()
    root = make_scene(tmp_path / "scene", rows)
    found = CaptureSettings(root)
    capture = load_capture(found, QUIET)
    make_database(root / "database.db", rows, wrong=1000)
    source = DatabaseSource(root / "database.db", capture, found, 3)
    for view in capture.views[:3]:
        # Two pixels of 64 are much; even so chance rarely agrees in three photos.
        assert len(source(view).xy) < 0.35 * len(view.keypoints)


def undistorted_scene(tmp_path: Path) -> tuple[Capture, CaptureSettings]:
    """A scene of pinhole photos twice as small as those that COLMAP saw, with their database."""
    rows = make_rows("RADIAL", LENSES["RADIAL"])
    root = make_scene(tmp_path / "scene")
    make_scene(root / "distorted", rows)
    make_database(root / "distorted" / "database.db", rows, wrong=0)
    found = CaptureSettings(root, resolution=2)
    return load_capture(found, QUIET), found


def test_a_database_with_its_own_model_serves_photos_that_were_undistorted_since(
    tmp_path: Path,
) -> None:
    capture, found = undistorted_scene(tmp_path)
    around = SourceSurroundings(capture, found, EvidenceSettings(), tmp_path)
    (source,) = make_sources(SourceSettings(("database",)), around)
    view = capture.views[4]
    nearest = np.linalg.norm(source(view).xy[:, None] - view.keypoints[None], axis=2).min(axis=1)
    assert len(nearest) > 100
    assert np.median(nearest) < 1e-3


def test_a_database_without_the_model_that_was_made_of_it_is_refused(tmp_path: Path) -> None:
    rows = make_rows()
    root = make_scene(tmp_path / "scene", rows)
    rows.cameras[0].width, rows.cameras[0].height = 640, 480
    write_database(root / "database.db", rows, true_matches(rows))
    found = CaptureSettings(root)
    with pytest.raises(UserError, match=r"640x480 in .*database\.db and 64x48 in .*undistorted"):
        DatabaseSource(root / "database.db", load_capture(found, QUIET), found, 3)


def test_a_database_of_other_photos_is_refused_by_name(tmp_path: Path) -> None:
    rows = make_rows()
    root = make_scene(tmp_path / "scene", rows)
    for image in rows.images:
        image.name = f"other_{image.name}"
    write_database(tmp_path / "database.db", rows, {})
    found = CaptureSettings(root)
    with pytest.raises(UserError, match=r"none of the 12 photos, .*it has other_img_0000\.jpg"):
        DatabaseSource(tmp_path / "database.db", load_capture(found, QUIET), found, 3)


def test_matches_of_keypoints_that_are_not_there_are_refused(tmp_path: Path) -> None:
    rows = make_rows()
    root = make_scene(tmp_path / "scene", rows)
    write_database(root / "database.db", rows, {(1, 2): np.array([[0, 4_000_000_000]])})
    found = CaptureSettings(root)
    capture = load_capture(found, QUIET)
    with pytest.raises(UserError, match="match the photos again"):
        DatabaseSource(root / "database.db", capture, found, 3)(capture.views[0])


def test_a_photo_that_the_database_lacks_has_no_points_of_it(tmp_path: Path) -> None:
    rows = make_rows()
    root = make_scene(tmp_path / "scene", rows)
    found = CaptureSettings(root)
    capture = load_capture(found, QUIET)
    del rows.images[0]
    write_database(root / "database.db", rows, true_matches(rows))
    source = DatabaseSource(root / "database.db", capture, found, 3)
    assert len(source(capture.views[0]).xy) == 0
    assert len(source(capture.views[1]).xy) > 0


def noise_wall(seed: int = 0) -> np.ndarray:
    """A wall of blots of all sizes, twice as large as a photo."""
    rng = np.random.default_rng(seed)
    wall = np.zeros((2 * SIZE, 2 * SIZE))
    for scale in (4, 8, 20):
        coarse = torch.from_numpy(rng.normal(size=(1, 1, 2 * SIZE // scale, 2 * SIZE // scale)))
        fine = torch.nn.functional.interpolate(coarse, (2 * SIZE, 2 * SIZE), mode="bicubic")
        wall += fine[0, 0].numpy()
    return (128 + 30 * wall).clip(0, 255).astype(np.uint8)


STEP, DEPTH = 20, 4.0  # pixels on the wall between two photos, and how far away it is
BLOCK = slice(60, 130)


@pytest.fixture(scope="module")
def walls() -> Capture:
    """Four photos of a wall, to the side of each other, and a picture that stays in their frame."""
    wall, block = noise_wall(0), noise_wall(1)[BLOCK, BLOCK]
    views, images = [], []
    for number in range(4):
        photo = wall[50 : 50 + SIZE, 20 + STEP * number : 20 + STEP * number + SIZE].copy()
        photo[BLOCK, BLOCK] = block
        images.append(torch.from_numpy(np.repeat(photo[..., None], 3, axis=2)))
        x = STEP * number * DEPTH / FOCAL
        xyz = np.column_stack([np.linspace(-1, 1, 9) + x, np.zeros(9), np.full(9, DEPTH)])
        none = np.zeros(9, np.int32)
        views.append(
            View(
                number, f"{number}.png", str(number), camera_at(x),
                np.zeros((9, 2), np.float32), none, np.arange(9), xyz.astype(np.float32),
            )
        )  # fmt: skip
    cloud = PointCloud(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8))
    train = tuple(range(4))
    return Capture(tuple(views), train, (), cloud, 1.0, "", "", tuple(images), (None,) * 4)


@pytest.mark.slow
def test_features_prove_the_wall_and_not_what_moves_along_with_the_camera(
    walls: Capture, tmp_path: Path
) -> None:
    source = FeatureSource(walls, tmp_path / "features")
    view = walls.views[1]
    found = source(view)
    x, y = found.xy.T
    inside = (x > BLOCK.start) & (x < BLOCK.stop) & (y > BLOCK.start) & (y < BLOCK.stop)
    assert len(x) > 40
    assert inside.sum() <= 0.02 * len(x)
    # A second call reads the file, until it is damaged or a photo changes.
    path = tmp_path / "features" / "1.safetensors"
    made = path.stat().st_mtime_ns
    assert np.array_equal(source(view).xy, found.xy)
    assert path.stat().st_mtime_ns == made
    path.write_bytes(path.read_bytes()[:-5])
    assert np.array_equal(source(view).xy, found.xy)
    assert path.stat().st_mtime_ns != made
    images = (walls.images[0].clone().zero_(), *walls.images[1:])
    other = FeatureSource(dataclasses.replace(walls, images=images), tmp_path / "features")
    assert other.identity(view) != source.identity(view)


def halves() -> np.ndarray:
    labels = np.ones((1, 40, 60), np.int32)
    labels[:, :, 30:] = 2
    return labels


def proof_of(left: str, right: str) -> StaticEvidence:
    """20 keypoints in either half, by the kinds named; 60 are to be expected in each."""
    proof = np.zeros((40, 60), np.uint8)
    proof[0, :20], proof[0, 30:50] = 1 + KINDS.index(left), 1 + KINDS.index(right)
    found = (proof > 0).astype(np.float32)
    return StaticEvidence(found, np.full_like(found, 120 / found.size), None, proof)


def test_the_verdict_names_the_evidence_that_was_enough() -> None:
    evidence = proof_of("database", "features")
    verdicts = judge_segments(halves(), evidence, EvidenceSettings())
    assert verdicts.verdict.tolist() == [Verdict.MATCHED, Verdict.RECOGNIZED]
    assert evidence.proof is not None
    evidence.proof[1, :10] = 1 + KINDS.index("tracks")
    evidence.found[1, :10] = 1
    verdicts = judge_segments(halves(), evidence, EvidenceSettings())
    assert verdicts.verdict.tolist() == [Verdict.STATIC, Verdict.RECOGNIZED]
    found = found_by_kind(halves(), evidence)
    assert found.tolist() == [[10, 0], [20, 0], [0, 20]]
    assert (found.sum(axis=0) == verdicts.found).all()


def test_a_segment_in_which_nothing_is_expected_is_not_said_to_have_keypoints() -> None:
    evidence = proof_of("tracks", "tracks")
    evidence.expected[:, :30] = 0
    evidence.found[:, :30] = 0
    verdicts = judge_segments(halves(), evidence, EvidenceSettings())
    assert verdicts.verdict.tolist() == [Verdict.UNDECIDABLE, Verdict.STATIC]


def test_pixels_that_two_kinds_prove_count_once_for_the_first(walls: Capture) -> None:
    image = walls.image(0).numpy()
    xy = np.array([[10.5, 10.5], [50.5, 20.5]], np.float32)
    points = [ProvedPoints("features", xy), ProvedPoints("tracks", xy[:1])]
    evidence = gather_evidence(image, walls.views[0], NONE_DUE, EvidenceSettings(), points=points)
    assert evidence.proof is not None
    assert (evidence.proof[10, 10], evidence.proof[20, 50], evidence.found.sum()) == (1, 3, 2)


def test_every_kind_has_words_a_color_and_an_entry() -> None:
    assert set(KINDS) == set(SOURCES) == set(FOUND)
    assert set(WORDS) == set(Verdict)


def test_the_sheet_draws_what_proved_it_in_its_own_color(walls: Capture) -> None:
    labels = np.zeros((1, SIZE, SIZE), np.int32)
    verdicts = judge_segments(np.ones_like(labels), proof_of_size(), EvidenceSettings())
    points = [
        ProvedPoints(kind, np.full((1, 2), 30.5 + 20 * i, np.float32))
        for i, kind in enumerate(KINDS)
    ]
    tile = Tile(walls.views[0], walls.image(0).numpy(), labels, verdicts, NONE_DUE, points)
    picture = np.asarray(draw_tile(tile))
    for kind in KINDS:
        assert (picture == FOUND[kind]).all(axis=2).any()


def test_the_sheet_ends_with_the_rule_and_what_the_dots_mean(
    walls: Capture, tmp_path: Path
) -> None:
    labels = np.zeros((1, SIZE, SIZE), np.int32)
    verdicts = judge_segments(np.ones_like(labels), proof_of_size(), EvidenceSettings())
    points = [ProvedPoints("features", np.zeros((0, 2), np.float32))]
    tile = Tile(walls.views[0], walls.image(0).numpy(), labels, verdicts, NONE_DUE, points)
    write_contact_sheet(tmp_path / "sheet.png", [tile] * 5, rule(EvidenceSettings()))
    with Image.open(tmp_path / "sheet.png") as sheet:
        whole = np.asarray(sheet)
    height = draw_tile(tile).height
    legend = whole[2 * height :]
    assert (legend == FOUND["features"]).all(axis=2).any()
    assert not (legend == FOUND["database"]).all(axis=2).any()
    assert (legend.min(axis=2) > 128).sum() > 100  # letters
    assert (whole[height : 2 * height, :TILE_WIDTH] == whole[:height, :TILE_WIDTH]).all()


def proof_of_size() -> StaticEvidence:
    nothing = np.zeros((SIZE, SIZE), np.float32)
    return StaticEvidence(nothing, nothing)


@pytest.mark.parametrize(
    "wrong",
    [{"evidence": ()}, {"evidence": ("tracks", "tracks")}, {"database": Path("a.db")}],
)
def test_settings_that_contradict_themselves_are_usage_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError) as refusal:
        SourceSettings(**wrong)
    assert refusal.value.code == ExitCode.USAGE


def test_a_thin_model_is_said_with_what_helps(walls: Capture) -> None:
    def rich(view: View, length: int) -> View:
        many = np.zeros((THIN, 3), np.float32)
        ids, lengths = np.arange(THIN), np.full(THIN, length, np.int32)
        return dataclasses.replace(
            view, keypoints=many[:, :2], track_lengths=lengths, point_ids=ids, point_xyz=many
        )

    hint = thin_hint(walls.views, 3)
    assert hint is not None
    assert "--evidence tracks features" in hint
    assert thin_hint([rich(view, 3) for view in walls.views], 3) is None
    assert thin_hint([rich(view, 2) for view in walls.views], 3) is not None


def test_other_evidence_makes_the_candidates_again_and_the_hint_goes(tmp_path: Path) -> None:
    rows = make_rows()
    root = make_scene(tmp_path / "scene", rows)
    make_database(root / "database.db", rows, wrong=0)
    found = CaptureSettings(root)
    capture = load_capture(found, QUIET)
    around = SourceSurroundings(capture, found, EvidenceSettings(), tmp_path)

    def made(sources: list[StaticSource] | None) -> tuple[list[int], Messages]:
        messages = Messages(quiet=True)
        propose(capture, tmp_path / "out", ProposalSettings(), messages, sources=sources)
        times = [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").glob("*.npz"))]
        return times, messages

    first, messages = made(None)
    assert any("thin model" in note for note in messages.notes)
    again, _ = made(make_sources(SourceSettings(), around))
    assert again == first
    other, messages = made(make_sources(SourceSettings(("tracks", "database")), around))
    assert all(a != b for a, b in zip(other, first, strict=True))
    assert not any("thin model" in note for note in messages.notes)
    shutil.rmtree(tmp_path / "out")
