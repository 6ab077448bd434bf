"""The names and conventions of INRIA's package over our operators; knows no image or file.

What differs from the functional face: matrices come transposed (row vectors), opacities are
[N, 1], the picture is [3, H, W], screen gradients are in normalised device coordinates, and the
near plane lies at 0.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diff_gaussian_rasterization._operators import EXACT, DepthMode, ops
from diff_gaussian_rasterization.functional import project

NEAR_PLANE = 0.2
FAR_PLANE = 1e10
LOW_PASS = 0.3


class GaussianRasterizationSettings(NamedTuple):
    """One camera and how to render it.

    Scripts that give `antialiasing` were written for the package of 2024 and get three values
    from the rasterizer (colour, radii, inverse depth); those that do not, two.
    """

    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool
    antialiasing: bool | None = None


class GaussianRasterizer(nn.Module):
    """Renders Gaussians with one camera."""

    def __init__(self, raster_settings: GaussianRasterizationSettings) -> None:
        super().__init__()
        self.raster_settings = raster_settings

    def markVisible(self, positions: Tensor) -> Tensor:  # noqa: N802
        """[N] bool: centres in front of the near plane."""
        with torch.no_grad():
            view = self.raster_settings.viewmatrix
            return positions @ view[:3, 2] + view[3, 2] > NEAR_PLANE

    def forward(
        self,
        means3D: Tensor,
        means2D: Tensor | None,
        opacities: Tensor,
        shs: Tensor | None = None,
        colors_precomp: Tensor | None = None,
        scales: Tensor | None = None,
        rotations: Tensor | None = None,
        cov3D_precomp: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Colour [3, H, W], radii [N] int32 and, for scripts of 2024, inverse depth [1, H, W].

        Args:
            means3D: [N, 3] centres in the world.
            means2D: [N, 3] zeros whose `.grad` receives the screen gradient in normalised device
                coordinates; with four columns the last two receive its absolute sums.
            opacities: [N, 1].
            shs: [N, K, 3] coefficients, or `colors_precomp` [N, D].
            scales: [N, 3] with `rotations` [N, 4] wxyz, or `cov3D_precomp` [N, 6], the upper
                triangle of covariances in the world.

        Raises:
            ValueError: both or neither of two alternatives are given.
        """
        if (shs is None) == (colors_precomp is None):
            raise ValueError("give exactly one of shs and colors_precomp")
        if (scales is None) != (rotations is None) or (scales is None) == (cov3D_precomp is None):
            raise ValueError("give either scales with rotations or cov3D_precomp")
        settings = self.raster_settings
        width, height = int(settings.image_width), int(settings.image_height)
        if scales is not None and settings.scale_modifier != 1.0:
            scales = scales * settings.scale_modifier
        viewmats = settings.viewmatrix.detach().T[None]
        projection = project(
            means3D,
            rotations,
            scales,
            cov3D_precomp,
            opacities.reshape(-1),
            None if shs is None else shs[:, :1],
            None if shs is None else shs[:, 1:],
            viewmats,
            _intrinsics(settings)[None],
            width,
            height,
            sh_degree=settings.sh_degree,
            near_plane=NEAR_PLANE,
            far_plane=FAR_PLANE,
            eps2d=LOW_PASS,
            antialiased=bool(settings.antialiasing),
            geometry_grad=True,
        )
        means2d, probe = _screen_gradients(projection.means2d, means2D, width, height)
        wants_depth = settings.antialiasing is not None
        color, _, inverse_depth, *_ = ops.blend(
            means2d,
            projection.conics,
            projection.opacities,
            projection.colors if colors_precomp is None else colors_precomp[None],
            projection.depths,
            projection.radii,
            settings.bg[None],
            probe,
            [len(means3D)],
            width,
            height,
            DepthMode.INVERSE if wants_depth else DepthMode.NONE,
            True,
            torch.is_grad_enabled(),
            EXACT,
        )
        picture = color[0, 0].permute(2, 0, 1).contiguous()
        radii = projection.radii[0]
        return (picture, radii, inverse_depth[0]) if wants_depth else (picture, radii)


def _screen_gradients(
    means2d: Tensor,
    means2D: Tensor | None,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor | None]:
    """Tie `means2D` into the graph so that its `.grad` is in normalised device coordinates."""
    if means2D is None or not means2D.requires_grad:
        return means2d, None
    # A pixel is 2/width of the device's range, so moving by one unit there moves width/2 pixels.
    unit = means2d.new_tensor([0.5 * width, 0.5 * height])
    shifted = means2d + (means2D[:, :2] * unit)[None]
    absolute = means2D.shape[1] >= 4
    return shifted, (means2D[:, 2:4] * unit)[None] if absolute else None


def _intrinsics(settings: GaussianRasterizationSettings) -> Tensor:
    """[3, 3] pixels; the principal point comes from the projection matrix."""
    # projmatrix = viewmatrix @ P with row vectors; P[2, :2] shifts the centre.
    view, full = settings.viewmatrix.detach().double(), settings.projmatrix.detach().double()
    projection = torch.linalg.solve(view, full)
    shift = projection[2, :2] / projection[2, 3]
    width, height = int(settings.image_width), int(settings.image_height)
    K = torch.eye(3, dtype=torch.float64, device=view.device)
    K[0, 0], K[1, 1] = width / (2 * settings.tanfovx), height / (2 * settings.tanfovy)
    K[0, 2], K[1, 2] = (1 + shift[0]) * width / 2, (1 + shift[1]) * height / 2
    return K.float()
