"""Proposals: which segments stay candidates, why, and what a broken file leads to."""

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments.messages import Messages, UserError
from masks.candidates import (
    CandidateFile,
    Candidates,
    read_candidates,
    write_candidates,
)
from masks.neighbors import NONE_DUE, DuePoints, TrackIndex
from masks.proposals import ProposalSettings, candidate_path, propose
from masks.segment_bank import SegmentBank
from masks.segments import GraphSettings, graph_segments
from masks.static_evidence import (
    EvidenceSettings,
    StaticEvidence,
    Verdict,
    gather_evidence,
    judge_segments,
    keep_candidates,
)
from scene.cameras import Camera
from scene.capture import Capture, CaptureSettings, View, load_capture

HEIGHT, WIDTH = 80, 120


def make_view(
    keypoints: np.ndarray, track_length: int = 5, view_id: int = 0, shift: float = 0.0
) -> View:
    """A view at (shift, 0, 0) that looks along z at points of depth 4."""
    K = torch.tensor([[100.0, 0.0, WIDTH / 2], [0.0, 100.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
    viewmat = torch.eye(4)
    viewmat[0, 3] = -shift
    ahead = (keypoints - [WIDTH / 2, HEIGHT / 2]) / 100.0 * 4.0 + [shift, 0.0]
    xyz = np.concatenate([ahead, np.full((len(keypoints), 1), 4.0)], axis=1)
    ids = np.round(ahead * 1e4).astype(np.int64)
    return View(
        view_id=view_id,
        name=f"{view_id}.png",
        stem=str(view_id),
        camera=Camera(viewmat, K, WIDTH, HEIGHT),
        keypoints=keypoints.astype(np.float32),
        track_lengths=np.full(len(keypoints), track_length, dtype=np.int32),
        point_ids=ids[:, 0] * 10**7 + ids[:, 1],
        point_xyz=xyz.astype(np.float32),
    )


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A textured photo with a red, textured block (columns 60 to 100) and a blank top."""
    rng = np.random.default_rng(0)
    image = rng.integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[20:60, 60:100] = rng.integers(0, 60, (40, 40, 3)) + np.array([180, 0, 0])
    image[:12] = 230
    return image


@pytest.fixture(scope="module")
def view() -> View:
    """Keypoints all over the texture, but not on the block."""
    x, y = np.meshgrid(np.arange(2.5, WIDTH, 5), np.arange(14.5, HEIGHT, 5))
    on_block = (x > 58) & (x < 102) & (y > 18) & (y < 62)
    return make_view(np.stack([x, y], axis=-1)[~on_block])


@pytest.fixture(scope="module")
def evidence(photo: np.ndarray, view: View) -> StaticEvidence:
    return gather_evidence(photo, view, NONE_DUE, EvidenceSettings())


def truth_layers() -> np.ndarray:
    """The block, the blank top and the rest as segments."""
    labels = np.ones((1, HEIGHT, WIDTH), dtype=np.int32)
    labels[0, 20:60, 60:100] = 2
    labels[0, :12] = 3
    return labels


def test_a_block_without_keypoints_stays_a_candidate_and_its_surroundings_do_not(
    evidence: StaticEvidence,
) -> None:
    labels = truth_layers()
    verdicts = judge_segments(labels, evidence, EvidenceSettings())
    assert verdicts.verdict.tolist() == [Verdict.STATIC, Verdict.CANDIDATE, Verdict.UNDECIDABLE]
    kept = keep_candidates(labels, verdicts)
    assert (kept[labels == 2] == 2).all()
    assert (kept[labels != 2] == 0).all()


def test_every_verdict_comes_with_the_numbers_behind_it(evidence: StaticEvidence) -> None:
    verdicts = judge_segments(truth_layers(), evidence, EvidenceSettings())
    assert verdicts.area.tolist() == [HEIGHT * WIDTH - 1600 - 12 * WIDTH, 1600, 12 * WIDTH]
    assert verdicts.found.sum() == evidence.found.sum()
    assert verdicts.found[1] == 0
    assert verdicts.expected[1] > 10


def test_expected_keypoints_add_up_to_those_found(evidence: StaticEvidence) -> None:
    assert evidence.expected.sum() == pytest.approx(evidence.found.sum(), rel=0.05)


def test_the_paper_s_rule_expects_keypoints_on_blank_areas_too(
    photo: np.ndarray, view: View
) -> None:
    settings = EvidenceSettings(texture_aware=False, min_expected=0.0, min_expected_in_static=0.0)
    evidence = gather_evidence(photo, view, NONE_DUE, settings)
    verdicts = judge_segments(truth_layers(), evidence, settings)
    assert verdicts.verdict.tolist() == [Verdict.STATIC, Verdict.CANDIDATE, Verdict.CANDIDATE]


def test_short_tracks_prove_nothing(photo: np.ndarray, view: View) -> None:
    twice = dataclasses.replace(view, track_lengths=np.full_like(view.track_lengths, 2))
    evidence = gather_evidence(photo, twice, NONE_DUE, EvidenceSettings())
    verdicts = judge_segments(truth_layers(), evidence, EvidenceSettings())
    assert (verdicts.verdict == Verdict.CANDIDATE).all()


def test_points_that_neighbours_see_are_expected_on_blank_areas(
    photo: np.ndarray, view: View
) -> None:
    xy = np.random.default_rng(0).uniform([0, 0], [WIDTH, 12], (60, 2)).astype(np.float32)
    due = DuePoints(xy, np.zeros(60, dtype=bool))
    evidence = gather_evidence(photo, view, due, EvidenceSettings())
    assert judge_segments(truth_layers(), evidence, EvidenceSettings()).verdict[2] == (
        Verdict.CANDIDATE
    )


def test_a_point_is_due_where_two_neighbours_show_it_and_found_where_a_keypoint_is() -> None:
    everywhere = np.stack(np.meshgrid([20.0, 60.0, 100.0], [20.0, 60.0]), axis=-1).reshape(-1, 2)
    shifts = [0.0, 0.04, 0.08]  # a pixel to the left per step at depth 4
    views = [make_view(everywhere - [25 * s, 0], 3, i, s) for i, s in enumerate(shifts)]
    views[0] = make_view(everywhere[1:], 3, 0, 0.0)  # the first point is hidden here
    due = TrackIndex(views).due(views[0])
    assert sorted(map(tuple, due.xy.round(3).tolist())) == sorted(map(tuple, everywhere.tolist()))
    missing = due.xy[~due.is_found]
    assert np.allclose(missing, everywhere[:1], atol=1e-3)


def test_a_capture_without_tracks_has_nothing_due() -> None:
    views = [make_view(np.zeros((0, 2)), 3, i, 0.1 * i) for i in range(3)]
    assert len(TrackIndex(views).due(views[0]).xy) == 0


def test_graph_segments_find_the_block_as_one_object(
    photo: np.ndarray, evidence: StaticEvidence
) -> None:
    labels = graph_segments(photo, evidence, GraphSettings())
    block = np.zeros((HEIGHT, WIDTH), dtype=bool)
    block[20:60, 60:100] = True
    overlaps = [
        (block & (layer == label)).sum() / (block | (layer == label)).sum()
        for layer in labels
        for label in np.unique(layer)
    ]
    assert max(overlaps) > 0.85


def test_graph_layers_are_complete_and_nested(photo: np.ndarray, evidence: StaticEvidence) -> None:
    labels = graph_segments(photo, evidence, GraphSettings())
    assert labels.min() >= 1
    for fine, coarse in itertools.pairwise(labels):
        pairs = np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1)
        assert len(pairs[0]) == len(np.unique(fine))


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 2)])
def test_tiny_and_blank_photos_are_segmented(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, dtype=np.uint8)
    nothing = np.zeros(size, dtype=np.float32)
    labels = graph_segments(image, StaticEvidence(nothing, nothing), GraphSettings())
    assert labels.shape[1:] == size


def test_segments_count_and_unite_overlapping_layers() -> None:
    labels = torch.zeros(2, 4, 6, dtype=torch.int32)
    labels[0, :, :3] = 1
    labels[0, :, 3:] = 4
    labels[1, :2] = 1
    bank = SegmentBank.of([Candidates(labels)], torch.device("cpu"))
    segments = bank.at(torch.tensor([0]))
    pixels = torch.zeros(1, 1, 4, 6)
    pixels[0, 0, 0] = 1.0
    density = segments.density(pixels)[:, 0]
    assert sorted(density[density > 0].tolist()) == [0.25, 0.25, 0.5]
    outside = segments.outside(density > 0.4, 24).reshape(4, 6)
    assert torch.equal(outside, labels[1] != 1)


def some_file() -> CandidateFile:
    labels = truth_layers()
    nothing = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    verdicts = judge_segments(labels, StaticEvidence(nothing, nothing), EvidenceSettings())
    return CandidateFile(labels, verdicts, "0123abcd")


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    content = some_file()
    write_candidates(tmp_path / "a.npz", content)
    read = read_candidates(tmp_path / "a.npz")
    assert read.digest == content.digest
    assert np.array_equal(read.labels, content.labels)
    for field in dataclasses.fields(content.verdicts):
        assert np.array_equal(
            getattr(read.verdicts, field.name), getattr(content.verdicts, field.name)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_files_cut_short_or_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_candidates(path, some_file())
    whole = path.read_bytes()
    middle = whole.index(b"labels.npy") + 200
    changed = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for broken in (b"", whole[:100], whole[:-30], changed):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.npz"):
            read_candidates(path)


def test_files_that_hold_objects_or_other_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for arrays in ({"labels": np.array([{}], dtype=object)}, {"x": np.zeros(3)}):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        path.write_bytes(buffer.getvalue())
        with pytest.raises(UserError, match=r"a\.npz"):
            read_candidates(path)


@pytest.fixture(scope="module")
def capture(tiny_capture: Path) -> Capture:
    return load_capture(CaptureSettings(source=tiny_capture), Messages(quiet=True))


def test_only_missing_broken_and_outdated_files_are_made_again(
    capture: Capture, tmp_path: Path
) -> None:
    settings, quiet = ProposalSettings(), Messages(quiet=True)
    propose(capture, tmp_path, settings, quiet)
    paths = [candidate_path(tmp_path, capture.views[i]) for i in capture.train]
    content = [path.read_bytes() for path in paths]
    paths[0].unlink()
    paths[1].write_bytes(content[1][:99])
    (tmp_path / "x.npz.1.tmp").write_bytes(b"half")
    ages = [path.stat().st_mtime_ns for path in paths[2:]]
    propose(capture, tmp_path, settings, quiet)
    assert [path.read_bytes() for path in paths] == content
    assert [path.stat().st_mtime_ns for path in paths[2:]] == ages
    assert not list(tmp_path.glob("*.tmp"))
    other = ProposalSettings(evidence=EvidenceSettings(density=0.2))
    propose(capture, tmp_path, other, quiet)
    assert [path.stat().st_mtime_ns for path in paths[2:]] != ages


def test_candidates_come_at_the_size_of_the_photo(capture: Capture, tmp_path: Path) -> None:
    folder = propose(capture, tmp_path, ProposalSettings(), Messages(quiet=True))
    view_id = capture.train[0]
    assert folder(view_id).labels.shape[1:] == capture.image(view_id).shape[:2]
    content = some_file()  # 120 x 80 lies over a photo of another shape
    write_candidates(candidate_path(tmp_path, capture.views[view_id]), content)
    with pytest.raises(UserError, match="120x80"):
        folder(view_id)


def test_views_without_a_file_are_named(capture: Capture, tmp_path: Path) -> None:
    folder = propose(capture, tmp_path, ProposalSettings(), Messages(quiet=True), capture.train[1:])
    assert folder.missing(capture.train) == [capture.train[0]]


def test_a_folder_that_cannot_be_made_is_an_error_in_words(
    capture: Capture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        propose(capture, tmp_path / "file" / "x", ProposalSettings(), Messages(quiet=True))
