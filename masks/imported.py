"""Segments that other tools made: finding each photo's file, reading it, and what the set says.

A photo's segments lie under its name, with or without its suffix: a label PNG, an npz, a JSON with
COCO's run-length codes, or a folder with one PNG for each mask.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Bool, Float32, Int32, Shaped
from numpy import ndarray
from PIL import Image
from torch import Tensor

from arguments.messages import ExitCode, Messages, UserError
from masks.layers import stack_masks
from masks.rle import decode_rle
from masks.segmenter import Photo
from scene.undistort import Lens, remap_nearest, sampling_grid

LARGEST_FILE = 1 << 30  # bytes in memory
SUSPICIOUS_SHARE = 0.9
MOST_LABELS = 0xFFFF
SUFFIXES = (".png", ".npz", ".json")
# RuntimeError: nested too deeply, or an archive that claims another compression; AttributeError: a
# member that is no array.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    AttributeError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class ImportSettings:
    """Segments from files that another tool made on the same photos."""

    segments: Path | None = None
    """Folder of the files, named like the photos: label PNG (0 is no segment), npz (labels or
    masks), JSON with COCO run-length codes, or a folder of PNG masks for each photo."""

    invert_segments: Annotated[bool, tyro.conf.arg(name="invert-segments")] = False
    """In files with one mask only, black is the segment."""


class ImportedSegmenter:
    """Reads the segments of a photo from its file; a photo without one has no segments."""

    def __init__(self, settings: ImportSettings, names: Sequence[str], messages: Messages) -> None:
        """Find the file of every photo.

        Raises:
            UserError: there is no folder, or none of its files belongs to a photo.
        """
        if settings.segments is None:
            raise UserError("--kind imported needs --segments FOLDER", ExitCode.USAGE)
        self._folder, self._invert = settings.segments, settings.invert_segments
        self._messages = messages
        self._paths = find_segments(self._folder, names)
        self._shares: list[float] = []
        self._num_empty = 0
        self._last_grid: tuple[Lens, Float32[Tensor, "1 H W 2"]] | None = None
        self.description = (
            f"segments read from {self._folder}: {len(self._paths)}/{len(names)} photos have some, "
            "label 0 = no segment"
        )

    def identity(self, name: str) -> str:
        """Changes with the photo's file."""
        path = self._paths.get(name)
        state = hashlib.blake2b(digest_size=16)
        for file in _files(path) if path else ():
            state.update(file.name.encode() + file.read_bytes())
        return f"imported {self._invert} {state.hexdigest()}"

    def __call__(self, photo: Photo) -> Int32[ndarray, "L H W"]:
        """The segments over the photo as it is trained on: they lie over its file.

        Raises:
            UserError: the file is damaged, of an unknown layout or of another shape.
        """
        height, width = photo.image.shape[:2]
        path = self._paths.get(photo.name)
        if path is None:
            return np.zeros((1, height, width), dtype=np.int32)
        try:
            layers = read_segments(path, photo.name, self._invert)
        except DAMAGE as failure:
            raise UserError(
                f"segments in {path} cannot be used: {failure}; replace or remove it"
            ) from failure
        self._look_at(layers, path)
        lens = photo.lens
        if lens is None:
            return fit_layers(layers, width, height, path, photo.name)
        layers = fit_layers(layers, lens.width, lens.height, path, photo.name)
        grid = self._grid(lens)
        undistorted = np.stack([remap_nearest(layer, grid) for layer in layers])
        return resized(undistorted, width, height)

    def _grid(self, lens: Lens) -> Float32[Tensor, "1 H W 2"]:
        """Where the pixels of a photo come from; most photos in a row have the same lens."""
        if self._last_grid is None or self._last_grid[0] is not lens:
            self._last_grid = (lens, sampling_grid(lens))
        return self._last_grid[1]

    def _look_at(self, layers: Int32[ndarray, "L H W"], path: Path) -> None:
        """Warn of what looks like an inverted or an empty set, once each."""
        if not layers.any():
            self._num_empty += 1
            if self._num_empty == 1:
                self._messages.warn(f"{path} holds no segment (0 everywhere)")
        if layers.max(initial=0) == 1 and len(layers) == 1:
            self._shares.append(float(layers.mean()))
            share = sum(self._shares) / len(self._shares)
            if len(self._shares) == min(3, len(self._paths)) and share > SUSPICIOUS_SHARE:
                self._messages.warn(
                    f"segments cover {100 * share:.0f} % of the first photos: inverted? "
                    "--invert-segments"
                )


def find_segments(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The file or folder of every photo that has one.

    Raises:
        UserError: there is no folder, or no photo has any.
    """
    if not folder.is_dir():
        raise UserError(f"folder of segments '{folder}' not found; check --segments")
    found = {}
    for name in names:
        stem = name.rsplit(".", 1)[0]
        for key in (name, stem, name.rsplit("/", 1)[-1], stem.rsplit("/", 1)[-1]):
            files = [path for s in SUFFIXES if (path := folder / f"{key}{s}").is_file()]
            if not files and (folder / key).is_dir():
                files = [folder / key]
            if files:
                found[name] = files[0]
                break
    if not found:
        stem = names[0].rsplit(".", 1)[0] if names else "photo"
        present = sorted(path.name for path in folder.iterdir())
        raise UserError(
            f"0 of {len(names)} photos have segments in {folder}; first expected '{stem}.png', "
            f"'{stem}.npz', '{stem}.json' or '{stem}/', folder has "
            f"'{present[0] if present else 'nothing'}'"
        )
    return found


def read_segments(path: Path, name: str, invert: bool = False) -> Int32[ndarray, "L H W"]:
    """Layers of the segments in one file, at their own size.

    Raises:
        ValueError: the file is not what its suffix promises, or holds nothing that is known.
        OSError: it cannot be read.
    """
    if path.is_dir():
        masks = [_binary(_png(file)) for file in _files(path)]
        if len({mask.shape for mask in masks}) != 1:
            raise ValueError(f"{len(masks)} masks of sizes {sorted({m.shape for m in masks})[:3]}")
        layers = stack_masks(np.stack(masks))
    else:
        layers = READERS[path.suffix](path, name)
    if layers.max(initial=0) > MOST_LABELS:
        raise ValueError(f"{layers.max()} segments; {MOST_LABELS} are possible")
    if invert and layers.max(initial=0) <= 1 and len(layers) == 1:
        layers = 1 - layers
    return layers


def fit_layers(
    layers: Int32[ndarray, "L h w"], width: int, height: int, path: Path, name: str
) -> Int32[ndarray, "L H W"]:
    """The layers at the size of the photo file, nearest pixel.

    Raises:
        UserError: the proportions differ by more than a pixel.
    """
    own_height, own_width = layers.shape[1:]
    if (
        abs(own_height - height * own_width / width) > 1
        and abs(own_width - width * own_height / height) > 1
    ):
        raise UserError(
            f"segments in {path} are {own_width}x{own_height}, the photo {name} is "
            f"{width}x{height}; replace or remove it"
        )
    return resized(layers, width, height)


def resized(layers: Int32[ndarray, "L h w"], width: int, height: int) -> Int32[ndarray, "L H W"]:
    """The layers at another size, nearest pixel."""
    size = (width, height)
    if layers.shape[1:] == (height, width):
        return layers
    pictures = (Image.fromarray(layer) for layer in layers)
    return np.stack([np.asarray(p.resize(size, Image.Resampling.NEAREST)) for p in pictures])


def _files(path: Path) -> list[Path]:
    """The file, or the PNG files of a folder."""
    return sorted(path.glob("*.png")) if path.is_dir() else [path]


def _png(path: Path) -> Shaped[ndarray, "..."]:
    """Levels of a gray or palette image, or RGB; at most `LARGEST_FILE` bytes."""
    with Image.open(path, formats=("PNG",)) as image:
        if image.width * image.height * 4 > LARGEST_FILE:
            raise ValueError(f"it claims {image.width}x{image.height} pixels")
        image.load()
        if image.mode in ("L", "P", "1", "I", "I;16", "I;16B"):
            return np.array(image)
        return np.array(image.convert("RGB"))


def _binary(levels: Shaped[ndarray, "..."]) -> Bool[ndarray, "H W"]:
    """What is not black."""
    return np.any(levels > 0, axis=2) if levels.ndim == 3 else np.asarray(levels > 0)


def _numbered(labels: Shaped[ndarray, "*shape"]) -> Int32[ndarray, "*shape"]:
    """Labels counted from 1 without gaps; 0 stays."""
    values, number = np.unique(labels, return_inverse=True)
    return (number.reshape(labels.shape) + (1 if values[0] != 0 else 0)).astype(np.int32)


def _read_png(path: Path, name: str) -> Int32[ndarray, "L H W"]:  # noqa: ARG001
    """Every gray level, palette entry or colour but black is one segment."""
    levels = _png(path)
    if levels.ndim == 3:
        levels = levels.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    return _numbered(levels)[None]


def _read_npz(path: Path, name: str) -> Int32[ndarray, "L H W"]:  # noqa: ARG001
    """The array `labels` [H, W] or [L, H, W], `masks` bool [K, H, W], or the only one there is."""
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > LARGEST_FILE:
        raise ValueError(f"it unpacks to {size} bytes, more than {LARGEST_FILE}")
    with np.load(path, allow_pickle=False) as archive:
        known = [key for key in ("labels", "masks") if key in archive] or archive.files
        if len(known) != 1:
            raise ValueError(f"it holds {archive.files[:6]}; expected labels or masks")
        array = archive[known[0]]
    if array.ndim not in (2, 3) or 0 in array.shape[-2:] or array.dtype.kind not in "bui":
        raise ValueError(f"'{known[0]}' is {array.dtype} of shape {array.shape}")
    if array.ndim == 3 and (array.dtype == bool or known[0] == "masks"):
        return stack_masks(array > 0)
    if array.min(initial=0) < 0:
        raise ValueError(f"'{known[0]}' has negative labels")
    layers = array if array.ndim == 3 else array[None]
    return np.stack([_numbered(layer) for layer in layers])


def _read_json(path: Path, name: str) -> Int32[ndarray, "L H W"]:
    """COCO annotations, or a plain list of them, each with a `segmentation` in run-length code.

    Where the file describes several images, those of the photo's own entry count.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has {path.stat().st_size} bytes")
    content = json.loads(path.read_text("utf-8"))
    entries = content["annotations"] if isinstance(content, Mapping) else content
    if isinstance(content, Mapping) and "images" in content:
        ids = [i["id"] for i in content["images"] if i["file_name"] in (name, Path(name).name)]
        entries = [entry for entry in entries if entry["image_id"] in ids]
    masks = []
    for entry in entries:
        code = entry["segmentation"]
        if not isinstance(code, Mapping):
            raise ValueError("it holds polygons; export run-length codes")  # noqa: TRY004
        height, width = code["size"]
        counts = code["counts"]
        runs = counts if isinstance(counts, str) else [index(count) for count in counts]
        masks.append(decode_rle(index(height), index(width), runs))
    if not masks:
        raise ValueError(f"it has no annotation of {name}")
    if len({mask.shape for mask in masks}) != 1:
        raise ValueError("its masks differ in size")
    return stack_masks(np.stack(masks))


READERS: dict[str, Callable[[Path, str], Int32[ndarray, "L H W"]]] = {
    ".png": _read_png,
    ".npz": _read_npz,
    ".json": _read_json,
}
