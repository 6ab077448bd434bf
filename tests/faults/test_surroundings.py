"""Runs as real processes: streams that close, Python's own switches, and other languages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(scene: Path, out: Path, *python: str) -> list[str]:
    """train.py as a user calls it."""
    words = ["train.py", "-s", str(scene), "-m", str(out), "--method", "single"]
    return [sys.executable, *python, *words, "--iterations", "12", "--checkpoint_every", "5"]


def model_of(out: Path) -> bytes:
    """The bytes of the model that a run has written."""
    return (out / "point_cloud" / "iteration_12" / "point_cloud.ply").read_bytes()


def test_run_outlives_whoever_reads_its_messages(tiny_capture: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `2>&1 | head` does once it has enough
    out = tmp_path / "out"
    ended = subprocess.run(
        command(tiny_capture, out), cwd=ROOT, stdout=writing, stderr=writing, check=False
    )
    os.close(writing)
    assert ended.returncode == 0
    assert model_of(out)


@pytest.mark.parametrize(
    ("python", "environment"),
    [
        (("-O",), {"PYTHONHASHSEED": "1", "LC_ALL": "tr_TR.UTF-8"}),
        ((), {"PYTHONHASHSEED": "2", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}),
    ],
    ids=["optimized-turkish", "german"],
)
def test_result_depends_on_no_switch_of_python_and_no_language(
    python: tuple[str, ...], environment: dict[str, str], tiny_capture: Path, tmp_path: Path
) -> None:
    models = []
    for name, switches, changed in (("usual", (), {}), ("other", python, environment)):
        out = tmp_path / name
        subprocess.run(
            command(tiny_capture, out, *switches),
            cwd=ROOT,
            env={**os.environ, **changed},
            capture_output=True,
            check=True,
        )
        models.append(model_of(out))
    assert models[0] == models[1]
