"""Watches a run: numbers that are none, Gaussians that vanish or learn nothing, memory that ends.

It finds and names; what is done about it is the loop's business.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from arguments.failures import is_lost_gpu, is_out_of_memory
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import to_json
from scene.atomic import write_atomic
from scene.host_memory import host_memory
from scene.tensor_file import write_tensors
from training.densification import FEWEST_GAUSSIANS, LIKELY_REASONS
from training.losses import NonFiniteError
from training.schedule import CLEAN_EVERY
from training.state import TrainState
from training.step import StepStats

IDLE_SHARE, IDLE_STEPS = 0.5, 500  # more Gaussians than this without any gradient for so long
LEAST_FREE_SHARE = 0.02  # of the host's memory; below it the system may end processes unasked


@dataclass(frozen=True)
class BadNumber:
    """The first number of a state that is not finite.

    Attributes:
        name: of the tensor in `TrainState.tensors`.
        row: along its first dimension.
    """

    name: str
    row: int

    def __str__(self) -> str:
        """Branch, parameter and Gaussian in words."""
        branch, part, what = self.name.split("/", 2)
        if part.startswith("mask"):
            return f"{what} of {part} of branch {branch} (row {self.row})"
        of = "" if part == "gaussians" else f"{part}/"
        return f"{of}{what} of Gaussian {self.row} (branch {branch})"


@dataclass(frozen=True)
class Trouble:
    """What a run cannot go on with, though an older state of it may.

    Attributes:
        what: in words, without the step.
        code: NUMERICAL or MEMORY.
    """

    what: str
    code: ExitCode


def find_bad(state: TrainState) -> BadNumber | None:
    """The first tensor and row that is not finite; reads everything."""
    for name, tensor in state.tensors().items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            flat = tensor.reshape(len(tensor), -1) if tensor.dim() else tensor.reshape(1, 1)
            return BadNumber(name, int((~flat.isfinite().all(dim=1)).nonzero()[0]))
    return None


def _is_finite(tensor: Tensor) -> bool:
    """Mostly one pass without a copy; waits for the device."""
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def diagnose(failure: Exception, state: TrainState) -> Trouble | None:
    """What is wrong with the run when a step failed so; None where the failure is another one.

    A GPU on which a kernel has failed is not asked anything any more.
    """
    if is_lost_gpu(failure):
        return None
    if is_out_of_memory(failure):
        return Trouble(f"out of memory with {len(state.result)} Gaussians", ExitCode.MEMORY)
    bad = find_bad(state)
    if bad is not None:
        return Trouble(f"{bad} is not finite", ExitCode.NUMERICAL)
    if isinstance(failure, NonFiniteError):
        return Trouble(str(failure), ExitCode.NUMERICAL)
    return None


@dataclass(frozen=True)
class Replay:
    """What lies beside the tensors of a state that is not finite."""

    step: int
    photos: tuple[str, ...]
    what: str


def write_replay(model_path: Path, state: TrainState, replay: Replay) -> Path:
    """Keep a bad state for whoever looks for the cause.

    Raises:
        OSError: the file system refused.
    """
    path = model_path / f"nonfinite_{replay.step:06d}.safetensors"
    write_tensors(path, state.tensors())
    write_atomic(path.with_suffix(".json"), to_json(replay).encode())
    return path


def _check_loss(stats: StepStats) -> None:
    if not math.isfinite(float(stats.loss.detach())):
        raise NonFiniteError("the loss is not finite")


class Health:
    """Looks at a run after every step, or where a GPU should not be waited for, now and then.

    What is saved is looked at whole before.
    """

    def __init__(self, state: TrainState, max_gaussians: int, messages: Messages) -> None:
        self._state, self._messages = state, messages
        self._max_gaussians = max_gaussians
        self._said: set[str] = set()
        self._looks = 0
        self._growth_since = state.step
        self._growth = state.trained[0].growth
        self._counted_since = state.step
        self._counted = sum(branch.pruned.degenerate for branch in state.trained)

    def after_step(self, stats: StepStats) -> None:
        """The loss, and one parameter of one branch in turn; reads from the device.

        A bad number in anything that a photo shows stops the next step by itself; the turns find
        those that no photo has shown since. All of them at each step would cost 2 % of a step.

        Raises:
            NonFiniteError: names the loss or the parameter.
        """
        _check_loss(stats)
        trained = self._state.trained
        parameters = [(b.name, n, p) for b in trained for n, p in b.gaussians.parameters()]
        branch, name, parameter = parameters[self._looks % len(parameters)]
        self._looks += 1
        if not _is_finite(parameter.detach()):
            raise NonFiniteError(f"{name} of branch {branch} is not finite")

    def of_all(self, stats: StepStats) -> None:
        """The loss and every number of the state, so that no checkpoint holds a bad one.

        Raises:
            NonFiniteError: names the loss or the tensor.
        """
        _check_loss(stats)
        bad = find_bad(self._state)
        if bad is not None:
            raise NonFiniteError(f"{bad} is not finite")

    def at_report(self) -> None:
        """What changes slowly: the number of Gaussians, how many learn, the host's memory.

        Raises:
            UserError: the host's memory is nearly used up.
        """
        count = len(self._state.result)
        if count <= FEWEST_GAUSSIANS:
            self._warn_once(
                "count",
                f"only {count} Gaussians are left and no more are pruned; {LIKELY_REASONS}",
            )
        self._look_for_spared()
        self._look_for_degenerate()
        if count >= self._max_gaussians:
            self._warn_once(
                "cap",
                f"step {self._state.step}: {count} Gaussians, as many as may be (--max_gaussians); "
                "from here on those with the largest gradients grow where others are pruned",
            )
        self._look_for_idle()
        memory = host_memory()
        if memory.free < LEAST_FREE_SHARE * memory.total:
            raise UserError(
                f"host memory: {memory.free / 1e9:.2f} of {memory.total / 1e9:.2f} GB free with "
                f"{count} Gaussians; try --max_gaussians {int(0.7 * count)} or smaller photos (-r)",
                ExitCode.MEMORY,
            )

    def _look_for_spared(self) -> None:
        """Warn when a round of growth has pruned nothing, since too few would have been left."""
        for branch in self._state.trained:
            if branch.pruned.spared_rounds:
                self._warn_once(
                    f"spared {branch.name}",
                    f"step {self._state.step}: nearly all Gaussians of branch {branch.name} are "
                    f"transparent; none are pruned, or too few would be left; {LIKELY_REASONS}",
                )

    def _look_for_degenerate(self) -> None:
        """Say every so often how many Gaussians had to go because nothing could draw them."""
        if self._state.step - self._counted_since < CLEAN_EVERY:
            return
        count = sum(branch.pruned.degenerate for branch in self._state.trained)
        if count > self._counted:
            self._messages.warn(
                f"steps {self._counted_since} to {self._state.step}: {count - self._counted} "
                "Gaussians that nothing can draw were pruned"
            )
        self._counted, self._counted_since = count, self._state.step

    def _look_for_idle(self) -> None:
        """Warn when most Gaussians that were seen have had no gradient at all for long."""
        growth = self._state.trained[0].growth
        if growth is not self._growth:
            self._growth, self._growth_since = growth, self._state.step
        if self._state.step - self._growth_since < IDLE_STEPS:
            return
        seen = growth.count > 0
        idle = float(((growth.grad_sum == 0) & seen).sum() / seen.sum().clamp_min(1))
        if idle > IDLE_SHARE:
            self._warn_once(
                "idle",
                f"step {self._state.step}: {idle:.0%} of the visible Gaussians have had no "
                f"gradient for {IDLE_STEPS} steps; opacities may have been reset too low",
            )

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._messages.warn(text)
