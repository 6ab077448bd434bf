"""A kernel that fails: the run ends at once with its line, and what it has saved stays whole."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from arguments.messages import ExitCode
from training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
# Runs train.py's command; at the 40th step a kernel asserts, as one that reads out of bounds does.
FAILING_RUN = """
import sys
import torch
import training.run
from arguments.cli import run_command
from train import command

def poisoned(config):
    def fail(seen):
        if seen.step >= 40:
            torch.ones(4, device="cuda")[torch.tensor([9], device="cuda")]
    return fail

training.run._progress_log = poisoned
run_command(command)
"""
# The kernel fails before the probe waits; nobody has noticed by then.
FAILING_PROBE = """
import sys
import torch
from arguments.cli import parse_train, run_command
from arguments.messages import Messages
from scene.capture import load_capture
from training.preflight import _probe
from training.run import capture_settings
from training.setup import build, no_candidates

def command(words):
    config = parse_train(words)[0]
    quiet = Messages(quiet=True)
    parts = build(config, load_capture(capture_settings(config), quiet), no_candidates, quiet)
    torch.ones(4, device="cuda")[torch.tensor([9], device="cuda")]
    _probe(parts)
    print("not noticed")

run_command(command)
"""
LINE = r"error: a bug in this program: .*device-side assert.*--resume.*--check_kernels.*report /"


def run_script(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The script as a process of its own, which is all that survives a lost GPU."""
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("extra", [(), ("--check_kernels",)], ids=["recorded", "checked"])
def test_kernel_that_fails_ends_the_run_and_leaves_the_last_checkpoint(
    extra: tuple[str, ...], cuda: torch.device, tiny_capture: Path, tmp_path: Path
) -> None:
    words = ["-s", str(tiny_capture), "-m", str(tmp_path), "--method", "single", "--device", "cuda"]
    words += ["--iterations", "200", "--checkpoint_every", "30", "--quiet", *extra]
    ended = run_script(FAILING_RUN, *words)
    assert ended.returncode == ExitCode.BUG, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(LINE, lines[0]), ended.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["code"]) == ("failed", ExitCode.BUG)
    assert "device-side assert" in record["reason"]
    checkpoint.verify(checkpoint.path_of(tmp_path, 30))
    assert not any(tmp_path.glob("point_cloud/*/*"))
    assert not any(tmp_path.rglob("*.tmp"))


def test_screen_before_the_first_step_finds_a_kernel_that_fails(
    cuda: torch.device, tiny_capture: Path
) -> None:
    ended = run_script(FAILING_PROBE, "-s", str(tiny_capture), "--device", "cuda")
    assert ended.returncode == ExitCode.BUG
    assert "not noticed" not in ended.stdout
    assert re.search(LINE, ended.stderr), ended.stderr
