"""Candidates against known distractors: a CSV row for each rule, the same segments for all.

    python scripts/bench_candidates.py --scene SCENE --width 800

SCENE has `gt_distractors/` (white = distractor). Times are processor seconds of one thread.
"""

import csv
import datetime
import sys
import time
from dataclasses import dataclass, fields
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
    EvidenceSettings,
    gather_evidence,
    judge_segments,
    keep_candidates,
)
from scene.capture import Capture, CaptureSettings, load_capture  # noqa: E402
from training.run_folder import commit  # noqa: E402

PAPER = EvidenceSettings(
    texture_aware=False, compare_photos=False, min_expected=0.0, min_expected_in_static=0.0
)
RULES = {
    "paper": PAPER,
    "keypoints": EvidenceSettings(compare_photos=False),
    "keypoints and other photos": EvidenceSettings(),
}


@dataclass(frozen=True)
class Study:
    """What is measured."""

    scene: Path
    """Scene folder with gt_distractors/."""

    width: int = 800
    """Width of the photos."""

    results: Path = Path("docs/results/candidates.csv")
    """The CSV."""


@dataclass(frozen=True)
class Row:
    """Means over the training photos, with what an ideal choice among all segments would reach."""

    scene: str
    width: int
    photos: int
    rule: str
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


def measure(study: Study, capture: Capture, name: str) -> Row:
    """One rule on all training photos."""
    settings = RULES[name]
    views = [capture.views[i] for i in capture.train]
    index = TrackIndex(views)
    comparison = PhotoComparison(views, index, lambda i: capture.image(i).numpy())
    numbers = []
    for view in views:
        image, truth = capture.image(view.view_id).numpy(), truth_of(study, capture, view.view_id)
        began = time.process_time()
        agreement = comparison(view) if settings.compare_photos else None
        evidence = gather_evidence(image, view, index.due(view), settings, agreement)
        labels = graph_segments(image, evidence, GraphSettings())
        kept = keep_candidates(labels, judge_segments(labels, evidence, settings))
        seconds = time.process_time() - began
        after, before = (proposal_quality(torch.from_numpy(x), truth) for x in (kept, labels))
        numbers.append((after.recall, after.static_share, before.recall, seconds))
    means = [round(float(value), 4) for value in np.mean(numbers, axis=0)]
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return Row(study.scene.name, study.width, len(views), name, *means, commit(), today)


def main() -> None:
    """Measure every rule."""
    study = tyro.cli(Study)
    torch.set_num_threads(1)
    settings = CaptureSettings(source=study.scene, resolution=study.width)
    capture = load_capture(settings, Messages(quiet=True))
    rows = []
    for name in RULES:
        rows.append(measure(study, capture, name))
        print(rows[-1], flush=True)
    with study.results.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows([getattr(row, field.name) for field in fields(Row)] for row in rows)


if __name__ == "__main__":
    main()
