"""What a training step notes down without asking the host: growth statistics, and its own health.

A step that is captured into a CUDA graph cannot stop. It sets `frozen` instead, once its picture
was incomplete or a number was not finite, and every operator that updates state looks there first.
"""

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def observe_(
    grad_sum: Tensor,
    absgrad_sum: Tensor | None,
    count: Tensor,
    v_means2d: Tensor,
    v_absgrad: Tensor | None,
    radii: Tensor,
    width: int,
    height: int,
    frozen: Tensor | None = None,
) -> None:
    """Add one view to the growth statistics of the Gaussians that it sees, in place.

    Where `radii` is positive, `count` grows by 1 and `grad_sum` by the length of the screen
    gradient in units of half the image: |v_means2d (width / 2, height / 2)|.

    Args:
        grad_sum: float32 [M].
        absgrad_sum: float32 [M], the same of `v_absgrad`; both or neither are given.
        count: float32 [M].
        v_means2d: float32 [M, 2], per pixel.
        v_absgrad: float32 [M, 2], per pixel.
        radii: int32 [M].
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        frozen: int32 [1]; nothing changes where it is not 0.
    """
    ops.observe_(grad_sum, absgrad_sum, count, v_means2d, v_absgrad, radii, width, height, frozen)


def watch_(guard: Tensor, counts: Tensor, capacity: int, frozen: Tensor) -> None:
    """Note how a render went, and freeze the run where it went wrong, in place.

    Args:
        guard: int32 [4]: the most pairs that any render had, the first bad row that any render
            met or -1, and the steps that went well or had a bad loss (see `count_step_`).
        counts: int32 [3], from the render: visible splats, (splat, tile) pairs, the first row with
            a number that is not finite or -1.
        capacity: how many pairs the render had room for.
        frozen: int32 [1]; becomes 1 when there were more pairs than room, or a bad row.
    """
    ops.watch_(guard, counts, capacity, frozen)


def count_step_(guard: Tensor, frozen: Tensor, loss: Tensor) -> None:
    """Add 1 to `guard[2]`; where the loss is not finite, to `guard[3]`, and freeze the run.

    Nothing happens where it is frozen already.

    Args:
        guard: int32 [4], as in `watch_`.
        frozen: int32 [1].
        loss: float32, a scalar.
    """
    ops.count_step_(guard, frozen, loss.detach())


@torch.library.register_fake(f"{_library.NAME}::observe_")
def _observe_fake(
    _grad_sum: Tensor,
    _absgrad_sum: Tensor | None,
    _count: Tensor,
    _v_means2d: Tensor,
    _v_absgrad: Tensor | None,
    _radii: Tensor,
    _width: int,
    _height: int,
    _frozen: Tensor | None,
) -> None:
    return None


@torch.library.register_fake(f"{_library.NAME}::watch_")
def _watch_fake(_guard: Tensor, _counts: Tensor, _capacity: int, _frozen: Tensor) -> None:
    return None


@torch.library.register_fake(f"{_library.NAME}::count_step_")
def _count_step_fake(_guard: Tensor, _frozen: Tensor, _loss: Tensor) -> None:
    return None
