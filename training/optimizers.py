"""Adam over the tensors of one Gaussian set, with its running average, and the learning rates.

Knows nothing of losses; rows are edited through training/rows.py.
"""

from dataclasses import dataclass, fields

import torch
from diff_gaussian_rasterization import adam_rates, adam_step_
from jaxtyping import Float, Int
from torch import Tensor

from arguments.config import OptimizationConfig
from scene.gaussians import FIELD_NAMES, Gaussians
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

    def at_update(self, number: int) -> Float[Tensor, "P 2"]:
        """What Adam needs of them at update `number`, counted from 1: a row for each parameter."""
        return adam_rates([getattr(self, name) for name in PARAMETERS], number)


@dataclass(frozen=True)
class Follower:
    """A running average that moves with the parameters: E <- decay E + (1 - decay) P."""

    gaussians: Gaussians
    decay: float


class GaussianAdam:
    """Adam (arXiv 1412.6980) with one pair of moments per parameter tensor.

    Moments live beside the parameters and follow the same row map.
    """

    def __init__(self, gaussians: Gaussians) -> None:
        self.exp_avg = {name: torch.zeros_like(p) for name, p in gaussians.parameters()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in gaussians.parameters()}

    @torch.no_grad()
    def step(
        self,
        gaussians: Gaussians,
        rates: Float[Tensor, "P 2"],
        *,
        follower: Follower | None = None,
        visible: Int[Tensor, " N"] | None = None,
        frozen: Int[Tensor, "1"] | None = None,
    ) -> None:
        """One update from the gradients that the parameters hold; the gradients are dropped.

        A parameter without a gradient has taken no part in the step and keeps its value.

        Args:
            rates: of `LearningRates.at_update`, on the device.
            follower: averaged in the same pass, all of its rows.
            visible: positive for rows that alone are moved, with their moments; None moves all.
            frozen: where it is set, nothing changes.
        """
        learning = [
            (row, name)
            for row, name in enumerate(PARAMETERS)
            if getattr(gaussians, name).grad is not None
        ]
        names = [name for _, name in learning]
        params = [getattr(gaussians, name) for name in names]
        is_whole = len(names) == len(PARAMETERS)
        adam_step_(
            params,
            [p.grad for p in params],
            [self.exp_avg[name] for name in names],
            [self.exp_avg_sq[name] for name in names],
            rates=rates if is_whole else torch.stack([rates[row] for row, _ in learning]),
            averages=[getattr(follower.gaussians, name) for name in names] if follower else None,
            decay=follower.decay if follower else 0.0,
            visible=visible,
            frozen=frozen,
        )
        for p in params:
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

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the moments of a checkpoint."""
        for name in self.exp_avg:
            self.exp_avg[name] = tensors[f"exp_avg/{name}"]
            self.exp_avg_sq[name] = tensors[f"exp_avg_sq/{name}"]


PARAMETERS = tuple(name for name in FIELD_NAMES if name != "filter_3d")

if {f.name for f in fields(LearningRates)} != set(PARAMETERS):
    # A parameter without a learning rate would silently never learn.
    raise TypeError("LearningRates and Gaussians name different parameters")
