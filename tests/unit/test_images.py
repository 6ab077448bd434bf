"""Decoding rules, INRIA's sizes and the exact area filter."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scene.images import (
    BadPhotoError,
    Header,
    area_mean,
    decode_mask,
    decode_photo,
    decoded_size,
    read_header,
    resize,
    sizes_held_against_cameras,
    working_size,
)


def encoded(pixels: np.ndarray, mode: str | None = None, kind: str = "PNG") -> bytes:
    """A file of these pixels."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, format=kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("resolution", "size"),
    [
        (1, (4000, 3001)),
        (2, (2000, 1500)),
        (4, (1000, 750)),
        (8, (500, 375)),
        (-1, (1600, 1200)),
        (400, (400, 300)),
    ],
)
def test_sizes_follow_inria(resolution: int, size: tuple[int, int]) -> None:
    assert working_size(4000, 3001, resolution) == size


def test_small_photos_keep_their_size_by_default() -> None:
    assert working_size(1600, 900, -1) == (1600, 900)


def test_an_integer_factor_takes_the_rounded_mean_of_each_block() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(24, 32, 3), dtype=np.uint8)
    means = image.reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, 8, 6) - means).max() <= 0.51


@pytest.mark.parametrize(("length", "count"), [(7, 3), (10, 4), (533, 266), (5, 5), (9, 1)])
def test_the_area_mean_is_exact_for_fractions(length: int, count: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(length, 2, 3), dtype=np.uint8)
    fine = np.repeat(image.astype(np.float64), count, axis=0)  # `length` fine rows each new one
    expected = fine.reshape(count, length, 2, 3).mean(axis=1)
    np.testing.assert_allclose(area_mean(image, count, axis=0), expected, rtol=1e-5)


def test_resizing_keeps_the_mean_and_a_constant() -> None:
    constant = np.full((53, 80, 3), 77, np.uint8)
    assert (resize(constant, 37, 26) == 77).all()


def test_sixteen_bits_are_divided_by_257() -> None:
    deep = np.array([[0, 257, 65535]], np.uint16)
    photo = decode_photo(encoded(deep), 0)
    assert photo.rgb[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_gray_and_palette_become_rgb(mode: str) -> None:
    pixels = np.full((4, 4, 3), 255, np.uint8)
    photo = decode_photo(encoded(pixels, mode), 0)
    assert photo.rgb.shape == (4, 4, 3)
    assert (photo.rgb == 255).all()
    assert photo.kinds


def test_a_jpeg_too_large_to_be_decoded_whole_shows_the_same_in_part() -> None:
    y, x = np.mgrid[:403, :605] / 40.0
    smooth = (127 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)).astype(np.uint8)
    data = encoded(smooth, kind="JPEG")
    header = Header(605, 403, False, can_shrink=True)
    size = decoded_size(header, 100, max_mp=0.1)
    assert size == (152, 101)  # a quarter; an eighth would be less than 100 wide
    part, whole = decode_photo(data, 0, size).rgb, decode_photo(data, 0).rgb
    assert part.shape == (101, 152, 3)
    expected = resize(whole[:400, :600], 150, 100).astype(int)
    assert np.abs(part[:100, :150] - expected).mean() < 2


@pytest.mark.parametrize(
    ("can_shrink", "resolution", "max_mp", "size"),
    [
        (True, 1, 0.3, (605, 403)),  # small enough
        (True, 8, 0.2, (76, 51)),
        (True, 200, 0.2, (303, 202)),
        (False, 8, 0.2, None),
        (True, 1, 0.2, None),
        (True, 2, 0.01, None),
    ],
)
def test_size_to_decode_follows_from_working_size_and_limit(
    can_shrink: bool, resolution: int, max_mp: float, size: tuple[int, int] | None
) -> None:
    header = Header(605, 403, False, can_shrink)
    if size is not None:
        assert decoded_size(header, resolution, max_mp) == size
        return
    with pytest.raises(BadPhotoError, match=r"MP to decode, 0.* are allowed; .*--max_mp"):
        decoded_size(header, resolution, max_mp)


def test_progressive_jpegs_are_not_decoded_in_part(tmp_path: Path) -> None:
    """Their decoder holds all coefficients of the whole photo."""
    for name, is_progressive in (("a.jpg", False), ("b.jpg", True)):
        Image.new("RGB", (64, 48)).save(tmp_path / name, progressive=is_progressive)
        assert read_header(tmp_path / name, 0.003).can_shrink is not is_progressive


def test_pillows_own_limit_is_set_aside_for_a_while_only() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with sizes_held_against_cameras():
        assert Image.MAX_IMAGE_PIXELS is None
    assert before == Image.MAX_IMAGE_PIXELS


def test_masks_have_a_limit_of_their_own(tmp_path: Path) -> None:
    Image.new("1", (20_000, 9_000)).save(tmp_path / "mask.png")  # 180 MP in 23 MB
    with sizes_held_against_cameras(), pytest.raises(BadPhotoError, match="claims 180 MP"):
        decode_mask(tmp_path / "mask.png")


def test_cmyk_becomes_rgb() -> None:
    photo = decode_photo(encoded(np.full((8, 8, 3), 128, np.uint8), "CMYK", "JPEG"), 0)
    assert np.abs(photo.rgb.astype(int) - 128).max() < 6


@pytest.mark.parametrize(("background", "expected"), [(0, 100), (255, 227)])
def test_transparency_is_composited_on_the_background(background: int, expected: int) -> None:
    rgba = np.full((1, 1, 4), 200, np.uint8)
    rgba[..., 3] = 128
    photo = decode_photo(encoded(rgba), background)
    assert photo.rgb[0, 0, 0] == expected
    assert photo.alpha[0, 0] == 128


def test_a_truncated_photo_says_how_far_it_went() -> None:
    rng = np.random.default_rng(0)
    data = encoded(rng.integers(256, size=(400, 64, 3), dtype=np.uint8), kind="JPEG")
    with pytest.raises(BadPhotoError, match=r"truncated after (4\d|5\d) %"):
        decode_photo(data[: len(data) // 2], 0)
