"""One screen before the first step: what was found, what is used, what it will cost."""

import time
from collections.abc import Callable

import torch

from arguments.config import TrainConfig
from arguments.messages import Messages
from gaussian_renderer import render
from masks.dino_features import dino_hint
from masks.proposals import CandidateFolder
from masks.segments import sam_hint
from masks.static_evidence import EvidenceSettings
from masks.static_sources import thin_hint
from scene.capture import Capture, CaptureSettings, survey_capture
from scene.host_memory import host_memory
from training.memory import GIGA
from training.setup import Parts, masks_of, num_branches
from training.step import StepNumbers

PartsOf = Callable[[Capture], Parts]

STEP_OVERHEAD = 1.5  # loss, masks and optimizer beside rendering, as a factor (measured on a CPU)


def describe_capture(capture: Capture, messages: Messages) -> None:
    """Say which photos teach and which test, and how large they are."""
    sizes = {capture.views[i].camera.size for i in (*capture.train, *capture.test)}
    widths, heights = sorted(w for w, _ in sizes), sorted(h for _, h in sizes)
    size = f"{widths[0]}x{heights[0]}" + (
        f" to {widths[-1]}x{heights[-1]}" if len(sizes) > 1 else ""
    )
    messages.note(
        f"views: {len(capture.train)} train, {len(capture.test)} test ({capture.split_rule}), "
        f"{size}"
    )
    messages.note(
        f"points: {len(capture.points.xyz)}, scene extent {capture.scene_scale * capture.unit:.3g}"
    )


def describe_plan(config: TrainConfig, parts: Parts, messages: Messages) -> None:
    """Say how the run learns, and what memory and time it will take."""
    schedule, state = parts.context.schedule, parts.state
    masks = "; ".join(" and ".join(kinds) for kinds in masks_of(config))
    messages.note(f"method: {config.run.method}, masks: {masks}")
    if masks != "none":
        chosen = config.mask.features
        messages.note(dino_hint() if chosen == "filters" else f"features by DINOv2: {chosen}")
    messages.note(
        f"growth: {config.densification.strategy}, every {schedule.grow_every} steps in "
        f"({schedule.grow_from}, {schedule.grow_until}), at most {parts.max_gaussians} Gaussians"
    )
    messages.note(str(parts.plan))
    seconds = _probe(parts) * (config.run.iterations - state.step)
    # The probe runs from the host; a recorded step waits for the device alone.
    is_recorded = state.result.device.type == "cuda" and config.run.cuda_graphs != "off"
    word = "at most" if is_recorded else "about"
    messages.note(f"time: {word} {_readable(seconds)} for {config.run.iterations} steps")


def preflight(
    config: TrainConfig, settings: CaptureSettings, parts_of: PartsOf, messages: Messages
) -> None:
    """The screen without the run: reads the model and the photos' headers, writes nothing.

    Args:
        parts_of: what the run would be built of.

    Raises:
        UserError: what would stop the run before its first step.
    """
    capture = survey_capture(settings, messages)
    describe_capture(capture, messages)
    describe_candidates(config, capture, messages)
    parts = parts_of(capture)
    photos = sum(view.camera.width * view.camera.height * 3 for view in capture.views)
    host = host_memory()
    messages.note(
        f"photos: {photos / GIGA:.2f} GB in memory, {host.free / GIGA:.1f} of "
        f"{host.total / GIGA:.1f} GB of the host free"
    )
    if photos > host.free:
        messages.warn("the photos do not fit into the free memory; give smaller ones with -r")
    describe_plan(config, parts, messages)


def describe_candidates(config: TrainConfig, capture: Capture, messages: Messages) -> None:
    """Say where the distractor candidates come from, if the run needs any."""
    if not any("hard" in kinds for kinds in masks_of(config)):
        return
    folder = config.mask.candidates or config.model.source_path / "candidates"
    missing = CandidateFolder(folder, capture).missing(capture.train)
    found = len(capture.train) - len(missing)
    rest = "; the others are made at the start of the run" if missing else ""
    messages.note(f"candidates: {found}/{len(capture.train)} in {folder}{rest}")
    if missing:
        messages.note(f"segments by graph: the zero-download default ({sam_hint()})")
        hint = thin_hint([capture.views[i] for i in missing], EvidenceSettings().min_track_length)
        if hint:
            messages.note(hint)


def _probe(parts: Parts) -> float:
    """Seconds of one step with as many Gaussians as there are now, from renders without masks.

    Waits for a GPU, so that kernels that do not run there are found before the first step.
    """
    context, state = parts.context, parts.state
    device = state.result.device
    background = StepNumbers.at(state.step, context).background.to(device)
    # Leaves of its own: those of the run must first be used on the stream that steps run on.
    gaussians = state.trained[0].gaussians.map(lambda t: t.detach()).requires_grad_()
    camera = context.cameras[0].rows(torch.zeros(1, dtype=torch.int64, device=device))
    seconds = 0.0
    for _ in range(2):  # the first call also pays for memory that later ones reuse
        began = time.perf_counter()
        picture = render(
            gaussians,
            camera,
            background,
            sh_degree=context.config.model.sh_degree,
            filter_2d=context.config.optimization.filter,
        )
        picture.color.square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    trained, proxies = num_branches(context.config)
    renders = trained * trained + 0.4 * proxies  # a proxy renders without a backward pass
    return seconds * renders * STEP_OVERHEAD


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
