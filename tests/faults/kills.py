"""Kill runs at random moments and inside checkpoint writes, continue them, and compare every byte.

Each part of a run has one or two threads, by chance.

    python -m tests.faults.kills --kills 200 --inside 60 [--seed 0] [--device cuda] [--out FILE]

The oracle is the uninterrupted run of the same command. After every kill each file under a final
name must be whole.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from arguments.messages import Messages, UserError
from masks.proposals import ProposalSettings, propose
from scene.capture import CaptureSettings, load_capture
from scene.ply import read_ply
from scene.synthetic import PRESETS, make_capture
from tests.faults.server import ALL, Commands, Fault
from training import checkpoint

LAST = 60
METHODS = ("dual", "ema", "single")
# Growth, opacity resets and harmonics all happen several times between two checkpoints.
SETTINGS = (
    *("--iterations", str(LAST), "--checkpoint_every", "7", "--quiet"),
    *("--densify_from_iter", "4", "--densification_interval", "5", "--densify_until_iter", "50"),
    *("--densify_grad_threshold", "1e-5", "--opacity_reset_interval", "16", "--sh_interval", "9"),
    *("--agreement_from_iter", "10", "--mask_from_iter", "5", "--save_iterations", "20", "40"),
)
MOST_ATTEMPTS = 12


@dataclass(frozen=True)
class Trial:
    """One killed and continued run.

    Attributes:
        kills: how often it was killed.
        inside: how many of the kills hit an operation on a checkpoint's files; the others came at a
            random time.
        differs: the first file that is not the uninterrupted run's, empty where all are.
        broken: files under a final name that were not whole after a kill.
    """

    method: str
    kills: int
    inside: int
    differs: str
    broken: str


def broken_files(out: Path) -> list[str]:
    """Every file under a final name that is not whole."""
    found = []
    for path in sorted(out.rglob("*")):
        checks: dict[str, Callable[[Path], object]] = {
            ".json": lambda p: json.loads(p.read_text("utf-8")),
            ".ply": read_ply,
        }
        try:
            if path.suffix in checks:
                checks[path.suffix](path)
            if path.suffix == ".safetensors" and path.with_suffix(".json").is_file():
                checkpoint.verify(path)
        except (UserError, ValueError) as damage:
            found.append(f"{path.name}: {damage}")
    return found


def first_difference(expected: Path, out: Path) -> str:
    """The first result that differs between two runs; empty where none does."""
    names = [f"checkpoints/step_{LAST:06d}.safetensors"]
    names += [f"point_cloud/iteration_{step}/point_cloud.ply" for step in (20, 40, LAST)]
    for name in names:
        if (
            not (out / name).is_file()
            or (expected / name).read_bytes() != (out / name).read_bytes()
        ):
            return name
    record = json.loads((out / "run.json").read_text())
    ending = (record["status"], record["step"], record["code"])
    return "" if ending == ("finished", LAST, 0) else f"run.json: {ending}"


class Harness:
    """Uninterrupted runs of every method, and what it takes to kill others like them.

    Attributes:
        device: that runs are made on, cpu or cuda.
        straight: the folder of the uninterrupted run of each method.
    """

    def __init__(self, folder: Path, commands: Commands, device: str = "cpu") -> None:
        self.folder, self.commands, self.device = folder, commands, device
        self.scene = folder / "scene"
        make_capture(self.scene, PRESETS["tiny"], seed=0)
        self.candidates = folder / "candidates"
        quiet = Messages(quiet=True)
        capture = load_capture(CaptureSettings(self.scene), quiet)
        propose(capture, self.candidates, ProposalSettings(), quiet)
        self.straight = {method: folder / f"straight-{method}" for method in METHODS}
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        for method, out in self.straight.items():
            ended = commands.run(
                *self.command(out, method), fault=Fault(str(out / checkpoint.FOLDER))
            )
            if ended.code != 0:
                raise RuntimeError(ended.stderr)
            self.seconds[method], self.operations[method] = ended.seconds, ended.operations

    def command(self, out: Path, method: str) -> tuple[str, ...]:
        """The command line of a run."""
        return (
            *("train", "-s", str(self.scene), "-m", str(out), "--method", method),
            *("--candidates", str(self.candidates), "--device", self.device, *SETTINGS),
        )

    def trial(self, method: str, num_kills: int, inside: int, rng: random.Random) -> Trial:
        """Kill a run `num_kills` times, `inside` of them in a file operation; then let it end."""
        out = self.folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        words = self.command(out, method)
        kinds = [True] * inside + [False] * (num_kills - inside)
        rng.shuffle(kinds)
        killed = hit = 0
        broken: list[str] = []
        for attempt in range(MOST_ATTEMPTS):
            is_inside = kinds[killed] if killed < num_kills else None
            resume = ("--resume",) if attempt else ()
            ended = self.commands.run(
                *words,
                *resume,
                threads=rng.choice((1, 2)),
                fault=self._operation(out, method, rng) if is_inside else None,
                meanwhile=self._timer(method, rng) if is_inside is False else lambda pid: None,
            )
            if ended.code == 0:
                break
            if ended.code != -signal.SIGKILL:
                return Trial(method, killed, hit, f"exit {ended.code}: {ended.error}", "")
            killed, hit = killed + 1, hit + bool(is_inside)
            broken += broken_files(out)
        return Trial(
            method,
            killed,
            hit,
            first_difference(self.straight[method], out),
            "; ".join(broken),
        )

    def _operation(self, out: Path, method: str, rng: random.Random) -> Fault:
        nth = rng.randint(1, self.operations[method])
        return Fault(str(out / checkpoint.FOLDER), nth, int(ALL))

    def _timer(self, method: str, rng: random.Random) -> Callable[[int], None]:
        delay = rng.uniform(0, self.seconds[method])

        def kill(pid: int) -> None:
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        return lambda pid: threading.Thread(target=kill, args=(pid,), daemon=True).start()


def trials(
    folder: Path, num_kills: int, num_inside: int, seed: int, device: str = "cpu"
) -> Iterator[Trial]:
    """Trials until that many kills have hit; now and then a run is killed twice."""
    rng = random.Random(seed)
    with Commands(folder / "commands") as commands:
        harness = Harness(folder, commands, device)
        killed = hit = number = 0
        while killed < num_kills:
            together = 2 if number % 5 == 4 and num_kills - killed > 1 else 1
            wanted = min(together, max(num_inside - hit, 0)) if number % 2 == 0 else 0
            if num_kills - killed <= num_inside - hit:
                wanted = together
            trial = harness.trial(METHODS[number % 3], together, wanted, rng)
            killed, hit, number = killed + trial.kills, hit + trial.inside, number + 1
            yield trial


def write_table(path: Path, trials: Sequence[Any]) -> None:
    """A CSV with a row for each trial, all of one dataclass."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(trials[0])])
        table.writeheader()
        table.writerows(asdict(trial) for trial in trials)


def main() -> int:
    """Kill, print one line a trial, and say how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--inside", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        done = list(trials(Path(folder), told.kills, told.inside, told.seed, told.device))
    if told.out:
        write_table(told.out, done)
    bad = [trial for trial in done if trial.differs or trial.broken]
    for trial in bad:
        sys.stdout.write(f"{trial}\n")
    sys.stdout.write(
        f"{sum(t.kills for t in done)} kills in {len(done)} runs, {sum(t.inside for t in done)} "
        f"of them inside checkpoint writes: {len(bad)} runs differ or left a broken file\n"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
