"""The sweep: every cell once, interrupted cells go on, one table with mean and spread."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from arguments.messages import ExitCode, Messages, UserError
from evaluation.presets import benchmark_of, flags_of_benchmark, without_repeated
from evaluation.sweep import Row, SweepArguments, as_csv, as_markdown, is_done, parse_sweep, sweep
from evaluation.sweep_jobs import Cell, CellJob, Outcome, Queue
from scene.preparation.protocols import DATASETS

ROOT = Path(__file__).resolve().parents[2]
QUIET = Messages(quiet=True)
ROW = Row("a", "dual", 0, 20.0, 0.8, None, 0.5, 3, 100, 10.0, "cpu", "c0ffee", "--iterations 4")


def arguments(*words: str | Path) -> SweepArguments:
    return parse_sweep([str(word) for word in words])


@pytest.mark.slow
def test_a_sweep_runs_each_cell_once_and_ends_in_a_csv_and_a_table(
    tiny_capture: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    words = [tiny_capture, "-o", tmp_path, "--seeds", "0", "--jobs", "2", "--quiet"]
    words += ["--", "--iterations", "3"]
    assert sweep(arguments(*words), QUIET) == []
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [(row["scene"], row["method"]) for row in rows] == [("tiny", "dual"), ("tiny", "ema")]
    for row in rows:
        folder = tmp_path / "tiny" / row["method"] / "seed_0"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert float(row["psnr"]) == metrics["psnr"]
        assert metrics["mask_iou"] is not None  # the scene has true masks, so they were rendered
    assert (tmp_path / "sweep.md").read_text().count("| tiny |") == 2

    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("seed_0/*.json"))]

    before = times()
    assert sweep(arguments(*words), QUIET) == []  # nothing is left to do
    assert times() == before


SLURM = {  # as much of it as submitit sees; the queue is this machine
    "sbatch": """
last=$(grep -oP '(?<=--array=0-)\\d+' "${@: -1}" || echo 0)
echo "Submitted batch job 77"
for i in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((78 + i)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$i SLURM_PROCID=0 \\
    SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 \\
    SLURM_JOB_NODELIST=here bash "${@: -1}" > /dev/null 2>&1 &
done
""",
    "srun": 'while [ "$1" != env ]; do shift; done; exec "$@"',
    "sacct": "echo 'JobID|State|NodeList'; echo '77_0|RUNNING|here'; echo '77_1|RUNNING|here'",
    "scontrol": "echo here",
}


@pytest.mark.slow
def test_slurm_gets_one_array_job_with_a_task_for_each_cell(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    words = [tiny_capture, "-o", tmp_path / "out", "--methods", "single", "--cluster", "slurm"]
    words += ["--seeds", "0", "1", "--jobs", "2", "--hours", "0.5", "--partition", "gpu"]
    assert sweep(arguments(*words, "--", "--iterations", "2"), QUIET) == []
    assert len((tmp_path / "out" / "sweep.csv").read_text().splitlines()) == 3
    asked = (tmp_path / "out" / "jobs" / "77_submission.sh").read_text()
    for line in ("--array=0-1%2", "--time=30", "--partition=gpu", "--gpus-per-node=1"):
        assert f"#SBATCH {line}" in asked


@pytest.mark.slow
def test_a_run_that_is_preempted_saves_itself_and_goes_on(
    tiny_capture: Path, tmp_path: Path
) -> None:
    submitit = pytest.importorskip("submitit")
    flags = ("--iterations", "1200", "--max_gaussians", "300")
    cell = Cell(tiny_capture, "single", 0, tmp_path / "run", flags)
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    python = f"env PYTHONPATH={paths} {sys.executable}"
    executor = submitit.LocalExecutor(tmp_path / "jobs", python=python)
    executor.update_parameters(timeout_min=10)
    job = executor.submit(CellJob(replace(cell, flags=(*flags, "--checkpoint_every", "20"))))
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoints/step_*[1-9]0.json")):
        assert time.monotonic() < deadline, job.stderr()
        time.sleep(0.05)
    (task,) = children_of(job.job_id)
    os.kill(task, signal.SIGUSR2)  # what submitit makes of Slurm's announcement
    assert job.result() == Outcome(0), job.stderr()
    assert re.search(r"stopped at step \d+, saved", job.stderr())
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["status"], run["step"]) == ("finished", 1200)


def children_of(pid: str) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_run(tiny_capture: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    bad = tmp_path / "bad"
    bad.mkdir()
    failures = sweep(
        arguments(
            bad, tiny_capture, "-o", tmp_path / "out", "--methods", "single", "--seeds", "0",
            "--quiet", "--", "--iterations", "2",
        ),
        QUIET,
    )  # fmt: skip
    assert len(failures) == 1
    assert failures[0].startswith("bad single seed 0 ended with 3: error: no COLMAP model")
    assert len((tmp_path / "out" / "sweep.csv").read_text().splitlines()) == 2


def test_a_cell_run_with_other_flags_is_not_taken_for_this_one(tmp_path: Path) -> None:
    cell = Cell(tmp_path, "dual", 0, tmp_path, ("--iterations", "4"))
    (tmp_path / "sweep_cell.json").write_text('["--iterations", "5"]')
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="was run with '--iterations 5'") as refused:
        is_done(cell)
    assert refused.value.code == ExitCode.USAGE


def test_the_table_has_mean_and_spread_over_seeds_and_over_scenes() -> None:
    rows = [
        replace(ROW, psnr=20.0), replace(ROW, seed=1, psnr=22.0),
        replace(ROW, scene="b", psnr=30.0), replace(ROW, scene="b", seed=1, psnr=30.0),
    ]  # fmt: skip
    lines = as_markdown(rows).splitlines()[2:]
    assert lines[0].startswith("| a | dual | 21.00 ± 1.41 | 0.8000 ± 0.0000 | - | 0.500")
    assert lines[1].startswith("| b | dual | 30.00 ± 0.00 |")
    # 25 and 26 are the seeds' means over the scenes
    assert lines[2].startswith("| mean of scenes | dual | 25.50 ± 0.71 |")


def test_one_seed_has_no_spread_and_a_seed_that_a_scene_lacks_is_not_averaged_over_scenes() -> None:
    rows = [ROW, replace(ROW, scene="b", psnr=30.0), replace(ROW, seed=1, psnr=90.0)]
    lines = as_markdown(rows).splitlines()[2:]
    assert lines[1].startswith("| b | dual | 30.00 |")
    assert lines[2].startswith("| mean of scenes | dual | 25.00 |")


def test_the_csv_reads_back() -> None:
    (row,) = csv.DictReader(as_csv([ROW]).splitlines())
    assert (row["psnr"], row["lpips"], row["flags"]) == ("20.0", "", "--iterations 4")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["SCENE", "-o", "out", "--", "--iteratons", "3"], ExitCode.USAGE),
        (["SCENE", "-o", "out", "--jobs", "0"], ExitCode.USAGE),
        (["SCENE", "-o", "out", "--seeds", "1", "1"], ExitCode.USAGE),
        (["SCENE", "SCENE", "-o", "out"], ExitCode.USAGE),
        (["nowhere", "-o", "out"], ExitCode.BAD_INPUT),
        (["SCENE", "-o", "out", "--cluster", "slurm"], ExitCode.ENVIRONMENT),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(
    words: list[str], code: ExitCode, tiny_capture: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if code == ExitCode.ENVIRONMENT:
        pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    words = [str(tiny_capture) if word == "SCENE" else word for word in words]
    with pytest.raises(UserError) as refused:
        sweep(arguments(*words), QUIET)
    assert refused.value.code == code


def test_without_submitit_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install submitit"):
        Queue().run([], tmp_path, lambda cell, outcome: None)


def test_a_benchmarks_scene_brings_its_flags_and_what_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / "nb-info.json").write_text('{"id": "phototourism"}')
    preset = flags_of_benchmark(benchmark_of(tmp_path))
    assert preset[:2] == ("--iterations", "100000")
    cell, *_ = arguments(tmp_path, "-o", "out", "--", "--iterations", "5").cells()
    assert cell.flags.count("--iterations") == 1
    assert cell.flags[-2:] == ("--iterations", "5")
    assert without_repeated(["--sh_interval", "7"], ["--sh-interval", "3"]) == []


def test_run_all_names_every_scene_of_the_benchmarks_once(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "scripts/run_all.sh", str(tmp_path), "-o", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHON": "echo"},
    )  # fmt: skip
    expected = [f"{tmp_path}/{p.name}/{s.name}" for p in DATASETS for s in p.scenes]
    words = done.stdout.split()
    assert [word for word in words if word.startswith(f"{tmp_path}/") and "/out" not in word] == (
        expected
    )
    assert words[words.index("--methods") + 1 :][:2] == ["dual", "ema"]
