"""Small scenes of a few dozen Gaussians for the tests of the rasterizer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """What both rasterizers take, by their names; `colors` are features or SH coefficients."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    @property
    def leaves(self) -> list[Tensor]:
        """Everything that gets a gradient."""
        return [self.means, self.quats, self.scales, self.opacities, self.colors]

    @property
    def arguments(self) -> tuple[Tensor | int, ...]:
        """The positional arguments of `rasterization`."""
        return (*self.leaves, self.viewmats, self.Ks, self.width, self.height)

    def to(
        self,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        requires_grad: bool = True,
    ) -> "Scene":
        """New leaves with the same numbers."""
        means, quats, scales, opacities, colors = (
            leaf.detach().to(device, dtype, copy=True).requires_grad_(requires_grad)
            for leaf in self.leaves
        )
        return Scene(
            means,
            quats,
            scales,
            opacities,
            colors,
            self.viewmats.to(device, dtype),
            self.Ks.to(device, dtype),
            self.width,
            self.height,
        )

    def rows(self, index: Tensor | slice) -> "Scene":
        """Some of the Gaussians, or all in another order."""
        means, quats, scales, opacities, colors = (leaf[index] for leaf in self.leaves)
        return replace(
            self, means=means, quats=quats, scales=scales, opacities=opacities, colors=colors
        )


def look_at(eye: Sequence[float], target: Sequence[float] = (0, 0, 0)) -> Tensor:
    """World to camera in float64, OpenCV axes, with world -y up."""
    position = torch.tensor(eye, dtype=torch.float64)
    forward = torch.tensor(target, dtype=torch.float64) - position
    forward = forward / forward.norm()
    right = torch.linalg.cross(torch.tensor([0, 1, 0], dtype=torch.float64), forward)
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ position
    return viewmat


EYES = [(0.3, -0.4, -3.0), (1.5, 0.2, -2.4), (-0.4, -1.2, -2.2)]


def make_scene(
    count: int = 40,
    *,
    sh_degree: int | None = None,
    channels: int = 3,
    cameras: int = 1,
    size: tuple[int, int] = (33, 26),
    principal: tuple[float, float] = (0.5, 0.5),
    opaque: bool = False,
    spread: float = 1.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Scene:
    """Gaussians around the origin, seen from two or three units away; float32, no gradients.

    Args:
        principal: principal point as a fraction of the image size.
        opaque: mostly opacities near 1, so that pixels stop early and alphas reach their clamp.
        spread: size of the cloud; large values put Gaussians off screen and behind the camera.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    width, height = size
    opacities = 0.05 + 0.9 * uniform(count)
    colors = uniform(count, channels)
    if sh_degree is not None:
        # Small enough to be mostly positive, large enough that some colours clamp at 0.
        colors = 0.4 * normal(count, (sh_degree + 1) ** 2, 3)
    focal = 0.9 * width
    K = torch.tensor(
        [[focal, 0, principal[0] * width], [0, 1.1 * focal, principal[1] * height], [0, 0, 1]]
    )
    return Scene(
        spread * 0.6 * normal(count, 3),
        normal(count, 4),
        torch.exp(0.5 * normal(count, 3) - (1.3 if opaque else 2.0)),
        1 - 0.02 * uniform(count) if opaque else opacities,
        colors,
        torch.stack([look_at(eye) for eye in EYES[:cameras]]),
        K.repeat(cameras, 1, 1),
        width,
        height,
    ).to(torch.float32, device, requires_grad=False)
