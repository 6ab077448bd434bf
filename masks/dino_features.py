"""DINOv2 as a feature extractor beside `PatchFilterBank`, with its features of photos kept.

The paper of the method looks at the patch embedding only, one linear map; the tokens after all
blocks know what a patch shows and are the better choice where there is time for them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float, Float16, Float32, Int, UInt8
from torch import Tensor

from masks.dino import PATCH, RELEASE, DinoV2, whole_patches
from masks.features import (
    PHOTO_MEAN,
    PHOTO_STD,
    FeatureExtractor,
    PatchFilterBank,
    Photos,
    as_fractions,
    residual_of_vectors,
)
from masks.weights import fill, find_weights, read_weights, require_weights, weight_folders

DinoKind = Literal["embedding", "tokens"]
FeatureKind = Literal["filters", "embedding", "tokens"]

LONGEST_SIDE = 504  # pixels, 36 tokens; larger images cost with the square of their tokens
MOST_KEPT = 2 << 30  # bytes of photos' features: 3,000 photos


class DinoFeatures:
    """Features of patches of 14 pixels: of the patch embedding, or of the last block's tokens."""

    def __init__(self, network: DinoV2, kind: DinoKind) -> None:
        self._network = network
        self._kind = kind
        self._known: dict[tuple[int, ...], KnownPhotos] = {}
        self.device = network.pos_embed.device
        # Constants made in a step would make a GPU wait.
        self._mean, self._std = (
            torch.tensor(v, device=self.device) for v in (PHOTO_MEAN, PHOTO_STD)
        )

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

    @torch.no_grad()
    def remember(self, photos: UInt8[Tensor, "V H W 3"]) -> None:
        """Look at each photo once: on a GPU now, on a CPU when it is first compared.

        Where their features would take more than `MOST_KEPT` with those kept before, none of these
        is kept, and each is looked at anew whenever it is compared.
        """
        known = KnownPhotos(photos, self)
        kept = sum(other.num_bytes for other in self._known.values())
        if kept + known.num_bytes > MOST_KEPT:
            return
        self._known[tuple(photos.shape[1:3])] = known
        if self.device.type == "cuda":  # which cannot be asked later what was drawn
            known.look_at(range(len(photos)))

    @torch.no_grad()
    def residual(
        self,
        colors: Sequence[Float[Tensor, "C H W 3"]],
        photos: Photos,
        rows: Int[Tensor, " C"] | None = None,
    ) -> Float[Tensor, "B h w"]:
        """What `residual_of_vectors` says, with what is remembered of the photos at `rows`."""
        known = self._known.get(tuple(photos.shape[1:3]))
        if known is None or rows is None:
            return residual_of_vectors(colors, photos, self)
        if not rows.is_cuda:
            known.look_at(rows.tolist())
        of_photos = F.normalize(known.features[rows].float(), dim=-1)
        of_colors = F.normalize(self(torch.cat(list(colors))), dim=-1)
        of_colors = of_colors.unflatten(0, (-1, len(photos)))
        return (1.0 - (of_colors * of_photos).sum(dim=-1)).clamp(0.0, 2.0).flatten(0, 1)


class KnownPhotos:
    """All photos of one size and, in half precision, the features of those looked at."""

    def __init__(self, photos: UInt8[Tensor, "V H W 3"], extractor: DinoFeatures) -> None:
        self._photos, self._extractor = photos, extractor
        first = self._of(0)
        self.features: Float16[Tensor, "V h w F"] = first.new_empty(len(photos), *first.shape)
        self.features[0] = first
        self._seen = {0}

    @property
    def num_bytes(self) -> int:
        """What the features take."""
        return self.features.nbytes

    def look_at(self, rows: Iterable[int]) -> None:
        """Those photos, unless they are known."""
        for row in rows:
            if row not in self._seen:
                self.features[row] = self._of(row)
                self._seen.add(row)

    def _of(self, row: int) -> Float16[Tensor, "h w F"]:
        photo = self._photos[row, None].to(self._extractor.device)
        return self._extractor(as_fractions(photo))[0].half()


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
