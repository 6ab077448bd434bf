"""L1 and SSIM with their gradient in one pass; knows no camera, and not where masks come from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def photometric_loss(
    color: Tensor,
    target: Tensor,
    *,
    lambda_dssim: float = 0.2,
    gradient_weight: Tensor | None = None,
    value_weight: Tensor | None = None,
    composite: bool = False,
) -> Tensor:
    """(1 - l) mean |color - target| + l (1 - mean SSIM) over all pixels, a scalar.

    SSIM has a Gaussian window of 11x11 taps and sigma 1.5 with zeros outside the image. Only
    `color` gets a gradient, and that once: the op has no second derivative.

    Args:
        color: float32 [C, H, W, 3].
        target: float32 [C, H, W, 3] in [0, 1], or uint8, which is divided by 255 on reading.
        gradient_weight: float32 [C, H, W]; multiplies the gradient of each pixel and changes no
            value: 0 keeps a pixel from learning, also through the SSIM windows that it lies in.
        value_weight: float32 [C, H, W]; multiplies both error maps before the mean over all
            pixels. A pixel of weight 0 still learns from the windows of its neighbours.
        composite: compare with color + gradient_weight (target - color), where this color is a
            constant, in place of the target: neither the value nor a window beside a pixel of
            weight 0 sees its target. Without a `gradient_weight` it changes nothing.
    """
    (value,) = photometric_losses(
        [color],
        target,
        lambda_dssim=lambda_dssim,
        gradient_weights=None if gradient_weight is None else [gradient_weight],
        value_weights=None if value_weight is None else [value_weight],
        composite=composite,
    )
    return value


def photometric_losses(
    colors: Sequence[Tensor],
    target: Tensor,
    *,
    lambda_dssim: float = 0.2,
    gradient_weights: Sequence[Tensor] | None = None,
    value_weights: Sequence[Tensor] | None = None,
    composite: bool = False,
) -> list[Tensor]:
    """`photometric_loss` of each of several pictures of the same photos, which a GPU does at once.

    Args:
        colors: as many as wanted, each as there.
        gradient_weights: None, or one for each.
        value_weights: None, or one for each.
    """
    wants_gradient = torch.is_grad_enabled() and any(color.requires_grad for color in colors)
    weights = [list(gradient_weights or []), list(value_weights or [])]
    values, _ = ops.photometric(
        list(colors), target, *weights, lambda_dssim, composite, wants_gradient
    )
    return [values.reshape(())] if len(colors) == 1 else list(values.unbind())


def ssim_map(color: Tensor, target: Tensor) -> Tensor:
    """SSIM of each pixel, mean over the channels: [C, H, W]; has no gradient.

    Args:
        color: float32 [C, H, W, 3].
        target: float32 [C, H, W, 3] in [0, 1], or uint8, which is divided by 255 on reading.
    """
    return ops.ssim_map(color.detach(), target)


def mean_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean of |a - b|, a scalar; with a gradient by either, once.

    Args:
        a: float32 of any size.
        b: float32 of the same size.
    """
    return ops.mean_difference(a, b)


@torch.library.register_fake(f"{_library.NAME}::mean_difference")
def _mean_difference_fake(a: Tensor, _b: Tensor) -> Tensor:
    return a.new_empty(())


@torch.library.register_fake(f"{_library.NAME}::mean_difference_backward")
def _mean_difference_backward_fake(
    _v_value: Tensor, a: Tensor, b: Tensor, wants_b: bool
) -> tuple[Tensor, Tensor]:
    v_a = a.new_empty(a.shape)
    return v_a, b.new_empty(b.shape if wants_b else (0,))


@torch.library.register_fake(f"{_library.NAME}::photometric")
def _photometric_fake(
    colors: list[Tensor],
    _target: Tensor,
    _gradient_weights: list[Tensor],
    _value_weights: list[Tensor],
    _lambda_dssim: float,
    _composite: bool,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    count = len(colors)
    size = (count, *colors[0].shape) if wants_gradient else (0,)
    return colors[0].new_empty(count), colors[0].new_empty(size)


@torch.library.register_fake(f"{_library.NAME}::ssim_map")
def _ssim_map_fake(color: Tensor, _target: Tensor) -> Tensor:
    return color.new_empty(color.shape[:3])
