"""What a PLY file claims of itself, held against its size before anything is allocated.

Knows the PLY format, not what Gaussians are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arguments.messages import UserError

LONGEST_HEADER = 64 << 10
MOST_PROPERTIES = 1024
SCALAR_BYTES = {
    **dict.fromkeys(("char", "int8", "uchar", "uint8"), 1),
    **dict.fromkeys(("short", "int16", "ushort", "uint16"), 2),
    **dict.fromkeys(("int", "int32", "uint", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
# A value of an ASCII file takes at least a digit and a separator.
SMALLEST_ASCII_VALUE = 2


@dataclass(frozen=True)
class PlyElement:
    """One element of a header.

    Attributes:
        stride: bytes a row; of a list property only its count.
        has_lists: the rows differ in length.
    """

    name: str
    count: int
    properties: tuple[str, ...]
    stride: int
    has_lists: bool


@dataclass(frozen=True)
class PlyHeader:
    """A header that the file's size allows.

    Attributes:
        trailing: bytes after the last row; 0 where rows differ in length.
    """

    elements: tuple[PlyElement, ...]
    trailing: int

    def properties_of(self, element: str) -> tuple[str, ...]:
        """The property names of an element, none where it is absent."""
        return next((e.properties for e in self.elements if e.name == element), ())


def check_header(path: Path) -> PlyHeader:
    """Read the header and hold its counts against the file's size.

    Raises:
        UserError: not a PLY, a header that means nothing, or fewer bytes than it promises.
    """
    with path.open("rb") as stream:
        lines = _header_lines(stream, path)
        left = path.stat().st_size - stream.tell()
    words = lines[0].split()
    if len(words) != 3 or words[0] != "format" or words[1] not in FORMATS:
        raise UserError(f"{path}: '{lines[0][:60]}' is no PLY format; export the file again")
    elements = _elements(lines[1:], path)
    is_ascii = words[1] == "ascii"
    for element in elements:
        stride = len(element.properties) * SMALLEST_ASCII_VALUE if is_ascii else element.stride
        needed = element.count * stride
        # The last line of an ASCII file may lack its line end.
        if needed > left + is_ascii:
            row = left // max(stride, 1)
            raise UserError(
                f"{path} ends inside row {row} of {element.count} of '{element.name}' "
                f"({left} bytes left, needs {needed}); copy or export it again"
            )
        left -= needed
    ragged = is_ascii or any(element.has_lists for element in elements)
    return PlyHeader(tuple(elements), 0 if ragged else left)


def _header_lines(stream: BinaryIO, path: Path) -> list[str]:
    """The lines between `ply` and `end_header`, without comments; leaves the stream behind them."""
    start = stream.read(LONGEST_HEADER)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not a PLY; run: git lfs pull")
    if not start.startswith((b"ply\n", b"ply\r")):
        raise UserError(f"{path} is not a PLY file (no 'ply' in its first line)")
    end = start.find(b"end_header")
    line_end = start.find(b"\n", end)
    if end < 0 or line_end < 0:
        raise UserError(
            f"{path}: no 'end_header' in the first {LONGEST_HEADER} bytes; export the file again"
        )
    stream.seek(line_end + 1)
    text = start[:end].decode("ascii", "replace")
    lines = [line.strip() for line in text.splitlines()[1:]]
    kept = [line for line in lines if line and line.split()[0] not in ("comment", "obj_info")]
    if not kept:
        raise UserError(f"{path}: the header is empty; export the file again")
    return kept


def _elements(lines: list[str], path: Path) -> list[PlyElement]:
    elements: list[PlyElement] = []
    for line in lines:
        words = line.split()
        if words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            elements.append(PlyElement(words[1], int(words[2]), (), 0, has_lists=False))
        elif words[0] == "property" and elements:
            elements[-1] = _with_property(elements[-1], words, line, path)
        else:
            raise UserError(f"{path}: header line '{line[:80]}' means nothing; export it again")
    if not elements:
        raise UserError(f"{path}: the header names no element; export the file again")
    return elements


def _with_property(element: PlyElement, words: list[str], line: str, path: Path) -> PlyElement:
    """The element with one more property."""
    is_list = len(words) == 5 and words[1] == "list" and words[3] in SCALAR_BYTES
    kind = words[2] if is_list else words[1] if len(words) == 3 else ""
    if kind not in SCALAR_BYTES:
        raise UserError(f"{path}: header line '{line[:80]}' means nothing; export it again")
    if len(element.properties) >= MOST_PROPERTIES:
        raise UserError(f"{path}: '{element.name}' has more than {MOST_PROPERTIES} properties")
    return PlyElement(
        element.name,
        element.count,
        (*element.properties, words[-1]),
        element.stride + SCALAR_BYTES[kind],
        element.has_lists or is_list,
    )
