"""Code written for INRIA's package runs unchanged and gets what the functional face gives."""

import math
from dataclasses import replace

import pytest
import torch
from diff_gaussian_rasterization import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    rasterization,
)
from torch import Tensor

from tests.ops.scenes import Scene, look_at, make_scene

WIDTH, HEIGHT, FOVX = 37, 28, 1.1
BACKGROUND = torch.tensor([0.1, 0.4, 0.8])


def camera_scene(device: torch.device, sh_degree: int | None = 2, count: int = 50) -> Scene:
    """A scene whose camera a field of view can describe: centred, at the origin of its cloud."""
    scene = make_scene(count, sh_degree=sh_degree, size=(WIDTH, HEIGHT), device=device)
    focal = WIDTH / (2 * math.tan(FOVX / 2))
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    viewmat = look_at((0.4, -0.3, -3.0)).float()
    return replace(scene, Ks=K[None].to(device), viewmats=viewmat[None].to(device))


def training_settings(scene: Scene, **changes: object) -> GaussianRasterizationSettings:
    """What a training script of 2023 computes from its camera."""
    tanfovx = math.tan(FOVX / 2)
    tanfovy = tanfovx * HEIGHT / WIDTH
    near, far = 0.01, 100.0
    projection = torch.zeros(4, 4, device=scene.means.device)
    projection[0, 0], projection[1, 1] = 1 / tanfovx, 1 / tanfovy
    projection[2, 2], projection[2, 3] = far / (far - near), -far * near / (far - near)
    projection[3, 2] = 1
    world_view_transform = scene.viewmats[0].T
    full_proj_transform = world_view_transform @ projection.T
    values: dict[str, object] = {
        "image_height": HEIGHT,
        "image_width": WIDTH,
        "tanfovx": tanfovx,
        "tanfovy": tanfovy,
        "bg": BACKGROUND.to(scene.means.device),
        "scale_modifier": 1.0,
        "viewmatrix": world_view_transform,
        "projmatrix": full_proj_transform,
        "sh_degree": 2,
        "campos": torch.linalg.inv(world_view_transform)[3, :3],
        "prefiltered": False,
        "debug": False,
    }
    return GaussianRasterizationSettings(**{**values, **changes})


def _functional(scene: Scene, **options: object) -> Tensor:
    background = BACKGROUND.to(scene.means.device)
    options = {"near_plane": 0.2, "backgrounds": background, "sh_degree": 2, **options}
    return rasterization(*scene.arguments, **options).color[0].permute(2, 0, 1)


def test_a_training_step_runs_unchanged_and_equals_the_functional_face(
    device: torch.device,
) -> None:
    scene = camera_scene(device).to(torch.float32, device)
    rasterizer = GaussianRasterizer(raster_settings=training_settings(scene))
    screenspace_points = torch.zeros_like(scene.means, requires_grad=True) + 0
    screenspace_points.retain_grad()
    rendered_image, radii = rasterizer(
        means3D=scene.means,
        means2D=screenspace_points,
        shs=scene.colors,
        colors_precomp=None,
        opacities=scene.opacities[:, None],
        scales=scene.scales,
        rotations=torch.nn.functional.normalize(scene.quats),
        cov3D_precomp=None,
    )
    generator = torch.Generator().manual_seed(3)
    cotangent = torch.randn(3, HEIGHT, WIDTH, generator=generator).to(device)
    (rendered_image * cotangent).sum().backward()
    visibility_filter = radii > 0
    statistics = torch.norm(screenspace_points.grad[visibility_filter, :2], dim=-1, keepdim=True)
    assert statistics.isfinite().all()
    assert (statistics > 0).any()

    twin = camera_scene(device).to(torch.float32, device)
    options = {"sh_degree": 2, "near_plane": 0.2, "backgrounds": BACKGROUND.to(device)}
    result = rasterization(*twin.arguments, **options)
    color = result.color[0].permute(2, 0, 1)
    (color * cotangent).sum().backward()
    torch.testing.assert_close(rendered_image, color, rtol=1e-5, atol=2e-6)
    assert torch.equal(radii, result.radii[0])
    for ours, theirs in zip(scene.leaves, twin.leaves, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    # One unit of normalised device coordinates is half the image.
    half = torch.tensor([WIDTH / 2, HEIGHT / 2], device=device)
    expected = result.means2d.grad[0] * half
    torch.testing.assert_close(screenspace_points.grad[:, :2], expected, rtol=1e-3, atol=1e-2)


def test_the_release_with_antialiasing_returns_inverse_depth(device: torch.device) -> None:
    scene = camera_scene(device, sh_degree=None)
    settings = training_settings(scene, antialiasing=True)
    color, _, invdepth = GaussianRasterizer(settings)(
        means3D=scene.means,
        means2D=torch.zeros_like(scene.means),
        opacities=scene.opacities[:, None],
        colors_precomp=scene.colors,
        scales=scene.scales,
        rotations=scene.quats,
    )
    expected = _functional(scene, sh_degree=None, rasterize_mode="antialiased")
    torch.testing.assert_close(color, expected, rtol=1e-5, atol=2e-6)
    assert invdepth.shape == (1, HEIGHT, WIDTH)
    z = scene.means @ scene.viewmats[0, 2, :3] + scene.viewmats[0, 2, 3]
    # Inverse depths as features blend to the inverse depth.
    inverse = replace(scene, colors=1 / z[:, None])
    options = {"sh_degree": None, "rasterize_mode": "antialiased", "backgrounds": None}
    torch.testing.assert_close(invdepth, _functional(inverse, **options), rtol=1e-4, atol=1e-5)


def test_covariances_may_stand_for_scales_and_rotations(device: torch.device) -> None:
    scene = camera_scene(device)
    w, x, y, z = torch.nn.functional.normalize(scene.quats.double()).unbind(-1)
    rotation = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )
    half = rotation * scene.scales.double()[:, None]
    full = half @ half.mT
    upper = torch.stack([full[:, i, j] for i in range(3) for j in range(i, 3)], -1).float()
    upper.requires_grad_()
    color, _ = GaussianRasterizer(training_settings(scene))(
        means3D=scene.means,
        means2D=torch.zeros_like(scene.means),
        opacities=scene.opacities[:, None],
        shs=scene.colors,
        cov3D_precomp=upper,
    )
    torch.testing.assert_close(color, _functional(scene), rtol=1e-3, atol=1e-4)
    color.sum().backward()
    assert upper.grad.isfinite().all()
    assert (upper.grad != 0).any()


def test_the_scale_modifier_multiplies_scales(device: torch.device) -> None:
    scene = camera_scene(device)
    color, _ = GaussianRasterizer(training_settings(scene, scale_modifier=0.5))(
        means3D=scene.means,
        means2D=torch.zeros_like(scene.means),
        opacities=scene.opacities[:, None],
        shs=scene.colors,
        scales=scene.scales,
        rotations=scene.quats,
    )
    expected = _functional(replace(scene, scales=0.5 * scene.scales))
    torch.testing.assert_close(color, expected, rtol=1e-5, atol=2e-6)


def test_mark_visible_means_in_front_of_the_near_plane(device: torch.device) -> None:
    scene = camera_scene(device, count=400)
    wide = replace(scene, means=4 * scene.means)
    visible = GaussianRasterizer(training_settings(scene)).markVisible(wide.means)
    z = wide.means @ scene.viewmats[0, 2, :3] + scene.viewmats[0, 2, 3]
    assert torch.equal(visible, z > 0.2)
    assert visible.any()
    assert not visible.all()


@pytest.mark.parametrize(
    "given",
    [
        {"shs": True, "colors_precomp": True, "scales": True, "rotations": True},
        {"scales": True, "rotations": True},
        {"shs": True},
        {"shs": True, "scales": True},
        {"shs": True, "scales": True, "rotations": True, "cov3D_precomp": True},
    ],
)
def test_ambiguous_inputs_are_refused(given: dict[str, bool], device: torch.device) -> None:
    scene = camera_scene(device)
    values = {
        "shs": scene.colors,
        "colors_precomp": scene.colors[:, 0],
        "scales": scene.scales,
        "rotations": scene.quats,
        "cov3D_precomp": torch.zeros(50, 6, device=device),
    }
    with pytest.raises(ValueError, match=r"exactly one|either"):
        GaussianRasterizer(training_settings(scene))(
            means3D=scene.means,
            means2D=torch.zeros_like(scene.means),
            opacities=scene.opacities[:, None],
            **{name: values[name] for name in given},
        )
