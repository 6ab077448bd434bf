"""Nearest neighbours over scipy's k-d tree; runs on the CPU wherever the points are."""

import torch
from scipy.spatial import cKDTree
from torch import Tensor

MIN_SQUARED_DISTANCE = 1e-7  # a Gaussian of size 0 could never grow: its gradient would be 0


@torch.no_grad()
def mean_squared_distance(points: Tensor, neighbours: int = 3) -> Tensor:
    """Mean squared distance from each of `points` [N, 3] to its nearest other points, [N].

    At least 1e-7, which is also what a lone point gets. Where fewer than `neighbours` other points
    exist, the mean is over those. Type and device are those of `points`; no gradient.

    Raises:
        ValueError: the shape is not [N, 3], a coordinate is not finite, or `neighbours` < 1.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"distCUDA2: points must be [N, 3], got {list(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"distCUDA2: points must be floating point, got {points.dtype}")
    if neighbours < 1:
        raise ValueError(f"distCUDA2: neighbours must be at least 1, got {neighbours}")
    is_finite = points.isfinite().all(dim=1)
    if not bool(is_finite.all()):
        bad = (~is_finite).nonzero()
        row = int(bad[0])
        raise ValueError(
            f"distCUDA2: {len(bad)} of {len(points)} points are not finite, "
            f"the first in row {row}: {points[row].tolist()}; remove them from the point cloud"
        )
    others = min(neighbours, len(points) - 1)
    if others < 1:
        return torch.full_like(points[:, 0], MIN_SQUARED_DISTANCE)
    coordinates = points.detach().to("cpu", torch.float64).numpy()
    # Sliding-midpoint splits stay fast when many points share a coordinate or coincide.
    tree = cKDTree(coordinates, balanced_tree=False)
    distances, _ = tree.query(coordinates, k=others + 1, workers=torch.get_num_threads())
    # The first column is the point itself or a duplicate of it: 0 in both cases.
    mean = torch.from_numpy((distances[:, 1:] ** 2).mean(axis=1))
    return mean.clamp_min(MIN_SQUARED_DISTANCE).to(points)
