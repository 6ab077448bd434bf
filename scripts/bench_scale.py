r"""Make a capture as large as the scenes of NeRF On-the-go, on which a whole run can be timed.

    python scripts/bench_scale.py SCENE
    python train.py -s SCENE -m OUT --method dual --iterations 30000 --max_gaussians 300000 \
        --densify_grad_threshold 1e-4

The built-in room at 504x378 with finer textures and more points; the candidates that
`python -m masks` makes, by as many processes as there are cores. With the threshold above, a run
from 40,000 points on these photos at half their width had 300,000 Gaussians after 6 of 14 rounds of
growth; with the usual one 282,000 after all of them.
"""

import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from arguments.messages import Messages  # noqa: E402 - after the path is set
from masks.proposals import ProposalSettings, propose  # noqa: E402
from scene.capture import CaptureSettings, load_capture  # noqa: E402
from scene.synthetic import CaptureSize, make_capture  # noqa: E402


@dataclass(frozen=True)
class Scale:
    """What is made; the defaults are the size of an On-the-go scene at the width of its paper."""

    scene: tyro.conf.Positional[Path]
    """Folder to make; it must not hold a capture yet."""

    views: int = 170
    """Training photos."""

    test_views: int = 20
    """Clean photos to measure by."""

    width: int = 504
    """Of the photos, in pixels."""

    height: int = 378
    """Of the photos, in pixels."""

    points: int = 60_000
    """Surface points that are tried for the COLMAP model."""

    texels_per_metre: int = 220
    """Resolution of the textures; a photo has some 100 pixels a metre."""

    seed: int = 0
    """The capture is fully determined by this and the sizes."""

    jobs: int = os.cpu_count() or 1
    """Processes that look for candidates."""

    @property
    def size(self) -> CaptureSize:
        """What the generator is told."""
        return CaptureSize(
            self.views, self.test_views, self.width, self.height, self.points, self.texels_per_metre
        )


def find_some(scene: Path, out: Path, number: int, jobs: int) -> None:
    """Candidates of every `jobs`-th training photo from `number` on, in a folder of their own."""
    quiet = Messages(quiet=True)
    capture = load_capture(CaptureSettings(scene), quiet)
    propose(capture, out, ProposalSettings(), quiet, capture.train[number::jobs])


def find_candidates(scene: Path, jobs: int) -> None:
    """What `python -m masks -s SCENE --sheet_photos 0` writes, by several processes."""
    parts = scene / "candidates.parts"
    # A forked child would inherit locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        done = [
            pool.submit(find_some, scene, parts / str(number), number, jobs)
            for number in range(jobs)
        ]
        for one in done:
            one.result()
    (scene / "candidates").mkdir(exist_ok=True)
    for path in parts.glob("*/*"):
        path.replace(scene / "candidates" / path.name)
    shutil.rmtree(parts)


def main() -> None:
    """Make the photos and the candidates; say how long each took."""
    scale = tyro.cli(Scale)
    began = time.perf_counter()
    make_capture(scale.scene, scale.size, scale.seed)
    made = time.perf_counter()
    find_candidates(scale.scene, scale.jobs)
    found = time.perf_counter()
    print(f"{scale.views} photos in {made - began:.0f} s, candidates in {found - made:.0f} s")


if __name__ == "__main__":
    main()
