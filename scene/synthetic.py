"""Makes the built-in capture: photos, exact masks and a COLMAP model of a room that people cross.

It casts rays at its own solids and knows nothing of Gaussians or of the renderer it helps to judge.

    python -m scene.synthetic OUT [--seed 0] [--preset room|tiny]
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import tyro
from jaxtyping import Bool, Float64, UInt8
from PIL import Image

from arguments.messages import ExitCode, UserError
from scene.synthetic_actors import hire_cast, place_extras
from scene.synthetic_colmap import Model, Photo, write_model
from scene.synthetic_room import Room, build_room
from scene.synthetic_solids import Hits, Solid, View, cast, shade

Result = TypeVar("Result")
SUPERSAMPLE = 2  # rays per pixel side
FIELD_OF_VIEW = 68.0  # degrees, horizontal
KEYPOINT_NOISE = 0.3  # pixels, standard deviation per axis
FOUND_SHARE = 0.6  # of the photos that see a point, those whose matcher found it
SHORTEST_TRACK = 2
MOST_THREADS = 16  # each holds the rays of one photo: 60 MB at 504x378
HIDDEN_BY = 2e-3  # relative depth by which a nearer surface hides a point


@dataclass(frozen=True)
class CaptureSize:
    """How large a capture to make.

    Attributes:
        views: training photos along the walk.
        test_views: clean photos in between.
        width: image width in pixels.
        height: image height in pixels.
        points: surface points that are tried for the COLMAP model.
        texels_per_metre: resolution of the walls' textures.
    """

    views: int = 48
    test_views: int = 8
    width: int = 320
    height: int = 240
    points: int = 5000
    texels_per_metre: int = 110


PRESETS = {
    "room": CaptureSize(),
    "tiny": CaptureSize(12, 3, 64, 48, 400, 24),
}


@dataclass(frozen=True)
class Shot:
    """One photo as it is taken, without what moved, and where the two differ (True)."""

    image: UInt8[np.ndarray, "H W 3"]
    clean: UInt8[np.ndarray, "H W 3"]
    moving: Bool[np.ndarray, "H W"]


def make_capture(out: Path, size: CaptureSize, seed: int = 0) -> None:
    """Writes the whole capture below `out`; the same arguments give the same bytes.

    Raises:
        UserError: there is a capture in `out` already.
    """
    if (out / "images").exists():
        text = f"capture in {out}: images/ is there already; give a new folder"
        raise UserError(text, ExitCode.FILE_SYSTEM)
    rooms, clothes, walk, extras_rng, points_rng = (
        np.random.default_rng([seed, purpose]) for purpose in range(5)
    )
    room = build_room(rooms, size.texels_per_metre)
    train = _walk(walk, size, test=False)
    test = _walk(walk, size, test=True)
    moving = place_extras(extras_rng, hire_cast(clothes), train, room)
    views = train + test
    extras = moving + ((),) * len(test)
    names = [f"walk_{k:03d}.png" for k in range(len(train))]
    names += [f"test_{k:03d}.png" for k in range(len(test))]

    def shoot(k: int) -> Shot:
        shot = take(views[k], room, extras[k])
        _save(out / "images" / names[k], shot.image)
        _save(out / "images_clean" / names[k], shot.clean)
        if k < len(train):
            _save(out / "gt_distractors" / names[k], shot.moving.astype(np.uint8) * 255)
        return shot

    shots = _all(shoot, len(views))
    (out / "train_list.txt").write_text("\n".join(names[: len(train)]) + "\n")
    (out / "test_list.txt").write_text("\n".join(names[len(train) :]) + "\n")
    write_model(
        out / "sparse" / "0", _register(points_rng, views, room, extras, shots, names, size)
    )


def take(view: View, room: Room, extras: Sequence[Solid]) -> Shot:
    """One photo: every pixel is the mean of SUPERSAMPLE^2 rays."""
    rays = view.rays(SUPERSAMPLE)
    still = cast(
        view.position, rays, room.solids, [view.window(s, SUPERSAMPLE) for s in room.solids]
    )
    color = shade(view.position, rays, room.solids, still, room.light)
    clean = _develop(color)
    passing = cast(view.position, rays, extras, [view.window(s, SUPERSAMPLE) for s in extras])
    in_front = passing.distance < still.distance
    visible = Hits(passing.distance, np.where(in_front, passing.index, np.int16(-1)))
    over = shade(view.position, rays, extras, visible, room.light)
    color = np.where(in_front[..., None], over, color)
    blocks = in_front.reshape(view.height, SUPERSAMPLE, view.width, SUPERSAMPLE)
    return Shot(_develop(color), clean, np.asarray(blocks.any(axis=(1, 3))))


def _develop(color: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    steps = range(SUPERSAMPLE)
    parts = [color[down::SUPERSAMPLE, across::SUPERSAMPLE] for down in steps for across in steps]
    return np.round(255 / len(parts) * sum(parts)).astype(np.uint8)


def _walk(rng: np.random.Generator, size: CaptureSize, *, test: bool) -> tuple[View, ...]:
    """Cameras on a loop at eye height that look across the room; test cameras stand in between."""
    count = size.test_views if test else size.views
    step = 2 * np.pi / size.views
    stops = np.floor(np.arange(count) * size.views / count) + 0.5 if test else np.arange(count)
    focal = size.width / 2 / np.tan(np.radians(FIELD_OF_VIEW) / 2)
    views = []
    for angle in step * stops:
        shrink = rng.uniform(0.86, 1.0)
        position = np.array(
            [
                2.85 * shrink * np.cos(angle),
                2.2 * shrink * np.sin(angle),
                rng.uniform(1.35, 1.75),
            ]
        )
        target = np.array([rng.uniform(-1.1, 1.1), rng.uniform(-0.9, 0.9), rng.uniform(0.75, 1.3)])
        rotation = _look_at(position, target)
        views.append(View(rotation, position, float(focal), size.width, size.height))
    return tuple(views)


def _look_at(
    position: Float64[np.ndarray, "3"], target: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "3 3"]:
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _register(
    rng: np.random.Generator,
    views: Sequence[View],
    room: Room,
    extras: Sequence[Sequence[Solid]],
    shots: Sequence[Shot],
    names: Sequence[str],
    size: CaptureSize,
) -> Model:
    """The COLMAP model: exact points and poses, noisy keypoints where nothing hides the point."""
    seeds = [
        _seed_points(rng, v, s, room, -(-size.points // len(views)))
        for v, s in zip(views, shots, strict=True)
    ]
    xyz = np.concatenate([seed.xyz for seed in seeds])
    rgb = np.concatenate([seed.rgb for seed in seeds])
    solids = [(*room.solids, *moving) for moving in extras]
    seen = np.stack(_all(lambda k: _visible(views[k], solids[k], xyz), len(views)))
    seen &= rng.uniform(size=seen.shape) < FOUND_SHARE
    kept = seen.sum(0) >= SHORTEST_TRACK
    xyz, rgb, seen = xyz[kept], rgb[kept], seen[:, kept]
    squared = np.zeros(len(xyz))
    photos = []
    for view, name, mine in zip(views, names, seen, strict=True):
        ids = np.nonzero(mine)[0]
        noise = rng.normal(0, KEYPOINT_NOISE, (len(ids), 2))
        keypoints = view.project(xyz[ids])[:, :2] + noise
        squared[ids] += (noise**2).sum(1)
        photos.append(Photo(name, view.rotation, view.translation, keypoints, ids))
    errors = np.sqrt(squared / seen.sum(0))
    return Model(size.width, size.height, views[0].focal, tuple(photos), xyz, rgb, errors)


@dataclass(frozen=True)
class _Seeds:
    xyz: Float64[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]


def _seed_points(
    rng: np.random.Generator, view: View, shot: Shot, room: Room, count: int
) -> _Seeds:
    """Surface points behind `count` pixels, those with more texture first, all over the photo."""
    gray = shot.clean.astype(np.float64).mean(-1)
    down, across = np.gradient(gray)
    strength = np.hypot(down, across) + 1.0
    chance = (strength / strength.sum()).ravel()
    pixels = rng.choice(gray.size, size=min(count, gray.size), replace=False, p=chance)
    rows, cols = np.divmod(pixels, view.width)
    rays = view.rays_through(cols[:, None] + 0.5, rows[:, None] + 0.5)
    hits = cast(view.position, rays, room.solids)
    xyz = view.position + hits.distance[..., None].astype(np.float64) * rays
    return _Seeds(xyz[:, 0], shot.clean[rows, cols])


def _visible(
    view: View, solids: Sequence[Solid], xyz: Float64[np.ndarray, "P 3"]
) -> Bool[np.ndarray, "P"]:
    """Which points are in the photo with nothing, still or moving, in front of them."""
    place = view.project(xyz)
    inside = (place[:, 2] > 0.1) & (place[:, 0] > 0) & (place[:, 0] < view.width)
    inside &= (place[:, 1] > 0) & (place[:, 1] < view.height)
    ids = np.nonzero(inside)[0]
    rays = (xyz[ids] - view.position).astype(np.float32)[:, None]
    hits = cast(view.position, rays, solids)
    inside[ids] = hits.distance[:, 0] > 1 - HIDDEN_BY
    return inside


def _all(work: Callable[[int], Result], count: int) -> list[Result]:
    """`work` of 0, 1, ... in that order; threads share the photos, so the order of work is free."""
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, range(count)))


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=4)


@dataclass(frozen=True)
class CommandLine:
    """Make the built-in capture: a room, people who cross it, exact masks."""

    out: tyro.conf.Positional[Path]
    """Folder to make; it must not hold a capture yet."""
    seed: int = 0
    """The capture is fully determined by this and the sizes."""
    preset: Literal["room", "tiny"] = "room"
    """room: 48 photos of 320x240; tiny: 12 photos of 64x48, for tests."""
    views: int | None = None
    """Training photos; the preset's number when not given."""
    width: int | None = None
    """Image width in pixels; the preset's when not given."""
    height: int | None = None
    """Image height in pixels; the preset's when not given."""

    def size(self) -> CaptureSize:
        """The preset with what was given instead.

        Raises:
            UserError: a number is too small to make a capture.
        """
        given = {"views": self.views, "width": self.width, "height": self.height}
        for name, value in given.items():
            if value is not None and value < 4:
                text = f"--{name} in the capture's size: {value}; give 4 or more"
                raise UserError(text, ExitCode.USAGE)
        return replace(PRESETS[self.preset], **{k: v for k, v in given.items() if v is not None})


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """The command; returns its exit status."""
    command = tyro.cli(CommandLine, args=arguments)
    try:
        size = command.size()
        make_capture(command.out, size, command.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is the command's voice
        return error.code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
