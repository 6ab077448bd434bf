"""docs/messages.md from the tables of faults: run it as python -m tests.faults.messages.

The messages are those that the program gives now; the tests hold the page to them.
"""

import re
import tempfile
from pathlib import Path

from arguments.messages import Messages, UserError, one_line
from tests.faults.run_cases import RUN_CASES, RunCase, Stage
from tests.faults.scene_cases import CASES, Case, load
from tests.faults.server import Commands
from tests.scene_builder import make_scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "messages.md"
HEAD = """# Messages and exit codes

Made by `python -m tests.faults.messages` from the tables of faults in `tests/faults/`; do not edit.

Every refusal is one line on stderr, at most 300 characters, control characters escaped:

```
error: <what> in <file>[: record or offset]: <value seen>; <what to do>
```

Warnings are one line each, and stand in `run.json` of the run, which also says its status, the true
step, the exit code and the reason. While a run works, it holds `run.lock`.

| code | meaning |
| --- | --- |
| 0 | everything promised exists and reads back |
| 1 | a bug in this program: one line and the path of a crash report |
| 2 | the command line is wrong, or the output folder has a run or is in use |
| 3 | the scene, a photo, a mask, a split or a PLY file is unusable |
| 4 | the environment is: no GPU where one is asked for, a missing package or weights, no decoder |
| 5 | out of memory, after two returns to a checkpoint with fewer Gaussians |
| 6 | the file system refused |
| 7 | the numbers are no numbers any more, after two returns to a checkpoint with lower rates |
| 8 | a checkpoint is damaged, of another version, or of other data or settings |
| 129, 130, 143 | stopped by SIGHUP, by SIGINT, by SIGTERM or SIGUSR1, after the step was finished \
and saved; the message names the checkpoint |

"""
GROUPS = {
    "A": "Finding the dataset",
    "B": "Content of the model",
    "C": "Photos",
    "D": "Masks",
    "E": "Numbers",
    "F": "Resources",
    "G": "Interruption and checkpoints",
    "H": "PLY files",
    "I": "Evaluation",
    "K": "Surroundings",
}
LAST_CASES = {"A": 13, "B": 21, "C": 11, "D": 9, "E": 9, "F": 12, "G": 15, "H": 9, "I": 6, "K": 5}
# Cases that are no line of a scene or a run, and the test of each.
ELSEWHERE = {
    "B6": (
        "a camera whose lens distorts",
        "tests/unit/test_undistort.py::test_a_distorted_photo_shows_what_a_pinhole_camera_sees",
    ),
    "D7": (
        "weights of Segment Anything that are missing or cut short",
        "tests/cli/test_masks_command.py::"
        "test_half_a_file_of_weights_ends_the_command_with_4_and_leaves_no_candidates",
    ),
    "E1": (
        "a number that is none, in each parameter and moment",
        "tests/faults/test_numbers.py::"
        "test_bad_parameter_is_named_with_gaussian_and_photo_and_the_run_recovers",
    ),
    "E7": (
        "Gaussians that no photo reaches any more",
        "tests/faults/test_numbers.py::test_idle_gaussians_are_said",
    ),
    "F2": (
        "too little memory on the GPU",
        "tests/cuda/test_runs.py::test_growth_beyond_the_memory_goes_on_with_a_lower_cap",
    ),
    "F3": (
        "memory of the GPU that others take meanwhile",
        "tests/cuda/test_runs.py::"
        "test_memory_that_is_taken_meanwhile_ends_the_run_with_its_last_checkpoint",
    ),
    "F6": (
        "operators that do not load",
        "tests/unit/test_doctor.py::test_broken_installation_has_one_verdict_and_one_command",
    ),
    "G15": (
        "an output folder that vanishes",
        "tests/faults/test_disk.py::test_output_folder_that_vanishes_is_made_again",
    ),
    "H1": (
        "rows that no viewer can draw",
        "tests/unit/test_ply.py::test_rows_that_no_viewer_can_draw_are_not_exported",
    ),
    "H2": (
        "nothing to export",
        "tests/unit/test_ply.py::test_nothing_to_export_leaves_the_old_file",
    ),
    "H4": (
        "a PLY with a hostile header",
        "tests/unit/test_ply.py::test_a_hostile_header_is_refused",
    ),
    "H6": (
        "a PLY of activated values",
        "tests/unit/test_ply.py::test_activated_values_are_pointed_out",
    ),
    "H7": (
        "a PLY with an odd number of coefficients",
        "tests/unit/test_ply.py::test_an_odd_number_of_coefficients_is_refused",
    ),
    "H8": ("a model that depends on appearance", "none: there are no such models yet"),
    "H9": (
        "a PLY beyond what readers can count",
        "tests/unit/test_ply.py::test_more_rows_than_readers_can_count_are_refused_before_writing",
    ),
    "I2": (
        "photos that were delivered smaller",
        "tests/unit/test_capture.py::test_provided_smaller_photos_are_used_when_all_fit",
    ),
    "I5": (
        "a test photo that cannot be measured",
        "tests/cli/test_evaluate_render.py::"
        "test_a_view_that_cannot_be_measured_is_left_out_and_counted",
    ),
    "I6": (
        "nerfbaselines: resume, evaluate again, compare digests",
        "tests/nerfbaselines/test_nerfbaselines.py::"
        "test_train_resume_render_evaluate_and_the_conformance_test_pass",
    ),
    "K4": (
        "two that install at once",
        "tests/ops/test_build.py::test_a_second_setup_waits_for_the_first",
    ),
}
VOICES = {"warnings": "warning: ", "notes": ""}


def plain(text: str, root: Path) -> str:
    """A message without what differs from machine to machine."""
    text = one_line(text.strip()).replace(str(root / "data"), "SCENE")
    text = text.replace(str(root / "scene"), "SCENE").replace(str(root / "out"), "OUT")
    text = text.replace(str(root), "DIR")
    for pattern, shown in (
        (r"pid \d+", "pid 4711"),
        (r"\d+ MB free", "N MB free"),
        (r"[\d.]+ GB of memory", "N GB of memory"),
        (r"done in \d+ s: \d+ Gaussians", "done in N s: N Gaussians"),
        (r"step_\d{6}[.\w]*\.tmp", "step_N.tmp"),
        (r"(stopped at step|resuming from step|after step) \d+", r"\1 N"),
        (r"step_\d{6}", "step_N"),
        (r"with \d+ Gaussians", "with N Gaussians"),
        (r"iteration_\d+", "iteration_N"),
        (r"(\d+) of 12 photos had", "N of 12 photos had"),
        (r"/DIR/\S* 場所", "DIR"),
        (r"\d+ allowed \(--max", "N allowed (--max"),
        (r"[\d.]+ GB of [\d.]+ GB free; using cap \d+", "N GB of N GB free; using cap N"),
        (r"report /\S+", "report FILE"),
        (r"torch \d[\w.+]*", "torch N"),
        (r"Python \d[\d.]*", "Python N"),
        (r"\S+/torch is used", "DIR/torch is used"),
        (r"\d+ of 12 photos are in", "N of 12 photos are in"),
    ):
        text = re.sub(pattern, shown, text)
    return text.replace("|", "\\|")


def row_of_scene(case: Case, text: str, root: Path) -> str:
    """The row of a scene's fault."""
    number, _, words = case.name.partition("-")
    said = plain(text, root)
    code = 0 if case.code is None else int(case.code)
    voice = "error: " if case.code is not None else VOICES[case.voice]
    return f"| {number} | {words.replace('-', ' ')} | `{voice}{said}` | {code} | |"


def row_of_run(case: RunCase, line: str, root: Path) -> str:
    """The row of a run's fault."""
    return f"| {case.name} | {case.title} | `{plain(line, root)}` | {case.code} | {case.left} |"


def _scene_row(case: Case, root: Path) -> str:
    scene = make_scene(root / "data")
    case.change(scene)
    messages = Messages(quiet=True)
    try:
        load(scene, case.settings, messages)
    except UserError as refusal:
        return row_of_scene(case, str(refusal), root)
    said = getattr(messages, case.voice)
    return row_of_scene(case, next(line for line in said if re.search(case.says, line)), root)


def _run_row(case: RunCase, root: Path, commands: Commands) -> str:
    ended = case.play(Stage(root, commands))
    lines = [line for line in re.split(r"[\r\n]+", ended.stderr) if re.search(case.says, line)]
    if not lines or ended.code != case.code:
        raise ValueError(f"{case.name} {case.title}: {ended}")
    return row_of_run(case, lines[0], root)


def main() -> None:
    """Run every case and write the page."""
    rows: dict[str, list[tuple[int, str]]] = {group: [] for group in GROUPS}
    with tempfile.TemporaryDirectory() as folder, Commands(Path(folder) / "commands") as commands:
        for index, case in enumerate((*CASES, *RUN_CASES)):
            root = Path(folder) / str(index)
            root.mkdir()
            is_scene = isinstance(case, Case)
            row = _scene_row(case, root) if is_scene else _run_row(case, root, commands)
            number = int(re.sub(r"\D", "", case.name.split("-")[0]))
            rows[case.name[0]].append((number, row))
    parts = [HEAD]
    for group, title in GROUPS.items():
        ordered = [row for _, row in sorted(rows[group], key=lambda numbered: numbered[0])]
        parts.append(f"## {group}. {title}\n\n| case | what is wrong | it says | code | left |\n")
        parts.append("| --- | --- | --- | --- | --- |\n" + "\n".join(ordered) + "\n\n")
    elsewhere = [f"| {name} | {what} | `{test}` |" for name, (what, test) in ELSEWHERE.items()]
    parts.append("## Cases with a test of their own\n\n| case | what is wrong | test |\n")
    parts.append("| --- | --- | --- |\n" + "\n".join(elsewhere) + "\n")
    PAGE.write_text("".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
