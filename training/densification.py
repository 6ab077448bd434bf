"""Which Gaussians grow and which go: strategies with the hooks that gsplat users know.

A strategy only says what should happen (a `Refinement`); the branch carries it out on every
tensor that has a row per Gaussian.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from diff_gaussian_rasterization import kth_smallest, observe_
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arguments.config import DensificationConfig, StrategyName
from arguments.messages import ExitCode, UserError
from gaussian_renderer import Render
from scene.gaussians import Gaussians
from training.rows import EditPlan
from training.schedule import Schedule

LARGE_SCALE = 0.1  # share of the extent above which `default` prunes after its first reset
FEWEST_GAUSSIANS = 100  # no round of pruning leaves fewer of a set that has more
LARGEST_LOG_SCALE = 43.0  # either way; beyond it a variance is no normal number of 32 bits
SMALLEST_QUATERNION = 1e-12
LIKELY_REASONS = "look at the scene's scale, the share of masked pixels and outlying cameras"
RESET_FACTOR = 2.0  # an opacity reset leaves this multiple of the pruning threshold


@dataclass
class GrowthState:
    """What a strategy has seen since its last round; one row per Gaussian.

    Attributes:
        grad_sum: sum of the screen gradients' lengths, in units of half the image.
        absgrad_sum: the same of the absolute gradients.
        count: in how many views each Gaussian was visible.
    """

    grad_sum: Float[Tensor, " N"]
    absgrad_sum: Float[Tensor, " N"]
    count: Float[Tensor, " N"]

    @classmethod
    def empty(cls, num_gaussians: int, device: torch.device) -> "GrowthState":
        """Nothing seen yet."""
        return cls(*(torch.zeros(num_gaussians, device=device) for _ in range(3)))


@dataclass(frozen=True)
class Refinement:
    """What a strategy wants done after a step.

    Attributes:
        num_degenerate: Gaussians that the plan removes because nothing can draw them.
        num_spared: Gaussians that would have gone too, had that left enough to go on with.
    """

    plan: EditPlan | None = None
    opacity_ceiling: float | None = None
    num_degenerate: int = 0
    num_spared: int = 0


NOTHING = Refinement()


@runtime_checkable
class Strategy(Protocol):
    """Decides after each step how a Gaussian set should change."""

    @property
    def needs_absgrad(self) -> bool:
        """Whether renders should also collect absolute screen gradients."""
        ...

    def initialize_state(self, gaussians: Gaussians) -> GrowthState:
        """Fresh statistics for these Gaussians."""
        ...

    def step_pre_backward(self, state: GrowthState, render: Render) -> None:
        """Called between render and backward: ask for the gradients that are needed."""
        ...

    def step_post_backward(
        self, state: GrowthState, render: Render, camera: int, frozen: Int[Tensor, "1"] | None
    ) -> None:
        """Called after backward: note the gradients of one camera, unless `frozen` is set."""
        ...

    def refine(self, state: GrowthState, gaussians: Gaussians, step: int) -> Refinement:
        """Called between steps: what should change after `step` updates."""
        ...


@dataclass(frozen=True)
class GradientStrategy:
    """Grow where the screen gradient is large, remove the nearly transparent.

    With `needs_absgrad` the rule is the paper's (after GOF, arXiv 2404.10772): a Gaussian grows
    when its mean gradient passes the threshold, or its mean absolute gradient is among as large a
    share of the set as the former selects; there is no pruning by size.
    """

    schedule: Schedule
    config: DensificationConfig
    scene_scale: float
    max_gaussians: int
    needs_absgrad: bool

    def initialize_state(self, gaussians: Gaussians) -> GrowthState:
        """Fresh statistics for these Gaussians."""
        return GrowthState.empty(len(gaussians), gaussians.device)

    def step_pre_backward(self, state: GrowthState, render: Render) -> None:  # noqa: ARG002
        """Keep the gradient of the projected centres."""
        render.means2d.retain_grad()

    @torch.no_grad()
    def step_post_backward(
        self, state: GrowthState, render: Render, camera: int, frozen: Int[Tensor, "1"] | None
    ) -> None:
        """Note the gradients of one camera."""
        grad = render.means2d.grad
        if grad is None:  # nothing in view has a gradient
            return
        _, height, width, _ = render.color.shape
        absgrad = None if render.absgrad is None else render.absgrad.grad
        observe_(
            state.grad_sum,
            None if absgrad is None else state.absgrad_sum,
            state.count,
            grad[camera, render.rows],
            None if absgrad is None else absgrad[camera, render.rows],
            render.radii[camera, render.rows],
            width,
            height,
            frozen,
        )

    @torch.no_grad()
    def refine(self, state: GrowthState, gaussians: Gaussians, step: int) -> Refinement:
        """At the end of an interval, what grows and what goes.

        Raises:
            UserError: hardly any Gaussian can be drawn any more.
        """
        ceiling = None
        if self.schedule.resets_at(step):
            ceiling = RESET_FACTOR * self.config.prune_opacity
        if not self.schedule.grows_at(step) and not self.schedule.cleans_at(step):
            return Refinement(None, ceiling) if ceiling else NOTHING
        bad = undrawable(gaussians)
        num_bad = int(bad.sum())
        if num_bad and collapses(len(bad), len(bad) - num_bad):
            raise UserError(
                f"step {step}: {num_bad} of {len(bad)} Gaussians cannot be drawn any more; "
                f"{LIKELY_REASONS}",
                ExitCode.NUMERICAL,
            )
        if not self.schedule.grows_at(step):
            none = torch.zeros_like(bad)
            return Refinement(EditPlan(~bad, none, none) if num_bad else None, ceiling, num_bad)
        faint = self._faint(gaussians, step) & ~bad
        left = len(bad) - num_bad - int(faint.sum())
        spared = len(bad) - num_bad - left if collapses(len(bad), left) else 0
        prune = bad if spared else bad | faint
        return Refinement(self._plan(state, gaussians, prune), ceiling, num_bad, spared)

    def _faint(self, gaussians: Gaussians, step: int) -> Bool[Tensor, " N"]:
        """What has become too transparent, or too large."""
        faint = gaussians.opacity_logits.sigmoid() < self.config.prune_opacity
        resets = self.schedule.reset_every
        if not self.needs_absgrad and resets and step > resets:
            largest = gaussians.log_scales.amax(dim=1).exp()
            faint |= largest > LARGE_SCALE * self.scene_scale
        return faint

    def _plan(
        self, state: GrowthState, gaussians: Gaussians, prune: Bool[Tensor, " N"]
    ) -> EditPlan:
        seen = state.count.clamp_min(1)
        mean_grad = state.grad_sum / seen
        grow = mean_grad >= self.config.densify_grad_threshold
        if self.needs_absgrad and bool(grow.any()):
            mean_abs = state.absgrad_sum / seen
            grow |= mean_abs >= nth_largest(mean_abs, int(grow.sum()))
        largest = gaussians.log_scales.amax(dim=1).exp()
        grow = within_cap(grow & ~prune, mean_grad, self.max_gaussians - int((~prune).sum()))
        split = grow & (largest > self.config.percent_dense * self.scene_scale)
        return EditPlan(keep=~prune & ~split, clone=grow & ~split, split=split)


def undrawable(gaussians: Gaussians) -> Bool[Tensor, " N"]:
    """Gaussians without shape: a number that is none, no rotation, a variance beyond float32."""
    shaped = gaussians.log_scales.abs().amax(dim=1) <= LARGEST_LOG_SCALE
    shaped &= gaussians.quats.norm(dim=1) > SMALLEST_QUATERNION
    for _, parameter in gaussians.parameters():
        finite = parameter.isfinite()
        shaped &= finite if finite.dim() == 1 else finite.flatten(1).all(dim=1)
    return ~shaped


def collapses(before: int, after: int) -> bool:
    """Whether a round of pruning would leave too few to go on with."""
    return after == 0 or after < FEWEST_GAUSSIANS <= before


def nth_largest(values: Float[Tensor, " N"], n: int) -> Float[Tensor, ""]:
    """The value that `n` of the values reach or pass, ties aside."""
    return kth_smallest(values[None], len(values) - n + 1)[0]


def within_cap(
    grow: Bool[Tensor, " N"], score: Float[Tensor, " N"], room: int
) -> Bool[Tensor, " N"]:
    """At most `room` of the growing rows, those with the highest score; ties by row."""
    rows = grow.nonzero()[:, 0]
    if len(rows) <= room:
        return grow
    best = rows[score[rows].argsort(descending=True, stable=True)[: max(room, 0)]]
    allowed = torch.zeros_like(grow)
    allowed[best] = True
    return allowed


STRATEGY_NEEDS_ABSGRAD: dict[StrategyName, bool] = {"asymmetric": True, "default": False}


def build_strategy(
    config: DensificationConfig, schedule: Schedule, scene_scale: float, max_gaussians: int
) -> Strategy:
    """The strategy that a run asks for."""
    return GradientStrategy(
        schedule, config, scene_scale, max_gaussians, STRATEGY_NEEDS_ABSGRAD[config.strategy]
    )
