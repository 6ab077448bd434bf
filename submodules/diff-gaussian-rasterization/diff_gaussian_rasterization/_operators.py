"""The rasterizer's operators as the compiler sees them; all else is compiled."""

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


for _name, _fake in (
    ("project", _project_fake),
    ("project_backward", _project_backward_fake),
    ("blend", _blend_fake),
    ("blend_shared", _blend_shared_fake),
    ("blend_backward", _blend_backward_fake),
):
    torch.library.register_fake(f"{_library.NAME}::{_name}", _fake)
