"""nerfbaselines (>= 1.2.12) sees our methods, trains, resumes, renders and measures them."""

import filecmp
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arguments.messages import ExitCode, Messages, UserError
from scene.capture import CaptureSettings, load_capture
from scene.gaussians import Gaussians
from tests.scene_builder import make_rows, make_scene
from training.run_folder import splats_of

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "evaluation" / "nerfbaselines_spec.py"
QUIET = Messages(quiet=True)
SHORT = ["--set", "iterations=6", "--set", "branch_masks=hard soft"]


@pytest.fixture(scope="module")
def scene(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in capture as a local benchmark that is measured without LPIPS."""
    folder = tmp_path_factory.mktemp("nerfbaselines") / "scene"
    shutil.copytree(tiny_capture, folder)
    info = {
        "loader": "colmap",
        "loader_kwargs": {"images_path": "images", "colmap_path": "sparse/0"},
        "id": "robustnerf",
        "scene": "statue",
        "type": None,
        "evaluation_protocol": "without-lpips",
    }
    (folder / "nb-info.json").write_text(json.dumps(info))
    return folder


# test-method deletes a folder into which its own thread for tensorboard may still be writing.
RACE = "Directory not empty: 'tensorboard'"


def nerfbaselines(*words: str | Path, **variables: str) -> str:
    """One of its commands, again where it lost a race against itself; what it says."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    known = {
        "NERFBASELINES_BACKEND": "python", "NERFBASELINES_REGISTER": str(SPEC), "PYTHONPATH": paths,
    }  # fmt: skip
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-m", "nerfbaselines", *map(str, words)], cwd=ROOT, text=True,
            capture_output=True, check=False, env=os.environ | known | variables,
        )  # fmt: skip
        said = done.stdout + done.stderr
        if RACE not in said:
            break
    assert done.returncode == 0, said[-3000:]
    return said


def dataset(scene: Path, split: str = "train") -> Any:
    """The scene as nerfbaselines loads it."""
    from nerfbaselines.datasets import load_dataset

    from evaluation.nerfbaselines_method import TwinSplat

    info = TwinSplat.get_method_info()
    return load_dataset(
        str(scene),
        split=split,
        features=info["required_features"],
        supported_camera_models=info["supported_camera_models"],
        load_features=True,
    )


@pytest.mark.slow
def test_train_resume_render_evaluate_and_the_conformance_test_pass(
    scene: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    command = ["train", "--method", "twinsplat", "--data", scene, "--eval-few-iters", "0", *SHORT]
    nerfbaselines(
        *command, "--output", out, "--save-iters", "3,6", "--eval-all-iters", "-1",
        "--logger", "tensorboard",
    )  # fmt: skip
    nerfbaselines(
        *command, "--output", again, "--checkpoint", out / "checkpoint-3", "--eval-all-iters", "0",
        "--logger", "none",
    )  # fmt: skip
    name = "checkpoint-6/checkpoints/step_000006.safetensors"
    assert filecmp.cmp(out / name, again / name, shallow=False)  # resumed = uninterrupted
    nerfbaselines(
        "render", "--checkpoint", again / "checkpoint-6", "--data", scene, "--split", "test",
        "--output", tmp_path / "pictures",
    )  # fmt: skip
    nerfbaselines("evaluate", tmp_path / "pictures", "-o", tmp_path / "numbers.json")
    measured = json.loads((tmp_path / "numbers.json").read_text())["metrics"]
    trained = json.loads((out / "results-6.json").read_text())["metrics"]
    assert set(measured) == {"psnr", "ssim", "mae", "mse"}
    assert measured["psnr"] == trained["psnr"]
    public = tmp_path / "public" / "twinsplat" / "robustnerf"
    public.mkdir(parents=True)
    shutil.copyfile(out / "output.zip", public / "statue.zip")
    shutil.copyfile(out / "results-6.json", public / "statue.json")
    said = nerfbaselines(
        "test-method", "--method", "twinsplat", "--data", scene, "--steps", "4",
        NERFBASELINES_LOCAL_RESULTS_PATH=str(tmp_path / "public"),
    )  # fmt: skip
    assert "All tests passed" in said
    assert "Public checkpoint valid" in said


def test_both_methods_have_the_presets_of_the_benchmarks_by_id() -> None:
    from nerfbaselines.training import get_presets_and_config_overrides

    specs = registered()
    for name in ("twinsplat", "twinsplat-ema"):
        chosen, settings = get_presets_and_config_overrides(
            specs[name], {"id": "phototourism"}, presets=None, config_overrides={}
        )
        assert set(chosen) == {"phototourism"}
        assert settings["iterations"] == "100000"
        from evaluation.nerfbaselines_method import config_of

        config = config_of("dual", settings)
        assert config.run.iterations == 100_000
        assert config.densification.densify_until_iter == 30_000


def registered() -> dict[str, Any]:
    """What the spec file registers."""
    from nerfbaselines._registry import collect_register_calls

    found: list[Any] = []
    spec = importlib.util.spec_from_file_location("spec_under_test", SPEC)
    assert spec is not None
    assert spec.loader is not None
    with collect_register_calls(found):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return {entry["id"]: entry for entry in found}


def test_the_entry_point_names_the_spec() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (target,) = project["project"]["entry-points"]["nerfbaselines.specs"].values()
    assert (ROOT / target.replace(".", "/")).with_suffix(".py") == SPEC
    assert set(registered()) == {"twinsplat", "twinsplat-ema", "without-lpips"}


def test_the_dataset_is_the_capture_that_train_py_loads(tiny_capture: Path, scene: Path) -> None:
    from evaluation.nerfbaselines_dataset import NerfbaselinesDataset, capture_of

    ours = load_capture(CaptureSettings(tiny_capture), QUIET)
    theirs = capture_of(NerfbaselinesDataset.of(dataset(scene)), QUIET)
    assert [ours.views[i].name for i in ours.train] == [view.name for view in theirs.views]
    for view_id, other in zip(ours.train, theirs.views, strict=True):
        mine = ours.views[view_id]
        assert np.allclose(mine.camera.viewmat, other.camera.viewmat, atol=1e-5)
        assert np.allclose(mine.camera.K, other.camera.K, atol=1e-4)
        assert mine.camera.size == other.camera.size
        assert np.allclose(mine.keypoints, other.keypoints)
        assert np.allclose(mine.point_xyz, other.point_xyz, atol=1e-5)
        assert (other.track_lengths <= mine.track_lengths).all()  # test photos do not count
        assert np.array_equal(ours.image(view_id), theirs.image(other.view_id))
    assert np.allclose(ours.points.xyz, theirs.points.xyz, atol=1e-5)
    assert ours.scene_scale == pytest.approx(theirs.scene_scale, rel=1e-5)


def test_a_render_is_the_pinhole_picture_also_off_centre(scene: Path, tmp_path: Path) -> None:
    from evaluation.nerfbaselines_method import TwinSplat

    method = TwinSplat(train_dataset=dataset(scene), config_overrides={"iterations": "2"})
    camera = dataset(scene)["cameras"][0]
    whole = method.render(camera)["color"]
    intrinsics = camera.intrinsics.copy()
    intrinsics[..., 2] -= 10  # the same camera, cut by 10 columns on the left
    sizes = camera.image_sizes.copy()
    sizes[..., 0] -= 10
    cut = method.render(camera.replace(intrinsics=intrinsics, image_sizes=sizes))["color"]
    assert whole.shape == (48, 64, 3)
    # Gaussians at the rim are cut off a little differently.
    assert np.abs(cut - whole[:, 10:]).mean() < 0.1 * np.abs(cut - whole[:, :-10]).mean()
    method.close()


def test_masks_of_the_dataset_reach_the_training(scene: Path) -> None:
    from evaluation.nerfbaselines_dataset import NerfbaselinesDataset, capture_of

    data = dict(dataset(scene))
    data["masks"] = [np.zeros(image.shape[:2], bool) for image in data["images"]]
    data["masks"][0][:, :5] = True
    capture = capture_of(NerfbaselinesDataset.of(data), QUIET)
    name = os.path.relpath(data["image_paths"][0], data["image_paths_root"])
    (view,) = (view for view in capture.views if view.name == name)
    keep = capture.mask(view.view_id)
    assert keep is not None
    assert keep.sum() == 5 * keep.shape[0]


def test_a_dataset_of_tiny_units_is_warned_of(scene: Path) -> None:
    from evaluation.nerfbaselines_dataset import NerfbaselinesDataset, capture_of

    data = NerfbaselinesDataset.of(dataset(scene))
    data.poses[:, :, 3] *= 1e-3
    messages = Messages(quiet=True)
    capture_of(replace(data, xyz=1e-3 * data.xyz), messages)
    assert any("extent" in text and "is shown; scale" in text for text in messages.warnings)


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, [9, 9, 9]), (3, [9, 8, 7]), (4, [100, 100, 100]), (2, [100] * 3)]
)
def test_photos_of_any_channels_become_rgb(channels: int, expected: list[int]) -> None:
    from evaluation.nerfbaselines_dataset import as_rgb

    image = np.array([9, 8, 7, 0], np.uint8)[: channels if channels != 2 else 2]
    image = np.array([9, 0], np.uint8) if channels == 2 else image  # gray and transparent
    rgb = as_rgb(np.tile(image, (2, 2, 1)), np.full(3, 100, np.uint8))
    assert rgb[1, 1].tolist() == expected


@pytest.mark.parametrize(
    "setting", [{"iteratons": "3"}, {"source_path": "x"}, {"iterations": "many"}]
)
def test_a_wrong_setting_is_a_usage_error(setting: dict[str, str]) -> None:
    from evaluation.nerfbaselines_method import config_of

    with pytest.raises(UserError) as refused:
        config_of("dual", setting)
    assert refused.value.code == ExitCode.USAGE


def test_settings_come_as_text_and_as_values() -> None:
    from evaluation.nerfbaselines_method import config_of

    config = config_of(
        "ema", {"white_background": "True", "branch_masks": ("hard", "soft"), "sh_degree": 1}
    )
    assert config.model.white_background
    assert config.mask.branch_masks == ("hard", "soft")
    assert (config.run.method, config.model.sh_degree) == ("ema", 1)


def test_a_distorted_camera_is_refused_if_nerfbaselines_lets_it_through(tmp_path: Path) -> None:
    from nerfbaselines.datasets import load_dataset

    from evaluation.nerfbaselines_dataset import NerfbaselinesDataset

    rows = make_rows("OPENCV", [60.0, 61.0, 32.0, 24.0, -0.08, 0.03, 0.004, -0.003])
    scene = make_scene(tmp_path / "scene", rows)
    raw = load_dataset(
        str(scene), split="train", features=frozenset(),
        supported_camera_models=frozenset(("pinhole", "opencv")), load_features=True,
    )  # fmt: skip
    with pytest.raises(UserError, match="distorted"):
        NerfbaselinesDataset.of(raw)


def test_appearance_is_the_interfaces_default_until_there_is_one(scene: Path) -> None:
    from evaluation.nerfbaselines_method import TwinSplat

    train = dataset(scene)
    method = TwinSplat(train_dataset=train, config_overrides={"iterations": "2"})
    assert method.get_train_embedding(0) is None
    with pytest.raises(NotImplementedError):
        method.optimize_embedding(train)
    method.close()


def test_exported_splats_are_the_model_as_our_own_ply_has_it(scene: Path) -> None:
    from evaluation.nerfbaselines_method import TwinSplat

    method = TwinSplat(train_dataset=dataset(scene), config_overrides={"iterations": "2"})
    theirs, ours = method.export_gaussian_splats(), splats_of(method._result)
    harmonics = theirs["spherical_harmonics"]
    assert harmonics.shape == (len(ours.means), 3, 16)
    assert np.array_equal(harmonics[:, :, 0], ours.sh0[:, 0])
    assert np.array_equal(harmonics[:, 1, 5], ours.shN[:, 4, 1])
    assert np.allclose(np.log(theirs["scales"]), ours.log_scales, atol=1e-5)
    assert np.allclose(theirs["opacities"], ours.opacity_logits.sigmoid())
    method.close()


def test_steps_out_of_order_and_no_material_are_refused(scene: Path) -> None:
    from evaluation.nerfbaselines_method import TwinSplat

    method = TwinSplat(train_dataset=dataset(scene), config_overrides={"iterations": "2"})
    with pytest.raises(UserError, match="step 1 asked for, the model is at step 0"):
        method.train_iteration(1)
    method.close()
    with pytest.raises(UserError, match="checkpoint"):
        TwinSplat()


def test_a_number_that_is_none_stops_the_training_with_its_name(scene: Path) -> None:
    from evaluation.nerfbaselines_method import TwinSplat

    method = TwinSplat(train_dataset=dataset(scene), config_overrides={"iterations": "9"})
    with torch.no_grad():
        method._result.opacity_logits[7] = torch.nan
    with pytest.raises(UserError, match="opacity_logits of Gaussian 7") as refused:
        method.train_iteration(0)
    assert refused.value.code == ExitCode.NUMERICAL
    method.close()


def test_a_loaded_model_is_the_first_branch(scene: Path, tmp_path: Path) -> None:
    from evaluation.nerfbaselines_method import TwinSplat

    method = TwinSplat(train_dataset=dataset(scene), config_overrides={"iterations": "2"})
    method.train_iteration(0)
    method.save(str(tmp_path / "saved"))
    loaded = TwinSplat(checkpoint=str(tmp_path / "saved"))
    camera = dataset(scene)["cameras"][3]
    assert np.array_equal(method.render(camera)["color"], loaded.render(camera)["color"])
    assert isinstance(loaded._result, Gaussians)
    assert loaded.get_info()["loaded_step"] == 1
    assert not re.search(
        r"/tmp|/work", (tmp_path / "saved/checkpoints/step_000001.json").read_text()
    )
    method.close()
