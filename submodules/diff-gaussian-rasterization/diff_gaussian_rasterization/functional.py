"""The rasterizer in gsplat's terms; knows tensors, no scene, file or optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diff_gaussian_rasterization._operators import EXACT, DepthMode, ops

MIN_COVERAGE = 1e-10  # alpha below which a pixel counts as empty

RasterizeMode = Literal["classic", "antialiased"]
Depth = Literal["none", "accumulated", "expected"]


@dataclass(frozen=True)
class TileLists:
    """The order of depth and the splats of each tile of one call, for another call.

    Attributes:
        state: bytes that the operators understand; none if nothing in that call got a gradient.
        num_gaussians: of that call.
    """

    state: Tensor
    num_gaussians: int


@dataclass(frozen=True)
class Rasterization:
    """What one call rendered; C cameras, M Gaussians, D channels.

    Attributes:
        color: [C, H, W, D], background included; [S, C, H, W, D] with `set_sizes`.
        alpha: [C, H, W], 1 - transmittance; [S, C, H, W] with `set_sizes`.
        depth: like `alpha`, along the camera's z axis in world units, or None.
        means2d: [C, M, 2] projected centres in pixels; `.grad` holds the screen gradient after
            a backward, unless geometry gradients are off.
        absgrad: [C, M, 2] zeros whose `.grad` receives the sums of absolute screen gradients
            per pixel, or None.
        radii: [C, M] int32, three standard deviations in pixels; 0 where nothing can be seen.
        counts: [3] int32 on the device: splats in view, (splat, tile) pairs, and the first row that
            is not finite or -1. More pairs than `pair_capacity` mean incomplete pictures, whose
            gradients are 0. All -1 where `tile_lists` were given.
        tile_lists: for another call that may draw in the same order.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor | None
    means2d: Tensor
    absgrad: Tensor | None
    radii: Tensor
    counts: Tensor
    tile_lists: TileLists


@dataclass(frozen=True)
class Projection:
    """Gaussians as the cameras see them: the input of the blend."""

    means2d: Tensor
    conics: Tensor
    depths: Tensor
    opacities: Tensor
    colors: Tensor
    radii: Tensor


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | tuple[Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    set_sizes: Sequence[int] | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    rasterize_mode: RasterizeMode = "classic",
    depth: Depth = "none",
    absgrad: bool = False,
    geometry_grad: bool = True,
    pair_capacity: int | None = None,
    tile_lists: TileLists | None = None,
) -> Rasterization:
    """Render Gaussians into cameras, differentiably.

    Args:
        means: [M, 3] centres in world units.
        quats: [M, 4] wxyz of any norm.
        scales: [M, 3] standard deviations in world units.
        opacities: [M] in [0, 1].
        colors: features [M, D]; with `sh_degree` coefficients [M, K, 3] or the pair
            (sh0 [M, 1, 3], shN [M, K-1, 3]), which saves a copy each way.
        viewmats: [C, 4, 4] world to camera; no gradient flows to it.
        Ks: [C, 3, 3] in pixels, no skew; the centre of the first pixel is (0.5, 0.5).
        backgrounds: [D] or [C, D]; zero when None.
        set_sizes: lengths of several Gaussian sets that lie one after another in `means` and the
            rest; each is rendered alone by every camera.
        eps2d: variance in pixels that is added to every projected Gaussian.
        rasterize_mode: "antialiased" scales opacities so that `eps2d` adds no energy.
        depth: "accumulated" is the blend of depths, "expected" is that divided by alpha.
        absgrad: also collect absolute screen gradients.
        geometry_grad: False lets gradients reach `colors` only, for a cheap backward.
        pair_capacity: None makes lists of the size that they need, for which a GPU is waited for
            once. A number of (splat, tile) pairs makes room for so many and waits for nothing, as
            a CUDA graph must; `counts` then says whether they were enough and all rows finite.
        tile_lists: those of another call with as many sets, Gaussians, cameras, pixels and
            channels, whose order and tiles are taken instead of making them anew: an approximation
            for a model that hardly differs, such as a running average. Only without gradients.

    Raises:
        ValueError: an option is unknown or an argument is not finite (on a GPU only without
            `pair_capacity`).
        RuntimeError: an argument has the wrong dtype, device or shape.
    """
    _check_options(rasterize_mode, depth, pair_capacity)
    sh0, shN, features = _split_colors(colors, sh_degree, check=pair_capacity is None)
    projection = project(
        means,
        quats,
        scales,
        None,
        opacities,
        sh0,
        shN,
        viewmats,
        Ks,
        width,
        height,
        sh_degree=sh_degree or 0,
        near_plane=near_plane,
        far_plane=far_plane,
        eps2d=eps2d,
        antialiased=rasterize_mode == "antialiased",
        geometry_grad=geometry_grad,
    )
    tracked = geometry_grad and projection.means2d.requires_grad
    if tracked:
        projection.means2d.retain_grad()
    probe = (
        torch.zeros_like(projection.means2d, requires_grad=True) if absgrad and tracked else None
    )
    shown = projection.colors if features is None else features[None]
    splats = (
        projection.means2d,
        projection.conics,
        projection.opacities,
        shown,
        projection.depths,
        projection.radii,
        _per_camera(backgrounds, len(viewmats)),
    )
    sizes = [len(means)] if set_sizes is None else list(set_sizes)
    mode = DepthMode.NONE if depth == "none" else DepthMode.LINEAR
    learns = torch.is_grad_enabled() and (shown.requires_grad or projection.means2d.requires_grad)
    if tile_lists is None:
        capacity = EXACT if pair_capacity is None else pair_capacity
        color, alpha, accumulated, _, lists, counts = ops.blend(
            *splats, probe, sizes, width, height, mode, geometry_grad, learns, capacity
        )
    else:
        lists = _shared_lists(tile_lists, len(means), learns)
        color, alpha, accumulated = ops.blend_shared(*splats, lists, sizes, width, height, mode)
        counts = means.new_full((3,), -1, dtype=torch.int32)
    seen = _depth(depth, accumulated, alpha)
    if set_sizes is None:
        color, alpha, seen = color[0], alpha[0], None if seen is None else seen[0]
    # Without geometry gradients the centres are no leaf of anything that learns.
    means2d = projection.means2d if geometry_grad else projection.means2d.detach()
    return Rasterization(
        color, alpha, seen, means2d, probe, projection.radii, counts, TileLists(lists, len(means))
    )


def _check_options(rasterize_mode: str, depth: str, pair_capacity: int | None) -> None:
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(
            f"rasterize_mode must be 'classic' or 'antialiased', got {rasterize_mode!r}"
        )
    if depth not in ("none", "accumulated", "expected"):
        raise ValueError(f"depth must be 'none', 'accumulated' or 'expected', got {depth!r}")
    if pair_capacity is not None and pair_capacity < 0:
        raise ValueError(f"pair_capacity must be None or at least 0, got {pair_capacity}")


def _shared_lists(tile_lists: TileLists, num_gaussians: int, learns: bool) -> Tensor:
    if learns:
        raise ValueError("tile_lists of another call serve pictures without gradients only")
    if tile_lists.num_gaussians != num_gaussians:
        raise ValueError(
            f"tile_lists are of {tile_lists.num_gaussians} Gaussians, got {num_gaussians}"
        )
    return tile_lists.state


def _depth(depth: Depth, accumulated: Tensor, alpha: Tensor) -> Tensor | None:
    if depth == "none":
        return None
    if depth == "accumulated":
        return accumulated
    # Where nothing was hit both are zero, and so is the quotient; a smaller floor would turn the
    # gradient of such a pixel into infinity.
    return accumulated / alpha.clamp_min(MIN_COVERAGE)


def project(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covariances: Tensor | None,
    opacities: Tensor,
    sh0: Tensor | None,
    shN: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    antialiased: bool,
    geometry_grad: bool,
) -> Projection:
    """Gaussians to screen space; `covariances` [M, 6] may stand for `quats` and `scales`."""
    if viewmats.requires_grad or Ks.requires_grad:
        raise ValueError("viewmats and Ks get no gradient; pass them detached")
    if not geometry_grad:
        means, opacities = means.detach(), opacities.detach()
        quats, scales, covariances = (
            None if x is None else x.detach() for x in (quats, scales, covariances)
        )
    outputs = ops.project(
        means,
        quats,
        scales,
        covariances,
        opacities,
        sh0,
        shN,
        viewmats,
        Ks,
        width,
        height,
        sh_degree,
        near_plane,
        far_plane,
        eps2d,
        antialiased,
    )
    return Projection(*outputs)


def _split_colors(
    colors: Tensor | tuple[Tensor, Tensor], sh_degree: int | None, *, check: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(sh0, shN, None) or (None, None, features); `check` refuses features that are not finite."""
    if sh_degree is None:
        if not isinstance(colors, Tensor) or colors.dim() != 2:
            got = tuple(colors.shape) if isinstance(colors, Tensor) else type(colors).__name__
            raise ValueError(f"colors must be features [M, D] when sh_degree is None, got {got}")
        if check:
            is_finite = colors.detach().isfinite().all(dim=1)
            if not bool(is_finite.all()):
                row = int((~is_finite).nonzero()[0])
                raise ValueError(f"colors must be finite, got {colors[row].tolist()} in row {row}")
        return None, None, colors
    if isinstance(colors, Tensor):
        if colors.dim() != 3 or colors.shape[1] < 1:
            raise ValueError(f"colors must be [M, K, 3] with sh_degree, got {tuple(colors.shape)}")
        return colors[:, :1], colors[:, 1:], None
    sh0, shN = colors
    return sh0, shN, None


def _per_camera(backgrounds: Tensor | None, num_cameras: int) -> Tensor | None:
    if backgrounds is None or backgrounds.dim() != 1:
        return backgrounds
    return backgrounds.expand(num_cameras, -1)
