"""Regions of a photo merged pairwise into larger ones, most alike first: a tree of regions.

Knows colours, texture, borders and evidence of standing still, and not what an object is.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from masks.static_evidence import StaticEvidence, slopes

NUM_COLOR_BINS = (10, 14, 14)  # of the three axes of CIELAB
NUM_ANGLES = 4
STRONG_GRADIENT = 15.0  # lightness steps per pixel beyond which a border cannot be clearer


@dataclass(frozen=True)
class MergeSettings:
    """What makes two neighbouring regions unlike."""

    color: float = 1.0
    """Weight of the difference of their colour histograms."""

    texture: float = 0.7
    """Weight of the difference of their gradient histograms."""

    border: float = 0.5
    """Weight of the mean gradient along their common border."""

    evidence: float = 0.05
    """Weight of one being seen by other photos and the other not, though it should have been."""

    small: float = 0.03
    """Regions below this share of the photo are merged more readily, the smaller the more."""


@dataclass(frozen=True)
class Regions:
    """Disjoint regions that cover a photo, and which of them touch.

    Attributes:
        of_pixel: the region of each pixel, 0 to R-1.
        area: pixels in each region.
        colors: histogram of CIELAB colours, in pixels.
        textures: histogram of gradient strength and direction, in pixels.
        surplus: log-likelihood ratio of standing still against moving, from the keypoints.
        borders: which of them touch.
    """

    of_pixel: Int[ndarray, "H W"]
    area: Float[ndarray, " R"]
    colors: Float[ndarray, "R B"]
    textures: Float[ndarray, "R T"]
    surplus: Float[ndarray, " R"]
    borders: "Borders"


@dataclass(frozen=True)
class Borders:
    """Where regions touch, one entry for each pair of them.

    Attributes:
        pairs: the two regions, the smaller number first.
        length: pixels along which they touch.
        strength: sum over those of the gradient, each in [0, 1].
    """

    pairs: Int[ndarray, "E 2"]
    length: Float[ndarray, " E"]
    strength: Float[ndarray, " E"]


@dataclass(frozen=True)
class MergeTree:
    """Regions 0 to R-1 and their unions R to 2R-2, in order of merging.

    Attributes:
        parent: the union that a region went into; -1 for the last.
        height: how unlike the parts of a union were, at least as much as inside them; 0 for leaves.
    """

    parent: Int[ndarray, " N"]
    height: Float[ndarray, " N"]

    def cut(self, height: float) -> Int[ndarray, " R"]:
        """For each first region the largest union around it that is not higher than `height`."""
        top = np.arange(len(self.parent))
        for node in range(len(top) - 1, -1, -1):
            parent = self.parent[node]
            if parent >= 0 and self.height[parent] <= height:
                top[node] = top[parent]
        return top[: (len(top) + 1) // 2]


def histogram(
    of_pixel: Int[ndarray, "H W"], bins: Int[ndarray, "H W"], num_bins: int, num_regions: int
) -> Float[ndarray, "R B"]:
    """Pixels of each region (row) in each bin (column)."""
    joint = of_pixel.ravel() * num_bins + bins.ravel()
    counts = np.bincount(joint, minlength=num_regions * num_bins)
    return counts.reshape(num_regions, num_bins).astype(np.float64)


def measure_regions(
    image: UInt8[ndarray, "H W 3"], of_pixel: Int[ndarray, "H W"], evidence: StaticEvidence
) -> Regions:
    """What merging needs to know of the regions `of_pixel`, numbered from 0 without gaps."""
    num_regions = int(of_pixel.max()) + 1
    lab = gaussian_filter(rgb2lab(image).astype(np.float32), (0.7, 0.7, 0.0))
    down, right = slopes(lab[..., 0])
    strength = np.hypot(down, right)
    low, span = np.array([0.0, -60.0, -60.0]), np.array([100.0, 120.0, 120.0])
    colors = [
        histogram(of_pixel, np.clip((c - o) / s * b, 0, b - 1).astype(int), b, num_regions)
        for c, o, s, b in zip(np.moveaxis(lab, 2, 0), low, span, NUM_COLOR_BINS, strict=True)
    ]
    level = np.digitize(strength, [1.0, 3.0, 8.0])  # lightness per pixel: flat, weak, clear, edge
    angle = (np.arctan2(down, right) % np.pi / np.pi * NUM_ANGLES).astype(int) % NUM_ANGLES
    texture = np.where(level > 0, angle * 3 + level, 0)
    return Regions(
        of_pixel=of_pixel,
        area=np.bincount(of_pixel.ravel(), minlength=num_regions).astype(np.float64),
        colors=np.concatenate(colors, axis=1) / len(colors),
        textures=histogram(of_pixel, texture, NUM_ANGLES * 3 + 1, num_regions),
        surplus=static_surplus(of_pixel, evidence),
        borders=measure_borders(of_pixel, strength / STRONG_GRADIENT),
    )


def static_surplus(of_pixel: Int[ndarray, "H W"], evidence: StaticEvidence) -> Float[ndarray, " R"]:
    """Log-likelihood ratio of a static against a moving region, both with Poisson keypoints.

    A static region has a little more than its expected number, since the photo's mean counts the
    moving ones in; a moving one has a twentieth of it, by chance matches.
    """
    static_rate, moving_rate = 1.2, 0.05
    found = np.bincount(of_pixel.ravel(), weights=evidence.found.ravel())
    expected = np.bincount(of_pixel.ravel(), weights=evidence.expected.ravel())
    return found * np.log(static_rate / moving_rate) - expected * (static_rate - moving_rate)


def measure_borders(of_pixel: Int[ndarray, "H W"], strength: Float32[ndarray, "H W"]) -> Borders:
    """Which regions touch, and how clear an edge runs between them."""
    clear = np.minimum(strength, 1.0)
    sides = [
        (of_pixel[:, :-1], of_pixel[:, 1:], np.maximum(clear[:, :-1], clear[:, 1:])),
        (of_pixel[:-1], of_pixel[1:], np.maximum(clear[:-1], clear[1:])),
    ]
    num_regions = int(of_pixel.max()) + 1
    keys, weights = [], []
    for here, there, gradient in sides:
        differ = here != there
        first = np.minimum(here[differ], there[differ]).astype(np.int64)
        keys.append(first * num_regions + np.maximum(here[differ], there[differ]))
        weights.append(gradient[differ])
    key, edge = np.unique(np.concatenate(keys), return_inverse=True)
    pairs = np.stack([key // num_regions, key % num_regions], axis=1)
    length = np.bincount(edge, minlength=len(key)).astype(np.float64)
    strengths = np.bincount(edge, weights=np.concatenate(weights), minlength=len(key))
    return Borders(pairs, length, strengths.astype(np.float64))


class _Merging:
    """The state of one merging: rows for every region and every union that is to come."""

    def __init__(self, regions: Regions, settings: MergeSettings) -> None:
        self.settings = settings
        self.num_regions = len(regions.area)
        num_nodes = 2 * self.num_regions - 1
        self.area, self.colors, self.textures, self.surplus = (
            np.concatenate([rows, np.zeros((num_nodes - len(rows), *rows.shape[1:]))])
            for rows in (regions.area, regions.colors, regions.textures, regions.surplus)
        )
        self.num_pixels = regions.area.sum()
        self.parent = np.full(num_nodes, -1)
        self.height = np.zeros(num_nodes)
        self.borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(num_nodes)]
        touching = regions.borders
        for (i, j), length, strength in zip(
            touching.pairs.tolist(), touching.length, touching.strength, strict=True
        ):
            self.borders[i][j] = self.borders[j][i] = (length, strength)

    def unlikeness(self, node: int, others: list[int]) -> Float[ndarray, " K"]:
        """How unlike `node` is to each of its neighbours `others`."""
        settings = self.settings
        area, other_area = self.area[node], self.area[others]
        color = np.minimum(self.colors[node] / area, self.colors[others] / other_area[:, None]).sum(
            axis=1
        )
        texture = np.minimum(
            self.textures[node] / area, self.textures[others] / other_area[:, None]
        ).sum(axis=1)
        border = np.array([self.borders[node][other] for other in others])
        appearance = (
            settings.color * (1.0 - color)
            + settings.texture * (1.0 - texture)
            + settings.border * border[:, 1] / border[:, 0]
        )
        share = np.minimum(area, other_area) / self.num_pixels
        appearance *= np.minimum(1.0, share / settings.small) ** 0.3
        own, other = self.surplus[node], self.surplus[others]
        conflict = np.where(own * other < 0, np.minimum(abs(own), abs(other)), 0.0)
        return appearance + settings.evidence * np.minimum(conflict, 6.0) / 2.0

    def join(self, first: int, second: int, union: int) -> None:
        """Make `union` out of two touching nodes and hand it their neighbours."""
        for rows in (self.area, self.colors, self.textures, self.surplus):
            rows[union] = rows[first] + rows[second]
        self.parent[[first, second]] = union
        joined: dict[int, tuple[float, float]] = {}
        for part in (first, second):
            for other, (length, strength) in self.borders[part].items():
                if other not in (first, second):
                    had_length, had_strength = joined.get(other, (0.0, 0.0))
                    joined[other] = (had_length + length, had_strength + strength)
                    del self.borders[other][part]
            self.borders[part] = {}
        self.borders[union] = joined
        for other, border in joined.items():
            self.borders[other][union] = border


def merge_regions(regions: Regions, settings: MergeSettings) -> MergeTree:
    """Merge the two most alike neighbours again and again until one region is left."""
    state = _Merging(regions, settings)
    heap: list[tuple[float, int, int]] = []
    for node in range(state.num_regions):
        others = [other for other in state.borders[node] if other > node]
        if others:
            unlike = state.unlikeness(node, others).tolist()
            heap += [(u, node, other) for u, other in zip(unlike, others, strict=True)]
    heapq.heapify(heap)
    union = state.num_regions
    while heap:
        unlike, first, second = heapq.heappop(heap)
        if state.parent[first] >= 0 or state.parent[second] >= 0:
            continue
        state.join(first, second, union)
        state.height[union] = max(unlike, state.height[first], state.height[second])
        others = list(state.borders[union])
        if others:
            for u, other in zip(state.unlikeness(union, others).tolist(), others, strict=True):
                heapq.heappush(heap, (u, other, union))
        union += 1
    return MergeTree(state.parent, state.height)
