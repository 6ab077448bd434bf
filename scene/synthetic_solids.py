"""Casts rays at textured boxes, ellipsoids and cylinders; knows no rooms, actors or files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int16

from scene.synthetic_textures import Texture

Shape = Literal["box", "ellipsoid", "cylinder"]
Rays = Float32[np.ndarray, "H W 3"]
Vector = Sequence[float | int] | Float64[np.ndarray, "3"]
Distances = Float32[np.ndarray, "H W"]
EPSILON = np.float32(1e-4)  # metres; a hit nearer than this is the ray's own start


@dataclass(frozen=True)
class Solid:
    """A unit shape ([-1, 1]^3 box, unit ball, or unit cylinder along z) moved into the world.

    Attributes:
        axes: columns are the half axes in metres, in world directions.
        center: in metres.
        faces: one texture for all, or six for the faces -x +x -y +y -z +z of a box.
        gloss: strength of the highlight.
        hollow: seen from inside, as a room is.
    """

    shape: Shape
    axes: Float64[np.ndarray, "3 3"]
    center: Float64[np.ndarray, "3"]
    faces: tuple[Texture, ...]
    gloss: float = 0.1
    hollow: bool = False

    @property
    def radius(self) -> float:
        """Radius of a ball around `center` that holds the solid."""
        return float(np.linalg.norm(self.axes))


@dataclass(frozen=True)
class Hits:
    """What each ray meets first: distance in lengths of the ray (inf: nothing), which solid."""

    distance: Distances
    index: Int16[np.ndarray, "H W"]


@dataclass(frozen=True)
class View:
    """A pinhole camera with an image grid, in world-to-camera form (x right, y down, z forward)."""

    rotation: Float64[np.ndarray, "3 3"]
    position: Float64[np.ndarray, "3"]
    focal: float
    width: int
    height: int

    @property
    def translation(self) -> Float64[np.ndarray, "3"]:
        """The t of x_cam = R x_world + t."""
        return -self.rotation @ self.position

    def rays(self, supersample: int) -> Rays:
        """World directions (z = 1 in the camera) through a grid of `supersample`^2 per pixel."""
        u = (np.arange(self.width * supersample) + 0.5) / supersample
        v = (np.arange(self.height * supersample) + 0.5) / supersample
        return self.rays_through(*np.meshgrid(u, v))

    def rays_through(self, u: Float64[np.ndarray, "H W"], v: Float64[np.ndarray, "H W"]) -> Rays:
        """World directions (z = 1 in the camera) through pixel positions."""
        x = (u - self.width / 2) / self.focal
        y = (v - self.height / 2) / self.focal
        return (np.stack([x, y, np.ones_like(x)], -1) @ self.rotation).astype(np.float32)

    def project(self, points: Float64[np.ndarray, "P 3"]) -> Float64[np.ndarray, "P 3"]:
        """Pixel column, pixel row and depth of world points; the depth may be negative."""
        local = points @ self.rotation.T + self.translation
        depth = local[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        u = self.focal * local[:, 0] / safe + self.width / 2
        v = self.focal * local[:, 1] / safe + self.height / 2
        return np.stack([u, v, depth], -1)

    def window(self, solid: Solid, supersample: int) -> tuple[slice, slice]:
        """Rows and columns of the ray grid that can meet the solid."""
        rows, cols = self.height * supersample, self.width * supersample
        x, y, z = self.rotation @ (solid.center - self.position)
        r = solid.radius
        if solid.hollow or z - r < 0.05:
            return slice(0, rows if z + r > 0 or solid.hollow else 0), slice(0, cols)
        return (
            _span(y, z, r, self.focal * supersample, rows),
            _span(x, z, r, self.focal * supersample, cols),
        )


@dataclass(frozen=True)
class _Surface:
    """Outward normal in unit-shape space, face number, and texture position in [0, 1]."""

    normal: Float32[np.ndarray, "P 3"]
    face: Int16[np.ndarray, "P"]
    uv: Float32[np.ndarray, "P 2"]


def _span(offset: float, depth: float, radius: float, focal: float, size: int) -> slice:
    low, high = offset - radius, offset + radius
    low = low / (depth - radius if low < 0 else depth + radius)
    high = high / (depth - radius if high > 0 else depth + radius)
    start = int(np.clip(np.floor(focal * low + size / 2), 0, size))
    stop = int(np.clip(np.ceil(focal * high + size / 2) + 1, 0, size))
    return slice(start, stop)


def box(
    center: Vector,
    half: Vector,
    faces: Texture | tuple[Texture, ...],
    *,
    yaw: float = 0.0,
    gloss: float = 0.1,
    hollow: bool = False,
) -> Solid:
    """A box of half sizes `half`, turned by `yaw` about the vertical."""
    textures = faces if isinstance(faces, tuple) else (faces,)
    return Solid("box", turn(yaw) * np.asarray(half), _vector(center), textures, gloss, hollow)


def ellipsoid(
    center: Vector,
    radii: Vector,
    texture: Texture,
    *,
    yaw: float = 0.0,
    gloss: float = 0.1,
) -> Solid:
    """A ball stretched to `radii`, turned by `yaw` about the vertical."""
    axes = turn(yaw) * np.asarray(radii)
    return Solid("ellipsoid", axes, _vector(center), (texture,), gloss)


def rod(
    start: Vector,
    end: Vector,
    radius: float,
    texture: Texture,
    *,
    gloss: float = 0.1,
) -> Solid:
    """A closed cylinder from `start` to `end`."""
    begin, stop = _vector(start), _vector(end)
    along = (stop - begin) / 2
    direction = along / np.linalg.norm(along)
    helper = np.eye(3)[0 if abs(direction[0]) < 0.9 else 1]
    side = np.cross(direction, helper)
    side /= np.linalg.norm(side)
    other = np.cross(direction, side)
    axes = np.stack([radius * side, radius * other, along], 1)
    return Solid("cylinder", axes, (begin + stop) / 2, (texture,), gloss)


def turn(yaw: float) -> Float64[np.ndarray, "3 3"]:
    """Rotation about the vertical (z) axis."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _vector(values: Vector) -> Float64[np.ndarray, "3"]:
    return np.asarray(values, dtype=np.float64)


def cast(
    origin: Float64[np.ndarray, "3"],
    rays: Rays,
    solids: Sequence[Solid],
    windows: Sequence[tuple[slice, slice]] | None = None,
) -> Hits:
    """The first solid that each ray from `origin` meets; `windows` limit where each is tried."""
    distance = np.full(rays.shape[:2], np.inf, np.float32)
    index = np.full(rays.shape[:2], -1, np.int16)
    for i, solid in enumerate(solids):
        window = windows[i] if windows is not None else (slice(None), slice(None))
        part = rays[window]
        if part.size == 0:
            continue
        found = _meet(solid, origin, part)
        nearer = found < distance[window]
        distance[window][nearer] = found[nearer]
        index[window][nearer] = i
    return Hits(distance, index)


def shade(
    origin: Float64[np.ndarray, "3"],
    rays: Rays,
    solids: Sequence[Solid],
    hits: Hits,
    light: Float64[np.ndarray, "3"],
) -> Float32[np.ndarray, "H W 3"]:
    """Display colours in [0, 1] at the hits; black where a ray meets nothing."""
    flat, distance, index = rays.reshape(-1, 3), hits.distance.ravel(), hits.index.ravel()
    color = np.zeros_like(flat)
    for i, solid in enumerate(solids):
        chosen = np.flatnonzero(index == i)
        if len(chosen):
            part = _shade_solid(solid, origin, flat[chosen], distance[chosen], light)
            color[chosen] = np.clip(part, 0, 1)
    return color.reshape(*hits.index.shape, 3)


def _shade_solid(
    solid: Solid,
    origin: Float64[np.ndarray, "3"],
    rays: Float32[np.ndarray, "P 3"],
    distance: Float32[np.ndarray, "P"],
    light: Float64[np.ndarray, "3"],
) -> Float32[np.ndarray, "P 3"]:
    inverse = np.linalg.inv(solid.axes)
    start = (inverse @ (origin - solid.center)).astype(np.float32)
    local = start + distance[:, None] * (rays @ inverse.T.astype(np.float32))
    surface = _surface(solid.shape, local)
    normal = surface.normal @ inverse.astype(np.float32)
    normal = _unit(normal)
    toward_eye = _unit(-rays)
    if solid.hollow:
        normal = -normal
    albedo = _albedo(solid.faces, surface)
    point = origin.astype(np.float32) + distance[:, None] * rays
    toward_light = _unit(light.astype(np.float32) - point)
    lambert = np.maximum(0, _dot(normal, toward_light))
    window = np.maximum(0, normal @ np.array([0.35, -0.8, 0.48], np.float32))
    half = _unit(toward_light + toward_eye)
    shine = np.maximum(0, _dot(normal, half)) ** 24
    lit = albedo * (0.52 + 0.42 * lambert + 0.2 * window)[:, None]
    return lit + np.float32(solid.gloss) * shine[:, None]


def _dot(
    left: Float32[np.ndarray, "P 3"], right: Float32[np.ndarray, "P 3"]
) -> Float32[np.ndarray, "P"]:
    return np.einsum("pc,pc->p", left, right)


def _unit(vectors: Float32[np.ndarray, "P 3"]) -> Float32[np.ndarray, "P 3"]:
    return vectors / np.sqrt(_dot(vectors, vectors))[:, None]


def _albedo(faces: tuple[Texture, ...], surface: _Surface) -> Float32[np.ndarray, "P 3"]:
    if len(faces) == 1:
        return _lookup(faces[0], surface.uv)
    albedo = np.empty((len(surface.face), 3), np.float32)
    for k, texture in enumerate(faces):
        albedo[surface.face == k] = _lookup(texture, surface.uv[surface.face == k])
    return albedo


def _meet(solid: Solid, origin: Float64[np.ndarray, "3"], rays: Rays) -> Distances:
    inverse = np.linalg.inv(solid.axes)
    start = (inverse @ (origin - solid.center)).astype(np.float32)
    direction = rays @ inverse.T.astype(np.float32)
    direction = np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
    if solid.shape == "box":
        near, far = _slabs(start, direction)
        return far if solid.hollow else np.where((near < far) & (near > EPSILON), near, np.inf)
    if solid.shape == "ellipsoid":
        return _quadratic(start, direction)[0]
    return _meet_cylinder(start, direction)


def _slabs(start: Float32[np.ndarray, "3"], direction: Rays) -> tuple[Distances, Distances]:
    inverse = 1 / direction
    middle = -start * inverse
    reach = np.abs(inverse)
    near, far = middle - reach, middle + reach
    # numpy reduces an axis of length 3 ten times slower than it compares whole planes.
    enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), near[..., 2])
    leave = np.minimum(np.minimum(far[..., 0], far[..., 1]), far[..., 2])
    return enter, leave


def _quadratic(
    start: Float32[np.ndarray, "D"], direction: Float32[np.ndarray, "H W D"]
) -> tuple[Distances, Distances]:
    """Where rays enter and leave the unit ball (D = 3) or circle (D = 2); inf where they miss."""
    a = np.einsum("hwd,hwd->hw", direction, direction)
    b = direction @ start
    disc = b * b - a * (start @ start - 1)
    root = np.sqrt(np.maximum(disc, 0))
    enter, leave = (-b - root) / a, (-b + root) / a
    hit = (disc > 0) & (enter > EPSILON)
    return np.where(hit, enter, np.inf), np.where(disc > 0, leave, -np.inf)


def _meet_cylinder(start: Float32[np.ndarray, "3"], direction: Rays) -> Distances:
    a = direction[..., 0] ** 2 + direction[..., 1] ** 2
    b = direction[..., 0] * start[0] + direction[..., 1] * start[1]
    disc = b * b - a * (start[0] ** 2 + start[1] ** 2 - 1)
    root = np.sqrt(np.maximum(disc, 0))
    inverse = 1 / direction[..., 2]
    middle, reach = -start[2] * inverse, np.abs(inverse)
    near = np.maximum((-b - root) / a, middle - reach)
    far = np.minimum((-b + root) / a, middle + reach)
    return np.where((disc > 0) & (near < far) & (near > EPSILON), near, np.inf)


def _surface(shape: Shape, local: Float32[np.ndarray, "P 3"]) -> _Surface:
    face = np.zeros(len(local), np.int16)
    x, y, z = local.T
    if shape == "box":
        axis = np.abs(local).argmax(1)
        sign = np.take_along_axis(local, axis[:, None], 1)[:, 0] > 0
        normal = np.zeros_like(local)
        normal[np.arange(len(local)), axis] = np.where(sign, 1, -1)
        u = np.where(axis == 0, y, x)
        v = np.where(axis == 2, y, -z)
        face = (2 * axis + sign).astype(np.int16)
        return _Surface(normal, face, np.stack([u, v], 1) * 0.5 + 0.5)
    turn_around = np.arctan2(y, x) / np.float32(2 * np.pi) + 0.5
    if shape == "ellipsoid":
        down = np.arccos(np.clip(z, -1, 1)) / np.float32(np.pi)
        return _Surface(local.copy(), face, np.stack([turn_around, down], 1))
    on_cap = z * z > x * x + y * y
    normal = np.where(
        on_cap[:, None],
        np.stack([0 * x, 0 * x, np.sign(z)], 1),
        np.stack([x, y, 0 * z], 1),
    ).astype(np.float32)
    return _Surface(normal, face, np.stack([turn_around, 0.5 - 0.5 * z], 1))


def _lookup(texture: Texture, uv: Float32[np.ndarray, "P 2"]) -> Float32[np.ndarray, "P 3"]:
    """Bilinear lookup; u, v in [0, 1] from the left and the top edge, clamped."""
    rows, cols = texture.shape[:2]
    x = np.clip(uv[:, 0] * cols - 0.5, 0, cols - 1)
    y = np.clip(uv[:, 1] * rows - 0.5, 0, rows - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, below = np.minimum(left + 1, cols - 1), np.minimum(top + 1, rows - 1)
    fx = (x - left.astype(np.float32))[:, None]
    fy = (y - top.astype(np.float32))[:, None]
    upper = texture[top, left] * (1 - fx) + texture[top, right] * fx
    lower = texture[below, left] * (1 - fx) + texture[below, right] * fx
    return upper * (1 - fy) + lower * fy
