"""Photo and mask files as arrays: what their headers claim, their pixels, exact area resizing.

Knows no cameras, and decodes only the formats in `FORMATS`.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer, UInt8
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".mpo")
# What Pillow and what it calls raise for damaged files, such as a TIFF without its tags.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError),
    *(TypeError, KeyError, OverflowError),
)

WIDEST_BY_DEFAULT = 1600
FACTORS = (1, 2, 4, 8)
LARGEST_MEGAPIXELS = 178.0  # decoded whole unless told otherwise, as Pillow's own limit
SHRINKS = (8, 4, 2)  # by what a JPEG's sides can be divided while it is decoded
# Photos may be this many times larger, in pixels, than what COLMAP saw: 8 a side.
LARGEST_GROWTH = 64
EXIF_ORIENTATION = 0x0112
TURNED_ORIENTATIONS = (5, 6, 7, 8)
MAGIC = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"%!PS", "EPS"),
    (b"%PDF", "PDF"),
    (b"SIMPLE", "FITS"),
    (b"\0\0\1\0", "ICO"),
    (b"version https://git-lfs", "git-lfs pointer"),
)


class BadPhotoError(Exception):
    """Why one photo cannot be used; the capture counts it and goes on without."""


class NoDecoderError(BadPhotoError):
    """The photo is of a format that needs a decoder which is not there."""


@dataclass(frozen=True)
class Header:
    """What a photo file claims of itself, before any pixel is decoded.

    Attributes:
        width: pixels a row, as stored.
        height: rows, as stored.
        is_turned: EXIF asks viewers to turn it by a quarter; nobody here does.
        can_shrink: a decoder can give it at a half, a quarter or an eighth, in little memory: a
            JPEG whose rows come one after another.
    """

    width: int
    height: int
    is_turned: bool
    can_shrink: bool

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


@dataclass(frozen=True)
class Photo:
    """Decoded pixels.

    Attributes:
        rgb: sRGB, composited where the file has transparency.
        alpha: the alpha channel, None where the file has none.
        kinds: what was converted on the way, for one summary line per kind.
    """

    rgb: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"] | None
    kinds: tuple[str, ...]


def sniff(start: bytes) -> str:
    """The file type that the first bytes tell."""
    if not start:
        return "empty file"
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("ascii", "replace")
        return "HEIC" if brand[:3] in ("hei", "hev", "mif") else brand.strip().upper()
    if start.lstrip()[:1] == b"<":
        return "HTML or XML"
    return next((name for magic, name in MAGIC if start.startswith(magic)), "unknown type")


@contextmanager
def sizes_held_against_cameras() -> Iterator[None]:
    """Set Pillow's own limit aside where every size is checked here before pixels are decoded."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_header(path: Path, megapixels: float) -> Header:
    """Size and orientation of a photo, without decoding it.

    Args:
        megapixels: what the camera says; a file that claims far more is refused.

    Raises:
        BadPhotoError: empty, of another type than `FORMATS`, animated, or far too large.
    """
    kind = "unreadable"
    try:
        with path.open("rb") as stream:
            kind = sniff(stream.read(32))
            stream.seek(0)
            Image.init()  # Pillow knows only its five commonest formats until asked
            with Image.open(stream, formats=FORMATS) as image:
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    raise BadPhotoError(f"{image.format} with several pages")
                is_in_rows = image.format == "JPEG" and not image.info.get("progressive")
                header = Header(*image.size, _is_turned(image), is_in_rows)
    except Image.DecompressionBombError as error:
        claimed = re.search(r"\d+", str(error))
        raise _bomb(int(claimed.group()) / 1e6 if claimed else 0.0, megapixels) from error
    except DECODE_ERRORS as error:
        if kind == "HEIC":
            raise NoDecoderError(kind) from error
        raise BadPhotoError(f"not a readable photo ({kind})") from error
    if header.megapixels > max(LARGEST_GROWTH * megapixels, 1.0):
        raise _bomb(header.megapixels, megapixels)
    return header


def decoded_size(header: Header, resolution: int, max_mp: float) -> tuple[int, int]:
    """(width, height) that a photo is decoded at: whole, or where that is too large, in part.

    Args:
        resolution: what `working_size` is asked for.
        max_mp: megapixels that may be decoded.

    Raises:
        BadPhotoError: even the smallest part that the working size allows is too large.
    """
    size = header.width, header.height
    if header.megapixels > max_mp and header.can_shrink:
        width, height = working_size(*size, resolution)
        parts = [(-(-size[0] // factor), -(-size[1] // factor)) for factor in SHRINKS]
        size = next((p for p in parts if p[0] >= width and p[1] >= height), size)
    if size[0] * size[1] / 1e6 > max_mp:
        raise BadPhotoError(
            f"{size[0] * size[1] / 1e6:.4g} MP to decode, {max_mp:.4g} are allowed; smaller photos "
            "(-r, for JPEGs) or a larger --max_mp"
        )
    return size


def _bomb(claimed: float, megapixels: float) -> BadPhotoError:
    shown = f"{claimed:,.0f}".replace(",", " ")
    return BadPhotoError(f"claims {shown} MP, camera says {megapixels:.3g} MP")


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF asks for a quarter turn; unreadable EXIF asks for nothing."""
    try:
        return image.getexif().get(EXIF_ORIENTATION) in TURNED_ORIENTATIONS
    except DECODE_ERRORS:
        return False


def decode_photo(data: bytes, background: int, size: tuple[int, int] | None = None) -> Photo:
    """The pixels of a photo file.

    Args:
        background: gray level from 0 to 255 under transparent pixels.
        size: what `decoded_size` said; None decodes the whole photo.

    Raises:
        BadPhotoError: the file is truncated or damaged, or of another size.
    """
    with _decoded(data, size) as image:
        kinds = _kinds(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            gray = _deep_gray(image)
            return Photo(np.repeat(gray[..., None], 3, axis=2), None, kinds)
        if not image.has_transparency_data:
            return Photo(np.array(image.convert("RGB")), None, kinds)
        rgba = np.array(image.convert("RGBA"))
    rgb, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    composited = (rgb * alpha + background * (255 - alpha) + 127) // 255
    return Photo(composited.astype(np.uint8), rgba[..., 3].copy(), kinds)


def _decoded(data: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """A loaded image.

    Raises:
        BadPhotoError: it cannot be loaded; says how far the pixels went.
    """
    image = None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if size is not None and image.size != size:
            factor = max(1, round(image.width / size[0]))
            image.draft(None, (image.width // factor, image.height // factor))
        if size is not None and image.size != size:
            raise BadPhotoError("changed its size while it was read")
        if size is None and image.width * image.height / 1e6 > LARGEST_MEGAPIXELS:
            raise _bomb(image.width * image.height / 1e6, LARGEST_MEGAPIXELS)
        image.load()
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        reason = "empty file" if not data else "damaged"
        if image is not None and "truncated" in str(error):
            reason = f"truncated after {_decoded_percent(image)} %"
        raise BadPhotoError(reason) from error
    return image


def _decoded_percent(image: Image.Image) -> int:
    """The share of rows that a truncated file filled; rows never reached are black."""
    try:
        box = image.im.getbbox()
    except (ValueError, AttributeError):  # the decoder never came to its first row
        return 0
    return int(100 * box[3] / image.height) if box else 0


def _kinds(image: Image.Image) -> tuple[str, ...]:
    """What has to be converted, in words for the summary."""
    kinds = []
    if image.mode in ("L", "LA", "1"):
        kinds.append("gray")
    elif image.mode in ("P", "PA"):
        kinds.append("palette")
    elif image.mode == "CMYK":
        kinds.append("CMYK")
    elif image.mode == "I" or image.mode.startswith("I;16"):
        kinds.append("16-bit gray, divided by 257")
    elif image.mode == "F":
        kinds.append("float gray, 0 to 1")
    if image.has_transparency_data:
        kinds.append("alpha")
    profile = image.info.get("icc_profile") or b""
    if profile and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile:
        kinds.append("ICC profile other than sRGB, ignored")
    return tuple(kinds)


def _deep_gray(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """8 bits of a gray image with 16 bits or floats."""
    values = np.asarray(image).astype(np.float64)
    levels = np.nan_to_num(values) * 255 if image.mode == "F" else values / 257
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def working_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) to train at, by INRIA's rule for `-r`."""
    if resolution in FACTORS:
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    target = resolution
    if resolution == -1:
        target = min(width, WIDEST_BY_DEFAULT)
    return target, max(1, int(height * target / width + 1e-9))


def resize(
    image: UInt8[np.ndarray, "H W 3"], width: int, height: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The image at another size: the exact mean over each new pixel's area; bicubic if larger."""
    old_height, old_width = image.shape[:2]
    if (old_width, old_height) == (width, height):
        return image
    if width > old_width or height > old_height:
        enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return np.array(enlarged)
    if (
        old_width % width == 0
        and old_height % height == 0
        and max(old_width // width, old_height // height) > 1
    ):
        return np.array(Image.fromarray(image).reduce((old_width // width, old_height // height)))
    rows = area_mean(image, height, axis=0)
    both = area_mean(rows, width, axis=1)
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def area_mean(image: np.ndarray, count: int, axis: int) -> Float32[np.ndarray, "h w c"]:
    """`count` means over equal, possibly fractional, stretches along one axis."""
    length = image.shape[axis]
    stretch = length / count
    low = np.arange(count) * stretch
    high = low + stretch
    first = low.astype(np.int64)
    shape = [1, 1, 1]
    shape[axis] = count
    total: Float32[np.ndarray, "h w c"] | None = None
    for offset in range(int(np.ceil(high - first).max())):
        pixel = first + offset
        covered = np.minimum(pixel + 1, high) - np.maximum(pixel, low)
        weight = (np.clip(covered, 0, 1) / stretch).astype(np.float32).reshape(shape)
        part = np.take(image, np.minimum(pixel, length - 1), axis=axis) * weight
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise ValueError("an image without pixels has no mean")
    return total


def resize_nearest(
    mask: Integer[np.ndarray, "H W"], width: int, height: int
) -> Integer[np.ndarray, "h w"]:
    """The mask or the labels at another size; no value is made up."""
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def decode_mask(path: Path) -> UInt8[np.ndarray, "H W"]:
    """A mask file as gray levels.

    Raises:
        BadPhotoError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadPhotoError(f"cannot be read: {error.strerror}") from error
    with _decoded(data) as image:
        if image.mode == "F" or image.mode.startswith("I"):
            return _deep_gray(image)
        return np.array(image.convert("L"))
