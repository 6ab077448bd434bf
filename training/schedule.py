"""When what happens: the settings that are None in the configuration, as steps of this run.

The paper's schedule is written for 30,000 iterations; here it scales with the run's length.
"""

import math
from dataclasses import dataclass

from arguments.config import TrainConfig

REFERENCE_ITERATIONS = 30_000
CLEAN_EVERY = 1000  # steps between two looks for Gaussians without shape, beside growth
SHORTEST_INTERVAL = 100  # steps between two rounds of growth; fewer views say too little


@dataclass(frozen=True)
class Schedule:
    """Steps count from 0; an interval is at least 1 step.

    Attributes:
        iterations: number of steps of the run.
        sh_interval: steps between two degrees of the harmonics.
        grow_from: first step that may add Gaussians.
        grow_until: first step that no longer may.
        grow_every: steps between two rounds.
        reset_every: steps between two opacity resets; None = never.
        filter_every: steps between two updates of the 3D filter once growth has ended.
        agree_from: first step with the agreement loss.
        mask_from: first step at which a soft mask learns.
        position_steps: step at which the means' learning rate has come down.
    """

    iterations: int
    sh_interval: int
    grow_from: int
    grow_until: int
    grow_every: int
    reset_every: int | None
    filter_every: int
    agree_from: int
    mask_from: int
    position_steps: int

    @classmethod
    def of(cls, config: TrainConfig) -> "Schedule":
        """The schedule of a run; explicit settings are taken as they are."""
        share = config.run.iterations / REFERENCE_ITERATIONS
        grow, agree = config.densification, config.agreement
        ema, default = config.run.method == "ema", grow.strategy == "default"

        def steps(given: int | None, reference: int) -> int:
            return given if given is not None else max(1, round(reference * share))

        reset = steps(grow.opacity_reset_interval, 3000)
        return cls(
            iterations=config.run.iterations,
            sh_interval=max(1, steps(config.optimization.sh_interval, 1000)),
            grow_from=steps(grow.densify_from_iter, 500),
            grow_until=steps(grow.densify_until_iter, 15_000),
            grow_every=grow.densification_interval
            or max(SHORTEST_INTERVAL, steps(None, 100 if default else 1000)),
            reset_every=max(1, reset) if default or grow.opacity_reset_interval else None,
            filter_every=max(1, steps(None, 100)),
            agree_from=steps(agree.agreement_from_iter, 1000),
            mask_from=steps(config.mask.mask_from_iter, 1000)
            if ema
            else (config.mask.mask_from_iter or 0),
            position_steps=steps(config.optimization.position_lr_max_steps, REFERENCE_ITERATIONS),
        )

    def grows_at(self, step: int) -> bool:
        """Whether Gaussians are added and removed after `step` updates."""
        return self.grow_from < step < self.grow_until and step % self.grow_every == 0

    def resets_at(self, step: int) -> bool:
        """Whether opacities are pulled down after `step` updates."""
        return (
            self.reset_every is not None
            and 0 < step < self.grow_until
            and step % self.reset_every == 0
        )

    def filters_at(self, step: int) -> bool:
        """Whether the 3D filter is renewed after `step` updates though nothing grew."""
        ended = self.grow_until <= step < self.iterations - self.filter_every
        return ended and step % self.filter_every == 0

    def cleans_at(self, step: int) -> bool:
        """Whether Gaussians that nothing can draw are looked for after `step` updates."""
        return step > 0 and step % CLEAN_EVERY == 0

    def refines_at(self, step: int) -> bool:
        """Whether anything happens between the steps once `step` updates are done."""
        grows = self.grows_at(step) or self.resets_at(step)
        return grows or self.filters_at(step) or self.cleans_at(step)

    def sh_degree_at(self, step: int, highest: int) -> int:
        """Degree of the harmonics in use."""
        return min(highest, step // self.sh_interval)


def log_linear(start: float, end: float, step: int, steps: int) -> float:
    """From `start` to `end` in equal ratios over `steps`, `end` from then on."""
    share = min(max(step / steps, 0.0), 1.0)
    return math.exp(math.log(start) * (1 - share) + math.log(end) * share)
