"""A deterministic scene of any number of Gaussians for timings; knows no renderer.

It imitates a trained model: splats lie flat on surfaces, their size follows the spacing of their
neighbours (so that coverage stays the same as N grows), and opacities have a low and a high mode.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SH0 = 0.28209479177387814  # the constant of the first spherical harmonic
FLOATERS = 0.04  # share of Gaussians in the air
FAINT = 0.45  # share of Gaussians in the low mode of the opacities


@dataclass(frozen=True)
class Workload:
    """One scene, one camera, and the gradient that the image gets; float32.

    Attributes:
        sh: [N, 16, 3] coefficients.
        grad: [H, W, 3] upstream gradient of the image.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    viewmat: Tensor
    K: Tensor
    width: int
    height: int
    grad: Tensor

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> "Workload":
        """From the arrays of an external generator or an .npz file, by the names above."""
        names = ("means", "quats", "scales", "opacities", "sh", "viewmat", "K", "grad")
        tensors = {n: torch.as_tensor(np.asarray(arrays[n], dtype=np.float32)) for n in names}
        return cls(**tensors, width=int(arrays["width"]), height=int(arrays["height"]))


def _frames(normals: Tensor, generator: torch.Generator) -> Tensor:
    """Quaternions wxyz that turn z into each normal, with a random roll about it."""
    roll = 2 * math.pi * torch.rand(len(normals), generator=generator, dtype=torch.float64)
    # The shortest turn from z to n, flipped beforehand where n points down.
    is_down = normals[:, 2] < 0
    up = torch.where(is_down[:, None], -normals, normals)
    turn = torch.stack([1 + up[:, 2], -up[:, 1], up[:, 0], torch.zeros(len(up))], -1)
    turn = turn / turn.norm(dim=-1, keepdim=True)
    c, s = (roll / 2).cos(), (roll / 2).sin()
    w, x, y, _ = turn.unbind(-1)
    return torch.stack([w * c, x * c + y * s, y * c - x * s, w * s], -1)


@dataclass(frozen=True)
class _Surface:
    points: Tensor
    normals: Tensor
    area: float


def _floor(count: int, generator: torch.Generator) -> _Surface:
    radius = 6 * torch.rand(count, generator=generator, dtype=torch.float64) ** 0.65
    angle = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    zero = torch.zeros(count, dtype=torch.float64)
    points = torch.stack([radius * angle.cos(), radius * angle.sin(), zero], -1)
    return _Surface(points, torch.stack([zero, zero, zero + 1], -1), 36 * math.pi)


def _shell(count: int, centre: Tensor, axes: Tensor, generator: torch.Generator) -> _Surface:
    """An ellipsoid's surface; its area by Thomsen's formula."""
    unit = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    unit = unit / unit.norm(dim=-1, keepdim=True)
    a, b, c = (float(x) ** 1.6075 for x in axes)
    area = 4 * math.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6075)
    normals = unit / axes
    return _Surface(centre + unit * axes, normals / normals.norm(dim=-1, keepdim=True), area)


def _surfaces(count: int, generator: torch.Generator) -> list[_Surface]:
    """A floor, a dozen ellipsoids on it, and a far dome around them."""
    surfaces = [_floor(round(0.30 * count), generator)]
    for k in range(12):
        axes = 0.15 + 0.45 * torch.rand(3, generator=generator, dtype=torch.float64)
        angle = 2 * math.pi * k / 12
        radius = 0.3 + 2.0 * float(torch.rand(1, generator=generator))
        centre = torch.tensor(
            [radius * math.cos(angle), radius * math.sin(angle), float(axes[2])],
            dtype=torch.float64,
        )
        surfaces.append(_shell(round(0.40 * count / 12), centre, axes, generator))
    dome = torch.full((3,), 25.0, dtype=torch.float64)
    far = count - round(FLOATERS * count) - sum(len(s.points) for s in surfaces)
    surfaces.append(_shell(max(far, 0), torch.zeros(3, dtype=torch.float64), dome, generator))
    return surfaces


def _look_at(eye: Tensor, target: Tensor) -> Tensor:
    """World to camera with world z up; x right, y down, z forward."""
    forward = (target - eye) / (target - eye).norm()
    right = torch.linalg.cross(forward, torch.tensor([0, 0, 1], dtype=torch.float64))
    right = right / right.norm()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat


def make(count: int, width: int, height: int, seed: int = 0) -> Workload:
    """The scene with `count` Gaussians; the same arguments always give the same numbers."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    surfaces = _surfaces(count, generator)
    points = [s.points for s in surfaces]
    normals = [s.normals for s in surfaces]
    spacing = [
        torch.full((len(s.points),), (s.area / max(len(s.points), 1)) ** 0.5) for s in surfaces
    ]
    floating = count - sum(len(p) for p in points)
    box = torch.tensor([6.0, 6, 2], dtype=torch.float64)
    corner = torch.tensor([-3.0, -3, 0], dtype=torch.float64)
    air = torch.rand(floating, 3, generator=generator, dtype=torch.float64)
    points.append(corner + box * air)
    normals.append(torch.nn.functional.normalize(normal(floating, 3), dim=-1))
    spacing.append(torch.full((floating,), 0.16 * (72 / max(floating, 1)) ** (1 / 3)))
    means = torch.cat(points)
    tangent = torch.cat(spacing).double()[:, None] * torch.exp(0.45 * normal(count, 3) - 0.48)
    scales = tangent * torch.tensor([1, 1, 0.2], dtype=torch.float64)
    is_faint = torch.rand(count, generator=generator) < FAINT
    logits = torch.where(is_faint, normal(count) - 2.2, 1.4 * normal(count) + 2.2)
    waves = torch.tensor([[1.7, 0.9, -0.4], [0.3, -1.3, 1.1], [-0.8, 0.5, 1.9]]).double()
    color = 0.5 + 0.35 * torch.sin(means @ waves)
    sh = 0.06 * normal(count, 16, 3)
    sh[:, 0] = (color - 0.5) / SH0
    order = torch.randperm(count, generator=generator)  # no order of depth or space in memory
    eye = torch.tensor([3.6, -2.2, 1.7], dtype=torch.float64)
    target = torch.tensor([0, 0, 0.35], dtype=torch.float64)
    focal = 0.82 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Workload(
        means[order].float(),
        _frames(torch.cat(normals), generator)[order].float(),
        scales[order].float(),
        logits.sigmoid()[order].float(),
        sh[order].float(),
        _look_at(eye, target).float(),
        K,
        width,
        height,
        (normal(height, width, 3) / (height * width)).float(),
    )


def load(path: Path) -> Workload:
    """A workload from an .npz file with the names of `Workload`."""
    with np.load(path) as arrays:
        return Workload.of(arrays)


def from_generator(path: Path, scene: str, count: int, width: int, height: int) -> Workload:
    """A workload from `make(scene, count, width, height)` of a Python file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Workload.of(module.make(scene, count, width, height))
