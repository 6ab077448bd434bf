"""The fused Adam: torch's arithmetic, all tensors in one call."""

import pytest
import torch
from diff_gaussian_rasterization import adam_rates, adam_step_
from torch import Tensor

SHAPES = [(7, 3), (1,), (0, 4), (5, 15, 3), (40_000,)]
RATES = [1e-3, 0.05, 0.1, 2.5e-3, 1e-4]
ROWS = 1000
ROW_SHAPES = [(ROWS, 3), (ROWS,), (ROWS, 4), (ROWS, 15, 3)]
ROW_RATES = [1e-3, 0.05, 0.1, 2.5e-3]


def _tensors(
    seed: int, device: torch.device, shapes: list[tuple[int, ...]] = SHAPES
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def _state(
    device: torch.device, shapes: list[tuple[int, ...]] = ROW_SHAPES
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters, gradients and both means as in the middle of a run."""
    squares = [t.square() for t in _tensors(3, device, shapes)]
    return (*(_tensors(seed, device, shapes) for seed in range(3)), squares)


def _copies(*lists: list[Tensor]) -> tuple[list[Tensor], ...]:
    return tuple([t.clone() for t in tensors] for tensors in lists)


def _all_equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-15), (0.8, 0.99, 1e-8)])
def test_twenty_steps_equal_torch(
    beta1: float, beta2: float, eps: float, device: torch.device
) -> None:
    params = _tensors(0, device)
    twins = [p.clone().requires_grad_() for p in params]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(twins, RATES, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(beta1, beta2), eps=eps)
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for step in range(1, 21):
        grads = [10 ** (-step / 4) * g for g in _tensors(step, device)]
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


def test_a_gradient_that_was_always_zero_moves_nothing(device: torch.device) -> None:
    param, zeros = torch.ones(9, device=device), torch.zeros(9, device=device)
    adam_step_([param], [zeros], [zeros.clone()], [zeros.clone()], [0.1], 1)
    assert (param == 1).all()


def test_a_parameter_that_asks_for_gradients_is_updated_in_place(device: torch.device) -> None:
    param = torch.ones(9, device=device, requires_grad=True)
    grad, mean, square = torch.ones_like(param), torch.zeros_like(param), torch.zeros_like(param)
    address = param.data_ptr()
    adam_step_([param], [grad], [mean.detach()], [square.detach()], [0.1], 1)
    assert param.data_ptr() == address
    assert param.requires_grad
    torch.testing.assert_close(param.detach(), torch.full_like(grad, 0.9))


@pytest.mark.parametrize("changed", ["param", "average"])
def test_autograd_knows_what_changed(changed: str) -> None:
    tensors = {name: torch.ones(3, requires_grad=True) for name in ("param", "average")}
    square = (tensors[changed] * tensors[changed]).sum()
    grads, mean, squares = (torch.ones(3) for _ in range(3))
    adam_step_(
        [tensors["param"]],
        [grads],
        [mean],
        [squares],
        [0.1],
        1,
        averages=[tensors["average"]],
        decay=0.5,
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


def test_the_number_of_threads_changes_no_bit() -> None:
    cpu = torch.device("cpu")
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params, means, squares = _tensors(0, cpu), _tensors(1, cpu), _tensors(2, cpu)
        squares = [t.abs() for t in squares]
        adam_step_(params, _tensors(3, cpu), means, squares, RATES, 5)
        results.append(torch.cat([t.flatten() for t in (*params, *means, *squares)]))
    torch.set_num_threads(1)
    assert torch.equal(results[0], results[1])


def test_where_memory_begins_changes_no_bit(device: torch.device) -> None:
    aligned = _state(device)
    shifted = _copies(*aligned)
    for tensors in shifted:  # views that begin one float into their memory
        for i, t in enumerate(tensors):
            room = torch.empty(t.numel() + 1, device=device)
            room[1:] = t.flatten()
            tensors[i] = room[1:].view(t.shape)
    adam_step_(*aligned, ROW_RATES, 3)
    adam_step_(*shifted, ROW_RATES, 3)
    for ours, theirs in zip(aligned, shifted, strict=True):
        assert _all_equal(ours, theirs)


def test_many_tensors_are_stepped_as_each_alone(device: torch.device) -> None:
    shapes = [(5 + i, 3) for i in range(40)]
    together = _state(device, shapes)
    apart = _copies(*together)
    lrs = [0.01 * (i + 1) for i in range(40)]
    adam_step_(*together, lrs, 4)
    for i, lr in enumerate(lrs):
        adam_step_(*([tensors[i]] for tensors in apart), [lr], 4)
    for ours, theirs in zip(together, apart, strict=True):
        assert _all_equal(ours, theirs)


def test_rates_say_what_lrs_and_step_say(device: torch.device) -> None:
    by_step = _state(device)
    by_rates, on_device = _copies(*by_step), _copies(*by_step)
    adam_step_(*by_step, ROW_RATES, 7, 0.8, 0.99)
    rates = adam_rates(ROW_RATES, 7, 0.8, 0.99)
    assert rates.dtype == torch.float32
    adam_step_(*by_rates, beta1=0.8, beta2=0.99, rates=rates)
    adam_step_(*on_device, beta1=0.8, beta2=0.99, rates=rates.to(device))
    assert _all_equal(by_step[0], by_rates[0])
    assert _all_equal(by_step[0], on_device[0])


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.8, 0.999, 1.0])
def test_averages_move_as_lerp_after_the_update(decay: float, device: torch.device) -> None:
    state = _state(device)
    plain = _copies(*state)
    averages = _tensors(9, device, ROW_SHAPES)
    before = [t.clone() for t in averages]
    adam_step_(*state, ROW_RATES, 3, averages=averages, decay=decay)
    adam_step_(*plain, ROW_RATES, 3)
    assert _all_equal(state[0], plain[0])
    for average, old, param in zip(averages, before, state[0], strict=True):
        # Torch contracts the product and the sum into one rounding.
        torch.testing.assert_close(average, old.lerp(param, 1 - decay), rtol=1e-6, atol=1e-6)
    if decay == 0:
        assert _all_equal(averages, state[0])
    if decay == 1:
        assert _all_equal(averages, before)


@pytest.mark.parametrize("kind", [torch.bool, torch.int32])
def test_visible_rows_alone_are_updated(kind: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(5)
    visible = (torch.rand(ROWS, generator=generator) > 0.6).to(device)
    state = _state(device)
    before = _copies(*state)
    everywhere = _copies(*state)
    averages = _tensors(9, device, ROW_SHAPES)
    old_averages = [t.clone() for t in averages]
    radii = visible if kind == torch.bool else visible.int() * 17
    adam_step_(*state, ROW_RATES, 3, visible=radii, averages=averages, decay=0.8)
    adam_step_(*everywhere, ROW_RATES, 3)
    for kind_of, (ours, old, full) in enumerate(zip(state, before, everywhere, strict=True)):
        for mine, was, would_be in zip(ours, old, full, strict=True):
            assert torch.equal(mine[~visible], was[~visible])
            assert torch.equal(mine[visible], would_be[visible])
            assert kind_of == 1 or not torch.equal(mine, was)  # all but the gradients move
    for average, old, param in zip(averages, old_averages, state[0], strict=True):
        torch.testing.assert_close(average, old.lerp(param, 0.2), rtol=1e-6, atol=1e-6)


def test_a_frozen_step_changes_nothing(device: torch.device) -> None:
    state, averages = _state(device), _tensors(9, device, ROW_SHAPES)
    before = _copies(*state, averages)
    frozen = torch.ones(1, dtype=torch.int32, device=device)
    adam_step_(*state, ROW_RATES, 3, averages=averages, decay=0.8, frozen=frozen)
    for ours, old in zip((*state, averages), before, strict=True):
        assert _all_equal(ours, old)
    adam_step_(*state, ROW_RATES, 3, averages=averages, decay=0.8, frozen=frozen.zero_())
    assert not torch.equal(state[0][0], before[0][0])


def test_the_same_step_gives_the_same_bits(device: torch.device) -> None:
    first = _state(device)
    second = _copies(*first)
    for state in (first, second):
        for step in range(1, 6):
            adam_step_(*state, ROW_RATES, step)
    assert _all_equal(first[0], second[0])


def test_a_captured_step_reads_rates_and_flag_at_each_replay(cuda: torch.device) -> None:
    state, averages = _state(cuda), _tensors(9, cuda, ROW_SHAPES)
    twin, twin_averages = _copies(*state), _tensors(9, cuda, ROW_SHAPES)
    visible = (torch.arange(ROWS, device=cuda) % 3 != 0).int()
    rates = adam_rates(ROW_RATES, 1).to(cuda)
    frozen = torch.ones(1, dtype=torch.int32, device=cuda)

    def step_once() -> None:
        adam_step_(
            *state, rates=rates, averages=averages, decay=0.8, visible=visible, frozen=frozen
        )

    step_once()  # frozen; a kernel is loaded at its first use, which a capture does not allow
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step_once()
    frozen.zero_()
    for step in range(1, 4):
        rates.copy_(adam_rates(ROW_RATES, step))
        graph.replay()
        adam_step_(*twin, ROW_RATES, step, averages=twin_averages, decay=0.8, visible=visible)
    frozen.fill_(1)
    graph.replay()
    assert _all_equal(state[0], twin[0])
    assert _all_equal(averages, twin_averages)


def _one(tensor: Tensor) -> list[Tensor]:
    return [tensor]


def test_wrong_tensors_are_refused_by_name() -> None:
    good = torch.zeros(4, 3)
    three = (_one(good), _one(good), _one(good))
    with pytest.raises(RuntimeError, match=r"grads\[0\] must be contiguous float32 \[4, 3\]"):
        adam_step_(_one(good), _one(torch.zeros(3, 4)), _one(good), _one(good), [0.1], 1)
    with pytest.raises(RuntimeError, match=r"params\[0\] must be contiguous .*non-contiguous"):
        adam_step_(_one(good.T), _one(good.T), _one(good.T), _one(good.T), [0.1], 1)
    with pytest.raises(RuntimeError, match="equally many"):
        adam_step_(_one(good), [], _one(good), _one(good), [0.1], 1)
    with pytest.raises(RuntimeError, match=r"averages\[0\] must be contiguous float32 \[4, 3\]"):
        adam_step_(_one(good), *three, [0.1], 1, averages=_one(torch.zeros(4)))
    with pytest.raises(RuntimeError, match="averages must be none or one for each"):
        adam_step_(_one(good), *three, [0.1], 1, averages=[good, good])
    with pytest.raises(RuntimeError, match="visible must be int32 or bool"):
        adam_step_(_one(good), *three, [0.1], 1, visible=torch.ones(4))
    with pytest.raises(RuntimeError, match=r"params\[0\] must have one row for each of the 5"):
        adam_step_(_one(good), *three, [0.1], 1, visible=torch.ones(5).bool())
    with pytest.raises(RuntimeError, match=r"frozen must be int32 \[1\]"):
        adam_step_(_one(good), *three, [0.1], 1, frozen=torch.zeros(2, dtype=torch.int32))


def test_wrong_numbers_are_refused_by_name() -> None:
    four = [_one(torch.zeros(4, 3))] * 4
    with pytest.raises(ValueError, match="step counts from 1, got 0"):
        adam_step_(*four, [0.1], 0)
    with pytest.raises(RuntimeError, match=r"rates must be float32 \[1, 2\]"):
        adam_step_(*four, [0.1, 0.2], 1)
    with pytest.raises(RuntimeError, match=r"decay must lie in \[0, 1\], got 1.5"):
        adam_step_(*four, [0.1], 1, decay=1.5)
    with pytest.raises(ValueError, match="either rates, or lrs and step"):
        adam_step_(*four, [0.1])
    with pytest.raises(ValueError, match="either rates, or lrs and step"):
        adam_step_(*four, [0.1], 1, rates=adam_rates([0.1], 1))


def test_registration_holds(device: torch.device) -> None:
    tensors = [[torch.rand(4, 3), torch.rand(4)] for _ in range(5)]
    tensors = [[t.to(device) for t in pair] for pair in tensors]
    visible = torch.tensor([1, 0, 0, 5], dtype=torch.int32, device=device)
    frozen = torch.zeros(1, dtype=torch.int32, device=device)
    rates = adam_rates([0.1, 0.2], 3).to(device)
    op = torch.ops.twinsplat_raster.adam_step_.default
    torch.library.opcheck(op, (*tensors, rates, 0.9, 0.999, 1e-15, 0.8, visible, frozen))
    torch.library.opcheck(op, (*tensors[:4], [], rates, 0.9, 0.999, 1e-15, 0.0, None, None))


def test_moments_that_decayed_to_nothing_move_nothing(device: torch.device) -> None:
    param, tiny = torch.ones(100, device=device), torch.full((100,), 1e-40, device=device)
    adam_step_([param], [torch.zeros_like(tiny)], [tiny.clone()], [tiny.clone()], [0.1], 1000)
    assert (param == 1).all()


def test_the_arithmetic_of_the_caller_is_not_flushed() -> None:
    tiny = torch.full((100,), 1e-40)
    adam_step_([torch.ones(100)], [tiny], [tiny.clone()], [tiny.clone()], [0.1], 1000)
    assert (tiny * 2 > tiny).all()
