"""Which 3D points a photo ought to show, because the photos taken next to it do.

Knows poses and tracks; it never looks at a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from scene.capture import View

NUM_NEIGHBORS = 8
MIN_SEEN = 2  # neighbours; what one of them alone shows may be hidden from here


@dataclass(frozen=True)
class DuePoints:
    """Points that the neighbours of a view have seen and that lie inside its frame.

    Attributes:
        xy: where they would appear, in pixels.
        is_found: whether a keypoint of the view has seen them.
    """

    xy: Float32[ndarray, "Q 2"]
    is_found: Bool[ndarray, " Q"]


NONE_DUE = DuePoints(np.zeros((0, 2), np.float32), np.zeros(0, bool))


class TrackIndex:
    """The tracks of several views, row by row, to ask what a view should have seen."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = {view.view_id: number for number, view in enumerate(views)}
        ids = np.concatenate([view.point_ids for view in views])
        _, first, rows = np.unique(ids, return_index=True, return_inverse=True)
        self._xyz: Float64[ndarray, "M 3"] = np.concatenate([v.point_xyz for v in views])[
            first
        ].astype(np.float64)
        ends = np.cumsum([len(view.point_ids) for view in views])[:-1]
        self._seen: list[Int64[ndarray, " P"]] = [np.unique(r) for r in np.split(rows, ends)]
        poses = np.stack([view.camera.viewmat.double().numpy() for view in views])
        self._axes = poses[:, 2, :3]
        self._centers = -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])

    def nearest(self, view_id: int) -> Int64[ndarray, " K"]:
        """The views taken from about the same place in about the same direction, nearest first."""
        return self._by_closeness(view_id)[:NUM_NEIGHBORS]

    def apart(self, view_id: int, distance: float, count: int) -> list[int]:
        """The nearest views that are at least `distance` from this one and from each other.

        What moves slowly through a video looks still from places that are too close.
        """
        chosen = [self._views[view_id]]
        for other in self._by_closeness(view_id):
            away = np.linalg.norm(self._centers[chosen] - self._centers[other], axis=1)
            if (away >= distance).all():
                chosen.append(int(other))
                if len(chosen) > count:
                    break
        return chosen[1:]

    def _by_closeness(self, view_id: int) -> Int64[ndarray, " V"]:
        """All other views, by distance and difference in direction."""
        own = self._views[view_id]
        distance = np.linalg.norm(self._centers - self._centers[own], axis=1)
        usual = max(float(np.median(distance)), 1e-12)
        turn = 1.0 - self._axes @ self._axes[own]
        order = np.argsort(distance / usual + 2.0 * turn, kind="stable")
        return order[order != own]

    def due(self, view: View) -> DuePoints:
        """What `view`, one of the views of this index, ought to show."""
        neighbors = self.nearest(view.view_id)
        if not len(self._xyz) or len(neighbors) < MIN_SEEN:
            return NONE_DUE
        times = np.zeros(len(self._xyz), dtype=np.int64)
        for neighbor in neighbors:
            times[self._seen[neighbor]] += 1
        rows = np.flatnonzero(times >= MIN_SEEN)
        pose, K = view.camera.viewmat.double().numpy(), view.camera.K.double().numpy()
        in_camera = self._xyz[rows] @ pose[:3, :3].T + pose[:3, 3]
        ahead = in_camera[:, 2] > 0
        rows, in_camera = rows[ahead], in_camera[ahead]
        on_image = in_camera @ K.T
        xy = on_image[:, :2] / on_image[:, 2:]
        inside = ((xy >= 0) & (xy < view.camera.size)).all(axis=1)
        seen_here = np.zeros(len(self._xyz), dtype=bool)
        seen_here[self._seen[self._views[view.view_id]]] = True
        return DuePoints(xy[inside].astype(np.float32), seen_here[rows[inside]])
