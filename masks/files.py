"""Masks that the user brings; reading them belongs to the capture, combining them to this file."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def combine(
    weight: Float[Tensor, "C H W"], user_masks: Sequence[Float[Tensor, "H W"] | None]
) -> Float[Tensor, "C H W"]:
    """Trust that both the masker and the user's masks give; None keeps the whole photo."""
    if len(user_masks) != len(weight):
        raise ValueError(f"{len(weight)} weights need as many masks, got {len(user_masks)}")
    if all(mask is None for mask in user_masks):
        return weight
    return torch.stack(
        [
            own if mask is None else own * mask.to(own)
            for own, mask in zip(weight, user_masks, strict=True)
        ]
    )
