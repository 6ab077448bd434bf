"""Adam over the tensors of one Gaussian set, and the learning rates of each step.

Knows nothing of losses; rows are edited through training/rows.py.
"""

from dataclasses import dataclass, fields

import torch
from diff_gaussian_rasterization import adam_step_
from torch import Tensor

from arguments.config import OptimizationConfig
from scene.gaussians import Gaussians
from training.rows import RowMap
from training.schedule import Schedule, log_linear

REST_DIVISOR = 20  # the higher harmonics learn this much slower than the base colour


@dataclass(frozen=True)
class LearningRates:
    """One learning rate for each parameter of a Gaussian set, by its name there."""

    means: float
    quats: float
    log_scales: float
    opacity_logits: float
    sh0: float
    shN: float

    @classmethod
    def at(
        cls, step: int, config: OptimizationConfig, schedule: Schedule, scene_scale: float
    ) -> "LearningRates":
        """The rates of update number `step`, counted from 0."""
        position = log_linear(
            config.position_lr_init, config.position_lr_final, step, schedule.position_steps
        )
        return cls(
            means=position * scene_scale,
            quats=config.rotation_lr,
            log_scales=config.scaling_lr,
            opacity_logits=config.opacity_lr,
            sh0=config.feature_lr,
            shN=config.feature_lr / REST_DIVISOR,
        )


class GaussianAdam:
    """Adam (arXiv 1412.6980) with one pair of moments per parameter tensor.

    Moments live beside the parameters and follow the same row map.
    """

    def __init__(self, gaussians: Gaussians) -> None:
        self.num_updates = 0
        self.exp_avg = {name: torch.zeros_like(p) for name, p in gaussians.parameters()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in gaussians.parameters()}

    @torch.no_grad()
    def step(self, gaussians: Gaussians, rates: LearningRates) -> None:
        """One update from the gradients that the parameters hold; the gradients are dropped.

        A parameter without a gradient has taken no part in the step and keeps its value.
        """
        self.num_updates += 1
        learning = [(name, p, p.grad) for name, p in gaussians.parameters() if p.grad is not None]
        names = [name for name, _, _ in learning]
        adam_step_(
            [p for _, p, _ in learning],
            [grad for _, _, grad in learning],
            [self.exp_avg[name] for name in names],
            [self.exp_avg_sq[name] for name in names],
            [getattr(rates, name) for name in names],
            self.num_updates,
        )
        for _, p, _ in learning:
            p.grad = None

    def follow(self, rows: RowMap) -> None:
        """Carry the moments through a row edit."""
        for moments in (self.exp_avg, self.exp_avg_sq):
            for name, moment in moments.items():
                moments[name] = rows.follow_moment(moment)

    def forget(self, name: str) -> None:
        """Start the moments of one parameter from zero, after its values were set by hand."""
        self.exp_avg[name].zero_()
        self.exp_avg_sq[name].zero_()

    def tensors(self) -> dict[str, Tensor]:
        """All moments by name, for a checkpoint."""
        return {
            f"{kind}/{name}": moment
            for kind, moments in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq))
            for name, moment in moments.items()
        }

    def load(self, tensors: dict[str, Tensor], num_updates: int) -> None:
        """Take the moments of a checkpoint."""
        self.num_updates = num_updates
        for name in self.exp_avg:
            self.exp_avg[name] = tensors[f"exp_avg/{name}"]
            self.exp_avg_sq[name] = tensors[f"exp_avg_sq/{name}"]


if {f.name for f in fields(LearningRates)} != {
    f.name for f in fields(Gaussians) if f.name != "filter_3d"
}:  # a parameter without a learning rate would silently never learn
    raise TypeError("LearningRates and Gaussians name different parameters")
