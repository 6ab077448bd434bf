"""Where to render: the device that is asked for, if there is one and the rasterizer knows it."""

from typing import Literal

import torch
from diff_gaussian_rasterization import supports_device

from arguments.messages import ExitCode, Messages, UserError

Wanted = Literal["auto", "cpu", "cuda"]


def choose_device(wanted: Wanted, messages: Messages) -> torch.device:
    """The device to work on; `auto` says what it takes and why.

    Raises:
        UserError: a GPU is asked for, and there is none or the rasterizer was built without CUDA.
    """
    there = wanted != "cpu" and torch.cuda.is_available()
    built = supports_device("cuda")
    if wanted == "cuda" and not there:
        raise UserError(
            "--device cuda, but torch sees no GPU; use --device cpu or install torch with CUDA",
            ExitCode.ENVIRONMENT,
        )
    if wanted == "cuda" and not built:
        raise UserError(
            "--device cuda, but the rasterizer was built for the CPU only; use --device cpu",
            ExitCode.ENVIRONMENT,
        )
    if there and built:
        messages.note(f"device: {torch.cuda.get_device_name()}")
        return torch.device("cuda")
    reason = ": the rasterizer was built for it only" if there else ""
    messages.note(f"device: CPU, {torch.get_num_threads()} threads{reason}")
    return torch.device("cpu")
