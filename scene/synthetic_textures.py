"""Paints the procedural textures of the built-in capture; knows no geometry and no cameras."""

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator
from PIL import Image, ImageDraw

Texture = Float32[np.ndarray, "_ _ 3"]  # rows from the top, columns, RGB in [0, 1]
Field = Float32[np.ndarray, "_ _"]
Rgb = tuple[float | int, float | int, float | int]


def noise(rng: Generator, rows: int, cols: int, cells: float | int) -> Field:
    """Smooth noise in about [-1, 1] with `cells` bumps along the longer side."""
    longer = max(rows, cols)
    grid_rows = max(2, round(rows * cells / longer))
    grid_cols = max(2, round(cols * cells / longer))
    grid = rng.uniform(-1, 1, (grid_rows, grid_cols)).astype(np.float32)
    image = Image.fromarray(grid).resize((cols, rows), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def cloud(rng: Generator, rows: int, cols: int, cells: float | int, octaves: int = 4) -> Field:
    """Noise at several scales, each octave with twice the bumps and 0.6 of the strength."""
    total = np.zeros((rows, cols), np.float32)
    for octave in range(octaves):
        fine = min(cells * 2**octave, max(rows, cols))
        total += np.float32(0.6**octave) * noise(rng, rows, cols, fine)
    return total / np.float32(1.6)


def plain(color: Rgb, rows: int, cols: int) -> Texture:
    """One colour everywhere."""
    return np.broadcast_to(np.asarray(color, np.float32), (rows, cols, 3)).copy()


def mottled(
    rng: Generator, rows: int, cols: int, color: Rgb, cells: float | int, depth: float
) -> Texture:
    """One colour with relative brightness noise of strength `depth` at several scales."""
    shade = 1 + np.float32(depth) * cloud(rng, rows, cols, cells)
    return np.clip(plain(color, rows, cols) * shade[..., None], 0, 1)


def blend(low: Rgb, high: Rgb, amount: Field) -> Texture:
    """`low` where `amount` is 0, `high` where it is 1."""
    weight = np.clip(amount, 0, 1)[..., None]
    return (1 - weight) * np.asarray(low, np.float32) + weight * np.asarray(high, np.float32)


def bricks(rng: Generator, rows: int, cols: int, courses: int, aspect: float) -> Texture:
    """A running bond of bricks; `aspect` is the wall's width over its height."""
    v = np.linspace(0, courses, rows, endpoint=False, dtype=np.float32)[:, None]
    u = np.linspace(0, courses * aspect / 3, cols, endpoint=False, dtype=np.float32)[None, :]
    course = np.floor(v).astype(int)
    u = u + np.float32(0.5) * (course % 2).astype(np.float32)
    brick = np.floor(u).astype(int)
    tone = rng.uniform(0.6, 1.15, (courses, int(courses * aspect / 3) + 3)).astype(np.float32)
    tint = rng.uniform(-0.05, 0.05, tone.shape).astype(np.float32)
    shade = tone[course, brick] * (1 + 0.25 * cloud(rng, rows, cols, 60))
    base = np.stack([0.62 + tint[course, brick], 0.33 + 0 * shade, 0.25 + 0 * shade], -1)
    mortar = ((v - course) < 0.11) | ((u - brick) < 0.04)
    wall = base * shade[..., None]
    wall[mortar] = (0.66 + 0.1 * cloud(rng, rows, cols, 80)[mortar])[:, None]
    return np.clip(wall, 0, 1).astype(np.float32)


def planks(rng: Generator, rows: int, cols: int, boards: int, color: Rgb) -> Texture:
    """Boards along the columns, with grain, knots of tone and dark joints."""
    v = np.linspace(0, boards, rows, endpoint=False, dtype=np.float32)[:, None]
    board = np.floor(v).astype(int)
    u = np.linspace(0, 3, cols, endpoint=False, dtype=np.float32)[None, :]
    offset = rng.uniform(0, 1, boards).astype(np.float32)
    along = u + offset[board]
    piece = np.floor(along).astype(int)
    tone = rng.uniform(0.7, 1.15, (boards, 5)).astype(np.float32)[board, piece]
    streak = rng.uniform(-1, 1, (rows, max(2, cols // 24))).astype(np.float32)
    grain = np.asarray(Image.fromarray(streak).resize((cols, rows), Image.Resampling.BICUBIC))
    shade = tone * (1 + 0.22 * grain + 0.12 * cloud(rng, rows, cols, 12))
    joint = ((v - board) < 0.05) | ((along - piece) < 0.012)
    shade = np.where(joint, 0.45 * shade, shade)
    return np.clip(plain(color, rows, cols) * shade[..., None], 0, 1).astype(np.float32)


def tiles(
    rng: Generator, rows: int, cols: int, count: tuple[int, int], palette: tuple[Rgb, ...]
) -> Texture:
    """`count` (down, across) square tiles drawn at random from `palette`, with bright joints."""
    v = np.linspace(0, count[0], rows, endpoint=False, dtype=np.float32)[:, None]
    u = np.linspace(0, count[1], cols, endpoint=False, dtype=np.float32)[None, :]
    choice = rng.integers(0, len(palette), count)
    pick = choice[np.floor(v).astype(int), np.floor(u).astype(int)]
    surface = np.asarray(palette, np.float32)[pick]
    surface = surface * (1 + 0.12 * cloud(rng, rows, cols, 40))[..., None]
    joint = ((v % 1) < 0.06) | ((u % 1) < 0.06)
    surface[joint] = 0.8
    return np.clip(surface, 0, 1).astype(np.float32)


def stripes(rows: int, cols: int, colors: tuple[Rgb, ...], count: int, *, down: bool) -> Texture:
    """`count` even bands of the colours in turn, stacked (`down`) or side by side."""
    length = rows if down else cols
    band = np.arange(length) * count // length % len(colors)
    line = np.asarray(colors, np.float32)[band]
    line = line[:, None] if down else line[None, :]
    return np.broadcast_to(line, (rows, cols, 3)).copy()


def checks(rows: int, cols: int, first: Rgb, second: Rgb, count: tuple[int, int]) -> Texture:
    """A checkerboard of `count` (down, across) fields."""
    down = np.arange(rows)[:, None] * count[0] // rows
    across = np.arange(cols)[None, :] * count[1] // cols
    return blend(first, second, ((down + across) % 2).astype(np.float32))


def book_spines(rng: Generator, rows: int, cols: int, shelves: int, *, back: Rgb) -> Texture:
    """The front of a shelf: rows of upright spines of many widths, heights and colours."""
    canvas = Image.new("RGB", (cols, rows), _bytes(back))
    draw = ImageDraw.Draw(canvas)
    height = rows / shelves
    for shelf in range(shelves):
        floor = (shelf + 0.93) * height
        x = 0.03 * cols
        while x < 0.94 * cols:
            width = max(2.0, cols * rng.uniform(0.02, 0.055))
            top = floor - height * rng.uniform(0.55, 0.82)
            if rng.uniform() > 0.08:
                color = tuple(rng.uniform(0.08, 0.9, 3))
                draw.rectangle((x, top, x + width - 1, floor), fill=_bytes(color))
                label = tuple(np.clip(np.asarray(color) + rng.choice((-0.4, 0.45)), 0, 1))
                y = top + (floor - top) * rng.uniform(0.1, 0.4)
                draw.rectangle((x, y, x + width - 1, y + 0.12 * height), fill=_bytes(label))
            x += width
        draw.rectangle((0, floor, cols, (shelf + 1) * height), fill=_bytes((0.42, 0.29, 0.18)))
    wood = _bytes((0.45, 0.31, 0.2))
    draw.rectangle((0, 0, 0.025 * cols, rows), fill=wood)
    draw.rectangle((0.975 * cols, 0, cols, rows), fill=wood)
    return from_image(canvas) * (1 + 0.1 * cloud(rng, rows, cols, 30))[..., None]


def poster(rng: Generator, rows: int, cols: int, style: int) -> Texture:
    """A framed picture: 0 abstract shapes, 1 a landscape, 2 a page of text with a headline."""
    canvas = Image.new("RGB", (cols, rows), _bytes((0.93, 0.91, 0.86)))
    draw = ImageDraw.Draw(canvas)
    if style == 0:
        for _ in range(14):
            x, y = rng.uniform(0, cols), rng.uniform(0, rows)
            size = rng.uniform(0.08, 0.3) * rows
            fill = _bytes(tuple(rng.uniform(0.05, 0.95, 3)))
            shape = draw.ellipse if rng.uniform() < 0.5 else draw.rectangle
            shape((x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill=fill)
    elif style == 1:
        _paint_landscape(rng, draw, rows, cols)
    else:
        draw.rectangle((0, 0, cols, rows * 0.24), fill=_bytes((0.75, 0.15, 0.12)))
        y = rows * 0.3
        while y < rows * 0.93:
            end = cols * rng.uniform(0.55, 0.92)
            draw.rectangle((cols * 0.08, y, end, y + rows * 0.025), fill=_bytes((0.15,) * 3))
            y += rows * 0.062
    border = max(1, round(0.035 * min(rows, cols)))
    draw.rectangle((0, 0, cols - 1, rows - 1), outline=_bytes((0.12, 0.09, 0.07)), width=border)
    return from_image(canvas)


def paste(surface: Texture, patch: Texture, top: float, left: float) -> None:
    """Puts `patch` on `surface` in place; `top` and `left` are fractions of the surface."""
    row, col = round(top * surface.shape[0]), round(left * surface.shape[1])
    fit = patch[: surface.shape[0] - row, : surface.shape[1] - col]
    surface[row : row + fit.shape[0], col : col + fit.shape[1]] = fit


def darken_edges(surface: Texture, size: tuple[float, float], reach: float = 0.35) -> Texture:
    """Soft darkening towards the four edges; `size` (height, width) and `reach` in metres."""
    rows, cols = surface.shape[:2]
    v = (np.arange(rows, dtype=np.float32) + 0.5) / rows * size[0]
    u = (np.arange(cols, dtype=np.float32) + 0.5) / cols * size[1]
    along_v = 1 - 0.4 * np.exp(-np.minimum(v, size[0] - v) / reach)
    along_u = 1 - 0.4 * np.exp(-np.minimum(u, size[1] - u) / reach)
    return (surface * (along_v[:, None] * along_u[None, :])[..., None]).astype(np.float32)


def from_image(image: Image.Image) -> Texture:
    """Colours in [0, 1] of an RGB image."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _paint_landscape(rng: Generator, draw: ImageDraw.ImageDraw, rows: int, cols: int) -> None:
    for row in range(rows):
        fade = row / rows
        draw.line((0, row, cols, row), fill=_bytes((0.35 + 0.5 * fade, 0.55 + 0.3 * fade, 0.9)))
    sun = (0.7 * cols, 0.15 * rows, 0.85 * cols, 0.15 * rows + 0.15 * cols)
    draw.ellipse(sun, fill=_bytes((1.0, 0.9, 0.5)))
    for ridge in range(3):
        base = rows * (0.45 + 0.16 * ridge)
        steps = np.linspace(0, cols, 9)
        line = [(float(x), float(base - rng.uniform(0, 0.2) * rows)) for x in steps]
        green = (0.1 + 0.1 * ridge, 0.3 + 0.12 * ridge, 0.18)
        draw.polygon([(0, rows), *line, (cols, rows)], fill=_bytes(green))


def _bytes(color: Rgb | tuple[float | int, ...]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(np.clip(c, 0, 1))) for c in color)
    return red, green, blue
