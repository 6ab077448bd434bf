"""The folder of a run: what is written where, and how a finished run is opened again."""

import json
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import from_plain, to_json
from scene.atomic import write_atomic
from scene.gaussians import Gaussians
from scene.ply import Splats, read_ply, write_ply

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass
class RunRecord:
    """What run.json says: where the run is and how it got there.

    Attributes:
        step: updates done.
        code: exit code; None while it runs.
        seconds: training time over all sessions, without loading and writing.
    """

    status: Status
    step: int
    code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    num_gaussians: int = 0
    max_gaussians: int = 0
    device: str = ""
    num_threads: int = 0
    split_rule: str = ""
    dataset: str = ""
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def write(self, model_path: Path, messages: Messages) -> None:
        """Replace run.json, with what the run has said so far."""
        self.notes, self.warnings = list(messages.notes), list(messages.warnings)
        write_atomic(model_path / "run.json", to_json(self).encode())


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


def claim(config: TrainConfig) -> None:
    """Make the folder of a new run, or check that an old one may be continued.

    Raises:
        UserError: there is a run and neither --resume nor --overwrite, or it cannot be written.
    """
    folder = config.model.model_path
    step = _recorded_step(folder / "run.json")
    continues = config.run.resume or config.run.start_checkpoint is not None
    if step > 0 and not (continues or config.run.overwrite):
        raise UserError(
            f"'{folder}' has a run at step {step}; --resume, --overwrite or another -m",
            ExitCode.USAGE,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not continues:
            remove_run(folder)
        probe = folder / ".writable.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as failure:
        raise UserError(
            f"cannot write '{folder}': {failure.strerror}", ExitCode.FILE_SYSTEM
        ) from None


def remove_run(folder: Path) -> None:
    """Remove what an earlier run wrote, so that nothing of it can be taken for the next one's.

    Undistorted photos and candidates stay: they are checked before they are used again.
    """
    for name in ("checkpoints", "point_cloud", "renders", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("run.json", "config.json", "metrics.json"):
        (folder / name).unlink(missing_ok=True)


def _recorded_step(path: Path) -> int:
    """Updates that the run in a folder has saved; 0 where there is none."""
    if not path.is_file():
        return 0
    try:
        return int(json.loads(path.read_text("utf-8"))["step"])
    except (ValueError, KeyError, TypeError):
        return 0


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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    path = model_path / "config.json"
    if not path.is_file():
        raise UserError(
            f"no run in '{model_path}': config.json is missing; train one with train.py"
        )
    try:
        plain = json.loads(path.read_text("utf-8"))
    except ValueError as failure:
        raise UserError(f"{path}: not JSON: {failure}", ExitCode.CHECKPOINT) from None
    return from_plain(TrainConfig, plain, str(path))


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
