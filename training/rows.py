"""Row edits: which Gaussians stay, are doubled, or are replaced by two; every follower obeys.

A plan says what happens to each row. Its row map carries parameters, optimizer moments, growth
statistics and averaged copies alike, so no buffer is ever resized by hand. Knows not why.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scene.gaussians import Gaussians, select_rows

CHILDREN = 2
CHILD_SHRINK = 1.6  # 0.8 x the number of children (arXiv 2308.04079, section 5.2)


@dataclass(frozen=True)
class RowMap:
    """Where the rows after an edit come from: kept rows first, then clones, then children.

    Attributes:
        source: the old row behind each new one.
        num_kept: rows that are the old ones, with their moments.
        num_cloned: exact copies, after the kept.
    """

    source: Int[Tensor, " M"]
    num_kept: int
    num_cloned: int

    @classmethod
    def reordering(cls, order: Int[Tensor, " N"]) -> "RowMap":
        """Every row stays and nothing else comes; only the order is new."""
        return cls(order, len(order), 0)

    @property
    def children(self) -> slice:
        """The rows that replace split parents."""
        return slice(self.num_kept + self.num_cloned, len(self.source))

    def follow_moment(self, moment: Tensor) -> Tensor:
        """An optimizer moment after the edit: new rows start from zero."""
        moved = moment[self.source]
        moved[self.num_kept :] = 0
        return moved


@dataclass(frozen=True)
class EditPlan:
    """What happens to each row; a row that is none of the three is removed.

    Attributes:
        keep: stays as it is.
        clone: a kept row that also gets an exact copy.
        split: not kept, replaced by two smaller children.
    """

    keep: Bool[Tensor, " N"]
    clone: Bool[Tensor, " N"]
    split: Bool[Tensor, " N"]

    def row_map(self) -> RowMap:
        """Where the rows after this edit come from."""
        kept, cloned, parents = (
            mask.nonzero()[:, 0] for mask in (self.keep, self.clone, self.split)
        )
        return RowMap(torch.cat([kept, cloned, *[parents] * CHILDREN]), len(kept), len(cloned))


def rotation_matrices(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Rotations of quaternions of any length, wxyz, local to world."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def edited(gaussians: Gaussians, rows: RowMap, generator: torch.Generator) -> Gaussians:
    """The Gaussians after an edit; children are drawn from their parent's own distribution."""
    result = select_rows(gaussians, rows.source)
    children = rows.children
    scales = result.log_scales[children].exp()
    noise = torch.randn(scales.shape, generator=generator, dtype=scales.dtype).to(scales.device)
    turned = rotation_matrices(result.quats[children]) @ (scales * noise)[..., None]
    result.means[children] += turned[..., 0]
    result.log_scales[children] = (scales / CHILD_SHRINK).log()
    return result


AXIS_BITS = 21  # of a Morton code for each axis: three of them fill a 63-bit number
# How the bits of a number are moved apart to every third place: shift left, then keep these bits.
SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_order(points: Float[Tensor, "N 3"]) -> Int[Tensor, " N"]:
    """The order of points along the Z curve through their bounding box; ties by row.

    Neighbours in space become neighbours in memory, which a renderer reads faster.
    """
    low = points.amin(dim=0)
    cell = (points.amax(dim=0) - low).clamp_min(1e-12) / (2**AXIS_BITS - 1)
    place = ((points - low) / cell).long().clamp_(0, 2**AXIS_BITS - 1)
    for shift, mask in SPREAD:
        place = (place | (place << shift)) & mask
    code = place[:, 0] | (place[:, 1] << 1) | (place[:, 2] << 2)
    return code.argsort(stable=True)
