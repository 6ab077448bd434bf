"""How much memory a run may take, and how many Gaussians fit in it; knows no tensors."""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

FLOATS_PER_GAUSSIAN = 59  # at harmonics of degree 3
TRAINED_COPIES = 4.5  # parameters, gradients, two moments, and the rasterizer's own rows
PROXY_COPIES = 1.5
USABLE_SHARE = 0.5  # of the free memory; the rest is for pictures, lists and the allocator
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
    """What this process may take of the machine, or of its container where that allows less."""
    page = os.sysconf("SC_PAGE_SIZE")
    known = Memory(os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known = Memory(known.total, int(line.split()[1]) * 1024)
    for limit in _cgroup_limits(CGROUP_ROOT):
        known = Memory(min(known.total, limit.total), min(known.free, limit.free))
    return known


def _cgroup_limits(root: Path) -> Iterator[Memory]:
    """The limits of the container, where there are any; files that can be dropped count as free."""
    for limit_name, used_name in CGROUP_FILES:
        limit, used = _number(root / limit_name), _number(root / used_name)
        if limit is not None:
            cached = _cached(root / limit_name.replace(Path(limit_name).name, "memory.stat"))
            yield Memory(limit, max(0, limit - (used or 0) + cached))


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _cached(path: Path) -> int:
    """Bytes of files that the system keeps in memory only while nobody needs it."""
    lines = path.read_text().splitlines() if path.is_file() else []
    words = [line.split() for line in lines]
    return sum(int(w[1]) for w in words if w[0] in ("inactive_file", "active_file"))


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return host_memory().free


def peak_bytes(device: torch.device) -> int:
    """The most that this process has taken so far: of the GPU by tensors, of the host in all."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024


def gaussian_bytes(num_trained: int, num_proxies: int) -> int:
    """What one Gaussian in every branch takes during training."""
    copies = num_trained * TRAINED_COPIES + num_proxies * PROXY_COPIES
    return int(copies * FLOATS_PER_GAUSSIAN * 4)


def planned_cap(device: torch.device, num_trained: int, num_proxies: int) -> int:
    """The number of Gaussians per branch that the free memory allows."""
    return int(free_bytes(device) * USABLE_SHARE) // gaussian_bytes(num_trained, num_proxies)
