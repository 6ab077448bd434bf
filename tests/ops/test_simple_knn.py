"""Nearest-neighbour distances: equal to brute force, and finite where clouds are degenerate."""

import pytest
import torch
from simple_knn import MIN_SQUARED_DISTANCE, mean_squared_distance
from simple_knn._C import distCUDA2


def test_equals_brute_force(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(200, 3, generator=generator, dtype=torch.float64).to(device)
    expected = torch.cdist(points, points).sort(1).values[:, 1:4].square().mean(1)
    torch.testing.assert_close(distCUDA2(points), expected, rtol=1e-12, atol=0)


def test_a_far_away_origin_costs_no_accuracy() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)).double()
    moved = mean_squared_distance(points + 1e5)
    torch.testing.assert_close(moved, mean_squared_distance(points), rtol=1e-6, atol=0)


def test_the_original_name_means_three_neighbours() -> None:
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0], [15, 0, 0]])
    assert distCUDA2(line)[0].item() == pytest.approx((1 + 9 + 49) / 3)
    assert mean_squared_distance(line, neighbours=1)[0].item() == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_points_give_finite_sizes(count: int, device: torch.device) -> None:
    points = torch.arange(3.0 * count, device=device).reshape(count, 3)
    distances = distCUDA2(points)
    assert distances.shape == (count,)
    assert distances.isfinite().all()
    assert (distances >= MIN_SQUARED_DISTANCE).all()


def test_a_fourth_neighbour_is_not_invented() -> None:
    pair = torch.tensor([[0.0, 0, 0], [2, 0, 0]])
    assert distCUDA2(pair).tolist() == [4, 4]


def test_duplicates_are_clamped_away_from_zero() -> None:
    points = torch.ones(6, 3)
    assert distCUDA2(points).tolist() == pytest.approx([MIN_SQUARED_DISTANCE] * 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_and_the_device_of_the_points_are_kept(
    dtype: torch.dtype, device: torch.device
) -> None:
    points = torch.rand(9, 3, dtype=dtype, device=device)
    assert distCUDA2(points).dtype == dtype
    assert distCUDA2(points).device == points.device


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_points_that_are_not_finite_are_refused(bad: float, device: torch.device) -> None:
    points = torch.rand(9, 3, device=device)
    points[4, 1] = bad
    with pytest.raises(ValueError, match="1 of 9 points are not finite, the first in row 4"):
        distCUDA2(points)


@pytest.mark.parametrize("shape", [(5, 2), (5,), (5, 3, 1)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \[N, 3\]"):
        distCUDA2(torch.zeros(shape))


def test_integer_points_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point"):
        distCUDA2(torch.zeros(5, 3, dtype=torch.int64))


def test_no_neighbour_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        mean_squared_distance(torch.zeros(5, 3), neighbours=0)
