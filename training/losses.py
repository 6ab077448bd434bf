"""The named terms of a step's loss, from pictures and trust weights; knows no Gaussians."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import torch
from diff_gaussian_rasterization import mean_difference, photometric_losses
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """One scalar of the loss: `color/a`, `agreement`, `mask/b` and so on.

    Attributes:
        weight: what the loss multiplies it with, the number of its views included.
        value: mean over views and pixels.
    """

    name: str
    weight: float
    value: Float[Tensor, ""]


@dataclass(frozen=True)
class Lesson:
    """What a branch shows of some photos, and which of their pixels it may learn from.

    Attributes:
        weight: scales gradients and nothing else: the value, and the SSIM windows beside a
            distractor, see the whole picture (arXiv 2506.03538, X = M R + (1 - M) sg(R)).
    """

    branch: str
    color: Float[Tensor, "C H W 3"]
    images: UInt8[Tensor, "C H W 3"]
    weight: Float[Tensor, "C H W"]


def color_terms(lessons: list[Lesson], lambda_dssim: float, *, composite: bool) -> list[LossTerm]:
    """Colour and structure error of each lesson, learnt from trusted pixels only.

    Lessons of the same photos are compared with them in one call.

    Args:
        composite: compare distrusted pixels with the render itself, so that neither the value nor
            a window beside them sees the distractor.
    """
    terms = []
    for images in {id(lesson.images): lesson.images for lesson in lessons}.values():
        alike = [lesson for lesson in lessons if lesson.images is images]
        values = photometric_losses(
            [lesson.color for lesson in alike],
            images,
            lambda_dssim=lambda_dssim,
            gradient_weights=[lesson.weight for lesson in alike],
            composite=composite,
        )
        terms += [
            LossTerm(f"color/{lesson.branch}", float(len(lesson.color)), value)
            for lesson, value in zip(alike, values, strict=True)
        ]
    return terms


def agreement_term(pictures: list[Float[Tensor, "C H W 3"]], weight: float) -> LossTerm:
    """Mean absolute difference of every two branches, summed over the views; unmasked.

    Args:
        pictures: of each branch, all of the same views.
    """
    gaps = [mean_difference(mine, theirs) for mine, theirs in combinations(pictures, 2)]
    value = gaps[0] if len(gaps) == 1 else torch.stack(gaps).sum()
    return LossTerm("agreement", weight * len(pictures[0]), value)


def only_where_distrusted(
    color: Float[Tensor, "C H W 3"], weight: Float[Tensor, "C H W"]
) -> Float[Tensor, "C H W 3"]:
    """The same picture, whose gradient is scaled by how little its photo is trusted."""
    return torch.lerp(color.detach(), color, 1 - weight[..., None])


class NonFiniteError(Exception):
    """A step met a number that is none."""


def weighted_sum(terms: list[LossTerm]) -> Float[Tensor, ""]:
    """What is minimized.

    Raises:
        NonFiniteError: on the CPU, where looking costs nothing: before a bad number spreads to all
            that is learnt.
    """
    values = torch.stack([term.value for term in terms])
    loss = (values * _constants(tuple(term.weight for term in terms), values.device)).sum()
    if loss.device.type == "cpu" and not math.isfinite(float(loss.detach())):
        bad = [term.name for term in terms if not math.isfinite(float(term.value.detach()))]
        raise NonFiniteError(f"the loss is not finite ({', '.join(bad) or 'its sum'})")
    return loss


@cache
def _constants(values: tuple[float, ...], device: torch.device) -> Float[Tensor, " T"]:
    """Made once: the host waits for a GPU when it sends a number of its own."""
    return torch.tensor(values, device=device)
