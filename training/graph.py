"""How steps are run: one after another from the host, or recorded once and replayed on a GPU.

A recorded step (a CUDA graph) reads what changes from step to step from static buffers, makes room
for a fixed number of list entries and never asks the host anything. Should a render need more room,
or meet a bad number, the step freezes all that learns; the host looks every few steps, makes room,
and goes on from the step that was frozen. So every step is exact.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from arguments.messages import ExitCode, Messages, UserError
from training.losses import NonFiniteError
from training.photos import ViewSource, upload
from training.state import TrainState
from training.step import (
    Guard,
    StepContext,
    StepMode,
    StepNumbers,
    StepStats,
    refine,
    train_step,
)

LOOK_EVERY = 20  # steps between two looks at the guard, each of which waits for the device
LEAST_ROOM = 1 << 18  # list entries that a recorded step has room for at least
SPARE_ROOM = 1.5  # room over the most entries seen


@runtime_checkable
class Stepper(Protocol):
    """Runs steps.

    Attributes:
        stride: how many steps it should be given at once.
    """

    stride: int

    def advance(self, until: int) -> StepStats:
        """Do steps until `until` are done, and what comes after the last; the stats of the last.

        The schedule refines after the last of them at most, and at no step before.
        """
        ...


class EagerStepper:
    """Runs each step from the host as it comes: on any device, with photos of any sizes."""

    stride = 1

    def __init__(self, state: TrainState, views: ViewSource, context: StepContext) -> None:
        self._state, self._views, self._context = state, views, context
        self._names = [branch.name for branch in state.trained]

    def advance(self, until: int) -> StepStats:
        """Do the steps."""
        state, context = self._state, self._context
        device = state.result.device
        while True:
            step = state.step
            numbers = StepNumbers.at(step, context)
            stats = train_step(
                state,
                self._views.batches(self._views.draw(step, self._names)),
                StepNumbers(upload(numbers.rates, device), upload(numbers.background, device)),
                StepMode.at(step, state, context),
                context,
            )
            state.step += 1
            refine(state, context)
            if state.step >= until:
                return stats


class StaticInputs:
    """What changes from step to step, always at the same place in the device's memory."""

    def __init__(self, num_views: int, numbers: StepNumbers, device: torch.device) -> None:
        sizes = [8 * num_views, numbers.rates.nbytes, numbers.background.nbytes]
        self._bytes = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
        rows, rates, background = self._bytes.split(sizes)
        self.rows: Int[Tensor, " B"] = rows.view(torch.int64)
        self.numbers = StepNumbers(
            rates.view(torch.float32).view_as(numbers.rates), background.view(torch.float32)
        )

    def fill(self, drawn: list[int], numbers: StepNumbers) -> None:
        """One copy, for which the host does not wait."""
        parts = (torch.tensor(drawn), numbers.rates.flatten(), numbers.background)
        host = torch.cat([part.view(torch.uint8) for part in parts])
        if self._bytes.device.type == "cuda":
            host = host.pin_memory()  # freed memory is used again once the copy is done
        self._bytes.copy_(host, non_blocking=True)


class StaticStepper:
    """Runs steps from static buffers; on a GPU they are recorded and replayed.

    The first step of each mode runs from the host, exactly: it makes what is made once, and says
    how much room a recording needs. Where there is no GPU, "recorded" steps run from the host too,
    with the same buffers, room and guard.

    Args:
        least_room: list entries that a recorded step has room for at least.
        spare_room: room over the most entries seen, 1 or more.

    Attributes:
        num_frozen: how often steps had to be done again for want of room.
    """

    stride = LOOK_EVERY

    def __init__(
        self,
        state: TrainState,
        views: ViewSource,
        context: StepContext,
        *,
        least_room: int = LEAST_ROOM,
        spare_room: float = SPARE_ROOM,
    ) -> None:
        self._state, self._views, self._context = state, views, context
        self._names = [branch.name for branch in state.trained]
        self._device = state.result.device
        self._inputs = StaticInputs(
            len(self._names), StepNumbers.at(state.step, context), self._device
        )
        self._clean = torch.tensor([0, -1, 0, 0], dtype=torch.int32, device=self._device)
        self._guard = Guard(self._clean.clone(), torch.zeros_like(self._clean[:1]))
        self._least_room, self._spare_room = least_room, spare_room
        self._most_pairs, self.num_frozen = 0, 0
        self._known: set[StepMode] = set()
        self._recorded: dict[StepMode, Callable[[], StepStats]] = {}
        self._recorder = _Recorder(self._device)

    def advance(self, until: int) -> StepStats:
        """Do the steps; a frozen one and those after it are done again with more room."""
        state = self._state
        with self._recorder.stream():
            while True:
                stats = [self._launch(step) for step in range(state.step, until)][-1]
                self._look(until)
                if state.step == until:
                    break
        # On the stream that the state was made on: torch gives back memory that is dropped, also
        # while kernels of another stream still read it.
        if self._context.schedule.refines_at(until) and refine(state, self._context):
            self._forget()
        return stats

    def _launch(self, step: int) -> StepStats:
        mode = StepMode.at(step, self._state, self._context)
        numbers = StepNumbers.at(step, self._context)
        self._inputs.fill(self._views.draw(step, self._names), numbers)
        if mode not in self._known:
            self._known.add(mode)
            return self._run(mode, pair_capacity=None)
        if mode not in self._recorded:
            self._look_at_pairs()
            room = max(self._least_room, int(self._spare_room * self._most_pairs))
            self._recorded[mode] = self._recorder.record(partial(self._run, mode, room))
        return self._recorded[mode]()

    def _run(self, mode: StepMode, pair_capacity: int | None) -> StepStats:
        """One step on what lies in the static buffers."""
        owners = tuple(range(len(self._names)))
        views = self._views.banks[0].batch(self._inputs.rows, owners)
        numbers = self._inputs.numbers
        return train_step(
            self._state, [views], numbers, mode, self._context, self._guard, pair_capacity
        )

    def _look_at_pairs(self) -> list[int]:
        """Wait for the device and read the guard."""
        seen = self._guard.counters.tolist()
        self._most_pairs = max(self._most_pairs, seen[0])
        return seen

    def _look(self, until: int) -> None:
        """Count the steps that were done; where one was frozen, make room.

        Raises:
            UserError: a Gaussian is not finite.
            NonFiniteError: the loss is not, as with a colour that is not, which no render checks.
        """
        state = self._state
        _, bad_row, num_done, num_bad_losses = self._look_at_pairs()
        state.step += num_done
        self._guard.counters.copy_(self._clean)
        if bad_row >= 0:
            raise UserError(
                f"step {state.step}: row {bad_row} of the Gaussians is not finite; resume from the "
                "last checkpoint with a lower learning rate",
                ExitCode.NUMERICAL,
            )
        if num_bad_losses:
            raise NonFiniteError("the loss is not finite")
        if state.step < until:
            self.num_frozen += 1
            self._guard.frozen.zero_()
            self._recorded.clear()
            self._recorder.release()

    def _forget(self) -> None:
        """The rows are others now: what was recorded works on tensors that are gone."""
        self._known.clear()
        self._recorded.clear()
        self._recorder.release()


class _Recorder:
    """Records work into CUDA graphs that share their memory; on the CPU it only remembers it."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._is_cuda else None
        self._pool = torch.cuda.graph_pool_handle() if self._is_cuda else None

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Work inside runs on the stream that recordings are made and replayed on."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream()
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def record(self, work: Callable[[], StepStats]) -> Callable[[], StepStats]:
        """What does the work anew at each call; its result always lies at the same place."""
        if not self._is_cuda:
            return work
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            stats = work()

        def replay() -> StepStats:
            graph.replay()
            return stats

        return replay

    def release(self) -> None:
        """Give back the memory of recordings that nobody holds any more."""
        if self._is_cuda:
            self._pool = torch.cuda.graph_pool_handle()
            torch.cuda.synchronize()  # what is given back may be read by any stream until then
            torch.cuda.empty_cache()


def choose_stepper(
    state: TrainState, views: ViewSource, context: StepContext, messages: Messages
) -> Stepper:
    """Recorded steps where they are possible and wanted; says so where they are not."""
    if state.result.device.type != "cuda" or context.config.run.cuda_graphs == "off":
        return EagerStepper(state, views, context)
    if len(views.banks) > 1:
        messages.note(f"CUDA graphs: off, the photos have {len(views.banks)} sizes")
        return EagerStepper(state, views, context)
    if not views.banks[0].is_on_device:
        messages.note("CUDA graphs: off, the photos are kept in host memory (--data_device)")
        return EagerStepper(state, views, context)
    return StaticStepper(state, views, context)
