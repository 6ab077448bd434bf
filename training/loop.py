"""The loop: step, save, report; it decides when, functions elsewhere decide what."""

import math
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from arguments.config import TrainConfig
from arguments.messages import Messages, UserError
from arguments.progress import progress_bar
from arguments.signals import STOP_SIGNALS, Stopped, StopRequest, stop_requests
from scene.gaussians import Gaussians
from training import checkpoint
from training.graph import choose_stepper
from training.health import Health, Trouble, diagnose, find_bad
from training.memory import peak_bytes
from training.photos import ViewSource
from training.recovery import Recovery, slowed
from training.run_folder import RunRecord, export
from training.setup import Parts
from training.step import StepStats

REPORT_EVERY = 20  # steps between two looks at the loss, each of which waits for the device
LOOK_WHOLE_EVERY = 500  # steps between two looks at every number, a multiple of the former


@dataclass(frozen=True)
class Progress:
    """What one look at the run shows."""

    step: int
    loss: float
    psnr: float
    num_gaussians: int
    masked: float
    terms: dict[str, float]

    @classmethod
    def of(cls, step: int, stats: StepStats, num_gaussians: int) -> "Progress":
        """Read the scalars of a step; this waits for the device, once."""
        scalars = [stats.loss, stats.squared_error, stats.trusted, *(t.value for t in stats.terms)]
        loss, error, trusted, *terms = torch.stack(scalars).tolist()
        return cls(
            step=step,
            loss=loss,
            psnr=-10 * math.log10(max(error, 1e-10)),
            num_gaussians=num_gaussians,
            masked=1 - trusted,
            terms={term.name: value for term, value in zip(stats.terms, terms, strict=True)},
        )


@dataclass(frozen=True)
class Hooks:
    """What the loop calls on the way.

    Attributes:
        progress: told every REPORT_EVERY steps.
        measure: PSNR of the test views in dB, for `test_iterations`.
    """

    progress: Callable[[Progress], None]
    measure: Callable[[Gaussians], float]


@dataclass
class Run:
    """A run in progress: what it works on and what it has to say.

    Attributes:
        saved_at: when a checkpoint was last written or tried, seconds of the monotonic clock.
    """

    config: TrainConfig
    parts: Parts
    views: ViewSource
    record: RunRecord
    messages: Messages
    hooks: Hooks
    saved_at: float = field(default_factory=time.monotonic, init=False)

    @property
    def model_path(self) -> Path:
        """The folder of the run."""
        return self.config.model.model_path

    def train(self) -> None:
        """Train to the last step, saving on the way.

        Raises:
            Stopped: a signal arrived; the step was finished and saved.
            UserError: numbers or memory fail again and again.
        """
        state, last = self.parts.state, self.config.run.iterations
        if not checkpoint.exists(self.model_path):
            self.save()  # there is always something to go back to
        bar = progress_bar(
            total=last, initial=state.step, disable=self.config.run.quiet, unit="it", smoothing=0.05
        )
        saying = self.messages.through(lambda line: bar.write(line, file=sys.stderr))
        with bar, saying, stop_requests() as request:
            while state.step < last:
                trouble = self._train_while_well(last, bar, request)
                if trouble is not None:
                    recovery = Recovery(self.parts, self.views, self.record, self.messages)
                    self.config = recovery.go_back(trouble, self.config)
                    bar.n = state.step

    def _train_while_well(self, last: int, bar: tqdm, request: StopRequest) -> Trouble | None:
        """Train until the end, or until a step fails that an older state may not fail at.

        What a failed step held in memory is free once this returns.
        """
        state, context = self.parts.state, slowed(self.parts.context, self.record.rollbacks)
        stepper = choose_stepper(state, self.views, context, self.messages)
        health = Health(state, self.record.max_gaussians, self.messages)
        while state.step < last:
            began, first = time.perf_counter(), state.step
            try:
                stats = stepper.advance(self._next_stop(stepper.stride))
                reports = state.step % REPORT_EVERY == 0 or state.step == last
                saves = self._is_save_due()
                is_wanted = saves or request.number is not None or state.step == last
                is_known_good = is_wanted or state.step % LOOK_WHOLE_EVERY == 0
                if is_known_good:
                    health.of_all(stats)
                elif reports or state.result.device.type == "cpu":
                    health.after_step(stats)
            except Exception as failure:
                trouble = diagnose(failure, state)
                if trouble is None:
                    raise
                return trouble
            if reports:
                self._report(stats, health, bar)
            self.record.seconds += time.perf_counter() - began
            bar.update(state.step - first)
            if saves:
                self._save_if_possible()
            self._write_when_due(bar)
            if request.number is not None and (is_known_good or find_bad(state) is None):
                raise self._stop(request.number)
        return None

    def _next_stop(self, stride: int) -> int:
        """How far steps may run before the host has something to do."""
        step = self.parts.state.step
        return next(
            s for s in range(step + 1, step + stride + 1) if s == step + stride or self._stops_at(s)
        )

    def _stops_at(self, step: int) -> bool:
        run = self.config.run
        return (
            step in (run.iterations, *run.save_iterations, *run.test_iterations)
            or step % REPORT_EVERY == 0
            or self._saves_at(step)
            or self.parts.context.schedule.refines_at(step)
        )

    def _saves_at(self, step: int) -> bool:
        run = self.config.run
        every = run.checkpoint_every
        return bool(every and step % every == 0) or step in run.checkpoint_iterations

    def _report(self, stats: StepStats, health: Health, bar: tqdm) -> None:
        state = self.parts.state
        seen = Progress.of(state.step, stats, len(state.result))
        try:
            health.at_report()
        except UserError:
            self.save()
            raise
        bar.set_postfix_str(
            f"loss {seen.loss:.4f}, PSNR {seen.psnr:.1f}, {seen.num_gaussians} Gaussians, "
            f"masked {seen.masked:.0%}",
            refresh=False,
        )
        self.hooks.progress(seen)

    def _is_save_due(self) -> bool:
        waited = time.monotonic() - self.saved_at
        is_long_ago = waited >= (60 * self.config.run.checkpoint_minutes or math.inf)
        return is_long_ago or self._saves_at(self.parts.state.step)

    def _write_when_due(self, bar: tqdm) -> None:
        """The model, and how good it is, where the user asked for them."""
        step, run = self.parts.state.step, self.config.run
        if step in run.save_iterations and step != run.iterations:
            export(self.model_path, self.parts.written, step)
        if step in run.test_iterations:
            bar.write(
                f"step {step}: test PSNR {self.hooks.measure(self.parts.state.result):.2f} dB",
                file=sys.stderr,
            )

    def _save_if_possible(self) -> None:
        """Save; where the disk refuses, say so and go on until the next time."""
        try:
            self.save()
        except OSError as failure:
            free = shutil.disk_usage(self.model_path.parent).free
            self.messages.warn(
                f"checkpoint {self.parts.state.step} not saved: {failure.strerror} "
                f"({free / 1e6:.0f} MB free); keeping the one before"
            )

    def _stop(self, number: int) -> Stopped:
        path = self.save()
        return Stopped(
            f"stopped at step {self.parts.state.step}, saved {path}; go on with --resume",
            STOP_SIGNALS[signal.Signals(number)],
        )

    def save(self) -> Path:
        """Write a checkpoint and the record of the run."""
        self.saved_at = time.monotonic()
        path = checkpoint.save(
            self.model_path,
            self.parts.state,
            self.config,
            self.record.dataset,
            self.record.seconds,
            self.record.rollbacks,
        )
        self.note_progress()
        return path

    def finish(self) -> None:
        """Write the last checkpoint and the models of the branches."""
        state = self.parts.state
        self.save()
        path = export(self.model_path, self.parts.written, state.step)
        self.messages.note(
            f"done in {self.record.seconds:.0f} s: {len(state.result)} Gaussians in {path}"
        )

    def note_progress(self) -> None:
        """Bring run.json up to the present step."""
        state = self.parts.state
        self.record.step, self.record.num_gaussians = state.step, len(state.result)
        self.record.num_degenerate = sum(branch.pruned.degenerate for branch in state.trained)
        self.record.peak_bytes = max(self.record.peak_bytes, peak_bytes(state.result.device))
        self.record.write(self.model_path, self.messages)
