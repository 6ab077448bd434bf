"""Makes the COLMAP fixtures beside this file with pycolmap (4.2.1); run it by hand.

`colmap_rig/` is a rig of two cameras in four frames, as COLMAP 4 writes it, in both formats, with
the poses that pycolmap derives; `camera_models.json` holds pixels of points for every model;
`colmap_database/` is a database with matches, most of them right, and what pycolmap reads in it.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pycolmap

FOLDER = Path(__file__).resolve().parent
EXTRA = {
    "FOV": [0.6],
    "EUCM": [0.6, 1.1],
    "SIMPLE_DIVISION": [-0.1],
    "DIVISION": [-0.1],
}
NO_PINHOLE_IMAGE = ("INVALID", "EQUIRECTANGULAR")


def make_rig() -> None:
    """A synthetic model with a real rig."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs = 1
    options.num_cameras_per_rig = 2
    options.num_frames_per_rig = 4
    options.num_points3D = 40
    options.num_points2D_without_point3D = 3
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)
    for suffix, write in (("bin", model.write_binary), ("txt", model.write_text)):
        folder = FOLDER / "colmap_rig" / suffix
        folder.mkdir(parents=True, exist_ok=True)
        write(str(folder))
    expected = {
        image.name: {
            "camera_from_world": image.cam_from_world().matrix().tolist(),
            "num_points": image.num_points3D,
        }
        for image in model.images.values()
    }
    lengths = {str(key): point.track.length() for key, point in model.points3D.items()}
    (FOLDER / "colmap_rig" / "expected.json").write_text(
        json.dumps({"images": expected, "track_lengths": lengths}, indent=1) + "\n"
    )


def make_camera_models() -> None:
    """Pixels of the same rays in every camera model."""
    rng = np.random.default_rng(0)
    rays = rng.uniform(-0.7, 0.7, (20, 2))
    models = []
    for name, model_id in pycolmap.CameraModelId.__members__.items():
        if name in NO_PINHOLE_IMAGE:
            continue
        simple = pycolmap.Camera.create_from_model_id(1, model_id, 500.0, 640, 480)
        params = np.array(simple.params)
        num_focal = len(simple.focal_length_idxs())
        params[:num_focal] = [500.0, 510.0][:num_focal]
        params[num_focal : num_focal + 2] = [320.0, 240.0]
        num_extra = len(params) - num_focal - 2
        params[num_focal + 2 :] = EXTRA.get(name, rng.uniform(-0.02, 0.02, num_extra))
        camera = pycolmap.Camera(model=name, width=640, height=480, params=params)
        pixels = [camera.img_from_cam(np.array([*ray, 1.0])).tolist() for ray in rays]
        models.append(
            {"id": int(model_id), "name": name, "params": params.tolist(), "pixels": pixels}
        )
    (FOLDER / "camera_models.json").write_text(
        json.dumps({"rays": rays.tolist(), "models": models}) + "\n"
    )


def make_database() -> None:
    """Four photos of two cameras, matched with each other; a third of the matches are wrong."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs = 2
    options.num_cameras_per_rig = 1
    options.num_frames_per_rig = 2
    options.num_points3D = 30
    options.inlier_match_ratio = 0.67
    pycolmap.set_random_seed(0)
    folder = FOLDER / "colmap_database"
    folder.mkdir(exist_ok=True)
    path = folder / "database.db"
    path.unlink(missing_ok=True)
    with pycolmap.Database.open(path) as database:
        pycolmap.synthesize_dataset(options, database)
        database.clear_descriptors()
        images = {image.name: image.image_id for image in database.read_all_images()}
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        camera_of = {image.name: cameras[image.camera_id] for image in database.read_all_images()}
        expected = {
            name: {
                "size": [camera_of[name].width, camera_of[name].height],
                "keypoints": database.read_keypoints(image_id)[:, :2].tolist(),
                "matches": {
                    other: _matches(database, image_id, other_id)
                    for other, other_id in images.items()
                    if other != name
                },
            }
            for name, image_id in images.items()
        }
    with closing(sqlite3.connect(path)) as compact:
        compact.execute("VACUUM")
        compact.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def _matches(database: pycolmap.Database, one: int, other: int) -> list[list[int]]:
    """All matches and inliers of a pair, each once, sorted; the keypoint of `one` comes first."""
    verified = database.read_two_view_geometry(one, other).inlier_matches
    both = np.concatenate([database.read_matches(one, other), verified])
    return sorted({tuple(map(int, row)) for row in both})


if __name__ == "__main__":
    make_rig()
    make_camera_models()
    make_database()
