"""Whole runs on a GPU: the same bytes each time, whatever stops them, within the memory there is.

Bad numbers are in tests/faults/test_numbers.py, steps from static buffers in
tests/training/test_graph.py; both run on every device.
"""

import gc
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from arguments.cli import parse_train
from arguments.messages import MAX_LINE, ExitCode, Messages, UserError
from evaluation.evaluate import Evaluation, read_metrics
from scene.ply import read_ply
from tests.conftest import ROOT
from tests.cuda.memory_limits import DOUBLING, Grower, make_large_scene
from tests.faults.kills import METHODS, Harness, first_difference
from tests.faults.run_cases import signalled
from tests.faults.server import Commands, limit_gpu_memory
from training import checkpoint
from training.loop import Progress, Run
from training.run import prepare
from training.run_folder import RunRecord

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("cuda")]

DEVICE = "cuda"


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs commands as a user does; the process that forks them never touches the GPU."""
    with Commands(tmp_path_factory.mktemp("commands")) as server:
        yield server


@pytest.fixture(scope="module")
def harness(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """An uninterrupted run of every method, with growth, opacity resets and masks."""
    return Harness(tmp_path_factory.mktemp("harness"), commands, DEVICE)


def prepared(scene: Path, out: Path, *extra: str, device: str = DEVICE) -> Run:
    """A run before its first step."""
    out.mkdir()
    line = ["-s", str(scene), "-m", str(out), "--device", device, "--quiet", *extra]
    return prepare(parse_train(line)[0], RunRecord("running", 0), Messages(quiet=True))


# ---- The same bytes


def written(out: Path) -> dict[str, bytes]:
    """Models and checkpoints of a run."""
    files = [*out.glob("point_cloud/*/*.ply"), *out.glob("checkpoints/*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def metrics(out: Path) -> Evaluation:
    """What evaluate.py has measured, less how long it took."""
    return replace(read_metrics(out), seconds=None, evaluation_seconds=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_write_the_same_models_checkpoints_and_metrics(
    method: str, harness: Harness, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("a", "b")]
    longer = ("--iterations", "120", "--densify_until_iter", "100", "--eval")
    for out in outs:
        trained = harness.commands.run(*harness.command(out, method), *longer)
        assert trained.code == 0, trained.stderr
        measured = harness.commands.run("evaluate", "-m", str(out), "--device", DEVICE)
        assert measured.code == 0, measured.stderr
    first, second = (written(out) for out in outs)
    assert len(first) == 5  # after 20, 40 and 120 steps; the last two checkpoints
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert metrics(outs[0]) == metrics(outs[1])


@pytest.mark.parametrize("method", METHODS)
def test_run_from_the_host_writes_what_recorded_steps_write(
    method: str, harness: Harness, tmp_path: Path
) -> None:
    out = tmp_path / "eager"
    ended = harness.commands.run(*harness.command(out, method), "--cuda_graphs", "off")
    assert ended.code == 0, ended.stderr
    assert first_difference(harness.straight[method], out) == ""


@pytest.mark.parametrize("inside", [1, 0], ids=["in a checkpoint write", "anywhere"])
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_continued_run_equals_the_uninterrupted_one(
    method: str, inside: int, harness: Harness
) -> None:
    trial = harness.trial(method, 1, inside, random.Random(3))
    assert (trial.differs, trial.broken) == ("", "")
    assert trial.inside == inside


@pytest.mark.parametrize("method", METHODS)
def test_run_that_was_asked_to_stop_goes_on_to_the_same_bytes(
    method: str, harness: Harness, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    send = signalled(signal.SIGTERM, "checkpoints/step_000007.json")(out)
    stopped = harness.commands.run(*harness.command(out, method), meanwhile=send)
    assert stopped.code == 143, stopped.stderr
    assert re.search(r"stopped at step \d+, saved ", stopped.stderr)
    resumed = harness.commands.run(*harness.command(out, method), "--resume")
    assert resumed.code == 0, resumed.stderr
    assert first_difference(harness.straight[method], out) == ""


# Seven runs on a CPU whose first parameters differ by a rounding error end between 17.42 and
# 17.74 dB, with a standard deviation of 0.11 dB. The mean of four differences between two such
# runs has one of 0.08 dB, and four times that are allowed.
PSNR_TOLERANCE = 0.3


def test_cpu_and_gpu_reach_the_same_psnr(tiny_capture: Path, tmp_path: Path) -> None:
    options = ("--method", "single", "--iterations", "300", "--densification_interval", "25")
    differences = []
    for seed in range(4):
        scores = []
        for device in ("cpu", DEVICE):
            out = tmp_path / f"{device}-{seed}-{len(scores)}"
            told = (*options, "--eval", "--seed", str(seed))
            run = prepared(tiny_capture, out, *told, device=device)
            run.train()
            scores.append(run.hooks.measure(run.parts.state.result))
        assert min(scores) > 16
        differences.append(scores[1] - scores[0])
    assert abs(fmean(differences)) < PSNR_TOLERANCE, differences


# ---- Memory


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_memory_does_not_grow_once_the_gaussians_are_constant(
    graphs: str, harness: Harness, tmp_path: Path
) -> None:
    run = prepared(
        *(harness.scene, tmp_path / "out", "--method", "dual", "--iterations", "300"),
        *("--candidates", str(harness.candidates), "--cuda_graphs", graphs),
        *("--densify_from_iter", "4", "--densification_interval", "5", "--densify_until_iter"),
        *("20", "--densify_grad_threshold", "1e-5", "--sh_interval", "5"),
        *("--agreement_from_iter", "10", "--mask_from_iter", "5"),
    )
    live, peaks, counts = [], [], []

    def note(seen: Progress) -> None:
        live.append(torch.cuda.memory_allocated())
        peaks.append(torch.cuda.max_memory_allocated())
        counts.append(seen.num_gaussians)
        torch.cuda.reset_peak_memory_stats()

    run.hooks = replace(run.hooks, progress=note)
    run.train()
    assert len(live) == 15
    assert len(set(counts[1:])) == 1
    # By then each photo has been seen, so that its mask has a place; pictures of 36 KiB that
    # stayed would add 5 MB in the 160 steps that follow.
    assert max(live[7:]) <= max(live[3:7]), live
    assert max(peaks[7:]) <= 1.1 * max(peaks[3:7]), peaks  # lists are as long as views need


@pytest.fixture(scope="module")
def large_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture whose Gaussians take more memory than all else."""
    return make_large_scene(tmp_path_factory.mktemp("captures") / "large")


@pytest.fixture(scope="module")
def grower(
    large_scene: Path, commands: Commands, tmp_path_factory: pytest.TempPathFactory
) -> Grower:
    """Runs on the large scene."""
    return Grower(large_scene, tmp_path_factory.mktemp("grower"), commands)


@pytest.mark.parametrize("seed", range(3))
def test_run_as_a_user_starts_it_outlives_its_first_growth(
    seed: int, large_scene: Path, tmp_path: Path
) -> None:
    # train.py lets torch give memory back page by page: from under a kernel, if one still reads it.
    words = ["-s", str(large_scene), "-m", str(tmp_path), "--device", DEVICE, "--quiet"]
    words += ["--method", "dual", "--branch_masks", "none", "none", "--seed", str(seed)]
    ended = subprocess.run(
        [sys.executable, "train.py", *words, "--iterations", "30", *DOUBLING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    # As where a leaf was first used on another stream than the one that steps run on.
    assert "does not match the stream" not in ended.stderr


def test_growth_beyond_the_memory_goes_on_with_a_lower_cap(grower: Grower) -> None:
    # Too little for twice as many; one return lowers the cap to 1.6 of the first, two to 1.28.
    ended = grower.run("tight", int(0.97 * grower.peaks[1]), *DOUBLING)
    assert ended.code == 0, ended.stderr
    assert re.search(
        r"out of memory with \d+ Gaussians, photo '.*'; back to step \d+ with at most \d+ Gauss",
        ended.stderr,
    )
    record = grower.record("tight")
    assert (record.status, record.code, record.step) == ("finished", 0, 30)
    assert record.backoffs >= 1
    assert record.max_gaussians < 1.7 * grower.count
    assert record.num_gaussians <= max(record.max_gaussians, grower.count)
    (model,) = grower.models("tight")
    assert len(read_ply(model).means) == record.num_gaussians


def test_too_little_memory_ends_with_5_one_line_and_no_model(grower: Grower) -> None:
    ended = grower.run("hopeless", int(0.6 * grower.peaks[0]), *DOUBLING)
    assert ended.code == ExitCode.MEMORY
    assert re.search(r"^error: .*out of memory", ended.error)
    assert len(ended.error) <= len("error: ") + MAX_LINE
    assert ended.stderr.count("error: ") == 1
    assert "Traceback" not in ended.stderr
    record = grower.record("hopeless")
    assert (record.status, record.code) == ("failed", ExitCode.MEMORY)
    assert grower.models("hopeless") == []


def test_memory_that_is_taken_meanwhile_ends_the_run_with_its_last_checkpoint(
    large_scene: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    gc.collect()  # what other tests have left on the GPU
    run = prepared(
        *(large_scene, out, "--method", "single", "--iterations", "60", "--checkpoint_every"),
        *("10", "--cuda_graphs", "off", "--densify_until_iter", "0"),
    )

    def take(_: Progress) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        limit_gpu_memory(int(0.9 * torch.cuda.memory_reserved()))

    run.hooks = replace(run.hooks, progress=take)
    total = torch.cuda.mem_get_info()[1]
    try:
        with pytest.raises(UserError, match=r"out of memory with .* the last good ch") as end:
            run.train()
    finally:
        limit_gpu_memory(total)
    assert end.value.code == ExitCode.MEMORY
    assert len(str(end.value)) <= MAX_LINE
    kept = sorted(path.name for path in (out / checkpoint.FOLDER).glob("*.json"))
    assert kept == ["step_000010.json", "step_000020.json"]
    checkpoint.verify(checkpoint.path_of(out, 20))
    assert json.loads((out / "run.json").read_text())["step"] == 20
    assert not any(out.glob("point_cloud/*/*.ply"))
