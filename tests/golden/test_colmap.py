"""Our COLMAP reader and camera models against what pycolmap wrote and computed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from arguments.messages import Messages, UserError
from scene.camera_models import MODEL_BY_NAME, MODELS, undistort_points
from scene.colmap import read_model
from scene.rigs import rotation_matrix

FOLDER = Path(__file__).resolve().parent
EXPECTED = json.loads((FOLDER / "colmap_rig" / "expected.json").read_text())
CAMERAS = json.loads((FOLDER / "camera_models.json").read_text())


@pytest.mark.parametrize("suffix", ["bin", "txt"])
def test_poses_and_tracks_are_those_of_pycolmap(suffix: str) -> None:
    messages = Messages(quiet=True)
    model = read_model(FOLDER / "colmap_rig" / suffix, messages)
    assert messages.warnings == []
    assert {image.name for image in model.images} == set(EXPECTED["images"])
    for image in model.images:
        expected = EXPECTED["images"][image.name]
        pose = np.column_stack([rotation_matrix(image.quat), image.translation])
        np.testing.assert_allclose(pose, expected["camera_from_world"], atol=1e-12)
        assert len(image.point_ids) == expected["num_points"]
    lengths = dict(
        zip(map(str, model.points.ids.tolist()), model.points.track_lengths.tolist(), strict=True)
    )
    assert lengths == EXPECTED["track_lengths"]


def test_text_and_binary_hold_the_same_model() -> None:
    binary, text = (
        read_model(FOLDER / "colmap_rig" / suffix, Messages(quiet=True))
        for suffix in ("bin", "txt")
    )
    np.testing.assert_allclose(binary.points.xyz, text.points.xyz, atol=1e-14)
    np.testing.assert_array_equal(binary.points.rgb, text.points.rgb)
    for one, other in zip(
        sorted(binary.images, key=lambda i: i.name),
        sorted(text.images, key=lambda i: i.name),
        strict=True,
    ):
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-9)
        np.testing.assert_array_equal(one.point_ids, other.point_ids)


def test_rig_and_frame_win_over_another_pose_of_the_image(tmp_path: Path) -> None:
    folder = tmp_path / "sparse" / "0"
    shutil.copytree(FOLDER / "colmap_rig" / "txt", folder)
    lines = (folder / "images.txt").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(".png"))
    words = lines[at].split()
    lines[at] = " ".join([words[0], "1 0 0 0 9 9 9", *words[8:]])
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    messages = Messages(quiet=True)
    model = read_model(folder, messages)
    assert "using rig and frame" in messages.warnings[0]
    image = next(image for image in model.images if image.name == words[9])
    pose = np.column_stack([rotation_matrix(image.quat), image.translation])
    expected = EXPECTED["images"][image.name]["camera_from_world"]
    np.testing.assert_allclose(pose, expected, atol=1e-12)


def test_frames_without_rigs_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "sparse" / "0"
    shutil.copytree(FOLDER / "colmap_rig" / "bin", folder)
    (folder / "rigs.bin").unlink()
    with pytest.raises(UserError, match=r"frames\.bin without rigs\.bin"):
        read_model(folder, Messages(quiet=True))


@pytest.mark.parametrize("case", CAMERAS["models"], ids=lambda case: case["name"])
def test_camera_model_projects_as_pycolmap(case: dict[str, object]) -> None:
    model = MODEL_BY_NAME[case["name"]]
    params = np.array(case["params"])
    assert (model.model_id, model.num_params) == (case["id"], len(params))
    rays = np.array(CAMERAS["rays"])
    focal, extra = params[[0, model.num_focal - 1]], params[model.num_focal + 2 :]
    principal = params[model.num_focal : model.num_focal + 2]
    distorted = model.distort(rays, extra)
    np.testing.assert_allclose(distorted * focal + principal, case["pixels"], atol=1e-9)
    np.testing.assert_allclose(undistort_points(model, extra, distorted), rays, atol=1e-9)


def test_every_model_of_colmap_is_known() -> None:
    covered = {case["name"] for case in CAMERAS["models"]}
    assert covered == {model.name for model in MODELS if model.distort is not None}
    assert [model.model_id for model in MODELS] == list(range(18))


def test_a_point_that_no_ray_reaches_has_no_inverse() -> None:
    folded = undistort_points(
        MODEL_BY_NAME["SIMPLE_RADIAL"], np.array([-0.5]), np.array([[0.1, 0.0], [3.0, 0.0]])
    )
    assert np.isfinite(folded[0]).all()
    assert np.isnan(folded[1]).all()
