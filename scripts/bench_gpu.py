"""Times render, backward and training step on one GPU, ours beside gsplat, in one process.

    python scripts/bench_gpu.py --csv
    python scripts/bench_gpu.py --workloads garden:138766@1297x840 --generator FILE --profile

Each engine renders one camera from raw parameters with harmonics of degree 3. A `step` is render,
0.8 L1 + 0.2 (1 - SSIM), backward and Adam; gsplat runs its own rasterization and torch's fused Adam
with our loss. Times are medians in milliseconds of 30 calls after 6, each with the device idle
before and after: the host's gaps count. `eager` starts every kernel from the host and waits for the
device where it must; `graph` replays a CUDA graph of the same call, with room for 1.25 times the
pairs that an exact call has counted. Ratios say how many times faster than gsplat in the same run.

`floor` is what scripts/floor.py says could be reached with the Gaussians in view and the pairs of
this workload on this device, whose copy and product are timed first; `x floor` is the step over it.

The rows of `training` are steps of the project's own trainer: `dual` with two models of the first
workload that render both views of the step, `ema` with one and its average, both with masks.
"""

import csv
import datetime
import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arguments.config import Method  # noqa: E402
from scripts import workload  # noqa: E402
from scripts.engines import Engine, Gsplat, Ours  # noqa: E402
from scripts.floor import Size, Speed, floor, measure  # noqa: E402
from scripts.stopwatch import Share, clock, peak_mib, record, shares  # noqa: E402
from scripts.training_workload import make_stepper  # noqa: E402
from scripts.workload import Workload  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "bench_gpu.csv"
SPARE_ROOM = 1.25  # room for pairs over those counted
PROFILED_CALLS = 20
METHODS: tuple[Method, ...] = ("dual", "ema")


@dataclass(frozen=True)
class Options:
    """What is timed, and where the numbers go."""

    workloads: tuple[str, ...] = (
        "200000@504x378",
        "139000@1297x840",
        "1000000@1920x1080",
        "3000000@1920x1080",
    )
    """COUNT@WIDTHxHEIGHT, or SCENE:COUNT@WIDTHxHEIGHT for a generator of several scenes."""
    generator: Path | None = None
    """A Python file with `make(scene, count, width, height)`; scripts/workload.py otherwise."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu is for trying this command out."""
    repeats: int = 30
    """Calls whose median is taken."""
    warmups: int = 6
    """Untimed calls before."""
    training: bool = True
    """Time the trainer's steps on the first workload too."""
    profile: bool = False
    """Print which kernels a step of ours, and of the trainer, spends its time in."""
    commit: str | None = None
    """The commit that the table is filed under, where git cannot say it."""
    csv: bool = False
    """Append the table to docs/results/bench_gpu.csv."""


@dataclass(frozen=True)
class Row:
    """One line of the table; milliseconds, 0 where nothing was timed.

    Attributes:
        mode: eager or graph (static on the CPU), or why the engine is not timed.
        peak: MiB during a step.
        both_ratio: how many times faster than gsplat, forward and backward; 0 = not known.
    """

    scene: str
    count: int
    size: str
    engine: str
    mode: str
    forward: float = 0.0
    both: float = 0.0
    step: float = 0.0
    peak: float = 0.0
    visible: int = 0
    pairs: int = 0
    floor_forward: float = 0.0
    floor_both: float = 0.0
    floor_step: float = 0.0
    both_ratio: float = 0.0
    step_ratio: float = 0.0

    @property
    def times_floor(self) -> float:
        """How many times the floor a step takes."""
        return self.step / self.floor_step if self.floor_step else 0.0


def load(text: str, generator: Path | None) -> tuple[str, Workload]:
    """A workload and its scene's name from `[SCENE:]COUNT@WIDTHxHEIGHT`.

    Raises:
        ValueError: the text has another form.
    """
    scene, _, rest = text.rpartition(":")
    scene = scene or "synthetic"
    try:
        count, size = rest.split("@")
        width, height = (int(side) for side in size.split("x"))
        number = int(count)
    except ValueError as error:
        raise ValueError(f"{text!r} is not [SCENE:]COUNT@WIDTHxHEIGHT") from error
    if generator is None:
        return scene, workload.make(number, width, height)
    return scene, workload.from_generator(generator, scene, number, width, height)


def _recorded(device: torch.device) -> str:
    """What a recording is called: on the CPU it only makes its room beforehand."""
    return "graph" if device.type == "cuda" else "static"


def _timed(row: Row, engine: Engine, options: Options, *, recorded: bool) -> Row:
    """The row with the engine's times; a recording is dropped before the next is made."""
    device = engine.device

    def once(work: Callable[[], None]) -> float:
        call = record(work, device) if recorded else work
        return clock(call, device, options.repeats, options.warmups)

    forward, both = once(engine.forward), once(engine.both)
    gc.collect()
    peak = peak_mib(engine.step, device)
    return replace(row, forward=forward, both=both, step=once(engine.step), peak=peak)


def engine_rows(scene: str, work: Workload, speed: Speed, options: Options) -> list[Row]:
    """Ours from the host, ours replayed, and gsplat on one workload.

    Raises:
        RuntimeError: a replayed step needed more room for its lists than it had.
    """
    device = torch.device(options.device)
    plain = Row(scene, len(work.means), f"{work.width}x{work.height}", "ours", "eager")
    ours = Ours(work, device)
    counts = ours.counts()
    size = Size(len(work.means), counts.visible, counts.pairs, work.width * work.height)
    least = floor(size, speed)
    plain = replace(
        plain,
        visible=counts.visible,
        pairs=counts.pairs,
        floor_forward=least.forward,
        floor_both=least.both,
        floor_step=least.step,
    )
    rows = [_timed(plain, ours, options, recorded=False)]
    del ours
    room = int(SPARE_ROOM * counts.pairs) + 1
    static = Ours(work, device, room)
    rows.append(_timed(replace(plain, mode=_recorded(device)), static, options, recorded=True))
    if static.counts().pairs > room:
        raise RuntimeError(
            f"{static.counts().pairs} pairs outgrew the room for {room}: timed in vain"
        )
    del static
    if reason := Gsplat.missing(device):
        rows.append(replace(plain, engine="gsplat", mode=reason))
        return rows
    theirs = replace(plain, engine="gsplat")
    rows.append(_timed(theirs, Gsplat(work, device), options, recorded=False))
    return [
        replace(row, both_ratio=rows[-1].both / row.both, step_ratio=rows[-1].step / row.step)
        for row in rows
    ]


def training(
    work: Workload, method: Method, device: torch.device, *, recorded: bool
) -> tuple[Callable[[], None], int]:
    """What does the trainer's next steps at each call, and how many those are."""
    stepper, done = make_stepper(work, method, device, recorded=recorded)

    def advance() -> None:
        nonlocal done
        done += stepper.stride
        stepper.advance(done)

    return advance, stepper.stride


def training_rows(scene: str, work: Workload, options: Options) -> list[Row]:
    """Steps of the trainer, from the host and replayed; the floor is left to the reader."""
    device = torch.device(options.device)
    plain = Row(scene, len(work.means), f"{work.width}x{work.height}", "training", "")
    rows = []
    for method in METHODS:
        for recorded in (False, True):
            gc.collect()
            advance, stride = training(work, method, device, recorded=recorded)
            step = clock(advance, device, options.repeats, options.warmups) / stride
            mode = f"{method} {_recorded(device) if recorded else 'eager'}"
            rows.append(replace(plain, mode=mode, step=step, peak=peak_mib(advance, device)))
    return rows


def profiled(work: Workload, options: Options) -> list[Share]:
    """The kernels of a replayed step of ours."""
    device = torch.device(options.device)
    room = int(SPARE_ROOM * Ours(work, device).counts().pairs) + 1
    return shares(record(Ours(work, device, room).step, device), device, PROFILED_CALLS)


def profiled_training(work: Workload, method: Method, options: Options) -> list[Share]:
    """The kernels of a replayed step of the trainer."""
    device = torch.device(options.device)
    advance, stride = training(work, method, device, recorded=True)
    advance()  # the first of its steps run from the host
    return [
        replace(share, microseconds=share.microseconds / stride, launches=share.launches / stride)
        for share in shares(advance, device, PROFILED_CALLS)
    ]


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [
        f"{'scene':<11}{'Gaussians':>10}{'size':>11}  {'engine':<9}{'mode':<19}{'fwd':>8}"
        f"{'fwd+bwd':>9}{'step':>8}{'MiB':>7}{'f+b':>7}{'step':>7}{'visible':>10}{'pairs':>11}{'floor':>8}"
        f"{'x floor':>9}"
    ]
    for row in rows:

        def shown(value: float, digits: int, unit: str = "") -> str:
            return f"{value:.{digits}f}{unit}" if value else ""

        lines.append(
            f"{row.scene:<11}{row.count:>10,}{row.size:>11}  {row.engine:<9}{row.mode:<19}"
            f"{shown(row.forward, 3):>8}{shown(row.both, 3):>9}{shown(row.step, 3):>8}"
            f"{shown(row.peak, 0):>7}{shown(row.both_ratio, 2, 'x'):>7}"
            f"{shown(row.step_ratio, 2, 'x'):>7}{row.visible or '':>10}{row.pairs or '':>11}"
            f"{shown(row.floor_step, 3):>8}{shown(row.times_floor, 1, 'x'):>9}"
        )
    return "\n".join(line.rstrip() for line in lines)


def kernels(found: list[Share]) -> str:
    """The shares as text, those under a thousandth left out."""
    total = sum(share.microseconds for share in found)
    lines = [f"{'share':>6}{'us/step':>10}{'launches':>10}  kernel ({total:.0f} us in all)"]
    for share in found:
        if share.microseconds > 1e-3 * total:
            part, each = share.microseconds / total, share.microseconds
            lines.append(f"{part:>6.1%}{each:>10.1f}{share.launches:>10.1f}  {share.name[:120]}")
    return "\n".join(lines)


def write_csv(path: Path, rows: list[Row], context: dict[str, str]) -> None:
    """Appends the table with where, when and from what it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f.name for f in fields(Row)]
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*names, *context])
        if is_new:
            writer.writeheader()
        for row in rows:
            values = {n: f"{v:.4f}" if isinstance(v, float) else v for n, v in asdict(row).items()}
            writer.writerow({**values, **context})


def context_of(options: Options, speed: Speed) -> dict[str, str]:
    """What the numbers depend on beside the code."""
    on_gpu = options.device == "cuda"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": options.commit or done.stdout.strip() or "unknown",
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "copy_tb_s": f"{speed.bandwidth / 1e12:.3f}",
        "product_tera_s": f"{speed.instructions / 1e12:.3f}",
    }


def run(options: Options) -> list[Row]:
    """Times everything, printing as it goes."""
    speed = measure(torch.device(options.device))
    context = context_of(options, speed)
    print(", ".join(f"{name} {value}" for name, value in context.items()), flush=True)
    rows: list[Row] = []
    for number, text in enumerate(options.workloads):
        scene, work = load(text, options.generator)
        found = engine_rows(scene, work, speed, options)
        if options.training and number == 0:
            found += training_rows(scene, work, options)
        print(table(found), flush=True)
        if options.profile:
            print(kernels(profiled(work, options)), flush=True)
        if options.profile and options.training and number == 0:
            for method in METHODS:
                print(f"{method}, a step\n{kernels(profiled_training(work, method, options))}")
        if options.csv:  # at once, so that a run that is cut short keeps what it has measured
            write_csv(RESULTS, found, context)
        rows += found
    return rows


def main() -> None:
    """Times what the command line asks for."""
    run(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
