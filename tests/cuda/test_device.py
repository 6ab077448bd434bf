"""Whether this machine tests the GPU at all; the one skip of a run without one."""

import torch
from diff_gaussian_rasterization import rasterization

from tests.ops.scenes import make_scene


def test_the_gpu_renders(cuda: torch.device) -> None:
    render = rasterization(*make_scene(device=cuda).arguments)
    assert render.color.device.type == "cuda"
    assert render.alpha.max() > 0.1
