"""Selection by rank; knows nothing of what the values mean."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest value of each row, exactly: [C]; has no gradient.

    Args:
        values: float32 [C, n].
        k: counts from 1.
    """
    return ops.kth_smallest([values.detach()], [k])[0]


def kth_smallest_of_each(values: Sequence[Tensor], ks: Sequence[int]) -> Tensor:
    """The same of S tensors of one size at once, each with its own rank: [S, C].

    On a GPU all of them take hardly longer than one. A tensor may be there more than once.

    Args:
        values: S of float32 [C, n].
        ks: count from 1, one for each of the values.
    """
    return ops.kth_smallest([one.detach() for one in values], list(ks))


@torch.library.register_fake(f"{_library.NAME}::kth_smallest")
def _kth_smallest_fake(values: list[Tensor], ks: list[int]) -> Tensor:
    return values[0].new_empty(len(ks), values[0].shape[0])
