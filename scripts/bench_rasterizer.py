"""Times our CPU operators against plain PyTorch and prints a table.

    python scripts/bench_rasterizer.py --isas avx512 avx2 --csv

Every instruction set runs in a process of its own. Times are medians in milliseconds of wall time
over the quiet calls: those during which other processes used less than 0.15 of a core, or all
calls where none was quiet. `cpu` is the processor time of all threads, which a busy machine
disturbs less: divided by the threads it is what the wall time could be on an idle one.
"""

import csv
import datetime
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import torch
import tyro
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from diff_gaussian_rasterization import (  # noqa: E402
    activate,
    adam_step_,
    instruction_set,
    photometric_loss,
    rasterization,
)

from gaussian_renderer import reference  # noqa: E402
from scripts import torch_tiles, workload  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "bench_rasterizer.csv"
GIVE_UP_AFTER = 20.0  # seconds that one number may take
MAX_FOREIGN = 0.15  # cores that others may use during a quiet call


@dataclass(frozen=True)
class Options:
    """What is timed, and where the numbers go."""

    counts: tuple[int, ...] = (50_000, 200_000)
    """Numbers of Gaussians."""
    sizes: tuple[str, ...] = ("400x300", "800x600")
    """Image sizes, WIDTHxHEIGHT."""
    degrees: tuple[int, ...] = (3,)
    """Degrees of the spherical harmonics."""
    isas: tuple[str, ...] = ("",)
    """Instruction sets (avx512, avx2, sse42, generic); empty: the best of this machine."""
    threads: int = 2
    """Threads of our operators."""
    torch_threads: int = 1
    """Threads of the PyTorch baselines: on small tiles a second one costs more than it gives."""
    repeats: int = 9
    """Quiet calls to wait for, after one untimed call; at most three times as many are made."""
    baselines: bool = True
    """Time the PyTorch tile renderer, loss and optimizers too (slow)."""
    generator: Path | None = None
    """A Python file with `make(scene, count, width, height)`; ours otherwise."""
    scene: str = "synthetic"
    """The scene that `generator` is asked for."""
    workload: Path | None = None
    """An .npz file with one workload; it sets count and size."""
    csv: bool = False
    """Append the table to docs/results/bench_rasterizer.csv."""


@dataclass(frozen=True)
class Row:
    """One line of the table; times in milliseconds, 0 where nothing was timed.

    Attributes:
        cpu: processor time of forward and backward, all threads.
        quiet: how many calls of forward and backward were quiet.
    """

    op: str
    count: int
    size: str
    sh: int
    isa: str
    threads: int
    forward: float
    both: float
    cpu: float
    quiet: int
    torch_forward: float = 0.0
    torch_both: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times faster than PyTorch, forward and backward."""
        return self.torch_both / self.both if self.both else 0.0


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds, and how many of the calls were quiet."""

    wall: float = 0.0
    cpu: float = 0.0
    quiet: int = 0


def _busy_seconds() -> float:
    """Processor time of the whole machine since it started; 0 where it cannot be read."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system, _, _, *others = stat.read_text().split("\n", 1)[0].split()[1:9]
    ticks = sum(int(part) for part in (user, nice, system, *others))
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Call:
    wall: float
    cpu: float
    foreign: float


def _timed(call: Callable[[], object]) -> _Call:
    busy, cpu, wall = _busy_seconds(), time.process_time(), time.perf_counter()
    call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return _Call(1e3 * wall, 1e3 * cpu, (_busy_seconds() - busy - cpu) / wall)


def clock(call: Callable[[], object], repeats: int) -> Timing:
    """Times `call` after one untimed call, until `repeats` of them were quiet or time is up."""
    call()
    calls: list[_Call] = []
    start = time.perf_counter()
    while len(calls) < 2 or (
        sum(c.foreign < MAX_FOREIGN for c in calls) < repeats
        and len(calls) < 3 * repeats
        and time.perf_counter() - start < GIVE_UP_AFTER
    ):
        calls.append(_timed(call))
    quiet = [c for c in calls if c.foreign < MAX_FOREIGN]
    used = quiet or calls
    return Timing(median(c.wall for c in used), median(c.cpu for c in calls), len(quiet))


def workloads(options: Options) -> list[workload.Workload]:
    """The scenes of the table."""
    if options.workload is not None:
        return [workload.load(options.workload)]
    scenes = []
    for count in options.counts:
        for size in options.sizes:
            width, height = (int(side) for side in size.split("x"))
            if options.generator is None:
                scenes.append(workload.make(count, width, height))
            else:
                path, name = options.generator, options.scene
                scenes.append(workload.from_generator(path, name, count, width, height))
    return scenes


def _leaves(work: workload.Workload, sh_degree: int) -> list[Tensor]:
    coefficients = work.sh[:, : (sh_degree + 1) ** 2].contiguous()
    tensors = (work.means, work.quats, work.scales, work.opacities, coefficients)
    return [tensor.clone().requires_grad_() for tensor in tensors]


def _clock_both(
    render: Callable[[], Tensor], leaves: list[Tensor], grad: Tensor, repeats: int
) -> tuple[Timing, Timing]:
    """Forward alone without autograd, and forward with backward to every parameter."""

    def forward() -> None:
        with torch.no_grad():
            render()

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        render().backward(grad)

    return clock(forward, repeats), clock(both, repeats)


def raster_row(work: workload.Workload, sh_degree: int, isa: str, options: Options) -> Row:
    """Projection, harmonics and blend of one camera."""
    leaves = _leaves(work, sh_degree)
    viewmats, Ks, size = work.viewmat[None], work.K[None], (work.width, work.height)

    def ours() -> Tensor:
        return rasterization(*leaves, viewmats, Ks, *size, sh_degree=sh_degree).color[0]

    def tiles() -> Tensor:
        return torch_tiles.render(*leaves, work.viewmat, work.K, *size, sh_degree=sh_degree)

    torch.set_num_threads(options.threads)
    forward, both = _clock_both(ours, leaves, work.grad, options.repeats)
    slow_forward = slow_both = Timing()
    if options.baselines:
        torch.set_num_threads(options.torch_threads)
        slow_forward, slow_both = _clock_both(tiles, leaves, work.grad, 3)
    return Row(
        "rasterization",
        len(work.means),
        f"{work.width}x{work.height}",
        sh_degree,
        isa,
        options.threads,
        forward.wall,
        both.wall,
        both.cpu,
        both.quiet,
        slow_forward.wall,
        slow_both.wall,
    )


def loss_row(work: workload.Workload, isa: str, options: Options) -> Row:
    """L1 + SSIM with its gradient; PyTorch's by separable depthwise conv2d."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, work.height, work.width, 3)
    color = torch.rand(shape, generator=generator).requires_grad_()
    target = torch.rand(shape, generator=generator)
    one = torch.ones(())
    torch.set_num_threads(options.threads)
    forward, both = _clock_both(
        lambda: photometric_loss(color, target), [color], one, options.repeats
    )
    slow_forward = slow_both = Timing()
    if options.baselines:
        torch.set_num_threads(options.torch_threads)
        slow_forward, slow_both = _clock_both(
            lambda: reference.photometric_loss(color, target), [color], one, options.repeats
        )
    size = f"{work.width}x{work.height}"
    times = (forward.wall, both.wall, both.cpu, both.quiet, slow_forward.wall, slow_both.wall)
    return Row("photometric_loss", 0, size, 0, isa, options.threads, *times)


def activate_row(count: int, isa: str, options: Options) -> Row:
    """Exp, sigmoid and 3D filter with their gradients."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(count, 3, generator=generator), torch.randn(count, generator=generator)]
    for leaf in leaves:
        leaf.requires_grad_()
    filter_3d = torch.rand(count, generator=generator)

    def packed(function: Callable[..., object]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            result = function(*leaves, filter_3d)
            return torch.cat([result.scales, result.opacities[:, None]], 1)  # type: ignore[attr-defined]

        return call

    ones = torch.ones(count, 4)
    torch.set_num_threads(options.threads)
    forward, both = _clock_both(packed(activate), leaves, ones, options.repeats)
    slow_forward = slow_both = Timing()
    if options.baselines:
        torch.set_num_threads(options.torch_threads)
        slow_forward, slow_both = _clock_both(
            packed(reference.activate), leaves, ones, options.repeats
        )
    times = (forward.wall, both.wall, both.cpu, both.quiet, slow_forward.wall, slow_both.wall)
    return Row("activate", count, "", 0, isa, options.threads, *times)


def adam_rows(count: int, isa: str, options: Options) -> list[Row]:
    """One step over the 59 floats of every Gaussian, against torch's two CPU variants."""
    shapes = [(count, k) for k in (3, 4, 3, 1, 3, 45)]
    generator = torch.Generator().manual_seed(0)
    params, grads = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(2))
    means, squares = ([torch.zeros(s) for s in shapes] for _ in range(2))
    rates = [1e-3] * len(shapes)
    torch.set_num_threads(options.threads)
    ours = clock(lambda: adam_step_(params, grads, means, squares, rates, 1), options.repeats)
    rows = []
    for foreach in (False, True) if options.baselines else ():
        for param, grad in zip(params, grads, strict=True):
            param.requires_grad_().grad = grad
        optimizer = torch.optim.Adam(params, lr=1e-3, eps=1e-15, foreach=foreach)
        torch.set_num_threads(options.torch_threads)
        theirs = clock(optimizer.step, options.repeats)
        name = "adam vs foreach" if foreach else "adam vs loop"
        rows.append(
            Row(
                name,
                count,
                "",
                3,
                isa,
                options.threads,
                0.0,
                ours.wall,
                ours.cpu,
                ours.quiet,
                0.0,
                theirs.wall,
            )
        )
    return rows or [
        Row("adam", count, "", 3, isa, options.threads, 0.0, ours.wall, ours.cpu, ours.quiet)
    ]


def work_through(options: Options) -> list[Row]:
    """All rows of one instruction set, in this process."""
    isa = instruction_set()
    scenes = workloads(options)
    rows = [raster_row(work, d, isa, options) for work in scenes for d in options.degrees]
    largest_first = {(work.width, work.height): work for work in scenes}
    rows += [loss_row(work, isa, options) for work in largest_first.values()]
    for count in sorted({len(work.means) for work in scenes}):
        rows += [activate_row(count, isa, options), *adam_rows(count, isa, options)]
    return rows


def rows_of(options: Options, isa: str) -> list[Row]:
    """All rows of one instruction set, in a process of its own: the choice is made once in each."""
    if isa:
        os.environ["TWINSPLAT_ISA"] = isa
    # A thread that spins for the next call takes the core that a busy machine needs elsewhere.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work_through, options).result()


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def print_table(rows: list[Row]) -> None:
    """The table, in milliseconds."""
    print(
        f"{'op':<17}{'Gaussians':>10}{'size':>9}{'SH':>4}{'ISA':>9}{'fwd':>9}{'fwd+bwd':>9}"
        f"{'cpu':>9}{'quiet':>7}{'torch fwd':>11}{'torch f+b':>11}{'ratio':>7}"
    )
    for row in rows:
        count = f"{row.count:,}" if row.count else ""
        ratio = f"{row.ratio:.0f}x" if row.ratio else ""
        print(
            f"{row.op:<17}{count:>10}{row.size:>9}{row.sh:>4}{row.isa:>9}"
            f"{row.forward:>9.2f}{row.both:>9.2f}{row.cpu:>9.2f}{row.quiet:>7}"
            f"{row.torch_forward:>11.1f}{row.torch_both:>11.1f}{ratio:>7}"
        )


def write_csv(path: Path, rows: list[Row], context: dict[str, str]) -> None:
    """Appends the table with where, when and from what it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f.name for f in fields(Row)]
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*names, "ratio", *context])
        if is_new:
            writer.writeheader()
        for row in rows:
            values = {n: f"{v:.3f}" if isinstance(v, float) else v for n, v in asdict(row).items()}
            writer.writerow({**values, "ratio": f"{row.ratio:.1f}", **context})


def main() -> None:
    """Times everything and prints the table."""
    options = tyro.cli(Options, description=__doc__)
    context = {
        "machine": _machine(),
        "torch": torch.__version__,
        "torch_threads": str(options.torch_threads),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
    }
    print(", ".join(f"{name} {value}" for name, value in context.items()))
    print(f"our threads {options.threads}, load {os.getloadavg()[0]:.1f}, times in ms")
    rows = [row for isa in options.isas for row in rows_of(options, isa)]
    print_table(rows)
    if options.csv:
        write_csv(RESULTS, rows, context)
        print(f"appended to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
