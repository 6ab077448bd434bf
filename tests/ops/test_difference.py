"""The mean absolute difference: torch's value and gradient, on every device."""

import pytest
import torch
from diff_gaussian_rasterization import mean_difference
from torch import Tensor
from torch.nn.functional import l1_loss


def _both(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    a, b = torch.rand(2, count, 3, generator=generator).to(device)
    b[0] = a[0]  # where they are equal, neither learns
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("count", [1, 100, 70_001])
@pytest.mark.parametrize("learns", ["a", "b", "both"])
def test_value_and_gradients_are_those_of_l1_loss(
    count: int, learns: str, device: torch.device
) -> None:
    a, b = _both(count, device)
    a.requires_grad_(learns != "b")
    b.requires_grad_(learns != "a")
    leaves = [leaf for leaf in (a, b) if leaf.requires_grad]
    value, expected = mean_difference(a, b), l1_loss(a.double(), b.double())
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    ours = torch.autograd.grad(3 * value, leaves)
    theirs = torch.autograd.grad(3 * expected, leaves)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-6, atol=0)


def test_it_is_registered_soundly(device: torch.device) -> None:
    a, b = _both(5, device)
    torch.library.opcheck(torch.ops.twinsplat_raster.mean_difference.default, (a, b))


def test_tensors_of_two_sizes_are_refused(device: torch.device) -> None:
    a, b = _both(5, device)
    with pytest.raises(RuntimeError, match="one size"):
        mean_difference(a, b[:4])
