"""What a capture promises to training, on small scenes and on real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arguments.messages import Messages
from scene.capture import Capture, CaptureSettings, load_capture, unique_stems
from scene.colmap import read_model
from tests.scene_builder import CameraRow, SceneRows, make_rows, make_scene, write_text

REAL = {
    "bonsai_clutter": (98, 85, 13),
    "british_museum": (10, 8, 2),
    "corridor_people_dense": (95, 83, 12),
    "fox_half": (50, 43, 7),
    "beer_can_video": (71, 62, 9),
}


def load(root: Path, messages: Messages | None = None, **settings: object) -> Capture:
    return load_capture(CaptureSettings(root, **settings), messages or Messages(quiet=True))


def two_cameras(rows: SceneRows) -> SceneRows:
    """Every second photo comes from a camera of another size and name of folder."""
    rows.cameras.append(CameraRow(5, "PINHOLE", 40, 60, [50.0, 50.0, 20.0, 30.0]))
    for image in rows.images[1::2]:
        image.camera_id = 5
        image.name = f"phone/{image.name}"
    return rows


def test_photos_of_several_sizes_and_folders_are_one_capture(tmp_path: Path) -> None:
    capture = load(make_scene(tmp_path / "data", two_cameras(make_rows())), eval=True)
    assert {view.camera.size for view in capture.views} == {(64, 48), (40, 60)}
    assert [view.name for view in capture.views] == sorted(view.name for view in capture.views)
    for view in capture.views:
        image = capture.image(view.view_id)
        assert image.dtype == torch.uint8
        assert tuple(image.shape) == (view.camera.height, view.camera.width, 3)
        assert capture.mask(view.view_id) is None
    assert sorted(capture.train + capture.test) == list(range(12))


def test_intrinsics_are_scaled_for_each_axis(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    full, small = load(root), load(root, resolution=50)
    assert small.views[0].camera.size == (50, 37)
    expected = full.views[0].camera.K.clone()
    expected[0] *= 50 / 64
    expected[1] *= 37 / 48
    torch.testing.assert_close(small.views[0].camera.K, expected)


def test_provided_smaller_photos_are_used_when_all_fit(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    (root / "images_2").mkdir()
    for index in range(12):
        Image.new("RGB", (32, 24), (1, 2, 3)).save(root / "images_2" / f"img_{index:04d}.png")
    messages = Messages(quiet=True)
    capture = load(root, messages, resolution=2)
    assert any("using the provided images_2" in note for note in messages.notes)
    assert capture.image(0)[0, 0].tolist() == [1, 2, 3]
    Image.new("RGB", (30, 24)).save(root / "images_2" / "img_0000.png")
    messages = Messages(quiet=True)
    assert load(root, messages, resolution=2).image(1)[0, 0].tolist() != [1, 2, 3]
    assert any("images_2 not used" in note for note in messages.notes)


def test_scene_scale_is_inrias_camera_extent(tmp_path: Path) -> None:
    capture = load(make_scene(tmp_path / "data"), eval=True)
    centers = torch.stack([capture.views[i].camera.position for i in capture.train])
    expected = 1.1 * (centers - centers.mean(dim=0)).norm(dim=1).max()
    assert capture.scene_scale == pytest.approx(float(expected), rel=1e-5)


def test_text_and_binary_models_give_the_same_capture(tmp_path: Path) -> None:
    binary = load(make_scene(tmp_path / "a"))
    text = load(make_scene(tmp_path / "b", text=True))
    for one, other in zip(binary.views, text.views, strict=True):
        torch.testing.assert_close(one.camera.viewmat, other.camera.viewmat)
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.track_lengths, other.track_lengths)
    torch.testing.assert_close(binary.points.xyz, text.points.xyz)


def test_text_with_spaces_comments_crlf_and_a_missing_last_line_is_read(tmp_path: Path) -> None:
    rows = make_rows()
    rows.images[0].name = "my first photo.jpg"
    rows.images[-1].keypoints = []
    write_text(rows, tmp_path)
    text = (tmp_path / "images.txt").read_text().rstrip("\n")
    (tmp_path / "images.txt").write_bytes(text.replace("\n", "\r\n").encode())
    model = read_model(tmp_path, Messages(quiet=True))
    assert len(model.images) == 12
    assert model.images[0].name == "my first photo.jpg"
    assert len(model.images[-1].keypoints) == 0


def test_names_that_are_no_text_are_still_found(tmp_path: Path) -> None:
    rows = make_rows()
    rows.images[0].name = b"caf\xe9 1.jpg".decode("utf-8", "surrogateescape")
    rows.images[1].name = "e\u0301te\u0301.jpg"  # decomposed; the file gets the composed form
    rows.images[2].name = "日本.jpg"
    root = make_scene(tmp_path / "data", rows)
    (root / "images" / rows.images[1].name).rename(root / "images" / "\u00e9t\u00e9.jpg")
    capture = load(root)
    assert len(capture.views) == 12
    assert len({view.stem for view in capture.views}) == 12
    assert all(view.stem.isprintable() for view in capture.views)


def test_stems_are_unique_and_safe() -> None:
    names = ["a/b.jpg", "a_b.jpg", "A_B.png", "c d.jpg"]
    stems = unique_stems(names)
    assert len({stem.casefold() for stem in stems}) == 4
    assert not any(set(stem) & set("/ \\") for stem in stems)


def test_the_digest_follows_the_data(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    first = load(root).digest
    assert load(root, resolution=2).digest == first
    Image.new("RGB", (64, 48)).save(root / "images" / "img_0003.jpg")
    assert load(root).digest != first


def test_masks_keep_white_follow_the_photo_and_can_be_inverted(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    (root / "masks").mkdir()
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(root / "masks" / "img_0002.png")
    kept = load(root, masks=Path("masks"), resolution=2)
    assert kept.mask(0) is None
    assert kept.mask(2)[:, :16].min() == 1
    assert kept.mask(2)[:, 16:].max() == 0
    inverted = load(root, masks=Path("masks"), resolution=2, invert_masks=True)
    torch.testing.assert_close(inverted.mask(2), 1 - kept.mask(2))


def test_alpha_is_a_mask_on_request(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    rgba = np.full((48, 64, 4), 200, np.uint8)
    rgba[:, :32, 3] = 0
    Image.fromarray(rgba).save(root / "images" / "img_0000.jpg", format="PNG")
    composited, masked = load(root), load(root, alpha="mask")
    assert composited.mask(0) is None
    assert composited.image(0)[0, 0].tolist() == [0, 0, 0]
    assert load(root, white_background=True).image(0)[0, 0].tolist() == [255, 255, 255]
    assert masked.mask(0)[:, :32].max() == 0
    assert masked.mask(0)[:, 32:].min() == 1


def test_random_points_lie_in_view_and_repeat(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data", change=lambda rows: rows.points.clear())
    first, second = load(root), load(root)
    assert first.points.xyz.shape == (50_000, 3)
    assert torch.equal(first.points.xyz, second.points.xyz)
    camera = first.views[0].camera
    seen = first.points.xyz @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = (seen @ camera.K.T)[:, :2] / seen[:, 2:]
    size = torch.tensor(camera.size)
    share = ((pixels >= 0) & (pixels <= size)).all(dim=1).float().mean()
    assert (seen[:4000, 2] > 0).all()
    assert share > 0.3


def test_a_broken_track_loses_its_own_observation_only(tmp_path: Path) -> None:
    def break_track(rows: SceneRows) -> None:
        x, y, _ = rows.images[0].keypoints[1]
        rows.images[0].keypoints[1] = (x, y, 999_999)

    sound = load(make_scene(tmp_path / "a"))
    broken = load(make_scene(tmp_path / "b", change=break_track))
    assert len(broken.views[0].keypoints) == len(sound.views[0].keypoints) - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_captures_load_and_their_points_meet_their_keypoints(
    name: str, shared_data: Path
) -> None:
    capture = load(shared_data / name, eval=True, resolution=300)
    assert (len(capture.views), len(capture.train), len(capture.test)) == REAL[name]
    view = capture.views[0]
    model = read_model(shared_data / name / "sparse" / "0", Messages(quiet=True))
    image = next(image for image in model.images if image.name == view.name)
    rows = np.searchsorted(model.points.ids, image.point_ids)
    xyz = torch.from_numpy(model.points.xyz[rows]).float()
    seen = xyz @ view.camera.viewmat[:3, :3].T + view.camera.viewmat[:3, 3]
    pixels = ((seen @ view.camera.K.T)[:, :2] / seen[:, 2:]).numpy()
    gaps = np.linalg.norm(pixels[None] - view.keypoints[:, None], axis=-1).min(axis=1)
    assert np.median(gaps) < 0.5


def test_models_from_the_wild_are_read_or_refused(shared_data: Path) -> None:
    fixtures = shared_data / "peer_fixtures"
    messages = Messages(quiet=True)
    text = read_model(fixtures / "colmap_ok" / "text_model", messages)
    many = read_model(fixtures / "colmap_ok" / "yowsitian_per_image_cameras", messages)
    assert (len(text.images), len(many.cameras)) == (10, 118)
    with pytest.raises(Exception, match=r"^images.bin ends inside record 13 of 82"):
        read_model(fixtures / "malformed_colmap" / "truncated_images_points", messages)
