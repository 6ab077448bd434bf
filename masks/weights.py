"""Trained weights that users bring: where their files are looked for, and reading them safely.

Nothing is ever downloaded here, and no file is trusted: only tensors are read, and every tensor of
a model must be there under its name and with its shape.
"""

import hashlib
import io
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from arguments.messages import ExitCode, UserError

FOLDER_VARIABLE = "TWINSPLAT_WEIGHTS"
LARGEST_FILE = 8 << 30  # bytes; the largest official file, SAM vit_h, has 2.6e9
LARGEST_EXPANSION = 2  # bytes in memory for one on disk: torch does not compress
MOST_NAMED = 3  # keys in one message
# The same of archives; RuntimeError where one claims an encryption or a method of its own.
FILE_ERRORS = (OSError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
LONGEST_NAME = 1000  # characters of a key, a class or a place in memory
OLD_PICKLES = 5  # torch's older format: a mark, its version, the system, the tensors, their places
# What torch's reader of tensors raises for damaged files of its present and of its older format.
READ_ERRORS = (
    *(RuntimeError, EOFError, LookupError, AttributeError, TypeError, AssertionError, ValueError),
    *(OverflowError, pickle.UnpicklingError, struct.error),
)


@dataclass(frozen=True)
class Release:
    """An official file of weights.

    Attributes:
        name: the file's official name; a file found by name must have it.
        url: where its authors publish it.
        megabytes: its size, rounded to the nearest 1e6 bytes; None where it was never measured.
        digest: how the MD5 or SHA-256 of the content begins, as authors write it into the name;
            empty where they do not.
    """

    name: str
    url: str
    megabytes: int | None = None
    digest: str = ""


@dataclass(frozen=True)
class Weights:
    """The tensors of one file.

    Attributes:
        sha256: of the whole file, hexadecimal.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str


def weight_folders() -> list[Path]:
    """Where files of weights are looked for by name, in this order.

    `$TWINSPLAT_WEIGHTS` (default `~/.cache/twinsplat/weights`), then the folder of torch hub.
    """
    own = os.environ.get(FOLDER_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"
    return [Path(own) if own else cache / "twinsplat" / "weights", hub]


def find_weights(release: Release, given: Path | None) -> Path | None:
    """`given`, or the official file in one of the known folders; None where there is none.

    Raises:
        UserError: `given` is no file.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(_absent(release, str(given)), ExitCode.ENVIRONMENT)
        return given
    for folder in weight_folders():
        if (folder / release.name).is_file():
            return folder / release.name
    return None


def require_weights(release: Release, given: Path | None) -> Path:
    """As `find_weights`, but there has to be a file.

    Raises:
        UserError: there is none; says where it was looked for and how to get it.
    """
    path = find_weights(release, given)
    if path is None:
        raise UserError(
            _absent(release, str(weight_folders()[0] / release.name)), ExitCode.ENVIRONMENT
        )
    return path


def read_weights(path: Path, release: Release) -> Weights:
    """The tensors of a file; a file under the official name must also be the official one.

    Raises:
        UserError: it cannot be read, is cut short, changed, no file of weights, or unsafe.
    """
    try:
        sha256 = _checked_digest(path, release)
        tensors = _read_tensors(path)
    except FILE_ERRORS as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        raise UserError(
            f"weights in {path} ({_size(path)}) cannot be used: {reason}; get {release.name} again "
            f"from {release.url}",
            ExitCode.ENVIRONMENT,
        ) from failure
    return Weights(path, tensors, sha256)


def fill(model: nn.Module, weights: Weights, release: Release) -> None:
    """Put `weights` into `model`, tensor by tensor: no name may be missing, over or misshapen.

    Raises:
        UserError: the file belongs to another model.
    """
    wanted, given = model.state_dict(), weights.tensors
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    misshapen = [
        f"{name} {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has", misshapen)):
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            raise UserError(
                f"{weights.path} is not {release.name}: it {what} "
                f"{', '.join(names[:MOST_NAMED])}{more}; get {release.url}",
                ExitCode.ENVIRONMENT,
            )
    model.load_state_dict(dict(given))
    model.requires_grad_(requires_grad=False).eval()


def _absent(release: Release, path: str) -> str:
    size = f"{release.megabytes} MB" if release.megabytes else "size not known"
    digest = f", digest {release.digest}..." if release.digest else ""
    # The path once: a line of two long ones would be cut before the address.
    return (
        f"no weights ({size}{digest}); get them with: curl -L --create-dirs -o {path} {release.url}"
    )


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes"
    except OSError:
        return "unreadable"


def _checked_digest(path: Path, release: Release) -> str:
    """SHA-256 of the file, of which size and digest fit where it has the official name."""
    size = path.stat().st_size
    if not 0 < size <= LARGEST_FILE:
        raise ValueError(f"between 1 and {LARGEST_FILE} bytes are allowed")
    is_official = path.name == release.name
    if is_official and release.megabytes and round(size / 1e6) != release.megabytes:
        raise ValueError(f"the official file has {release.megabytes} MB")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if is_official and release.digest and not sha256.startswith(release.digest):
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if not md5.startswith(release.digest):
            raise ValueError(
                f"its digest is sha256 {sha256[:8]}, md5 {md5[:8]}, not {release.digest}"
            )
    return sha256


def _check_names(stream: io.BytesIO | io.BufferedReader, num_pickles: int) -> None:
    """Refuse pickles with endless names: torch searches them for patterns, in square time.

    Only takes the pickles apart; a damaged one is left to torch.

    Raises:
        ValueError: a text of more characters than any name has.
    """
    longest = 0
    try:
        for _ in range(num_pickles):
            for _, text, _ in pickletools.genops(stream):
                if isinstance(text, (str, bytes)):
                    longest = max(longest, len(text))
    except (*READ_ERRORS, MemoryError):  # a length beyond the end of the file
        pass
    if longest > LONGEST_NAME:
        raise ValueError(f"a name of {longest} characters")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`; nothing in it is executed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            unpacked = sum(info.file_size for info in infos)
            if unpacked > LARGEST_EXPANSION * path.stat().st_size:
                raise ValueError(f"it unpacks to {unpacked} bytes")
            for info in infos:
                if info.filename.endswith("data.pkl"):
                    _check_names(io.BytesIO(archive.read(info)), 1)
    else:
        with path.open("rb") as stream:
            _check_names(stream, OLD_PICKLES)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as failure:
        first = str(failure).strip().splitlines() or [type(failure).__name__]
        raise ValueError(f"no complete file of tensors ({first[0][:80]})") from failure
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"it holds a {type(content).__name__}, not named tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise ValueError(f"entry {str(name)[:40]!r} is a {kind}, not a tensor")  # noqa: TRY004
    return dict(content)
