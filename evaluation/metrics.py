"""Picture and mask metrics as nerfbaselines defines them; knows no runs, files or renderers.

Pictures are compared as 8-bit sRGB, each picture alone; means over pictures are for the caller.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

WINDOW = 11  # pixels
WINDOW_SIGMA = 1.5  # pixels
LUMINANCE_FLOOR, CONTRAST_FLOOR = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with L = 1
SMALLEST_VARIANCE = float(torch.finfo(torch.float32).eps) ** 2
SMALLEST_ERROR = 1e-10  # equal pictures have 100 dB, so that a mean over pictures stays finite
DISTRACTOR_BELOW = 0.5  # of trust

Border = Literal["valid", "reflect"]


def quantise(color: Float[Tensor, "*batch H W 3"]) -> UInt8[Tensor, "*batch H W 3"]:
    """Colours in [0, 1] as 8-bit sRGB; fractions of a level are cut off, as nerfbaselines does."""
    return (color * 255).clamp(0, 255).to(torch.uint8)


def without_masked(
    image: UInt8[Tensor, "H W 3"], keep: Float[Tensor, "H W"] | None
) -> UInt8[Tensor, "H W 3"]:
    """The image with what the user's mask does not keep in black, in picture and photo alike."""
    return image if keep is None else image.masked_fill((keep < 0.5)[..., None], 0)


def psnr(picture: UInt8[Tensor, "H W 3"], photo: UInt8[Tensor, "H W 3"]) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; at most 100."""
    error = (_unit(picture) - _unit(photo)).square().mean().clamp_min(SMALLEST_ERROR)
    return float(-10 * error.log10())


def ssim(
    picture: UInt8[Tensor, "H W 3"], photo: UInt8[Tensor, "H W 3"], border: Border = "valid"
) -> float:
    """Structural similarity, mean over the channels and over pixels.

    Variances are held above eps^2 of float32 and the covariance below their geometric mean.

    Args:
        border: valid counts the pixels whose window fits, as nerfbaselines does; reflect counts
            all pixels of a picture that is mirrored beyond its sides, as torchmetrics 1.9 does.

    Raises:
        ValueError: the picture is smaller than the window.
    """
    height, width = picture.shape[:2]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW}x{WINDOW} pixels, the picture has {width}x{height}")
    a, b = _unit(picture).movedim(-1, 0), _unit(photo).movedim(-1, 0)
    if border == "reflect":
        a, b = (functional.pad(planes, [WINDOW // 2] * 4, mode="reflect") for planes in (a, b))
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = (_blur(a * a) - mean_a**2).clamp_min(SMALLEST_VARIANCE)
    variance_b = (_blur(b * b) - mean_b**2).clamp_min(SMALLEST_VARIANCE)
    covariance = _blur(a * b) - mean_a * mean_b
    bound = (variance_a * variance_b).sqrt()
    covariance = covariance.clamp(-bound, bound)
    luminance = (2 * mean_a * mean_b + LUMINANCE_FLOOR) / (mean_a**2 + mean_b**2 + LUMINANCE_FLOOR)
    structure = (2 * covariance + CONTRAST_FLOOR) / (variance_a + variance_b + CONTRAST_FLOOR)
    return float((luminance * structure).mean())


@dataclass(frozen=True)
class Overlap:
    """Pixels that are taken for distractors and those that are, of one photo or of many."""

    intersection: int
    union: int

    def __add__(self, other: "Overlap") -> "Overlap":
        """The overlap in both sets of photos together."""
        return Overlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where nothing moves and everything is trusted."""
        return self.intersection / self.union if self.union else 1.0


def mask_overlap(weight: Float[Tensor, "H W"], distractor: Bool[Tensor, "H W"]) -> Overlap:
    """Distrusted pixels (weight < 0.5) against true distractor pixels."""
    distrusted = weight < DISTRACTOR_BELOW
    return Overlap(
        int((distrusted & distractor).sum()),
        int((distrusted | distractor).sum()),
    )


def mask_iou(weight: Float[Tensor, "H W"], distractor: Bool[Tensor, "H W"]) -> float:
    """Intersection over union of distrusted (weight < 0.5) and true distractor pixels."""
    return mask_overlap(weight, distractor).iou


def _unit(picture: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    return picture.to(torch.float64) / 255


def _blur(planes: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 h w"]:
    """Gaussian window over the pixels where it fits."""
    offsets = torch.arange(WINDOW, dtype=planes.dtype, device=planes.device) - WINDOW // 2
    window = torch.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    window = window / window.sum()
    rows = functional.conv2d(planes[:, None], window.view(1, 1, 1, WINDOW))
    return functional.conv2d(rows, window.view(1, 1, WINDOW, 1))[:, 0]
