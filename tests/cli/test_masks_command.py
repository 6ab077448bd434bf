"""`python -m masks`: what it says, what it leaves on disk, how it ends."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arguments.cli import parse
from arguments.messages import ExitCode, Messages, UserError
from masks.__main__ import MaskArguments, find_candidates
from masks.segments import sam_hint
from tests.colmap_database import true_matches, write_database
from tests.scene_builder import make_rows, make_scene

ROOT = Path(__file__).resolve().parents[2]


def run_masks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "masks", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_leaves_a_file_per_training_photo_and_a_sheet(
    tiny_capture: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(tiny_capture, scene)
    done = run_masks("-s", scene)
    assert done.returncode == 0, done.stderr
    assert "zero-download default" in done.stderr
    files = sorted((scene / "candidates").glob("*.npz"))
    listed = (scene / "train_list.txt").read_text().split()
    assert [path.stem for path in files] == sorted(Path(name).stem for name in listed)
    sheet = np.asarray(Image.open(scene / "candidates" / "contact_sheet.png"))
    assert sheet.std() > 0


def test_a_folder_that_is_no_scene_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    arguments = MaskArguments(source_path=tmp_path, output=tmp_path / "out")
    with pytest.raises(UserError) as refusal:
        find_candidates(arguments, Messages(quiet=True))
    assert refusal.value.code == ExitCode.BAD_INPUT
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [["--kind", "magic"], ["--sheet-photos", "-1"], ["--evidence", "hearsay"], []]
)
def test_a_wrong_command_line_is_a_usage_error(wrong: list[str]) -> None:
    words = ["-s", "x", *wrong] if wrong else []
    with pytest.raises(UserError) as refusal:
        parse(MaskArguments, words, prog="python -m masks", description="")
    assert refusal.value.code == ExitCode.USAGE


def test_missing_weights_end_the_command_with_4_and_say_how_to_get_them(
    tiny_capture: Path, tmp_path: Path
) -> None:
    given = ["--kind", "mobile_sam", "--sam-checkpoint", tmp_path / "away.pt"]
    done = run_masks("-s", tiny_capture, "-o", tmp_path / "out", *given)
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no weights ")
    assert "mobile_sam.pt" in done.stderr
    assert not (tmp_path / "out").exists()


def test_half_a_file_of_weights_ends_the_command_with_4_and_leaves_no_candidates(
    tiny_capture: Path, tmp_path: Path
) -> None:
    half = tmp_path / "mobile_sam.pt"
    half.write_bytes(b"PK\3\4" + bytes(1000))
    done = run_masks(
        *("-s", tiny_capture, "-o", tmp_path / "out"),
        *("--kind", "mobile_sam", "--sam-checkpoint", half),
    )
    assert done.returncode == ExitCode.ENVIRONMENT, done.stderr
    assert f"weights in {half} (1004 bytes) cannot be used" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("out/*.npz"))


def test_segments_of_which_none_matches_end_the_command_with_3(
    tiny_capture: Path, tmp_path: Path
) -> None:
    (tmp_path / "segments").mkdir()
    Image.new("L", (4, 4), 9).save(tmp_path / "segments" / "a_mask_0.png")
    done = run_masks(
        *("-s", tiny_capture, "-o", tmp_path / "out"),
        *("--kind", "imported", "--segments", tmp_path / "segments"),
    )
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert "photos have segments in" in done.stderr.splitlines()[-1]
    assert "folder has 'a_mask_0.png'" in done.stderr.splitlines()[-1]


def test_the_default_says_whether_weights_for_better_segments_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPLAT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    assert f"no Segment Anything weights in {tmp_path}" in sam_hint()
    (tmp_path / "mobile_sam.pt").touch()
    assert "--kind mobile_sam" in sam_hint()


def test_matches_of_the_database_are_told_in_the_reasons_and_the_database_stays_as_it_is(
    tmp_path: Path,
) -> None:
    rows = make_rows()
    scene = make_scene(tmp_path / "scene", rows)
    write_database(scene / "database.db", rows, true_matches(rows))
    before = {path: path.stat().st_mtime_ns for path in scene.rglob("*")}
    done = run_masks("-s", scene, "-o", tmp_path / "out", "--evidence", "tracks", "database")
    assert done.returncode == 0, done.stderr
    assert f"static evidence: matches of {scene / 'database.db'} in 3 or more" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in scene.rglob("*")} == before
    header = (tmp_path / "out" / "img_0000.csv").read_text().splitlines()[1]
    assert ",found,tracks,database,features,expected," in header


def test_a_scene_without_a_database_says_where_it_looked(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "scene")
    done = run_masks("-s", scene, "-o", tmp_path / "out", "--evidence", "database")
    assert done.returncode == ExitCode.BAD_INPUT
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        "error: --evidence database needs COLMAP's database: neither database.db"
    )
    assert "--database FILE" in said
    assert not list((tmp_path / "out").glob("*.npz"))


def test_segments_of_another_tool_become_candidates(tiny_capture: Path, tmp_path: Path) -> None:
    names = (tiny_capture / "train_list.txt").read_text().split()
    (tmp_path / "segments").mkdir()
    for name in names[1:]:
        with Image.open(tiny_capture / "images" / name) as image:
            labels = np.zeros((image.height, image.width), dtype=np.uint8)
        labels[: len(labels) // 2] = 7
        Image.fromarray(labels).save(tmp_path / "segments" / f"{name}.png")
    done = run_masks(
        *("-s", tiny_capture, "-o", tmp_path / "out"),
        *("--kind", "imported", "--segments", tmp_path / "segments"),
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(names) - 1}/{len(names)} photos" in done.stderr
    assert len(list((tmp_path / "out").glob("*.npz"))) == len(names)
