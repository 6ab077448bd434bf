"""One HTML file that compares runs: numbers, test views, masks. It loads nothing from elsewhere.

    python -m evaluation.report OUT1 OUT2 ... -o report.html

Shows what render.py and evaluate.py have written; renders and measures nothing itself.
"""

import base64
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy.ndimage import binary_erosion

from arguments.cli import parse, run_command
from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from evaluation.evaluate import TRUE_MASKS, Evaluation, read_metrics
from evaluation.renders import Kind, picture_path
from evaluation.report_page import STYLE
from evaluation.run_views import Split
from scene.atomic import write_atomic
from training.run_folder import read_config

Picture = UInt8[np.ndarray, "H W 3"]

LARGEST_WIDTH = 480  # pixels of an embedded picture
QUALITY = 88  # of its JPEG
FOUND_COLOR = (230, 0, 150)
TRUE_COLOR = (0, 170, 90)


@dataclass(frozen=True)
class ReportRun:
    """A run as the report shows it."""

    name: str
    path: Path
    config: TrainConfig
    metrics: Evaluation

    def stems(self, split: Split, kind: Kind) -> list[str]:
        """Views of a split that have a picture of that kind."""
        folder = picture_path(self.path, split, kind, "x").parent
        return sorted(path.stem for path in folder.glob("*.png"))

    def picture(self, split: Split, kind: Kind, stem: str) -> Picture:
        """One of the run's pictures."""
        return _read(picture_path(self.path, split, kind, stem))


@dataclass(frozen=True)
class Figure:
    """A picture with the words below it."""

    pixels: Picture
    caption: str


@dataclass(frozen=True)
class Column:
    """One column of the table of numbers.

    Attributes:
        digits: after the point.
        best: which value is marked; None marks none.
    """

    title: str
    values: tuple[float | None, ...]
    digits: int = 0
    best: float | None = None

    def cell(self, row: int) -> str:
        """The value of a run as HTML."""
        value = self.values[row]
        if value is None:
            return "<td>&ndash;</td>"
        mark = ' class="best"' if value == self.best and len(self.values) > 1 else ""
        return f"<td{mark}>{value:,.{self.digits}f}</td>"


def open_run(path: Path) -> ReportRun:
    """A run that has been rendered and measured.

    Raises:
        UserError: it has not been.
    """
    config = read_config(path)
    run = ReportRun(path.name or str(path), path, config, read_metrics(path))
    if not run.stems(run.metrics.split, "render"):
        raise UserError(f"no renders in '{path}'; run render.py -m {path}")
    return run


def report(runs: Sequence[ReportRun], max_views: int = 6) -> str:
    """The page."""
    title = "twinsplat: " + ", ".join(run.name for run in runs)
    test = _section(
        "Held-out views",
        "What no run was trained on: the photo, and what each run shows there.",
        [_test_row(runs, stem) for stem in _pick(_common(runs, "test", "render"), max_views)],
    )
    masks = _section(
        "Training photos and masks",
        "Magenta: pixels that the run's first branch does not trust. Green: what truly moved, "
        "where the scene says it.",
        [_mask_row(runs, stem) for stem in _pick(_common(runs, "train", "mask"), max_views)],
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        # Nothing may run or be fetched, whatever the names in the page say.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>twinsplat report</h1>{_facts(runs)}{_table(runs)}{test}{masks}"
        "</main></body></html>\n"
    )


def _facts(runs: Sequence[ReportRun]) -> str:
    first = runs[0].metrics
    scenes = sorted({str(run.config.model.source_path) for run in runs})
    parts = [
        f"Scene: {escape(', '.join(scenes))}",
        f"{first.num_views} {escape(first.split)} views",
        escape(first.protocol.name),
        escape(first.protocol.ssim_window),
    ]
    return f'<p class="facts">{" · ".join(parts)}</p>'


def _table(runs: Sequence[ReportRun]) -> str:
    metrics = [run.metrics for run in runs]
    ious = tuple(m.mask_iou for m in metrics)
    columns = [
        Column("PSNR, dB", (p := tuple(m.psnr for m in metrics)), 2, max(p)),
        Column("SSIM", (s := tuple(m.ssim for m in metrics)), 4, max(s)),
        Column("mask IoU", ious, 3, max((v for v in ious if v is not None), default=None)),
        Column("training, s", tuple(m.seconds for m in metrics)),
        Column("Gaussians", tuple(float(m.num_gaussians) for m in metrics)),
        Column("steps", tuple(float(m.step) for m in metrics)),
    ]
    head = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{escape(run.name)}</th><td>{escape(run.config.run.method)}</td>"
        f"{''.join(column.cell(row) for column in columns)}</tr>"
        for row, run in enumerate(runs)
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>run</th><th>method</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _test_row(runs: Sequence[ReportRun], stem: str) -> list[Figure]:
    figures = [Figure(runs[0].picture("test", "gt", stem), f"photo {stem}")]
    for run in runs:
        scores = [m for m in run.metrics.per_image if m.stem == stem]
        score = f": {scores[0].psnr:.2f} dB" if scores else ""
        figures.append(Figure(run.picture("test", "render", stem), f"{run.name}{score}"))
    return figures


def _mask_row(runs: Sequence[ReportRun], stem: str) -> list[Figure]:
    photo = runs[0].picture("train", "gt", stem)
    truth = runs[0].config.model.source_path / TRUE_MASKS / f"{stem}.png"
    figures = [Figure(photo, f"photo {stem}")]
    if truth.is_file():
        with Image.open(truth, formats=("PNG",)) as image:
            size = (photo.shape[1], photo.shape[0])
            moving = np.array(image.convert("L").resize(size, Image.Resampling.BOX)) > 127
        figures = [Figure(overlay(photo, moving, TRUE_COLOR), f"photo {stem}, truth")]
    for run in runs:
        trusted = run.picture("train", "mask", stem)[..., 0] > 127
        own = run.picture("train", "gt", stem)
        figures.append(Figure(overlay(own, ~trusted, FOUND_COLOR), run.name))
    return figures


def overlay(photo: Picture, chosen: Bool[np.ndarray, "H W"], color: Sequence[int]) -> Picture:
    """The photo with the chosen pixels tinted and their outline drawn."""
    tinted = photo.astype(np.float32)
    tinted[chosen] = 0.55 * tinted[chosen] + 0.45 * np.asarray(color, np.float32)
    tinted[chosen & ~binary_erosion(chosen)] = color
    return tinted.round().astype(np.uint8)


def _section(title: str, text: str, rows: Sequence[Sequence[Figure]]) -> str:
    if not rows:
        return ""
    columns = max(len(row) for row in rows)
    cells = "".join(_figure(figure) for row in rows for figure in row)
    return (
        f'<h2>{escape(title)}</h2><p>{escape(text)}</p><div class="scroll">'
        f'<div class="grid" style="--columns:{columns}">{cells}</div></div>'
    )


def _figure(figure: Figure) -> str:
    words = escape(figure.caption)
    return (
        f'<figure><img src="{data_url(figure.pixels)}" alt="{words}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def data_url(pixels: Picture) -> str:
    """A picture as the page can hold it."""
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_WIDTH, LARGEST_WIDTH))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _common(runs: Sequence[ReportRun], split: Split, kind: Kind) -> list[str]:
    shared = set(runs[0].stems(split, kind)).intersection(
        *(run.stems(split, kind) for run in runs[1:])
    )
    return sorted(shared)


def _pick(stems: Sequence[str], count: int) -> list[str]:
    """At most `count` of them, evenly spread."""
    if len(stems) <= count:
        return list(stems)
    return [stems[round(i * (len(stems) - 1) / max(count - 1, 1))] for i in range(count)]


def _read(path: Path) -> Picture:
    with Image.open(path, formats=("PNG",)) as image:
        return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class ReportCommand:
    """The command line of the report."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs that were rendered and measured."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The page to write."""

    max_views: int = 6
    """How many test views, and how many training photos, are shown."""


def main(arguments: Sequence[str]) -> ExitCode:
    """Parse, read the runs, write the page."""
    command = parse(ReportCommand, arguments, "evaluation.report", "Compare runs in one page.")
    if not command.runs:
        raise UserError("no runs given; give the folders of one or more", ExitCode.USAGE)
    page = report([open_run(path) for path in command.runs], command.max_views)
    command.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(command.output, page.encode())
    Messages().note(f"written: {command.output}")
    return ExitCode.OK


if __name__ == "__main__":
    run_command(lambda arguments: sys.exit(main(arguments)))
