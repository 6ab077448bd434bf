"""From what is optimized (logarithms, logits) to what is rendered; knows no camera."""

from typing import NamedTuple

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


class Activated(NamedTuple):
    """Scales [M, 3] in world units and opacities [M] in (0, 1)."""

    scales: Tensor
    opacities: Tensor


def activate(
    log_scales: Tensor, opacity_logits: Tensor, filter_3d: Tensor | None = None
) -> Activated:
    """Exp and sigmoid, then the 3D smoothing filter of Mip-Splatting, in one pass each way.

    A filter of standard deviation f widens a scale s to sqrt(s^2 + f^2) and lowers the opacity so
    that the Gaussian keeps its integral (arXiv 2311.16493, equation 9).

    Args:
        log_scales: float32 [M, 3], ln of world units.
        opacity_logits: float32 [M].
        filter_3d: float32 [M], standard deviation in world units; a constant, it gets no gradient.
    """
    return Activated(*ops.activate(log_scales, opacity_logits, filter_3d))


@torch.library.register_fake(f"{_library.NAME}::activate")
def _activate_fake(
    log_scales: Tensor, opacity_logits: Tensor, _filter_3d: Tensor | None
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(log_scales, memory_format=torch.contiguous_format),
        torch.empty_like(opacity_logits, memory_format=torch.contiguous_format),
    )


@torch.library.register_fake(f"{_library.NAME}::activate_backward")
def _activate_backward_fake(
    log_scales: Tensor,
    opacity_logits: Tensor,
    filter_3d: Tensor | None,
    _v_scales: Tensor,
    _v_opacities: Tensor,
) -> tuple[Tensor, Tensor]:
    return _activate_fake(log_scales, opacity_logits, filter_3d)
