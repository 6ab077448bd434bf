"""Every scene with every method and seed: `python -m evaluation.sweep SCENE ... -o OUT`.

Words after a `--` are flags of train.py for every run. A cell that is finished is not run again, an
interrupted one goes on from its checkpoint. Ends in OUT/sweep.csv and OUT/sweep.md.
"""

import csv
import io
import json
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.cli import parse, parse_train, run_command
from arguments.config import Method
from arguments.messages import ExitCode, Messages, UserError
from evaluation.evaluate import METRICS, read_metrics
from evaluation.presets import benchmark_of, flags_of_benchmark, without_repeated
from evaluation.sweep_jobs import Cell, Outcome, Queue
from scene.atomic import write_atomic

RECORD = "sweep_cell.json"  # the flags that a cell was run with


@dataclass(frozen=True)
class SweepArguments:
    """What the command can be told."""

    scenes: tyro.conf.Positional[tuple[Path, ...]]
    """Scene folders; those of a benchmark bring its training flags along."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the runs, OUT/SCENE/METHOD/SEED, and of the table."""

    methods: tuple[Method, ...] = ("dual", "ema")
    """Ways of learning."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run for each."""

    checkpoint_every: int = 2000
    """Steps after which a run can go on when it is interrupted."""

    cluster: Literal["local", "slurm"] = "local"
    """local: on this machine; slurm: an array job, from a login node."""

    jobs: int = 1
    """Runs at the same time."""

    hours: float = 24.0
    """Time of one job; a run that needs more saves itself and is queued again."""

    partition: str | None = None
    """Of Slurm."""

    table: bool = False
    """Run nothing; write the table of what is there."""

    quiet: bool = False
    """Print warnings and errors only."""

    train: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Further flags of train.py for every run: what follows `--`."""

    def __post_init__(self) -> None:
        """Refuse what no sweep can be."""
        for name, values in (
            ("scenes", self.scenes),
            ("methods", self.methods),
            ("seeds", self.seeds),
        ):
            if not values:
                raise UserError(f"--{name} is empty; give one or more", ExitCode.USAGE)
            if len(set(values)) < len(values):
                raise UserError(f"--{name} names one twice: {values}", ExitCode.USAGE)
        names = [scene.resolve().name for scene in self.scenes]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"two scenes are called '{twice}'; sweep them apart", ExitCode.USAGE)
        if self.jobs < 1 or self.checkpoint_every < 1 or self.hours <= 0:
            raise UserError(
                "--jobs, --checkpoint_every and --hours must be positive", ExitCode.USAGE
            )

    def cells(self) -> list[Cell]:
        """Every run, scenes first.

        Raises:
            UserError: a scene is not there, or train.py would refuse the flags.
        """
        given = self.train
        cells = []
        for scene in (path.resolve() for path in self.scenes):
            if not scene.is_dir():
                raise UserError(f"scene '{scene}' not found; check the path")
            preset = flags_of_benchmark(benchmark_of(scene))
            every = ["--checkpoint_every", str(self.checkpoint_every)]
            flags = (*without_repeated((*preset, *every), given), *given)
            parse_train(["-s", str(scene), *flags])
            cells += [
                Cell(scene, method, seed, self.folder(scene, method, seed), flags)
                for method in self.methods
                for seed in self.seeds
            ]
        return cells

    def folder(self, scene: Path, method: str, seed: int) -> Path:
        """Where a run is."""
        return self.output.resolve() / scene.name / method / f"seed_{seed}"


@dataclass(frozen=True)
class Row:
    """A finished run in the CSV."""

    scene: str
    method: str
    seed: int
    psnr: float
    ssim: float
    lpips: float | None
    mask_iou: float | None
    num_views: int
    num_gaussians: int
    seconds: float | None
    device: str
    commit: str
    flags: str


def is_done(cell: Cell) -> bool:
    """Whether a cell has been measured with the same flags.

    Raises:
        UserError: its folder was run with other flags.
    """
    record = cell.folder / RECORD
    if record.is_file():
        before = json.loads(record.read_text("utf-8"))
        if before != list(cell.flags):
            raise UserError(
                f"'{cell.folder}' was run with '{shlex.join(map(str, before))}', now "
                f"'{shlex.join(cell.flags)}'; give another -o",
                ExitCode.USAGE,
            )
    return record.is_file() and (cell.folder / METRICS).is_file()


def sweep(arguments: SweepArguments, messages: Messages) -> list[str]:
    """Run what is not done and write the table; one line for each run that failed.

    Raises:
        UserError: a flag or a scene is wrong, or jobs cannot be started here.
    """
    cells = arguments.cells()
    waiting = [cell for cell in cells if not is_done(cell)]
    failures: list[str] = []

    def report(cell: Cell, outcome: Outcome) -> None:
        if outcome.code:
            failures.append(f"{cell.name} ended with {outcome.code}: {outcome.words}")
            messages.warn(failures[-1])
        else:
            messages.note(f"{cell.name}: {read_metrics(cell.folder).psnr:.2f} dB")

    messages.note(f"{len(cells)} runs, {len(cells) - len(waiting)} done already")
    if waiting and not arguments.table:
        for cell in waiting:
            cell.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(cell.folder / RECORD, json.dumps(cell.flags).encode())
        queue = Queue(arguments.cluster, arguments.jobs, arguments.hours, arguments.partition)
        queue.run(waiting, arguments.output.resolve() / "jobs", report)
    rows = [row_of(cell) for cell in cells if is_done(cell)]
    write_atomic(arguments.output / "sweep.csv", as_csv(rows).encode())
    write_atomic(arguments.output / "sweep.md", as_markdown(rows).encode())
    return failures


def row_of(cell: Cell) -> Row:
    """The numbers of a finished run."""
    measured = read_metrics(cell.folder)
    run = json.loads((cell.folder / "run.json").read_text("utf-8"))
    return Row(
        cell.scene.name,
        cell.method,
        cell.seed,
        measured.psnr,
        measured.ssim,
        measured.lpips,
        measured.mask_iou,
        measured.num_views,
        measured.num_gaussians,
        measured.seconds,
        str(run.get("device", "")),
        str(run.get("commit", "")),
        shlex.join(cell.flags),
    )


def as_csv(rows: Sequence[Row]) -> str:
    """A line a run."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """A line a scene and method: mean ± standard deviation over the seeds; then over scenes."""
    lines = [
        "| scene | method | PSNR, dB | SSIM | LPIPS | mask IoU | Gaussians | seconds | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for scene in dict.fromkeys(row.scene for row in rows):
        for method in dict.fromkeys(row.method for row in rows):
            mine = [row for row in rows if (row.scene, row.method) == (scene, method)]
            if mine:
                seeds = " ".join(str(row.seed) for row in mine)
                lines.append(f"| {scene} | {method} | {_numbers(mine)} | {seeds} |")
    if len({row.scene for row in rows}) > 1:
        for method in dict.fromkeys(row.method for row in rows):
            lines.append(f"| mean of scenes | {method} | {_numbers(_seed_means(rows, method))} | |")
    return "\n".join(lines) + "\n"


def _seed_means(rows: Sequence[Row], method: str) -> list[Row]:
    """For each seed that every scene has, the mean over scenes; their spread is that of a seed."""
    mine = [row for row in rows if row.method == method]
    scenes = {row.scene for row in mine}
    means = []
    for seed in dict.fromkeys(row.seed for row in mine):
        of_seed = [row for row in mine if row.seed == seed]
        if len(of_seed) < len(scenes):
            continue

        def mean(of: Callable[[Row], float | None], these: list[Row] = of_seed) -> float | None:
            values = [value for row in these if (value := of(row)) is not None]
            return statistics.mean(values) if len(values) == len(these) else None

        means.append(
            Row(
                "mean",
                method,
                seed,
                statistics.mean(row.psnr for row in of_seed),
                statistics.mean(row.ssim for row in of_seed),
                mean(lambda row: row.lpips),
                mean(lambda row: row.mask_iou),
                sum(row.num_views for row in of_seed),
                round(statistics.mean(row.num_gaussians for row in of_seed)),
                mean(lambda row: row.seconds),
                "",
                "",
                "",
            )
        )
    return means


def _numbers(rows: Sequence[Row]) -> str:
    columns = (
        _spread([row.psnr for row in rows], 2),
        _spread([row.ssim for row in rows], 4),
        _spread([row.lpips for row in rows], 4),
        _spread([row.mask_iou for row in rows], 3),
        _spread([float(row.num_gaussians) for row in rows], 0),
        _spread([row.seconds for row in rows], 0),
    )
    return " | ".join(columns)


def _spread(values: Sequence[float | None], digits: int) -> str:
    """Mean ± sample standard deviation; a dash where a value is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    text = f"{statistics.mean(known):.{digits}f}"
    return text if len(known) < 2 else f"{text} ± {statistics.stdev(known):.{digits}f}"


def parse_sweep(words: Sequence[str]) -> SweepArguments:
    """The command line; what follows `--` goes to train.py."""
    middle = words.index("--") if "--" in words else len(words)
    arguments = parse(
        SweepArguments,
        words[:middle],
        prog="python -m evaluation.sweep",
        description="Train and measure every scene with every method and seed. Flags of train.py "
        "for every run follow after --, as in: SCENE -o OUT -- -r 2 --iterations 7000",
    )
    return replace(arguments, train=tuple(words[middle + 1 :]))


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        """Parse, run, report."""
        arguments = parse_sweep(words)
        failures = sweep(arguments, Messages(quiet=arguments.quiet))
        print((arguments.output / "sweep.md").read_text("utf-8"))  # noqa: T201 - the result
        if failures:
            raise UserError(f"{len(failures)} runs failed, the first: {failures[0]}")

    run_command(command)
