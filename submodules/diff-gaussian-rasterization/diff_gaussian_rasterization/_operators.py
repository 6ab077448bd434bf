"""The rasterizer's operators as autograd and the compiler see them; the mathematics is compiled."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)

EXACT = -1  # as `capacity` of the blend: count the pairs first


class DepthMode(IntEnum):
    """What the blend accumulates beside the colour."""

    NONE = 0
    LINEAR = 1
    INVERSE = 2


def _project_fake(*arguments: Any) -> tuple[Tensor, ...]:
    means, _, _, _, _, sh0, _, viewmats, *_ = arguments
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


def _project_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    means, quats, scales, covariances, opacities, sh0, shN = arguments[8:15]
    geometry = arguments[-1]
    inputs = (means, quats, scales, covariances, opacities)
    gradients = [_fresh(means, x, wanted=geometry) for x in inputs]
    return (*gradients, _fresh(means, sh0), _fresh(means, shN))


def _blend_fake(*arguments: Any) -> tuple[Tensor, ...]:
    means2d, _, _, colors, _, _, _, _, set_sizes, width, height, depth_mode, *_ = arguments
    shape = (len(set_sizes), means2d.shape[0], height, width)
    new = means2d.new_empty
    num_splat_bytes = 0
    if means2d.device.type != "cpu":
        num_splat_bytes = torch.library.get_ctx().new_dynamic_size()
    num_bytes = torch.library.get_ctx().new_dynamic_size()
    return (
        new(*shape, colors.shape[2]),
        new(shape),
        new(shape if depth_mode else (0,)),
        new(num_splat_bytes, dtype=torch.uint8),
        new(num_bytes, dtype=torch.uint8),
        new(3, dtype=torch.int32),
    )


def _blend_shared_fake(*arguments: Any) -> tuple[Tensor, ...]:
    means2d, _, _, colors, _, _, _, _, set_sizes, width, height, depth_mode = arguments
    shape = (len(set_sizes), means2d.shape[0], height, width)
    new = means2d.new_empty
    return new(*shape, colors.shape[2]), new(shape), new(shape if depth_mode else (0,))


def _blend_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    means2d, conics, opacities, colors, depths = arguments[5:10]
    depth_mode, geometry, absolute = arguments[-3:]
    return (
        _fresh(means2d, means2d, wanted=geometry),
        _fresh(means2d, conics, wanted=geometry),
        _fresh(means2d, opacities, wanted=geometry),
        _fresh(means2d, colors),
        _fresh(means2d, depths, wanted=geometry and bool(depth_mode)),
        _fresh(means2d, means2d, wanted=geometry and absolute),
    )


def _fresh(maker: Tensor, like: Tensor | None, *, wanted: bool = True) -> Tensor:
    """A contiguous tensor of `like`'s shape, or an empty one where no gradient is wanted."""
    return maker.new_empty(like.shape if like is not None and wanted else (0,))


_GEOMETRY_OF_PROJECT = range(5)  # means, quats, scales, covariances, opacities
_GEOMETRY_OF_BLEND = (0, 1, 2, 4, 7)  # means2d, conics, opacities, depths, absgrad


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, conics, _, _, colors, radii = output
    ctx.mark_non_differentiable(radii)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(conics, colors, radii, *inputs[:9])
    ctx.options = inputs[9:]


def _project_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    geometry = any(needs[i] for i in _GEOMETRY_OF_PROJECT)
    conics, colors, radii, *_ = ctx.saved_tensors
    v_means2d, v_conics, v_depths, v_opacities, v_colors, _ = upstream
    gradients = ops.project_backward(
        _or_zeros(v_means2d, conics, (*radii.shape, 2)),
        _or_zeros(v_conics, conics, conics.shape),
        v_depths,
        _or_zeros(v_opacities, conics, radii.shape),
        _or_zeros(v_colors, colors, colors.shape),
        *ctx.saved_tensors,
        *ctx.options,
        geometry,
    )
    wanted = (g if need else None for g, need in zip(gradients, needs[:7], strict=True))
    return (*wanted, *[None] * 9)


def _or_zeros(gradient: Tensor | None, maker: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of something that took part in nothing is zero."""
    return maker.new_zeros(shape) if gradient is None else gradient


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, absgrad, set_sizes, width, height, depth_mode, geometry_grad, _, _ = inputs
    _, alpha, _, splats, state, counts = output
    ctx.mark_non_differentiable(splats, state, counts)
    # Else a zero would be made for every byte of the state.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(splats, state, *tensors, alpha if ctx.needs_input_grad[6] else None)
    ctx.options = (set_sizes, width, height, depth_mode)
    ctx.geometry_grad = geometry_grad
    ctx.absolute = absgrad is not None


def _no_color_gradient(ctx: Any, saved: Sequence[Tensor]) -> Tensor:
    """Zeros for a blend of which only alpha or depth is used."""
    means2d, colors = saved[2], saved[5]
    set_sizes, width, height, _ = ctx.options
    return colors.new_zeros(len(set_sizes), len(means2d), height, width, colors.shape[2])


def _blend_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    *saved, alpha = ctx.saved_tensors
    v_color, v_alpha, v_depth, *_ = upstream
    if v_color is None:
        v_color = _no_color_gradient(ctx, saved)
    geometry = ctx.geometry_grad and any(ctx.needs_input_grad[i] for i in _GEOMETRY_OF_BLEND)
    absolute = geometry and ctx.absolute
    v_depth = v_depth if ctx.options[3] != DepthMode.NONE else None
    gradients = ops.blend_backward(
        v_color, v_alpha, v_depth, *saved, *ctx.options, geometry, absolute
    )
    v_means2d, v_conics, v_opacities, v_colors, v_depths, v_absgrad = (
        g if g.numel() else None for g in gradients
    )
    v_backgrounds = None if alpha is None else (v_color * (1 - alpha)[..., None]).sum((0, 2, 3))
    return (
        v_means2d,
        v_conics,
        v_opacities,
        v_colors,
        v_depths,
        None,
        v_backgrounds,
        v_absgrad,
        *[None] * 7,
    )


def _register(name: str, fake: Any, backward: Any = None, setup: Any = None) -> None:
    torch.library.register_fake(f"{_library.NAME}::{name}", fake)
    if backward is not None:
        torch.library.register_autograd(f"{_library.NAME}::{name}", backward, setup_context=setup)


_register("project", _project_fake, _project_backward, _project_setup)
_register("project_backward", _project_backward_fake)
_register("blend", _blend_fake, _blend_backward, _blend_setup)
_register("blend_shared", _blend_shared_fake)
_register("blend_backward", _blend_backward_fake)
