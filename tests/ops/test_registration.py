"""The rasterizer's operators are registered as torch expects: schemas, fake tensors, autograd."""

import pytest
import torch
from diff_gaussian_rasterization import rasterization
from torch import Tensor

from tests.ops.scenes import Scene, make_scene

OPS = torch.ops.twinsplat_raster


def _project_arguments(scene: Scene) -> tuple[object, ...]:
    wants_gradient = scene.colors.requires_grad
    sh0, shN = (
        part.detach().clone().requires_grad_(wants_gradient)
        for part in (scene.colors[:, :1], scene.colors[:, 1:])
    )
    return (
        scene.means,
        scene.quats,
        scene.scales,
        None,
        scene.opacities,
        sh0,
        shN,
        scene.viewmats,
        scene.Ks,
        scene.width,
        scene.height,
        1,
        0.01,
        1e10,
        0.3,
        False,
    )


def test_project_is_registered_soundly(device: torch.device) -> None:
    scene = make_scene(6, sh_degree=1, cameras=2, size=(8, 8)).to(torch.float32, device)
    torch.library.opcheck(OPS.project.default, _project_arguments(scene))


def test_blend_is_registered_soundly(device: torch.device) -> None:
    scene = make_scene(6, sh_degree=1, cameras=2, size=(8, 8), device=device)
    means2d, conics, depths, opacities, colors, radii = OPS.project(*_project_arguments(scene))
    leaves: list[Tensor] = [means2d, conics, opacities, colors, depths]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    arguments = (*leaves, radii, None, None, [2, 4], 8, 8, 1, True, True, -1)
    # The state's length depends on the data, which tracing with static shapes cannot hold.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(OPS.blend.default, arguments, test_utils=checks)


@pytest.mark.parametrize("name", ["viewmats", "Ks"])
def test_cameras_refuse_to_learn(name: str, device: torch.device) -> None:
    scene = make_scene(6, device=device)
    getattr(scene, name).requires_grad_()
    with pytest.raises(ValueError, match=name):
        rasterization(*scene.arguments)
