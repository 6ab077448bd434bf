"""Branches: one Gaussian set each and what learns with it. Two models are a loop over these.

A trained branch has an optimizer, a growth strategy and its own masks; a proxy branch only
averages another one. Knows nothing of photos or losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diff_gaussian_rasterization import TileLists
from jaxtyping import Float, Int
from torch import Tensor

from arguments.config import ProxyLists
from arguments.messages import ExitCode, UserError
from gaussian_renderer import Filter, Render, render, render_sets
from masks.maskers import Masker
from scene.cameras import Cameras
from scene.gaussians import Gaussians, select_rows, smoothing_filter
from training.densification import LIKELY_REASONS, GrowthState, Refinement, Strategy
from training.optimizers import Follower, GaussianAdam
from training.rows import RowMap, edited, morton_order

MOST_SPARED_ROUNDS = 2  # in a row; the next one ends the run


@dataclass(frozen=True)
class RenderSettings:
    """How a step renders.

    Attributes:
        pair_capacity: room for the renderer's lists; None is as much as they need.
        proxy_lists: how an averaged branch is drawn.
        observes: growth statistics are wanted, and with them what they are made of.
    """

    background: Float[Tensor, "3"]
    sh_degree: int
    filter_2d: Filter
    pair_capacity: int | None = None
    proxy_lists: ProxyLists = "own"
    observes: bool = True


@dataclass(frozen=True)
class Update:
    """How a branch learns from the gradients of a step.

    Attributes:
        rates: Adam's, on the device.
        turn: which of its masks the branch has used.
        observes: growth statistics are still wanted.
        visible: positive for Gaussians that alone are moved; None moves all.
        frozen: where it is set on the device, nothing changes.
    """

    rates: Float[Tensor, "P 2"]
    turn: int
    observes: bool
    visible: Int[Tensor, " N"] | None
    frozen: Int[Tensor, "1"] | None


@dataclass
class PruneCounts:
    """What rounds of growth have done so far that says how a set fares.

    Attributes:
        degenerate: Gaussians pruned because nothing could draw them.
        spared_rounds: rounds in a row that pruned nothing, since too few would be left.
    """

    degenerate: int = 0
    spared_rounds: int = 0


@dataclass
class TrainedBranch:
    """Gaussians that learn from photos through masks of their own.

    Attributes:
        maskers: used in turn, one a step.
        has_filter: the 3D smoothing filter is in use.
        proxy: the branch that averages this one.
    """

    name: str
    gaussians: Gaussians
    optimizer: GaussianAdam
    strategy: Strategy
    growth: GrowthState
    maskers: tuple[Masker, ...]
    has_filter: bool
    proxy: "ProxyBranch | None" = None
    pruned: PruneCounts = field(default_factory=PruneCounts)

    def render(self, cameras: Cameras, settings: RenderSettings) -> Render:
        """The views with gradients."""
        return render_trained([self], cameras, settings)[0]

    def learn(self, own: Render, camera: int, update: Update) -> None:
        """Learn from the gradients of a step: statistics, optimizer, average, mask.

        Args:
            own: the render with the branch's own view.
            camera: which camera of that render it is.
        """
        if update.observes:
            self.strategy.step_post_backward(self.growth, own, camera, update.frozen)
        proxy = self.proxy
        self.optimizer.step(
            self.gaussians,
            update.rates,
            follower=None if proxy is None else Follower(proxy.gaussians, proxy.decay),
            visible=update.visible,
            frozen=update.frozen,
        )
        self.maskers[update.turn].update(update.frozen)

    def refine(self, step: int, generator: torch.Generator) -> bool:
        """Grow and prune when due after `step` updates; True when the rows are others now.

        Raises:
            UserError: pruning would have left nothing to go on with, again and again.
        """
        refinement = self.strategy.refine(self.growth, self.gaussians, step)
        self._note(refinement, step)
        if refinement.plan is not None:
            self._edit(refinement.plan.row_map(), generator)
        if refinement.opacity_ceiling is not None:
            self._lower_opacities(refinement.opacity_ceiling)
        return refinement.plan is not None

    def _note(self, refinement: Refinement, step: int) -> None:
        """Keep count of what goes wrong.

        Raises:
            UserError: see `refine`.
        """
        self.pruned.degenerate += refinement.num_degenerate
        if refinement.plan is None:
            return
        rounds = self.pruned.spared_rounds + 1 if refinement.num_spared else 0
        self.pruned.spared_rounds = rounds
        if rounds > MOST_SPARED_ROUNDS:
            raise UserError(
                f"step {step}: {refinement.num_spared} of {len(self.gaussians)} Gaussians of "
                f"branch {self.name} are transparent, for {rounds} rounds now; "
                f"{LIKELY_REASONS}",
                ExitCode.NUMERICAL,
            )

    @torch.no_grad()
    def renew_filter(self, cameras: list[Cameras]) -> None:
        """Fit the 3D filter to where the Gaussians are now, in place."""
        if self.has_filter:
            self.gaussians.filter_3d.copy_(smoothing_filter(self.gaussians.means, cameras))
        if self.proxy is not None:
            self.proxy.gaussians.filter_3d.copy_(self.gaussians.filter_3d)

    def _edit(self, rows: RowMap, generator: torch.Generator) -> None:
        self._follow(rows, edited(self.gaussians, rows, generator))
        order = RowMap.reordering(morton_order(self.gaussians.means.detach()))
        self._follow(order, select_rows(self.gaussians, order.source))
        self.growth = self.strategy.initialize_state(self.gaussians)

    def _follow(self, rows: RowMap, gaussians: Gaussians) -> None:
        self.gaussians = gaussians.requires_grad_()
        self.optimizer.follow(rows)
        if self.proxy is not None:
            self.proxy.follow(rows, gaussians)

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
    def render(
        self, cameras: Cameras, settings: RenderSettings, tile_lists: TileLists | None = None
    ) -> Render:
        """The views, detached; `tile_lists` of the same views of the branch that is averaged."""
        return render(
            self.gaussians,
            cameras,
            settings.background,
            sh_degree=settings.sh_degree,
            filter_2d=settings.filter_2d,
            pair_capacity=settings.pair_capacity,
            tile_lists=tile_lists,
        )

    @torch.no_grad()
    def follow(self, rows: RowMap, live: Gaussians) -> None:
        """The same row edit with this branch's own values; children take the live geometry."""
        self.gaussians = select_rows(self.gaussians, rows.source)
        children = rows.children
        self.gaussians.means[children] = live.means[children]
        self.gaussians.log_scales[children] = live.log_scales[children]


Branch = TrainedBranch | ProxyBranch


def render_trained(
    branches: Sequence[TrainedBranch], cameras: Cameras, settings: RenderSettings
) -> list[Render]:
    """The same views of several trained branches in one call, with gradients."""
    return render_sets(
        [branch.gaussians for branch in branches],
        cameras,
        settings.background,
        sh_degree=settings.sh_degree,
        filter_2d=settings.filter_2d,
        absgrad=settings.observes and any(b.strategy.needs_absgrad for b in branches),
        pair_capacity=settings.pair_capacity,
    )


def render_branches(
    branches: Sequence[Branch], cameras: Cameras, settings: RenderSettings
) -> list[Render]:
    """The same views of every branch, trained ones first: the one place that says how.

    A proxy has a call of its own, in the order and the tiles of the branch that it averages if the
    settings say so.
    """
    trained = [branch for branch in branches if isinstance(branch, TrainedBranch)]
    proxies = [branch for branch in branches if isinstance(branch, ProxyBranch)]
    seen = render_trained(trained, cameras, settings)
    shares = settings.proxy_lists == "shared" and len(trained) == 1
    lists = seen[0].tile_lists if shares else None
    return seen + [proxy.render(cameras, settings, lists) for proxy in proxies]
