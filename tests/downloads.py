"""Folders shaped exactly like the official downloads of the benchmarks, made from any capture.

On-the-go: photos of all kinds, frames and index lists, no model. RobustNeRF: photos whose names
say what they are, and a model of distorted cameras. PhotoTourism: `dense/` with a flat `sparse/` of
more photos than NeRF-W's list takes.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from arguments.messages import Messages
from scene.colmap import read_model
from scene.colmap_records import ColmapModel
from scene.synthetic import take
from scene.synthetic_room import build_room
from scene.synthetic_solids import View
from tests.scene_builder import CameraRow, ImageRow, PointRow, SceneRows, write_binary


@dataclass(frozen=True)
class Photos:
    """Photos of one capture: those with clutter, and clean ones for the test."""

    folder: Path
    clutter: tuple[str, ...]
    extra: tuple[str, ...]

    def copy(self, names: Sequence[tuple[str, str]], out: Path) -> None:
        """Copy photos under other names."""
        out.mkdir(parents=True)
        for name, new_name in names:
            shutil.copyfile(self.folder / "images" / name, out / new_name)


def some_photos(folder: Path, num_clutter: int, num_extra: int) -> Photos:
    """Neighbouring photos of a capture with train and test lists."""
    lists = [(folder / f"{label}_list.txt").read_text().split() for label in ("train", "test")]
    return Photos(folder, tuple(lists[0][:num_clutter]), tuple(lists[1][:num_extra]))


def make_onthego(root: Path, photos: Photos, scene: str = "mountain") -> Path:
    """on-the-go/SCENE as in on-the-go.zip; the index of a frame is that of its sorted name."""
    suffix = Path(photos.clutter[0]).suffix
    names = [*photos.clutter, *photos.extra]
    renamed = [(name, f"IMG_{4700 + i}{suffix}") for i, name in enumerate(names)]
    folder = root / "on-the-go" / scene
    photos.copy(renamed, folder / "images")
    for _, new in renamed:  # COLMAP finds its features in a quarter of the time
        with Image.open(folder / "images" / new) as image:
            image.thumbnail((400, 400))
            image.save(folder / "images" / new, quality=95)
    frames = [{"file_path": f"images/{new}", "transform_matrix": []} for _, new in renamed[::-1]]
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    middle = len(photos.clutter)
    split = {"clutter": list(range(middle)), "extra": list(range(middle, len(names))), "clean": []}
    (folder / "split.json").write_text(json.dumps(split))
    return root / "on-the-go"


def make_robustnerf(root: Path, photos: Photos, scene: str = "statue") -> Path:
    """robustnerf/SCENE/0 as in robustnerf.tar.gz."""
    names = {name: f"1clutter{i:03d}{Path(name).suffix}" for i, name in enumerate(photos.clutter)}
    names |= {name: f"2extra{i:03d}{Path(name).suffix}" for i, name in enumerate(photos.extra)}
    folder = root / "robustnerf" / scene / "0"
    photos.copy(list(names.items()), folder / "images")
    write_binary(rows_of(model_of(photos), names), folder / "sparse" / "0")
    return root / "robustnerf"


def make_phototourism(root: Path, photos: Photos, scene: str = "sacre_coeur") -> Path:
    """SCENE/dense as in SCENE.tar.gz, beside NeRF-W's list; the list leaves photos out."""
    everything = (*photos.clutter, *photos.extra)
    names = {name: f"{10_000_000 + 77 * i}{Path(name).suffix}" for i, name in enumerate(everything)}
    dense = root / "phototourism" / scene / "dense"
    photos.copy(list(names.items()), dense / "images")
    write_binary(rows_of(model_of(photos), names), dense / "sparse")
    lines = ["filename\tid\tsplit\tdataset"]
    lines += [f"{names[name]}\t{i}\ttrain\tsacre" for i, name in enumerate(photos.clutter[:-2])]
    lines += [f"{names[name]}\t{900 + i}\ttest\tsacre" for i, name in enumerate(photos.extra)]
    # NeRF-W left photos of low quality out by giving them no id.
    lines += [f"{names[name]}\t\ttrain\tsacre" for name in photos.clutter[-2:]]
    (root / "phototourism" / "sacre.tsv").write_text("\n".join(lines) + "\n")
    return root / "phototourism"


def walk_photos(out: Path) -> Path:
    """12 photos of the built-in room, taken on a short arc, which COLMAP can register."""
    out.mkdir(parents=True)
    room = build_room(np.random.default_rng(0), texels_per_metre=110)
    for number in range(12):
        angle = 0.08 * number
        position = np.array([2.5 * np.cos(angle), 2.0 * np.sin(angle), 1.55])
        forward = np.array([0.0, 0.0, 1.0]) - position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        shot = take(View(rotation, position, 240.0, 320, 240), room, ())
        Image.fromarray(shot.clean).save(out / f"walk_{number:03d}.png")
    return out


def model_of(photos: Photos) -> ColmapModel:
    """The capture's own model."""
    return read_model(photos.folder / "sparse" / "0", Messages(quiet=True))


def rows_of(model: ColmapModel, names: dict[str, str]) -> SceneRows:
    """The part of a model with the given images, under other names."""
    cameras = [
        CameraRow(c.camera_id, c.model.name, c.width, c.height, c.params.tolist())
        for c in model.cameras.values()
    ]
    points = {
        int(number): PointRow(int(number), xyz.tolist(), tuple(int(c) for c in rgb))
        for number, xyz, rgb in zip(
            model.points.ids, model.points.xyz, model.points.rgb, strict=True
        )
    }
    images = []
    for image in model.images:
        if image.name not in names:
            continue
        seen = [number in points for number in image.point_ids.tolist()]
        keypoints = [
            (float(x), float(y), int(number))
            for (x, y), number in zip(image.keypoints[seen], image.point_ids[seen], strict=True)
        ]
        for at, (_, _, number) in enumerate(keypoints):
            points[number].track.append((image.image_id, at))
        images.append(
            ImageRow(
                image.image_id,
                names[image.name],
                image.quat.tolist(),
                image.translation.tolist(),
                image.camera_id,
                keypoints,
            )
        )
    kept = [point for point in points.values() if point.track]
    return SceneRows(cameras, images, kept)
