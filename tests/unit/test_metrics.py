"""Metrics against slow definitions of their own, and what must hold for any picture."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from evaluation.metrics import mask_iou, mask_overlap, psnr, quantise, ssim
from tests.golden.make_metric_fixtures import CASES, FILE
from tests.golden.make_metric_fixtures import pictures as golden_pictures


def pictures(seed: int, height: int = 23, width: int = 31) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth 8-bit picture and a noisy version of it."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    clean = 120 + 70 * np.sin(rows / 4)[..., None] * np.cos(cols / 3)[..., None] * [1, 0.5, -0.8]
    noisy = clean + rng.normal(0, 12, clean.shape)
    return tuple(torch.from_numpy(p.clip(0, 255).astype(np.uint8)) for p in (clean, noisy))


def slow_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Wang et al. 2004 with a valid 11x11 Gaussian window, channel by channel, in float64."""
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    taps /= taps.sum()

    def window(plane: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(plane, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    values = []
    for channel in range(3):
        x, y = first[..., channel] / 255.0, second[..., channel] / 255.0
        mx, my = window(x), window(y)
        vx = np.maximum(window(x * x) - mx**2, np.finfo(np.float32).eps ** 2)
        vy = np.maximum(window(y * y) - my**2, np.finfo(np.float32).eps ** 2)
        vxy = window(x * y) - mx * my
        vxy = np.sign(vxy) * np.minimum(np.sqrt(vx * vy), np.abs(vxy))
        top = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
        values.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ssim_equals_the_slow_definition(seed: int) -> None:
    clean, noisy = pictures(seed)
    assert ssim(clean, noisy) == pytest.approx(slow_ssim(clean.numpy(), noisy.numpy()), abs=1e-12)


def test_ssim_of_flat_pictures_equals_the_slow_definition() -> None:
    first, second = np.full((12, 14, 3), 90, np.uint8), np.full((12, 14, 3), 130, np.uint8)
    got = ssim(torch.from_numpy(first), torch.from_numpy(second))
    assert got == pytest.approx(slow_ssim(first, second), abs=1e-9)


def test_ssim_sees_only_windows_that_fit() -> None:
    clean, _ = pictures(0, 11, 11)
    moved = clean.clone()
    moved[0, 0] = 255 - moved[0, 0]
    weight = (torch.exp(-0.5 * torch.tensor(5 / 1.5) ** 2) ** 2).item()
    assert ssim(clean, moved) > 1 - 0.1 * weight * 100


def test_a_picture_equals_itself() -> None:
    clean, _ = pictures(3)
    assert ssim(clean, clean) == pytest.approx(1.0, abs=1e-12)
    assert psnr(clean, clean) == 100.0


def test_metrics_are_symmetric() -> None:
    clean, noisy = pictures(4)
    assert psnr(clean, noisy) == psnr(noisy, clean)
    assert ssim(clean, noisy) == pytest.approx(ssim(noisy, clean), abs=1e-12)


def test_psnr_follows_its_definition() -> None:
    clean, noisy = pictures(5)
    difference = (clean.numpy().astype(float) - noisy.numpy().astype(float)) / 255
    assert psnr(clean, noisy) == pytest.approx(-10 * np.log10(np.mean(difference**2)), abs=1e-12)


def test_one_level_everywhere_is_48_db() -> None:
    picture = torch.full((4, 5, 3), 100, dtype=torch.uint8)
    assert psnr(picture, picture + 1) == pytest.approx(48.1308, abs=1e-4)


def test_quantising_cuts_fractions_and_clamps() -> None:
    color = torch.tensor([-0.5, 0.0, 1.9 / 255, 254.99 / 255, 1.0, 1.7]).reshape(1, 2, 3)
    assert quantise(color).flatten().tolist() == [0, 0, 1, 254, 255, 255]


def test_every_level_survives_quantising() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    color = (levels.double() / 255).float()[:, None, None].expand(-1, 1, 3)
    assert (quantise(color).int() - levels.int()[:, None, None]).abs().max() <= 1


def test_a_picture_below_the_window_is_refused() -> None:
    small = torch.zeros(10, 40, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="40x10"):
        ssim(small, small)


def test_mask_iou_counts_distrusted_pixels() -> None:
    weight = torch.tensor([[0.0, 0.4, 0.6, 1.0]])
    assert mask_iou(weight, torch.tensor([[True, False, True, False]])) == pytest.approx(1 / 3)
    assert mask_iou(weight, weight < 0.5) == 1.0


def test_a_trusted_clean_photo_has_full_iou() -> None:
    clean = torch.zeros(3, 4, dtype=torch.bool)
    assert mask_iou(torch.ones(3, 4), clean) == 1.0
    assert mask_iou(torch.zeros(3, 4), clean) == 0.0


def test_overlaps_of_photos_add_up_pixel_by_pixel() -> None:
    right, nothing = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)
    moving = torch.tensor([[True, False]])
    assert (mask_overlap(right, moving) + mask_overlap(nothing, moving)).iou == 0.5


def reflected_slow_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """As torchmetrics 1.9: mirrored without repeating the outermost pixels, then every pixel."""
    wide = [np.pad(p, ((5, 5), (5, 5), (0, 0)), mode="reflect") for p in (first, second)]
    return slow_ssim(*wide)


@pytest.mark.parametrize("seed", [0, 1])
def test_reflected_ssim_counts_every_pixel_of_the_mirrored_picture(seed: int) -> None:
    clean, noisy = pictures(seed)
    expected = reflected_slow_ssim(clean.numpy(), noisy.numpy())
    assert ssim(clean, noisy, "reflect") == pytest.approx(expected, abs=1e-12)
    assert ssim(clean, noisy, "reflect") != pytest.approx(ssim(clean, noisy), abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_psnr_and_reflected_ssim_equal_torchmetrics(name: str) -> None:
    clean, noisy = golden_pictures(*CASES[name])
    expected = json.loads(FILE.read_text())["values"][name]
    assert psnr(noisy, clean) == pytest.approx(expected["psnr"], rel=1e-7)  # its log(10) is float32
    assert ssim(noisy, clean, "reflect") == pytest.approx(expected["ssim"], abs=1e-6)
