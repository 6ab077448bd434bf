"""Cells of a sweep as jobs of submitit, on this machine or through Slurm.

A job that is stopped saves its run and is queued again by submitit; knows no metrics.
"""

import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import torch

from arguments.messages import ExitCode, UserError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a scene, a method and a seed.

    Attributes:
        folder: of the run.
        flags: of train.py beside scene, folder, method and seed.
    """

    scene: Path
    method: str
    seed: int
    folder: Path
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.scene.name} {self.method} seed {self.seed}"

    def commands(self) -> list[list[str]]:
        """Train (or go on), render the masks where there is a truth to compare with, measure."""
        train = ["train.py", "-s", str(self.scene), "-m", str(self.folder), "--quiet", "--eval"]
        train += ["--method", self.method, "--seed", str(self.seed), *self.flags]
        if (self.folder / "run.json").is_file():
            train.append("--resume")
        run = ["-m", str(self.folder), "--quiet"]
        masks = [["render.py", *run, "--skip_test"]] if self.has_true_masks else []
        return [train, *masks, ["evaluate.py", *run]]

    @property
    def has_true_masks(self) -> bool:
        """Whether the scene says what the distractors are."""
        return (self.scene / "gt_distractors").is_dir()


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: 0, or the exit code of the command that did not, and its last words."""

    code: int
    words: str = ""


@dataclass
class CellJob:
    """What submitit calls; picklable as long as nothing runs."""

    cell: Cell
    child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> Outcome:
        """Run the cell's commands one after the other; what they say goes to submitit's logs."""
        for command in self.cell.commands():
            self.child = subprocess.Popen([sys.executable, *command], cwd=ROOT)
            code = self.child.wait()
            self.child = None
            if code:
                return Outcome(code)
        return Outcome(0)

    def checkpoint(self) -> Any:
        """Let the run save itself, and ask submitit for another turn."""
        from submitit.helpers import DelayedSubmission  # optional

        if self.child is not None:
            # This runs inside of a signal handler, maybe while `wait` holds its lock.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.child.pid, signal.SIGTERM)
                os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(CellJob(self.cell))


@dataclass(frozen=True)
class Queue:
    """Where and how many jobs run.

    Attributes:
        jobs: at the same time; on this machine they share the GPUs in turn.
        hours: that one job may take before it is stopped, saved and queued again.
        partition: of Slurm.
    """

    cluster: Literal["local", "slurm"] = "local"
    jobs: int = 1
    hours: float = 24.0
    partition: str | None = None

    def run(
        self, cells: Sequence[Cell], logs: Path, report: Callable[[Cell, Outcome], None]
    ) -> None:
        """Run all cells; `report` hears of each as it ends.

        Raises:
            UserError: submitit is missing, or there is no Slurm.
        """
        if importlib.util.find_spec("submitit") is None:
            raise UserError("a sweep needs submitit; pip install submitit", ExitCode.ENVIRONMENT)
        logs.mkdir(parents=True, exist_ok=True)
        if self.cluster == "slurm":
            self._run_slurm(cells, logs, report)
        else:
            self._run_local(cells, logs, report)

    def _run_local(
        self, cells: Sequence[Cell], logs: Path, report: Callable[[Cell, Outcome], None]
    ) -> None:
        import submitit  # optional

        slots: SimpleQueue[int] = SimpleQueue()  # a slot is a place on one of the GPUs
        for slot in range(self.jobs):
            slots.put(slot)
        gpus = torch.cuda.device_count()

        def one(cell: Cell) -> tuple[Cell, Outcome]:
            slot = slots.get()
            executor = submitit.LocalExecutor(logs, python=_interpreter())
            executor.update_parameters(
                timeout_min=self.hours * 60,
                gpus_per_node=min(gpus, 1),
                visible_gpus=[slot % gpus] if gpus else (),
            )
            try:
                return cell, _outcome(executor.submit(CellJob(cell)))
            finally:
                slots.put(slot)

        with ThreadPoolExecutor(self.jobs) as pool:
            for cell, outcome in pool.map(one, cells):
                report(cell, outcome)

    def _run_slurm(
        self, cells: Sequence[Cell], logs: Path, report: Callable[[Cell, Outcome], None]
    ) -> None:
        import submitit  # optional

        try:
            executor = submitit.SlurmExecutor(logs, python=_interpreter())
        except RuntimeError as failure:
            raise UserError(
                f"--cluster slurm: {failure}; run on a login node or use --cluster local",
                ExitCode.ENVIRONMENT,
            ) from None
        wanted = {"partition": self.partition} if self.partition else {}
        executor.update_parameters(
            job_name="twinsplat",
            time=round(self.hours * 60),
            gpus_per_node=1,
            array_parallelism=self.jobs,
            **wanted,
        )
        with executor.batch():
            jobs = [executor.submit(CellJob(cell)) for cell in cells]
        for cell, job in zip(cells, jobs, strict=True):
            report(cell, _outcome(job))


def _outcome(job: Any) -> Outcome:
    """Wait for a job; a job that died without a word is an outcome too."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        done = job.result()
    except (FailedJobError, UncompletedJobError) as failure:
        done = Outcome(int(ExitCode.BUG), str(failure).strip().splitlines()[-1])
    if done.code and not done.words:
        lines = [line.strip() for line in (job.stderr() or "").splitlines() if line.strip()]
        return Outcome(done.code, f"{lines[-1] if lines else 'no word'} ({job.paths.stderr})")
    return done


def _interpreter() -> str:
    """This Python, with this checkout on its path, as a shell writes it."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return shlex.join(["env", f"PYTHONPATH={paths}", sys.executable])
