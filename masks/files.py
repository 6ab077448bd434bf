"""Masks that the user brings; reading them belongs to the capture, combining them to this file."""

from jaxtyping import Bool, Float
from torch import Tensor


def combine(
    weight: Float[Tensor, "C H W"], keep: Bool[Tensor, "C H W"] | None
) -> Float[Tensor, "C H W"]:
    """Trust that both the masker and the user's masks give; None where the user brought none."""
    return weight if keep is None else weight * keep
