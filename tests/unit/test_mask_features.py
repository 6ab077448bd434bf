"""Patch filters: orthonormal, blind to identity, and equal under flips."""

import math

import pytest
import torch

from masks.features import (
    FeatureSettings,
    PatchFilterBank,
    cosine_rows,
    feature_residual,
    opponent_rows,
)


def test_filters_are_orthonormal() -> None:
    waves, axes = cosine_rows(14, 4), opponent_rows()
    filters = torch.einsum("oc,uy,vx->ouvcyx", axes, waves, waves).flatten(3).flatten(0, 2)
    assert torch.allclose(filters @ filters.T, torch.eye(48), atol=1e-5)


def test_the_separable_bank_equals_one_filter_after_another() -> None:
    image = torch.rand(1, 28, 42, 3, generator=torch.Generator().manual_seed(0))
    features = PatchFilterBank()(image)
    waves = cosine_rows(14, 4)
    patch = (image[0, 14:28, 28:42] - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    expected = torch.einsum("oc,uy,vx,yxc->ouv", opponent_rows(), waves, waves, patch).flatten()
    assert torch.allclose(features[0, 1, 2, :-1], expected, atol=1e-4)


@pytest.mark.parametrize("size", [(28, 42), (30, 41), (9, 5)])
def test_an_image_does_not_differ_from_itself(size: tuple[int, int]) -> None:
    image = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    residual = feature_residual([image], image, PatchFilterBank())
    assert residual.shape == image.shape[:3]
    assert residual.abs().max() < 1e-5


def test_residuals_lie_between_0_and_2_and_opposites_are_far() -> None:
    image = torch.rand(1, 28, 28, 3, generator=torch.Generator().manual_seed(0))
    grey = torch.tensor([0.485, 0.456, 0.406])
    opposite = 2 * grey - image
    settings = FeatureSettings(contrast_floor=0.0)
    residual = feature_residual([opposite], image, PatchFilterBank(settings))
    assert torch.allclose(residual, torch.tensor(2.0), atol=1e-4)


def test_flat_grey_patches_do_not_differ_by_their_noise() -> None:
    noise = torch.randn(2, 28, 28, 3, generator=torch.Generator().manual_seed(0)) * 0.005
    grey = torch.tensor([0.485, 0.456, 0.406]) + noise
    assert feature_residual([grey[:1]], grey[1:], PatchFilterBank()).max() < 0.1


@pytest.mark.parametrize("axis", [1, 2])
def test_flipping_both_images_flips_the_residual(axis: int) -> None:
    color, image = torch.rand(2, 1, 37, 50, 3, generator=torch.Generator().manual_seed(0))
    bank = PatchFilterBank()
    straight = feature_residual([color], image, bank)
    mirrored = feature_residual([color.flip(axis)], image.flip(axis), bank)
    assert torch.allclose(mirrored.flip(axis), straight, atol=1e-5)


def test_a_residual_carries_no_gradient() -> None:
    image = torch.rand(1, 28, 28, 3, requires_grad=True)
    assert not feature_residual([image], image, PatchFilterBank()).requires_grad


def test_the_bank_knows_how_many_filters_fit_into_a_patch() -> None:
    with pytest.raises(ValueError, match="frequencies"):
        FeatureSettings(patch=4, frequencies=5)


def test_the_patch_grid_covers_an_image_of_odd_size() -> None:
    features = PatchFilterBank()(torch.rand(1, 30, 41, 3))
    assert features.shape == (1, math.ceil(30 / 14), math.ceil(41 / 14), 3 * 16 + 1)


class Brightness:
    """An extractor of one patch per image, with nothing but features."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(1, 2), keepdim=True)


def test_an_extractor_needs_nothing_but_features() -> None:
    red, green = torch.eye(3)[:2].reshape(2, 1, 1, 1, 3).expand(2, 1, 8, 6, 3)
    residual = feature_residual([red, green], red, Brightness())
    expected = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 8, 6)
    torch.testing.assert_close(residual, expected)


def test_photos_of_8_bits_are_the_fractions_that_they_stand_for() -> None:
    color = torch.rand(1, 30, 41, 3, generator=torch.Generator().manual_seed(0))
    photo = (color.flip(1) * 255).to(torch.uint8)
    bank = PatchFilterBank()
    of_bytes = feature_residual([color], photo, bank)
    assert torch.equal(of_bytes, feature_residual([color], photo / 255, bank))
