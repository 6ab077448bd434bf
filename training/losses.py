"""The named terms of a step's loss, from pictures and trust weights; knows no Gaussians."""

from dataclasses import dataclass
from itertools import combinations

import torch
from diff_gaussian_rasterization import photometric_loss
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """One scalar of the loss: `color/a`, `agreement`, `mask/b` and so on."""

    name: str
    weight: float
    value: Float[Tensor, ""]


def color_term(
    name: str,
    color: Float[Tensor, "1 H W 3"],
    image: Float[Tensor, "1 H W 3"],
    weight: Float[Tensor, "1 H W"],
    lambda_dssim: float,
    *,
    composite: bool,
) -> LossTerm:
    """Colour and structure error of a branch at its own view, learnt from trusted pixels only.

    The weight scales gradients and nothing else: the value, and the SSIM windows beside a
    distractor, see the whole picture (arXiv 2506.03538, X = M R + (1 - M) sg(R)).

    Args:
        composite: compare distrusted pixels with the render itself, so that neither the value nor
            a window beside them sees the distractor.
    """
    if composite:
        image = torch.lerp(color.detach(), image, weight[..., None])
    value = photometric_loss(color, image, lambda_dssim=lambda_dssim, gradient_weight=weight)
    return LossTerm(f"color/{name}", 1.0, value)


def agreement_term(pictures: list[list[Float[Tensor, "1 H W 3"]]], weight: float) -> LossTerm:
    """Mean absolute difference of every two branches, summed over the views; unmasked.

    Args:
        pictures: for each branch, its picture of each view.
    """
    gaps = [
        (mine - theirs).abs().mean()
        for first, second in combinations(pictures, 2)
        for mine, theirs in zip(first, second, strict=True)
    ]
    return LossTerm("agreement", weight, torch.stack(gaps).sum())


def only_where_distrusted(
    color: Float[Tensor, "1 H W 3"], weight: Float[Tensor, "1 H W"]
) -> Float[Tensor, "1 H W 3"]:
    """The same picture, whose gradient is scaled by how little its photo is trusted."""
    return torch.lerp(color.detach(), color, 1 - weight[..., None])


def weighted_sum(terms: list[LossTerm]) -> Float[Tensor, ""]:
    """What is minimized."""
    return torch.stack([term.weight * term.value for term in terms]).sum()
