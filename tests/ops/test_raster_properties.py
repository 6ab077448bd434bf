"""What must hold for any rasterizer of Gaussians, whatever the numbers are."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diff_gaussian_rasterization import Rasterization, rasterization
from torch import Tensor

from tests.ops.scenes import Scene, make_scene


def _render(scene: Scene, **options: object) -> Rasterization:
    return rasterization(*scene.arguments, **options)


def _close(ours: Tensor, theirs: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=atol)


def test_the_order_of_the_gaussians_is_irrelevant(device: torch.device) -> None:
    scene = make_scene(200, cameras=2, sh_degree=2, device=device)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1)).to(device)
    plain, shuffled = _render(scene, sh_degree=2), _render(scene.rows(order), sh_degree=2)
    assert torch.equal(plain.color, shuffled.color)
    assert torch.equal(plain.radii[:, order], shuffled.radii)


def test_equal_depths_keep_the_order_of_the_arguments(device: torch.device) -> None:
    scene = make_scene(2, channels=2, device=device)
    scene.means.zero_()
    scene.scales.fill_(0.2)
    scene.quats.copy_(torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]]))
    scene.opacities.fill_(0.9)
    scene.colors.copy_(torch.eye(2))
    color = _render(scene).color.amax((0, 1, 2))
    assert color[0] > 0.85
    assert color[1] <= 0.25 + 1e-6  # a (1 - a), never a


def _quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    scalar = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    cross = torch.linalg.cross(a[..., 1:].expand_as(b[..., 1:]), b[..., 1:])
    return torch.cat([scalar, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + cross], -1)


def _matrix(axis: Tensor, angle: float) -> Tensor:
    x, y, z = (axis / axis.norm()).tolist()
    K = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * K + (1 - math.cos(angle)) * K @ K


def test_moving_camera_and_scene_together_changes_nothing(device: torch.device) -> None:
    scene = make_scene(60, cameras=2)
    axis, angle = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64), 1.1
    shift = torch.tensor([2.0, -1.0, 0.7], dtype=torch.float64)
    rotation = _matrix(axis, angle)
    half = torch.cat(
        [
            torch.tensor([math.cos(angle / 2)], dtype=torch.float64),
            math.sin(angle / 2) * axis / axis.norm(),
        ]
    )
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = rotation, shift
    moved = replace(
        scene,
        means=(scene.means.double() @ rotation.T + shift).float(),
        quats=_quaternion_product(half, scene.quats.double()).float(),
        viewmats=(scene.viewmats.double() @ torch.linalg.inv(motion)).float(),
    )
    before, after = (
        _render(s.to(torch.float32, device, requires_grad=False), depth="expected")
        for s in (scene, moved)
    )
    _close(before.color, after.color, atol=1e-4)
    _close(before.alpha, after.alpha, atol=1e-4)
    _close(before.depth, after.depth, atol=2e-3)


@pytest.mark.parametrize("factor", [-1.0, 2.0, 1e-3, 1e4])
def test_a_quaternion_means_the_same_at_any_length_and_sign(
    factor: float, device: torch.device
) -> None:
    scene = make_scene(60, device=device)
    _close(_render(scene).color, _render(replace(scene, quats=factor * scene.quats)).color)


def test_quaternions_get_no_gradient_along_their_length(device: torch.device) -> None:
    scene = make_scene(60).to(torch.float32, device)
    _render(scene).color.square().sum().backward()
    grad = scene.quats.grad
    radial = (grad * scene.quats).sum(-1).abs()
    assert grad.abs().max() > 1e-2
    assert (radial <= 1e-5 * (grad.norm(dim=-1) * scene.quats.norm(dim=-1)) + 1e-6).all()


def test_zero_opacity_is_absent(device: torch.device) -> None:
    scene = make_scene(60, device=device)
    keep = torch.arange(60, device=device) % 3 != 0
    faded = replace(scene, opacities=scene.opacities * keep)
    assert torch.equal(_render(faded).color, _render(scene.rows(keep)).color)


def test_an_opacity_below_one_255th_draws_nothing(device: torch.device) -> None:
    scene = make_scene(60, device=device)
    faint = replace(scene, opacities=torch.full((60,), 0.99 / 255, device=device))
    assert (_render(faint).alpha == 0).all()


def test_an_opaque_gaussian_in_front_hides_everything_behind(device: torch.device) -> None:
    scene = make_scene(40, size=(9, 9))
    wall = replace(
        scene,
        means=torch.cat([scene.means, torch.tensor([[0.2, -0.3, -2.5]]).repeat(4, 1)]),
        quats=torch.cat([scene.quats, torch.ones(4, 4)]),
        scales=torch.cat([scene.scales, torch.full((4, 3), 30.0)]),
        opacities=torch.cat([scene.opacities, torch.full((4,), 1.0)]),
        colors=torch.cat([torch.ones(40, 3), torch.zeros(4, 3)]),
    )
    # Two clamped layers leave 1e-4; the third would go below and is not drawn.
    assert _render(wall.to(torch.float32, device)).color.max() < 2e-4


def test_alpha_is_color_of_white_gaussians(device: torch.device) -> None:
    scene = make_scene(60, channels=1, device=device)
    white = replace(scene, colors=torch.ones(60, 1, device=device))
    result = _render(white)
    _close(result.color[..., 0], result.alpha, atol=1e-6)


def test_the_background_shows_through(device: torch.device) -> None:
    scene = make_scene(60, device=device)
    background = torch.tensor([0.1, 0.5, 0.9], device=device)
    with_background = _render(scene, backgrounds=background)
    plain = _render(scene)
    _close(with_background.color, plain.color + (1 - plain.alpha[..., None]) * background, 1e-6)


def test_depth_is_between_the_nearest_and_the_farthest(device: torch.device) -> None:
    scene = make_scene(60, device=device)
    result = _render(scene, depth="expected")
    z = scene.means @ scene.viewmats[0, 2, :3] + scene.viewmats[0, 2, 3]
    hit = result.alpha > 0
    assert (result.depth[hit] >= z.min() - 1e-4).all()
    assert (result.depth[hit] <= z.max() + 1e-4).all()
    assert (result.depth[~hit] == 0).all()


def test_the_expected_depth_of_an_empty_pixel_poisons_no_gradient(device: torch.device) -> None:
    scene = make_scene(5).to(torch.float32, device)
    result = _render(scene, depth="expected")
    assert (result.alpha == 0).any()
    (1e3 * result.depth).sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in scene.leaves if leaf.grad is not None)


def test_cameras_together_render_what_they_render_alone(device: torch.device) -> None:
    scene = make_scene(60, cameras=3, sh_degree=1, device=device)
    together = _render(scene, sh_degree=1)
    for c in range(3):
        alone = replace(scene, viewmats=scene.viewmats[c : c + 1], Ks=scene.Ks[c : c + 1])
        assert torch.equal(_render(alone, sh_degree=1).color[0], together.color[c])


def test_sets_together_render_what_they_render_alone(device: torch.device) -> None:
    scene = make_scene(60, cameras=2, device=device)
    together = _render(scene, set_sizes=[25, 0, 35])
    assert torch.equal(_render(scene.rows(slice(25))).color, together.color[0])
    assert torch.equal(_render(scene.rows(slice(25, 60))).color, together.color[2])
    assert (together.alpha[1] == 0).all()


def test_many_channels_render_like_few(device: torch.device) -> None:
    scene = make_scene(60, channels=19, device=device)
    whole = _render(scene).color
    for start in range(0, 19, 3):
        some = replace(scene, colors=scene.colors[:, start : start + 3])
        _close(_render(some).color, whole[..., start : start + 3], atol=1e-6)


def test_the_antialiased_filter_never_brightens(device: torch.device) -> None:
    scene = make_scene(60, device=device)
    single = scene.rows(slice(1))
    classic = _render(single, eps2d=0.3).alpha
    antialiased = _render(single, eps2d=0.3, rasterize_mode="antialiased").alpha
    assert (antialiased <= classic).all()
    assert (antialiased < classic).any()


def test_an_empty_set_is_the_background(device: torch.device) -> None:
    empty = make_scene(1, cameras=2).rows(slice(0)).to(torch.float32, device)
    background = torch.tensor([0.1, 0.5, 0.9], device=device)
    result = _render(empty, backgrounds=background, depth="expected", absgrad=True)
    assert torch.equal(result.color, background.expand_as(result.color))
    assert (result.alpha == 0).all()
    assert (result.depth == 0).all()
    result.color.sum().backward()
    assert result.means2d.shape == (2, 0, 2)


def test_a_scene_behind_the_camera_is_the_background_and_learns_nothing(
    device: torch.device,
) -> None:
    scene = make_scene(40)
    behind = replace(scene, means=scene.means + torch.tensor([0.0, 0, -30]))
    behind = behind.to(torch.float32, device)
    result = _render(behind)
    result.color.sum().backward()
    assert (result.color == 0).all()
    assert (result.radii == 0).all()
    assert all((leaf.grad == 0).all() for leaf in behind.leaves)


def test_a_gaussian_in_the_plane_of_the_camera_is_harmless(device: torch.device) -> None:
    scene = make_scene(3).to(torch.float32, device)
    camera = -scene.viewmats[0, :3, :3].T @ scene.viewmats[0, :3, 3]
    with torch.no_grad():
        scene.means[0] = camera
        scene.means[1] = camera + 1e-3 * scene.viewmats[0, 2, :3]
    result = _render(scene)
    result.color.sum().backward()
    assert result.color.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in scene.leaves)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda scene: scene.scales.zero_(),
        lambda scene: scene.scales.fill_(1e-12),
        lambda scene: scene.scales.fill_(1e6),
        lambda scene: scene.scales[:, 1:].zero_(),
        lambda scene: scene.quats.mul_(1e-12),
        lambda scene: scene.opacities.fill_(1.0),
        lambda scene: scene.means.mul_(1e6),
    ],
    ids=["points", "tiny", "huge", "needles", "short-quats", "opaque", "far"],
)
def test_extreme_shapes_stay_finite(
    mode: str, spoil: Callable[[Scene], Tensor], device: torch.device
) -> None:
    scene = make_scene(20, device=device)
    spoil(scene)
    live = scene.to(torch.float32, device)
    result = _render(live, rasterize_mode=mode, eps2d=0.1)
    result.color.square().sum().backward()
    assert result.color.isfinite().all()
    names = ["means", "quats", "scales", "opacities", "colors"]
    bad = [n for n, t in zip(names, live.leaves, strict=True) if not t.grad.isfinite().all()]
    assert not bad


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17])
@pytest.mark.parametrize("height", [1, 7, 16, 33])
def test_any_image_size_is_a_window_on_the_same_image(
    width: int, height: int, device: torch.device
) -> None:
    scene = make_scene(60, size=(40, 40), device=device)
    window = replace(scene, width=width, height=height)
    # The frustum that clamps the Jacobian belongs to the image, so only near the axis equal.
    whole = _render(scene).color[:, :height, :width]
    part = _render(window).color
    assert part.shape == (1, height, width, 3)
    assert part.isfinite().all()
    if (width, height) == (17, 33):
        assert (whole - part).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(
    name: str, value: float, device: torch.device
) -> None:
    scene = make_scene(20, device=device)
    getattr(scene, name)[7].fill_(value)
    with pytest.raises(ValueError, match=rf"{name} must be finite, got .* row 7$"):
        _render(scene)


@pytest.mark.parametrize("name", ["viewmats", "Ks"])
def test_a_broken_camera_is_refused_by_name(name: str) -> None:
    # On the CPU only: a look at the camera would make every step wait for a GPU.
    scene = make_scene(20)
    getattr(scene, name)[0, 0, 0] = float("nan")
    with pytest.raises((ValueError, RuntimeError), match=name):
        _render(scene)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"means": torch.zeros(20, 2)}, {}, "means"),
        ({"quats": torch.zeros(19, 4)}, {}, "quats"),
        ({"scales": torch.zeros(20, 3, dtype=torch.float64)}, {}, "scales"),
        ({"opacities": torch.zeros(20, 1)}, {}, "opacities"),
        ({"colors": torch.zeros(20)}, {}, "colors"),
        ({"viewmats": torch.eye(4)}, {}, "viewmats"),
        ({"Ks": torch.eye(3)[None].repeat(2, 1, 1)}, {}, "Ks"),
        ({"width": 0}, {}, "width|size"),
        ({}, {"set_sizes": [10, 9]}, "set_sizes"),
        ({}, {"backgrounds": torch.zeros(4)}, "background"),
        ({}, {"depth": "median"}, "depth"),
        ({}, {"rasterize_mode": "sharp"}, "rasterize_mode"),
        ({"colors": torch.zeros(20, 4, 3)}, {"sh_degree": 2}, "colors|sh"),
        ({"colors": torch.zeros(20, 16, 3)}, {"sh_degree": 4}, "sh_degree"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    changes: dict[str, object], options: dict[str, object], message: str, device: torch.device
) -> None:
    on_device = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in changes.items()}
    with pytest.raises((ValueError, RuntimeError), match=message):
        _render(replace(make_scene(20, device=device), **on_device), **options)


def test_counts_say_how_many_splats_and_pairs_there_are(device: torch.device) -> None:
    scene = make_scene(1, size=(40, 20), spread=0.0, device=device)
    scene.scales.fill_(0.01)
    counts = rasterization(*scene.arguments).counts
    # One small Gaussian at (20, 10), inside the second tile of the first row.
    assert counts.tolist() == [1, 1, -1]
    assert rasterization(*scene.rows(slice(0, 0)).arguments).counts.tolist() == [0, 0, -1]


def test_a_capacity_that_suffices_changes_no_bit(device: torch.device) -> None:
    scene = make_scene(cameras=2, device=device)
    exact = rasterization(*scene.arguments)
    roomy = rasterization(*scene.arguments, pair_capacity=2 * int(exact.counts[1]))
    assert torch.equal(exact.color, roomy.color)
    assert torch.equal(exact.counts, roomy.counts)
    with pytest.raises(ValueError, match="pair_capacity must be None or at least 0, got -3"):
        rasterization(*scene.arguments, pair_capacity=-3)


def test_lists_of_the_same_model_draw_the_same_picture(device: torch.device) -> None:
    scene = make_scene(200, cameras=2, device=device).to(torch.float32)
    live = rasterization(*scene.arguments, depth="accumulated")
    with torch.no_grad():
        again = rasterization(*scene.arguments, depth="accumulated", tile_lists=live.tile_lists)
    assert torch.equal(again.color, live.color)
    assert torch.equal(again.depth, live.depth)


def test_lists_of_another_model_draw_this_one_in_their_order(device: torch.device) -> None:
    scene = make_scene(200, cameras=2, device=device).to(torch.float32)
    live = rasterization(*scene.arguments)
    moved = scene.to(torch.float32, requires_grad=False)
    moved.colors.mul_(0.5)  # no part of the order or of the tiles
    moved.opacities[50:] *= 1e-6  # out of sight
    shared = rasterization(*moved.arguments, tile_lists=live.tile_lists)
    _close(shared.color, rasterization(*moved.arguments).color)


def test_lists_that_do_not_fit_are_refused(device: torch.device) -> None:
    scene = make_scene(20, device=device).to(torch.float32)
    lists = rasterization(*scene.arguments).tile_lists
    with pytest.raises(ValueError, match="without gradients only"):
        rasterization(*scene.arguments, tile_lists=lists)
    fewer = scene.rows(slice(0, 19)).to(torch.float32, requires_grad=False)
    with pytest.raises(ValueError, match="tile_lists are of 20 Gaussians, got 19"):
        rasterization(*fewer.arguments, tile_lists=lists)
    smaller = replace(scene.to(torch.float32, requires_grad=False), width=16)
    with pytest.raises(RuntimeError, match="lists must come from a blend of as"):
        rasterization(*smaller.arguments, tile_lists=lists)


def test_a_coefficient_that_is_no_number_is_not_taken_for_black(device: torch.device) -> None:
    scene = make_scene(20, sh_degree=3, device=device)
    with torch.no_grad():
        scene.colors[3, 5] = float("nan")
    assert rasterization(*scene.arguments, sh_degree=3).color.isnan().any()
