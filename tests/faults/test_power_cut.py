"""A power cut after any file operation of a run costs no more than the work since the last save."""

import json
from pathlib import Path

import pytest

from arguments.messages import Messages
from scene.ply_header import check_header
from tests.faults.kills import broken_files
from tests.faults.power_cut import Cut, Operation, cuts, read_log
from tests.faults.server import Commands, Fault
from training import checkpoint
from training.run_folder import ply_path

LAST = 12


def recorded(scene: Path, out: Path, log: Path, commands: Commands, *extra: str) -> list[Operation]:
    """The file operations of a short run."""
    ended = commands.run(
        *("train", "-s", str(scene), "-m", str(out), "--method", "single", "--quiet"),
        *("--iterations", str(LAST), "--checkpoint_every", "4", "--save_iterations", "6", *extra),
        fault=Fault(str(out), log=str(log)),
    )
    assert ended.code == 0, ended.stderr
    return [
        operation
        for operation in read_log(log)
        if operation.path != str(out) or operation.kind != "M"
    ]


def saved_before(operations: list[Operation], number: int) -> int | None:
    """Step of the newest checkpoint that was whole and synchronised after so many operations."""
    newest = None
    named: list[int] = []
    for operation in operations[:number]:
        name = Path(operation.other).name
        if operation.kind == "R" and name.startswith("step_") and name.endswith(".json"):
            named.append(int(name[5:11]))
        if operation.kind == "S" and operation.path.endswith(checkpoint.FOLDER) and named:
            newest = named[-1]
    return newest


def check(cut: Cut, operations: list[Operation], source: Path, target: Path) -> None:
    """What is left is whole, has the last checkpoint, and all that run.json promises."""
    cut.lay_out(source, target)
    assert broken_files(target) == [], cut.after
    saved = saved_before(operations, cut.after)
    found = checkpoint.load_newest(target, Messages(quiet=True))
    if saved is not None:
        assert found is not None, cut.after
        assert found.manifest.step >= saved
    assert not list(target.rglob("*.bad"))
    record = target / "run.json"
    if record.is_file() and json.loads(record.read_text())["status"] == "finished":
        assert found is not None
        assert found.manifest.step == LAST
        check_header(ply_path(target, LAST))


@pytest.mark.parametrize("kept", ["1", "2"])
def test_power_cut_after_any_operation_leaves_whole_files_and_the_last_checkpoint(
    kept: str, tiny_capture: Path, tmp_path: Path, commands: Commands
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    operations = recorded(tiny_capture, out, log, commands, "--keep_checkpoints", kept)
    assert {operation.kind for operation in operations} >= set("TWSRUM")
    number = 0
    for number, cut in enumerate(cuts(operations), start=1):
        check(cut, operations, out, tmp_path / "cut" / str(number))
    assert number > len(operations)


def test_power_cut_of_a_run_that_is_continued_costs_no_checkpoint(
    tiny_capture: Path, tmp_path: Path, commands: Commands
) -> None:
    """Its first save is one of a step that is there already."""
    out, log = tmp_path / "out", tmp_path / "log"
    recorded(tiny_capture, out, log, commands, "--keep_checkpoints", "1")
    operations = recorded(tiny_capture, out, log, commands, "--keep_checkpoints", "1", "--resume")
    for number, cut in enumerate(cuts(operations), start=1):
        check(cut, operations, out, tmp_path / "cut" / str(number))


def test_disk_that_is_not_synchronised_loses_what_programs_saw(tmp_path: Path) -> None:
    """The simulation itself: a file that was renamed without fsync may be empty or gone."""
    careless = [
        Operation("T", "/d/x.tmp", "", b""),
        Operation("W", "/d/x.tmp", "", b"content"),
        Operation("R", "/d/x.tmp", "/d/x", b""),
    ]
    left = [cut.left for cut in cuts(careless)]
    assert {"/d/x": b""} in left
    assert {"/d/x": b"content"} in left
    assert {} in left
    careful = [*careless[:2], Operation("S", "/d/x.tmp", "", b""), careless[2]]
    careful.append(Operation("S", "/d", "", b""))
    assert [cut.left for cut in cuts(careful) if cut.after == 5] == [{"/d/x": b"content"}]
