"""Gaussians and cameras in, pictures out: the only caller of the rasterizer.

Knows nothing of photos, masks or losses.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from diff_gaussian_rasterization import activate, rasterization
from jaxtyping import Float, Int
from torch import Tensor

from scene.cameras import Cameras
from scene.gaussians import Gaussians

Filter = Literal["mip", "classic"]

MIP_VARIANCE = 0.1  # px^2, the 2D Mip filter, with opacity compensation (arXiv 2311.16493)
CLASSIC_VARIANCE = 0.3  # px^2, the dilation of 3DGS (arXiv 2308.04079)
NEAR_PLANE = 0.2  # world units


@dataclass(frozen=True)
class Render:
    """What the cameras of one call see.

    Attributes:
        color: linear combination of the Gaussians' sRGB colours over the background, not clamped.
        alpha: how opaque the pixel is, in [0, 1].
        means2d: projected centres in pixels; after backward its `grad` holds the screen gradients.
        absgrad: leaf whose `grad` holds the absolute screen gradients after backward; None unless
            asked for.
        radii: extent on screen in pixels; 0 = not visible.
    """

    color: Float[Tensor, "C H W 3"]
    alpha: Float[Tensor, "C H W"]
    means2d: Float[Tensor, "C N 2"]
    absgrad: Float[Tensor, "C N 2"] | None
    radii: Int[Tensor, "C N"]


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "3"],
    *,
    sh_degree: int,
    filter_2d: Filter = "mip",
    absgrad: bool = False,
) -> Render:
    """Render a set of Gaussians in each of the cameras, differentiable in every parameter.

    Args:
        sh_degree: harmonics in use; higher coefficients are left out.
        filter_2d: Mip: 0.1 px variance and opacity compensation; classic: 0.3 px dilation.
        absgrad: also collect absolute screen gradients.
    """
    active = activate(gaussians.log_scales, gaussians.opacity_logits, gaussians.filter_3d)
    result = rasterization(
        gaussians.means,
        gaussians.quats,
        active.scales,
        active.opacities,
        (gaussians.sh0, gaussians.shN),
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        sh_degree=sh_degree,
        backgrounds=background,
        near_plane=NEAR_PLANE,
        eps2d=MIP_VARIANCE if filter_2d == "mip" else CLASSIC_VARIANCE,
        rasterize_mode="antialiased" if filter_2d == "mip" else "classic",
        absgrad=absgrad,
    )
    return Render(result.color, result.alpha, result.means2d, result.absgrad, result.radii)


@torch.no_grad()
def render_image(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "3"],
    *,
    sh_degree: int | None = None,
    filter_2d: Filter = "mip",
) -> Float[Tensor, "C H W 3"]:
    """Pictures in [0, 1] without gradients; all harmonics unless told otherwise."""
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    return render(
        gaussians, cameras, background, sh_degree=degree, filter_2d=filter_2d
    ).color.clamp(0, 1)
