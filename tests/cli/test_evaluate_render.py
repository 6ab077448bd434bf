"""render.py, evaluate.py and the report on real, very short runs."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import render
from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from evaluation import report
from evaluation.evaluate import Evaluation, read_metrics
from evaluation.evaluate import evaluate as measure
from evaluation.lpips import BACKBONES, HEADS
from evaluation.metrics import psnr, ssim
from evaluation.run_views import RunRequest, open_masker, open_views
from scene.capture import load_capture
from tests.perceptual_weights import backbone, heads
from training.run import capture_settings, prepare, train
from training.run_folder import RunRecord

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4


def trained(scene: Path, out: Path, *extra: str) -> Path:
    """A run of a few steps, rendered and measured by nobody yet."""
    line = ["-s", str(scene), "-m", str(out), "--quiet", "--iterations", str(STEPS), *extra]
    assert train(parse_train(line)[0], Messages(quiet=True)) == ExitCode.OK
    return out


def rendered(out: Path, *extra: str) -> Path:
    """The same run after render.py."""
    assert render.main(["-m", str(out), "--quiet", *extra]) == ExitCode.OK
    return out


def measured(out: Path, *extra: str) -> Evaluation:
    """What evaluate.py writes about the run."""
    assert evaluate.main(["-m", str(out), "--quiet", *extra]) == ExitCode.OK
    return read_metrics(out)


def pixels(path: Path) -> np.ndarray:
    """A file's pixels."""
    with Image.open(path) as image:
        return np.array(image)


def names(folder: Path) -> list[str]:
    """The pictures in a folder."""
    return sorted(path.name for path in folder.glob("*.png"))


@pytest.fixture(scope="module")
def dual(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual run, rendered and measured."""
    out = rendered(trained(tiny_capture, tmp_path_factory.mktemp("runs") / "dual"))
    measured(out)
    return out


@pytest.fixture(scope="module")
def single(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without masks; nothing is rendered or measured."""
    return trained(tiny_capture, tmp_path_factory.mktemp("runs") / "single", "--method", "single")


@pytest.mark.parametrize("extra", [(), ("--masks", "mine")], ids=["all", "masked"])
def test_psnr_during_training_is_that_of_the_written_model(
    extra: tuple[str, ...], tiny_capture: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(tiny_capture, scene)
    (scene / "mine").mkdir()
    for path in sorted((scene / "images").iterdir())[::2]:
        with Image.open(path) as photo:
            levels = np.zeros((photo.height, photo.width), np.uint8)
        levels[:, ::3] = 255
        Image.fromarray(levels).save(scene / "mine" / f"{path.stem}.png")
    out = trained(scene, tmp_path / "run", "--method", "single", *extra)
    found = measured(out)
    words = ["-s", str(scene), "-m", str(out), "--method", "single", "--resume", *extra]
    config = parse_train([*words, "--iterations", str(STEPS)])[0]
    run = prepare(config, RunRecord("running", 0), Messages(quiet=True))
    assert run.parts.state.result.filter_3d.any()  # what is measured has it folded in
    assert run.hooks.measure(run.parts.state.result) == pytest.approx(found.psnr, abs=1e-6)
    assert found.protocol.masked is bool(extra)
    said = json.loads((out / "metrics.json").read_text())["protocol"]
    assert all(
        said[name] for name in ("name", "quantisation", "ssim_window", "averaging", "resize")
    )


def listed(scene: Path, split: str) -> list[str]:
    """The photos of a split."""
    return sorted((scene / f"{split}_list.txt").read_text().split())


def test_renders_hold_every_view_and_masks_only_of_training_views(
    dual: Path, tiny_capture: Path
) -> None:
    renders = dual / "renders"
    for kind in ("render", "gt"):
        assert names(renders / "test" / kind) == listed(tiny_capture, "test")
        assert names(renders / "train" / kind) == listed(tiny_capture, "train")
    assert names(renders / "train" / "mask") == listed(tiny_capture, "train")
    assert not (renders / "test" / "mask").exists()


def test_saved_ground_truth_is_the_photo(dual: Path, tiny_capture: Path) -> None:
    for name in listed(tiny_capture, "test"):
        saved = pixels(dual / "renders" / "test" / "gt" / name)
        assert np.array_equal(saved, pixels(tiny_capture / "images" / name))


def test_what_is_measured_is_what_is_saved(dual: Path) -> None:
    result = read_metrics(dual)
    for view in result.per_image:
        picture, photo = (
            torch.from_numpy(pixels(dual / "renders" / "test" / kind / f"{view.stem}.png"))
            for kind in ("render", "gt")
        )
        assert view.psnr == psnr(picture, photo)
        assert view.ssim == ssim(picture, photo)


def test_means_are_over_the_views(dual: Path) -> None:
    result = read_metrics(dual)
    assert result.num_views == len(result.per_image) == 3
    assert result.psnr == pytest.approx(np.mean([view.psnr for view in result.per_image]))
    assert result.ssim == pytest.approx(np.mean([view.ssim for view in result.per_image]))


def test_metrics_say_how_they_were_taken(dual: Path) -> None:
    plain = json.loads((dual / "metrics.json").read_text())
    assert plain["lpips"] is None
    assert "weights" in plain["lpips_reason"]
    assert plain["protocol"]["quantisation"].startswith("both as 8-bit")
    assert (plain["split"], plain["step"]) == ("test", STEPS)
    assert plain["num_gaussians"] > 100
    assert plain["seconds"] > 0


def test_evaluation_agrees_with_the_measurement_during_training(
    tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["-s", str(tiny_capture), "-m", str(tmp_path), "--method", "single"]
    line += ["--iterations", "2", "--test_iterations", "2"]
    train(parse_train(line)[0], Messages())
    said = re.search(r"test PSNR ([\d.]+) dB", capsys.readouterr().err)
    assert said is not None
    assert measured(tmp_path).psnr == pytest.approx(float(said.group(1)), abs=0.006)


def test_mask_iou_counts_the_pixels_of_all_photos(dual: Path, tiny_capture: Path) -> None:
    both = either = 0
    for name in listed(tiny_capture, "train"):
        found = pixels(dual / "renders" / "train" / "mask" / name) < 127.5
        moving = pixels(tiny_capture / "gt_distractors" / name) == 255
        both += int((found & moving).sum())
        either += int((found | moving).sum())
    result = read_metrics(dual)
    assert result.mask_iou == pytest.approx(both / either)


def test_mask_iou_is_null_with_a_reason_before_masks_are_rendered(
    dual: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(dual, tmp_path / "run"))
    shutil.rmtree(out / "renders")
    result = measured(out)
    assert result.mask_iou is None
    assert "render.py" in result.mask_iou_reason


def test_a_run_without_masks_trusts_every_pixel(single: Path, tmp_path: Path) -> None:
    out = rendered(Path(shutil.copytree(single, tmp_path / "run")), "--skip_test")
    folder = out / "renders" / "train" / "mask"
    assert all((pixels(folder / name) == 255).all() for name in names(folder))
    assert not (out / "renders" / "test").exists()
    assert measured(out).mask_iou is None
    assert "without masks" in measured(out).mask_iou_reason


def test_a_learnt_mask_comes_from_the_checkpoint(tiny_capture: Path, tmp_path: Path) -> None:
    soft = ("--method", "single", "--branch_masks", "soft", "--mask_from_iter", "0")
    out = trained(tiny_capture, tmp_path / "run", *soft)
    messages = Messages(quiet=True)
    views = open_views(RunRequest(out), messages)
    judge = open_masker(views, messages)
    assert judge is not None
    assert judge.masker.state()
    drawn = int(judge.masker.state()["rows/64x48"][0])
    rendered(out, "--split", "train")
    stem = views.capture.views[views.capture.train[drawn]].stem
    saved = pixels(out / "renders" / "train" / "mask" / f"{stem}.png")
    expected = torch.sigmoid(8 * judge.masker.state()["logits/64x48"][0])
    assert np.abs(saved / 255 - expected.numpy()).max() < 0.003
    shutil.rmtree(out / "checkpoints")
    rendered(out, "--split", "train")
    assert names(out / "renders" / "train" / "mask") == []
    assert "no masks" in measured(out).mask_iou_reason


def test_rendering_again_leaves_no_old_pictures(single: Path, tmp_path: Path) -> None:
    out = rendered(Path(shutil.copytree(single, tmp_path / "run")), "--split", "test")
    stale = out / "renders" / "test" / "render" / "stale.png"
    stale.write_bytes(b"")
    rendered(out, "--split", "test")
    assert not stale.exists()


def test_the_training_split_can_be_measured(single: Path, tiny_capture: Path) -> None:
    result = measured(single, "--split", "train")
    assert result.split == "train"
    assert [view.name for view in result.per_image] == listed(tiny_capture, "train")


def test_a_moved_scene_is_named_and_can_be_given(
    single: Path, tiny_capture: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(single, tmp_path / "run"))
    config = json.loads((out / "config.json").read_text())
    config["model"]["source_path"] = str(tmp_path / "gone")
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="gone'; give its place with -s"):
        evaluate.main(["-m", str(out), "--quiet"])
    assert measured(out, "-s", str(tiny_capture)).num_views == 3


def test_required_lpips_ends_with_4_after_the_rest_is_written(single: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(single, tmp_path / "run"))
    (out / "metrics.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="LPIPS") as refusal:
        evaluate.main(["-m", str(out), "--quiet", "--require_lpips"])
    assert refusal.value.code == ExitCode.ENVIRONMENT
    assert read_metrics(out).psnr > 0


def test_lpips_is_measured_with_the_user_s_weights_and_named(
    single: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for table, state in ((BACKBONES, backbone("vgg")), (HEADS, heads("vgg"))):
        release = replace(table["vgg"], digest="")  # random files have not the official digest
        monkeypatch.setitem(table, "vgg", release)
        torch.save(state, tmp_path / release.name)
    out = Path(shutil.copytree(single, tmp_path / "run"))
    result = measured(out, "--lpips", "vgg", "--lpips_weights", str(tmp_path), "--require_lpips")
    assert result.lpips == pytest.approx(np.mean([view.lpips for view in result.per_image]))
    assert result.lpips is not None
    assert result.lpips > 0
    assert result.lpips_name == "LPIPS (VGG-16)"
    assert "LPIPS (VGG-16)" in result.protocol.name
    assert f"LPIPS (VGG-16) {result.lpips:.4f}" in capsys.readouterr().out


def test_an_empty_split_is_a_warning_without_metrics(
    tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Path(shutil.copytree(tiny_capture, tmp_path / "scene"))
    for split in ("train", "test"):
        (scene / f"{split}_list.txt").unlink()
    out = trained(scene, tmp_path / "run", "--method", "single", "--iterations", "1")
    assert evaluate.main(["-m", str(out), "--quiet"]) == ExitCode.OK
    assert "test split is empty" in capsys.readouterr().err
    assert not (out / "metrics.json").exists()


def test_a_view_that_cannot_be_measured_is_left_out_and_counted(single: Path) -> None:
    messages = Messages(quiet=True)
    views = open_views(RunRequest(single), messages)
    capture, odd = views.capture, views.capture.test[1]
    low = replace(capture.views[odd], camera=replace(capture.views[odd].camera, height=8))
    capture = replace(
        capture,
        views=tuple(low if view.view_id == odd else view for view in capture.views),
        images=tuple(im[:8] if i == odd else im for i, im in enumerate(capture.images)),
    )
    result = measure(replace(views, capture=capture), "test", messages)
    assert result is not None
    assert result.num_views == 2
    assert [failure.name for failure in result.failures] == [low.name]
    assert "2 of 3" in evaluate.summary(result)
    assert "64x8" in result.failures[0].reason


def test_a_users_mask_blackens_picture_and_photo(single: Path) -> None:
    views = open_views(RunRequest(single), Messages(quiet=True))
    plain = measure(views, "test", Messages(quiet=True))
    keeps = tuple(torch.zeros(48, 64, dtype=torch.bool) for _ in views.capture.views)
    masked = replace(views, capture=replace(views.capture, keeps=keeps))
    result = measure(masked, "test", Messages(quiet=True))
    assert plain is not None
    assert result is not None
    assert (plain.protocol.masked, result.protocol.masked) == (False, True)
    assert result.psnr == 100.0


def run_script(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command as a user types it."""
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("script", "extra", "code", "words"),
    [
        ("render.py", ["-m", "{nothing}"], ExitCode.BAD_INPUT, "config.json"),
        ("evaluate.py", ["-m", "{run}", "--iteration", "99"], ExitCode.BAD_INPUT, "99"),
        ("evaluate.py", ["-m", "{run}", "--splt", "test"], ExitCode.USAGE, "splt"),
    ],
)
def test_refusals_are_one_line_with_their_exit_code(
    script: str, extra: Sequence[str], code: int, words: str, single: Path, tmp_path: Path
) -> None:
    filled = [word.format(run=single, nothing=tmp_path) for word in extra]
    done = run_script(script, *filled)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code
    assert len(errors) == 1
    assert words in errors[0]


def test_report_shows_every_run_and_loads_nothing(dual: Path, single: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(single, tmp_path / "<script>alert(1)</script>".replace("/", "_")))
    rendered(odd)
    measured(odd)
    page_path = tmp_path / "report.html"
    code = report.main([str(dual), str(odd), "-o", str(page_path), "--max_views", "2"])
    page = page_path.read_text()
    assert code == ExitCode.OK
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http" not in re.sub(r'http-equiv|"data:[^"]*"', "", page)
    assert page.count("<img ") == 2 * 3 + 2 * 3


def test_report_refuses_a_run_that_was_not_rendered(single: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(single, tmp_path / "run"))
    measured(out)
    with pytest.raises(UserError, match=r"run render\.py"):
        report.main([str(out), "-o", str(tmp_path / "report.html")])


def test_measuring_changes_nothing_in_the_scene(single: Path, tiny_capture: Path) -> None:
    settings = capture_settings(open_views(RunRequest(single), Messages(quiet=True)).run.config)
    before = load_capture(settings, Messages(quiet=True)).digest
    files = sorted(str(path) for path in tiny_capture.rglob("*"))
    measured(single)
    assert load_capture(settings, Messages(quiet=True)).digest == before
    assert sorted(str(path) for path in tiny_capture.rglob("*")) == files
