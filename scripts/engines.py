"""The rasterizers that are compared, each on parameters of its own that start from one workload.

All take raw parameters (logarithms, logits, harmonics of degree 3), render one camera, and learn
from 0.8 L1 + 0.2 (1 - SSIM) with Adam. That loss is ours for all of them. The learning rates are so
small that the scene stays as it is, however often a step is timed.
"""

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from diff_gaussian_rasterization import (
    Rasterization,
    activate,
    adam_rates,
    adam_step_,
    photometric_loss,
    rasterization,
)
from torch import Tensor

from scripts.workload import Workload

LEARNING_RATE = 1e-7
EPS = 1e-15
SH_DEGREE = 3


@dataclass(frozen=True)
class Counts:
    """Gaussians in view, and (splat, tile) pairs."""

    visible: int
    pairs: int


class Engine(ABC):
    """A rasterizer with its optimizer.

    Attributes:
        leaves: means, quats, log scales, opacity logits, sh0, shN.
    """

    def __init__(self, work: Workload, device: torch.device) -> None:
        self.work, self.device = work, device
        raw = (
            work.means,
            work.quats,
            work.scales.log(),
            work.opacities.logit(eps=1e-6),
            work.sh[:, :1].contiguous(),
            work.sh[:, 1:].contiguous(),
        )
        self.leaves = [t.to(device, copy=True).requires_grad_() for t in raw]
        self.viewmats, self.Ks = work.viewmat[None].to(device), work.K[None].to(device)
        self.grad = work.grad[None].to(device)
        noise = 0.1 * torch.randn(self.grad.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.target = (self.picture() + noise.to(device)).clamp(0, 1)

    @abstractmethod
    def picture(self) -> Tensor:
        """The camera's view, [1, H, W, 3]."""

    @abstractmethod
    def update(self) -> None:
        """One step of Adam from the gradients of the leaves."""

    def forward(self) -> None:
        """Render without autograd."""
        with torch.no_grad():
            self.picture()

    def both(self) -> None:
        """Render, and go back from the workload's gradient to all parameters."""
        self._forget()
        self.picture().backward(self.grad)

    def step(self) -> None:
        """Render, compare, go back, learn."""
        self._forget()
        photometric_loss(self.picture(), self.target).backward()
        self.update()

    def _forget(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None


class Ours(Engine):
    """This repository's operators.

    Args:
        pair_capacity: room for lists, so that nothing waits for the device; None is exact.
    """

    def __init__(
        self, work: Workload, device: torch.device, pair_capacity: int | None = None
    ) -> None:
        self.pair_capacity = pair_capacity
        self._counts: Tensor
        super().__init__(work, device)
        self._means, self._squares = ([torch.zeros_like(p) for p in self.leaves] for _ in range(2))
        self._rates = adam_rates([LEARNING_RATE] * len(self.leaves), 1).to(device)

    def _render(self) -> Rasterization:
        means, quats, log_scales, logits, sh0, shN = self.leaves
        scales, opacities = activate(log_scales, logits)
        return rasterization(
            means,
            quats,
            scales,
            opacities,
            (sh0, shN),
            self.viewmats,
            self.Ks,
            self.work.width,
            self.work.height,
            sh_degree=SH_DEGREE,
            pair_capacity=self.pair_capacity,
        )

    def picture(self) -> Tensor:
        """The camera's view."""
        render = self._render()
        self._counts = render.counts
        return render.color

    def update(self) -> None:
        """One step of Adam, its rates on the device."""
        grads = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        adam_step_(self.leaves, grads, self._means, self._squares, rates=self._rates, eps=EPS)

    def counts(self) -> Counts:
        """Those of the last render, a replayed one included."""
        visible, pairs, _ = self._counts.tolist()
        return Counts(visible, pairs)


class Gsplat(Engine):
    """The `gsplat` package, unpacked (its faster mode here), with torch's fused Adam."""

    def __init__(self, work: Workload, device: torch.device) -> None:
        super().__init__(work, device)
        self._optimizer = torch.optim.Adam(self.leaves, lr=LEARNING_RATE, eps=EPS, fused=True)

    @staticmethod
    def missing(device: torch.device) -> str | None:
        """Why it cannot be timed here; None where it can."""
        if importlib.util.find_spec("gsplat") is None:
            return "not installed"
        return None if device.type == "cuda" else "has no CPU kernels"

    def picture(self) -> Tensor:
        """The camera's view."""
        import gsplat  # optional, and it compiles kernels when it is loaded

        means, quats, log_scales, logits, sh0, shN = self.leaves
        color, _, _ = gsplat.rasterization(
            means,
            quats,
            log_scales.exp(),
            logits.sigmoid(),
            torch.cat([sh0, shN], 1),
            self.viewmats,
            self.Ks,
            self.work.width,
            self.work.height,
            sh_degree=SH_DEGREE,
            packed=False,
        )
        return color

    def update(self) -> None:
        """One step of Adam."""
        self._optimizer.step()
