"""What a step notes down: growth statistics equal to the obvious ones, and a flag that holds."""

import pytest
import torch
from diff_gaussian_rasterization import count_step_, observe_, watch_
from torch import Tensor

WIDTH, HEIGHT = 60, 40


def _ints(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _view(count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Both gradients and the radii of one view."""
    generator = torch.Generator().manual_seed(count)
    v_means2d = torch.randn(count, 2, generator=generator)
    v_absgrad = torch.rand(count, 2, generator=generator)
    radii = torch.randint(-1, 3, (count,), generator=generator, dtype=torch.int32)
    return v_means2d.to(device), v_absgrad.to(device), radii.to(device)


def _sums(count: int, device: torch.device) -> list[Tensor]:
    """grad_sum, absgrad_sum and count in the middle of an interval."""
    return [i + torch.arange(count, dtype=torch.float32, device=device) for i in range(3)]


@pytest.mark.parametrize("count", [0, 1, 257, 40_000])
def test_statistics_equal_the_obvious_ones(count: int, device: torch.device) -> None:
    v_means2d, v_absgrad, radii = _view(count, device)
    grad_sum, absgrad_sum, views = _sums(count, device)
    observe_(grad_sum, absgrad_sum, views, v_means2d, v_absgrad, radii, WIDTH, HEIGHT)
    expected_grad, expected_absgrad, expected_views = _sums(count, device)
    half = torch.tensor([WIDTH / 2, HEIGHT / 2], device=device)
    visible = radii > 0
    torch.testing.assert_close(grad_sum, expected_grad + (v_means2d * half).norm(dim=-1) * visible)
    torch.testing.assert_close(
        absgrad_sum, expected_absgrad + (v_absgrad * half).norm(dim=-1) * visible
    )
    assert torch.equal(views, expected_views + visible)


def test_absolute_gradients_may_be_left_out(device: torch.device) -> None:
    v_means2d, v_absgrad, radii = _view(100, device)
    with_both, without = _sums(100, device), _sums(100, device)
    observe_(*with_both, v_means2d, v_absgrad, radii, WIDTH, HEIGHT)
    observe_(without[0], None, without[2], v_means2d, None, radii, WIDTH, HEIGHT)
    assert torch.equal(without[0], with_both[0])
    assert torch.equal(without[2], with_both[2])


def test_unseen_rows_keep_out_numbers_that_are_not_finite(device: torch.device) -> None:
    v_means2d, v_absgrad, radii = _view(100, device)
    v_means2d[radii <= 0] = float("nan")
    sums = _sums(100, device)
    observe_(*sums, v_means2d, v_absgrad, radii, WIDTH, HEIGHT)
    assert sums[0].isfinite().all()


def test_a_frozen_view_is_not_noted(device: torch.device) -> None:
    v_means2d, v_absgrad, radii = _view(100, device)
    sums, frozen = _sums(100, device), _ints([1], device)
    observe_(*sums, v_means2d, v_absgrad, radii, WIDTH, HEIGHT, frozen)
    assert all(torch.equal(a, b) for a, b in zip(sums, _sums(100, device), strict=True))
    observe_(*sums, v_means2d, v_absgrad, radii, WIDTH, HEIGHT, frozen.zero_())
    assert not torch.equal(sums[0], _sums(100, device)[0])


def test_the_number_of_threads_changes_no_bit() -> None:
    cpu = torch.device("cpu")
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sums = _sums(40_000, cpu)
        v_means2d, v_absgrad, radii = _view(40_000, cpu)
        observe_(*sums, v_means2d, v_absgrad, radii, WIDTH, HEIGHT)
        results.append(torch.cat(sums))
    torch.set_num_threads(1)
    assert torch.equal(results[0], results[1])


def test_a_render_that_had_room_freezes_nothing(device: torch.device) -> None:
    guard, frozen = _ints([5, -1, 3, 7], device), _ints([0], device)
    watch_(guard, _ints([4, 100, -1], device), 100, frozen)
    assert guard.tolist() == [100, -1, 3, 7]
    assert frozen.item() == 0


def test_more_pairs_than_room_freeze_the_run(device: torch.device) -> None:
    guard, frozen = _ints([0, -1, 0, 0], device), _ints([0], device)
    watch_(guard, _ints([4, 101, -1], device), 100, frozen)
    watch_(guard, _ints([4, 50, -1], device), 100, frozen)  # the flag and the maximum stay
    assert guard.tolist() == [101, -1, 0, 0]
    assert frozen.item() == 1


def test_the_first_bad_row_freezes_the_run_and_is_kept(device: torch.device) -> None:
    guard, frozen = _ints([0, -1, 0, 0], device), _ints([0], device)
    watch_(guard, _ints([4, 10, 0], device), 100, frozen)
    watch_(guard, _ints([4, 10, 3], device), 100, frozen)
    assert guard.tolist() == [10, 0, 0, 0]
    assert frozen.item() == 1


def test_steps_are_counted_until_the_run_is_frozen(device: torch.device) -> None:
    guard, frozen = _ints([1, -1, 3, 4], device), _ints([0], device)
    loss = torch.tensor(0.5, device=device)
    count_step_(guard, frozen, loss)
    count_step_(guard, frozen, loss)
    count_step_(guard, frozen.fill_(1), loss)
    assert guard.tolist() == [1, -1, 5, 4]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_loss_freezes_the_run_and_is_told_once(bad: float, device: torch.device) -> None:
    guard, frozen = _ints([1, -1, 3, 0], device), _ints([0], device)
    for _ in range(2):
        count_step_(guard, frozen, torch.tensor(bad, device=device))
    assert guard.tolist() == [1, -1, 3, 1]
    assert frozen.item() == 1


def test_a_captured_step_freezes_itself(cuda: torch.device) -> None:
    guard, frozen, counts = _ints([0, -1, 0, 0], cuda), _ints([0], cuda), _ints([4, 9, -1], cuda)
    v_means2d, v_absgrad, radii = _view(100, cuda)
    sums, once, loss = _sums(100, cuda), _sums(100, cuda), torch.zeros((), device=cuda)

    def step_once() -> None:
        watch_(guard, counts, 10, frozen)
        observe_(*sums, v_means2d, v_absgrad, radii, WIDTH, HEIGHT, frozen)
        count_step_(guard, frozen, loss)

    step_once()  # a kernel is loaded at its first use, which a capture does not allow
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step_once()
    graph.replay()
    counts[1] = 11
    graph.replay()
    for _ in range(2):
        observe_(*once, v_means2d, v_absgrad, radii, WIDTH, HEIGHT)
    assert guard.tolist() == [11, -1, 2, 0]
    assert all(torch.equal(a, b) for a, b in zip(sums, once, strict=True))


def test_wrong_inputs_are_refused_by_name() -> None:
    cpu = torch.device("cpu")
    v_means2d, v_absgrad, radii = _view(9, cpu)
    grad_sum, _, views = _sums(9, cpu)
    strided = torch.zeros(18)[::2]
    with pytest.raises(RuntimeError, match="absgrad_sum and v_absgrad must be given together"):
        observe_(grad_sum, None, views, v_means2d, v_absgrad, radii, WIDTH, HEIGHT)
    with pytest.raises(RuntimeError, match=r"radii must be Int \[9\] on cpu, got Float"):
        observe_(grad_sum, None, views, v_means2d, None, radii.float(), WIDTH, HEIGHT)
    with pytest.raises(RuntimeError, match=r"count must be Float \[9\]"):
        observe_(grad_sum, None, views[1:], v_means2d, None, radii, WIDTH, HEIGHT)
    with pytest.raises(RuntimeError, match="grad_sum must be contiguous"):
        observe_(strided, None, views, v_means2d, None, radii, WIDTH, HEIGHT)
    with pytest.raises(RuntimeError, match="at least one pixel, got 0 x 40"):
        observe_(grad_sum, None, views, v_means2d, None, radii, 0, HEIGHT)
    guard, frozen = _ints([0, -1, 0, 0], cpu), _ints([0], cpu)
    with pytest.raises(RuntimeError, match=r"counts must be Int \[3\]"):
        watch_(guard, guard, 1, frozen)
    with pytest.raises(RuntimeError, match="capacity must be at least 0, got -1"):
        watch_(guard, guard[:3], -1, frozen)
    with pytest.raises(RuntimeError, match=r"guard must be Int \[4\]"):
        count_step_(guard[:3], frozen, torch.zeros(()))
    with pytest.raises(RuntimeError, match=r"loss must be Float \[\]"):
        count_step_(guard, frozen, torch.zeros(1))


def test_registration_holds(device: torch.device) -> None:
    ops = torch.ops.twinsplat_raster
    v_means2d, v_absgrad, radii = _view(9, device)
    sums, frozen = _sums(9, device), _ints([0], device)
    arguments = (*sums, v_means2d, v_absgrad, radii, WIDTH, HEIGHT, frozen)
    torch.library.opcheck(ops.observe_.default, arguments)
    guard = _ints([0, -1, 0, 0], device)
    torch.library.opcheck(ops.watch_.default, (guard, _ints([1, 9, 2], device), 5, frozen))
    torch.library.opcheck(ops.count_step_.default, (guard, frozen, sums[0][0]))
