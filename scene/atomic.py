"""Files that are either the old one or the whole new one, whatever happens in between."""

import os
from collections.abc import Iterable
from pathlib import Path

Bytes = bytes | bytearray | memoryview


def write_atomic(path: Path, content: Bytes | Iterable[Bytes]) -> None:
    """Write `content`, in one piece or in parts, under its final name only once it is on disk.

    Raises:
        OSError: the file system refused; what was there before is untouched. Names the file.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    parts = (content,) if isinstance(content, Bytes) else content
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as failure:
        temporary.unlink(missing_ok=True)
        if isinstance(failure, OSError):  # write and fsync do not say of which file they speak
            failure.filename, failure.filename2 = str(path), None
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a power cut cannot take them away again.

    Raises:
        OSError: the file system refused.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    folder.mkdir(exist_ok=True)  # refuses a file of that name


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_stale(folder: Path) -> list[str]:
    """Remove temporary files that a killed process left in `folder`; their names."""
    stale = sorted(folder.glob("*.tmp")) if folder.is_dir() else []
    for path in stale:
        path.unlink(missing_ok=True)
    return [path.name for path in stale]
