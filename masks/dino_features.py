"""DINOv2 as a feature extractor beside `PatchFilterBank`, and its features of photos kept.

The paper of the method looks at the patch embedding only, one linear map; the tokens after all
blocks know what a patch shows and are the better choice where there is time for them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from masks.dino import PATCH, RELEASE, DinoV2, whole_patches
from masks.features import PHOTO_MEAN, PHOTO_STD, FeatureExtractor, PatchFilterBank
from masks.weights import fill, find_weights, read_weights, require_weights, weight_folders

DinoKind = Literal["embedding", "tokens"]
FeatureKind = Literal["filters", "embedding", "tokens"]

LONGEST_SIDE = 504  # pixels, 36 tokens; larger images cost with the square of their tokens


class DinoFeatures:
    """Features of patches of 14 pixels: of the patch embedding, or of the last block's tokens."""

    def __init__(self, network: DinoV2, kind: DinoKind) -> None:
        self._network = network
        self._kind = kind
        device = network.pos_embed.device  # constants made in a step would make a GPU wait
        self._mean, self._std = (torch.tensor(v, device=device) for v in (PHOTO_MEAN, PHOTO_STD))

    @torch.no_grad()
    def __call__(self, image: Float32[Tensor, "C H W 3"]) -> Float32[Tensor, "C h w F"]:
        """Features of sRGB images in [0, 1], stretched to whole patches."""
        planes = ((image - self._mean) / self._std).permute(0, 3, 1, 2)
        height, width = image.shape[1:3]
        if self._kind == "embedding":  # as the paper's release has it
            size = (whole_patches(height), whole_patches(width))
            patches = self._network.patch_embed(F.interpolate(planes, size, mode="nearest"))
            return patches.permute(0, 2, 3, 1).contiguous()
        planes = F.interpolate(
            planes,
            token_size(height, width),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        return self._network(planes)


def token_size(height: int, width: int) -> tuple[int, int]:
    """Sides in pixels of what the network sees: whole patches, no side above `LONGEST_SIDE`."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    rows, columns = (max(1, round(side * scale / PATCH)) for side in (height, width))
    return rows * PATCH, columns * PATCH


def load_dino(checkpoint: Path | None, kind: DinoKind, device: torch.device) -> DinoFeatures:
    """The extractor with the official weights, given or found where `masks.weights` looks.

    Raises:
        UserError: the weights are missing, damaged or of another model.
    """
    network = DinoV2()
    fill(network, read_weights(require_weights(RELEASE, checkpoint), RELEASE), RELEASE)
    return DinoFeatures(network.to(device), kind)


def make_extractor(
    kind: FeatureKind, checkpoint: Path | None, device: torch.device
) -> FeatureExtractor:
    """The extractor by name; filters need no weights.

    Raises:
        UserError: the weights that DINOv2 needs are missing, damaged or of another model.
    """
    return PatchFilterBank() if kind == "filters" else load_dino(checkpoint, kind, device)


def dino_hint() -> str:
    """Which features residuals are measured in, for the report of a run."""
    path = find_weights(RELEASE, None)
    state = f"no {RELEASE.name} in {weight_folders()[0]}" if path is None else f"{path} is there"
    return f"features by patch filters: the zero-download default ({state})"


class PhotoFeatures:
    """The features of each photo, made when first asked for and kept in half precision."""

    def __init__(
        self,
        extractor: Callable[[Float32[Tensor, "C H W 3"]], Float32[Tensor, "C h w F"]],
        image_of: Callable[[int], Float32[Tensor, "H W 3"]],
    ) -> None:
        """Prepare; no photo is read yet.

        Args:
            image_of: a photo, sRGB in [0, 1], by the id of its view.
        """
        self._extractor = extractor
        self._image_of = image_of
        self._kept: dict[int, Float16[Tensor, "h w F"]] = {}

    def __call__(self, view_id: int) -> Float32[Tensor, "h w F"]:
        """Features of one photo."""
        if view_id not in self._kept:
            self._kept[view_id] = self._extractor(self._image_of(view_id)[None])[0].half()
        return self._kept[view_id].float()


def residual_from(
    of_color: Float[Tensor, "C h w F"], of_image: Float[Tensor, "C h w F"], size: tuple[int, int]
) -> Float[Tensor, "C H W"]:
    """One minus the cosine between features, per pixel of an image of `size`, in [0, 2]."""
    cosine = (F.normalize(of_color, dim=-1) * F.normalize(of_image, dim=-1)).sum(dim=-1)
    residual = (1.0 - cosine).clamp(0.0, 2.0)[:, None]
    return F.interpolate(residual, list(size), mode="bilinear", align_corners=False)[:, 0]
