"""The project's own training step on the Gaussians of a benchmark's workload; knows no clock."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diff_gaussian_rasterization import rasterization

from arguments.config import Method, ModelConfig, OptimizationConfig, RunConfig, TrainConfig
from arguments.messages import Messages
from masks.candidates import Candidates
from scene.cameras import Camera
from scene.capture import Capture, PointCloud, View
from scripts.workload import Workload
from training.graph import EagerStepper, StaticStepper, Stepper
from training.photos import ViewSource
from training.rows import morton_order
from training.setup import build

NUM_VIEWS = 8
SPACING = 0.05  # world units between two cameras
SEGMENT = 32  # pixels; every photo is a chess board of candidate segments
FIRST_STEP = 2001  # of 30,000: harmonics complete, branches agree, masks learn, growth is watched


def capture_of(work: Workload, device: torch.device) -> Capture:
    """Photos of the workload from a row of cameras beside its own."""
    views, photos = [], []
    nothing = np.zeros((0, 2), np.float32)
    for i in range(NUM_VIEWS):
        viewmat = work.viewmat.clone()
        viewmat[0, 3] += SPACING * (i - NUM_VIEWS / 2)
        camera = Camera(viewmat, work.K, work.width, work.height)
        splats = (work.means, work.quats, work.scales, work.opacities, work.sh, viewmat[None])
        arguments = [t.to(device) for t in (*splats, work.K[None])]
        render = rasterization(*arguments, work.width, work.height, sh_degree=3)
        photos.append((255 * render.color[0].clamp(0, 1)).byte().cpu())
        views.append(
            View(
                view_id=i,
                name=f"{i}.png",
                stem=str(i),
                camera=camera,
                keypoints=nothing,
                track_lengths=np.zeros(0, np.int32),
                point_ids=np.zeros(0, np.int64),
                point_xyz=np.zeros((0, 3), np.float32),
            )
        )
    every = tuple(range(NUM_VIEWS))
    points = PointCloud(work.means, torch.full(work.means.shape, 128, dtype=torch.uint8))
    return Capture(
        views=tuple(views),
        train=every,
        test=(),
        points=points,
        scene_scale=1.0,
        split_rule="all",
        digest="workload",
        images=tuple(photos),
        keeps=(None,) * NUM_VIEWS,
    )


def _chess_board(work: Workload) -> Callable[[int], Candidates]:
    rows, columns = (torch.arange(n) // SEGMENT for n in (work.height, work.width))
    labels = 1 + rows[:, None] * (1 + int(columns[-1])) + columns
    return lambda _view_id: Candidates(labels[None].int())


def make_stepper(
    work: Workload, method: Method, device: torch.device, *, recorded: bool
) -> tuple[Stepper, int]:
    """What runs steps of a run that is under way, and how many steps it has done."""
    config = TrainConfig(
        ModelConfig(source_path=Path("workload")),
        RunConfig(method=method, device=device.type, max_gaussians=len(work.means)),
        OptimizationConfig(sh_interval=1),
    )
    capture = capture_of(work, device)
    parts = build(config, capture, _chess_board(work), Messages(quiet=True))
    state = parts.state
    raw = {
        "means": work.means,
        "quats": work.quats,
        "log_scales": work.scales.log(),
        "opacity_logits": work.opacities.logit(eps=1e-6),
        "sh0": work.sh[:, :1],
        "shN": work.sh[:, 1:],
    }
    rows = morton_order(work.means)  # as training keeps them
    for branch in state.branches:
        with torch.no_grad():
            for name, tensor in branch.gaussians.parameters():
                tensor.copy_(raw[name][rows])
    state.step = FIRST_STEP
    stepper = StaticStepper if recorded else EagerStepper
    return stepper(state, ViewSource(capture, config, device), parts.context), FIRST_STEP
