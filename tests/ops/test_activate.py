"""Fused activations: equal to the reference in values and gradients, finite at the edges."""

import pytest
import torch
from diff_gaussian_rasterization import activate
from torch import Tensor

from gaussian_renderer import reference


def _inputs(
    count: int, filtered: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(count)
    log_scales = (2 * torch.randn(count, 3, generator=generator) - 3).to(device)
    logits = (4 * torch.randn(count, generator=generator)).to(device)
    filter_3d = (0.1 * torch.rand(count, generator=generator)).to(device) if filtered else None
    return log_scales.requires_grad_(), logits.requires_grad_(), filter_3d


@pytest.mark.parametrize("count", [0, 1, 255, 257, 20_000])
@pytest.mark.parametrize("filtered", [False, True])
def test_values_and_gradients_equal_the_reference(
    count: int, filtered: bool, device: torch.device
) -> None:
    log_scales, logits, filter_3d = _inputs(count, filtered, device)
    generator = torch.Generator().manual_seed(1)
    v_scales = torch.randn(count, 3, generator=generator).to(device)
    v_opacities = torch.randn(count, generator=generator).to(device)
    ours = activate(log_scales, logits, filter_3d)
    grads = torch.autograd.grad(
        [ours.scales, ours.opacities], [log_scales, logits], [v_scales, v_opacities]
    )
    exact = [t.detach().double().requires_grad_() for t in (log_scales, logits)]
    twin = reference.activate(*exact, None if filter_3d is None else filter_3d.double())
    expected = torch.autograd.grad(
        [twin.scales, twin.opacities], exact, [v_scales.double(), v_opacities.double()]
    )
    torch.testing.assert_close(ours.scales.double(), twin.scales, rtol=2e-6, atol=0)
    # exp(x) of a large |x| keeps the rounding of x itself.
    torch.testing.assert_close(ours.opacities.double(), twin.opacities, rtol=4e-6, atol=0)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_filter_of_zero_is_no_filter(device: torch.device) -> None:
    log_scales, logits, _ = _inputs(100, filtered=False, device=device)
    plain = activate(log_scales, logits)
    filtered = activate(log_scales, logits, torch.zeros(100, device=device))
    torch.testing.assert_close(filtered.scales, plain.scales, rtol=3e-7, atol=0)
    torch.testing.assert_close(filtered.opacities, plain.opacities, rtol=1e-6, atol=0)


def test_the_filter_keeps_the_integral_of_a_gaussian(device: torch.device) -> None:
    log_scales, logits, filter_3d = _inputs(100, filtered=True, device=device)
    plain, filtered = activate(log_scales, logits), activate(log_scales, logits, filter_3d)
    torch.testing.assert_close(
        filtered.opacities * filtered.scales.prod(-1),
        plain.opacities * plain.scales.prod(-1),
        rtol=1e-5,
        atol=0,
    )


def test_one_gradient_alone_is_enough(device: torch.device) -> None:
    log_scales, logits, filter_3d = _inputs(10, filtered=True, device=device)
    result = activate(log_scales, logits, filter_3d)
    (by_logits,) = torch.autograd.grad(result.scales.sum(), logits, retain_graph=True)
    assert (by_logits == 0).all()
    (by_scales,) = torch.autograd.grad(result.opacities.sum(), log_scales)
    assert (by_scales > 0).all()


def test_extreme_inputs_neither_overflow_too_early_nor_hide_nan(device: torch.device) -> None:
    extreme = torch.tensor([-1e9, -80.0, 0.0, 88.0, 89.0, float("nan")], device=device)
    result = activate(extreme[:, None].repeat(1, 3), extreme)
    torch.testing.assert_close(result.scales[1:5, 0], extreme[1:5].exp(), rtol=1e-5, atol=0)
    assert 0 <= result.scales[0, 0] < 1e-37
    assert 0 <= result.opacities[0] < 1e-37
    assert result.opacities[3].item() == 1
    assert result.scales[5].isnan().all()
    assert result.opacities[5].isnan()


def test_a_vanishing_scale_keeps_a_finite_gradient(device: torch.device) -> None:
    log_scales = torch.full((4, 3), -70.0, device=device, requires_grad=True)
    logits = torch.zeros(4, device=device, requires_grad=True)
    filter_3d = torch.tensor([0.0, 1e-30, 1e-3, 1.0], device=device)
    result = activate(log_scales, logits, filter_3d)
    (result.scales.sum() + result.opacities.sum()).backward()
    assert result.opacities.isfinite().all()
    assert log_scales.grad is not None
    assert log_scales.grad.isfinite().all()


@pytest.mark.parametrize(
    ("log_scales", "logits", "filter_3d", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3), None, r"log_scales must be float32 \[M, 3\]"),
        (torch.zeros(3, 3), torch.zeros(3, 1), None, r"opacity_logits must be float32 \[3\]"),
        (torch.zeros(3, 3), torch.zeros(3), torch.zeros(2), r"filter_3d must be float32 \[3\]"),
        (torch.zeros(3, 3).double(), torch.zeros(3), None, "log_scales must be float32"),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    log_scales: Tensor, logits: Tensor, filter_3d: Tensor | None, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        activate(log_scales, logits, filter_3d)


def test_registration_holds(device: torch.device) -> None:
    inputs = _inputs(5, filtered=True, device=device)
    torch.library.opcheck(torch.ops.twinsplat_raster.activate.default, inputs)
