"""The fused L1 and SSIM: equal to the reference, and deaf where it is told to be."""

import pytest
import torch
from diff_gaussian_rasterization import photometric_loss, photometric_losses, ssim_map
from skimage.metrics import structural_similarity
from torch import Tensor

from gaussian_renderer import reference

CPU = torch.device("cpu")
SIZES = [(1, 1, 1), (2, 5, 3), (1, 17, 33), (1, 51, 20), (3, 101, 7), (1, 20, 131)]


def _images(
    size: tuple[int, int, int], device: torch.device = CPU, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    color = torch.rand(*size, 3, generator=generator).to(device)
    return color.requires_grad_(), torch.rand(*size, 3, generator=generator).to(device)


def _weights(size: tuple[int, int, int], device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    gradient_weight = (torch.rand(*size, generator=generator) > 0.4).float()
    return gradient_weight.to(device), torch.rand(*size, generator=generator).to(device)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", ["none", "gradient", "value", "both"])
@pytest.mark.parametrize("lambda_dssim", [0.0, 0.2, 1.0])
def test_value_and_gradient_equal_the_reference(
    size: tuple[int, int, int], weights: str, lambda_dssim: float, device: torch.device
) -> None:
    color, target = _images(size, device)
    gradient_weight, value_weight = _weights(size, device)
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
def test_the_map_equals_the_reference(size: tuple[int, int, int], device: torch.device) -> None:
    color, target = _images(size, device)
    expected = reference.ssim_map(color.detach().double(), target.double())
    torch.testing.assert_close(ssim_map(color, target).double(), expected, rtol=0, atol=1e-5)


def test_the_map_is_the_published_one_inside_the_border(device: torch.device) -> None:
    color, target = _images((1, 30, 40), device)
    _, full = structural_similarity(
        color[0].detach().cpu().double().numpy(),
        target[0].cpu().double().numpy(),
        channel_axis=2,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    expected = torch.from_numpy(full).mean(-1)[5:-5, 5:-5]
    ours = ssim_map(color, target)[0, 5:-5, 5:-5].double().cpu()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_bytes_are_read_as_fractions_of_255(device: torch.device) -> None:
    color, target = _images((2, 12, 9), device)
    photo = (target * 255).to(torch.uint8)
    loss = photometric_loss(color, photo)
    fractions = (photo.cpu().float() / 255).to(device)  # a GPU's own / 255 is an ulp off
    expected = photometric_loss(color, fractions)
    assert loss.item() == expected.item()
    for ours, theirs in zip(
        torch.autograd.grad(loss, color), torch.autograd.grad(expected, color), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(ssim_map(color, photo), ssim_map(color, fractions))


def test_equal_images_cost_nothing(device: torch.device) -> None:
    color, _ = _images((1, 20, 20), device)
    loss = photometric_loss(color, color.detach())
    (grad,) = torch.autograd.grad(loss, color)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert grad.abs().max() < 1e-6


def test_a_gradient_weight_changes_no_value(device: torch.device) -> None:
    color, target = _images((1, 20, 20), device)
    gradient_weight, _ = _weights((1, 20, 20), device)
    masked = photometric_loss(color, target, gradient_weight=gradient_weight)
    assert masked.item() == photometric_loss(color, target).item()


def test_masked_pixels_get_no_gradient_through_the_windows_of_others(device: torch.device) -> None:
    color, target = _images((1, 40, 30), device)
    gradient_weight = torch.ones(1, 40, 30, device=device)
    gradient_weight[:, 10:30, 8:20] = 0
    loss = photometric_loss(color, target, gradient_weight=gradient_weight)
    (grad,) = torch.autograd.grad(loss, color)
    assert (grad[gradient_weight == 0] == 0).all()
    assert (grad[gradient_weight == 1] != 0).any(-1).all()


def test_weights_of_one_are_the_unweighted_loss(device: torch.device) -> None:
    color, target = _images((1, 20, 20), device)
    ones = torch.ones(1, 20, 20, device=device)
    weighted = photometric_loss(color, target, gradient_weight=ones, value_weight=ones)
    plain = photometric_loss(color, target)
    assert weighted.item() == plain.item()
    assert torch.equal(
        torch.autograd.grad(weighted, color)[0], torch.autograd.grad(plain, color)[0]
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("photo", ["floats", "bytes"])
@pytest.mark.parametrize("lambda_dssim", [0.0, 0.2, 1.0])
def test_a_composite_is_the_loss_against_a_mixed_target(
    size: tuple[int, int, int], photo: str, lambda_dssim: float, device: torch.device
) -> None:
    color, target = _images(size, device)
    hard, soft = _weights(size, device)
    weight = hard * soft  # 0, and all between 0 and 1
    if photo == "bytes":
        target = (target * 255).to(torch.uint8)
    loss = photometric_loss(
        color, target, lambda_dssim=lambda_dssim, gradient_weight=weight, composite=True
    )
    (grad,) = torch.autograd.grad(loss, color)
    exact = color.detach().double().requires_grad_()
    fractions = target.double() / (255 if photo == "bytes" else 1)
    expected = reference.photometric_loss(
        exact,
        exact.detach().lerp(fractions, weight.double()[..., None]),
        lambda_dssim=lambda_dssim,
        gradient_weight=weight.double(),
    )
    (expected_grad,) = torch.autograd.grad(expected, exact)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    scale = expected_grad.abs().max().item()
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-4, atol=2e-6 * scale + 1e-12)


def test_a_composite_never_sees_a_distrusted_target(device: torch.device) -> None:
    color, target = _images((1, 40, 30), device)
    weight = torch.ones(1, 40, 30, device=device)
    weight[:, 10:30, 8:20] = 0
    other = torch.where(weight[..., None] == 0, 1 - target, target)
    losses = [
        photometric_loss(color, t, gradient_weight=weight, composite=True) for t in (target, other)
    ]
    assert losses[0].item() == losses[1].item()
    grads = [torch.autograd.grad(loss, color)[0] for loss in losses]
    assert torch.equal(grads[0], grads[1])
    plain = [photometric_loss(color, t, gradient_weight=weight) for t in (target, other)]
    assert plain[0].item() != plain[1].item()


def test_a_composite_that_trusts_everything_is_the_plain_loss(device: torch.device) -> None:
    color, target = _images((1, 20, 20), device)
    ones = torch.ones(1, 20, 20, device=device)
    plain = photometric_loss(color, target)
    for weight in (ones, None):
        loss = photometric_loss(color, target, gradient_weight=weight, composite=True)
        assert loss.item() == plain.item()
        (grad,) = torch.autograd.grad(loss, color)
        assert torch.equal(grad, torch.autograd.grad(plain, color, retain_graph=True)[0])


def test_a_fully_masked_view_is_finite_and_teaches_nothing(device: torch.device) -> None:
    color, target = _images((1, 20, 20), device)
    zeros = torch.zeros(1, 20, 20, device=device)
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


def test_the_same_call_gives_the_same_bits(device: torch.device) -> None:
    color, target = _images((2, 120, 137), device)
    losses = [photometric_loss(color, target) for _ in range(3)]
    grads = [torch.autograd.grad(loss, color)[0] for loss in losses]
    assert len({loss.item() for loss in losses}) == 1
    assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_a_captured_loss_reads_new_images_at_each_replay(cuda: torch.device) -> None:
    color, target = _images((1, 50, 70), cuda)
    weight, _ = _weights((1, 50, 70), cuda)
    op = torch.ops.twinsplat_raster.photometric
    held = color.detach().clone()

    def both() -> tuple[Tensor, Tensor, Tensor]:
        return *op([held], target, [weight], [], 0.2, True, True), ssim_map(held, target)

    both()  # a kernel is loaded at its first use, which a capture does not allow
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for seed in (1, 2):
        held.copy_(_images((1, 50, 70), cuda, seed)[0].detach())
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, both(), strict=True))


def test_one_image_of_a_batch_does_not_leak_into_the_next(device: torch.device) -> None:
    color, target = _images((2, 60, 11), device)
    together = ssim_map(color, target)
    apart = torch.cat([ssim_map(color[i : i + 1], target[i : i + 1]) for i in range(2)])
    assert torch.equal(together, apart)


def test_strided_images_are_read_correctly(device: torch.device) -> None:
    color, target = _images((1, 12, 14), device)
    wide = torch.rand(1, 12, 14, 6, generator=torch.Generator().manual_seed(3)).to(device)
    wide[..., ::2] = target
    assert photometric_loss(color, wide[..., ::2]).item() == photometric_loss(color, target).item()


def test_not_a_number_is_not_hidden(device: torch.device) -> None:
    color, target = _images((1, 12, 14), device)
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


def test_registration_holds(device: torch.device) -> None:
    color, target = _images((1, 6, 5), device)
    gradient_weight, value_weight = _weights((1, 6, 5), device)
    op = torch.ops.twinsplat_raster.photometric.default
    other = color.detach().flip(1).requires_grad_()
    weights = [gradient_weight] * 2, [value_weight] * 2
    torch.library.opcheck(op, ([color, other], target, *weights, 0.2, True, True))
    torch.library.opcheck(torch.ops.twinsplat_raster.ssim_map.default, (color.detach(), target))


@pytest.mark.parametrize("composite", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 51, 20), (3, 20, 131)])
def test_several_pictures_cost_and_learn_what_each_does_alone(
    size: tuple[int, int, int], composite: bool, device: torch.device
) -> None:
    one, target = _images(size, device)
    colors = [one, one.detach().flip(2).requires_grad_(), one.detach().roll(1, 1).requires_grad_()]
    weights = [torch.full(size, share, device=device) for share in (0.2, 1.0, 0.7)]
    weights[0][:, :1] = 0
    values = photometric_losses(colors, target, gradient_weights=weights, composite=composite)
    together = torch.autograd.grad(values[0] + 2 * values[1] + 3 * values[2], colors)
    for i, color in enumerate(colors):
        alone = photometric_loss(color, target, gradient_weight=weights[i], composite=composite)
        assert values[i].item() == pytest.approx(alone.item(), rel=1e-6)
        (grad,) = torch.autograd.grad((i + 1) * alone, color)
        torch.testing.assert_close(together[i], grad, rtol=1e-5, atol=1e-9)


def test_weights_must_be_as_many_as_pictures(device: torch.device) -> None:
    color, target = _images((1, 4, 4), device)
    with pytest.raises(RuntimeError, match="one for each of the 2 colors, got 1"):
        photometric_losses([color, color], target, gradient_weights=[torch.ones(1, 4, 4)])
