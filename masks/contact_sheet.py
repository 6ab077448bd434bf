"""One picture to look at: photos with their candidate segments and the evidence around them.

Draws what the files and the capture say; decides nothing.
"""

import colorsys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from arguments.messages import ExitCode, UserError
from masks.neighbors import DuePoints
from masks.reasons import label_of
from masks.static_evidence import (
    KINDS,
    EvidenceKind,
    ProvedPoints,
    SegmentVerdicts,
    Verdict,
)
from scene.capture import View

TILE_WIDTH = 400
CAPTION_HEIGHT = 16
LETTER_WIDTH = 6
NUM_COLUMNS = 4
FOUND: dict[EvidenceKind, tuple[int, int, int]] = {
    "tracks": (60, 255, 60),
    "database": (60, 220, 255),
    "features": (255, 90, 255),
}
MISSING = (255, 160, 0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SMALLEST_LABELED = 0.01  # of the tile; smaller candidates get no words


@dataclass(frozen=True)
class Tile:
    """One photo of the sheet.

    Attributes:
        labels: its candidates, the coarsest layer last.
        verdicts: why each segment was kept or dropped.
        points: what was proved to stand still, by the kinds of evidence.
    """

    view: View
    image: UInt8[ndarray, "H W 3"]
    labels: Int32[ndarray, "L H W"]
    verdicts: SegmentVerdicts
    due: DuePoints
    points: Sequence[ProvedPoints]


def outlines(labels: Int32[ndarray, "L H W"]) -> Bool[ndarray, "H W"]:
    """Pixels whose right or lower neighbour belongs to another segment of some layer."""
    edge = np.zeros(labels.shape[1:], dtype=bool)
    for layer in labels:
        edge[:, :-1] |= layer[:, :-1] != layer[:, 1:]
        edge[:-1] |= layer[:-1] != layer[1:]
    return edge


def hues(num_colors: int) -> UInt8[ndarray, "C 3"]:
    """Bright colours, neighbours in the list far apart (steps of the golden ratio)."""
    colors = [colorsys.hsv_to_rgb(0.618 * i % 1.0, 0.75, 1.0) for i in range(num_colors)]
    return (np.array(colors).reshape(-1, 3) * 255).astype(np.uint8)


def shrunk(labels: Int32[ndarray, "L H W"], size: tuple[int, int]) -> Int32[ndarray, "L h w"]:
    """The layers at the size (width, height) of a tile."""
    return np.stack(
        [
            np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.NEAREST))
            for layer in labels
        ]
    )


def tinted(tile: Tile, small: Int32[ndarray, "L h w"]) -> UInt8[ndarray, "h w 3"]:
    """The photo with every candidate in a colour, the largest segments over the small ones."""
    size = (small.shape[2], small.shape[1])
    photo = np.asarray(Image.fromarray(tile.image).resize(size, Image.Resampling.BOX))
    top = np.zeros(small.shape[1:], dtype=np.int32)
    for layer in small:
        top = np.where(layer > 0, layer, top)
    color = hues(int(top.max()) + 1)[top]
    mixed = np.where((top > 0)[..., None], 0.5 * photo + 0.5 * color, 0.75 * photo)
    mixed[outlines(small)] = 255.0
    return mixed.astype(np.uint8)


def write_reasons(draw: ImageDraw.ImageDraw, tile: Tile, small: Int32[ndarray, "L h w"]) -> None:
    """On every large enough candidate, why it was kept: keypoints, or cells, of those expected."""
    covered = np.zeros(small.shape[1:], dtype=bool)
    for layer in reversed(range(len(small))):
        for row in np.flatnonzero(tile.verdicts.layer == layer):
            inside = (small[layer] == tile.verdicts.label[row]) & ~covered
            if inside.sum() >= SMALLEST_LABELED * inside.size:
                y, x = np.argwhere(inside).mean(axis=0)
                where = (int(x) - 24, int(y) + CAPTION_HEIGHT - 6)
                text = label_of(tile.verdicts, int(row))
                draw.text(where, text, fill=WHITE, stroke_width=1, stroke_fill=BLACK)
        covered |= small[layer] > 0


def draw_tile(tile: Tile) -> Image.Image:
    """Tinted photo, dots of evidence, reasons, and a caption with what was decided how often."""
    height, width = tile.image.shape[:2]
    scale = TILE_WIDTH / width
    size = (TILE_WIDTH, max(1, round(height * scale)))
    picture = Image.new("RGB", (size[0], size[1] + CAPTION_HEIGHT))
    small = shrunk(tile.labels, size)
    picture.paste(Image.fromarray(tinted(tile, small)), (0, CAPTION_HEIGHT))
    draw = ImageDraw.Draw(picture)
    dots = [(tile.due.xy[~tile.due.is_found], MISSING)]
    dots += [(points.xy, FOUND[points.kind]) for points in reversed(tile.points)]
    for points, color in dots:
        for x, y in points * scale:
            draw.point((int(x), int(y) + CAPTION_HEIGHT), fill=color)
    write_reasons(draw, tile, small)
    share = (tile.labels > 0).any(axis=0).mean()
    name = tile.view.name if len(tile.view.name) <= 14 else f"...{tile.view.name[-11:]}"
    counts = [np.count_nonzero(tile.verdicts.verdict == verdict) for verdict in Verdict]
    matched = counts[Verdict.MATCHED] + counts[Verdict.RECOGNIZED]
    caption = (
        f"{name} {share:.0%}: {counts[Verdict.CANDIDATE]} missing {counts[Verdict.DIFFERS]} differ"
        f" | {counts[Verdict.STATIC]} seen {f'{matched} matched ' if matched else ''}"
        f"{counts[Verdict.AGREES]} agree {counts[Verdict.UNDECIDABLE]} unclear"
    )
    draw.text((4, 2), caption.encode("ascii", "replace").decode(), fill=(255, 255, 255))
    return picture


def draw_legend(tiles: Sequence[Tile], rule: str, width: int) -> Image.Image:
    """What the dots mean, and the rule behind the words on the tiles."""
    lines = textwrap.wrap(rule, max(20, width // LETTER_WIDTH))
    picture = Image.new("RGB", (width, (1 + len(lines)) * CAPTION_HEIGHT))
    draw = ImageDraw.Draw(picture)
    kinds = sorted({points.kind for tile in tiles for points in tile.points}, key=KINDS.index)
    x = 4
    for word, color in [(f"{kind}: seen", FOUND[kind]) for kind in kinds] + [("missing", MISSING)]:
        draw.rectangle((x, 5, x + 6, 11), fill=color)
        draw.text((x + 10, 2), word, fill=color)
        x += (len(word) + 5) * LETTER_WIDTH
    for row, line in enumerate(lines):
        draw.text((4, 2 + (1 + row) * CAPTION_HEIGHT), line, fill=WHITE)
    return picture


def write_contact_sheet(path: Path, tiles: Sequence[Tile], rule: str) -> None:
    """Write the tiles row by row as one PNG, and below them the rule that was applied.

    Raises:
        UserError: the picture cannot be written.
    """
    pictures = [draw_tile(tile) for tile in tiles]
    columns = min(NUM_COLUMNS, len(pictures))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    legend = draw_legend(tiles, rule, columns * TILE_WIDTH)
    sheet = Image.new("RGB", (legend.width, sum(heights) + legend.height))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * TILE_WIDTH, top))
        top += height
    sheet.paste(legend, (0, top))
    try:
        sheet.save(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder",
            ExitCode.FILE_SYSTEM,
        ) from error
