"""How much memory this process may take of the machine, or of its container.

Knows Linux's files only; elsewhere the machine's own numbers count.
"""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STATM = Path("/proc/self/statm")  # its first number: pages of address space in use
CGROUP_ROOT = Path("/sys/fs/cgroup")
# File names of the limit and of what is in use, in the second and the first version of cgroups.
CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes of memory, and how many of them may still be taken."""

    total: int
    free: int


def host_memory() -> Memory:
    """What this process may take of the machine, or of its container or limits where less."""
    page = os.sysconf("SC_PAGE_SIZE")
    known = Memory(os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known = Memory(known.total, int(line.split()[1]) * 1024)
    for limit in (*_cgroup_limits(CGROUP_ROOT), *_own_limits()):
        known = Memory(min(known.total, limit.total), min(known.free, limit.free))
    return known


def _cgroup_limits(root: Path) -> Iterator[Memory]:
    """The limits of the container, where there are any; files that can be dropped count as free."""
    for limit_name, used_name in CGROUP_FILES:
        limit, used = _number(root / limit_name), _number(root / used_name)
        if limit is not None:
            cached = _cached(root / limit_name.replace(Path(limit_name).name, "memory.stat"))
            yield Memory(limit, max(0, limit - (used or 0) + cached))


def _own_limits() -> Iterator[Memory]:
    """The limit of this process alone, where there is one (`ulimit -v`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and STATM.is_file():
        used = int(STATM.read_text().split()[0]) * resource.getpagesize()
        yield Memory(limit, max(0, limit - used))


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _cached(path: Path) -> int:
    """Bytes of files that the system keeps in memory only while nobody needs it."""
    lines = path.read_text().splitlines() if path.is_file() else []
    words = [line.split() for line in lines]
    return sum(int(w[1]) for w in words if w[0] in ("inactive_file", "active_file"))
