"""Our mask generator against segment-anything's own, on the same randomly filled checkpoint.

    python scripts/compare_sam.py --photos PHOTO... [--kind sam_vit_b] [--points-per-side 16]

Needs the package segment-anything and a torchvision that fits torch. Random weights give masks of
no meaning but of every shape, so that each filter has something to do; what is compared is the
generator, not the quality of the masks.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from masks.sam import NETWORKS, RELEASES, SamKind, SegmentAnything, build_sam  # noqa: E402
from masks.sam_generator import GridSettings, find_masks  # noqa: E402
from masks.weights import read_weights  # noqa: E402
from tests.random_weights import fill_randomly, spread_answers  # noqa: E402


@dataclass(frozen=True)
class Comparison:
    """What is compared."""

    photos: tuple[Path, ...]
    """Photos to segment."""

    kind: Literal["sam_vit_b", "sam_vit_l", "sam_vit_h"] = "sam_vit_b"
    """Which of the models that segment-anything has."""

    points_per_side: int = 16
    """Points along each side."""

    points_per_batch: int = 64
    """Points at a time."""

    crop_layers: int = 1
    """Layers of crops."""

    min_region: int = 100
    """Holes and islands of fewer pixels are cleaned up."""

    min_iou: float = 0.8
    """Promised IoU of a mask; the random model promises 0.8 on average."""

    min_stability: float = 0.6
    """Stability of a mask; random masks are less stable than real ones."""

    max_box_iou: float = 0.95
    """Of two masks whose boxes overlap by more, the better one stays."""

    seed: int = 0
    """Of the random weights."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where both run."""


def random_checkpoint(kind: SamKind, image: np.ndarray, seed: int, device: torch.device) -> Path:
    """A file of the official layout with random values."""
    network = NETWORKS["kornia"](kind)
    fill_randomly(network, seed)
    network.eval().to(device)
    spread_answers(SegmentAnything(network, device), image)  # type: ignore[arg-type]
    path = Path(tempfile.mkdtemp()) / "random.pth"
    torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, path)
    return path


def theirs(comparison: Comparison, checkpoint: Path, image: np.ndarray) -> np.ndarray:
    """The masks of segment-anything's generator, [K, H, W]."""
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    model: Any = sam_model_registry[comparison.kind.removeprefix("sam_")](checkpoint=checkpoint)
    generator = SamAutomaticMaskGenerator(
        model.to(comparison.device),
        points_per_side=comparison.points_per_side,
        points_per_batch=comparison.points_per_batch,
        pred_iou_thresh=comparison.min_iou,
        stability_score_thresh=comparison.min_stability,
        box_nms_thresh=comparison.max_box_iou,
        crop_nms_thresh=comparison.max_box_iou,
        crop_n_layers=comparison.crop_layers,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=comparison.min_region,
    )
    found = [record["segmentation"] for record in generator.generate(image)]
    return np.stack(found) if found else np.zeros((0, *image.shape[:2]), dtype=bool)


def ours(comparison: Comparison, checkpoint: Path, image: np.ndarray) -> np.ndarray:
    """The masks of our generator, [K, H, W]."""
    release = RELEASES[comparison.kind]
    weights = read_weights(checkpoint, release)
    model = build_sam(comparison.kind, "kornia", weights, torch.device(comparison.device))
    settings = GridSettings(
        points_per_side=comparison.points_per_side,
        points_per_batch=comparison.points_per_batch,
        levels=(0, 1, 2),
        min_iou=comparison.min_iou,
        min_stability=comparison.min_stability,
        max_box_iou=comparison.max_box_iou,
        crop_layers=comparison.crop_layers,
        points_divisor=2,
        min_region=comparison.min_region,
    )
    return find_masks(model, image, settings).masks


def best_overlaps(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `masks` the IoU with the most similar of `others`."""
    if not len(masks) or not len(others):
        return np.zeros(len(masks))
    flat, other = (m.reshape(len(m), -1).astype(np.float32) for m in (masks, others))
    common = flat @ other.T
    either = flat.sum(1)[:, None] + other.sum(1)[None] - common
    return (common / np.maximum(either, 1)).max(axis=1, initial=0.0)


def main() -> None:
    """Compare photo by photo; ends with 1 if the masks are not the same."""
    comparison = tyro.cli(Comparison)
    worst = 1.0
    for path in comparison.photos:
        image = np.array(Image.open(path).convert("RGB"))
        checkpoint = random_checkpoint(
            comparison.kind, image, comparison.seed, torch.device(comparison.device)
        )
        seconds, found = [], []
        for generate in (theirs, ours):
            began = time.perf_counter()
            found.append(generate(comparison, checkpoint, image))
            seconds.append(time.perf_counter() - began)
        checkpoint.unlink()
        overlap = np.concatenate([best_overlaps(*found), best_overlaps(*found[::-1])])
        worst = min(worst, float(overlap.mean()) if len(overlap) else 0.0)
        print(
            f"{path.name}: {len(found[0])} masks theirs ({seconds[0]:.1f} s), {len(found[1])} ours "
            f"({seconds[1]:.1f} s, with loading); matched IoU mean {overlap.mean():.4f}, "
            f"{(overlap >= 0.95).mean():.1%} at .95 or more, lowest {overlap.min(initial=1):.3f}",
            flush=True,
        )
    print(f"worst mean of a photo: {worst:.4f} (bar: 0.95)")
    sys.exit(worst < 0.95)


if __name__ == "__main__":
    main()
