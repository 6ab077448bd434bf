"""What is on disk after the file system has refused any one operation, or all from one on."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arguments.messages import MAX_LINE
from tests.faults.kills import broken_files
from tests.faults.server import ALL, Commands, Fault, Operations, Outcome
from training import checkpoint

LAST = 12
BOTH = pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from-then-on"])


def words(scene: Path, out: Path, *extra: str) -> tuple[str, ...]:
    """A short run of one branch with two checkpoints and a model on the way."""
    return (
        *("train", "-s", str(scene), "-m", str(out), "--method", "single", "--quiet"),
        *("--iterations", str(LAST), "--checkpoint_every", "5", "--save_iterations", "6", *extra),
    )


def one_line(ended: Outcome) -> str:
    """The only thing that a refused command may say beside warnings."""
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert len(lines[0]) <= len("error: ") + MAX_LINE
    return lines[0]


@BOTH
def test_full_disk_at_any_operation_leaves_whole_files_and_no_exit_0_without_results(
    is_lasting: bool, tiny_capture: Path, tmp_path: Path, commands: Commands
) -> None:
    out = tmp_path / "out"
    kinds = int(Operations.WRITE | Operations.FSYNC | Operations.RENAME | Operations.OPEN)
    straight = commands.run(*words(tiny_capture, out), fault=Fault(str(out), kinds=kinds))
    assert straight.code == 0
    expected = (out / "checkpoints" / f"step_{LAST:06d}.safetensors").read_bytes()
    # Every operation but those inside of a checkpoint's many tensors, of which each 9th.
    for nth in sorted({*range(1, straight.operations, 9), straight.operations}):
        shutil.rmtree(out)
        fault = Fault(str(out), nth, kinds, errno.ENOSPC, is_lasting)
        ended = commands.run(*words(tiny_capture, out), fault=fault)
        assert broken_files(out) == []
        assert list(out.rglob("*.tmp")) == []
        if ended.code != 0:
            assert ended.code == 6, ended.stderr
            assert "No space left on device" in one_line(ended)
            again = commands.run(*words(tiny_capture, out, "--resume"))
            assert again.code == 0, again.stderr
        final = out / "checkpoints" / f"step_{LAST:06d}.safetensors"
        assert final.read_bytes() == expected
        assert json.loads((out / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EDQUOT])
def test_disk_errors_are_named(
    error: int, tiny_capture: Path, tmp_path: Path, commands: Commands
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fault = Fault(str(out / "point_cloud"), 1, int(Operations.WRITE), error, is_lasting=True)
    ended = commands.run(*words(tiny_capture, out), fault=fault)
    assert ended.code == 6
    assert os.strerror(error) in one_line(ended)
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["code"]) == ("failed", 6)
    assert os.strerror(error) in record["reason"]


def test_read_only_output_folder_is_refused_before_the_scene_is_loaded(
    tiny_capture: Path, tmp_path: Path, commands: Commands
) -> None:
    out = tmp_path / "out"
    fault = Fault(str(out), 1, int(ALL), errno.EROFS, is_lasting=True)
    ended = commands.run(*words(tiny_capture, out), fault=fault)
    assert ended.code == 6
    assert one_line(ended).startswith(f"error: cannot write '{out}': Read-only file system")
    assert not out.exists()


def test_output_folder_that_vanishes_is_made_again(
    tiny_capture: Path, tmp_path: Path, commands: Commands
) -> None:
    out = tmp_path / "out"

    def remove(_pid: int) -> None:
        for _ in range(2000):
            if checkpoint.exists(out):
                shutil.rmtree(out)
                return

    longer = words(tiny_capture, out, "--iterations", "300", "--test_iterations")
    ended = commands.run(*longer, meanwhile=remove)
    assert ended.code in (0, 6), ended.stderr
    assert broken_files(out) == []
    assert ended.code == 6 or (out / "point_cloud" / "iteration_300" / "point_cloud.ply").is_file()


def test_files_are_on_disk_before_they_are_renamed_and_folders_after(
    tmp_path: Path, commands: Commands
) -> None:
    """Without fsync a power cut can leave an empty file under a final name."""
    script = "import sys; from pathlib import Path; from scene.atomic import write_atomic; "
    script += f"write_atomic(Path({str(tmp_path / 'x')!r}), b'content')"
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    traced = subprocess.run(
        [strace, "-f", "-e", "trace=write,fsync,rename", "-y", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    calls = [line.split("(")[0] for line in traced.stderr.splitlines() if str(tmp_path) in line]
    assert calls == ["write", "fsync", "rename", "fsync"]
