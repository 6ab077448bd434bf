"""Segments of a photo that may be distractors; knows nothing of residuals or of training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The segments of one photo that a mask may take out.

    Attributes:
        labels: layers of segments; within a layer they do not overlap, 0 is no segment, and a
            number means the same segment in one layer only.
    """

    labels: Int[Tensor, "L H W"]


@dataclass(frozen=True)
class Segments:
    """Candidates laid out for counting: atoms are the pieces that segments are unions of.

    Attributes:
        atoms: which atom each pixel belongs to.
        members: 1 where a segment (row) contains an atom (column).
        areas: pixels in each segment.
    """

    atoms: Int[Tensor, "H W"]
    members: Float[Tensor, "S A"]
    areas: Float[Tensor, " S"]

    @classmethod
    def of(cls, candidates: Candidates) -> "Segments":
        """Split the overlapping layers of `candidates` into disjoint atoms, once per photo."""
        labels = candidates.labels.long()
        height, width = labels.shape[1:]
        first = torch.cumsum(labels.flatten(1).amax(1) + 1, 0) - labels.flatten(1).amax(1) - 1
        named = (labels + first[:, None, None]).flatten(1)  # a number of its own for each segment
        empty = torch.zeros(int(named.max()) + 1, dtype=torch.bool, device=labels.device)
        empty[first] = True
        combos, atoms = torch.unique(named, dim=1, return_inverse=True)
        members = torch.zeros(len(empty), combos.shape[1], device=labels.device)
        members[combos, torch.arange(combos.shape[1], device=labels.device)] = 1.0
        sizes = torch.bincount(atoms, minlength=combos.shape[1]).float()
        areas = members @ sizes
        real = ~empty & (areas > 0)
        return cls(atoms.reshape(height, width), members[real], areas[real])

    def count(self, pixels: Float[Tensor, "H W"]) -> Float[Tensor, " S"]:
        """Sum of `pixels` inside each segment."""
        per_atom = torch.bincount(
            self.atoms.flatten(), weights=pixels.flatten(), minlength=self.members.shape[1]
        )
        return self.members @ per_atom.to(self.members.dtype)

    def union(self, chosen: Float[Tensor, " S"]) -> Float[Tensor, "H W"]:
        """1 at every pixel of a segment whose entry in `chosen` is positive, else 0."""
        return ((chosen > 0).float() @ self.members > 0).float()[self.atoms]
