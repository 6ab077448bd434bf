"""What renderings of photos and the photos say of each other: residuals and what is usual of them.

Knows nothing of segments, nor of what is concluded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from diff_gaussian_rasterization import color_residual, kth_smallest_of_each
from jaxtyping import Float, Int
from torch import Tensor

from masks.features import FeatureExtractor, Photos, as_fractions, feature_residual


def quantiles(
    values: Sequence[Float[Tensor, "C H W"]], shares: Sequence[float]
) -> Float[Tensor, "Q C 1 1"]:
    """The value of each image that a share of its pixels do not exceed (no interpolation).

    Args:
        shares: one for each of the values, which may be there more than once.
    """
    flat = [value.flatten(1) for value in values]
    ranks = [max(1, round(share * flat[0].shape[1])) for share in shares]
    return kth_smallest_of_each(flat, ranks)[..., None, None]


USUAL_RESIDUAL = 0.1  # blur and noise of a good rendering reach this in most photos


class Comparison:
    """Renderings of the same photos by several branches, held against the photos.

    What is asked of one rendering is computed for all of them at once, and only when asked for.

    Args:
        rows: which training photos of their size these are; None for others.
    """

    def __init__(
        self,
        colors: Sequence[Float[Tensor, "C H W 3"]],
        photos: Photos,
        features: FeatureExtractor,
        rows: Int[Tensor, " C"] | None = None,
    ) -> None:
        self.colors = [color.detach() for color in colors]
        self.photos = photos
        self._features, self._rows = features, rows
        self._medians: Float[Tensor, "P C 1 1"] | None = None

    def of(self, number: int) -> "Evidence":
        """What there is to say of one rendering."""
        return Evidence(self, number)

    @cached_property
    def by_color(self) -> list[Float[Tensor, "C H W"]]:
        """Mean absolute difference over the channels."""
        if self.photos.device.type == "cuda":
            return list(color_residual(self.colors, self.photos).split(len(self.photos)))
        image = as_fractions(self.photos)
        return [(color - image).abs().mean(dim=-1) for color in self.colors]

    @cached_property
    def by_feature(self) -> list[Float[Tensor, "C H W"]]:
        """One minus the cosine between the features of each rendering and of the photos."""
        of_all = feature_residual(self.colors, self.photos, self._features, self._rows)
        return list(of_all.split(len(self.photos)))

    def thresholds(
        self, number: int, color_share: float, feature_share: float
    ) -> tuple[Float[Tensor, "C 1 1"], Float[Tensor, "C 1 1"]]:
        """What those shares of a photo's colour and feature residuals do not exceed.

        The medians that `usual` needs are found in the same pass over the pixels.
        """
        values = [self.by_color[number], self.by_feature[number]]
        shares = [color_share, feature_share]
        if self._medians is None:
            values += self.by_feature
            shares += [0.5] * len(self.by_feature)
        found = quantiles(values, shares)
        if self._medians is None:
            self._medians = found[2:]
        return found[0], found[1]

    @cached_property
    def usual(self) -> Float[Tensor, "P C 1 1"]:
        """The feature residual up to which nothing is distrusted, for each rendering.

        A photo in another light differs as a whole; its median is then what is usual, so that half
        of it stays trusted.
        """
        if self._medians is None:
            self._medians = quantiles(self.by_feature, [0.5] * len(self.by_feature))
        return self._medians.clamp_min(USUAL_RESIDUAL)


@dataclass(frozen=True)
class Evidence:
    """One rendering of some photos among those of a comparison."""

    comparison: Comparison
    number: int

    @property
    def color(self) -> Float[Tensor, "C H W 3"]:
        """The rendering."""
        return self.comparison.colors[self.number]

    @property
    def by_color(self) -> Float[Tensor, "C H W"]:
        """Mean absolute difference over the channels."""
        return self.comparison.by_color[self.number]

    @property
    def by_feature(self) -> Float[Tensor, "C H W"]:
        """One minus the cosine between the features."""
        return self.comparison.by_feature[self.number]

    def thresholds(
        self, color_share: float, feature_share: float
    ) -> tuple[Float[Tensor, "C 1 1"], Float[Tensor, "C 1 1"]]:
        """What those shares of a photo's colour and feature residuals do not exceed."""
        return self.comparison.thresholds(self.number, color_share, feature_share)

    @property
    def usual(self) -> Float[Tensor, "C 1 1"]:
        """The feature residual up to which nothing is distrusted."""
        return self.comparison.usual[self.number]
