"""The fused L1 and SSIM: equal to the reference, and deaf where it is told to be."""

import pytest
import torch
from diff_gaussian_rasterization import photometric_loss, ssim_map
from skimage.metrics import structural_similarity
from torch import Tensor

from gaussian_renderer import reference

SIZES = [(1, 1, 1), (2, 5, 3), (1, 17, 33), (1, 51, 20), (3, 101, 7)]


def _images(size: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    color = torch.rand(*size, 3, generator=generator)
    return color.requires_grad_(), torch.rand(*size, 3, generator=generator)


def _weights(size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    gradient_weight = (torch.rand(*size, generator=generator) > 0.4).float()
    return gradient_weight, torch.rand(*size, generator=generator)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", ["none", "gradient", "value", "both"])
@pytest.mark.parametrize("lambda_dssim", [0.0, 0.2, 1.0])
def test_value_and_gradient_equal_the_reference(
    size: tuple[int, int, int], weights: str, lambda_dssim: float
) -> None:
    color, target = _images(size)
    gradient_weight, value_weight = _weights(size)
    g = gradient_weight if weights in ("gradient", "both") else None
    v = value_weight if weights in ("value", "both") else None
    loss = photometric_loss(
        color, target, lambda_dssim=lambda_dssim, gradient_weight=g, value_weight=v
    )
    (grad,) = torch.autograd.grad(3 * loss, color)
    exact = color.detach().double().requires_grad_()
    expected = reference.photometric_loss(
        exact,
        target.double(),
        lambda_dssim=lambda_dssim,
        gradient_weight=_double(g),
        value_weight=_double(v),
    )
    (expected_grad,) = torch.autograd.grad(3 * expected, exact)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    scale = expected_grad.abs().max().item()
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-4, atol=2e-6 * scale + 1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_the_map_equals_the_reference(size: tuple[int, int, int]) -> None:
    color, target = _images(size)
    expected = reference.ssim_map(color.detach().double(), target.double())
    torch.testing.assert_close(ssim_map(color, target).double(), expected, rtol=0, atol=1e-5)


def test_the_map_is_the_published_one_inside_the_border() -> None:
    color, target = _images((1, 30, 40))
    _, full = structural_similarity(
        color[0].detach().double().numpy(),
        target[0].double().numpy(),
        channel_axis=2,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    expected = torch.from_numpy(full).mean(-1)[5:-5, 5:-5]
    ours = ssim_map(color, target)[0, 5:-5, 5:-5].double()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_bytes_are_read_as_fractions_of_255() -> None:
    color, target = _images((2, 12, 9))
    photo = (target * 255).to(torch.uint8)
    loss = photometric_loss(color, photo)
    expected = photometric_loss(color, photo.float() / 255)
    assert loss.item() == expected.item()
    for ours, theirs in zip(
        torch.autograd.grad(loss, color), torch.autograd.grad(expected, color), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(ssim_map(color, photo), ssim_map(color, photo.float() / 255))


def test_equal_images_cost_nothing() -> None:
    color, _ = _images((1, 20, 20))
    loss = photometric_loss(color, color.detach())
    (grad,) = torch.autograd.grad(loss, color)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert grad.abs().max() < 1e-6


def test_a_gradient_weight_changes_no_value() -> None:
    color, target = _images((1, 20, 20))
    gradient_weight, _ = _weights((1, 20, 20))
    masked = photometric_loss(color, target, gradient_weight=gradient_weight)
    assert masked.item() == photometric_loss(color, target).item()


def test_masked_pixels_get_no_gradient_through_the_windows_of_others() -> None:
    color, target = _images((1, 40, 30))
    gradient_weight = torch.ones(1, 40, 30)
    gradient_weight[:, 10:30, 8:20] = 0
    loss = photometric_loss(color, target, gradient_weight=gradient_weight)
    (grad,) = torch.autograd.grad(loss, color)
    assert (grad[gradient_weight == 0] == 0).all()
    assert (grad[gradient_weight == 1] != 0).any(-1).all()


def test_weights_of_one_are_the_unweighted_loss() -> None:
    color, target = _images((1, 20, 20))
    ones = torch.ones(1, 20, 20)
    weighted = photometric_loss(color, target, gradient_weight=ones, value_weight=ones)
    plain = photometric_loss(color, target)
    assert weighted.item() == plain.item()
    assert torch.equal(
        torch.autograd.grad(weighted, color)[0], torch.autograd.grad(plain, color)[0]
    )


def test_a_fully_masked_view_is_finite_and_teaches_nothing() -> None:
    color, target = _images((1, 20, 20))
    zeros = torch.zeros(1, 20, 20)
    loss = photometric_loss(color, target, gradient_weight=zeros, value_weight=zeros)
    (grad,) = torch.autograd.grad(loss, color)
    assert loss.item() == 0
    assert (grad == 0).all()


def test_the_number_of_threads_changes_no_bit() -> None:
    color, target = _images((2, 120, 37))
    losses, grads = [], []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        losses.append(photometric_loss(color, target))
        grads.append(torch.autograd.grad(losses[-1], color)[0])
    torch.set_num_threads(1)
    assert len({loss.item() for loss in losses}) == 1
    assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_one_image_of_a_batch_does_not_leak_into_the_next() -> None:
    color, target = _images((2, 60, 11))
    together = ssim_map(color, target)
    apart = torch.cat([ssim_map(color[i : i + 1], target[i : i + 1]) for i in range(2)])
    assert torch.equal(together, apart)


def test_strided_images_are_read_correctly() -> None:
    color, target = _images((1, 12, 14))
    wide = torch.rand(1, 12, 14, 6, generator=torch.Generator().manual_seed(3))
    wide[..., ::2] = target
    assert photometric_loss(color, wide[..., ::2]).item() == photometric_loss(color, target).item()


def test_not_a_number_is_not_hidden() -> None:
    color, target = _images((1, 12, 14))
    with torch.no_grad():
        color[0, 3, 4, 1] = float("nan")
    assert photometric_loss(color, target).isnan()


@pytest.mark.parametrize(
    ("color", "target", "message"),
    [
        (torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), r"color must be float32 \[C, H, W, 3\]"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), "color must be"),
        (torch.zeros(1, 4, 4, 3).double(), torch.zeros(1, 4, 4, 3), "color must be float32"),
        (torch.zeros(1, 4, 4, 3), torch.zeros(1, 5, 4, 3), "target must have the size of color"),
        (torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3).long(), "target must be float32"),
        (torch.zeros(1, 0, 4, 3), torch.zeros(1, 0, 4, 3), "at least one pixel"),
    ],
)
def test_wrong_images_are_refused_by_name(color: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        photometric_loss(color, target)


@pytest.mark.parametrize("name", ["gradient_weight", "value_weight"])
def test_wrong_weights_are_refused_by_name(name: str) -> None:
    color, target = _images((1, 4, 4))
    with pytest.raises(RuntimeError, match=f"{name} must be float32"):
        photometric_loss(color, target, **{name: torch.ones(1, 4, 4, 1)})


def test_registration_holds() -> None:
    color, target = _images((1, 6, 5))
    gradient_weight, value_weight = _weights((1, 6, 5))
    op = torch.ops.twinsplat_raster.photometric.default
    torch.library.opcheck(op, (color, target, gradient_weight, value_weight, 0.2, True))
    torch.library.opcheck(torch.ops.twinsplat_raster.ssim_map.default, (color.detach(), target))
