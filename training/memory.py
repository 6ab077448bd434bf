"""How much memory a run may take, and how many Gaussians fit in it; knows no tensors."""

import resource

import torch

from scene.host_memory import host_memory

FLOATS_PER_GAUSSIAN = 59  # at harmonics of degree 3
TRAINED_COPIES = 4.5  # parameters, gradients, two moments, and the rasterizer's own rows
PROXY_COPIES = 1.5
USABLE_SHARE = 0.5  # of the free memory; the rest is for pictures, lists and the allocator


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
