"""The folder of a run: what is written where, and how a finished run is opened again."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import from_plain, to_json
from scene.atomic import make_folder, remove_stale, write_atomic
from scene.gaussians import Gaussians
from scene.ply import Splats, read_ply, write_ply
from training import checkpoint
from training.memory import MemoryPlan

Status = Literal["running", "finished", "stopped", "failed"]
RECORD, CONFIG, LOCK = "run.json", "config.json", "run.lock"
LARGEST_JSON = 16 << 20  # bytes


@dataclass
class RunRecord:
    """What run.json says: where the run is and how it got there.

    Attributes:
        status: `running` while run.lock is held; a run that was killed is found out and marked
            as failed when it is continued.
        step: updates done.
        code: exit code; None while it runs, and where nobody was left to give one.
        seconds: training time over all sessions, without loading and writing.
        rollbacks: how often it has gone back to a checkpoint because of bad numbers.
        backoffs: how often it has gone back because memory ran out.
        num_degenerate: Gaussians pruned so far because nothing could draw them.
        plan: the memory that the run was expected to take, before it began.
        unit: of the world that it was trained in, in units of the input; models are written in
            those of the input.
        peak_bytes: the most memory that a session has taken, of the GPU or of the host.
    """

    status: Status
    step: int
    code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    rollbacks: int = 0
    backoffs: int = 0
    peak_bytes: int = 0
    num_gaussians: int = 0
    max_gaussians: int = 0
    num_degenerate: int = 0
    plan: MemoryPlan | None = None
    device: str = ""
    num_threads: int = 0
    split_rule: str = ""
    dataset: str = ""
    unit: float = 1.0
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def write(self, model_path: Path, messages: Messages) -> None:
        """Replace run.json, with what the run has said so far."""
        self.notes, self.warnings = list(messages.notes), list(messages.warnings)
        write_atomic(model_path / RECORD, to_json(self).encode())


def read_record(model_path: Path) -> RunRecord | None:
    """What run.json says; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = model_path / RECORD
    return from_plain(RunRecord, _read_json(path), str(path)) if path.is_file() else None


def _read_json(path: Path) -> object:
    """A JSON file of a run.

    Raises:
        UserError: it is damaged or huge.
    """
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise UserError(f"{path}: {size} bytes are too many", ExitCode.CHECKPOINT)
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as failure:
        raise UserError(f"{path}: not JSON: {failure}", ExitCode.CHECKPOINT) from None


def versions() -> dict[str, str]:
    """What the numbers of a run depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def commit() -> str:
    """The commit of this checkout; empty outside a repository."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@contextmanager
def claimed(config: TrainConfig, messages: Messages) -> Iterator[None]:
    """Make the folder of a new run, or check that an old one may be continued; hold its lock.

    Raises:
        UserError: there is a run and neither --resume nor --overwrite, another process works in
            the folder, or it cannot be written.
    """
    folder = config.model.model_path
    try:
        make_folder(folder)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as failure:
        raise _unwritable(folder, failure) from None
    with os.fdopen(handle, "r+b") as file:
        _lock(file.fileno(), folder, messages)
        _admit(config, folder, messages)
        yield


def _lock(handle: int, folder: Path, messages: Messages) -> None:
    """Take the lock; the system gives it back when this process ends, however it ends.

    Raises:
        UserError: another process has it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 100, 0).decode("utf-8", "replace").strip() or "another process"
        raise UserError(
            f"'{folder}' is in use by {holder}; wait for it or choose another -m", ExitCode.USAGE
        ) from None
    except OSError as failure:
        messages.warn(f"'{folder}' cannot be locked ({failure.strerror}); run nothing else in it")
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"pid {os.getpid()} on host {platform.node()}\n".encode(), 0)


def _admit(config: TrainConfig, folder: Path, messages: Messages) -> None:
    """Refuse a second run where there is one, and clean up after what was killed.

    Raises:
        UserError: see `claimed`.
    """
    step = _recorded_step(folder)
    has_model = any(folder.glob("point_cloud/*/point_cloud.ply"))
    has_run = step > 0 or has_model or checkpoint.exists(folder)
    continues = config.run.resume or config.run.start_checkpoint is not None
    if has_run and not (continues or config.run.overwrite):
        raise UserError(
            f"'{folder}' has a run at step {step}; --resume, --overwrite or another -m",
            ExitCode.USAGE,
        )
    try:
        if not continues:
            remove_run(folder)
        for name in (*remove_stale(folder), *_remove_stale_models(folder)):
            messages.note(f"removed unfinished {name}")
        write_atomic(folder / ".writable", b"")
        (folder / ".writable").unlink()
        if continues:
            _note_sudden_end(folder, messages)
    except OSError as failure:
        raise _unwritable(folder, failure) from None


def _unwritable(folder: Path, failure: OSError) -> UserError:
    return UserError(
        f"cannot write '{folder}': {failure.strerror}; choose another -m", ExitCode.FILE_SYSTEM
    )


def _remove_stale_models(folder: Path) -> list[str]:
    """Remove what a dead process left beside the models."""
    return [name for path in folder.glob("point_cloud/*") for name in remove_stale(path)]


def _note_sudden_end(folder: Path, messages: Messages) -> None:
    """A record that says `running` though nobody holds the lock is made to tell the truth."""
    try:
        record = read_record(folder)
    except UserError as damage:
        messages.warn(f"{damage}; it will be written anew")
        return
    if record is not None and record.status == "running":
        record.status, record.reason = "failed", "ended without a word: killed, or a power cut"
        write_atomic(folder / RECORD, to_json(record).encode())
        messages.note(f"the run before ended without a word after step {record.step}")


def remove_run(folder: Path) -> None:
    """Remove what an earlier run wrote, so that nothing of it can be taken for the next one's.

    Undistorted photos and candidates stay: they are checked before they are used again.
    """
    for name in ("checkpoints", "point_cloud", "renders", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (*(folder / n for n in (RECORD, CONFIG, "metrics.json")), *_replays(folder)):
        path.unlink(missing_ok=True)


def _replays(folder: Path) -> Iterator[Path]:
    return folder.glob("nonfinite_*")


def _recorded_step(folder: Path) -> int:
    """Updates that the run in a folder has done; 0 where there is none or nobody knows."""
    try:
        record = read_record(folder)
    except UserError:
        return 0
    return 0 if record is None else record.step


def splats_of(gaussians: Gaussians) -> Splats:
    """The Gaussians as every viewer shows them: the 3D filter folded in."""
    fused = gaussians.map(lambda tensor: tensor.detach().cpu()).fused()
    return Splats(
        means=fused.means,
        quats=torch.nn.functional.normalize(fused.quats, dim=-1),
        log_scales=fused.log_scales,
        opacity_logits=fused.opacity_logits,
        sh0=fused.sh0,
        shN=fused.shN,
    )


def gaussians_of(splats: Splats) -> Gaussians:
    """Gaussians from a PLY; without a 3D filter of their own."""
    return Gaussians(
        means=splats.means,
        quats=splats.quats,
        log_scales=splats.log_scales,
        opacity_logits=splats.opacity_logits,
        sh0=splats.sh0,
        shN=splats.shN,
        filter_3d=torch.zeros(len(splats.means)),
    )


def ply_path(model_path: Path, step: int) -> Path:
    """Where the model after `step` updates is."""
    return model_path / "point_cloud" / f"iteration_{step}" / "point_cloud.ply"


def export(model_path: Path, gaussians: Gaussians, step: int) -> Path:
    """Write the model as INRIA's viewers and tools expect it."""
    path = ply_path(model_path, step)
    make_folder(path.parent)
    write_ply(path, splats_of(gaussians))
    return path


@dataclass(frozen=True)
class TrainedRun:
    """A run that has written at least one model."""

    model_path: Path
    config: TrainConfig
    step: int
    gaussians: Gaussians


def read_config(model_path: Path) -> TrainConfig:
    """The configuration of the run in a folder.

    Raises:
        UserError: there is no run or its config.json is not one.
    """
    path = model_path / CONFIG
    if not path.is_file():
        raise UserError(
            f"no run in '{model_path}': config.json is missing; train one with train.py"
        )
    return from_plain(TrainConfig, _read_json(path), str(path))


def load_run(model_path: Path, iteration: int | None = None) -> TrainedRun:
    """Open a trained run at its last written model, or at `iteration`.

    Raises:
        UserError: there is no run or no such model.
    """
    config = read_config(model_path)
    folder = model_path / "point_cloud"
    steps = sorted(
        int(path.parent.name.removeprefix("iteration_"))
        for path in folder.glob("iteration_*/point_cloud.ply")
        if path.parent.name.removeprefix("iteration_").isdigit()
    )
    if not steps or (iteration is not None and iteration not in steps):
        wanted = "no model" if iteration is None else f"no model of iteration {iteration}"
        raise UserError(f"{wanted} in '{folder}': it has {steps or 'none'}")
    step = steps[-1] if iteration is None else iteration
    return TrainedRun(model_path, config, step, gaussians_of(read_ply(ply_path(model_path, step))))
