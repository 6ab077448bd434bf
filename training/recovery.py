"""Going back to the last good checkpoint when a step has failed, with what makes it pass this time.

Bad numbers: half the learning rates. Out of memory: a lower cap on Gaussians. Twice; then the run
ends, and what is on disk is the last good state under its true step.
"""

import gc
from dataclasses import dataclass, replace

import torch

from arguments.config import TrainConfig
from arguments.failures import is_out_of_memory
from arguments.messages import ExitCode, Messages, UserError
from training import checkpoint
from training.densification import build_strategy
from training.health import Replay, Trouble, write_replay
from training.photos import ViewSource
from training.run_folder import RunRecord
from training.setup import Parts
from training.step import StepContext

MOST_RETURNS = 2  # for bad numbers, and for memory
RATE_SHARE, CAP_SHARE = 0.5, 0.8  # of what led to the failure
RATES = ("position_lr_init", "position_lr_final", "feature_lr", "opacity_lr", "scaling_lr")


def slowed(context: StepContext, rollbacks: int) -> StepContext:
    """The context with the learning rates of a run that has gone back so often."""
    config, share = context.config, RATE_SHARE**rollbacks
    rates = {name: share * getattr(config.optimization, name) for name in (*RATES, "rotation_lr")}
    return replace(
        context, config=replace(config, optimization=replace(config.optimization, **rates))
    )


@dataclass(frozen=True)
class Recovery:
    """What going back needs of a run; `record` counts how often it happens."""

    parts: Parts
    views: ViewSource
    record: RunRecord
    messages: Messages

    def go_back(self, trouble: Trouble, config: TrainConfig) -> TrainConfig:
        """Put the state back to the newest good checkpoint; returns the settings to go on with.

        Raises:
            UserError: there is none, or the run has gone back too often.
        """
        state, record, folder = self.parts.state, self.record, config.model.model_path
        drawn = self.views.draw(max(state.step - 1, 0), [branch.name for branch in state.trained])
        names = self.views.names(drawn)
        photos = ", ".join(f"'{name}'" for name in dict.fromkeys(names))
        what = f"step {state.step}: {trouble.what}, photo {photos}"
        step, count = state.step, len(state.result)
        is_memory = trouble.code == ExitCode.MEMORY
        if not is_memory:
            replay = write_replay(folder, state, Replay(step, names, trouble.what))
            what += f" (replay: {replay.name})"
        returns = record.backoffs if is_memory else record.rollbacks
        found = checkpoint.load_newest(folder, self.messages)
        if found is None or returns >= MOST_RETURNS:
            last = "no checkpoint" if found is None else f"the last good checkpoint is {found.path}"
            raise UserError(f"{what}; gave up after {returns} returns, {last}", trouble.code)
        self._release()
        self._restore(found, what)
        if is_memory:
            record.backoffs += 1
            config = self._with_lower_cap(config, int(CAP_SHARE * count))
            change = f"at most {config.run.max_gaussians} Gaussians"
        else:
            record.rollbacks += 1
            change = "half the learning rates"
        self.messages.warn(f"{what}; back to step {state.step} with {change}")
        return config

    def _restore(self, found: checkpoint.Checkpoint, what: str) -> None:
        """Put the state back.

        Raises:
            UserError: what is free now is too little even for the state of the checkpoint.
        """
        try:
            checkpoint.restore(found, self.parts.state)
        except Exception as failure:
            if not is_out_of_memory(failure):
                raise
            raise UserError(
                f"{what}; too little is free to go back, the last good checkpoint is {found.path}",
                ExitCode.MEMORY,
            ) from failure

    def _release(self) -> None:
        """Drop what a failed step has left in memory, the state that it has spoilt included.

        Growth may have failed half way, with more rows here than there; and a GPU that had no room
        for the failed step may have none for two states.
        """
        self.parts.state.forget()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _with_lower_cap(self, config: TrainConfig, cap: int) -> TrainConfig:
        context = self.parts.context
        for branch in self.parts.state.trained:
            branch.strategy = build_strategy(
                config.densification, context.schedule, context.scene_scale, cap
            )
        self.record.max_gaussians = cap
        return replace(config, run=replace(config.run, max_gaussians=cap))
