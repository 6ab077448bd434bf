"""The reference itself: its gradients are those of its values."""

import pytest
import torch
from torch import Tensor

from gaussian_renderer import reference
from tests.ops.scenes import make_scene


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gradients_of_the_reference_pass_gradcheck(mode: str) -> None:
    scene = make_scene(5, sh_degree=1, size=(8, 8), spread=0.5).to(torch.float64)

    def draw(*leaves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        render = reference.rasterization(
            *leaves, scene.viewmats, scene.Ks, scene.width, scene.height, sh_degree=1,
            rasterize_mode=mode, depth="accumulated",
        )  # fmt: skip
        assert render.depth is not None
        return render.color, render.alpha, render.depth

    assert torch.autograd.gradcheck(draw, scene.leaves, eps=1e-7, atol=1e-5)
