"""How much memory a run takes, part by part, and how many Gaussians fit in it; knows no tensors.

The figures are fitted to peaks of 30,000 steps on a GPU (docs/results/bonsai_gpu.csv): single,
dual and ema come out within 7 % of what torch's allocator held.
"""

import resource
from dataclasses import dataclass

import torch

from scene.host_memory import host_memory

FLOATS_PER_GAUSSIAN = 59  # at harmonics of degree 3
TRAINED_COPIES = 4.5  # parameters, gradients, two moments, and the rasterizer's own rows
PROXY_COPIES = 1.5
LIST_BYTES = 300  # for each Gaussian of a render: its entries in tiles, their order, gradient slots
PICTURE_FLOATS = 60  # for each pixel of a render: colours, gradients, SSIM windows, features
# Of the free memory, for the allocator's gaps and the system's libraries.
RESERVE_SHARE = {"cuda": 0.15, "cpu": 0.25}
# Of what Gaussians take: growth and the start of a run copy them, and a host's allocator returns
# little (measured there: 2.2 to 2.9 KB a Gaussian in all, with one branch).
COPIES = {"cuda": 1.0, "cpu": 2.0}
GIGA = 1e9


@dataclass(frozen=True)
class Workload:
    """What the memory of a run follows from, beside the number of Gaussians.

    Attributes:
        num_trained: branches that learn.
        num_proxies: branches that average another.
        picture_pixels: of the largest training photo.
        photo_bytes: photos that are kept on the device, with the user's masks.
        mask_bytes: candidate segments and soft masks of all training photos.
        device: kind of device, `cuda` or `cpu`.
    """

    num_trained: int
    num_proxies: int
    picture_pixels: int
    photo_bytes: int
    mask_bytes: int
    device: str

    @property
    def num_renders(self) -> int:
        """Renders of a step: every branch shows the view of every trained one."""
        return self.num_trained * (self.num_trained + self.num_proxies)


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will take with so many Gaussians a branch, in bytes.

    Attributes:
        gaussians: parameters, gradients, Adam's moments and averages of all branches.
        photos: kept on the device, with the user's masks.
        masks: banks of candidate segments and soft masks.
        pictures: what a step renders, and what losses and masks compute from it.
        lists: which Gaussians lie on which tiles.
        reserve: left to the allocator and the system.
        free: what this process may still take before the run begins.
    """

    num_gaussians: int
    gaussians: int
    photos: int
    masks: int
    pictures: int
    lists: int
    reserve: int
    free: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(
            (self.gaussians, self.photos, self.masks, self.pictures, self.lists, self.reserve)
        )

    def __str__(self) -> str:
        """The plan in one line."""
        shown = {
            "Gaussians and moments": self.gaussians,
            "photos": self.photos,
            "mask banks": self.masks,
            "pictures": self.pictures,
            "tile lists": self.lists,
        }
        parts = ", ".join(f"{name} {size / GIGA:.2f}" for name, size in shown.items())
        taken = self.total - self.reserve
        return (
            f"plan: {self.num_gaussians} Gaussians, {taken / GIGA:.2f} GB ({parts}) and a reserve "
            f"of {self.reserve / GIGA:.1f} of {self.free / GIGA:.1f} GB free"
        )


def plan_memory(num_gaussians: int, workload: Workload, free: int) -> MemoryPlan:
    """What the run takes where so much is free."""
    rows = int(num_gaussians * COPIES[workload.device])
    return MemoryPlan(
        num_gaussians=num_gaussians,
        gaussians=rows * gaussian_bytes(workload.num_trained, workload.num_proxies),
        photos=workload.photo_bytes,
        masks=workload.mask_bytes,
        pictures=workload.picture_pixels * workload.num_renders * PICTURE_FLOATS * 4,
        lists=rows * LIST_BYTES * workload.num_renders,
        reserve=int(RESERVE_SHARE[workload.device] * free),
        free=free,
    )


def most_gaussians(workload: Workload, free: int) -> int:
    """The largest number of Gaussians a branch whose plan fits; 0 where nothing does."""
    empty, one = (plan_memory(count, workload, free).total for count in (0, 1))
    return max(0, free - empty) // (one - empty)


def gaussian_bytes(num_trained: int, num_proxies: int) -> int:
    """What one Gaussian in every branch takes during training."""
    copies = num_trained * TRAINED_COPIES + num_proxies * PROXY_COPIES
    return int(copies * FLOATS_PER_GAUSSIAN * 4)


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
