"""The kinds of evidence that something stands still, by name, and when one of them is too little.

Knows who brings evidence; what follows from it is decided in `static_evidence`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from arguments.messages import ExitCode, UserError
from masks.static_evidence import EvidenceKind, EvidenceSettings, ProvedPoints, track_points
from scene.capture import Capture, CaptureSettings, View

THIN = 300  # keypoints a photo: below it 1.5 are to be expected in half a percent of its area


@dataclass(frozen=True)
class SourceSettings:
    """What proves that something stands still."""

    evidence: tuple[EvidenceKind, ...] = ("tracks",)
    """What proves that something stands still: tracks are the COLMAP model's, as in the paper;
    database adds matches of COLMAP's database that agree with the poses; features finds and
    matches keypoints anew, 5 s a photo on a CPU. Several may be named."""

    database: Path | None = None
    """COLMAP's database for --evidence database; None looks for database.db in the scene and in its
    folder distorted/."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if not self.evidence or len(set(self.evidence)) < len(self.evidence):
            raise UserError(
                f"--evidence is {' '.join(self.evidence) or 'empty'}; name each kind once",
                ExitCode.USAGE,
            )
        if self.database is not None and "database" not in self.evidence:
            raise UserError(
                f"--database {self.database} is for --evidence database, not "
                f"{' '.join(self.evidence)}",
                ExitCode.USAGE,
            )


@runtime_checkable
class StaticSource(Protocol):
    """One kind of evidence for the photos of a capture."""

    description: str
    """In words, for the report of a run."""

    def identity(self, view: View) -> str:
        """Changes whenever the points of `view` may change, beyond the view itself."""
        ...

    def __call__(self, view: View) -> ProvedPoints:
        """The pixels of `view` that are proved to show what stands still."""
        ...


@dataclass(frozen=True)
class SourceSurroundings:
    """What a kind of evidence may need to know of the whole run.

    Attributes:
        found: how the capture was found: where its model lies, and which one it is.
        folder: where it may keep what it wants to remember.
    """

    capture: Capture
    found: CaptureSettings
    rules: EvidenceSettings
    folder: Path


class TrackSource:
    """The tracks of the COLMAP model, as in the paper."""

    def __init__(self, min_track_length: int) -> None:
        self._min_track_length = min_track_length
        self.description = f"tracks of {min_track_length} or more photos"

    def identity(self, view: View) -> str:  # noqa: ARG002 - the view has its tracks
        """Nothing that the view does not say itself."""
        return "tracks"

    def __call__(self, view: View) -> ProvedPoints:
        """As `track_points`."""
        return track_points(view, self._min_track_length)


def _tracks(settings: SourceSettings, around: SourceSurroundings) -> StaticSource:  # noqa: ARG001
    return TrackSource(around.rules.min_track_length)


def _database(settings: SourceSettings, around: SourceSurroundings) -> StaticSource:
    from masks.database_source import DatabaseSource, find_database

    path = settings.database or find_database(around.found.source)
    return DatabaseSource(path, around.capture, around.found, around.rules.min_track_length)


def _features(settings: SourceSettings, around: SourceSurroundings) -> StaticSource:  # noqa: ARG001
    from masks.feature_source import FeatureSource  # kornia takes seconds to load

    return FeatureSource(around.capture, around.folder / "features")


SOURCES: dict[EvidenceKind, Callable[[SourceSettings, SourceSurroundings], StaticSource]] = {
    "tracks": _tracks,
    "database": _database,
    "features": _features,
}
"""Every kind of evidence by name; a new kind is one function and one entry."""


def make_sources(settings: SourceSettings, around: SourceSurroundings) -> list[StaticSource]:
    """The kinds of evidence that the settings name.

    Raises:
        UserError: the database is missing, damaged, or of other photos.
    """
    return [SOURCES[kind](settings, around) for kind in settings.evidence]


def thin_hint(views: Sequence[View], min_track_length: int) -> str | None:
    """That a model has too few keypoints to judge by, and what helps; None where it has enough."""
    counts = [np.count_nonzero(view.track_lengths >= min_track_length) for view in views]
    usual = float(np.median(counts)) if counts else 0.0
    if usual >= THIN:
        return None
    return (
        f"thin model: {usual:.0f} keypoints a photo (median) in tracks of {min_track_length} or "
        f"more, below {THIN}, so small segments get no verdict; python -m masks --evidence tracks "
        "features finds more, or tracks database where COLMAP's database.db is still there"
    )
