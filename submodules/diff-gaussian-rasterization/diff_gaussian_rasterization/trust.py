"""The learnt trust in every pixel of photos; for GPUs, and knows nothing of residuals' origin."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def trust_loss(
    logits: Tensor, residual: Tensor, *, low: Tensor, span: Tensor, sharpness: float
) -> tuple[Tensor, Tensor]:
    """How far the trust in pixels is from what their residuals say, and the trust itself.

    The value, a scalar, is the mean of |trust - wanted| over all pixels, with trust = sigmoid(
    sharpness logits) and wanted = 1 - clamp((residual - low) / span, 0, 1). It has a gradient by
    `logits`, once; the trust [C, H, W] has none.

    Args:
        logits: float32 [C, H, W].
        residual: float32 [C, H, W].
        low: float32 [C].
        span: float32 [C].
    """
    value, trust, _ = ops.trust_loss(logits, residual, low, span, sharpness)
    return value, trust


@dataclass(frozen=True)
class TrustBank:
    """The logits of V photos and Adam's state for them, all contiguous.

    Attributes:
        logits: float32 [V, H, W].
        exp_avg: float32 [V, H, W], running mean of the gradient.
        exp_avg_sq: float32 [V, H, W], running mean of its square.
        num_updates: int64 [V], of each photo.
    """

    logits: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    num_updates: Tensor


@torch.no_grad()
def trust_step_(
    bank: TrustBank,
    rows: Tensor,
    gradient: Tensor,
    rates: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    most: float,
    frozen: Tensor | None = None,
) -> None:
    """One step of Adam on the logits of some photos, in place, each with its own count of updates.

    Args:
        rows: int64 [C]; a photo that is there twice is updated once, from the sum.
        gradient: float32 [C, H, W].
        rates: float32 [U, 2], the columns of `adam_rates` for update 1, 2 and so on; the last row
            holds for all later ones.
        most: logits are kept within [-most, most].
        frozen: int32 [1]; nothing changes where it is not 0.
    """
    state = (bank.logits, bank.exp_avg, bank.exp_avg_sq, bank.num_updates)
    ops.trust_step_(*state, rows, gradient, rates, beta1, beta2, eps, most, frozen)


@torch.library.register_fake(f"{_library.NAME}::trust_loss")
def _trust_loss_fake(
    logits: Tensor, _residual: Tensor, _low: Tensor, _span: Tensor, _sharpness: float
) -> tuple[Tensor, Tensor, Tensor]:
    return logits.new_empty(()), torch.empty_like(logits), torch.empty_like(logits)


@torch.library.register_fake(f"{_library.NAME}::trust_step_")
def _trust_step_fake(
    _logits: Tensor,
    _exp_avg: Tensor,
    _exp_avg_sq: Tensor,
    _num_updates: Tensor,
    _rows: Tensor,
    _gradient: Tensor,
    _rates: Tensor,
    _beta1: float,
    _beta2: float,
    _eps: float,
    _most: float,
    _frozen: Tensor | None,
) -> None:
    return None
