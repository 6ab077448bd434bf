"""What the compiled kernels run on; knows nothing of what they compute."""

import torch

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def instruction_set() -> str:
    """Instructions of the CPU kernels: avx512, avx2, sse42 or generic.

    The widest that the machine has, or the one in the environment variable TWINSPLAT_ISA, which is
    read once per process.

    Raises:
        RuntimeError: TWINSPLAT_ISA names none that this machine runs.
    """
    return str(ops.instruction_set())
