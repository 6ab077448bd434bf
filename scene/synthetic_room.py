"""Furnishes the room of the built-in capture; knows what stands still, not who walks by."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

from scene import synthetic_textures as paint
from scene.synthetic_solids import Solid, box, ellipsoid, rod
from scene.synthetic_textures import Texture

HALF_LENGTH, HALF_WIDTH, HEIGHT = 4.0, 3.2, 2.9  # metres; the floor is z = 0, its middle the origin


@dataclass(frozen=True)
class Room:
    """What stands still, the lamp that lights it, and round keep-out areas (x, y, radius)."""

    solids: tuple[Solid, ...]
    light: Float64[np.ndarray, "3"]
    obstacles: Float64[np.ndarray, "N 3"]


def build_room(rng: Generator, texels_per_metre: int) -> Room:
    """The furnished room; textures have `texels_per_metre` on the walls and floor."""
    painter = _Painter(rng, texels_per_metre)
    shell = box(
        (0, 0, HEIGHT / 2),
        (HALF_LENGTH, HALF_WIDTH, HEIGHT / 2),
        painter.shell(),
        gloss=0.0,
        hollow=True,
    )
    solids = [shell, *_table(painter), *_still_life(painter), *_chairs(painter)]
    solids += [*_shelf_and_cabinet(painter), *_sofa(painter), *_corners(painter)]
    obstacles = np.array(
        [
            [0, 0, 0.95],
            [-3.7, -1.0, 0.9],
            [0.4, 2.9, 0.8],
            [-1.2, 2.9, 0.8],
            [3.6, 0.9, 0.9],
            [3.3, -2.6, 0.6],
            [-3.4, 2.6, 0.6],
            [3.3, 2.6, 0.5],
        ]
    )
    return Room(tuple(solids), np.array([0.3, 0.2, 2.7]), obstacles)


@dataclass(frozen=True)
class _Painter:
    rng: Generator
    density: int

    def size(self, height: float, width: float) -> tuple[int, int]:
        """Rows and columns for a patch of that size in metres."""
        return max(8, round(height * self.density)), max(8, round(width * self.density))

    def cloth(self, color: paint.Rgb, depth: float = 0.3, cells: float | int = 8) -> Texture:
        rows, cols = self.size(0.8, 0.8)
        return paint.mottled(self.rng, rows, cols, color, cells, depth)

    def wood(self, color: paint.Rgb, boards: int, height: float, width: float) -> Texture:
        return paint.planks(self.rng, *self.size(height, width), boards, color)

    def poster(self, height: float, width: float, style: int) -> Texture:
        return paint.poster(self.rng, *self.size(height, width), style)

    def shell(self) -> tuple[Texture, ...]:
        """The six inner faces of the room: -x, +x, -y, +y, floor, ceiling."""
        side, front = (HEIGHT, 2 * HALF_WIDTH), (HEIGHT, 2 * HALF_LENGTH)
        walls = [self._brick_wall(side), self._paper_wall(side)]
        walls += [self._plaster_wall(front), self._panel_wall(front)]
        return (*walls, self._floor(), self._ceiling())

    def _brick_wall(self, size: tuple[float, float]) -> Texture:
        wall = paint.bricks(self.rng, *self.size(*size), 34, size[1] / size[0])
        paint.paste(wall, self.poster(0.9, 1.3, 1), 0.18, 0.52)
        paint.paste(wall, self.poster(0.7, 0.5, 2), 0.2, 0.78)
        return paint.darken_edges(wall, size)

    def _paper_wall(self, size: tuple[float, float]) -> Texture:
        rows, cols = self.size(*size)
        colors = ((0.36, 0.5, 0.52), (0.44, 0.58, 0.58), (0.36, 0.5, 0.52), (0.62, 0.68, 0.6))
        wall = paint.stripes(rows, cols, colors, 56, down=False)
        wall *= 1 + 0.22 * paint.cloud(self.rng, rows, cols, 10, octaves=5)[..., None]
        paint.paste(wall, self.poster(0.8, 0.8, 0), 0.15, 0.1)
        paint.paste(wall, self.poster(0.6, 1.0, 1), 0.2, 0.3)
        paint.paste(wall, self.poster(0.7, 0.5, 0), 0.16, 0.86)
        return paint.darken_edges(wall, size)

    def _plaster_wall(self, size: tuple[float, float]) -> Texture:
        wall = paint.mottled(self.rng, *self.size(*size), (0.82, 0.74, 0.58), 9, 0.22)
        paint.paste(wall, self._window(1.3, 1.7), 0.16, 0.1)
        paint.paste(wall, self._window(1.3, 1.7), 0.16, 0.66)
        paint.paste(wall, self.poster(0.6, 0.9, 0), 0.16, 0.35)
        paint.paste(wall, self.poster(0.9, 0.65, 2), 0.14, 0.5)
        rows, cols = self.size(0.7, size[1])
        palette = ((0.2, 0.36, 0.42), (0.3, 0.48, 0.5), (0.85, 0.82, 0.74))
        paint.paste(wall, paint.tiles(self.rng, rows, cols, (4, 46), palette), 0.76, 0.0)
        return paint.darken_edges(wall, size)

    def _panel_wall(self, size: tuple[float, float]) -> Texture:
        rows, cols = self.size(*size)
        wall = paint.mottled(self.rng, rows, cols, (0.52, 0.6, 0.44), 14, 0.25)
        boards = paint.planks(self.rng, cols, self.size(0.95, 1.0)[0], 40, (0.55, 0.38, 0.24))
        paint.paste(wall, np.ascontiguousarray(boards.transpose(1, 0, 2)), 0.675, 0.0)
        paint.paste(wall, self._door(2.1, 0.95), 0.276, 0.86)
        for left, style in ((0.05, 1), (0.24, 0), (0.66, 2), (0.745, 0)):
            paint.paste(wall, self.poster(0.75, 0.62 + 0.5 * (style == 1), style), 0.17, left)
        return paint.darken_edges(wall, size)

    def _window(self, height: float, width: float) -> Texture:
        view = self.poster(height, width, 1) * 0.6 + 0.4
        rows, cols = view.shape[:2]
        bar = max(1, round(0.05 * self.density))
        view[:, cols // 2 - bar // 2 : cols // 2 + bar] = 0.9
        view[rows // 2 - bar // 2 : rows // 2 + bar] = 0.9
        view[: 2 * bar], view[-2 * bar :], view[:, : 2 * bar], view[:, -2 * bar :] = (0.92,) * 4
        return view

    def _door(self, height: float, width: float) -> Texture:
        door = self.wood((0.38, 0.24, 0.16), 1, height, width)
        for top, left in ((0.07, 0.14), (0.07, 0.56), (0.52, 0.14), (0.52, 0.56)):
            panel = self.wood((0.5, 0.33, 0.22), 1, 0.38 * height, 0.3 * width)
            paint.paste(door, panel, top, left)
        paint.paste(door, paint.plain((0.85, 0.75, 0.4), *self.size(0.08, 0.05)), 0.5, 0.9)
        return door

    def _floor(self) -> Texture:
        size = (2 * HALF_WIDTH, 2 * HALF_LENGTH)
        floor = self.wood((0.6, 0.44, 0.29), 44, *size)
        rows, cols = self.size(3.0, 4.2)
        rug = paint.checks(rows, cols, (0.55, 0.16, 0.16), (0.2, 0.22, 0.38), (9, 13))
        inner = paint.checks(*self.size(2.0, 3.0), (0.78, 0.7, 0.52), (0.6, 0.3, 0.2), (16, 24))
        paint.paste(rug, inner, 0.167, 0.143)
        rug *= 1 + 0.25 * paint.cloud(self.rng, rows, cols, 40)[..., None]
        paint.paste(floor, np.clip(rug, 0, 1), 0.266, 0.237)
        return self._contact_shade(paint.darken_edges(floor, size), size)

    def _contact_shade(self, floor: Texture, size: tuple[float, float]) -> Texture:
        """Soft darkness where furniture stands (x, y, reach in metres)."""
        rows, cols = floor.shape[:2]
        y = ((np.arange(rows, dtype=np.float32) + 0.5) / rows - 0.5)[:, None] * size[0]
        x = ((np.arange(cols, dtype=np.float32) + 0.5) / cols - 0.5)[None, :] * size[1]
        shade = np.ones((rows, cols), np.float32)
        spots = [(0, 0, 0.8, 0.5), (3.5, 0.9, 0.5, 1.1), (-3.7, -1.0, 0.4, 0.9)]
        spots += [(0.4, 2.9, 0.9, 0.35), (-0.9, -0.85, 0.3, 0.3), (1.05, 0.6, 0.3, 0.3)]
        spots += [(3.3, -2.6, 0.35, 0.35), (-3.4, 2.6, 0.3, 0.3)]
        for at_x, at_y, reach_x, reach_y in spots:
            distance = ((x - at_x) / reach_x) ** 2 + ((y - at_y) / reach_y) ** 2
            shade *= 1 - 0.45 * np.exp(-(distance**1.5))
        return floor * shade[..., None]

    def _ceiling(self) -> Texture:
        size = (2 * HALF_WIDTH, 2 * HALF_LENGTH)
        ceiling = paint.mottled(self.rng, *self.size(*size), (0.84, 0.82, 0.78), 12, 0.12)
        beam = self.wood((0.4, 0.27, 0.18), 2, 0.25, size[1])
        for top in (0.08, 0.36, 0.6, 0.88):
            paint.paste(ceiling, beam, top, 0.0)
        return paint.darken_edges(ceiling, size)


def _table(painter: _Painter) -> list[Solid]:
    top = painter.wood((0.66, 0.47, 0.28), 7, 0.9, 1.5)
    leg = painter.wood((0.4, 0.26, 0.15), 2, 0.3, 0.3)
    legs = [rod((x, y, 0), (x, y, 0.72), 0.045, leg) for x in (-0.64, 0.64) for y in (-0.36, 0.36)]
    return [box((0, 0, 0.745), (0.75, 0.45, 0.025), top, gloss=0.12), *legs]


def _still_life(painter: _Painter) -> list[Solid]:
    """What stands on the table."""
    rows, cols = painter.size(0.8, 1.2)
    land = paint.cloud(painter.rng, rows, cols, 7)
    globe = paint.blend((0.12, 0.3, 0.62), (0.35, 0.6, 0.25), (land > 0.05).astype(np.float32))
    globe *= 1 + 0.3 * paint.cloud(painter.rng, rows, cols, 24)[..., None]
    vase = paint.stripes(
        rows, cols, ((0.75, 0.3, 0.12), (0.93, 0.85, 0.7), (0.15, 0.2, 0.35)), 15, down=True
    )
    vase = vase * (0.75 + 0.25 * paint.checks(rows, cols, (1.0,) * 3, (0.3,) * 3, (15, 20)))
    tin = paint.poster(painter.rng, rows, cols, 2)
    stack = [
        box(
            (-0.48, -0.12, 0.795 + 0.05 * k),
            (0.17 - 0.012 * k, 0.12, 0.025),
            painter.cloth(color, 0.15, 20),
            yaw=0.5 + 0.35 * k,
        )
        for k, color in enumerate([(0.6, 0.12, 0.12), (0.12, 0.32, 0.5), (0.82, 0.66, 0.2)])
    ]
    leaves = paint.blend(
        (0.08, 0.24, 0.07), (0.45, 0.62, 0.2), 0.5 + paint.cloud(painter.rng, rows, cols, 26)
    )
    metal = painter.cloth((0.5, 0.5, 0.53), 0.15)
    return [
        rod((-0.1, 0.16, 0.77), (-0.1, 0.16, 0.83), 0.07, metal),
        ellipsoid((-0.1, 0.16, 0.99), (0.165,) * 3, globe, gloss=0.3),
        rod((0.26, -0.12, 0.77), (0.26, -0.12, 1.06), 0.085, vase, gloss=0.3),
        ellipsoid((0.26, -0.12, 1.22), (0.19, 0.19, 0.16), leaves, gloss=0.02),
        rod((0.52, 0.2, 0.77), (0.52, 0.2, 0.93), 0.07, tin, gloss=0.3),
        box((0.56, -0.26, 0.84), (0.07, 0.1, 0.07), painter.poster(0.5, 0.5, 0), yaw=0.7),
        *stack,
    ]


def _chairs(painter: _Painter) -> list[Solid]:
    parts: list[Solid] = []
    for x, y, yaw, color in (
        (-0.9, -0.85, 0.5, (0.2, 0.42, 0.4)),
        (1.05, 0.6, 2.4, (0.62, 0.3, 0.12)),
    ):
        c, s = np.cos(yaw), np.sin(yaw)
        seat = painter.wood(color, 5, 0.5, 0.5)
        parts.append(box((x, y, 0.45), (0.21, 0.21, 0.025), seat, yaw=yaw))
        parts.append(box((x - 0.2 * c, y - 0.2 * s, 0.78), (0.02, 0.2, 0.17), seat, yaw=yaw))
        for forward, side in ((-0.19, -0.19), (-0.19, 0.19), (0.19, -0.19), (0.19, 0.19)):
            at = (x + forward * c - side * s, y + forward * s + side * c)
            top = 0.9 if forward < 0 else 0.44
            parts.append(rod((*at, 0.0), (*at, top), 0.022, seat))
    return parts


def _shelf_and_cabinet(painter: _Painter) -> list[Solid]:
    wood = painter.wood((0.45, 0.31, 0.2), 4, 0.6, 0.6)
    books = paint.book_spines(painter.rng, *painter.size(2.0, 1.7), 5, back=(0.14, 0.1, 0.08))
    shelf = box((-3.82, -1.0, 1.0), (0.18, 0.85, 1.0), (wood, books, wood, wood, wood, wood))
    front = painter.wood((0.72, 0.68, 0.56), 3, 0.85, 1.8)
    for left in (0.04, 0.36, 0.68):
        paint.paste(front, painter.wood((0.3, 0.44, 0.48), 1, 0.68, 0.52), 0.1, left)
    top = painter.wood((0.5, 0.36, 0.22), 4, 0.5, 1.8)
    cabinet = box((0.4, 2.96, 0.43), (0.9, 0.22, 0.43), (top, top, front, front, top, top))
    radio = painter.poster(0.4, 0.6, 2)
    clay = painter.cloth((0.7, 0.42, 0.28), 0.35, 12)
    pattern = paint.checks(*painter.size(0.6, 0.9), (0.9, 0.86, 0.75), (0.16, 0.25, 0.5), (8, 14))
    return [
        shelf,
        cabinet,
        box((-0.1, 2.98, 1.0), (0.25, 0.1, 0.14), radio),
        rod((0.55, 2.98, 0.86), (0.55, 2.98, 1.2), 0.09, pattern, gloss=0.3),
        ellipsoid((0.98, 2.96, 1.01), (0.16, 0.16, 0.15), clay, gloss=0.2),
    ]


def _sofa(painter: _Painter) -> list[Solid]:
    rows, cols = painter.size(0.9, 1.6)
    plaid = paint.stripes(rows, cols, ((0.55, 0.2, 0.22), (0.68, 0.34, 0.3)), 12, down=False)
    plaid *= 0.55 + 0.45 * paint.stripes(rows, cols, ((1.0,) * 3, (0.6,) * 3), 8, down=True)
    plaid *= 1 + 0.2 * paint.cloud(painter.rng, rows, cols, 30)[..., None]
    plaid = np.clip(plaid, 0, 1)
    blue = paint.checks(*painter.size(0.4, 0.4), (0.2, 0.35, 0.6), (0.85, 0.85, 0.8), (6, 6))
    yellow = painter.cloth((0.85, 0.68, 0.2), 0.3, 10)
    return [
        box((3.5, 0.9, 0.22), (0.42, 0.95, 0.22), plaid, gloss=0.02),
        box((3.82, 0.9, 0.55), (0.14, 0.95, 0.35), plaid, gloss=0.02),
        box((3.5, 1.85, 0.34), (0.42, 0.1, 0.3), plaid, gloss=0.02),
        box((3.5, -0.05, 0.34), (0.42, 0.1, 0.3), plaid, gloss=0.02),
        box((3.6, 1.45, 0.6), (0.09, 0.2, 0.18), blue, yaw=0.3, gloss=0.02),
        box((3.6, 0.3, 0.6), (0.09, 0.2, 0.18), yellow, yaw=-0.25, gloss=0.02),
    ]


def _corners(painter: _Painter) -> list[Solid]:
    """A potted plant, a floor lamp and a crate with a ball in three corners."""
    rows, cols = painter.size(0.9, 1.4)
    spots = paint.cloud(painter.rng, rows, cols, 22)
    leaves = paint.blend((0.05, 0.2, 0.06), (0.42, 0.6, 0.22), 0.5 + spots)
    pot = paint.stripes(rows, cols, ((0.66, 0.36, 0.24), (0.8, 0.5, 0.34)), 9, down=True)
    pole = painter.cloth((0.2, 0.2, 0.22), 0.2)
    glow = paint.stripes(rows, cols, ((0.98, 0.9, 0.68), (0.9, 0.74, 0.45)), 18, down=False)
    crate = painter.wood((0.62, 0.5, 0.3), 6, 0.6, 0.6)
    trunk = painter.wood((0.35, 0.25, 0.16), 3, 0.4, 0.2)
    return [
        rod((3.3, -2.6, 0), (3.3, -2.6, 0.4), 0.24, pot),
        rod((3.3, -2.6, 0.4), (3.3, -2.6, 0.9), 0.04, trunk),
        ellipsoid((3.3, -2.6, 1.2), (0.42, 0.4, 0.5), leaves, gloss=0.02),
        ellipsoid((3.15, -2.45, 1.65), (0.26, 0.26, 0.3), leaves, gloss=0.02),
        rod((-3.4, 2.6, 0), (-3.4, 2.6, 0.04), 0.18, pole),
        rod((-3.4, 2.6, 0.04), (-3.4, 2.6, 1.5), 0.025, pole),
        rod((-3.4, 2.6, 1.45), (-3.4, 2.6, 1.85), 0.24, glow, gloss=0.0),
        box((3.3, 2.6, 0.3), (0.35, 0.3, 0.3), crate, yaw=0.3),
        ellipsoid((3.3, 2.6, 0.8), (0.2, 0.2, 0.2), painter.poster(0.4, 0.6, 0), gloss=0.2),
    ]
