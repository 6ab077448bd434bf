"""Masks that the user brings: finding the file of each photo, and what the whole set says.

White keeps; knows nothing of masks that training makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from arguments.messages import Messages, UserError
from scene.capture_settings import CaptureSettings
from scene.images import BadPhotoError, decode_mask, resize_nearest
from scene.photo_files import list_photos

KEEP_FROM = 128
SUSPICIOUS_SHARE = 0.9


@dataclass(frozen=True)
class UserMasks:
    """The mask file of every photo that has one."""

    folder: Path
    paths: dict[str, Path]
    is_inverted: bool


def find_masks(settings: CaptureSettings, names: Sequence[str]) -> UserMasks | None:
    """Look up the masks; None where the user gave none.

    Raises:
        UserError: the folder is not there, or no mask in it matches any photo.
    """
    if settings.masks is None:
        return None
    inside = settings.source / settings.masks
    folder = inside if inside.is_dir() else settings.masks
    if not folder.is_dir():
        raise UserError(f"mask folder '{settings.masks}' not found; check --masks")
    present = list_photos(folder)
    by_key: dict[str, str] = {}
    for file_name in present:
        by_key.setdefault(file_name.rsplit(".", 1)[0], file_name)
    paths = {}
    for name in names:
        for key in (name, name.rsplit(".", 1)[0]):
            if key in by_key:
                paths[name] = folder / by_key[key]
                break
    if not paths:
        stem = names[0].rsplit(".", 1)[0]
        raise UserError(
            f"0 of {len(names)} images have a mask in {folder}; first expected '{stem}.png' or "
            f"'{names[0]}.png', folder has '{present[0] if present else 'nothing'}'"
        )
    return UserMasks(folder, paths, settings.invert_masks)


def load_mask(masks: UserMasks, name: str, width: int, height: int) -> Bool[np.ndarray, "H W"]:
    """Which pixels of the photo file the mask keeps.

    Raises:
        UserError: the mask cannot be read, or has another shape than the photo.
    """
    path = masks.paths[name]
    try:
        levels = decode_mask(path)
    except BadPhotoError as error:
        raise UserError(f"mask '{path}': {error}; replace or remove it") from error
    mask_height, mask_width = levels.shape
    fits = (
        abs(mask_height - height * mask_width / width) <= 1
        or abs(mask_width - width * mask_height / height) <= 1
    )
    if not fits:
        raise UserError(
            f"mask '{path}' is {mask_width}x{mask_height}, its photo {width}x{height}; "
            "replace or remove it"
        )
    if levels.shape != (height, width):
        levels = resize_nearest(levels, width, height)
    keeps = levels >= KEEP_FROM
    return ~keeps if masks.is_inverted else keeps


def report_masks(
    masks: UserMasks, num_images: int, kept_shares: Sequence[float], messages: Messages
) -> None:
    """Say how many masks are used and how much they take away."""
    removed = 1 - sum(kept_shares) / max(len(kept_shares), 1)
    color = "black" if masks.is_inverted else "white"
    messages.note(
        f"masks: {len(masks.paths)}/{num_images}, {color} = keep, {100 * removed:.1f} % removed"
    )
    if removed > SUSPICIOUS_SHARE:
        messages.warn(f"masks remove {100 * removed:.0f} %: inverted? --invert-masks")
