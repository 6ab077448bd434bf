"""Random combinations of settings: python -m tests.faults.combinations.

Each is run straight, stopped by a signal and continued, and once with a bad number on the way. The
continued run must be the straight one to the last bit; the one that went back must have had all
that its checkpoint held, and finish.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from arguments.signals import Stopped
from scene.synthetic import PRESETS, make_capture
from tests.scene_builder import CameraRow, make_rows, make_scene
from training import checkpoint
from training.loop import REPORT_EVERY, Progress, Run
from training.run import prepare
from training.run_folder import RunRecord

LAST = 50
KINDS = ("none", "hard", "soft")
# Growth, harmonics, agreement and masks begin within a run of 50 steps.
SHORT = (
    *("--iterations", str(LAST), "--checkpoint_every", "9", "--keep_checkpoints", "9"),
    *("--densify_from_iter", "4", "--densification_interval", "6", "--densify_until_iter", "45"),
    *("--densify_grad_threshold", "1e-5", "--opacity_reset_interval", "16", "--sh_interval", "7"),
    *("--agreement_from_iter", "8", "--mask_from_iter", "5"),
)
# What may be added; one of each line is drawn, half of the time none.
CHOICES = (
    ("--filter classic",),
    ("--strategy default",),
    ("--adam_rows visible",),
    ("--proxy_lists own",),
    ("--supervision own",),
    ("--agreement_gradient distrusted",),
    ("--mask_target composite",),
    ("--mask_rule paper",),
    ("--mask_dilation 1", "--mask_dilation 3"),
    ("--random_background",),
    ("-w",),
    ("--sh_degree 0", "--sh_degree 1", "--sh_degree 2"),
    ("--lambda_dssim 0", "--lambda_dssim 1"),
    ("--hard_quantile 0.5",),
    ("--ema_decay 0", "--ema_decay 0.99"),
    ("--agreement_weight 0", "--agreement_weight 5"),
    ("-r 2",),
    ("--max_gaussians 250", "--max_gaussians 1000"),
    ("--prune_opacity 0.2",),
    ("--opacity_reset_interval 0",),
    ("--init auto",),
    ("--seed 7",),
)


@dataclass(frozen=True)
class Result:
    """One combination.

    Attributes:
        wrong: what was not as promised; empty where all was, or where it was refused in one line.
    """

    words: str
    refused: bool
    wrong: str


def scenes(folder: Path) -> list[Path]:
    """The built-in capture, photos of two sizes, and photos with masks of the user's."""
    made = [folder / name for name in ("room", "sizes", "masks")]
    make_capture(made[0], PRESETS["tiny"], seed=0)
    rows = make_rows()
    rows.cameras.append(CameraRow(2, "PINHOLE", 48, 36, [45.0, 45.0, 24.0, 18.0]))
    for image in rows.images[1::2]:
        image.camera_id = 2
        image.keypoints = [(0.75 * x, 0.75 * y, point) for x, y, point in image.keypoints]
    make_scene(made[1], rows)
    make_scene(made[2])
    (made[2] / "masks").mkdir()
    for path in sorted((made[2] / "images").iterdir())[::2]:
        mask = Image.new("L", (64, 48), 255)
        mask.paste(0, (10, 10, 30, 30))
        mask.save(made[2] / "masks" / f"{path.stem}.png")
    return made


def drawn(rng: random.Random) -> list[str]:
    """Words of a command line, less the scene and the output."""
    method = rng.choice(("dual", "dual", "ema", "single"))
    words = ["--method", method]
    if rng.random() < 0.7:
        count = 2 if method == "dual" else rng.choice((1, 2))
        words += ["--branch_masks", *(rng.choice(KINDS) for _ in range(count))]
    for choices in CHOICES:
        if rng.random() < 0.3:
            words += rng.choice(choices).split()
    return words


def prepared(scene: Path, out: Path, words: list[str]) -> Run:
    """A run before its first step."""
    out.mkdir(exist_ok=True)
    line = ["-s", str(scene), "-m", str(out), "--device", "cpu", "--quiet", *SHORT, *words]
    return prepare(parse_train(line)[0], RunRecord("running", 0), Messages(quiet=True))


def difference(one: Run, two: Run) -> str:
    """The first thing that two runs have learnt differently; empty where all is the same."""
    first, second = one.parts.state.tensors(), two.parts.state.tensors()
    if first.keys() != second.keys():
        return f"tensors {sorted(first.keys() ^ second.keys())[:3]}"
    return next((n for n in first if not torch.equal(first[n], second[n])), "")


def stopped_and_continued(scene: Path, out: Path, words: list[str], rng: random.Random) -> Run:
    """A run that a signal stops somewhere, continued to its end."""
    run, at = prepared(scene, out, words), rng.choice((1, 2)) * REPORT_EVERY

    def stop(seen: Progress) -> None:
        if seen.step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    run.hooks = dataclasses.replace(run.hooks, progress=stop)
    try:
        run.train()
    except Stopped:
        run = prepared(scene, out, [*words, "--resume"])
        run.train()
    return run


def state_is_that_of_its_checkpoint(run: Run, out: Path) -> bool:
    """Whether a run has all that its checkpoint of that step holds, and nothing else."""
    now = run.parts.state.tensors()
    kept = checkpoint.load(checkpoint.path_of(out, run.parts.state.step)).tensors
    return now.keys() == kept.keys() and all(torch.equal(now[n].cpu(), kept[n]) for n in kept)


def spoilt(scene: Path, out: Path, words: list[str]) -> str:
    """What goes wrong in a run in which a number goes bad; empty where nothing does."""
    run = prepared(scene, out, words)
    wrong: list[str] = []
    warn = run.messages.warn

    def look(text: str) -> None:
        if "back to step" in text and not state_is_that_of_its_checkpoint(run, out):
            wrong.append(f"went back to another state than that of step {run.parts.state.step}")
        warn(text)

    left = [1]

    def inject(_: Progress) -> None:
        if left:
            left.clear()
            run.parts.state.result.means.data[5] = torch.nan

    run.messages.warn = look  # type: ignore[method-assign]
    run.hooks = dataclasses.replace(run.hooks, progress=inject)
    run.train()
    if run.record.rollbacks != 1:
        wrong.append(f"went back {run.record.rollbacks} times")
    return "; ".join(wrong)


def result(scene: Path, folder: Path, words: list[str], rng: random.Random) -> Result:
    """All three runs of a combination."""
    shown = " ".join([scene.name, *words])
    try:
        straight = prepared(scene, folder / "straight", words)
        straight.train()
    except UserError as refusal:
        # So short a run may end in transparency; what is no setting is told at once.
        fine = refusal.code in (ExitCode.USAGE, ExitCode.NUMERICAL)
        return Result(shown, True, "" if fine else f"{refusal.code!r}: {refusal}")
    try:
        again = stopped_and_continued(scene, folder / "stopped", words, rng)
        wrong = [difference(straight, again), spoilt(scene, folder / "spoilt", words)]
    except UserError as refusal:
        wrong = [f"{refusal.code!r}: {refusal}"]
    return Result(shown, False, "; ".join(filter(None, wrong)))


def results(folder: Path, num_runs: int, seed: int) -> list[Result]:
    """That many combinations."""
    rng = random.Random(seed)
    (folder / "scenes").mkdir()
    places = scenes(folder / "scenes")
    done = []
    for number in range(num_runs):
        out = folder / f"{number}"
        out.mkdir()
        done.append(result(rng.choice(places), out, drawn(rng), rng))
    return done


def main() -> int:
    """Run them, print what was wrong, and how many were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),  # what the runs warn of
    ):
        done = results(Path(folder), told.runs, told.seed)
    bad = [one for one in done if one.wrong]
    for one in bad:
        sys.stdout.write(f"{one.words}\n  {one.wrong}\n")
    refused = sum(one.refused for one in done)
    sys.stdout.write(f"{len(done)} combinations, {refused} refused: {len(bad)} wrong\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
