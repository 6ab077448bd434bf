"""Planned views as pixels: decoded, undistorted, resized, with a cache of what was expensive.

Knows neither poses nor splits.
"""

import hashlib
import os
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from torch import Tensor

from arguments.messages import Messages
from scene.capture_settings import CaptureSettings
from scene.images import (
    DECODE_ERRORS,
    BadPhotoError,
    decode_photo,
    resize,
    resize_nearest,
)
from scene.photo_plan import MOST_WARNINGS, ViewPlan
from scene.undistort import Lens, remap, remap_nearest, sampling_grid
from scene.user_masks import KEEP_FROM, UserMasks, load_mask

MOST_THREADS = 4
MOST_GRID_PIXELS = 16_000_000


@dataclass(frozen=True)
class Pixels:
    """One view's photo at working size.

    Attributes:
        keep: which pixels the user's mask or the alpha channel keeps; None where all are.
        digest: of the bytes of the photo file.
        kinds: conversions on the way.
    """

    rgb: UInt8[np.ndarray, "H W 3"]
    keep: Bool[np.ndarray, "H W"] | None
    digest: str
    kinds: tuple[str, ...]


class _Grids:
    """The sampling grids in use; threads share them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[int, Float32[Tensor, "1 H W 2"]] = OrderedDict()

    def get(self, lens: Lens) -> Float32[Tensor, "1 H W 2"]:
        """The grid of a lens, made when first asked for."""
        with self.lock:
            if id(lens) not in self.kept:
                kept = sum(grid[0, ..., 0].numel() for grid in self.kept.values())
                while self.kept and kept + lens.width * lens.height > MOST_GRID_PIXELS:
                    kept -= self.kept.popitem(last=False)[1][0, ..., 0].numel()
                self.kept[id(lens)] = sampling_grid(lens)
            return self.kept[id(lens)]


def load_pixels(
    views: Sequence[ViewPlan],
    masks: UserMasks | None,
    settings: CaptureSettings,
    messages: Messages,
) -> dict[str, Pixels]:
    """The pixels of every view that can be decoded; the others are warned of and left out."""
    grids = _Grids()
    loaded: dict[str, Pixels] = {}
    broken = 0

    def load(view: ViewPlan) -> Pixels | BadPhotoError:
        try:
            return _load_view(view, masks, settings, grids)
        except BadPhotoError as error:
            return error

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        for view, result in zip(views, pool.map(load, views), strict=True):
            if isinstance(result, Pixels):
                loaded[view.name] = result
                continue
            broken += 1
            if broken <= MOST_WARNINGS:
                messages.warn(f"{view.name}: {result}; excluded")
    _report_kinds(loaded, settings, messages)
    return loaded


def _load_view(
    view: ViewPlan, masks: UserMasks | None, settings: CaptureSettings, grids: _Grids
) -> Pixels:
    try:
        data = view.path.read_bytes()
    except OSError as error:
        raise BadPhotoError(f"cannot be read: {error.strerror}") from error
    digest = f"{len(data)}-{zlib.crc32(data):08x}"
    background = 255 if settings.white_background else 0
    cached = None if view.lens.is_pinhole else _cache_path(view, digest, settings)
    rgb = None if cached is None else _read_cached(cached, view)
    keep: Bool[np.ndarray, "H W"] | None = None
    kinds: tuple[str, ...] = ()
    if rgb is None:
        photo = decode_photo(data, background, (view.lens.width, view.lens.height))
        kinds = photo.kinds
        rgb = photo.rgb if view.lens.is_pinhole else remap(photo.rgb, grids.get(view.lens))
        rgb = resize(rgb, view.width, view.height)
        if settings.alpha == "mask" and photo.alpha is not None:
            keep = _shaped(photo.alpha >= KEEP_FROM, view, grids)
        if cached is not None and not kinds:
            _write_cached(cached, rgb)
    if masks is not None and view.name in masks.paths:
        mask = load_mask(masks, view.name, view.lens.width, view.lens.height)
        shaped = _shaped(mask, view, grids)
        keep = shaped if keep is None else keep & shaped
    return Pixels(rgb, keep, digest, kinds)


def _shaped(
    keep: Bool[np.ndarray, "H W"], view: ViewPlan, grids: _Grids
) -> Bool[np.ndarray, "h w"]:
    """A mask of the photo file as a mask of the view."""
    levels = keep.astype(np.uint8)
    if not view.lens.is_pinhole:
        levels = remap_nearest(levels, grids.get(view.lens))
    return resize_nearest(levels, view.width, view.height) > 0


def _cache_path(view: ViewPlan, digest: str, settings: CaptureSettings) -> Path | None:
    """Where the finished photo lies, named by everything that it depends on."""
    if settings.cache_dir is None:
        return None
    lens = view.lens
    key = hashlib.blake2b(digest_size=16)
    for numbers in (lens.focal, lens.principal, lens.extra, lens.K):
        key.update(np.ascontiguousarray(numbers).tobytes())
    key.update(
        f"1 {digest} {lens.model.name} {lens.width} {lens.height} {view.width} {view.height} "
        f"{settings.white_background}".encode()
    )
    return settings.cache_dir / "undistorted" / f"{key.hexdigest()}.png"


def _read_cached(path: Path, view: ViewPlan) -> UInt8[np.ndarray, "H W 3"] | None:
    """A photo of an earlier run, None where there is none or it is damaged."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.size == (view.width, view.height) and image.mode == "RGB":
                return np.array(image)
    except DECODE_ERRORS:
        return None
    return None


def _write_cached(path: Path, rgb: UInt8[np.ndarray, "H W 3"]) -> None:
    """Keep a photo for the next run; a cache that cannot be written is no reason to stop."""
    partial = path.with_suffix(f".{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(partial, format="PNG", compress_level=1)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


def _report_kinds(loaded: dict[str, Pixels], settings: CaptureSettings, messages: Messages) -> None:
    """One line for every kind of conversion."""
    counts = Counter(kind for pixels in loaded.values() for kind in pixels.kinds)
    color = "white" if settings.white_background else "black"
    for kind, count in counts.items():
        what = kind
        if kind == "alpha" and settings.alpha == "mask":
            what = "an alpha channel, used as a mask (--alpha mask)"
        elif kind == "alpha":
            what = f"an alpha channel, composited on {color} (--alpha mask makes it a mask)"
        messages.note(f"{count} images: {what}")
