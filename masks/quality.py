"""How well a distractor mask meets the truth; knows nothing of how either was made."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class MaskQuality:
    """Agreement of a predicted distractor mask with the true one, each in [0, 1].

    Attributes:
        iou: common pixels over pixels of either; 1 where both are empty.
        recall: share of the true distractor that was found; 1 where there is none.
        precision: share of what was found that is distractor; 1 where nothing was found.
    """

    iou: float
    recall: float
    precision: float


def mask_quality(found: Bool[Tensor, "H W"], truth: Bool[Tensor, "H W"]) -> MaskQuality:
    """Quality of the pixels `found`, 1 = distractor, against `truth`, 1 = distractor.

    A masker's weight is trust: hand in `weight < 0.5`. Files of exact masks hold 255 = distractor.
    """
    common = (found & truth).sum().item()
    either = (found | truth).sum().item()
    num_found, num_true = found.sum().item(), truth.sum().item()
    return MaskQuality(
        iou=common / either if either else 1.0,
        recall=common / num_true if num_true else 1.0,
        precision=common / num_found if num_found else 1.0,
    )


@dataclass(frozen=True)
class ProposalQuality:
    """How much an ideal choice among proposed segments could take out, each in [0, 1].

    Attributes:
        recall: share of the true distractors inside segments that are mostly distractor.
        static_share: share of what is static inside any proposed segment.
    """

    recall: float
    static_share: float


def proposal_quality(labels: Int[Tensor, "L H W"], truth: Bool[Tensor, "H W"]) -> ProposalQuality:
    """Quality of layers of segments (`Candidates.labels`) against `truth`, 1 = distractor."""
    covered = torch.zeros_like(truth)
    for layer in labels.long():
        area = torch.bincount(layer.flatten())
        inside = torch.bincount(layer.flatten(), weights=truth.flatten().double())
        mostly = inside > 0.5 * area
        mostly[0] = False
        covered |= mostly[layer]
    static = ~truth
    proposed = (labels > 0).any(dim=0)
    return ProposalQuality(
        recall=((covered & truth).sum() / truth.sum().clamp_min(1)).item() if truth.any() else 1.0,
        static_share=((proposed & static).sum() / static.sum().clamp_min(1)).item(),
    )
