"""Writes what a run shows: OUT/renders/SPLIT/{render,gt,mask}/*.png; measures nothing."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from arguments.messages import Messages
from arguments.progress import progress_bar
from arguments.serialization import to_json
from evaluation.run_views import RunViews, Split, open_masker
from scene.atomic import write_atomic

RECORD = "renders.json"
Kind = Literal["render", "gt", "mask"]


@dataclass(frozen=True)
class RenderRecord:
    """What the pictures of a folder were made from.

    Attributes:
        step: of the model.
        names: of the views, as in the capture.
        has_masks: there are masks too.
    """

    step: int
    names: tuple[str, ...]
    has_masks: bool


def picture_path(model_path: Path, split: Split, kind: Kind, stem: str) -> Path:
    """Where the picture of a view is."""
    return model_path / "renders" / split / kind / f"{stem}.png"


def write_renders(views: RunViews, split: Split, messages: Messages) -> RenderRecord:
    """Write all pictures of a split; training views get the mask of the run's first branch.

    Masks are white where the photo is trusted.

    Raises:
        UserError: candidates or checkpoint that a mask needs cannot be read.
        OSError: the folder cannot be written.
    """
    folder = views.run.model_path / "renders" / split
    ids = views.ids(split)
    judge = open_masker(views, messages) if split == "train" and ids else None
    kinds: tuple[Kind, ...] = ("render", "gt", "mask") if judge else ("render", "gt")
    # Without a record the folder is unfinished, whatever is in it.
    (folder / RECORD).unlink(missing_ok=True)
    for kind in ("render", "gt", "mask"):
        for old in (folder / kind).glob("*.png"):
            old.unlink()
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for view_id in progress_bar(ids, desc=split, unit="view", disable=messages.quiet):
        stem = views.capture.views[view_id].stem
        pictures = {
            "render": views.picture(view_id).numpy(),
            "gt": views.capture.image(view_id).numpy(),
        }
        if judge:
            weight = views.mask(view_id, judge)
            pictures["mask"] = (weight * 255).round().byte().numpy()
        for kind in kinds:
            _save(picture_path(views.run.model_path, split, kind, stem), pictures[kind])
    names = tuple(views.capture.views[i].name for i in ids)
    record = RenderRecord(views.run.step, names, judge is not None)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RECORD, to_json(record).encode())
    return record


def rendered_mask_step(model_path: Path) -> int | None:
    """Of which step the masks of the training views are; None where there are none."""
    path = model_path / "renders" / "train" / RECORD
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return int(plain["step"]) if plain.get("has_masks") else None


def _save(path: Path, pixels: UInt8[np.ndarray, "..."]) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=4)
    write_atomic(path, content.getvalue())
