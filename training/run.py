"""A whole training run: from a configuration to a folder with a model; exit codes included."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from arguments.config import TrainConfig
from arguments.failures import refusal_of
from arguments.messages import ExitCode, Messages, UserError, one_line
from arguments.serialization import to_json
from arguments.signals import Stopped
from evaluation.metrics import psnr, quantise, without_masked
from gaussian_renderer import render_image
from masks.maskers import CandidateSource
from masks.proposals import CandidateFolder, ProposalSettings, propose
from scene.atomic import write_atomic
from scene.capture import Capture, CaptureSettings, load_capture
from scene.gaussians import Gaussians
from scene.model_folder import check_source
from scene.ply_header import check_header
from training import checkpoint
from training.loop import Hooks, Progress, Run
from training.photos import ViewSource
from training.preflight import describe_capture, describe_plan, preflight
from training.resume import check_data, check_settings
from training.run_folder import (
    CONFIG,
    RECORD,
    RunRecord,
    Status,
    claimed,
    commit,
    gaussians_of,
    ply_path,
    splats_of,
    versions,
)
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
        max_mp=model.max_mp,
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
    """PSNR of the test views as evaluate.py measures it, to the last bit, mean over the views.

    Of the model as it would be written: its 3D filter folded in.
    """

    def measure(gaussians: Gaussians) -> float:
        scores = []
        written = gaussians_of(splats_of(gaussians.scaled(capture.unit))).scaled(1 / capture.unit)
        written = written.map(lambda tensor: tensor.to(context_device))
        background = torch.full((3,), float(config.model.white_background), device=context_device)
        for view_id in capture.test:
            picture = render_image(
                written,
                camera_batch(capture, view_id, context_device),
                background,
                filter_2d=config.optimization.filter,
            )[0]
            keep = capture.mask(view_id)
            shown = without_masked(quantise(picture).cpu(), keep)
            scores.append(psnr(shown, without_masked(capture.image(view_id), keep)))
        return sum(scores) / max(len(scores), 1)

    return measure


def _start_of(config: TrainConfig, messages: Messages) -> checkpoint.Checkpoint | None:
    """The verified checkpoint that a run goes on from; None where it begins anew."""
    start = config.run.start_checkpoint
    found = checkpoint.load_newest(config.model.model_path, messages) if config.run.resume else None
    if found is not None:
        return found
    if start is not None:
        return checkpoint.load(start)
    if config.run.resume:
        messages.warn(f"nothing to resume in '{config.model.model_path}'; starting anew")
    return None


def _continued(
    config: TrainConfig, found: checkpoint.Checkpoint, messages: Messages
) -> TrainConfig:
    """The settings of a continuation: as told, with the cap that the run has grown by.

    Raises:
        UserError: it would learn otherwise than before.
    """
    if config.run.max_gaussians is None:
        config = _capped(config, found.manifest.config.run.max_gaussians)
    is_other_run = found.path.parent != config.model.model_path / checkpoint.FOLDER
    check_settings(str(found.path), found.manifest.config, config, is_other_run, messages)
    return config


def _capped(config: TrainConfig, max_gaussians: int | None) -> TrainConfig:
    return replace(config, run=replace(config.run, max_gaussians=max_gaussians))


def prepare(config: TrainConfig, record: RunRecord, messages: Messages) -> Run:
    """Load the scene, build the state, say what was found and what it will cost.

    What is on disk of an earlier run changes only once it is known that it can go on.
    """
    folder = config.model.model_path
    found = _start_of(config, messages)
    if found is not None:
        config = _continued(config, found, messages)
    capture = load_capture(capture_settings(config), messages)
    describe_capture(capture, messages)
    record.split_rule, record.dataset = capture.split_rule, capture.digest
    record.unit = capture.unit
    if found is not None:
        accepts = config.run.accept_changed_data
        check_data(str(found.path), found.manifest.dataset, capture.digest, accepts, messages)
    parts = build(config, capture, candidates_for(config, capture, messages), messages)
    config = _capped(config, parts.max_gaussians)  # it may follow from what memory is free today
    device = parts.state.result.device
    record.device, record.num_threads = str(device), torch.get_num_threads()
    record.max_gaussians, record.plan = parts.max_gaussians, parts.plan
    hooks = Hooks(_progress_log(config), _measure(config, capture, device))
    views = ViewSource(capture, config, device)
    views.show_all_to(parts.context.features)
    run = Run(config, parts, views, record, messages, hooks)
    if found is not None:
        checkpoint.restore(found, parts.state)
        record.seconds, record.rollbacks = found.manifest.seconds, found.manifest.rollbacks
        messages.note(f"resuming from step {found.manifest.step} (verified)")
    write_atomic(folder / CONFIG, to_json(config).encode())
    describe_plan(config, parts, messages)
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
    check_source(config.model.source_path)
    if config.run.preflight:
        preflight(
            config,
            capture_settings(config),
            lambda capture: build(config, capture, no_candidates, messages),
            messages,
        )
        return ExitCode.OK
    with claimed(config, messages):
        return _train(config, messages)


def _train(config: TrainConfig, messages: Messages) -> int:
    folder = config.model.model_path
    record = RunRecord("running", 0, commit=commit(), versions=versions())
    continues = config.run.resume or config.run.start_checkpoint is not None
    run: Run | None = None
    try:
        if not continues:  # else run.json speaks of the run before, until it is known to go on
            record.write(folder, messages)
        run = prepare(config, record, messages)
        run.note_progress()
        if run.parts.state.step >= config.run.iterations:
            messages.note(f"already at step {run.parts.state.step}")
        run.train()
        run.finish()
        _verify(folder, run.parts.state.step)
        record.status, record.code = "finished", int(ExitCode.OK)
        run.note_progress()  # a run that cannot say that it has finished has not
        _sum_up(folder, messages)
    except Stopped as stop:
        sys.stderr.write(f"{stop}\n")
        if run is not None or not continues:
            _close(run, record, "stopped", stop.code, str(stop), messages, folder)
        return stop.code
    except BaseException as failure:
        refusal = refusal_of(failure)
        code = refusal.code if refusal else ExitCode.BUG
        reason = one_line(str(refusal or f"{type(failure).__name__}: {failure}"))
        if run is not None or not continues:
            _close(run, record, "failed", code, reason, messages, folder)
        raise
    return ExitCode.OK


def _verify(folder: Path, step: int) -> None:
    """Read back what the run has promised: its last checkpoint and its model.

    Raises:
        UserError: what is on disk is not what was written.
    """
    try:
        checkpoint.verify(checkpoint.path_of(folder, step))
        check_header(ply_path(folder, step))
    except UserError as damage:
        raise UserError(
            f"written, but it reads back differently: {damage}", ExitCode.FILE_SYSTEM
        ) from damage


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
    try:
        if run is None:  # it was refused before there was anything to train
            record.write(folder, messages)
        else:
            run.note_progress()
    except OSError as failure:  # what ended the run matters more than that nobody can note it
        messages.warn(f"{folder / RECORD} not written: {failure.strerror}")
    _sum_up(folder, messages)
    return int(code)


def _sum_up(folder: Path, messages: Messages) -> None:
    if messages.warnings and not messages.quiet:
        sys.stderr.write(f"{len(messages.warnings)} warnings, also in {folder / RECORD}\n")
