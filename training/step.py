"""One update of every branch: render, mask, compare, learn. Only schedules look at the step.

The one place where masks and the renderer meet. A step reads nothing back from the device, so that
all of it can be recorded into a CUDA graph; what the host decides comes between steps (`refine`).
"""

from dataclasses import dataclass

import torch
from diff_gaussian_rasterization import count_step_, watch_
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import mse_loss

from arguments.config import TrainConfig
from gaussian_renderer import Render
from masks.evidence import Comparison
from masks.features import FeatureExtractor
from masks.files import combine
from scene.cameras import Cameras
from training.branches import RenderSettings, TrainedBranch, Update, render_branches
from training.losses import (
    Lesson,
    LossTerm,
    agreement_term,
    color_terms,
    only_where_distrusted,
    weighted_sum,
)
from training.optimizers import LearningRates
from training.photos import ViewBatch
from training.randomness import generator
from training.schedule import Schedule
from training.state import TrainState

NO_LIMIT = 2**31 - 1  # pairs of a render that makes room for all


@dataclass(frozen=True)
class StepContext:
    """What does not change from step to step.

    Attributes:
        agreement_weight: of the loss between the branches.
        cameras: of all training views, a batch for each size.
        features: by which masks compare pictures with photos.
    """

    config: TrainConfig
    schedule: Schedule
    scene_scale: float
    agreement_weight: float
    cameras: list[Cameras]
    features: FeatureExtractor


@dataclass(frozen=True)
class StepMode:
    """What the schedule asks of a step; steps of one mode do the same work on other numbers.

    Attributes:
        agrees: the branches render each other's views and are compared.
        masks_learn: soft masks do.
        observes: growth statistics are collected.
        turns: which of its masks each trained branch uses.
    """

    sh_degree: int
    agrees: bool
    masks_learn: bool
    observes: bool
    turns: tuple[int, ...]

    @classmethod
    def at(cls, step: int, state: TrainState, context: StepContext) -> "StepMode":
        """The mode of update number `step`, counted from 0."""
        schedule = context.schedule
        return cls(
            sh_degree=schedule.sh_degree_at(step, context.config.model.sh_degree),
            agrees=len(state.branches) > 1 and step >= schedule.agree_from,
            masks_learn=step >= schedule.mask_from,
            observes=step + 1 < schedule.grow_until,
            turns=tuple(step % len(branch.maskers) for branch in state.trained),
        )


@dataclass(frozen=True)
class StepNumbers:
    """What differs between steps of one mode, beside the views.

    Attributes:
        rates: Adam's, a row for each parameter of a Gaussian set.
    """

    rates: Float[Tensor, "P 2"]
    background: Float[Tensor, "3"]

    @classmethod
    def at(cls, step: int, context: StepContext) -> "StepNumbers":
        """Those of update number `step`, on the host."""
        config = context.config
        background = torch.full((3,), float(config.model.white_background))
        if config.optimization.random_background:
            background = torch.rand(3, generator=generator(config.run.seed, step, "background"))
        rates = LearningRates.at(step, config.optimization, context.schedule, context.scene_scale)
        return cls(rates.at_update(step + 1), background)


@dataclass(frozen=True)
class Guard:
    """What watches over steps that the host does not wait for.

    Attributes:
        counters: the most pairs of any render, the first bad row of any render or -1, steps done,
            steps whose loss is not finite.
        frozen: set once a render was incomplete or bad, or a loss; from then on nothing is learnt.
    """

    counters: Int[Tensor, "4"]
    frozen: Int[Tensor, "1"]


@dataclass(frozen=True)
class StepStats:
    """What a step has seen, detached; the next step on a GPU may write over it.

    Attributes:
        loss: the weighted sum.
        terms: the named terms.
        color: what the first branch shows at its own view.
        photo: of that view.
        weight: of the first branch's mask there.
    """

    loss: Float[Tensor, ""]
    terms: list[LossTerm]
    color: Float[Tensor, "H W 3"]
    photo: UInt8[Tensor, "H W 3"]
    weight: Float[Tensor, "H W"]

    @property
    def squared_error(self) -> Float[Tensor, ""]:
        """Mean over all pixels of the first branch's own view, computed when asked for."""
        return mse_loss(self.color, self.photo / 255)

    @property
    def trusted(self) -> Float[Tensor, ""]:
        """Mean weight of the first branch's mask there, computed when asked for."""
        return self.weight.mean()


@dataclass(frozen=True)
class Shown:
    """Views of one size, and what branches show of them.

    Attributes:
        renders: by the number of the branch, trained ones first.
        compared: what trained branches show, in their order, held against the photos.
    """

    views: ViewBatch
    renders: dict[int, Render]
    compared: Comparison


@dataclass(frozen=True)
class OwnView:
    """A trained branch's own view, which alone counts for its growth and its mask.

    Attributes:
        camera: which one of the render's it is.
    """

    render: Render
    camera: int
    photo: UInt8[Tensor, "H W 3"]
    weight: Float[Tensor, "H W"]


def train_step(
    state: TrainState,
    views: list[ViewBatch],
    numbers: StepNumbers,
    mode: StepMode,
    context: StepContext,
    guard: Guard | None = None,
    pair_capacity: int | None = None,
) -> StepStats:
    """One update of everything that learns; `state.step` and the rows are left to the caller.

    Args:
        views: the own view of each trained branch, in batches of one size.
        guard: told of every render; where it says `frozen`, nothing is learnt.
        pair_capacity: room for the renderer's lists; None is as much as they need.
    """
    filter_2d = context.config.optimization.filter
    proxy_lists = context.config.agreement.proxy_lists
    settings = RenderSettings(
        numbers.background, mode.sh_degree, filter_2d, pair_capacity, proxy_lists, mode.observes
    )
    shown = _show(state, views, settings, mode, context)
    if guard is not None:
        _watch(shown, guard, NO_LIMIT if pair_capacity is None else pair_capacity)

    masks: list[LossTerm] = []
    lessons: list[Lesson] = []
    own: list[OwnView] = []
    for number, branch in enumerate(state.trained):
        for seen in shown:
            judged = _judge(number, branch, seen, own, mode, context)
            lessons += judged.lessons
            masks += judged.terms
    optimization, mask = context.config.optimization, context.config.mask
    is_composite = mask.mask_target == "composite"
    terms = color_terms(lessons, optimization.lambda_dssim, composite=is_composite) + masks
    if mode.agrees:
        terms += [_agreement(seen, own, context) for seen in shown]
    loss = weighted_sum(terms)
    loss.backward()

    if guard is not None:
        count_step_(guard.counters, guard.frozen, loss)
    frozen = None if guard is None else guard.frozen
    for number, branch in enumerate(state.trained):
        view, turn = own[number], mode.turns[number]
        visible = _rows_seen(number, shown, context)
        update = Update(numbers.rates, turn, mode.observes, visible, frozen)
        branch.learn(view.render, view.camera, update)
    return StepStats(
        loss.detach(),
        [LossTerm(t.name, t.weight, t.value.detach()) for t in terms],
        own[0].render.color[own[0].camera].detach(),
        own[0].photo,
        own[0].weight,
    )


def refine(state: TrainState, context: StepContext) -> bool:
    """What comes between two steps: growth, resets, the 3D filter; True when rows are others now.

    Tensors whose rows stay are changed in place.
    """
    done, schedule = state.step, context.schedule
    has_grown = False
    for branch in state.trained:
        source = generator(context.config.run.seed, done - 1, f"children/{branch.name}")
        has_new_rows = branch.refine(done, source)
        if has_new_rows or schedule.filters_at(done):
            branch.renew_filter(context.cameras)
        has_grown |= has_new_rows
    if has_grown:
        state.lay_out()
    return has_grown


def _show(
    state: TrainState,
    views: list[ViewBatch],
    settings: RenderSettings,
    mode: StepMode,
    context: StepContext,
) -> list[Shown]:
    """Every view by every branch if the branches must agree, else by the branch that owns it."""
    if mode.agrees:
        return [
            _held_against(
                batch,
                dict(enumerate(render_branches(state.branches, batch.cameras, settings))),
                state,
                context,
            )
            for batch in views
        ]
    singles = [batch.only(i) for batch in views for i in range(len(batch.owners))]
    return [
        _held_against(
            one,
            {one.owners[0]: state.trained[one.owners[0]].render(one.cameras, settings)},
            state,
            context,
        )
        for one in singles
    ]


def _held_against(
    views: ViewBatch, renders: dict[int, Render], state: TrainState, context: StepContext
) -> Shown:
    colors = [render.color for number, render in renders.items() if number < len(state.trained)]
    return Shown(views, renders, Comparison(colors, views.images, context.features, views.rows))


def _rows_seen(number: int, shown: list[Shown], context: StepContext) -> Int[Tensor, " N"] | None:
    """Positive for the Gaussians of a branch that some camera of the step sees; None for all."""
    if context.config.optimization.adam_rows == "all":
        return None
    renders = [seen.renders[number] for seen in shown if number in seen.renders]
    radii = [render.radii[:, render.rows] for render in renders]
    return (radii[0] if len(radii) == 1 else torch.cat(radii)).amax(0)


def _watch(shown: list[Shown], guard: Guard, capacity: int) -> None:
    """Tell the guard of each call once; the branches of one call share its counts."""
    calls = {id(r.counts): r.counts for seen in shown for r in seen.renders.values()}
    for counts in calls.values():
        watch_(guard.counters, counts, capacity, guard.frozen)


@dataclass(frozen=True)
class Judged:
    """What a branch may learn from views, and the lesson of its mask when due; maybe nothing."""

    lessons: list[Lesson]
    terms: list[LossTerm]


def _judge(
    number: int,
    branch: TrainedBranch,
    seen: Shown,
    own: list[OwnView],
    mode: StepMode,
    context: StepContext,
) -> Judged:
    """Ask a branch's mask about the views that it shows; notes its own view in `own`."""
    if number not in seen.renders:
        return Judged([], [])
    config, render = context.config, seen.renders[number]
    views, color = seen.views, render.color
    evidence = seen.compared.of(list(seen.renders).index(number))
    camera = views.owners.index(number) if number in views.owners else None
    first = 0
    if config.agreement.supervision == "own" and len(views.owners) > 1:
        if camera is None:
            return Judged([], [])
        views, color = views.only(camera), color[camera, None]
        first = camera
        evidence = Comparison([color], views.images, context.features, views.rows).of(0)
    result = branch.maskers[mode.turns[number]](evidence, views.rows)
    weight = combine(result.weight, views.keep)
    if camera is not None:
        branch.strategy.step_pre_backward(branch.growth, render)
        own.append(OwnView(render, camera, views.images[camera - first], weight[camera - first]))
    terms = []
    if result.loss is not None and mode.masks_learn:
        share = config.mask.mask_weight * len(color)
        terms.append(LossTerm(f"mask/{branch.name}", share, result.loss))
    return Judged([Lesson(branch.name, color, views.images, weight)], terms)


def _agreement(seen: Shown, own: list[OwnView], context: StepContext) -> LossTerm:
    """How far the branches are apart at some views."""
    colors = [render.color for render in seen.renders.values()]
    if context.config.agreement.agreement_gradient == "distrusted":
        for index, owner in enumerate(seen.views.owners):
            trust = torch.zeros_like(colors[owner][..., 0])
            trust[index] = own[owner].weight
            colors[owner] = only_where_distrusted(colors[owner], trust)
    return agreement_term(colors, context.agreement_weight)
