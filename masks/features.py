"""What a small neighbourhood of a photo looks like, as a vector, and how much two of them differ.

Knows nothing of masks or segments; a learned extractor joins as another class with the same call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diff_gaussian_rasterization import patch_residual
from jaxtyping import Float, Int, UInt8
from torch import Tensor

# Mean and spread of photographs on the web (ImageNet, sRGB in [0, 1]): they centre the vectors, so
# that the cosine between two of them is about content and not about both being bright.
PHOTO_MEAN = (0.485, 0.456, 0.406)
PHOTO_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turns images into one vector per patch; fixed, so nothing flows back into it."""

    def __call__(self, image: Float[Tensor, "C H W 3"]) -> Float[Tensor, "C h w F"]:
        """Features of sRGB images in [0, 1]; the patch grid covers the whole image."""
        ...


Photos = Float[Tensor, "C H W 3"] | UInt8[Tensor, "C H W 3"]
"""sRGB images, in [0, 1] or of 8 bits."""


@runtime_checkable
class PatchComparer(Protocol):
    """A feature extractor that has a shorter way to the residual than its features."""

    def residual(
        self,
        colors: Sequence[Float[Tensor, "C H W 3"]],
        photos: Photos,
        rows: Int[Tensor, " C"] | None = None,
    ) -> Float[Tensor, "B h w"]:
        """What `residual_of_vectors` says of it.

        Args:
            rows: which photos of their size these are, if there is an order of them.
        """
        ...


@runtime_checkable
class PhotoMemory(Protocol):
    """A feature extractor that looks at a photo once, though it is compared again and again."""

    def remember(self, photos: UInt8[Tensor, "V H W 3"]) -> None:
        """All photos of one size; later calls tell them by their rows here."""
        ...


@dataclass(frozen=True)
class FeatureSettings:
    """The fixed patch filters that stand in for learned features."""

    patch: int = 14
    """Side of a patch in pixels."""

    frequencies: int = 4
    """Lowest cosine frequencies kept along each side of a patch."""

    contrast_floor: float = 0.5
    """Share of a patch of full contrast below which two flat grey patches count as alike."""

    def __post_init__(self) -> None:
        """Refuse a bank that has more filters than a patch has pixels."""
        if not 1 <= self.frequencies <= self.patch:
            raise ValueError(
                f"frequencies must lie in [1, patch={self.patch}], got {self.frequencies}"
            )


def cosine_rows(size: int, count: int) -> Float[Tensor, "count size"]:
    """The `count` lowest frequencies of the orthonormal DCT-II over `size` samples."""
    positions = (torch.arange(size, dtype=torch.float64) + 0.5) * math.pi / size
    rows = torch.cos(torch.arange(count, dtype=torch.float64)[:, None] * positions)
    rows *= math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows.float()


def opponent_rows() -> Float[Tensor, "3 3"]:
    """Orthonormal brightness, red-blue and green-purple axes of RGB."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    return F.normalize(rows, dim=1)


def patch_waves(side: int, patch: int, count: int) -> Float[Tensor, "rows side"]:
    """Cosine waves of every patch along one side of an image, patch by patch.

    The side is stretched linearly to whole patches first, so that the grid covers it and a flipped
    image has flipped patches.
    """
    num_patches = math.ceil(side / patch)
    stretch = F.interpolate(
        torch.eye(side)[None], size=num_patches * patch, mode="linear", align_corners=False
    )[0].T  # [num_patches * patch, side]
    waves = cosine_rows(patch, count) @ stretch.reshape(num_patches, patch, side)
    return waves.reshape(num_patches * count, side)


@dataclass(frozen=True)
class _Filters:
    """The bank for one image size on one device.

    Attributes:
        down: waves along the height, patch by patch.
        across: waves along the width.
        axes: from normalised RGB to the three colour axes.
        grey: what a picture of the mean colour gives, which only constant waves see.
        floor: the constant last feature.
    """

    down: Float[Tensor, "h_u H"]
    across: Float[Tensor, "w_v W"]
    axes: Float[Tensor, "3 3"]
    grey: Float[Tensor, "3 u v"]
    floor: Float[Tensor, ""]


class PatchFilterBank:
    """Orthonormal patch filters: low cosine frequencies of brightness and two colour axes.

    Like the patch embedding of a vision transformer it is one linear map of normalised patches; it
    needs no download. The filters are separable, so an image is two small matrix products. The
    constant last feature keeps the cosine of nearly grey, flat patches from being the cosine of
    their noise.
    """

    def __init__(self, settings: FeatureSettings | None = None) -> None:
        self.settings = settings or FeatureSettings()
        self._filters: dict[tuple[int, int, torch.device], _Filters] = {}

    def __call__(self, image: Float[Tensor, "C H W 3"]) -> Float[Tensor, "C h w F"]:
        """Features per patch of `settings.patch` pixels, stretched to cover the image."""
        filters, count = self._filters_of(image), self.settings.frequencies
        rows = torch.matmul(filters.down, image.flatten(2))  # [C, h u, W 3]
        rows = rows.reshape(len(image), len(filters.down), -1, 3)
        waves = torch.matmul(filters.across, rows) @ filters.axes  # [C, h u, w v, 3]
        num_down, num_across = len(filters.down) // count, len(filters.across) // count
        waves = waves.reshape(len(image), num_down, count, num_across, count, 3)
        waves = waves.permute(0, 1, 3, 5, 2, 4) - filters.grey  # [C, h, w, 3, u, v]
        floor = filters.floor.expand(*waves.shape[:3], 1)
        return torch.cat([waves.flatten(3), floor], dim=-1)

    def residual(
        self,
        colors: Sequence[Float[Tensor, "C H W 3"]],
        photos: Photos,
        rows: Int[Tensor, " C"] | None = None,  # noqa: ARG002 - the protocol's
    ) -> Float[Tensor, "B h w"]:
        """What `residual_of_vectors` says; on a GPU by a kernel that keeps no features."""
        if photos.device.type != "cuda":
            return residual_of_vectors(colors, photos, self)
        filters, floor = self._filters_of(colors[0]), self.settings.contrast_floor
        return patch_residual(
            colors,
            photos,
            down=filters.down,
            across=filters.across,
            axes=filters.axes,
            grey=filters.grey,
            floor=floor * self.settings.patch,
        )

    def _filters_of(self, image: Float[Tensor, "C H W 3"]) -> _Filters:
        """Made once: a constant that is made in a step makes the host wait for a GPU."""
        height, width = image.shape[1:3]
        key = (height, width, image.device)
        if key not in self._filters:
            patch, count = self.settings.patch, self.settings.frequencies
            axes = (opponent_rows() / torch.tensor(PHOTO_STD)).T
            grey = torch.zeros(3, count, count)
            grey[:, 0, 0] = patch * torch.tensor(PHOTO_MEAN) @ axes
            parts = (
                patch_waves(height, patch, count),
                patch_waves(width, patch, count),
                axes.contiguous(),
                grey,
                torch.tensor(self.settings.contrast_floor * patch),
            )
            self._filters[key] = _Filters(*(part.to(image) for part in parts))
        return self._filters[key]


def as_fractions(photos: Photos) -> Float[Tensor, "C H W 3"]:
    """Photos in [0, 1]."""
    return photos / 255 if photos.dtype == torch.uint8 else photos


def residual_of_vectors(
    colors: Sequence[Float[Tensor, "C H W 3"]], photos: Photos, features: FeatureExtractor
) -> Float[Tensor, "B h w"]:
    """One minus the cosine between the features of `colors` and `photos`, per patch, in [0, 2]."""
    image = as_fractions(photos)
    vectors = F.normalize(features(torch.cat([*colors, image])), dim=-1)
    of_colors, of_image = vectors[: -len(image)], vectors[-len(image) :]
    of_colors = of_colors.unflatten(0, (-1, len(image)))
    return (1.0 - (of_colors * of_image).sum(dim=-1)).clamp(0.0, 2.0).flatten(0, 1)


@torch.no_grad()
def feature_residual(
    colors: Sequence[Float[Tensor, "C H W 3"]],
    photos: Photos,
    features: FeatureExtractor,
    rows: Int[Tensor, " C"] | None = None,
) -> Float[Tensor, "B H W"]:
    """One minus the cosine between the features, per pixel, in [0, 2].

    Args:
        colors: renderings of all photos, each of which is compared in turn.
        rows: which photos of their size these are; None for others.
    """
    if isinstance(features, PatchComparer):
        by_patch = features.residual(colors, photos, rows)
    else:
        by_patch = residual_of_vectors(colors, photos, features)
    size = list(photos.shape[1:3])
    return F.interpolate(by_patch[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
