"""Where other photos show the same colours at the same place: a coarse sweep over depths.

Collins 1996 (A space-sweep approach to true multi-image matching), at the size of a thumbnail: what
stands still looks alike, at some depth, from at least two other places; what moves mostly does not.
Knows poses and colours; it has no opinion on keypoints or segments.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Bool, Float32, Float64, UInt8
from numpy import ndarray
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor

from masks.neighbors import TrackIndex
from scene.capture import View

THUMBNAIL = 80  # pixels of the longest side
NUM_OTHERS = 6  # photos that one is compared with
NUM_DEPTHS = 36  # evenly spaced in inverse depth
NEAREST, FARTHEST = 0.5, 1.3  # times the depths between which nearly all points of the photo lie
PARALLAX = 0.06  # of the median depth; between any two of the photos that are compared
MIN_POINTS = 8  # of the photo, to know how deep the scene is
SAME_COLOR = 12.0  # mean over 3x3 pixels of the summed differences in CIELAB
NOT_SEEN = 1e3  # difference where another photo does not look
TONE_LIMITS = (0.5, 2.0)  # factors by which the contrast of another photo may be changed


@dataclass(frozen=True)
class Agreement:
    """Cells of a thumbnail of one photo.

    Attributes:
        agreeing: 1 where at least two other photos show the same colours at some common depth.
        comparable: 1 where they do, and where at least two look and three others show the same
            colours as each other. Where others do not even agree among themselves, as on mirrors,
            windows and blossoms, a photo that differs from them says nothing.
    """

    agreeing: Float32[ndarray, "h w"]
    comparable: Float32[ndarray, "h w"]

    @property
    def usual(self) -> float:
        """Share of the comparable cells that agree."""
        return float(self.agreeing.sum() / max(self.comparable.sum(), 1.0))


@dataclass(frozen=True)
class _Thumbnail:
    lab: Float32[Tensor, "3 h w"]
    K: Float64[Tensor, "3 3"]
    viewmat: Float64[Tensor, "4 4"]
    digest: bytes


class PhotoComparison:
    """Compares photos with those taken nearest to them; keeps thumbnails of all it has seen."""

    def __init__(
        self,
        views: Sequence[View],
        index: TrackIndex,
        image_of: Callable[[int], UInt8[ndarray, "H W 3"]],
    ) -> None:
        """Prepare; no photo is read yet.

        Args:
            views: in the order in which `index` has them.
            image_of: the photo of a view, by its id.
        """
        self._views = list(views)
        self._index = index
        self._image_of = image_of
        self._thumbnails: dict[int, _Thumbnail] = {}

    def others(self, view: View) -> list[View]:
        """The views that `view` is compared with; none where nothing says how deep the scene is."""
        depths = depths_of(view)
        if len(depths) < MIN_POINTS:
            return []
        distance = PARALLAX * float(np.median(depths))
        rows = self._index.apart(view.view_id, distance, NUM_OTHERS)
        return [self._views[row] for row in rows]

    def digest(self, view: View) -> str:
        """Changes when any photo or pose changes that the agreement of `view` depends on."""
        state = hashlib.blake2b(digest_size=16)
        for other in (view, *self.others(view)):
            thumbnail = self._thumbnail(other)
            state.update(thumbnail.digest + thumbnail.viewmat.numpy().tobytes())
        return state.hexdigest()

    def __call__(self, view: View) -> Agreement | None:
        """Agreement of one photo; None where it cannot be compared with two others.

        The others are taken as they are and with their tones matched, whichever agrees more.
        """
        others = [self._thumbnail(other) for other in self.others(view)]
        if len(others) < 2:
            return None
        own = self._thumbnail(view)
        near, far = np.percentile(depths_of(view), [2, 98])
        inverse = torch.linspace(
            1 / (FARTHEST * far), 1 / (NEAREST * near), NUM_DEPTHS, dtype=torch.float64
        )
        toned = [replace(other, lab=toned_like(other.lab, own.lab)) for other in others]
        ways = [_agreement(own, photos, inverse) for photos in (others, toned)]
        return max(ways, key=lambda way: way.usual)

    def _thumbnail(self, view: View) -> _Thumbnail:
        if view.view_id not in self._thumbnails:
            image = self._image_of(view.view_id)
            scale = min(1.0, THUMBNAIL / max(view.camera.size))
            width, height = (max(1, round(side * scale)) for side in view.camera.size)
            small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
            K = view.camera.K.double().clone()
            K[0] *= width / view.camera.width
            K[1] *= height / view.camera.height
            pixels = np.asarray(small)
            lab = torch.from_numpy(rgb2lab(pixels).astype(np.float32)).permute(2, 0, 1)
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
            self._thumbnails[view.view_id] = _Thumbnail(
                lab, K, view.camera.viewmat.double(), digest
            )
        return self._thumbnails[view.view_id]


def depths_of(view: View) -> Float64[ndarray, " P"]:
    """Of the points that the photo saw, along its axis, in world units; without those behind it."""
    axis = view.camera.viewmat[2].double().numpy()
    depths = view.point_xyz.astype(np.float64) @ axis[:3] + axis[3]
    return depths[depths > 0]


def toned_like(
    other: Float32[Tensor, "3 h w"], own: Float32[Tensor, "3 H W"]
) -> Float32[Tensor, "3 h w"]:
    """`other` with the mean and the spread of the colours of `own`: another exposure or tint."""
    flat, like = other.flatten(1), own.flatten(1)
    factor = (like.std(dim=1) / flat.std(dim=1).clamp_min(1e-3)).clamp(*TONE_LIMITS)
    toned = (flat - flat.mean(dim=1)[:, None]) * factor[:, None] + like.mean(dim=1)[:, None]
    return toned.reshape(other.shape)


@dataclass(frozen=True)
class _Shown:
    """What another photo shows where each pixel would lie at each depth.

    Attributes:
        lab: colours; of its border where it does not look.
        looks: whether it looks there.
    """

    lab: Float32[Tensor, "D 3 h w"]
    looks: Bool[Tensor, "D h w"]


def _agreement(
    own: _Thumbnail, others: Sequence[_Thumbnail], inverse: Float64[Tensor, " D"]
) -> Agreement:
    """Where the second most alike of the others is alike at some depth."""
    shown = [_shown_by(other, own, inverse) for other in others]
    differences = torch.stack(
        [torch.where(one.looks, _unlike(one.lab, own.lab), NOT_SEEN) for one in shown]
    )
    best = differences.topk(2, dim=0, largest=False).values[1].amin(dim=0)
    agrees, looks = best < SAME_COLOR, best < 0.5 * NOT_SEEN
    return Agreement(
        agrees.float().numpy(), (agrees | (looks & _others_agree(shown))).float().numpy()
    )


def _others_agree(shown: Sequence[_Shown]) -> Bool[Tensor, "h w"]:
    """Where one of the others looks like two more at a common depth."""
    alike = torch.zeros(len(shown), *shown[0].looks.shape, dtype=torch.uint8)
    for first, second in itertools.combinations(range(len(shown)), 2):
        one, two = shown[first], shown[second]
        same = one.looks & two.looks & (_unlike(one.lab, two.lab) < SAME_COLOR)
        alike[first] += same
        alike[second] += same
    return (alike >= 2).any(dim=0).any(dim=0)


def _unlike(
    one: Float32[Tensor, "D 3 h w"], two: Float32[Tensor, "..."]
) -> Float32[Tensor, "D h w"]:
    """How unlike the surroundings of pixels are."""
    summed = (one - two).abs().sum(dim=1, keepdim=True)
    return F.avg_pool2d(summed, 3, 1, 1, count_include_pad=False)[:, 0]


def _shown_by(other: _Thumbnail, own: _Thumbnail, inverse: Float64[Tensor, " D"]) -> _Shown:
    """What `other` shows where the pixels of `own` would lie."""
    height, width = own.lab.shape[1:]
    rows, columns = torch.meshgrid(
        torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij"
    )
    pixels = torch.stack([columns, rows, torch.ones_like(rows)]).reshape(3, -1)
    turn = other.viewmat[:3, :3] @ own.viewmat[:3, :3].T
    shift = other.viewmat[:3, 3] - turn @ own.viewmat[:3, 3]
    rays = (other.K @ turn @ torch.linalg.inv(own.K) @ pixels).float()
    moved = (other.K @ shift).float()
    seen = rays + inverse.float()[:, None, None] * moved[:, None]  # [D, 3, h * w], times depth
    size = torch.tensor([other.lab.shape[2], other.lab.shape[1]]).float()
    ahead = seen[:, 2] > 1e-6
    xy = seen[:, :2] / seen[:, 2:].clamp_min(1e-6)
    places = (xy / size[:, None] * 2 - 1).transpose(1, 2)  # in [-1, 1] inside the other photo
    looks = ahead & (places.abs() <= 1).all(dim=2)
    shape = (len(inverse), height, width)
    lab = F.grid_sample(
        other.lab.expand(len(inverse), -1, -1, -1),
        places.reshape(*shape, 2),
        align_corners=False,
        padding_mode="border",
    )
    return _Shown(lab, looks.reshape(shape))
