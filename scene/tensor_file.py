"""Named tensors as one safetensors file; nothing is allocated that the file cannot fill.

The layout: 8 bytes with the length of a JSON header, the header, and the bytes of the tensors
without gaps (github.com/huggingface/safetensors). Nothing is ever unpickled.
"""

import json
import math
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from scene.atomic import write_atomic

LONGEST_HEADER = 1 << 20
MOST_TENSORS = 4096
MOST_DIMENSIONS = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorFileError(Exception):
    """A file that is no safetensors file, or a damaged one: which tensor, which rule."""


@dataclass(frozen=True)
class _Entry:
    """What the header says of one tensor; the place is counted from the header's end."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def digest(tensor: Tensor) -> int:
    """crc32 of the bytes, dtype and shape of a tensor."""
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return zlib.crc32(_raw(tensor), zlib.crc32(head))


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Write the tensors whole or not at all; only one at a time is copied to host memory.

    Returns:
        The digest of each.

    Raises:
        OSError: the file system refused; what was there before is untouched.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digests: dict[str, int] = {}

    def parts() -> Iterator[bytes | memoryview]:
        yield _header({name: tensors[name] for name in order})
        for name in order:
            tensor = tensors[name].detach().cpu().contiguous()
            digests[name] = digest(tensor)
            yield _raw(tensor)

    write_atomic(path, parts())
    return {name: digests[name] for name in sorted(digests)}


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, one after another, in host memory.

    Raises:
        TensorFileError: it is damaged or of another kind; names the tensor and the rule.
        OSError: it cannot be opened or read.
    """
    with _open_regular(path) as stream:
        for entry in _entries(stream):
            yield entry.name, _read(stream, entry)


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in host memory, without a copy where they lie in one piece."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _header(tensors: dict[str, Tensor]) -> bytes:
    entries = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _open_regular(path: Path) -> BinaryIO:
    """Open a file; a pipe or device under its name is refused, not waited for."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise TensorFileError("not a regular file")
    return stream


def _entries(stream: BinaryIO) -> list[_Entry]:
    """The checked header: tensors that fill the rest of the file in order, without gap or overlap.

    Leaves the stream at the first tensor.
    """
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > size - 8:
        raise TensorFileError(f"ends inside its header ({size} bytes, header needs {length + 8})")
    if length > LONGEST_HEADER:
        raise TensorFileError(f"header of {length} bytes; at most {LONGEST_HEADER} are read")
    try:
        plain = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError):
        raise TensorFileError("the header is not JSON") from None
    if not isinstance(plain, dict):
        raise TensorFileError(f"the header is a {type(plain).__name__}, expected an object")
    plain.pop("__metadata__", None)
    if len(plain) > MOST_TENSORS:
        raise TensorFileError(f"{len(plain)} tensors; at most {MOST_TENSORS} are read")
    entries = sorted((_entry(name, said) for name, said in plain.items()), key=lambda e: e.start)
    place = 0
    for entry in entries:
        if entry.start != place:
            raise TensorFileError(
                f"'{_short(entry.name)}' begins at {entry.start}, the one before ends at {place}"
            )
        place = entry.end
    if place != size - 8 - length:
        raise TensorFileError(f"tensors take {place} bytes, the file has {size - 8 - length}")
    return entries


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        raise TensorFileError("the header names a tensor twice")
    return plain


def _entry(name: str, said: object) -> _Entry:
    what = f"'{_short(name)}'"
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"{what} needs dtype, shape and data_offsets")
    dtype = said["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise TensorFileError(f"{what} has the dtype {str(dtype)[:20]!r}")
    shape, offsets = said["shape"], said["data_offsets"]
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise TensorFileError(f"{what} has an impossible shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TensorFileError(f"{what} has impossible data_offsets")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != offsets[1] - offsets[0]:
        raise TensorFileError(
            f"{what}: shape and dtype need {needed} bytes, it has {offsets[1] - offsets[0]}"
        )
    return _Entry(name, DTYPES[dtype], tuple(shape), *offsets)


def _are_counts(values: object) -> bool:
    """Whether this is a list of whole numbers from 0 that fit into 63 bits."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."


def _read(stream: BinaryIO, entry: _Entry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    if entry.dtype is torch.bool:  # a byte other than 0 and 1 is no truth value
        return _read_bytes(stream, tensor.view(torch.uint8), entry).ne(0)
    _read_bytes(stream, tensor, entry)
    return tensor


def _read_bytes(stream: BinaryIO, tensor: Tensor, entry: _Entry) -> Tensor:
    if stream.readinto(_raw(tensor)) != entry.end - entry.start:  # type: ignore[attr-defined]
        raise TensorFileError(f"ends inside '{_short(entry.name)}'")
    return tensor
