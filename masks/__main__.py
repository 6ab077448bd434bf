"""Find distractor candidates before training: `python -m masks -s SCENE`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from arguments.cli import parse, run_command
from arguments.messages import ExitCode, Messages, UserError
from masks.candidates import read_candidates
from masks.contact_sheet import Tile, write_contact_sheet
from masks.imported import ImportSettings
from masks.neighbors import TrackIndex
from masks.proposals import ProposalSettings, candidate_path, propose
from masks.reasons import rule
from masks.sam_segments import SamSettings
from masks.segments import SegmentKind, SegmentSettings
from masks.static_sources import SourceSettings, SourceSurroundings, StaticSource, make_sources
from scene.capture import Capture, CaptureSettings, load_capture


@dataclass(frozen=True)
class MaskArguments:
    """What the command can be told."""

    source_path: Annotated[Path, tyro.conf.arg(aliases=["-s"])]
    """Scene folder with images/ and a COLMAP model in sparse/0 or sparse."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the candidates; None is candidates/ inside the scene, where train.py looks."""

    resolution: Annotated[int, tyro.conf.arg(aliases=["-r"])] = -1
    """1, 2, 4 or 8 divides the photo size; another number is the width to work at; -1 keeps the
    photos and reduces those wider than 1600 pixels."""

    images: Annotated[str, tyro.conf.arg(aliases=["-i"])] = "images"
    """Image folder inside the scene."""

    colmap_model: str | None = None
    """Folder of the COLMAP model inside the scene when there are several, e.g. sparse/1."""

    kind: SegmentKind = "graph"
    """Where segments come from: graph needs no download; mobile_sam and sam_vit_* are Segment
    Anything with weights that you bring; imported reads what other tools made."""

    sources: SourceSettings = field(default_factory=SourceSettings)
    """What proves that something stands still."""

    sam: SamSettings = field(default_factory=SamSettings)
    """Segment Anything."""

    imported: ImportSettings = field(default_factory=ImportSettings)
    """Segments from files."""

    overwrite: bool = False
    """Make every file again, also those that are up to date."""

    sheet_photos: int = 24
    """Photos on the contact sheet, spread over the capture; 0 draws none."""

    quiet: bool = False
    """Print warnings and errors only."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if self.sheet_photos < 0:
            raise UserError(
                f"--sheet-photos is {self.sheet_photos}; it must be 0 or more", ExitCode.USAGE
            )


def find_candidates(arguments: MaskArguments, messages: Messages) -> Path:
    """Make the candidates and the contact sheet; the folder they are in."""
    folder = arguments.output or arguments.source_path / "candidates"
    found = CaptureSettings(
        source=arguments.source_path,
        images=arguments.images,
        resolution=arguments.resolution,
        colmap_model=arguments.colmap_model,
    )
    capture = load_capture(found, messages)
    settings = ProposalSettings(
        segments=SegmentSettings(
            kind=arguments.kind, sam=arguments.sam, imported=arguments.imported
        )
    )
    around = SourceSurroundings(capture, found, settings.evidence, folder)
    sources = make_sources(arguments.sources, around)
    propose(capture, folder, settings, messages, overwrite=arguments.overwrite, sources=sources)
    if arguments.sheet_photos:
        path = folder / "contact_sheet.png"
        tiles = _tiles(capture, folder, sources, arguments.sheet_photos)
        write_contact_sheet(path, tiles, rule(settings.evidence))
        messages.note(f"look at {path}")
    return folder


def _tiles(
    capture: Capture, folder: Path, sources: Sequence[StaticSource], num_photos: int
) -> list[Tile]:
    """Photos spread evenly over the training views."""
    index = TrackIndex([capture.views[i] for i in capture.train])
    step = max(1, -(-len(capture.train) // num_photos))
    chosen = [capture.views[i] for i in capture.train[::step]]
    tiles = []
    for view in chosen:
        made = read_candidates(candidate_path(folder, view))
        image = capture.image(view.view_id).numpy()
        points = [source(view) for source in sources]
        tiles.append(Tile(view, image, made.labels, made.verdicts, index.due(view), points))
    return tiles


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        """Parse, find, report."""
        arguments = parse(
            MaskArguments,
            words,
            prog="python -m masks",
            description="Find the segments of each photo that may be distractors.",
        )
        find_candidates(arguments, Messages(quiet=arguments.quiet))

    run_command(command)
