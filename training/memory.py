"""How much memory a run may take, and how many Gaussians fit in it; knows no tensors."""

import os
from pathlib import Path

import torch

FLOATS_PER_GAUSSIAN = 59  # at harmonics of degree 3
TRAINED_COPIES = 4.5  # parameters, gradients, two moments, and the rasterizer's own rows
PROXY_COPIES = 1.5
USABLE_SHARE = 0.5  # of the free memory; the rest is for pictures, lists and the allocator
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    for limit in map(Path, CGROUP_LIMITS):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            free = min(free, int(text))
    return free


def gaussian_bytes(num_trained: int, num_proxies: int) -> int:
    """What one Gaussian in every branch takes during training."""
    copies = num_trained * TRAINED_COPIES + num_proxies * PROXY_COPIES
    return int(copies * FLOATS_PER_GAUSSIAN * 4)


def planned_cap(device: torch.device, num_trained: int, num_proxies: int) -> int:
    """The number of Gaussians per branch that the free memory allows."""
    return int(free_bytes(device) * USABLE_SHARE) // gaussian_bytes(num_trained, num_proxies)
