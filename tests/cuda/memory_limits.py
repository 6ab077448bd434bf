"""Runs with less of the GPU than they want, by command: python -m tests.cuda.memory_limits.

Each run may take a random share of what an unlimited one takes, so that the allocation that fails
is another each time: of the state, of a step, of its recording, of growth, of the way back.
"""

import argparse
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from arguments.messages import MAX_LINE, ExitCode, UserError
from scene.ply import read_ply
from scene.synthetic import CaptureSize, make_capture
from tests.faults.kills import METHODS, write_table
from tests.faults.server import Commands, Outcome
from training import checkpoint
from training.run_folder import RunRecord, read_record

DEVICE = "cuda"
STEPS = 30
# At step 10 every Gaussian that a photo shows becomes two. The 3D filter is off, since it takes
# much at a time from outside of the recorded steps.
DOUBLING = (
    *("--max_gaussians", "1000000"),
    *("--densify_grad_threshold", "1e-12", "--densify_from_iter", "2", "--densify_until_iter"),
    *("15", "--densification_interval", "10", "--prune_opacity", "1e-6"),
)


def make_large_scene(folder: Path) -> Path:
    """A capture with some 140,000 points, so that Gaussians take more memory than all else."""
    make_capture(folder, CaptureSize(12, 2, 192, 144, points=200_000, texels_per_metre=60))
    return folder


class Grower:
    """Runs that want to double 140,000 Gaussians, with as much of the GPU as they are told.

    Attributes:
        peaks: the most memory that a run takes that may not grow, and one that may.
        count: Gaussians before they double.
    """

    def __init__(
        self, scene: Path, folder: Path, commands: Commands, method: str = "single"
    ) -> None:
        self._scene, self._folder, self.method = scene, folder, method
        self.commands = commands
        self.peaks = []
        for name, extra in (("still", ("--densify_until_iter", "0")), ("doubled", DOUBLING)):
            ended = self.run(name, None, *extra)
            assert ended.code == 0, ended.stderr
            self.peaks.append(self.record(name).peak_bytes)
        self.count = self.record("still").num_gaussians
        assert self.record("doubled").num_gaussians > 1.5 * self.count

    def run(
        self, name: str, gpu_memory: int | None, *extra: str, commands: Commands | None = None
    ) -> Outcome:
        """A short run."""
        return (commands or self.commands).run(
            *("train", "-s", str(self._scene), "-m", str(self.out(name)), "--device", DEVICE),
            *("--method", self.method, "--iterations", str(STEPS), "--quiet"),
            *("--filter", "classic", *extra),
            gpu_memory=gpu_memory,
        )

    def out(self, name: str) -> Path:
        """The folder of a run."""
        return self._folder / name

    def record(self, name: str) -> RunRecord:
        """Its run.json."""
        found = read_record(self.out(name))
        assert found is not None
        return found

    def models(self, name: str) -> list[Path]:
        """Its models under their final names."""
        return list(self.out(name).glob("point_cloud/*/point_cloud.ply"))


@dataclass(frozen=True)
class Trial:
    """A run with little memory.

    Attributes:
        share: of what the unlimited run took at most.
        step: that run.json gives.
        wrong: what the run broke of its promises; empty where it kept them.
    """

    method: str
    share: float
    code: int
    step: int
    backoffs: int
    said: str
    wrong: str


def broken_promise(grower: Grower, name: str, ended: Outcome) -> str:
    """What is wrong about how a run ended; empty where nothing is."""
    record, models = grower.record(name), grower.models(name)
    if "Traceback" in ended.stderr:
        return "a traceback"
    if ended.code == 0:
        if (record.status, record.step) != ("finished", STEPS) or not models:
            return f"exit 0 with {record.status} at step {record.step}, {len(models)} models"
        try:
            counts = [len(read_ply(model).means) for model in models]
        except UserError as error:
            return str(error)
        return "" if record.num_gaussians in counts else f"models of {counts} Gaussians"
    if ended.code != ExitCode.MEMORY:
        return f"exit {ended.code}"
    if (record.status, record.code) != ("failed", ExitCode.MEMORY) or models:
        return f"{record.status} with {record.code}, {len(models)} models"
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or len(lines[0]) > len("error: ") + MAX_LINE:
        return f"{len(lines)} error lines"
    try:
        for path in grower.out(name).glob(f"{checkpoint.FOLDER}/*{checkpoint.SUFFIX}"):
            checkpoint.verify(path)
    except UserError as error:
        return str(error)
    return ""


def trials(folder: Path, num_runs: int, seed: int, jobs: int) -> list[Trial]:
    """That many runs, of each method in turn, some at a time."""
    rng = random.Random(seed)
    scene = make_large_scene(folder / "scene")
    shares = [rng.uniform(0.2, 1.1) for _ in range(num_runs)]
    with ExitStack() as stack:
        servers = [stack.enter_context(Commands(folder / f"commands{i}")) for i in range(jobs)]
        growers = [Grower(scene, folder / method, servers[0], method) for method in METHODS]

        def work(which: int) -> list[Trial]:
            numbers = range(num_runs)[which::jobs]
            return [
                trial(growers[n % len(growers)], f"run{n}", shares[n], servers[which])
                for n in numbers
            ]

        with ThreadPoolExecutor(jobs) as pool:
            return [done for share in pool.map(work, range(jobs)) for done in share]


def trial(grower: Grower, name: str, share: float, commands: Commands) -> Trial:
    """One run that may take this share of what the unlimited one took."""
    ended = grower.run(name, int(share * grower.peaks[1]), *DOUBLING, commands=commands)
    record, said = grower.record(name), ended.error or ended.stderr.partition("\n")[0]
    return Trial(
        *(grower.method, round(share, 3), ended.code, record.step, record.backoffs, said),
        broken_promise(grower, name, ended),
    )


def main() -> int:
    """Run, print how the runs ended, and say how many broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = trials(Path(folder), told.runs, told.seed, told.jobs)
    if told.out:
        write_table(told.out, done)
    bad = [trial for trial in done if trial.wrong]
    for trial in bad:
        sys.stdout.write(f"{trial}\n")
    whole = [trial for trial in done if trial.code == 0]
    lowered = sum(trial.backoffs > 0 for trial in whole)
    sys.stdout.write(
        f"{len(done)} runs: {len(whole)} finished, {lowered} of them with a lower cap, "
        f"{len(done) - len(whole)} ended with {int(ExitCode.MEMORY)}; {len(bad)} broke a promise\n"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
