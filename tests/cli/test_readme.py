"""Every command that the README shows works as it stands, on the smallest capture."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scene.gaussians import Gaussians
from tests.downloads import Photos, make_robustnerf, walk_photos
from tests.scene_builder import make_scene

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PREPARATION = ("python convert.py ", "python -m evaluation.sweep ")  # tests of their own
SHORT = ["--iterations", "4", "--quiet"]


def commands() -> list[str]:
    """The lines of the README's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout."""
    return subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHON": sys.executable},
    )


def test_shell_scripts_of_the_readme_are_sound() -> None:
    scripts = {line.split()[1] for line in commands() if line.startswith("bash ")}
    names = ("demo", "prepare_robustnerf", "setup", "test")
    assert scripts == {f"scripts/{name}.sh" for name in names}
    for script in sorted(scripts):  # this test runs inside scripts/test.sh, after scripts/setup.sh
        done = run(["bash", "-n", script])
        assert done.returncode == 0, done.stderr


def test_python_commands_of_the_readme_run_in_order(tiny_capture: Path, tmp_path: Path) -> None:
    names = {"SCENE": str(tmp_path / "scene"), "OUT": str(tmp_path / "out")}
    names["OUT_SMALL"] = str(tmp_path / "small")
    (tmp_path / "scene").symlink_to(tiny_capture)
    lines = [line for line in commands() if line.startswith("python ")]
    lines = [line for line in lines if not line.startswith(PREPARATION)]
    assert len(lines) >= 5
    for line in lines:
        words = [names.get(word, word) for word in shlex.split(line)[1:]]
        if words[0] == "train.py":
            words = [*(w for w in words if w not in ("--iterations", "3000")), *SHORT]
        elif words[0] == "-m":  # the capture is shared between tests
            words += ["-o", str(tmp_path / "candidates"), "--quiet"]
        done = run([sys.executable, *words])
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "out" / "metrics.json").is_file()


@pytest.mark.slow
def test_photos_become_a_scene_as_the_readme_says(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    (line,) = (line for line in commands() if line.startswith("python convert.py "))
    names = {"PHOTOS": str(walk_photos(tmp_path / "photos")), "SCENE": str(tmp_path / "scene")}
    words = [names.get(word, word) for word in shlex.split(line)[1:]]
    done = run([sys.executable, *words])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scene" / "sparse" / "0" / "images.bin").is_file()


@pytest.mark.slow
def test_a_benchmark_is_prepared_and_swept_as_the_readme_says(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    pytest.importorskip("submitit")
    capture = make_scene(tmp_path / "capture")
    photos = [f"img_{number:04d}.jpg" for number in range(12)]
    download = make_robustnerf(tmp_path, Photos(capture, tuple(photos[:9]), tuple(photos[9:])))
    names = {"DOWNLOAD": str(download), "DATA": str(tmp_path / "data")}
    names |= {"DATA/statue": str(tmp_path / "data" / "statue"), "SWEEP": str(tmp_path / "sweep")}
    short = ["--methods", "single", "--seeds", "0", "--", "--iterations", "2"]
    for start, extra in (
        ("bash scripts/prepare_robustnerf.sh", []),
        ("python -m evaluation", short),
    ):
        (line,) = (line for line in commands() if line.startswith(start))
        words = [names.get(word, word) for word in shlex.split(line)]
        words[0] = sys.executable if words[0] == "python" else words[0]
        done = run([*words, *extra])
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert "| statue | single |" in (tmp_path / "sweep" / "sweep.md").read_text()


def test_flags_of_the_readme_exist() -> None:
    helped = run([sys.executable, "train.py", "--help"]).stdout.replace("-", "_")
    flags = set(re.findall(r"`(--[a-z_]+)", README))
    assert flags
    assert [flag for flag in sorted(flags) if flag.replace("-", "_") not in helped] == []


def test_python_snippet_of_the_readme_runs() -> None:
    some = Gaussians.from_points(torch.rand(9, 3), torch.rand(9, 3), torch.ones(9) * 0.01, 3)
    viewmats = torch.eye(4)[None]
    viewmats[0, 2, 3] = 3.0
    K = torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]])
    known = {
        "means": some.means.requires_grad_(), "quats": some.quats, "scales": some.log_scales.exp(),
        "opacities": some.opacity_logits.sigmoid(), "sh0": some.sh0, "shN": some.shN,
        "viewmats": viewmats, "Ks": K, "width": 16, "height": 16,
    }  # fmt: skip
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), known)  # noqa: S102 - our own README
    assert some.means.grad is not None
