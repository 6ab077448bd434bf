"""How fast a step could be: its bytes at the speed of a copy, its arithmetic at that of a product.

N Gaussians, V of them in view, I (splat, tile) pairs, P pixels. Bytes, 59 floats a Gaussian:

| stage | forward | backward |
| --- | --- | --- |
| projection and harmonics | 16 N + 288 V | 324 V |
| sort: depths of V (4 passes), tiles of I (2 passes) | 68 V + 26 I | |
| state every 32 splats of a list, written and read | | 192 I |
| L1 and SSIM with their gradient | | 170 P |
| Adam over what was seen, within the backward | | 6 * 236 V |

Lane instructions of the blend: 14 E + 12 K forward and 30 (0.8 E + K) backward for each pixel that
evaluates E splats and blends K. Neither is counted: E P = 71 I (192 pixels a tile, of which 0.37
are evaluated) and K = 35, both typical of trained scenes. An Adam that also moves what was not
seen, as the trainer's does, needs 7 * 236 N instead.
"""

from dataclasses import dataclass

import torch

from scripts.stopwatch import clock

EVALUATED = 71  # pixels that evaluate one pair
BLENDED = 35  # splats that one pixel blends


@dataclass(frozen=True)
class Speed:
    """What a device can do: bytes read and written, and lane instructions, each a second."""

    bandwidth: float
    instructions: float


@dataclass(frozen=True)
class Size:
    """What is rendered: Gaussians, those in view, (splat, tile) pairs, pixels."""

    gaussians: int
    visible: int
    pairs: int
    pixels: int


@dataclass(frozen=True)
class Floor:
    """The least milliseconds of a render, of one with its backward, of a step."""

    forward: float
    both: float
    step: float


def measure(device: torch.device) -> Speed:
    """The speed of a device: medians of ten copies and of ten float32 products."""
    on_gpu = device.type == "cuda"
    source = torch.ones(2**28 if on_gpu else 2**22, device=device)
    target = torch.empty_like(source)
    side = 8192 if on_gpu else 512
    left = torch.rand(side, side, device=device)
    product = torch.empty_like(left)
    copying = clock(lambda: target.copy_(source), device, repeats=10, warmups=3)
    multiplying = clock(lambda: torch.mm(left, left, out=product), device, repeats=10, warmups=3)
    return Speed(2e3 * source.nbytes / copying, 1e3 * side**3 / multiplying)


def floor(size: Size, speed: Speed) -> Floor:
    """The table above, one stage after another."""
    n, v, i, p = size.gaussians, size.visible, size.pairs, size.pixels
    evaluated, blended = EVALUATED * i, BLENDED * p
    forward = _milliseconds(
        16 * n + 288 * v + 68 * v + 26 * i, 14 * evaluated + 12 * blended, speed
    )
    both = forward + _milliseconds(324 * v + 192 * i, 30 * (0.8 * evaluated + blended), speed)
    step = both + _milliseconds(170 * p + 6 * 236 * v, 0, speed)
    return Floor(forward, both, step)


def _milliseconds(num_bytes: float, instructions: float, speed: Speed) -> float:
    return 1e3 * (num_bytes / speed.bandwidth + instructions / speed.instructions)
