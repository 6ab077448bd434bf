"""Photos of distorted cameras become exact photos of pinhole cameras."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arguments.messages import Messages
from scene.capture import Capture, CaptureSettings, load_capture
from tests.scene_builder import HEIGHT, WIDTH, make_rows, make_scene, ray_color

LENSES = {
    "SIMPLE_RADIAL": [60.0, 32.0, 24.0, 0.1],
    "RADIAL": [60.0, 32.0, 24.0, -0.2, 0.05],
    "OPENCV": [60.0, 61.0, 31.0, 25.0, 0.1, -0.05, 0.01, -0.01],
    "FULL_OPENCV": [60.0, 60.0, 32.0, 24.0, -0.1, 0.02, 0.001, 0.002, 0.01, 0.05, 0.01, 0.01],
    "OPENCV_FISHEYE": [40.0, 40.0, 32.0, 24.0, 0.05, -0.02, 0.01, 0.0],
    "FOV": [50.0, 50.0, 32.0, 24.0, 0.8],
    "THIN_PRISM_FISHEYE": [45.0, 45.0, 32.0, 24.0, 0.02, 0, 0.001, 0.002, 0, 0, 0.003, 0.001],
    "SIMPLE_DIVISION": [60.0, 32.0, 24.0, -0.1],
    "EUCM": [60.0, 60.0, 32.0, 24.0, 0.6, 1.1],
}


def load(root: Path, resolution: int = -1, messages: Messages | None = None) -> Capture:
    settings = CaptureSettings(root, cache_dir=root.parent / "cache", resolution=resolution)
    return load_capture(settings, messages or Messages(quiet=True))


def expected_photo(capture: Capture) -> np.ndarray:
    """What a pinhole camera sees of the scene builder's colours."""
    camera = capture.views[0].camera
    K = camera.K.double().numpy()
    x = (np.arange(camera.width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(camera.height) + 0.5 - K[1, 2]) / K[1, 1]
    return ray_color(np.stack(np.meshgrid(x, y), axis=-1))


@pytest.mark.parametrize("model", LENSES)
def test_a_distorted_photo_shows_what_a_pinhole_camera_sees(model: str, tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data", make_rows(model, LENSES[model]))
    messages = Messages(quiet=True)
    capture = load(root, messages=messages)
    assert any(f"undistorting 12 images ({model}), valid area" in note for note in messages.notes)
    error = np.abs(capture.image(0).numpy() - expected_photo(capture))
    assert error.mean() < 1.5  # JPEG and 8 bits
    assert error.max() < 12  # no border shows: black would differ by 100


@pytest.mark.parametrize("model", LENSES)
@pytest.mark.parametrize("resolution", [-1, 2])
def test_keypoints_lie_where_their_points_project(
    model: str, resolution: int, tmp_path: Path
) -> None:
    root = make_scene(tmp_path / "data", make_rows(model, LENSES[model]))
    capture = load(root, resolution)
    xyz = capture.points.xyz.double()
    for view in capture.views:
        seen = xyz @ view.camera.viewmat[:3, :3].double().T + view.camera.viewmat[:3, 3]
        pixels = (seen @ view.camera.K.double().T).numpy()
        pixels = pixels[:, :2] / pixels[:, 2:]
        distance = np.linalg.norm(pixels[:, None] - view.keypoints[None], axis=-1).min(axis=0)
        assert len(view.keypoints) > 50
        assert distance.max() < 1e-3


def test_a_lens_without_distortion_leaves_the_photo_untouched(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data", make_rows("OPENCV", [60.0, 60.0, 32.0, 24.0, 0, 0, 0, 0]))
    messages = Messages(quiet=True)
    capture = load(root, messages=messages)
    with Image.open(root / "images" / "img_0000.jpg") as photo:
        np.testing.assert_array_equal(capture.image(0).numpy(), np.asarray(photo))
    assert not any("undistorting" in note for note in messages.notes)
    assert not (tmp_path / "cache").exists()


def test_the_cache_returns_the_same_pixels_and_heals_itself(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data", make_rows("SIMPLE_RADIAL", LENSES["SIMPLE_RADIAL"]))
    first = load(root)
    files = sorted((tmp_path / "cache").rglob("*.png"))
    assert files
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    files[0].write_bytes(b"damaged")
    second = load(root)
    for view in first.views:
        np.testing.assert_array_equal(first.image(view.view_id), second.image(view.view_id))
    with Image.open(files[0]) as healed:
        assert healed.size == (WIDTH, HEIGHT)


def test_another_calibration_does_not_meet_the_old_cache(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data", make_rows("SIMPLE_RADIAL", LENSES["SIMPLE_RADIAL"]))
    first = load(root).image(0).numpy()
    changed = make_rows("SIMPLE_RADIAL", [60.0, 32.0, 24.0, 0.3])
    make_scene(root, changed)
    assert np.abs(first.astype(int) - load(root).image(0).numpy()).max() > 5
