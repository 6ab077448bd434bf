"""Quality side by side: configurations x seeds on one scene, a CSV row a run and a table.

    python scripts/bench_quality.py --scene SCENE --name bonsai --iterations 3000 --width 400

Each run is `train.py` and `evaluate.py` as a user would call them. Runs that are done are not done
again, so an interrupted study goes on where it ended.
"""

import csv
import datetime
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from queue import Queue

import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from evaluation.evaluate import read_metrics  # noqa: E402 - after the path is set
from training.run_folder import commit, read_record  # noqa: E402

# What a run may be called, and the flags that make it.
CONFIGURATIONS = {
    "single-clean": "--method single --images images_clean",
    "single": "--method single",
    "single-hard": "--method single --branch_masks hard",
    "single-soft": "--method single --branch_masks soft",
    "single-oracle": "--method single --masks gt_distractors --invert_masks",
    "dual-oracle": "--method dual --branch_masks none none --masks gt_distractors --invert_masks",
    "dual": "--method dual",
    "dual-paper": "--method dual --agreement_weight 1 --supervision own --mask_target photo "
    "--mask_rule paper",
    "dual-visible": "--method dual --adam_rows visible",
    "ema": "--method ema",
}


@dataclass(frozen=True)
class Study:
    """What is compared."""

    scene: Path
    """Scene folder; `single-clean` needs images_clean/ in it."""

    name: str
    """Name of the study; names the result files."""

    out: Path = Path("output/studies")
    """Folder for the runs."""

    results: Path = Path("docs/results")
    """Folder for the CSV."""

    configurations: tuple[str, ...] = ("single-clean", "single", "dual", "ema")
    """Which of the configurations."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run for each."""

    iterations: int = 3000
    """Steps of each run."""

    width: int = 400
    """Width of the photos."""

    jobs: int = 1
    """Runs at the same time."""

    threads: int | None = None
    """Threads of each run; None is its share of the cores."""

    gpus: int = 0
    """GPUs to spread the runs over, one run on each at a time; 0 leaves the choice to train.py."""

    extra: str = ""
    """Further flags for every run."""


@dataclass(frozen=True)
class Row:
    """One run in the CSV."""

    study: str
    configuration: str
    seed: int
    iterations: int
    width: int
    psnr: float
    ssim: float
    mask_iou: float | None
    num_gaussians: int
    seconds: float | None
    peak_mib: float
    flags: str
    device: str
    commit: str
    date: str


def device() -> str:
    """What the runs were made on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"


def run(study: Study, configuration: str, seed: int, free_gpus: Queue[int]) -> Row:
    """Train and measure once."""
    out = study.out / study.name / f"{configuration}-{seed}"
    flags = f"{CONFIGURATIONS[configuration]} {study.extra}".strip()
    threads = study.threads or max(1, (os.cpu_count() or 1) // study.jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    gpu = free_gpus.get() if study.gpus else None
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if not (out / "metrics.json").is_file():
        train = ["train.py", "-s", study.scene, "-m", out, "-r", study.width, "--seed", seed]
        train += ["--iterations", study.iterations, "--overwrite", "--quiet", *flags.split()]
        for command in (train, ["render.py", "-m", out, "--quiet"], ["evaluate.py", "-m", out]):
            words = [sys.executable, *map(str, command)]
            subprocess.run(words, cwd=ROOT, check=True, env=environment)
    if gpu is not None:
        free_gpus.put(gpu)
    measured, record = read_metrics(out), read_record(out)
    return Row(
        study.name,
        configuration,
        seed,
        study.iterations,
        study.width,
        measured.psnr,
        measured.ssim,
        measured.mask_iou,
        measured.num_gaussians,
        measured.seconds,
        (record.peak_bytes if record else 0) / 2**20,
        flags,
        f"{device()}, {threads} threads a run",
        commit(),
        datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )


def table(rows: list[Row], order: tuple[str, ...]) -> str:
    """Mean and spread of each configuration, as Markdown."""
    lines = [
        "| run | PSNR, dB | SSIM | mask IoU | Gaussians | seconds | peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in order:
        mine = [row for row in rows if row.configuration == name]
        psnr = [row.psnr for row in mine]
        spread = statistics.stdev(psnr) if len(psnr) > 1 else 0.0
        ious = [row.mask_iou for row in mine if row.mask_iou is not None]
        seconds = [row.seconds for row in mine if row.seconds is not None]
        lines.append(
            f"| {name} | {statistics.mean(psnr):.2f} ± {spread:.2f} "
            f"| {statistics.mean(row.ssim for row in mine):.4f} "
            f"| {f'{statistics.mean(ious):.3f}' if ious else '-'} "
            f"| {statistics.mean(row.num_gaussians for row in mine):.0f} "
            f"| {f'{statistics.median(seconds):.0f}' if seconds else '-'} "
            f"| {max(row.peak_mib for row in mine):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    study = tyro.cli(Study)
    tasks = [(name, seed) for seed in study.seeds for name in study.configurations]
    free_gpus: Queue[int] = Queue()
    for gpu in range(study.gpus):
        free_gpus.put(gpu)
    with ThreadPoolExecutor(max(study.jobs, study.gpus)) as pool:
        rows = list(pool.map(lambda task: run(study, *task, free_gpus), tasks))
    study.results.mkdir(parents=True, exist_ok=True)
    path = study.results / f"{study.name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    print(table(rows, study.configurations))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
