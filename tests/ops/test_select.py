"""Selection by rank: the very value that sorting finds."""

import pytest
import torch
from diff_gaussian_rasterization import kth_smallest, kth_smallest_of_each
from torch import Tensor


def _values(kind: str, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(columns)
    values = torch.randn(rows, columns, generator=generator)
    if kind == "wide":  # every exponent and both signs
        values *= torch.exp2(torch.randint(-140, 120, (rows, columns), generator=generator))
    elif kind == "ties":
        values = values.round()
    elif kind == "close":  # differ in the last bits only
        values = 1 + values.round() * 2**-23
    elif kind == "residuals":
        values = values.square()
    return values


@pytest.mark.parametrize("kind", ["normal", "wide", "ties", "close", "residuals"])
@pytest.mark.parametrize("columns", [1, 31, 2048, 70_001])
@pytest.mark.parametrize("rows", [1, 3])
def test_it_is_the_value_that_sorting_finds(
    kind: str, columns: int, rows: int, device: torch.device
) -> None:
    values = _values(kind, rows, columns)
    ranked = values.sort(dim=1).values
    for k in {1, (columns + 1) // 2, max(1, round(0.9 * columns)), columns}:
        ours = kth_smallest(values.to(device), k).cpu()
        # A zero of either sign is the same value.
        assert torch.equal(ours, ranked[:, k - 1]), k


def test_every_rank_of_a_row_is_found(device: torch.device) -> None:
    values = _values("wide", 2, 67).to(device)
    ranked = torch.stack([kth_smallest(values, k) for k in range(1, 68)], dim=1)
    assert torch.equal(ranked, values.sort(dim=1).values)


@pytest.mark.parametrize("columns", [31, 70_001])
def test_tensors_are_searched_together_as_they_are_alone(
    columns: int, device: torch.device
) -> None:
    a, b = (_values(kind, 3, columns).to(device) for kind in ("wide", "residuals"))
    values, ks = [a, b, a, b], [7, columns, columns // 2, 1]
    found = kth_smallest_of_each(values, ks)
    assert found.shape == (4, 3)
    for one, k, ours in zip(values, ks, found, strict=True):
        assert torch.equal(ours, kth_smallest(one, k))


def test_tensors_that_do_not_fit_each_other_are_refused() -> None:
    values = torch.zeros(2, 5)
    with pytest.raises(RuntimeError, match="a k for each"):
        kth_smallest_of_each([values, values], [1])
    with pytest.raises(RuntimeError, match=r"values must all be \[2, 5\]"):
        kth_smallest_of_each([values, values[:, :4]], [1, 1])


def test_infinities_have_their_places(device: torch.device) -> None:
    values = torch.tensor([[float("inf"), 1.0, float("-inf"), -1.0]], device=device)
    assert [kth_smallest(values, k).item() for k in (1, 2, 3, 4)] == [
        float("-inf"),
        -1.0,
        1.0,
        float("inf"),
    ]


def test_a_strided_row_is_read_correctly(device: torch.device) -> None:
    values = _values("normal", 200, 2).to(device)
    assert torch.equal(kth_smallest(values.T, 60), values.sort(dim=0).values[59])


def test_it_gets_no_gradient() -> None:
    values = torch.rand(1, 9, requires_grad=True)
    assert not kth_smallest(values, 3).requires_grad


def test_a_captured_selection_reads_new_values_at_each_replay(cuda: torch.device) -> None:
    values = torch.zeros(2, 5000, device=cuda)
    kth_smallest(values, 1)  # a kernel is loaded at its first use, which a capture does not allow
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = kth_smallest(values, 4500)
    for kind in ("normal", "residuals"):
        values.copy_(_values(kind, 2, 5000))
        graph.replay()
        assert torch.equal(result, values.sort(dim=1).values[:, 4499])


@pytest.mark.parametrize(
    ("values", "k", "message"),
    [
        (torch.zeros(4), 1, r"values must be float32 \[C, n\]"),
        (torch.zeros(1, 4).double(), 1, "values must be float32"),
        (torch.zeros(1, 4), 0, r"k must lie in \[1, 4\], got 0"),
        (torch.zeros(1, 4), 5, r"k must lie in \[1, 4\], got 5"),
    ],
)
def test_wrong_inputs_are_refused_by_name(values: Tensor, k: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        kth_smallest(values, k)


def test_registration_holds(device: torch.device) -> None:
    op = torch.ops.twinsplat_raster.kth_smallest.default
    values = _values("normal", 2, 50).to(device)
    torch.library.opcheck(op, ([values, values], [7, 9]))
