"""Every fault in the tables gives its line, its exit code and its state on disk, as documented."""

import re
from pathlib import Path

import numpy as np
import pytest

from arguments.messages import MAX_LINE, ExitCode, Messages, UserError, one_line
from tests.conftest import ROOT
from tests.faults.messages import ELSEWHERE, LAST_CASES, PAGE, row_of_run, row_of_scene
from tests.faults.run_cases import RUN_CASES, RunCase, Stage
from tests.faults.scene_cases import CASES, Case, load, model, snapshot
from tests.faults.server import Commands
from tests.scene_builder import make_scene


def assert_documented(row: str) -> None:
    """The page shows this row; if not, python -m tests.faults.messages makes it anew."""
    if row not in PAGE.read_text("utf-8").splitlines():
        pytest.fail(f"docs/messages.md lacks: {row}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault_of_a_scene_is_named_and_nothing_is_written_to_it(case: Case, tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    case.change(root)
    before = snapshot(root)
    messages = Messages(quiet=True)
    if case.code is None:
        capture = load(root, case.settings, messages)
        said = getattr(messages, case.voice)
        assert any(re.search(case.says, line) for line in said), said
        assert len(capture.views) == case.num_views
        assert all(np.isfinite(capture.points.xyz.numpy()).ravel())
        assert capture.scene_scale > 0
        text = next(line for line in said if re.search(case.says, line))
    else:
        with pytest.raises(UserError) as caught:
            load(root, case.settings, messages)
        assert caught.value.code == case.code
        text = str(caught.value)
        assert re.search(case.says, text), text
        assert "\n" not in text
        assert len(text) <= MAX_LINE + len(str(root))
    assert snapshot(root) == before
    assert_documented(row_of_scene(case, text, tmp_path))


@pytest.mark.parametrize("case", RUN_CASES, ids=lambda case: f"{case.name}-{case.title}")
def test_fault_of_a_run_is_named_and_leaves_what_it_says(
    case: RunCase, tmp_path: Path, commands: Commands
) -> None:
    ended = case.play(Stage(tmp_path, commands))
    assert ended.code == case.code, ended.stderr
    lines = [line for line in re.split(r"[\r\n]+", ended.stderr) if line.strip()]
    said = [line for line in lines if re.search(case.says, line)]
    assert said, ended.stderr
    assert "Traceback" not in ended.stderr
    assert [line for line in lines if len(line) > MAX_LINE + len("warning: ")] == []
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == (ended.code in tuple(ExitCode) and ended.code != 0)
    assert_documented(row_of_run(case, said[0], tmp_path))


def test_every_case_has_a_row_or_a_test() -> None:
    tested = {case.name.split("-")[0] for case in (*CASES, *RUN_CASES)} | set(ELSEWHERE)
    assert {re.sub(r"[a-z]", "", name) for name in tested} == {
        f"{group}{number}" for group, last in LAST_CASES.items() for number in range(1, last + 1)
    }
    for name, (_, test) in ELSEWHERE.items():
        if "::" not in test:
            assert test.startswith("none: ")
            continue
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), name
        assert test in PAGE.read_text("utf-8")


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_every_truncation_is_refused_by_name(name: str, tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    path = model(root) / name
    whole = path.read_bytes()
    for size in {int(s) for s in np.linspace(0, len(whole) - 1, 60)}:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"^{re.escape(name)} ends inside") as caught:
            load(root, {}, Messages(quiet=True))
        assert caught.value.code == ExitCode.BAD_INPUT


def test_a_line_is_one_line_whatever_it_holds() -> None:
    text = one_line("a\nb\x1b[31m\u202e\ud800" + "x" * 1000)
    assert len(text) == MAX_LINE
    assert text.isprintable()
