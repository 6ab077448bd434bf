"""Gaussians and cameras in, pictures out: the only caller of the rasterizer.

Knows nothing of photos, masks or losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from diff_gaussian_rasterization import TileLists, activate, rasterization
from jaxtyping import Float, Int
from torch import Tensor

from scene.cameras import Cameras
from scene.gaussians import Gaussians, joined

Filter = Literal["mip", "classic"]

MIP_VARIANCE = 0.1  # px^2, the 2D Mip filter, with opacity compensation (arXiv 2311.16493)
CLASSIC_VARIANCE = 0.3  # px^2, the dilation of 3DGS (arXiv 2308.04079)
NEAR_PLANE = 0.2  # world units


@dataclass(frozen=True)
class Render:
    """What the cameras of one call see of one set of Gaussians.

    Attributes:
        color: linear combination of the Gaussians' sRGB colours over the background, not clamped.
        alpha: how opaque the pixel is, in [0, 1].
        means2d: projected centres in pixels of all sets of the call; after backward its `grad`
            holds the screen gradients.
        absgrad: leaf whose `grad` holds the absolute screen gradients after backward; None unless
            asked for.
        radii: extent on screen in pixels; 0 = not visible.
        rows: where this set lies among those of the call.
        counts: of the whole call, on the device: visible Gaussians, (Gaussian, tile) pairs, and the
            first row that is not finite or -1; all -1 where `tile_lists` were given.
        tile_lists: of the whole call, for another that may draw in the same order.
    """

    color: Float[Tensor, "C H W 3"]
    alpha: Float[Tensor, "C H W"]
    means2d: Float[Tensor, "C M 2"]
    absgrad: Float[Tensor, "C M 2"] | None
    radii: Int[Tensor, "C M"]
    rows: slice
    counts: Int[Tensor, "3"]
    tile_lists: TileLists


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "3"],
    *,
    sh_degree: int,
    filter_2d: Filter = "mip",
    absgrad: bool = False,
    pair_capacity: int | None = None,
    tile_lists: TileLists | None = None,
) -> Render:
    """Render a set of Gaussians in each of the cameras, differentiable in every parameter.

    Args:
        sh_degree: harmonics in use; higher coefficients are left out.
        filter_2d: Mip: 0.1 px variance and opacity compensation; classic: 0.3 px dilation.
        absgrad: also collect absolute screen gradients.
        pair_capacity: room for (Gaussian, tile) pairs, so that a GPU is not waited for; with None
            there is always enough.
        tile_lists: of a render of as many Gaussians that hardly differ; they are drawn in its order
            and its tiles, without gradients.
    """
    return render_sets(
        [gaussians],
        cameras,
        background,
        sh_degree=sh_degree,
        filter_2d=filter_2d,
        absgrad=absgrad,
        pair_capacity=pair_capacity,
        tile_lists=tile_lists,
    )[0]


def render_sets(
    sets: Sequence[Gaussians],
    cameras: Cameras,
    background: Float[Tensor, "3"],
    *,
    sh_degree: int,
    filter_2d: Filter = "mip",
    absgrad: bool = False,
    pair_capacity: int | None = None,
    tile_lists: TileLists | None = None,
) -> list[Render]:
    """Render each set alone in each of the cameras, all in one call; arguments as of `render`."""
    everyone = sets[0] if len(sets) == 1 else joined(sets)
    active = activate(everyone.log_scales, everyone.opacity_logits, everyone.filter_3d)
    sizes = [len(one) for one in sets]
    result = rasterization(
        everyone.means,
        everyone.quats,
        active.scales,
        active.opacities,
        (everyone.sh0, everyone.shN),
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        sh_degree=sh_degree,
        backgrounds=background,
        set_sizes=sizes,
        near_plane=NEAR_PLANE,
        eps2d=MIP_VARIANCE if filter_2d == "mip" else CLASSIC_VARIANCE,
        rasterize_mode="antialiased" if filter_2d == "mip" else "classic",
        absgrad=absgrad,
        pair_capacity=pair_capacity,
        tile_lists=tile_lists,
    )
    ends = list(accumulate(sizes))
    pictures = zip(result.color.unbind(), result.alpha.unbind(), sizes, ends, strict=True)
    return [
        Render(
            color,
            alpha,
            result.means2d,
            result.absgrad,
            result.radii,
            slice(end - size, end),
            result.counts,
            result.tile_lists,
        )
        for color, alpha, size, end in pictures
    ]


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
