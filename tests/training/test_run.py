"""Whole runs on the smallest capture: what is learnt, written, and resumed."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from masks.proposals import ProposalSettings, propose
from scene.capture import CaptureSettings, load_capture
from training import checkpoint
from training.loop import Stopped
from training.run import prepare, train
from training.run_folder import RunRecord, load_run, ply_path

LAST = 30


def run(scene: Path, out: Path, *extra: str) -> int:
    """Train quietly on a capture."""
    line = ["-s", str(scene), "-m", str(out), "--quiet", "--iterations", str(LAST), *extra]
    return train(parse_train(line)[0], Messages(quiet=True))


def learnt(out: Path, step: int = LAST) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint."""
    path = out / "checkpoints" / f"step_{step:06d}.safetensors"
    return safetensors.torch.load(path.read_bytes())


def record(out: Path) -> dict[str, object]:
    """What run.json says."""
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def candidates(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Candidates made once."""
    folder, quiet = tmp_path_factory.mktemp("candidates"), Messages(quiet=True)
    propose(load_capture(CaptureSettings(tiny_capture), quiet), folder, ProposalSettings(), quiet)
    return folder


@pytest.mark.parametrize("method", ["dual", "ema", "single"])
def test_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(
    method: str, tiny_capture: Path, candidates: Path, tmp_path: Path
) -> None:
    options = ("--method", method, "--candidates", str(candidates), "--keep_checkpoints", "9")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(tiny_capture, straight, *options, "--checkpoint_every", "13")
    for path in (straight / "checkpoints").glob("step_000013.*"):
        (broken / "checkpoints").mkdir(parents=True, exist_ok=True)
        (broken / "checkpoints" / path.name).write_bytes(path.read_bytes())
    run(tiny_capture, broken, *options, "--resume")
    expected, resumed = learnt(straight), learnt(broken)
    assert expected.keys() == resumed.keys()
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []
    assert ply_path(straight, LAST).read_bytes() == ply_path(broken, LAST).read_bytes()


def test_growth_happens_within_the_cap(
    tiny_capture: Path, candidates: Path, tmp_path: Path
) -> None:
    start = len(learnt_start(tiny_capture, tmp_path / "start"))
    run(
        tiny_capture, tmp_path / "run", "--candidates", str(candidates), "--max_gaussians",
        str(start + 7), "--densify_grad_threshold", "1e-9", "--densify_from_iter", "2",
        "--densification_interval", "4", "--densify_until_iter", "20", "--prune_opacity", "1e-6",
    )  # fmt: skip
    tensors = learnt(tmp_path / "run")
    assert len(tensors["a/gaussians/means"]) == len(tensors["b/gaussians/means"]) == start + 7


def learnt_start(scene: Path, out: Path) -> torch.Tensor:
    """The Gaussians that a run starts from."""
    run(scene, out, "--method", "single", "--iterations", "1")
    return learnt(out, 1)["a/gaussians/means"]


def test_run_folder_holds_what_it_promises(
    tiny_capture: Path, candidates: Path, tmp_path: Path
) -> None:
    run(tiny_capture, tmp_path, "--candidates", str(candidates), "--method", "ema")
    written = record(tmp_path)
    assert (written["status"], written["step"], written["code"]) == ("finished", LAST, 0)
    opened = load_run(tmp_path)
    assert opened.step == LAST
    assert len(opened.gaussians) == written["num_gaussians"]
    assert opened.config.run.method == "ema"


def test_second_run_into_a_folder_is_refused_and_leaves_the_first(
    tiny_capture: Path, tmp_path: Path
) -> None:
    run(tiny_capture, tmp_path, "--method", "single", "--iterations", "2")
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match="has a run at step 2") as refusal:
        run(tiny_capture, tmp_path, "--method", "single")
    assert refusal.value.code == ExitCode.USAGE
    assert (tmp_path / "run.json").read_bytes() == before


def test_overwriting_leaves_nothing_of_the_run_before(tiny_capture: Path, tmp_path: Path) -> None:
    run(tiny_capture, tmp_path, "--method", "single", "--iterations", "4")
    run(tiny_capture, tmp_path, "--method", "single", "--iterations", "2", "--overwrite")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_000002.json", "step_000002.safetensors"]
    assert [path.name for path in (tmp_path / "point_cloud").iterdir()] == ["iteration_2"]


def test_folder_of_a_refused_run_can_be_used(tiny_capture: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        run(tiny_capture, tmp_path, "--method", "single", "--images", "nowhere")
    assert record(tmp_path)["status"] == "failed"
    assert run(tiny_capture, tmp_path, "--method", "single", "--iterations", "1") == ExitCode.OK


def test_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    tiny_capture: Path, tmp_path: Path
) -> None:
    run(tiny_capture, tmp_path, "--method", "single", "--checkpoint_every", "15")
    newest = tmp_path / "checkpoints" / f"step_{LAST:06d}.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-5] ^= 1
    newest.write_bytes(damaged)
    messages = Messages(quiet=True)
    found = checkpoint.load_newest(tmp_path, messages)
    assert found is not None
    assert found.manifest.step == 15
    assert "digest differs in" in messages.warnings[0]
    assert newest.with_suffix(".safetensors.bad").is_file()


@pytest.mark.parametrize(("minutes", "saved"), [("1e-9", [1, 2, 3]), ("0", [3])])
def test_time_alone_is_a_reason_to_save(
    minutes: str, saved: list[int], tiny_capture: Path, tmp_path: Path
) -> None:
    options = ("--method", "single", "--iterations", "3", "--keep_checkpoints", "9")
    assert run(tiny_capture, tmp_path, *options, "--checkpoint_minutes", minutes) == ExitCode.OK
    files = (tmp_path / "checkpoints").glob("step_*.safetensors")
    assert sorted(int(file.stem.split("_")[1]) for file in files) == saved


def test_checkpoint_without_its_manifest_does_not_exist(tiny_capture: Path, tmp_path: Path) -> None:
    run(tiny_capture, tmp_path, "--method", "single", "--iterations", "2")
    (tmp_path / "checkpoints" / "step_000002.json").unlink()
    assert checkpoint.load_newest(tmp_path, Messages(quiet=True)) is None


def test_checkpoint_of_another_method_is_refused(tiny_capture: Path, tmp_path: Path) -> None:
    run(tiny_capture, tmp_path, "--method", "single", "--iterations", "2")
    with pytest.raises(UserError, match="another --method") as refusal:
        run(tiny_capture, tmp_path, "--method", "ema", "--branch_masks", "none", "--resume")
    assert refusal.value.code == ExitCode.CHECKPOINT


def test_pickle_checkpoints_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "chkpnt7000.pth"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        checkpoint.load(path)


def test_training_lowers_the_error(tiny_capture: Path, tmp_path: Path) -> None:
    line = ["-s", str(tiny_capture), "-m", str(tmp_path), "--quiet", "--method", "single"]
    config, _ = parse_train([*line, "--iterations", "60"])
    tmp_path.mkdir(exist_ok=True)
    prepared = prepare(config, RunRecord("running", 0), Messages(quiet=True))
    before = prepared.hooks.measure(prepared.parts.state.result)
    prepared.train()
    assert prepared.hooks.measure(prepared.parts.state.result) > before + 1.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_signal_saves_the_step_and_the_run_goes_on_from_it(
    number: int, code: int, tiny_capture: Path, tmp_path: Path
) -> None:
    config, _ = parse_train(
        ["-s", str(tiny_capture), "-m", str(tmp_path), "--quiet", "--method", "single",
         "--iterations", "40"]
    )  # fmt: skip
    prepared = prepare(config, RunRecord("running", 0), Messages(quiet=True))
    stopping = dataclasses.replace(prepared.hooks, progress=lambda _: os.kill(os.getpid(), number))
    prepared.hooks = stopping
    with pytest.raises(Stopped) as stop:
        prepared.train()
    assert stop.value.code == code
    assert record(tmp_path)["step"] == 20
    assert run(tiny_capture, tmp_path, "--method", "single", "--resume") == ExitCode.OK
    assert record(tmp_path)["step"] == LAST
