"""The Gaussians that a scene is made of; knows neither cameras' photos nor how they learn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scene.cameras import Cameras

SH_C0 = 0.28209479177387814  # the constant harmonic, 1 / (2 sqrt(pi))
INITIAL_OPACITY = 0.1
FILTER_VARIANCE = 0.2  # of the 3D smoothing filter, in units of the sampling interval squared
FILTER_MARGIN = 0.15  # a Gaussian this share of the image outside still counts as seen
FILTER_NEAR = 0.2  # world units; nearer Gaussians are not seen


@dataclass
class Gaussians:
    """One set of Gaussians in the spaces in which they are optimized.

    Attributes:
        means: centres, world units.
        quats: rotation local to world, wxyz, of any length but zero.
        log_scales: ln of the standard deviations in world units.
        opacity_logits: logit of the opacity.
        sh0: constant term of the colour harmonics.
        shN: higher terms of the colour harmonics.
        filter_3d: standard deviation of the 3D smoothing filter, world units, 0 = none; not
            optimized (Mip-Splatting, arXiv 2311.16493, equation 7).
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    opacity_logits: Float[Tensor, " N"]
    sh0: Float[Tensor, "N 1 3"]
    shN: Float[Tensor, "N K 3"]
    filter_3d: Float[Tensor, " N"]

    @classmethod
    def from_points(
        cls,
        xyz: Float[Tensor, "N 3"],
        rgb: Float[Tensor, "N 3"],
        squared_distances: Float[Tensor, " N"],
        sh_degree: int,
    ) -> "Gaussians":
        """Round, faint Gaussians as large as the spacing of the points around them.

        Args:
            rgb: colours in [0, 1].
            squared_distances: mean squared distance to the nearest neighbours, world units.
        """
        count = len(xyz)
        quats = torch.zeros(count, 4, dtype=xyz.dtype, device=xyz.device)
        quats[:, 0] = 1
        opacity = torch.full((count,), INITIAL_OPACITY, dtype=xyz.dtype, device=xyz.device)
        return cls(
            means=xyz.clone(),
            quats=quats,
            log_scales=0.5 * squared_distances.clamp_min(1e-7).log()[:, None].repeat(1, 3),
            opacity_logits=opacity.logit(),
            sh0=((rgb - 0.5) / SH_C0)[:, None],
            shN=torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3, dtype=xyz.dtype, device=xyz.device),
            filter_3d=torch.zeros(count, dtype=xyz.dtype, device=xyz.device),
        )

    def __len__(self) -> int:
        """How many Gaussians."""
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Highest degree of the harmonics that there is room for."""
        return int((self.shN.shape[1] + 1) ** 0.5) - 1

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.means.device

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of everything per Gaussian, the filter included."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of what is optimized."""
        return ((name, tensor) for name, tensor in self.tensors() if name != "filter_3d")

    def map(self, change: Callable[[Tensor], Tensor]) -> "Gaussians":
        """A set whose tensors are those of this one, changed."""
        return Gaussians(**{name: change(tensor) for name, tensor in self.tensors()})

    def requires_grad_(self, wanted: bool = True) -> "Gaussians":
        """Collect gradients of the parameters from now on, or no longer; returns itself."""
        for _, tensor in self.parameters():
            tensor.requires_grad_(wanted)
        return self

    def fused(self) -> "Gaussians":
        """The same appearance with the 3D filter folded into scales and opacities."""
        variances = (2 * self.log_scales).exp()
        smoothed = variances + self.filter_3d[:, None] ** 2
        shrink = (variances / smoothed).prod(dim=1).sqrt()
        opacities = self.opacity_logits.sigmoid() * shrink
        return replace(
            self,
            log_scales=0.5 * smoothed.log(),
            opacity_logits=opacities.clamp(1e-12, 1 - 1e-7).logit(),
            filter_3d=torch.zeros_like(self.filter_3d),
        )


def smoothing_filter(means: Float[Tensor, "N 3"], cameras: list[Cameras]) -> Float[Tensor, " N"]:
    """Standard deviation of the 3D smoothing filter of each Gaussian, world units.

    The finest detail that any camera can show at a Gaussian is one pixel at the smallest depth
    from which it is seen: variance 0.2 (z_min / f_max)^2 (arXiv 2311.16493, equations 6 and 7).
    Gaussians that no camera sees get the largest filter of the others.
    """
    nearest = torch.full_like(means[:, 0], torch.inf)
    focal = means.new_zeros(())
    for batch in cameras:
        for viewmat, K in zip(batch.viewmats, batch.Ks, strict=True):
            local = means @ viewmat[:3, :3].T + viewmat[:3, 3]
            z = local[:, 2]
            x = local[:, 0] / z * K[0, 0] + K[0, 2]
            y = local[:, 1] / z * K[1, 1] + K[1, 2]
            seen = z > FILTER_NEAR
            seen &= (x >= -FILTER_MARGIN * batch.width) & (x <= (1 + FILTER_MARGIN) * batch.width)
            seen &= (y >= -FILTER_MARGIN * batch.height) & (y <= (1 + FILTER_MARGIN) * batch.height)
            nearest = torch.where(seen, torch.minimum(nearest, z), nearest)
            focal = torch.maximum(focal, K[0, 0])
    found = nearest.isfinite()
    furthest = torch.where(found, nearest, nearest.new_zeros(())).max() if len(means) else focal
    nearest = torch.where(found, nearest, furthest)
    return FILTER_VARIANCE**0.5 * nearest / focal


def select_rows(gaussians: Gaussians, rows: Int[Tensor, " M"]) -> Gaussians:
    """The Gaussians at `rows`, in that order; a row may come several times."""
    return gaussians.map(lambda tensor: tensor.detach()[rows])
