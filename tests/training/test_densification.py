"""What grows, what goes, and that the cap always holds."""

import dataclasses

import pytest
import torch

from arguments.cli import parse_train
from arguments.messages import ExitCode, UserError
from scene.cameras import Cameras
from scene.gaussians import Gaussians, smoothing_filter
from training.densification import (
    GrowthState,
    Refinement,
    Strategy,
    build_strategy,
    nth_largest,
    within_cap,
)
from training.schedule import Schedule

SCHEDULE = dataclasses.replace(
    Schedule.of(parse_train(["-s", "x"])[0]), grow_from=0, grow_every=10, grow_until=100
)


def strategy(name: str = "asymmetric", cap: int = 1000) -> Strategy:
    config = parse_train(["-s", "x", "--strategy", name])[0]
    return build_strategy(config.densification, SCHEDULE, scene_scale=1.0, max_gaussians=cap)


def gaussians(count: int, scale: float = 0.001, opacity: float = 0.5) -> Gaussians:
    result = Gaussians.from_points(
        torch.zeros(count, 3), torch.zeros(count, 3), torch.full((count,), scale**2), 0
    )
    result.opacity_logits.fill_(float(torch.tensor(opacity).logit()))
    return result


def state(grads: list[float], absgrads: list[float]) -> GrowthState:
    return GrowthState(torch.tensor(grads), torch.tensor(absgrads), torch.ones(len(grads)))


def test_large_gradients_clone_the_small_and_split_the_large() -> None:
    some = gaussians(3)
    some.log_scales[2] = 0.0  # as large as the scene
    plan = strategy().refine(state([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]), some, 10).plan
    assert plan.clone.tolist() == [False, True, False]
    assert plan.split.tolist() == [False, False, True]
    assert plan.keep.tolist() == [True, True, False]


def test_absolute_gradients_add_as_large_a_share_as_signed_ones_select() -> None:
    signed = [1.0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0]
    absolute = [0.0, 0, 0, 0, 0, 0, 0, 0, 1.0, 1.0]
    grown = strategy().refine(state(signed, absolute), gaussians(10), 10).plan.clone
    assert grown.nonzero()[:, 0].tolist() == [0, 1, 8, 9]
    plain = strategy("default").refine(state(signed, absolute), gaussians(10), 10).plan.clone
    assert plain.nonzero()[:, 0].tolist() == [0, 1]


def test_nothing_grows_when_no_gradient_is_large() -> None:
    plan = strategy().refine(state([0.0] * 4, [1.0] * 4), gaussians(4), 10).plan
    assert not plan.clone.any()
    assert plan.keep.all()


def test_transparent_gaussians_go() -> None:
    some = gaussians(3)
    some.opacity_logits[1] = -10
    plan = strategy().refine(state([1.0] * 3, [1.0] * 3), some, 10).plan
    assert plan.keep.tolist() == [True, False, True]
    assert not plan.clone[1]


DEGENERATE = {
    "no rotation": ("quats", 0.0),
    "no size": ("log_scales", -50.0),
    "endless": ("log_scales", 60.0),
    "nowhere": ("means", torch.nan),
    "no colour": ("sh0", torch.inf),
    "no opacity": ("opacity_logits", torch.nan),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("step", [10, 2000], ids=["growth", "afterwards"])
def test_gaussians_that_nothing_can_draw_go_and_are_counted(name: str, step: int) -> None:
    parameter, value = DEGENERATE[name]
    some = gaussians(200)
    getattr(some, parameter)[3] = value
    refinement = strategy().refine(state([0.0] * 200, [0.0] * 200), some, step)
    assert refinement.num_degenerate == 1
    assert refinement.plan is not None
    assert (~refinement.plan.keep).nonzero()[:, 0].tolist() == [3]
    assert not (refinement.plan.clone | refinement.plan.split).any()


def test_sound_gaussians_are_left_alone_after_growth() -> None:
    assert strategy().refine(state([9.0] * 200, [9.0] * 200), gaussians(200), 2000) == Refinement()


def test_set_that_nothing_can_draw_ends_the_run_before_it_is_pruned() -> None:
    some = gaussians(200)
    some.quats[:150] = 0
    with pytest.raises(
        UserError, match=r"150 of 200 Gaussians cannot be drawn.*outlying cam"
    ) as no:
        strategy().refine(state([0.0] * 200, [0.0] * 200), some, 2000)
    assert no.value.code == ExitCode.NUMERICAL
    assert len(some) == 200


def test_transparent_set_is_spared_and_said_by_its_number() -> None:
    refinement = strategy().refine(
        state([0.0] * 200, [0.0] * 200), gaussians(200, opacity=1e-4), 10
    )
    assert refinement.num_spared == 200
    assert refinement.plan is not None
    assert refinement.plan.keep.all()


def test_cap_holds_and_takes_the_highest_scores() -> None:
    plan = strategy(cap=6).refine(state([1.0, 5.0, 3.0, 4.0], [0.0] * 4), gaussians(4), 10).plan
    assert plan.clone.tolist() == [False, True, False, True]
    assert len(plan.row_map().source) == 6


def test_cap_below_the_present_number_grows_nothing() -> None:
    grow = within_cap(torch.ones(4, dtype=torch.bool), torch.rand(4), -2)
    assert not grow.any()


def test_only_default_resets_opacities() -> None:
    resetting = Schedule.of(parse_train(["-s", "x", "--strategy", "default"])[0])
    assert resetting.resets_at(3000)
    assert not SCHEDULE.resets_at(3000)


def test_nth_largest_is_reached_by_n_values() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, 0.0, 4.0])
    assert [float(nth_largest(values, n)) for n in (1, 3, 5)] == [4, 2, 0]


def camera_at(z: float, focal: float) -> Cameras:
    viewmat = torch.eye(4)[None]
    viewmat[0, 2, 3] = z
    K = torch.tensor([[[focal, 0, 50], [0, focal, 50], [0, 0, 1]]])
    return Cameras(viewmat, K, 100, 100)


def test_filter_follows_the_nearest_camera_and_the_longest_focal_length() -> None:
    cameras = [camera_at(2.0, 100.0), camera_at(4.0, 200.0)]
    measured = smoothing_filter(torch.zeros(1, 3), cameras)
    torch.testing.assert_close(measured, torch.tensor([0.2**0.5 * 2.0 / 200.0]))


def test_unseen_gaussians_get_the_largest_filter() -> None:
    means = torch.tensor([[0.0, 0, 0], [0, 0, 3.0], [0, 0, -99.0]])
    measured = smoothing_filter(means, [camera_at(2.0, 100.0)])
    assert measured[2] == measured.max() == measured[1]


def test_filter_does_not_depend_on_how_cameras_come_together(generator: torch.Generator) -> None:
    means = 3 * torch.randn(50, 3, generator=generator)
    apart = [camera_at(z, focal) for z, focal in ((2.0, 100.0), (4.0, 200.0), (7.0, 50.0))]
    viewmats, Ks = torch.cat([c.viewmats for c in apart]), torch.cat([c.Ks for c in apart])
    together = smoothing_filter(means, [Cameras(viewmats, Ks, 100, 100)])
    assert torch.equal(smoothing_filter(means, apart), together)
    alone = [smoothing_filter(means, [camera]) for camera in apart]
    assert not any(torch.equal(one, together) for one in alone)


def test_fusing_the_filter_keeps_volume_times_opacity() -> None:
    some = gaussians(2, scale=0.1)
    some.filter_3d = torch.tensor([0.0, 0.2])
    fused = some.fused()
    mass = lambda g: g.opacity_logits.sigmoid() * g.log_scales.exp().prod(1)  # noqa: E731
    torch.testing.assert_close(mass(fused), mass(some))
    torch.testing.assert_close(fused.log_scales[0], some.log_scales[0])
    assert not fused.filter_3d.any()
