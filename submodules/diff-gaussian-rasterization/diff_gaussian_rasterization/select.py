"""Selection by rank; knows nothing of what the values mean."""

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
    return ops.kth_smallest(values.detach(), k)


@torch.library.register_fake(f"{_library.NAME}::kth_smallest")
def _kth_smallest_fake(values: Tensor, _k: int) -> Tensor:
    return values.new_empty(values.shape[0])
