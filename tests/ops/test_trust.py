"""The learnt trust on a GPU: what torch's operators and `adam_step_` give."""

import pytest
import torch
from diff_gaussian_rasterization import (
    TrustBank,
    adam_rates,
    adam_step_,
    trust_loss,
    trust_step_,
)
from torch import Tensor

SHARPNESS = 8.0
SIZES = [(1, 1, 1), (2, 37, 41), (3, 5, 1030)]


def _inputs(size: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size[2])
    logits = torch.randn(*size, generator=generator) / 4
    residual = torch.rand(*size, generator=generator)
    low = torch.linspace(0.1, 0.3, size[0])
    return logits, residual, low, torch.full_like(low, 0.3)


@pytest.mark.parametrize("size", SIZES)
def test_value_trust_and_gradient_equal_torchs(
    size: tuple[int, int, int], cuda: torch.device
) -> None:
    logits, residual, low, span = _inputs(size)
    exact = logits.double().requires_grad_()
    trust = torch.sigmoid(SHARPNESS * exact)
    excess = ((residual - low[:, None, None]) / span[:, None, None]).clamp(0, 1)
    value = (trust - (1 - excess)).abs().mean()
    (slopes,) = torch.autograd.grad(3 * value, exact)
    own = logits.to(cuda).requires_grad_()
    loss, weight = trust_loss(
        own, residual.to(cuda), low=low.to(cuda), span=span.to(cuda), sharpness=SHARPNESS
    )
    (3 * loss).backward()
    assert not weight.requires_grad
    assert loss.item() == pytest.approx(value.item(), rel=1e-6)
    torch.testing.assert_close(weight.cpu().double(), trust.detach(), rtol=1e-5, atol=1e-6)
    assert own.grad is not None
    scale = float(slopes.abs().max())
    torch.testing.assert_close(own.grad.cpu().double(), slopes, rtol=1e-4, atol=1e-5 * scale)


def _bank(device: torch.device) -> TrustBank:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 6, 50, generator=generator)
    count = torch.tensor([0, 3, 1, 70])
    moments = torch.randn(2, 4, 6, 50, generator=generator) / 10
    tensors = (logits, moments[0], moments[1].square(), count)
    return TrustBank(*(tensor.to(device) for tensor in tensors))


def _rates(device: torch.device) -> Tensor:
    """Of the first fifty updates."""
    return torch.cat([adam_rates([0.1], step) for step in range(1, 51)]).to(device)


def _step(bank: TrustBank, rows: list[int], grad: Tensor, frozen: Tensor | None = None) -> None:
    device = bank.logits.device
    trust_step_(
        bank,
        torch.tensor(rows, device=device),
        grad.to(device),
        _rates(device),
        beta1=0.9,
        beta2=0.999,
        eps=1e-15,
        most=1.5,
        frozen=frozen,
    )


def test_each_photo_is_moved_by_adam_with_its_own_count(cuda: torch.device) -> None:
    rows, grad = [3, 0, 3], torch.randn(3, 6, 50, generator=torch.Generator().manual_seed(1))
    expected, ours = _bank(torch.device("cpu")), _bank(cuda)
    sums = {3: grad[0] + grad[2], 0: grad[1]}
    for row, both in sums.items():
        update = min(int(expected.num_updates[row]) + 1, 50)
        one = [t[row].clone() for t in (expected.logits, expected.exp_avg, expected.exp_avg_sq)]
        adam_step_(one[:1], [both], one[1:2], one[2:], rates=adam_rates([0.1], update))
        for tensor, new in zip(
            (expected.logits, expected.exp_avg, expected.exp_avg_sq), one, strict=True
        ):
            tensor[row] = new
        expected.logits[row].clamp_(-1.5, 1.5)
        expected.num_updates[row] += 1
    _step(ours, rows, grad)
    for name, tensor in vars(ours).items():
        torch.testing.assert_close(tensor.cpu(), getattr(expected, name), rtol=1e-6, atol=1e-6)
    assert ours.num_updates.tolist() == [1, 3, 1, 71]


def test_a_frozen_step_changes_nothing(cuda: torch.device) -> None:
    bank, before = _bank(cuda), _bank(cuda)
    frozen = torch.ones(1, dtype=torch.int32, device=cuda)
    _step(bank, [1, 2], torch.randn(2, 6, 50), frozen)
    for name, tensor in vars(bank).items():
        assert torch.equal(tensor, getattr(before, name))


def test_banks_of_other_kinds_are_refused(cuda: torch.device) -> None:
    bank = _bank(cuda)
    wrong = TrustBank(bank.logits, bank.exp_avg[:2], bank.exp_avg_sq, bank.num_updates)
    with pytest.raises(RuntimeError, match="exp_avg"):
        _step(wrong, [1], torch.randn(1, 6, 50))
