"""Branches: one Gaussian set each and what learns with it. Two models are a loop over these.

A trained branch has an optimizer, a growth strategy and its own masks; a proxy branch only
averages another one. Knows nothing of photos or losses.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gaussian_renderer import Filter, Render, render
from masks.maskers import Masker
from scene.cameras import Cameras
from scene.gaussians import Gaussians, select_rows, smoothing_filter
from training.densification import GrowthState, Strategy
from training.optimizers import GaussianAdam, LearningRates
from training.rows import RowMap, edited


@dataclass(frozen=True)
class RenderSettings:
    """How a step renders."""

    background: Float[Tensor, "3"]
    sh_degree: int
    filter_2d: Filter


@dataclass(frozen=True)
class BranchView:
    """One view as one branch renders it.

    Attributes:
        color: the picture, with its gradient.
        render: the call that it came from.
        row: which camera of that call.
    """

    color: Float[Tensor, "1 H W 3"]
    render: Render
    row: int


def render_views(
    gaussians: Gaussians, cameras: list[Cameras], settings: RenderSettings, *, absgrad: bool
) -> list[BranchView]:
    """Each camera's view; cameras of one size share a call."""
    views: dict[int, BranchView] = {}
    sizes = {(camera.width, camera.height): None for camera in cameras}
    for width, height in sizes:
        rows = [i for i, c in enumerate(cameras) if (c.width, c.height) == (width, height)]
        batch = Cameras(
            torch.cat([cameras[i].viewmats for i in rows]),
            torch.cat([cameras[i].Ks for i in rows]),
            width,
            height,
        )
        result = render(
            gaussians,
            batch,
            settings.background,
            sh_degree=settings.sh_degree,
            filter_2d=settings.filter_2d,
            absgrad=absgrad,
        )
        colors = result.color.split(1)
        views |= {i: BranchView(colors[row], result, row) for row, i in enumerate(rows)}
    return [views[i] for i in range(len(cameras))]


@dataclass(frozen=True)
class UpdateContext:
    """What a branch needs to know to learn from a step.

    Attributes:
        step: updates done before this one.
        rates: learning rates of this update.
        cameras: of all training views, for the 3D filter.
        renew_filter: the filter is due though nothing grew.
        seed: of the run.
    """

    step: int
    rates: LearningRates
    cameras: list[Cameras]
    renew_filter: bool
    generator: torch.Generator


@dataclass
class TrainedBranch:
    """Gaussians that learn from photos through masks of their own.

    Attributes:
        maskers: used in turn, one a step.
        has_filter: the 3D smoothing filter is in use.
    """

    name: str
    gaussians: Gaussians
    optimizer: GaussianAdam
    strategy: Strategy
    growth: GrowthState
    maskers: tuple[Masker, ...]
    has_filter: bool
    followers: list["ProxyBranch"] = field(default_factory=list)

    def render(self, cameras: list[Cameras], settings: RenderSettings) -> list[BranchView]:
        """The views with gradients."""
        return render_views(self.gaussians, cameras, settings, absgrad=self.strategy.needs_absgrad)

    def masker_at(self, step: int) -> Masker:
        """The mask whose turn it is."""
        return self.maskers[step % len(self.maskers)]

    def update(self, own: BranchView, context: UpdateContext) -> None:
        """Learn from the gradients of a step: statistics, optimizer, growth when due."""
        done = context.step + 1
        refinement = self.strategy.step_post_backward(
            self.growth, self.gaussians, own.render, own.row, done
        )
        self.optimizer.step(self.gaussians, context.rates)
        self.masker_at(context.step).update()
        for proxy in self.followers:
            proxy.average(self.gaussians)
        if refinement.plan is not None:
            self._edit(refinement.plan.row_map(), context.generator)
        if refinement.opacity_ceiling is not None:
            self._lower_opacities(refinement.opacity_ceiling)
        if refinement.plan is not None or context.renew_filter:
            self.renew_filter(context.cameras)

    def renew_filter(self, cameras: list[Cameras]) -> None:
        """Fit the 3D filter to where the Gaussians are now."""
        if self.has_filter:
            self.gaussians.filter_3d = smoothing_filter(self.gaussians.means.detach(), cameras)
        for proxy in self.followers:
            proxy.gaussians.filter_3d = self.gaussians.filter_3d.clone()

    def _edit(self, rows: RowMap, generator: torch.Generator) -> None:
        self.gaussians = edited(self.gaussians, rows, generator).requires_grad_()
        self.optimizer.follow(rows)
        self.growth = self.strategy.initialize_state(self.gaussians)
        for proxy in self.followers:
            proxy.follow(rows, self.gaussians)

    @torch.no_grad()
    def _lower_opacities(self, ceiling: float) -> None:
        logit = torch.tensor(ceiling).logit()
        self.gaussians.opacity_logits.clamp_(max=float(logit))
        self.optimizer.forget("opacity_logits")


@dataclass
class ProxyBranch:
    """The running average of a trained branch; it renders without gradients.

    Every parameter is averaged in the space in which it is optimized:
    E <- decay E + (1 - decay) G after each update (arXiv 2506.03538, its dynamic EMA proxy).
    """

    name: str
    gaussians: Gaussians
    decay: float

    @torch.no_grad()
    def render(self, cameras: list[Cameras], settings: RenderSettings) -> list[BranchView]:
        """The views, detached."""
        return render_views(self.gaussians, cameras, settings, absgrad=False)

    @torch.no_grad()
    def average(self, live: Gaussians) -> None:
        """Move towards the branch that is averaged."""
        for (_, mine), (_, theirs) in zip(
            self.gaussians.parameters(), live.parameters(), strict=True
        ):
            mine.lerp_(theirs, 1 - self.decay)

    @torch.no_grad()
    def follow(self, rows: RowMap, live: Gaussians) -> None:
        """The same row edit with this branch's own values; children take the live geometry."""
        self.gaussians = select_rows(self.gaussians, rows.source)
        children = rows.children
        self.gaussians.means[children] = live.means[children]
        self.gaussians.log_scales[children] = live.log_scales[children]


Branch = TrainedBranch | ProxyBranch
