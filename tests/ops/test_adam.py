"""The fused Adam: torch's arithmetic, all tensors in one call."""

import pytest
import torch
from diff_gaussian_rasterization import adam_step_
from torch import Tensor

SHAPES = [(7, 3), (1,), (0, 4), (5, 15, 3), (40_000,)]
RATES = [1e-3, 0.05, 0.1, 2.5e-3, 1e-4]


def _tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-15), (0.8, 0.99, 1e-8)])
def test_twenty_steps_equal_torch(beta1: float, beta2: float, eps: float) -> None:
    params = _tensors(0)
    twins = [p.clone().requires_grad_() for p in params]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(twins, RATES, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(beta1, beta2), eps=eps)
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for step in range(1, 21):
        grads = [10 ** (-step / 4) * g for g in _tensors(step)]
        for twin, grad in zip(twins, grads, strict=True):
            twin.grad = grad.clone()
        optimizer.step()
        adam_step_(params, grads, means, squares, RATES, step, beta1, beta2, eps)
    for param, twin, mean, square in zip(params, twins, means, squares, strict=True):
        state = optimizer.state[twin]
        torch.testing.assert_close(param, twin.detach(), rtol=1e-6, atol=1e-6)
        # A mean that crosses 0 keeps the rounding of its terms, which are up to 0.5.
        torch.testing.assert_close(mean, state["exp_avg"], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(square, state["exp_avg_sq"], rtol=1e-6, atol=1e-12)


def test_a_gradient_that_was_always_zero_moves_nothing() -> None:
    param, zeros = torch.ones(9), torch.zeros(9)
    adam_step_([param], [zeros], [zeros.clone()], [zeros.clone()], [0.1], 1)
    assert torch.equal(param, torch.ones(9))


def test_a_parameter_that_asks_for_gradients_is_updated_in_place() -> None:
    param = torch.ones(9, requires_grad=True)
    address = param.data_ptr()
    adam_step_([param], [torch.ones(9)], [torch.zeros(9)], [torch.zeros(9)], [0.1], 1)
    assert param.data_ptr() == address
    assert param.requires_grad
    torch.testing.assert_close(param.detach(), torch.full((9,), 0.9))


def test_autograd_knows_that_a_parameter_changed() -> None:
    param = torch.ones(3, requires_grad=True)
    square = (param * param).sum()
    adam_step_([param], [torch.ones(3)], [torch.zeros(3)], [torch.zeros(3)], [0.1], 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


def test_the_number_of_threads_changes_no_bit() -> None:
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params, means, squares = _tensors(0), _tensors(1), [t.abs() for t in _tensors(2)]
        adam_step_(params, _tensors(3), means, squares, RATES, 5)
        results.append(torch.cat([t.flatten() for t in (*params, *means, *squares)]))
    torch.set_num_threads(1)
    assert torch.equal(results[0], results[1])


def _one(tensor: Tensor) -> list[Tensor]:
    return [tensor]


def test_wrong_tensors_are_refused_by_name() -> None:
    good = torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match=r"grads\[0\] must be contiguous float32 \[4, 3\]"):
        adam_step_(_one(good), _one(torch.zeros(3, 4)), _one(good), _one(good), [0.1], 1)
    with pytest.raises(RuntimeError, match=r"params\[0\] must be contiguous .*non-contiguous"):
        adam_step_(_one(good.T), _one(good.T), _one(good.T), _one(good.T), [0.1], 1)
    with pytest.raises(RuntimeError, match="equally many"):
        adam_step_(_one(good), [], _one(good), _one(good), [0.1], 1)
    with pytest.raises(RuntimeError, match="step counts from 1, got 0"):
        adam_step_(_one(good), _one(good), _one(good), _one(good), [0.1], 0)


def test_registration_holds() -> None:
    tensors = [[torch.rand(4, 3), torch.rand(5)] for _ in range(4)]
    op = torch.ops.twinsplat_raster.adam_step_.default
    torch.library.opcheck(op, (*tensors, [0.1, 0.2], 3, 0.9, 0.999, 1e-15))


def test_moments_that_decayed_to_nothing_move_nothing() -> None:
    param, tiny = torch.ones(100), torch.full((100,), 1e-40)
    adam_step_([param], [torch.zeros(100)], [tiny.clone()], [tiny.clone()], [0.1], 1000)
    assert torch.equal(param, torch.ones(100))
    assert (tiny * 2 > tiny).all()  # the caller's own arithmetic is not flushed
