"""How far pictures are from photos, by colour and by patch; for GPUs, and knows nothing of masks.

Neither has a gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def color_residual(pictures: Sequence[Tensor], photos: Tensor) -> Tensor:
    """Mean absolute difference over the channels: [P * C, H, W], one picture after another.

    Args:
        pictures: P of float32 [C, H, W, 3].
        photos: float32 [C, H, W, 3] in [0, 1], or uint8, which is divided by 255 on reading.
    """
    return ops.color_residual([picture.detach() for picture in pictures], photos)


def patch_residual(
    pictures: Sequence[Tensor],
    photos: Tensor,
    *,
    down: Tensor,
    across: Tensor,
    axes: Tensor,
    grey: Tensor,
    floor: float,
) -> Tensor:
    """One minus the cosine between the features of patches: [P * C, h, w] in [0, 2].

    The features of a patch are its separable waves of three colour axes less `grey`, with `floor`
    as a constant last one. Patch p of the n along a side has the waves in rows p u to (p + 1) u;
    they must be 0 further than one pixel from its n-th part of the side.

    Args:
        pictures: P of float32 [C, H, W, 3].
        photos: float32 [C, H, W, 3] in [0, 1], or uint8, which is divided by 255 on reading.
        down: float32 [h * u, H].
        across: float32 [w * v, W].
        axes: float32 [3, 3], from RGB to the axes.
        grey: float32 [3, u, v].
    """
    detached = [picture.detach() for picture in pictures]
    return ops.patch_residual(detached, photos, down, across, axes, grey, floor)


@torch.library.register_fake(f"{_library.NAME}::color_residual")
def _color_residual_fake(pictures: list[Tensor], photos: Tensor) -> Tensor:
    return pictures[0].new_empty(len(pictures) * photos.shape[0], *photos.shape[1:3])


@torch.library.register_fake(f"{_library.NAME}::patch_residual")
def _patch_residual_fake(
    pictures: list[Tensor],
    photos: Tensor,
    down: Tensor,
    across: Tensor,
    _axes: Tensor,
    grey: Tensor,
    _floor: float,
) -> Tensor:
    num_down, num_across = down.shape[0] // grey.shape[1], across.shape[0] // grey.shape[2]
    return pictures[0].new_empty(len(pictures) * photos.shape[0], num_down, num_across)
