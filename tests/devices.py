"""The devices that tests run on; knows nothing of what they test."""

import os
import warnings
from functools import cache

import torch
from diff_gaussian_rasterization import supports_device

IS_REQUIRED = os.environ.get("REQUIRE_CUDA") == "1"


@cache
def missing_cuda() -> str | None:
    """Why nothing can be tested on a GPU, in one line; None where it can."""
    with warnings.catch_warnings():  # torch warns of a driver that it cannot use
        warnings.simplefilter("ignore")
        is_seen = torch.cuda.is_available()
    if not is_seen:
        return f"torch {torch.__version__} sees no GPU"
    if not supports_device("cuda"):
        return "diff_gaussian_rasterization was built without CUDA kernels: see scripts/setup.sh"
    return None


def names() -> list[str]:
    """`cpu`, and `cuda` where it is there or must be there (REQUIRE_CUDA=1)."""
    return ["cpu", "cuda"] if IS_REQUIRED or missing_cuda() is None else ["cpu"]
