"""Residuals between pictures and photos: what torch's own operators find, on every device."""

import pytest
import torch
from diff_gaussian_rasterization import color_residual, patch_residual
from torch import Tensor

from masks.evidence import Comparison
from masks.features import (
    FeatureSettings,
    PatchFilterBank,
    as_fractions,
    feature_residual,
    residual_of_vectors,
)

SIZES = [(28, 42), (30, 41), (9, 5), (1, 1), (71, 33), (50, 504)]


def _photos(height: int, width: int, *, is_bytes: bool) -> Tensor:
    photos = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(width))
    return (photos * 255).to(torch.uint8) if is_bytes else photos


def _pictures(photos: Tensor) -> list[Tensor]:
    """One that shows something else, and one that is nearly the photo."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(photos.shape, generator=generator)
    other = torch.rand(photos.shape, generator=generator)
    return [other, as_fractions(photos) + 0.02 * noise]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_bytes", [False, True])
def test_patches_differ_by_the_cosine_of_their_vectors(
    size: tuple[int, int], is_bytes: bool, device: torch.device
) -> None:
    photos = _photos(*size, is_bytes=is_bytes)
    pictures, bank = _pictures(photos), PatchFilterBank()
    expected = residual_of_vectors(pictures, photos, bank)
    ours = bank.residual([p.to(device) for p in pictures], photos.to(device))
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("patch", "frequencies"), [(1, 1), (2, 2), (7, 3), (16, 6), (32, 8)])
def test_patches_of_any_size_are_compared(
    patch: int, frequencies: int, device: torch.device
) -> None:
    photos = _photos(37, 70, is_bytes=True)
    pictures = _pictures(photos)
    bank = PatchFilterBank(FeatureSettings(patch=patch, frequencies=frequencies))
    expected = residual_of_vectors(pictures, photos, bank)
    ours = bank.residual([p.to(device) for p in pictures], photos.to(device))
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-5)


def test_pixels_differ_as_they_do_on_the_cpu(device: torch.device) -> None:
    photos = _photos(50, 61, is_bytes=True)
    pictures = _pictures(photos)
    expected = feature_residual(pictures, photos, PatchFilterBank())
    on_device = [picture.to(device) for picture in pictures]
    ours = feature_residual(on_device, photos.to(device), PatchFilterBank())
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-5)


def test_patches_without_vectors_differ_by_one(device: torch.device) -> None:
    bank = PatchFilterBank(FeatureSettings(patch=4, frequencies=1, contrast_floor=0.0))
    grey = torch.tensor([0.485, 0.456, 0.406]).expand(1, 8, 8, 3).to(device)
    bank.residual([grey], grey)  # lays out the filters
    (filters,) = bank._filters.values()
    filters.grey.zero_()
    black = torch.zeros_like(grey)
    assert torch.equal(bank.residual([black], grey), torch.ones(1, 2, 2, device=device))


def test_a_pixel_that_is_no_number_spoils_its_patch_alone(cuda: torch.device) -> None:
    photos = _photos(28, 42, is_bytes=True)
    pictures = _pictures(photos)
    pictures[1][0, 3, 20, 1] = float("nan")
    ours = PatchFilterBank().residual([p.to(cuda) for p in pictures], photos.to(cuda))
    assert ours.isnan().nonzero().tolist() == [[2, 0, 1]]


@pytest.mark.parametrize("is_bytes", [False, True])
def test_colors_differ_by_the_mean_of_their_channels(is_bytes: bool, device: torch.device) -> None:
    photos = _photos(30, 41, is_bytes=is_bytes)
    pictures = _pictures(photos)
    seen = Comparison([p.to(device) for p in pictures], photos.to(device), PatchFilterBank())
    for number, picture in enumerate(pictures):
        expected = (picture - as_fractions(photos)).abs().mean(dim=-1)
        ours = seen.of(number).by_color.cpu()
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_a_strided_picture_is_read_correctly(cuda: torch.device) -> None:
    photos = _photos(28, 42, is_bytes=True).to(cuda)
    (picture, _) = _pictures(photos.cpu())
    strided = picture.to(cuda).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    bank = PatchFilterBank()
    assert torch.equal(bank.residual([strided], photos), bank.residual([picture.to(cuda)], photos))
    assert torch.equal(
        color_residual([strided], photos), color_residual([picture.to(cuda)], photos)
    )


def test_captured_residuals_read_new_pictures_at_each_replay(cuda: torch.device) -> None:
    photos = _photos(30, 41, is_bytes=True).to(cuda)
    pictures = [torch.zeros(photos.shape, device=cuda) for _ in range(2)]
    bank = PatchFilterBank()
    bank.residual(pictures, photos)  # lays out the filters
    color_residual(pictures, photos)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        by_patch, by_color = bank.residual(pictures, photos), color_residual(pictures, photos)
    for picture, new in zip(pictures, _pictures(photos.cpu()), strict=True):
        picture.copy_(new)
    graph.replay()
    assert torch.equal(by_patch, bank.residual(pictures, photos))
    assert torch.equal(by_color, color_residual(pictures, photos))
    assert float(by_patch.max()) > 0


def _arguments(device: torch.device) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
    photos = _photos(8, 12, is_bytes=True)
    filters = {
        "down": torch.ones(4, 8),
        "across": torch.ones(6, 12),
        "axes": torch.eye(3),
        "grey": torch.zeros(3, 2, 2),
    }
    pictures = [picture.to(device) for picture in _pictures(photos)]
    return pictures, photos.to(device), {name: f.to(device) for name, f in filters.items()}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("down", torch.ones(4, 9), r"down must be \[patches \* 2, 8\]"),
        ("across", torch.ones(5, 12), r"across must be \[patches \* 2, 12\]"),
        ("across", torch.ones(26, 12), "at most a patch for each pixel"),
        ("axes", torch.eye(2), r"axes must be \[3, 3\]"),
        ("grey", torch.zeros(2, 2), "grey must be float32 of 3 dimensions"),
    ],
)
def test_wrong_filters_are_refused_by_name(
    name: str, value: Tensor, message: str, cuda: torch.device
) -> None:
    pictures, photos, filters = _arguments(cuda)
    filters[name] = value.to(cuda)
    with pytest.raises(RuntimeError, match=message):
        patch_residual(pictures, photos, floor=1.0, **filters)


def test_wrong_pictures_are_refused_by_name(cuda: torch.device) -> None:
    pictures, photos, _ = _arguments(cuda)
    with pytest.raises(RuntimeError, match="at least one"):
        color_residual([], photos)
    with pytest.raises(RuntimeError, match="pictures must be float32"):
        color_residual([pictures[0][:1]], photos)
    with pytest.raises(RuntimeError, match="photos must be float32 or uint8"):
        color_residual(pictures, photos.int())
    with pytest.raises(RuntimeError, match="up to 16 tensors"):
        color_residual(pictures * 9, photos)


def test_patches_beyond_shared_memory_are_refused(cuda: torch.device) -> None:
    photos = _photos(256, 256, is_bytes=True).to(cuda)
    bank = PatchFilterBank(FeatureSettings(patch=128, frequencies=32))
    with pytest.raises(RuntimeError, match="patches of 128 x 128 pixels with 32 x 32 waves"):
        bank.residual([photos / 255], photos)


def test_registration_holds(cuda: torch.device) -> None:
    pictures, photos, filters = _arguments(cuda)
    ops = torch.ops.twinsplat_raster
    torch.library.opcheck(ops.color_residual.default, (pictures, photos))
    arguments = (pictures, photos, *filters.values(), 1.0)
    torch.library.opcheck(ops.patch_residual.default, arguments)
