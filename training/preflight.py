"""One screen before the first step: what was found, what is used, what it will cost."""

import time

from arguments.config import TrainConfig
from arguments.messages import Messages
from scene.capture import Capture
from training.branches import RenderSettings
from training.memory import free_bytes, gaussian_bytes
from training.photos import ViewSource
from training.setup import Parts, masks_of, num_branches
from training.step import StepNumbers

GIGA = 1e9
STEP_OVERHEAD = 1.5  # loss, masks and optimizer beside rendering, as a factor (measured on a CPU)
EXPECTED_GROWTH = 2.0  # Gaussians at the end against the start, for the forecasts


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
    messages.note(f"points: {len(capture.points.xyz)}, scene extent {capture.scene_scale:.3g}")


def describe_plan(config: TrainConfig, parts: Parts, views: ViewSource, messages: Messages) -> None:
    """Say how the run learns, and what memory and time it will take."""
    schedule, state = parts.context.schedule, parts.state
    masks = "; ".join(" and ".join(kinds) for kinds in masks_of(config))
    messages.note(f"method: {config.run.method}, masks: {masks}")
    messages.note(
        f"growth: {config.densification.strategy}, every {schedule.grow_every} steps in "
        f"({schedule.grow_from}, {schedule.grow_until}), at most {parts.max_gaussians} Gaussians"
    )
    count = min(int(len(state.result) * EXPECTED_GROWTH), parts.max_gaussians)
    device = state.result.device
    needed = count * gaussian_bytes(*num_branches(config)) / GIGA
    messages.note(
        f"memory: about {needed:.2f} GB for Gaussians, {free_bytes(device) / GIGA:.1f} GB free"
    )
    seconds = _probe(parts, views) * (config.run.iterations - state.step)
    messages.note(f"time: about {_readable(seconds)} for {config.run.iterations} steps")


def _probe(parts: Parts, views: ViewSource) -> float:
    """Seconds of one step with as many Gaussians as there are now, from renders without masks."""
    context, state = parts.context, parts.state
    settings = RenderSettings(
        StepNumbers.at(state.step, context).background.to(state.result.device),
        context.config.model.sh_degree,
        context.config.optimization.filter,
    )
    branch = state.trained[0]
    view = views.batches(views.draw(state.step, [branch.name]))[0]
    seconds = 0.0
    for _ in range(2):  # the first call also pays for memory that later ones reuse
        began = time.perf_counter()
        picture = branch.render(view.cameras, settings).color
        (picture - view.images / 255).square().mean().backward()
        seconds = time.perf_counter() - began
    for _, parameter in branch.gaussians.parameters():
        parameter.grad = None
    trained, proxies = num_branches(context.config)
    renders = trained * trained + 0.4 * proxies  # a proxy renders without a backward pass
    return seconds * renders * STEP_OVERHEAD


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
