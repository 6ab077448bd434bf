"""What a power cut may leave on disk, from the recorded file operations of a run.

A disk keeps what was synchronised, and of the rest any part. Two things can be lost, each alone:
bytes of files that nobody has synchronised, and names in folders that nobody has. So after each
operation there are four disks.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Operation:
    """One thing that was done to a file or folder.

    Attributes:
        kind: O made or opened, T made empty, W wrote, S synchronised, R renamed, U removed, M made
            a folder.
        other: the new name.
    """

    kind: str
    path: str
    other: str
    data: bytes


def read_log(path: Path) -> list[Operation]:
    """The operations that shim.c has recorded."""
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        end = content.index(b"\n", at)
        kind, size, names = content[at:end].decode().split(" ", 2)
        name, other = names.split("\t")
        at = end + 1 + int(size)
        found.append(Operation(kind, name, other, content[end + 1 : at]))
    return found


@dataclass
class _File:
    """The bytes of a file, as programs see them and as they are safe."""

    seen: bytes = b""
    safe: bytes = b""


@dataclass
class Disk:
    """Names and bytes, as programs see them and as they are safe.

    Attributes:
        seen: file by path; None is a folder.
        safe: the names that folders have had when they were last synchronised.
    """

    seen: dict[str, _File | None] = field(default_factory=dict)
    safe: dict[str, _File | None] = field(default_factory=dict)

    def do(self, operation: Operation) -> None:
        """Follow one operation."""
        kind, path = operation.kind, operation.path
        if kind == "M":
            self.seen[path] = None
        elif kind in "OT":
            if path not in self.seen:
                self.seen[path] = _File()
            elif kind == "T":
                self._file(path).seen = b""
        elif kind == "W":
            self._file(path).seen += operation.data
        elif kind == "R":
            self.seen[operation.other] = self.seen.pop(path)
        elif kind == "U":
            del self.seen[path]
        else:
            self._synchronise(path)

    def _file(self, path: str) -> _File:
        file = self.seen[path]
        assert file is not None
        return file

    def _synchronise(self, path: str) -> None:
        if self.seen.get(path) is not None:
            file = self._file(path)
            file.safe = file.seen
            return
        for name in [n for n in self.safe if Path(n).parent == Path(path)]:
            del self.safe[name]
        self.safe |= {n: f for n, f in self.seen.items() if Path(n).parent == Path(path)}

    def after_cut(self, keeps_names: bool, keeps_bytes: bool) -> dict[str, bytes | None]:
        """What may be found: bytes by path, None for a folder."""
        names = self.seen if keeps_names else self.safe
        return {
            name: file if file is None else file.seen if keeps_bytes else file.safe
            for name, file in sorted(names.items())
            if all(
                str(above) in names or str(above) not in self.seen for above in Path(name).parents
            )
        }


@dataclass(frozen=True)
class Cut:
    """One disk after a power cut.

    Attributes:
        after: number of operations before the cut.
    """

    after: int
    left: dict[str, bytes | None]

    def lay_out(self, source: Path, target: Path) -> None:
        """Put it below `target` instead of `source`."""
        for name, content in self.left.items():
            path = target / Path(name).relative_to(source)
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def cuts(operations: list[Operation]) -> Iterator[Cut]:
    """Every disk that a power cut may leave, each once."""
    disk, known = Disk(), set()
    for number, operation in enumerate(operations, start=1):
        disk.do(operation)
        if operation.kind == "S":  # only what is synchronised changes what a run has promised
            known.clear()
        for keeps_names, keeps_bytes in itertools.product((False, True), repeat=2):
            left = disk.after_cut(keeps_names, keeps_bytes)
            key = tuple((name, None if it is None else hash(it)) for name, it in left.items())
            if key not in known:
                known.add(key)
                yield Cut(number, left)
