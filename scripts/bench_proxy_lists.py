"""How far an averaged branch drawn in the live branch's order and tiles is from its exact picture.

    python scripts/bench_proxy_lists.py --scene SCENE --steps 200 1000 3000 --width 504

Trains ema on a scene with lists of its own, stops at each of the steps, and draws every test view
three ways. `shared` is the PSNR between the two pictures of the average, `apart` that between the
live branch and its average: what the agreement loss sees. The first must be far above the second.
"""

import csv
import datetime
import math
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean

import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arguments.config import (  # noqa: E402 - after the path is set
    AgreementConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from arguments.messages import Messages  # noqa: E402
from scene.cameras import Cameras  # noqa: E402
from scene.capture import load_capture  # noqa: E402
from training.branches import ProxyBranch, RenderSettings, TrainedBranch  # noqa: E402
from training.graph import Stepper, choose_stepper  # noqa: E402
from training.photos import ViewSource  # noqa: E402
from training.run import candidates_for, capture_settings  # noqa: E402
from training.run_folder import commit  # noqa: E402
from training.setup import Parts, build, camera_batch  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "proxy_lists.csv"


@dataclass(frozen=True)
class Options:
    """What is measured."""

    scene: Path
    """Scene folder."""

    steps: tuple[int, ...] = (200, 1000, 3000)
    """When, in steps of one run that is as long as the last."""

    decays: tuple[float, ...] = (0.8, 0.95)
    """Shares of itself that the average keeps."""

    width: int = 504
    """Width of the photos."""

    csv: bool = False
    """Append the table to docs/results/proxy_lists.csv."""


@dataclass(frozen=True)
class Row:
    """One line; mean over the test views, decibel."""

    decay: float
    step: int
    shared: float
    apart: float
    device: str
    commit: str
    date: str


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Decibel between pictures of values around [0, 1], as they leave the renderer."""
    return -10 * math.log10(float((first - second).double().square().mean()) + 1e-30)


def measure(parts: Parts, cameras: list[Cameras]) -> tuple[float, float]:
    """PSNR of the shared picture against the exact one, and of the live one against it."""
    live, average = parts.state.branches
    if not isinstance(live, TrainedBranch) or not isinstance(average, ProxyBranch):
        raise TypeError("an ema run has a trained branch and a proxy")
    background = torch.zeros(3, device=live.gaussians.device)
    settings = RenderSettings(background, live.gaussians.sh_degree, "mip")
    shared, apart = [], []
    for camera in cameras:
        seen = live.render(camera, settings)
        exact = average.render(camera, settings)
        quick = average.render(camera, settings, seen.tile_lists)
        shared.append(psnr(quick.color, exact.color))
        apart.append(psnr(seen.color.detach(), exact.color))
    return mean(shared), mean(apart)


def advance(stepper: Stepper, parts: Parts, until: int) -> None:
    """Do steps up to `until`, with a stop wherever the schedule wants one."""
    while parts.state.step < until:
        done = parts.state.step
        stops = range(done + 1, min(until, done + stepper.stride) + 1)
        due = [stop for stop in stops if parts.context.schedule.refines_at(stop)]
        stepper.advance(due[0] if due else stops[-1])


def study(options: Options, decay: float) -> list[Row]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            ModelConfig(options.scene, Path(folder), resolution=options.width),
            RunConfig(method="ema", iterations=max(options.steps), quiet=True),
            agreement=AgreementConfig(ema_decay=decay, proxy_lists="own"),
        )
        messages = Messages(quiet=True)
        capture = load_capture(capture_settings(config), messages)
        candidates = candidates_for(config, capture, messages)
        parts = build(config, capture, candidates, messages)
        device = parts.state.result.device
        views = ViewSource(capture, config, device)
        stepper = choose_stepper(parts.state, views, parts.context, messages)
        cameras = [camera_batch(capture, i, device) for i in capture.test]
        rows = []
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        for step in sorted(options.steps):
            advance(stepper, parts, step)
            shared, apart = measure(parts, cameras)
            today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            rows.append(Row(decay, step, shared, apart, name, commit(), today))
            print(f"decay {decay}, step {step}: shared {shared:.1f} dB, apart {apart:.1f} dB")
        return rows


def main() -> None:
    """Run the study."""
    options = tyro.cli(Options)
    rows = [row for decay in options.decays for row in study(options, decay)]
    if options.csv:
        is_new = not RESULTS.exists()
        with RESULTS.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            if is_new:
                writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
