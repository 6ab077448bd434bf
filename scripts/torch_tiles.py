"""A vectorised tile renderer in plain PyTorch: the baseline of the benchmark, not a product.

It shares the projection and the colours with the reference renderer and differs in the blend:
Gaussians are sorted into 16x16 tiles by the box of their visible ellipse, and each tile blends all
of its Gaussians at all of its pixels by one cumulative product. Autograd makes the gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussian_renderer.reference import (
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    Lens,
    Splats2D,
    project,
    spherical_harmonics,
)

TILE = 16


@dataclass(frozen=True)
class _Lists:
    """Gaussians of all tiles, tile after tile, front to back in each."""

    rows: Tensor
    counts: list[int]


@torch.no_grad()
def _tile_lists(splats: Splats2D, width: int, height: int) -> _Lists:
    # alpha >= 1/255 inside d^T cov^-1 d <= 2 ln(255 o), whose box has half sides sqrt(that cov_ii).
    a, b, c = splats.conics.unbind(-1)
    reach = 2 * (splats.opacities / MIN_ALPHA).clamp_min(1).log()
    determinant = a * c - b * b
    half = torch.stack([(reach * c / determinant).sqrt(), (reach * a / determinant).sqrt()], -1)
    tiles = torch.tensor([-(-width // TILE), -(-height // TILE)])
    low = ((splats.means2d - half) / TILE).floor().long().clamp_min(0)
    high = torch.minimum(((splats.means2d + half) / TILE).floor().long() + 1, tiles)
    sides = (high - low).clamp_min(0)
    is_drawn = splats.in_front & (reach > 0)
    order = splats.depths.argsort(stable=True)
    order = order[(is_drawn & (sides.prod(-1) > 0))[order]]
    low, sides = low[order], sides[order]
    pairs = sides.prod(-1)
    rank = torch.repeat_interleave(torch.arange(len(order)), pairs)
    within = torch.arange(int(pairs.sum())) - (pairs.cumsum(0) - pairs)[rank]
    x = low[rank, 0] + within % sides[rank, 0]
    y = low[rank, 1] + within // sides[rank, 0]
    tile = y * tiles[0] + x
    by_tile = tile.argsort(stable=True)
    counts = torch.bincount(tile, minlength=int(tiles.prod()))
    return _Lists(order[rank[by_tile]], counts.tolist())


def _blend_tile(splats: Splats2D, colors: Tensor, rows: Tensor, pixels: Tensor) -> Tensor:
    """[256, D] colours over black."""
    offsets = pixels - splats.means2d[rows, None]
    dx, dy = offsets.unbind(-1)
    a, b, c = splats.conics[rows].T[..., None]
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    alpha = (splats.opacities[rows, None] * power.exp()).clamp_max(MAX_ALPHA)
    alpha = alpha * (alpha >= MIN_ALPHA)
    after = (1 - alpha).cumprod(0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    weights = alpha * before * (after >= MIN_TRANSMITTANCE)
    return weights.T @ colors[rows]


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int,
    near_plane: float = 0.01,
) -> Tensor:
    """One image [H, W, 3] over black, differentiable by autograd."""
    lens = Lens(width, height, near_plane, 1e10, 0.3, is_antialiased=False)
    splats = project(means, quats, scales, opacities, viewmat, K, lens)
    towards = torch.nn.functional.normalize(means + viewmat[:3, :3].T @ viewmat[:3, 3], dim=-1)
    colors = spherical_harmonics(sh_degree, towards, sh)
    lists = _tile_lists(splats, width, height)
    columns, lines = -(-width // TILE), -(-height // TILE)
    ys, xs = torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij")
    first = torch.stack([xs, ys], -1).reshape(-1, 2) + 0.5
    blocks = []
    for tile, rows in enumerate(lists.rows.split(lists.counts)):
        corner = torch.tensor([tile % columns, tile // columns]) * TILE
        blocks.append(_blend_tile(splats, colors, rows, first + corner))
    image = torch.stack(blocks).reshape(lines, columns, TILE, TILE, -1)
    return image.transpose(1, 2).reshape(lines * TILE, columns * TILE, -1)[:height, :width]
