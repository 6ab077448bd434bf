"""One update of every branch: render, mask, compare, learn. Only schedules look at the step.

The one place where masks and the renderer meet.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from arguments.config import TrainConfig
from masks.files import combine
from masks.maskers import MaskResult
from scene.cameras import Cameras
from training.branches import BranchView, RenderSettings, TrainedBranch, UpdateContext
from training.losses import (
    LossTerm,
    agreement_term,
    color_term,
    only_where_distrusted,
    weighted_sum,
)
from training.optimizers import LearningRates
from training.randomness import generator
from training.schedule import Schedule
from training.state import TrainState


@dataclass(frozen=True)
class TrainView:
    """A training photo on the device.

    Attributes:
        camera: a batch of this one camera.
        image: sRGB in [0, 1].
        trust: the user's own mask, 1 = keep; None where there is none.
    """

    view_id: int
    camera: Cameras
    image: Float[Tensor, "1 H W 3"]
    trust: Float[Tensor, "H W"] | None


@dataclass(frozen=True)
class StepContext:
    """What does not change from step to step.

    Attributes:
        agreement_weight: of the loss between the branches.
        cameras: of all training views.
    """

    config: TrainConfig
    schedule: Schedule
    scene_scale: float
    agreement_weight: float
    background: Float[Tensor, "3"]
    cameras: list[Cameras]


@dataclass(frozen=True)
class StepStats:
    """Detached scalars of a step; reading one waits for the device.

    Attributes:
        loss: the weighted sum.
        terms: the named terms.
        squared_error: mean over the first branch's own view, all pixels.
        trusted: mean weight of the first branch's mask.
    """

    loss: Float[Tensor, ""]
    terms: list[LossTerm]
    squared_error: Float[Tensor, ""]
    trusted: Float[Tensor, ""]


def train_step(state: TrainState, views: list[TrainView], context: StepContext) -> StepStats:
    """One update; `views` holds the own view of each trained branch, in branch order."""
    step, schedule, config = state.step, context.schedule, context.config
    trained = state.trained
    agreeing = len(state.branches) > 1 and step >= schedule.agree_from
    settings = _render_settings(state, context)

    pictures = _render(state, views, settings, agreeing)
    own = [pictures[i][i if agreeing else 0] for i in range(len(trained))]
    for branch, view in zip(trained, own, strict=True):
        branch.strategy.step_pre_backward(branch.growth, view.render)

    terms: list[LossTerm] = []
    own_masks: list[MaskResult] = []
    for i, branch in enumerate(trained):
        everything = agreeing and config.agreement.supervision == "all"
        for j in range(len(views)) if everything else (i,):
            picture = pictures[i][j if agreeing else 0]
            mask = _mask(branch, picture, views[j], step)
            terms += _supervise(branch, picture, views[j], mask, context, step)
            if j == i:
                own_masks.append(mask)
    if agreeing:
        colors = [[view.color for view in branch] for branch in pictures]
        if config.agreement.agreement_gradient == "distrusted":
            for i, mask in enumerate(own_masks):
                colors[i][i] = only_where_distrusted(colors[i][i], mask.weight)
        terms.append(agreement_term(colors, context.agreement_weight))
    loss = weighted_sum(terms)
    loss.backward()

    rates = LearningRates.at(step, config.optimization, schedule, context.scene_scale)
    for branch, view in zip(trained, own, strict=True):
        update = UpdateContext(
            step=step,
            rates=rates,
            cameras=context.cameras,
            renew_filter=schedule.filters_at(step + 1),
            generator=generator(config.run.seed, step, f"children/{branch.name}"),
        )
        branch.update(view, update)
    state.step += 1
    return StepStats(
        loss.detach(),
        [LossTerm(t.name, t.weight, t.value.detach()) for t in terms],
        (own[0].color.detach() - views[0].image).square().mean(),
        own_masks[0].weight.mean(),
    )


def _render_settings(state: TrainState, context: StepContext) -> RenderSettings:
    optimization, background = context.config.optimization, context.background
    if optimization.random_background:
        source = generator(context.config.run.seed, state.step, "background")
        background = torch.rand(3, generator=source).to(background)
    degree = context.schedule.sh_degree_at(state.step, context.config.model.sh_degree)
    return RenderSettings(background, degree, optimization.filter)


def _render(
    state: TrainState, views: list[TrainView], settings: RenderSettings, agreeing: bool
) -> list[list[BranchView]]:
    """Each branch's pictures: all views if the branches must agree, else its own only."""
    if agreeing:
        cameras = [view.camera for view in views]
        return [branch.render(cameras, settings) for branch in state.branches]
    return [
        branch.render([view.camera], settings)
        for branch, view in zip(state.trained, views, strict=True)
    ]


def _supervise(
    branch: TrainedBranch,
    picture: BranchView,
    view: TrainView,
    mask: MaskResult,
    context: StepContext,
    step: int,
) -> list[LossTerm]:
    """What a branch learns from one photo: colour, and its mask's own lesson when that is due."""
    config = context.config
    terms = [
        color_term(
            branch.name,
            picture.color,
            view.image,
            mask.weight,
            config.optimization.lambda_dssim,
            composite=config.mask.mask_target == "composite",
        )
    ]
    if mask.loss is not None and step >= context.schedule.mask_from:
        terms.append(LossTerm(f"mask/{branch.name}", config.mask.mask_weight, mask.loss))
    return terms


def _mask(branch: TrainedBranch, own: BranchView, view: TrainView, step: int) -> MaskResult:
    result = branch.masker_at(step)(own.color.detach(), view.image, [view.view_id])
    return MaskResult(combine(result.weight, [view.trust]), result.loss)
