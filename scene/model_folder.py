"""Where in a dataset folder the COLMAP model lies, and which one of several.

Looks at file names and at the count in a header; reads no record.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from arguments.messages import Messages, UserError
from scene.colmap import count_images, is_model

SEARCH_DEPTH = 4
LARGEST_SEARCH = 2000


def check_source(source: Path) -> None:
    """Refuse a dataset that is not a folder.

    Raises:
        UserError: it does not exist or is a file.
    """
    if source.is_dir():
        return
    if source.exists():
        raise UserError(f"'{source}' is a file, expected a folder with images/ and sparse/")
    raise UserError(f"dataset '{source}' not found; check the path after -s")


def find_model(source: Path, choice: str | None, messages: Messages) -> Path:
    """The folder of the model to read: the chosen one, else the one with most images.

    Raises:
        UserError: there is none; the message names what lies nearby.
    """
    check_source(source)
    if choice is not None:
        return _chosen_model(source, choice)
    candidates = list(_candidates(source))
    if not candidates:
        raise _no_model(source)
    counts = {folder: count_images(folder) for folder in candidates}
    largest = max(candidates, key=lambda folder: counts[folder])
    if len(candidates) > 1:
        shown = ", ".join(
            f"{_relative(folder, source)} has {counts[folder]}{' images' if at == 0 else ''}"
            for at, folder in enumerate(candidates[:6])
        )
        text = f"{shown}; using {_relative(largest, source)} (--colmap-model to choose)"
        if largest == candidates[0]:
            messages.note(text)
        else:
            messages.warn(text)
    return largest


def has_model(source: Path) -> bool:
    """Whether there is a model where COLMAP and its users put one."""
    return next(_candidates(source), None) is not None


def _candidates(source: Path) -> Iterator[Path]:
    """Model folders in the places that COLMAP and its users write to, `sparse/0` first."""
    sparse = source / "sparse"
    inside = sorted(
        (folder for folder in sparse.iterdir() if folder.is_dir()) if sparse.is_dir() else (),
        key=lambda folder: (
            folder.name != "0",
            not folder.name.isdigit(),
            len(folder.name),
            folder,
        ),
    )
    first = [folder for folder in inside if folder.name == "0"]
    for folder in [*first, sparse, *inside[len(first) :]]:
        if is_model(folder):
            yield folder


def _chosen_model(source: Path, choice: str) -> Path:
    for folder in (source / choice, source / "sparse" / choice):
        if is_model(folder):
            return folder
    raise UserError(
        f"no COLMAP model in '{source / choice}' (--colmap-model {choice}); "
        "expected cameras and images, .bin or .txt"
    )


def _no_model(source: Path) -> UserError:
    """The error for a dataset without a model, with the two nearest finds."""
    looked = f"no COLMAP model in '{source}': looked in sparse/0, sparse, sparse/*"
    finds = _nearest_models(source)
    if not finds:
        return UserError(f"{looked}; run COLMAP on the photos first")
    folder = finds[0]
    root = _dataset_of(folder)
    if root is None:
        name = _relative(folder, source)
        hint = f"found {name}: did you mean --colmap-model {name}?"
    else:
        hint = f"found {_relative(folder, source)}: did you mean -s {root}?"
    also = f" (also {_relative(finds[1], source)})" if len(finds) > 1 else ""
    return UserError(f"{looked}; {hint}{also}")


def _dataset_of(model: Path) -> Path | None:
    """The folder that would be given as -s for a model, None where no such folder exists."""
    if model.name == "sparse":
        return model.parent
    if model.parent.name == "sparse":
        return model.parent.parent
    return None


def _nearest_models(source: Path) -> list[Path]:
    """Up to two models: the given folder itself, its subfolders, then beside it."""
    finds = [source] if is_model(source) else []
    for seen, (root, folders, _) in enumerate(os.walk(source)):
        folders.sort()
        here = Path(root)
        if len(here.relative_to(source).parts) >= SEARCH_DEPTH or seen > LARGEST_SEARCH:
            folders.clear()
        if here != source and is_model(here):
            finds.append(here)
    for beside in (source.parent / "sparse" / "0", source.parent / "sparse"):
        if is_model(beside):
            finds.append(beside)
    return sorted(finds, key=lambda folder: len(folder.parts))[:2]


def _relative(folder: Path, source: Path) -> str:
    """A model's folder as seen from the dataset."""
    return os.path.relpath(folder, source)
