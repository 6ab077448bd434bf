"""The photo file of every image that a model names; opens no photo.

A name that leads out of the image folder, by a link, is refused here.
"""

import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arguments.messages import Messages, UserError
from scene.images import SUFFIXES


@dataclass(frozen=True)
class PhotoFiles:
    """Where the photos are.

    Attributes:
        folder: the image folder.
        paths: photo file by the image's name, for those that were found.
        missing: names without a usable file.
    """

    folder: Path
    paths: dict[str, Path]
    missing: tuple[str, ...]


def list_photos(folder: Path) -> tuple[str, ...]:
    """Every photo below `folder`, as sorted relative paths; links to folders are not entered."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                found.append((Path(root) / name).relative_to(folder).as_posix())
    return tuple(sorted(found))


def find_photos(
    folder: Path, names: Sequence[str], images_file: str, follow_links: bool, messages: Messages
) -> PhotoFiles:
    """Find the file of every name: the exact bytes, then the same Unicode text, then any case.

    Raises:
        UserError: no photo at all is found, or a link leads out of the folder.
    """
    root = folder.resolve()
    paths: dict[str, Path] = {}
    missing = []
    lookup: _Lookup | None = None
    for name in names:
        path = folder / name
        if not path.exists():
            lookup = lookup or _Lookup(folder)
            path = lookup.find(name) or path
        if not path.exists():
            missing.append(name)
        elif not follow_links and not path.resolve().is_relative_to(root):
            raise UserError(
                f"{images_file}: name '{name}' leaves the image folder by a link; --follow-links"
            )
        elif not stat.S_ISREG(path.stat().st_mode):
            messages.warn(f"'{path}' is not a regular file; skipped")
            missing.append(name)
        else:
            paths[name] = path
    if not paths and names:
        raise UserError(
            f"{len(names)} images named in {images_file}, 0 found in {folder}; --images DIR"
        )
    if lookup and lookup.num_other_case:
        messages.warn(
            f"{lookup.num_other_case} images differ in case from their name in {images_file} "
            f"(first: {lookup.first_other_case})"
        )
    return PhotoFiles(folder, paths, tuple(missing))


class _Lookup:
    """Finds names that differ from the file's in Unicode form or in case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_text: dict[str, str] = {}
        self.by_case: dict[str, str] = {}
        self.num_other_case = 0
        self.first_other_case = ""
        for name in list_photos(folder):
            text = unicodedata.normalize("NFC", name)
            self.by_text.setdefault(text, name)
            self.by_case.setdefault(text.casefold(), name)

    def find(self, name: str) -> Path | None:
        """The file that `name` means, None where there is none."""
        text = unicodedata.normalize("NFC", name)
        found = self.by_text.get(text)
        if found is None:
            found = self.by_case.get(text.casefold())
            if found is not None:
                self.num_other_case += 1
                self.first_other_case = self.first_other_case or f"{found} for {name}"
        return None if found is None else self.folder / found


def check_missing(
    missing: Sequence[str], total: int, allowed: float, what: str, messages: Messages
) -> None:
    """Warn of images that drop out.

    Args:
        what: `missing`, or what else is wrong with them.

    Raises:
        UserError: more than the allowed share, or fewer than 3 are left.
    """
    if not missing:
        return
    left = total - len(missing)
    verb = "image" if len(missing) == 1 else "images"
    text = f"{len(missing)} {verb} {what} (first: {missing[0]})"
    is_too_many = len(missing) > allowed * total or (left < 3 and allowed < 1)
    if is_too_many or left < 1:
        raise UserError(
            f"{text}: {len(missing)} of {total}, {left} left; "
            "bring them back or pass --allow-missing 1.0"
        )
    messages.warn(f"{text}; skipped")
