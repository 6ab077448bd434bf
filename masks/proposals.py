"""Distractor candidates for the photos of a capture, made once and kept in a folder.

Puts segments and static evidence together; training only sees the candidates that come out.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from arguments.messages import ExitCode, Messages, UserError
from arguments.progress import progress_bar
from arguments.signals import Stopped
from masks.agreement import PhotoComparison
from masks.candidates import CandidateFile, Candidates, read_candidates, write_candidates
from masks.neighbors import DuePoints, TrackIndex
from masks.reasons import table, write_table
from masks.segmenter import Photo, Segmenter, Surroundings
from masks.segments import SegmentSettings, make_segmenter
from masks.static_evidence import (
    EvidenceSettings,
    found_by_kind,
    gather_evidence,
    judge_segments,
    keep_candidates,
)
from masks.static_sources import StaticSource, TrackSource, thin_hint
from scene.atomic import make_folder, remove_stale
from scene.capture import Capture, View

FORMAT = 4  # of the files; a change makes every file be made again


@dataclass(frozen=True)
class ProposalSettings:
    """How distractor candidates are found before training."""

    segments: SegmentSettings = field(default_factory=SegmentSettings)
    """Where segments come from."""

    evidence: EvidenceSettings = field(default_factory=EvidenceSettings)
    """Which segments count as static."""


def candidate_path(folder: Path, view: View) -> Path:
    """Where the candidates of `view` lie in `folder`."""
    return folder / f"{view.stem}.npz"


class CandidateFolder:
    """Candidates read from files when a view is first asked for, at the size of its image."""

    def __init__(self, folder: Path, capture: Capture) -> None:
        self.folder = folder
        self._capture = capture

    def __call__(self, view_id: int) -> Candidates:
        """Candidates of one view.

        Raises:
            UserError: its file is missing, damaged, or of a photo with other proportions.
        """
        view = self._capture.views[view_id]
        path = candidate_path(self.folder, view)
        labels = read_candidates(path).labels
        height, width = labels.shape[1:]
        if abs(height * view.camera.width - width * view.camera.height) > 2 * max(
            height, width, view.camera.width, view.camera.height
        ):
            raise UserError(
                f"candidates in {path} are {width}x{height}, the photo {view.name} is "
                f"{view.camera.width}x{view.camera.height}; make them again with python -m masks"
            )
        if (width, height) != view.camera.size:
            labels = np.stack(
                [
                    np.asarray(
                        Image.fromarray(layer).resize(view.camera.size, Image.Resampling.NEAREST)
                    )
                    for layer in labels
                ]
            )
        return Candidates(torch.from_numpy(labels))

    def missing(self, view_ids: Sequence[int]) -> list[int]:
        """Those of `view_ids` that have no file."""
        views = self._capture.views
        return [i for i in view_ids if not candidate_path(self.folder, views[i]).is_file()]


def propose(
    capture: Capture,
    folder: Path,
    settings: ProposalSettings,
    messages: Messages,
    view_ids: Sequence[int] | None = None,
    overwrite: bool = False,
    sources: Sequence[StaticSource] | None = None,
) -> CandidateFolder:
    """Make the candidates that `folder` does not hold yet, one file per photo.

    A file that was made from another photo, other keypoints or other settings, or that cannot be
    read, is made again.

    Args:
        view_ids: the views to do; None does all that train.
        sources: what proves that something stands still; None stands for the tracks alone.

    Raises:
        UserError: the folder cannot be written, or the source of segments lacks what it needs.
        Stopped: a signal arrived; the photos done by then are kept.
    """
    view_ids = capture.train if view_ids is None else view_ids
    names = [capture.views[i].name for i in view_ids]
    segmenter = make_segmenter(settings.segments, Surroundings(names, folder, messages))
    _make_folder(folder)
    messages.note(f"candidates by {segmenter.description}; {len(view_ids)} photos -> {folder}")
    least = settings.evidence.min_track_length
    sources = [TrackSource(least)] if sources is None else sources
    for source in sources:
        messages.note(f"static evidence: {source.description}")
    hint = thin_hint([capture.views[i] for i in view_ids], least) if len(sources) == 1 else None
    if hint:
        messages.note(hint)
    views = [capture.views[i] for i in sorted({*capture.train, *view_ids})]
    index = TrackIndex(views)
    comparison = PhotoComparison(views, index, lambda i: capture.image(i).numpy())

    def is_made_anew(view_id: int) -> bool:
        view = capture.views[view_id]
        image = capture.image(view_id).numpy()
        due = index.due(view)
        rules = f"{segmenter.identity(view.name)} {settings.evidence}"
        rules += " ".join(source.identity(view) for source in sources)
        if settings.evidence.compare_photos:
            rules += comparison.digest(view)
        digest = digest_of(view, image, due, rules)
        path = candidate_path(folder, view)
        if not overwrite and _is_current(path, digest):
            return False
        agreement = comparison(view) if settings.evidence.compare_photos else None
        points = [source(view) for source in sources]
        evidence = gather_evidence(image, view, due, settings.evidence, agreement, points)
        photo = Photo(view.name, image, evidence, view.lens)
        found, reasons = propose_for(photo, segmenter, settings, digest)
        write_table(path.with_suffix(".csv"), reasons)
        write_candidates(path, found)
        return True

    made = CandidateFolder(folder, capture)
    _fill(made, view_ids, is_made_anew, messages)
    return made


def _fill(
    made: CandidateFolder,
    view_ids: Sequence[int],
    is_made_anew: Callable[[int], bool],
    messages: Messages,
) -> None:
    """Go through the views; what is done stays where a signal ends it.

    Raises:
        Stopped: a signal arrived; says how many photos are done.
    """
    total = len(view_ids)
    bar = progress_bar(view_ids, desc="candidates", unit="photo", disable=messages.quiet)
    try:
        num_kept = [is_made_anew(view_id) for view_id in bar].count(False)
    except Stopped as stop:
        bar.close()
        raise Stopped(
            f"{stop}; {total - len(made.missing(view_ids))} of {total} photos are in "
            f"{made.folder}, the same command goes on",
            stop.code,
        ) from None
    if num_kept:
        messages.note(f"candidates: {num_kept} of {total} photos had been done before")


def propose_for(
    photo: Photo, segmenter: Segmenter, settings: ProposalSettings, digest: str
) -> tuple[CandidateFile, str]:
    """Candidates of one photo with the verdict on every segment, and the reasons as a table."""
    labels = segmenter(photo)
    verdicts = judge_segments(labels, photo.evidence, settings.evidence)
    reasons = table(verdicts, found_by_kind(labels, photo.evidence), settings.evidence)
    return CandidateFile(keep_candidates(labels, verdicts), verdicts, digest), reasons


def digest_of(view: View, image: np.ndarray, due: DuePoints, rules: str) -> str:
    """Changes when anything changes that the candidates depend on.

    Args:
        rules: how segments are made and judged, in any words.
    """
    state = hashlib.blake2b(digest_size=16)
    for part in (image, view.keypoints, view.track_lengths, due.xy):
        state.update(f"{part.shape}{part.dtype}".encode())
        state.update(part.tobytes())
    state.update(f"{FORMAT}{rules}".encode())
    return state.hexdigest()


def _is_current(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    try:
        return read_candidates(path).digest == digest
    except UserError:
        return False


def _make_folder(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; choose another one",
            ExitCode.FILE_SYSTEM,
        ) from error
    remove_stale(folder)
