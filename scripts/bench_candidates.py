"""Candidates against known distractors: a CSV row for each rule and each share of the model.

    python scripts/bench_candidates.py --scene SCENE --width 800 --database FILE

SCENE has `gt_distractors/` (white = distractor). Times are processor seconds of one thread, without
those of finding and matching features.
"""

import csv
import datetime
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arguments.messages import Messages  # noqa: E402 - after the path is set
from masks.agreement import PhotoComparison  # noqa: E402
from masks.neighbors import TrackIndex  # noqa: E402
from masks.quality import proposal_quality  # noqa: E402
from masks.segments import GraphSettings, graph_segments  # noqa: E402
from masks.static_evidence import (  # noqa: E402
    EvidenceKind,
    EvidenceSettings,
    gather_evidence,
    judge_segments,
    keep_candidates,
)
from masks.static_sources import SourceSettings, SourceSurroundings, make_sources  # noqa: E402
from scene.capture import Capture, CaptureSettings, View, load_capture  # noqa: E402
from training.run_folder import commit  # noqa: E402

PAPER = EvidenceSettings(
    texture_aware=False, compare_photos=False, min_expected=0.0, min_expected_in_static=0.0
)


@dataclass(frozen=True)
class Rule:
    """How segments are judged."""

    settings: EvidenceSettings
    evidence: tuple[EvidenceKind, ...] = ("tracks",)


RULES = {
    "paper": Rule(PAPER),
    "keypoints": Rule(EvidenceSettings(compare_photos=False)),
    "keypoints with the database": Rule(
        EvidenceSettings(compare_photos=False), ("tracks", "database")
    ),
    "keypoints with features": Rule(EvidenceSettings(compare_photos=False), ("tracks", "features")),
    "keypoints and other photos": Rule(EvidenceSettings()),
    "the same with the database": Rule(EvidenceSettings(), ("tracks", "database")),
    "the same with features": Rule(EvidenceSettings(), ("tracks", "features")),
}


@dataclass(frozen=True)
class Study:
    """What is measured."""

    scene: Path
    """Scene folder with gt_distractors/."""

    width: int = 800
    """Width of the photos."""

    database: Path | None = None
    """COLMAP's database of the scene; without it the rules that need one are left out."""

    shares: tuple[float, ...] = (1.0, 0.05)
    """Of the model's points that are kept, as if its mapper had found no more."""

    results: Path = Path("docs/results/candidates.csv")
    """The CSV."""


@dataclass(frozen=True)
class Row:
    """Means over the training photos, with what an ideal choice among all segments would reach."""

    scene: str
    width: int
    photos: int
    points: float
    rule: str
    found: float
    recall: float
    static_share: float
    recall_before: float
    seconds: float
    commit: str
    date: str


def truth_of(study: Study, capture: Capture, view_id: int) -> torch.Tensor:
    """True distractor pixels of one photo."""
    view = capture.views[view_id]
    path = study.scene / "gt_distractors" / f"{Path(view.name).stem}.png"
    mask = Image.open(path).convert("L").resize(view.camera.size, Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(mask) > 127)


def thinned(view: View, share: float) -> View:
    """The view of a model that kept so many of its points, the same ones in all views."""
    rows = view.point_ids * 2654435761 % 2**32 < share * 2**32
    return replace(
        view,
        keypoints=view.keypoints[rows],
        track_lengths=view.track_lengths[rows],
        point_ids=view.point_ids[rows],
        point_xyz=view.point_xyz[rows],
    )


def measure(study: Study, around: SourceSurroundings, name: str, share: float) -> Row:
    """One rule on all training photos."""
    rule, capture = RULES[name], around.capture
    settings = rule.settings
    views = [capture.views[i] for i in capture.train]
    index = TrackIndex(views)
    comparison = PhotoComparison(views, index, lambda i: capture.image(i).numpy())
    database = study.database if "database" in rule.evidence else None
    sources = make_sources(SourceSettings(rule.evidence, database), around)
    numbers = []
    for view in views:
        image, truth = capture.image(view.view_id).numpy(), truth_of(study, capture, view.view_id)
        points = [source(view) for source in sources]
        began = time.process_time()
        agreement = comparison(view) if settings.compare_photos else None
        evidence = gather_evidence(image, view, index.due(view), settings, agreement, points)
        labels = graph_segments(image, evidence, GraphSettings())
        kept = keep_candidates(labels, judge_segments(labels, evidence, settings))
        seconds = time.process_time() - began
        after, before = (proposal_quality(torch.from_numpy(x), truth) for x in (kept, labels))
        found = float(evidence.found.sum())
        numbers.append((found, after.recall, after.static_share, before.recall, seconds))
    means = [round(float(value), 4) for value in np.mean(numbers, axis=0)]
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return Row(study.scene.name, study.width, len(views), share, name, *means, commit(), today)


def main() -> None:
    """Measure every rule."""
    study = tyro.cli(Study)
    torch.set_num_threads(1)
    settings = CaptureSettings(source=study.scene, resolution=study.width)
    capture = load_capture(settings, Messages(quiet=True))
    rows = []
    with tempfile.TemporaryDirectory() as kept:
        for share in study.shares:
            views = tuple(thinned(view, share) for view in capture.views)
            around = SourceSurroundings(
                replace(capture, views=views), settings, EvidenceSettings(), Path(kept) / f"{share}"
            )
            for name, rule in RULES.items():
                if "database" in rule.evidence and study.database is None:
                    continue
                rows.append(measure(study, around, name, share))
                print(rows[-1], flush=True)
    with study.results.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([getattr(row, field.name) for field in fields(Row)] for row in rows)


if __name__ == "__main__":
    main()
