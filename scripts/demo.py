"""The demo: makes the built-in capture, trains on it in three ways, measures and compares them.

    scripts/demo.sh [--out output/demo] [--iterations N]

It runs the same commands as a user would and prints each of them.
"""

import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from evaluation.evaluate import Evaluation, read_metrics  # noqa: E402 - after the path is set

METHODS = ("single", "dual", "ema")


@dataclass(frozen=True)
class Demo:
    """What the demo can be told."""

    out: Path = Path("output/demo")
    """Folder of the capture, the runs and the report."""

    iterations: int = 2500
    """Steps of each run; every schedule scales with it."""

    max_gaussians: int = 30_000
    """Most Gaussians of a model."""

    preset: Literal["room", "tiny"] = "room"
    """Size of the capture."""

    seed: int = 0
    """Of the capture and of the runs."""

    @property
    def capture(self) -> Path:
        """Where the photos are."""
        return self.out / "capture"


def call(*words: str | Path) -> None:
    """Run one of the project's commands; a failure ends the demo with its exit code."""
    shown = [str(word) for word in words]
    print(f"\n$ python {shlex.join(shown)}", flush=True)
    done = subprocess.run([sys.executable, *shown], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def make_capture(demo: Demo) -> None:
    """Make the photos, unless an earlier demo has finished making them."""
    if (demo.capture / "sparse" / "0" / "points3D.bin").is_file():
        print(f"the capture in {demo.capture} is there already")
        return
    shutil.rmtree(demo.capture, ignore_errors=True)
    seed = str(demo.seed)
    call("-m", "scene.synthetic", demo.capture, "--preset", demo.preset, "--seed", seed)


def run_method(demo: Demo, method: str) -> Evaluation:
    """Train, render and measure one way of learning."""
    out = demo.out / method
    settings = ["--iterations", str(demo.iterations), "--seed", str(demo.seed)]
    settings += ["--max_gaussians", str(demo.max_gaussians), "--overwrite"]
    call("train.py", "-s", demo.capture, "-m", out, "--method", method, *settings)
    call("render.py", "-m", out, "--quiet")
    call("evaluate.py", "-m", out, "--quiet")
    return read_metrics(out)


def table(results: dict[str, Evaluation]) -> str:
    """The comparison, a line a run."""
    lines = [
        f"{'method':<8}{'PSNR, dB':>10}{'SSIM':>9}{'mask IoU':>10}{'seconds':>9}{'Gaussians':>11}"
    ]
    for method, result in results.items():
        iou = "-" if result.mask_iou is None else f"{result.mask_iou:.3f}"
        seconds = "-" if result.seconds is None else f"{result.seconds:.0f}"
        lines.append(
            f"{method:<8}{result.psnr:>10.2f}{result.ssim:>9.4f}{iou:>10}{seconds:>9}"
            f"{result.num_gaussians:>11}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything."""
    demo = tyro.cli(Demo)
    began = time.perf_counter()
    make_capture(demo)
    results = {method: run_method(demo, method) for method in METHODS}
    page = demo.out / "report.html"
    call("-m", "evaluation.report", *(demo.out / method for method in METHODS), "-o", page)
    minutes = (time.perf_counter() - began) / 60
    print(f"\n{table(results)}")
    print(f"\nmeasured on {results['dual'].num_views} clean views that no run has seen")
    print(f"pictures: {page} ({minutes:.1f} min in all)")


if __name__ == "__main__":
    main()
