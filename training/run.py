"""A whole training run: from a configuration to a folder with a model; exit codes included."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import to_json
from evaluation.metrics import psnr, quantise
from gaussian_renderer import render_image
from masks.maskers import CandidateSource
from masks.proposals import CandidateFolder, ProposalSettings, propose
from scene.atomic import write_atomic
from scene.capture import Capture, CaptureSettings, load_capture
from scene.gaussians import Gaussians
from training import checkpoint
from training.loop import Hooks, Progress, Run, Stopped, ViewSource
from training.preflight import describe_capture, describe_plan
from training.run_folder import RunRecord, Status, claim, commit, versions
from training.setup import (
    build,
    camera_batch,
    masks_of,
    no_candidates,
)


def capture_settings(config: TrainConfig) -> CaptureSettings:
    """How this run reads its photos."""
    model = config.model
    return CaptureSettings(
        source=model.source_path,
        images=model.images,
        resolution=model.resolution,
        eval=model.eval,
        colmap_model=model.colmap_model,
        white_background=model.white_background,
        allow_missing=model.allow_missing,
        alpha=model.alpha,
        masks=model.masks,
        invert_masks=model.invert_masks,
        cache_dir=model.model_path / "cache",
        require_points=model.init == "points",
        keep_outliers=model.keep_outliers,
        follow_links=model.follow_links,
    )


def candidates_for(config: TrainConfig, capture: Capture, messages: Messages) -> CandidateSource:
    """Distractor candidates of the training photos, made now where they are missing."""
    if not any("hard" in kinds for kinds in masks_of(config)):
        return no_candidates
    given = config.mask.candidates
    made = CandidateFolder(given or config.model.source_path / "candidates", capture)
    missing = made.missing(capture.train)
    if not missing:
        messages.note(f"candidates: {made.folder}")
        return made
    if given is not None:
        name = capture.views[missing[0]].name
        raise UserError(
            f"{len(missing)} of {len(capture.train)} photos lack candidates in '{given}' (first: "
            f"{name}); make them with python -m masks -s {config.model.source_path} -o {given}"
        )
    return propose(capture, config.model.model_path / "candidates", ProposalSettings(), messages)


def _measure(
    config: TrainConfig, capture: Capture, context_device: torch.device
) -> Callable[[Gaussians], float]:
    """PSNR of the test views as evaluate.py measures it, mean over the views."""

    def measure(gaussians: Gaussians) -> float:
        scores = []
        background = torch.full((3,), float(config.model.white_background), device=context_device)
        for view_id in capture.test:
            picture = render_image(
                gaussians,
                camera_batch(capture, view_id, context_device),
                background,
                filter_2d=config.optimization.filter,
            )[0]
            scores.append(psnr(quantise(picture).cpu(), capture.image(view_id)))
        return sum(scores) / max(len(scores), 1)

    return measure


def _resume(config: TrainConfig, run: Run) -> None:
    """Continue from a checkpoint if one is asked for."""
    start = config.run.start_checkpoint
    found = checkpoint.load(start) if start else None
    if config.run.resume:
        found = checkpoint.load_newest(config.model.model_path, run.messages) or found
        if found is None:
            run.messages.warn(f"nothing to resume in '{config.model.model_path}'; starting anew")
    if found is None:
        return
    if found.manifest.dataset != run.record.dataset:
        raise UserError(
            f"{found.path}: dataset digest differs from this scene's; use another -m",
            ExitCode.CHECKPOINT,
        )
    try:
        run.parts.state.load(found.tensors, found.manifest.step)
    except (KeyError, TypeError) as failure:
        raise UserError(
            f"{found.path}: made with another --method or masks: {failure} is missing",
            ExitCode.CHECKPOINT,
        ) from None
    run.record.seconds = found.manifest.seconds
    run.messages.note(f"resuming from step {found.manifest.step} (verified)")


def prepare(config: TrainConfig, record: RunRecord, messages: Messages) -> Run:
    """Load the scene, build the state, say what was found and what it will cost."""
    folder = config.model.model_path
    capture = load_capture(capture_settings(config), messages)
    describe_capture(capture, messages)
    record.split_rule, record.dataset = capture.split_rule, capture.digest
    parts = build(config, capture, candidates_for(config, capture, messages), messages)
    device = parts.state.result.device
    record.device, record.num_threads = str(device), torch.get_num_threads()
    record.max_gaussians = parts.max_gaussians
    write_atomic(folder / "config.json", to_json(config).encode())
    hooks = Hooks(_progress_log(config), _measure(config, capture, device))
    views = ViewSource(capture, config, device)
    run = Run(config, parts, views, record, messages, hooks)
    _resume(config, run)
    describe_plan(config, parts, views, messages)
    return run


def _progress_log(config: TrainConfig) -> Callable[[Progress], None]:
    """Where the scalars of a run go: TensorBoard when asked, else nowhere.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """
    if not config.run.tensorboard:
        return lambda _: None
    try:
        from torch.utils.tensorboard import SummaryWriter  # heavy, and optional
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard; pip install tensorboard",
            ExitCode.ENVIRONMENT,
        ) from None
    writer = SummaryWriter(str(config.model.model_path / "tensorboard"))

    def log(seen: Progress) -> None:
        scalars = {
            "loss": seen.loss,
            "psnr": seen.psnr,
            "gaussians": float(seen.num_gaussians),
            "masked": seen.masked,
            **{f"terms/{name}": value for name, value in seen.terms.items()},
        }
        for name, value in scalars.items():
            writer.add_scalar(name, value, seen.step)
        writer.flush()

    return log


def train(config: TrainConfig, messages: Messages) -> int:
    """Run to the end; returns the exit code. run.json always says how it went.

    Raises:
        UserError: the run is refused or has failed.
    """
    source = config.model.source_path
    if not source.is_dir():
        what = (
            "is a file, expected a folder with images/ and sparse/"
            if source.exists()
            else "not found"
        )
        raise UserError(f"dataset '{source}' {what}")
    claim(config)
    record = RunRecord("running", 0, commit=commit(), versions=versions())
    folder = config.model.model_path
    record.write(folder, messages)
    run: Run | None = None
    try:
        run = prepare(config, record, messages)
        if config.run.preflight:
            return _close(run, record, "stopped", ExitCode.OK, "preflight only", messages, folder)
        if run.parts.state.step >= config.run.iterations:
            messages.note(f"already at step {run.parts.state.step}")
        run.train()
        run.finish()
    except Stopped as stop:
        sys.stderr.write(f"{stop}\n")
        return _close(run, record, "stopped", stop.code, str(stop), messages, folder)
    except UserError as refusal:
        _close(run, record, "failed", refusal.code, str(refusal), messages, folder)
        raise
    return _close(run, record, "finished", ExitCode.OK, "", messages, folder)


def _close(
    run: Run | None,
    record: RunRecord,
    status: Status,
    code: int,
    reason: str,
    messages: Messages,
    folder: Path,
) -> int:
    record.status, record.code, record.reason = status, int(code), reason
    if run is None:  # it was refused before there was anything to train
        record.write(folder, messages)
    else:
        run.note_progress()
    if messages.warnings and not messages.quiet:
        sys.stderr.write(f"{len(messages.warnings)} warnings, also in {folder / 'run.json'}\n")
    return int(code)
