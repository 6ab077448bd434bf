"""The Gaussians that a scene is made of; knows neither cameras' photos nor how they learn."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scene.cameras import Cameras

SH_C0 = 0.28209479177387814  # the constant harmonic, 1 / (2 sqrt(pi))
INITIAL_OPACITY = 0.1
FILTER_VARIANCE = 0.2  # of the 3D smoothing filter, in units of the sampling interval squared
FILTER_MARGIN = 0.15  # a Gaussian this share of the image outside still counts as seen
FILTER_NEAR = 0.2  # world units; nearer Gaussians are not seen
FILTER_CHUNK = 1 << 20  # pairs of camera and Gaussian that are projected at once


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

    def scaled(self, factor: float) -> "Gaussians":
        """The same in a world `factor` times as large; itself for 1."""
        if factor == 1:
            return self
        return replace(
            self,
            means=self.means * factor,
            log_scales=self.log_scales + math.log(factor),
            filter_3d=self.filter_3d * factor,
        )

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
    at_once = max(1, FILTER_CHUNK // max(len(means), 1))
    for batch in cameras:
        for some in batch.split(at_once):
            nearest = torch.minimum(nearest, _nearest_depth(means, some))
    if not len(means) or not cameras:
        return torch.zeros_like(nearest)
    focal = torch.cat([batch.Ks[:, 0, 0] for batch in cameras]).amax()
    found = nearest.isfinite()
    furthest = torch.where(found, nearest, 0.0).amax()
    return FILTER_VARIANCE**0.5 * torch.where(found, nearest, furthest) / focal


def _nearest_depth(means: Float[Tensor, "N 3"], cameras: Cameras) -> Float[Tensor, " N"]:
    """Smallest depth at which one of the cameras sees each point; infinity where none does."""
    local = means @ cameras.viewmats[:, :3, :3].mT + cameras.viewmats[:, None, :3, 3]  # [C, N, 3]
    x, y, z = (local @ cameras.Ks.mT).unbind(-1)  # the last row of K leaves the depth as it is
    across, down = cameras.width, cameras.height
    seen = z > FILTER_NEAR
    seen &= (x >= -FILTER_MARGIN * across * z) & (x <= (1 + FILTER_MARGIN) * across * z)
    seen &= (y >= -FILTER_MARGIN * down * z) & (y <= (1 + FILTER_MARGIN) * down * z)
    return torch.where(seen, z, torch.inf).amin(dim=0)


def select_rows(gaussians: Gaussians, rows: Int[Tensor, " M"]) -> Gaussians:
    """The Gaussians at `rows`, in that order; a row may come several times."""
    return gaussians.map(lambda tensor: tensor.detach()[rows])


class _Adjacent(torch.autograd.Function):
    """Tensors that lie one after another in memory, as one; no copy in either direction."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.sizes = [len(part) for part in parts]
        first = parts[0].detach()
        return first.as_strided((sum(ctx.sizes), *first.shape[1:]), first.stride())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0].contiguous().split(ctx.sizes)


def side_by_side(sets: Sequence[Gaussians]) -> list[Gaussians]:
    """The same sets, laid out so that `joined` need not copy them."""
    whole = {name: torch.cat([getattr(s, name).detach() for s in sets]) for name in FIELD_NAMES}
    parts = {name: tensor.split([len(s) for s in sets]) for name, tensor in whole.items()}
    return [Gaussians(**{n: parts[n][i].detach() for n in FIELD_NAMES}) for i in range(len(sets))]


def joined(sets: Sequence[Gaussians]) -> Gaussians:
    """One set after another as one set, differentiable in each; copies what is not adjacent."""
    return Gaussians(**{n: _joined([getattr(s, n) for s in sets]) for n in FIELD_NAMES})


def _joined(parts: list[Tensor]) -> Tensor:
    end = parts[0].data_ptr()
    base = parts[0].untyped_storage().data_ptr()
    for part in parts:
        shares = part.untyped_storage().data_ptr() == base and part.is_contiguous()
        if not shares or part.data_ptr() != end:
            return torch.cat(parts)
        end += part.numel() * part.element_size()
    return _Adjacent.apply(*parts)  # type: ignore[no-untyped-call]


FIELD_NAMES = tuple(field.name for field in fields(Gaussians))
