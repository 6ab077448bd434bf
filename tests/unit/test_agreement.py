"""Agreement with other photos: what stands still has it; and what is written of every segment."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from masks.agreement import Agreement, PhotoComparison, toned_like
from masks.neighbors import TrackIndex
from masks.reasons import HEADER, table
from masks.static_evidence import (
    EvidenceSettings,
    StaticEvidence,
    Verdict,
    found_by_kind,
    judge_segments,
    keep_candidates,
)
from scene.cameras import Camera
from scene.capture import View

HEIGHT, WIDTH, FOCAL = 60, 80, 80.0
DEPTH = 4.0
SPACING = 0.3  # between cameras: 6 pixels at DEPTH, and more than the parallax that is asked for


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours of a wall at DEPTH, in world units; no two places within a photo are alike."""
    waves = [np.sin(5 * x + 2 * y), np.sin(3 * x - 6 * y + 1), np.cos(7 * x * y / 3 + 2 * y)]
    return (128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def wall_photo(shift: float) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return texture((x - WIDTH / 2) / FOCAL * DEPTH + shift, (y - HEIGHT / 2) / FOCAL * DEPTH)


def wall_view(view_id: int, shift: float) -> View:
    """A view at (shift, 0, 0) with points on the wall and two nearer ones that span depths."""
    K = torch.tensor([[FOCAL, 0.0, WIDTH / 2], [0.0, FOCAL, HEIGHT / 2], [0.0, 0.0, 1.0]])
    viewmat = torch.eye(4)
    viewmat[0, 3] = -shift
    z = np.linspace(0.7 * DEPTH, 1.2 * DEPTH, 40)
    xyz = np.stack([np.linspace(-1, 1, 40), np.linspace(-1, 1, 40), z], axis=1)
    return View(
        view_id=view_id,
        name=f"{view_id}.png",
        stem=str(view_id),
        camera=Camera(viewmat, K, WIDTH, HEIGHT),
        keypoints=np.zeros((40, 2), np.float32),
        track_lengths=np.full(40, 5, np.int32),
        point_ids=np.arange(40),
        point_xyz=xyz.astype(np.float32),
    )


def compare(photos: list[np.ndarray], own: int = 2) -> Agreement | None:
    views = [wall_view(i, SPACING * i) for i in range(len(photos))]
    return PhotoComparison(views, TrackIndex(views), photos.__getitem__)(views[own])


def with_block(photo: np.ndarray) -> np.ndarray:
    changed = photo.copy()
    changed[20:40, 30:50] = [250, 40, 40]
    return changed


def test_a_static_wall_agrees_and_a_new_object_does_not() -> None:
    photos = [wall_photo(SPACING * i) for i in range(5)]
    photos[2] = with_block(photos[2])
    found = compare(photos)
    assert found is not None
    inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
    inside[21:39, 31:49] = True
    outside = np.ones((HEIGHT, WIDTH), dtype=bool)
    outside[18:42, 28:52] = False
    assert found.agreeing[inside].mean() < 0.05
    assert found.comparable[inside].mean() > 0.95
    assert found.agreeing[outside & (found.comparable > 0)].mean() > 0.9


def test_places_at_which_only_one_other_photo_looks_are_not_comparable() -> None:
    found = compare([wall_photo(SPACING * i) for i in range(3)], own=0)
    assert found is not None
    assert not found.comparable[:, :2].any()  # the others stand further to the right
    assert found.comparable[:, 40:].all()


def test_a_place_on_which_others_do_not_agree_either_says_nothing() -> None:
    photos = [wall_photo(SPACING * i) for i in range(5)]
    colors = [[250, 40, 40], [40, 250, 40], [40, 40, 250], [250, 250, 40], [40, 250, 250]]
    for photo, color in zip(photos, colors, strict=True):
        photo[20:40, 10:70] = color  # as what glitters: another one in each photo
    found = compare(photos)
    assert found is not None
    inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
    inside[24:36, 30:50] = True
    assert found.agreeing[inside].mean() < 0.05
    assert found.comparable[inside].mean() < 0.05


def test_two_photos_can_acquit_and_not_accuse() -> None:
    photos = [wall_photo(SPACING * i) for i in range(3)]
    photos[1] = with_block(photos[1])
    found = compare(photos, own=1)
    assert found is not None
    assert found.agreeing[45:, 20:60].mean() > 0.9
    assert found.comparable[22:38, 32:48].mean() < 0.05


def test_another_exposure_does_not_hinder_agreement() -> None:
    photos = [wall_photo(SPACING * i) for i in range(5)]
    photos[2] = (photos[2] * 0.5).astype(np.uint8)
    found = compare(photos)
    assert found is not None
    assert found.usual > 0.7


def test_tones_are_matched_by_mean_and_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    other, own = (torch.rand(3, 9, 9, generator=generator) for _ in range(2))
    toned = toned_like(other, own * 1.5 + 3)
    assert torch.allclose(toned.mean(dim=(1, 2)), (own * 1.5 + 3).mean(dim=(1, 2)), atol=1e-4)
    assert torch.allclose(toned.std(dim=(1, 2)), (own * 1.5).std(dim=(1, 2)), atol=1e-4)


def test_photos_from_the_same_place_are_no_witnesses() -> None:
    views = [wall_view(i, shift) for i, shift in enumerate([0.0, 0.01, 0.02, 1.0])]
    photos = [wall_photo(0.0)] * 4
    comparison = PhotoComparison(views, TrackIndex(views), photos.__getitem__)
    assert [view.view_id for view in comparison.others(views[0])] == [3]
    assert comparison(views[0]) is None


def test_a_photo_without_points_is_not_compared() -> None:
    views = [wall_view(i, SPACING * i) for i in range(4)]
    views[0] = dataclasses.replace(views[0], point_xyz=-views[0].point_xyz)  # all behind it
    photos = [wall_photo(SPACING * i) for i in range(4)]
    assert PhotoComparison(views, TrackIndex(views), photos.__getitem__)(views[0]) is None


def test_the_digest_changes_with_the_photos_that_are_compared() -> None:
    views = [wall_view(i, SPACING * i) for i in range(4)]
    photos = [wall_photo(SPACING * i) for i in range(4)]

    def digest() -> str:
        return PhotoComparison(views, TrackIndex(views), photos.__getitem__).digest(views[0])

    before = digest()
    assert digest() == before
    photos[2] = with_block(photos[2])
    assert digest() != before


def evidence(found: float, agreeing: np.ndarray) -> StaticEvidence:
    """Two halves of a photo: `found` keypoints left, 20 right, 10 expected of each."""
    keypoints, expected = (np.zeros((HEIGHT, WIDTH), np.float32) for _ in range(2))
    keypoints[:, :40], keypoints[:, 40:] = found / 2400, 20 / 2400
    expected[:] = 10 / 2400
    return StaticEvidence(keypoints, expected, Agreement(agreeing, np.ones_like(agreeing)))


def halves() -> np.ndarray:
    labels = np.ones((1, HEIGHT, WIDTH), dtype=np.int32)
    labels[0, :, 40:] = 2
    return labels


@pytest.mark.parametrize(
    ("found", "left", "verdict"),
    [
        (0.0, 1.0, Verdict.AGREES),  # keypoints are missing, but the colours are there
        (0.0, 0.4, Verdict.CANDIDATE),  # neither clear: the keypoints decide
        (3.0, 0.4, Verdict.STATIC),
        (3.0, 0.0, Verdict.DIFFERS),  # a few keypoints at its rim do not save it
        (8.0, 0.0, Verdict.STATIC),  # many do
    ],
)
def test_other_photos_overrule_keypoints_where_they_are_clear(
    found: float, left: float, verdict: Verdict
) -> None:
    agreeing = np.ones((6, 8), dtype=np.float32)
    agreeing[:, :4] = 0
    agreeing.reshape(-1)[[i for i in range(48) if i % 8 < 4][: round(24 * left)]] = 1
    verdicts = judge_segments(halves(), evidence(found, agreeing), EvidenceSettings())
    assert verdicts.verdict[0] == verdict
    assert verdicts.agreeing[0] == pytest.approx(round(24 * left), abs=0.1)
    assert verdicts.comparable[0] == pytest.approx(24, abs=0.1)
    kept = keep_candidates(halves(), verdicts)
    assert kept[0, 0, 0] == (verdict in (Verdict.CANDIDATE, Verdict.DIFFERS))


def test_a_photo_that_agrees_with_hardly_any_other_is_judged_by_keypoints_alone() -> None:
    agreeing = np.zeros((6, 8), dtype=np.float32)
    agreeing[0] = 1
    verdicts = judge_segments(halves(), evidence(0.0, agreeing), EvidenceSettings())
    assert verdicts.verdict.tolist() == [Verdict.CANDIDATE, Verdict.STATIC]


def test_every_segment_is_written_with_rule_density_and_reason(tmp_path: Path) -> None:
    settings = EvidenceSettings()
    agreeing = np.ones((6, 8), dtype=np.float32)
    agreeing[:, :4] = 0
    proved = evidence(0.0, agreeing)
    verdicts = judge_segments(halves(), proved, settings)
    found = found_by_kind(halves(), proved)
    rule, header, *rows = table(verdicts, found, settings).splitlines()
    assert rule.startswith("# static at 0.1 or more of the expected keypoints")
    assert "agreement" in rule
    assert header == HEADER
    assert rows == [
        "0,1,2400,0,0,0,0,10.00,0.000,0.0,24.0,1,other photos differ",
        "0,2,2400,20,20,0,0,10.00,2.000,24.0,24.0,0,other photos agree",
    ]
