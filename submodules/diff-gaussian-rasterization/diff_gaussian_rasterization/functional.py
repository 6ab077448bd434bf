"""The rasterizer in gsplat's terms; knows tensors, no scene, file or optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)

RasterizeMode = Literal["classic", "antialiased"]
Depth = Literal["none", "accumulated", "expected"]


class DepthMode(IntEnum):
    """What the blend accumulates beside the colour."""

    NONE = 0
    LINEAR = 1
    INVERSE = 2


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
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor | None
    means2d: Tensor
    absgrad: Tensor | None
    radii: Tensor


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

    Raises:
        ValueError: an option is unknown or an argument is not finite.
        RuntimeError: an argument has the wrong dtype, device or shape.
    """
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode must be 'classic' or 'antialiased', got {rasterize_mode!r}")
    if depth not in ("none", "accumulated", "expected"):
        raise ValueError(f"depth must be 'none', 'accumulated' or 'expected', got {depth!r}")
    sh0, shN, features = _split_colors(colors, sh_degree)
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
    probe = torch.zeros_like(projection.means2d, requires_grad=True) if absgrad and tracked else None
    shown = projection.colors if features is None else features[None]
    color, alpha, accumulated, _ = ops.blend(
        projection.means2d,
        projection.conics,
        projection.opacities,
        shown,
        projection.depths,
        projection.radii,
        _per_camera(backgrounds, len(viewmats)),
        probe,
        [len(means)] if set_sizes is None else list(set_sizes),
        width,
        height,
        DepthMode.NONE if depth == "none" else DepthMode.LINEAR,
        geometry_grad,
    )
    seen = None
    if depth == "accumulated":
        seen = accumulated
    elif depth == "expected":
        # Where nothing was hit both are zero, and so is the quotient.
        seen = accumulated / alpha.clamp_min(torch.finfo(alpha.dtype).tiny)
    if set_sizes is None:
        color, alpha, seen = color[0], alpha[0], None if seen is None else seen[0]
    return Rasterization(color, alpha, seen, projection.means2d, probe, projection.radii)


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
        quats, scales, covariances = (None if x is None else x.detach() for x in (quats, scales, covariances))
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
    colors: Tensor | tuple[Tensor, Tensor], sh_degree: int | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(sh0, shN, None) or (None, None, features)."""
    if sh_degree is None:
        if not isinstance(colors, Tensor) or colors.dim() != 2:
            got = tuple(colors.shape) if isinstance(colors, Tensor) else type(colors).__name__
            raise ValueError(f"colors must be features [M, D] when sh_degree is None, got {got}")
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


@torch.library.register_fake(f"{_library.NAME}::project")
def _(means: Tensor, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks, *_options: Any) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    C, M = viewmats.shape[0], means.shape[0]
    new = means.new_empty
    return (
        new(C, M, 2),
        new(C, M, 3),
        new(C, M),
        new(C, M),
        new(C, 0 if sh0 is None else M, 3),
        new(C, M, dtype=torch.int32),
    )


@torch.library.register_fake(f"{_library.NAME}::project_backward")
def _(
    v_means2d, v_conics, v_depths, v_opacities, v_colors, conics, colors, radii,
    means, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks, width, height,
    sh_degree, near_plane, far_plane, eps2d, antialiased, geometry_grad,
):  # type: ignore[no-untyped-def]
    def like(wanted: Tensor | None, part: bool = True) -> Tensor:
        return means.new_empty(wanted.shape if wanted is not None and part else (0,))

    g = geometry_grad
    return (like(means, g), like(quats, g), like(scales, g), like(covariances, g), like(opacities, g), like(sh0), like(shN))


@torch.library.register_fake(f"{_library.NAME}::blend")
def _(
    means2d, conics, opacities, colors, depths, radii, backgrounds, absgrad, set_sizes, width, height, depth_mode, geometry_grad
):  # type: ignore[no-untyped-def]
    shape = (len(set_sizes), means2d.shape[0], height, width)
    new = means2d.new_empty
    size = torch.library.get_ctx().new_dynamic_size()
    return new(*shape, colors.shape[2]), new(shape), new(shape if depth_mode else (0,)), new(size, dtype=torch.uint8)


@torch.library.register_fake(f"{_library.NAME}::blend_backward")
def _(
    v_color, v_alpha, v_depth, state, means2d, conics, opacities, colors, depths, radii, backgrounds,
    set_sizes, width, height, depth_mode, geometry_grad, absolute,
):  # type: ignore[no-untyped-def]
    def like(wanted: Tensor, part: bool = True) -> Tensor:
        return means2d.new_empty(wanted.shape if part else (0,))

    g = geometry_grad
    return (like(means2d, g), like(conics, g), like(opacities, g), like(colors), like(depths, g), like(means2d, g and absolute))


_PROJECT_GEOMETRY = (0, 1, 2, 3, 4)        # arguments of project whose gradient is geometry


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, conics, _, _, colors, radii = output
    ctx.mark_non_differentiable(radii)
    ctx.save_for_backward(conics, colors, radii, *inputs[:9])
    ctx.options = inputs[9:]


def _project_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    conics, colors, radii, *inputs = ctx.saved_tensors
    geometry = any(ctx.needs_input_grad[i] for i in _PROJECT_GEOMETRY)
    grads = ops.project_backward(*upstream[:5], conics, colors, radii, *inputs, *ctx.options, geometry)
    v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN = grads
    named = (v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN)
    wanted = (g if need else None for g, need in zip(named, ctx.needs_input_grad[:7], strict=True))
    return (*wanted, *[None] * 9)


torch.library.register_autograd(f"{_library.NAME}::project", _project_backward, setup_context=_project_setup)


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means2d, conics, opacities, colors, depths, radii, backgrounds, absgrad, *options, geometry_grad = inputs
    _, alpha, _, state = output
    ctx.mark_non_differentiable(state)
    keep_alpha = alpha if backgrounds is not None and ctx.needs_input_grad[6] else None
    ctx.save_for_backward(state, means2d, conics, opacities, colors, depths, radii, backgrounds, keep_alpha)
    ctx.options = options
    ctx.geometry_grad = geometry_grad
    ctx.absolute = absgrad is not None


def _blend_backward(
    ctx: Any, v_color: Tensor, v_alpha: Tensor, v_depth: Tensor, _v_state: Tensor | None
) -> tuple[Tensor | None, ...]:
    *saved, alpha = ctx.saved_tensors
    needs = ctx.needs_input_grad
    geometry = ctx.geometry_grad and any(needs[i] for i in (0, 1, 2, 4, 7))
    has_depth = ctx.options[3] != DepthMode.NONE
    grads = ops.blend_backward(
        v_color, v_alpha, v_depth if has_depth else None, *saved, *ctx.options, geometry, geometry and ctx.absolute
    )
    v_means2d, v_conics, v_opacities, v_colors, v_depths, v_absgrad = grads
    v_backgrounds = None
    if alpha is not None:
        v_backgrounds = (v_color * (1 - alpha)[..., None]).sum((0, 2, 3))
    if not geometry:
        return (None, None, None, v_colors, None, None, v_backgrounds, *[None] * 6)
    return (
        v_means2d,
        v_conics,
        v_opacities,
        v_colors,
        v_depths,
        None,
        v_backgrounds,
        v_absgrad if ctx.absolute else None,
        *[None] * 5,
    )


torch.library.register_autograd(f"{_library.NAME}::blend", _blend_backward, setup_context=_blend_setup)
