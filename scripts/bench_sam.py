"""Times the mask generator on photos, with random weights of the official layout.

    python scripts/bench_sam.py --photos PHOTO... [--kind mobile_sam] [--points-per-side 32]

Each photo is segmented twice and the second time counts. Random weights promise little, so that
hardly a mask passes the filters: what a real model's masks cost to clean up is not in the times.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from masks.sam import RELEASES, SamKind, build_sam  # noqa: E402 - after the path is set
from masks.sam_generator import GridSettings, find_masks  # noqa: E402
from masks.weights import read_weights  # noqa: E402
from scripts.compare_sam import random_checkpoint  # noqa: E402


@dataclass(frozen=True)
class Timing:
    """What is timed."""

    photos: tuple[Path, ...]
    """Photos to segment."""

    kind: SamKind = "mobile_sam"
    """Which model."""

    points_per_side: int = 32
    """Points along each side."""

    points_per_batch: int = 64
    """Points at a time."""

    min_iou: float = 0.75
    """Promised IoU of a mask; the random model promises 0.8 on average."""

    min_stability: float = 0.6
    """Stability of a mask; random masks are less stable than real ones."""

    seed: int = 0
    """Of the random weights."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where it runs."""


def main() -> None:
    """Print seconds and masks of each photo."""
    timing = tyro.cli(Timing, description=__doc__)
    device = torch.device(timing.device)
    images = [np.array(Image.open(path).convert("RGB")) for path in timing.photos]
    checkpoint = random_checkpoint(timing.kind, images[0], timing.seed, device)
    weights = read_weights(checkpoint, RELEASES[timing.kind])
    checkpoint.unlink()
    model = build_sam(timing.kind, "kornia", weights, device)
    settings = GridSettings(
        points_per_side=timing.points_per_side,
        points_per_batch=timing.points_per_batch,
        min_iou=timing.min_iou,
        min_stability=timing.min_stability,
    )
    for path, image in zip(timing.photos, images, strict=True):
        find_masks(model, image, settings)
        began = time.perf_counter()
        found = find_masks(model, image, settings)  # its masks are on the host: nothing is pending
        seconds = time.perf_counter() - began
        height, width = image.shape[:2]
        print(f"{path.name}, {width}x{height}: {seconds:.2f} s, {len(found.masks)} masks")


if __name__ == "__main__":
    main()
