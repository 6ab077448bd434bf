"""Matches in a COLMAP database as evidence: those on which the known poses agree.

The model's tracks are what COLMAP's mapper kept of them; points seen from two photos only, and
those that it dropped, are in the database still.
"""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from arguments.messages import Messages, UserError
from masks.matched_points import Matches, standing_still
from masks.static_evidence import ProvedPoints
from scene.camera_models import undistort_points
from scene.capture import Capture, CaptureSettings, View
from scene.colmap import read_model
from scene.colmap_database import ColmapDatabase, DatabaseImage
from scene.colmap_records import ColmapCamera
from scene.model_folder import find_model, has_model

PLACES = ("database.db", "distorted/database.db")  # where COLMAP and INRIA's convert.py leave it


def find_database(scene: Path) -> Path:
    """The database of a scene.

    Raises:
        UserError: there is none in the usual places.
    """
    for place in PLACES:
        if (scene / place).is_file():
            return scene / place
    raise UserError(
        f"--evidence database needs COLMAP's database: neither {' nor '.join(PLACES)} is in "
        f"{scene}; name it with --database FILE"
    )


class DatabaseSource:
    """Keypoints of a view whose matches in other views meet where the poses say they should."""

    def __init__(
        self, path: Path, capture: Capture, found: CaptureSettings, num_photos: int
    ) -> None:
        """Find the photos of the capture in the database, and what its pixels mean.

        Keypoints are counted in the pixels of the photos that COLMAP saw. Where these have been
        undistorted since, the calibration is that of the model beside the database.

        Raises:
            UserError: the database is damaged, or of other photos.
        """
        self._database = ColmapDatabase(path)
        self._num_photos = num_photos
        beside = path.parent != found.source and has_model(path.parent)
        folder = (
            find_model(path.parent, None, Messages(quiet=True))
            if beside
            else find_model(found.source, found.colmap_model, Messages(quiet=True))
        )
        model = read_model(folder, Messages(quiet=True))
        camera_by_name = {image.name: model.cameras[image.camera_id] for image in model.images}
        self._entries: dict[int, tuple[DatabaseImage, ColmapCamera]] = {}
        self._view_by_image: dict[int, View] = {}
        for view in capture.views:
            image, camera = self._database.images.get(view.name), camera_by_name.get(view.name)
            if image is not None and camera is not None:
                _check_size(image, camera, path, folder)
                self._entries[view.view_id] = image, camera
                self._view_by_image[image.image_id] = view
        if not self._entries:
            known = next(iter(self._database.images), "nothing")
            raise UserError(
                f"COLMAP database {path} has none of the {len(capture.views)} photos, such as "
                f"{capture.views[0].name}; it has {known}; give the one of this scene"
            )
        self._pixels: dict[int, Float64[ndarray, "N 2"]] = {}
        self._points: dict[int, ProvedPoints] = {}
        self.description = (
            f"matches of {path} in {num_photos} or more photos that agree with the poses; "
            f"{len(self._entries)}/{len(capture.views)} photos are in it"
        )

    def identity(self, view: View) -> str:
        """The points themselves: they are found faster than anything that they depend on."""
        return hashlib.blake2b(self(view).xy.tobytes(), digest_size=16).hexdigest()

    def __call__(self, view: View) -> ProvedPoints:
        """The keypoints of `view` that stand still; none where the database lacks the photo.

        Raises:
            UserError: a row of the database is damaged.
        """
        if view.view_id not in self._entries:
            return ProvedPoints("database", np.empty((0, 2), np.float32))
        if view.view_id not in self._points:
            self._points[view.view_id] = self._found_in(view)
        return self._points[view.view_id]

    def _found_in(self, view: View) -> ProvedPoints:
        image_id = self._entries[view.view_id][0].image_id
        own, matches = self._keypoints(view), []
        for other_id, rows in self._database.matches(image_id).items():
            if other_id not in self._view_by_image:
                continue
            other = self._view_by_image[other_id]
            xy = self._keypoints(other)
            if len(rows) and (rows.max(axis=0) >= [len(own), len(xy)]).any():
                raise UserError(
                    f"COLMAP database {self._database.path}: matches of {view.name} and "
                    f"{other.name} name keypoints {rows.max(axis=0)} of {len(own)} and {len(xy)}; "
                    "match the photos again"
                )
            matches.append(Matches(other.camera, rows[:, 0], xy[rows[:, 1]]))
        still = standing_still(view.camera, own, matches, self._num_photos)
        return ProvedPoints("database", own[still].astype(np.float32))

    def _keypoints(self, view: View) -> Float64[ndarray, "N 2"]:
        """All keypoints of a view in the pixels that it is trained on, read once."""
        if view.view_id not in self._pixels:
            image, camera = self._entries[view.view_id]
            distorted = (self._database.keypoints(image.image_id) - camera.principal) / camera.focal
            rays = undistort_points(camera.model, camera.extra, distorted)
            K = view.camera.K.double().numpy()
            self._pixels[view.view_id] = rays * K[[0, 1], [0, 1]] + K[:2, 2]
        return self._pixels[view.view_id]


def _check_size(image: DatabaseImage, camera: ColmapCamera, path: Path, folder: Path) -> None:
    """Refuse a database whose pixels are not those of the model's cameras.

    Raises:
        UserError: the photos have been undistorted or resized in between.
    """
    if (image.width, image.height) != (camera.width, camera.height):
        raise UserError(
            f"{image.name} is {image.width}x{image.height} in {path} and {camera.width}x"
            f"{camera.height} in {folder}, which was undistorted since; put the database beside "
            "the model that COLMAP made of it (sparse/0)"
        )
