"""The faults that a whole command meets, with the line, the exit code and what is left on disk.

One function a case: it spoils something, runs the command as a user does, checks the disk, and
returns how the command ended. `test_cases.py` runs them.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diff_gaussian_rasterization
import numpy as np
import torch
from PIL import Image

from arguments.installation import RASTERIZER
from masks.sam import NETWORKS
from scene.colmap_binary import POINT
from scene.ply import read_ply
from tests.faults.scene_cases import masks as make_masks
from tests.faults.scene_cases import photo, remove_photos, rename
from tests.faults.server import ALL, ROOT, Commands, Fault, Operations, Outcome
from tests.random_weights import fill_randomly
from tests.scene_builder import HEIGHT, WIDTH, SceneRows, make_rows, make_scene, write_binary
from tests.unit.test_doctor import fake_driver

LAST = 12
FOREVER = "100000"


@dataclass
class Stage:
    """A sound scene and an empty output folder of one case."""

    root: Path
    commands: Commands

    @property
    def scene(self) -> Path:
        """The dataset; 12 photos of 64x48 unless the case has made another."""
        path = self.root / "scene"
        return path if path.exists() else make_scene(path)

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return self.root / "out"

    def train(self, *extra: str, **options: object) -> Outcome:
        """A short run of one branch."""
        words = ["train", "-s", str(self.scene), "-m", str(self.out), "--method", "single"]
        words += ["--iterations", str(LAST), *extra]
        return self.commands.run(*words, **options)  # type: ignore[arg-type]

    def trained(self, *extra: str) -> "Stage":
        """The stage after a run that went well."""
        ended = self.train("--quiet", *extra)
        assert ended.code == 0, ended.stderr
        return self

    def record(self) -> dict[str, object]:
        """What run.json says."""
        return json.loads((self.out / "run.json").read_text())

    def snapshot(self) -> dict[str, int]:
        """Every file of the run and a digest of it, less the lock."""
        return {
            str(path): zlib.crc32(path.read_bytes())
            for path in sorted(self.out.rglob("*"))
            if path.is_file() and path.name != "run.lock"
        }

    def untouched(self, act: Callable[[], Outcome]) -> Outcome:
        """What `act` returns, after the check that it has changed nothing in the run's folder."""
        before = self.snapshot()
        ended = act()
        assert self.snapshot() == before
        return ended


@dataclass(frozen=True)
class RunCase:
    """One fault.

    Attributes:
        play: spoils, runs and checks; returns how the command ended.
        says: regular expression of a line on stderr.
        code: exit code.
        left: what is on disk afterwards, in words; `play` checks it.
    """

    name: str
    title: str
    play: Callable[[Stage], Outcome]
    says: str
    code: int
    left: str


RUN_CASES: list[RunCase] = []
Play = Callable[[Stage], Outcome]


def case(name: str, title: str, says: str, code: int = 0, left: str = "") -> Callable[[Play], Play]:
    """Enter a function into the table."""

    def enter(play: Play) -> Play:
        RUN_CASES.append(RunCase(name, title, play, says, code, left))
        return play

    return enter


def signalled(number: int, after: str, times: int = 1) -> Callable[[Path], Callable[[int], None]]:
    """Sends a signal once a file below the output folder is there."""

    def watch(out: Path) -> Callable[[int], None]:
        def send(pid: int) -> None:
            deadline = time.monotonic() + 60
            while not any(out.glob(after)) and time.monotonic() < deadline:
                time.sleep(0.002)
            for _ in range(times):
                os.kill(pid, number)
                time.sleep(0.005)

        return send

    return watch


# ---- A. Finding the dataset, and the output folder


@case("A1", "the dataset does not exist", r"dataset '.*' not found", 3, "not even OUT")
def _(stage: Stage) -> Outcome:
    words = ("train", "-s", str(stage.root / "nowhere"), "-m", str(stage.out))
    ended = stage.commands.run(*words)
    assert not stage.out.exists()
    return ended


@case("A9", "read-only dataset folder", "done in", 0, "dataset untouched")
def _(stage: Stage) -> Outcome:
    fault = Fault(str(stage.scene), 1, int(ALL), errno.EROFS, is_lasting=True)
    ended = stage.train(fault=fault)
    assert ended.operations == 0
    return ended


@case("A10", "OUT read-only", r"cannot write '.*': Read-only file system", 6, "nothing")
def _(stage: Stage) -> Outcome:
    fault = Fault(str(stage.out), 1, int(ALL), errno.EROFS, is_lasting=True)
    ended = stage.train(fault=fault)
    assert not stage.out.exists()
    return ended


@case("A10", "OUT is a file", r"cannot write '.*': File exists", 6, "the file")
def _(stage: Stage) -> Outcome:
    stage.out.write_text("mine")
    ended = stage.train()
    assert stage.out.read_text() == "mine"
    return ended


@case("A11", "OUT already has a run", r"has a run at step 12; --resume", 2, "old run untouched")
def _(stage: Stage) -> Outcome:
    stage.trained()
    return stage.untouched(stage.train)


# ---- B. Content of the model


@case("B16", "more points than allowed", r"200 points, 150 allowed \(--max_gaussians\)", 0)
def _(stage: Stage) -> Outcome:
    ended = stage.train("--max_gaussians", "150")
    assert len(read_ply(next(stage.out.glob("point_cloud/*/*.ply"))).means) <= 150
    return ended


def with_points(scene: Path, count: int) -> None:
    """So many points without tracks in the model's binary file."""
    rows = np.zeros(count, POINT)
    rows["id"] = np.arange(count)
    rows["xyz"] = np.random.default_rng(0).normal(size=(count, 3))
    path = scene / "sparse" / "0" / "points3D.bin"
    path.write_bytes(np.uint64(count).tobytes() + rows.tobytes())


@case("B16", "more points than memory allows", r"300000 points, \d+ allowed \(--max_gaussians\)", 0)
def _(stage: Stage) -> Outcome:
    with_points(stage.scene, 300_000)
    ended = stage.train(more_memory=600 << 20)
    model = read_ply(next(stage.out.glob("point_cloud/*/*.ply")))
    assert stage.record()["max_gaussians"] >= len(model.means) > 50_000
    return ended


# ---- C. Images


def sized(size: tuple[int, int], count: int = 4) -> Callable[[SceneRows], None]:
    """Give some photos a camera of another size."""

    def change(rows: SceneRows) -> None:
        camera = rows.cameras[0]
        width, height = size
        params = [60.0, 60.0, width / 2, height / 2]
        rows.cameras.append(type(camera)(2, "PINHOLE", width, height, params))
        for image in rows.images[:count]:
            image.camera_id, image.keypoints = 2, []

    return change


@case("C9", "photos of different sizes and cameras", r"48x48 to 64x64", 0)
def _(stage: Stage) -> Outcome:
    rows = make_rows()
    sized((48, 64))(rows)
    make_scene(stage.root / "scene", rows)
    return stage.train()


def with_huge_photo(scene: Path) -> None:
    """The first photo has 184 megapixels, and its camera says so too."""
    rows = make_rows()
    sized((20_000, 9_200), count=1)(rows)
    write_binary(rows, scene / "sparse" / "0")
    Image.new("L", (20_000, 9_200), 90).save(photo(scene), quality=50)


@case("C4", "a photo of 184 megapixels", r"1 photos of more than 178 MP \(--max_mp\)", 0)
def _(stage: Stage) -> Outcome:
    with_huge_photo(stage.scene)
    ended = stage.train("-r", "64")
    assert ended.peak_bytes < 400 << 20  # whole, as RGB, it takes 550 MB, and as much again
    return ended


@case(
    "C4", "the same where its size is wanted", r"184 MP to decode, 178 are allowed; .*; excluded", 0
)
def _(stage: Stage) -> Outcome:
    with_huge_photo(stage.scene)
    ended = stage.train("-r", "1")
    assert ended.peak_bytes < 400 << 20
    return ended


@case("C10", "a photo removed during the run", "done in", 0, "photos are read at the start")
def _(stage: Stage) -> Outcome:
    def remove(_: int) -> None:
        signalled_at = time.monotonic() + 60
        while not any(stage.out.glob("checkpoints/*.json")) and time.monotonic() < signalled_at:
            time.sleep(0.002)
        photo(stage.scene).unlink()

    ended = stage.train("--iterations", "200", meanwhile=remove)
    assert not photo(stage.scene).exists()
    return ended


@case(
    "C10", "a photo removed before the resume", r"error: .*photos.* changed since", 8, "untouched"
)
def _(stage: Stage) -> Outcome:
    stage.trained()
    photo(stage.scene).unlink()
    return stage.untouched(lambda: stage.train("--resume", "--iterations", "20"))


@case("C10", "a photo changed before the resume", r"photos changed since", 8, "old run untouched")
def _(stage: Stage) -> Outcome:
    stage.trained()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(photo(stage.scene))
    return stage.untouched(lambda: stage.train("--resume", "--iterations", "20"))


@case("C10", "the same, accepted", r"going on as told", 0)
def _(stage: Stage) -> Outcome:
    stage.trained()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(photo(stage.scene))
    return stage.train("--resume", "--iterations", "20", "--accept_changed_data")


# ---- D. Masks


@case("D3", "masks for some photos only", r"masks: 10/12", 0)
def _(stage: Stage) -> Outcome:
    make_masks((WIDTH, HEIGHT), 255)(stage.scene)
    return stage.train("--masks", "mymasks")


@case("D6", "masks with colours or a palette", r"masks: 12/12, white = keep, 50.0 % removed", 0)
def _(stage: Stage) -> Outcome:
    folder = stage.scene / "mymasks"
    folder.mkdir()
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[:, : WIDTH // 2] = 255
    for index in range(12):
        image = Image.fromarray(half)
        image.convert("RGB" if index % 2 else "P").save(folder / f"img_{index:04d}.png")
    return stage.train("--masks", "mymasks")


@case("D9", "mask run killed midway, then repeated", r"of 12 photos had been done before", 0)
def _(stage: Stage) -> Outcome:
    words = ("masks.__main__", "-s", str(stage.scene), "-o", str(stage.out))
    killed = stage.commands.run(*words, fault=Fault(str(stage.out), 20))
    assert killed.code == -signal.SIGKILL
    ended = stage.commands.run(*words)
    assert len(list(stage.out.glob("*.npz"))) == 12
    assert list(stage.out.glob("*.tmp")) == []
    return ended


@case(
    "G4",
    "SIGTERM during a mask run",
    r"stopped by SIGTERM before it was done; \d+ of 12 photos are in .*, the same command goes on",
    143,
    "files of the photos done; the next call makes the others",
)
def _(stage: Stage) -> Outcome:
    words = ("masks.__main__", "-s", str(stage.scene), "-o", str(stage.out))
    send = signalled(signal.SIGTERM, "img_0002.npz")(stage.out)
    stopped = stage.commands.run(*words, meanwhile=send)
    done = len(list(stage.out.glob("*.npz")))
    assert 3 <= done < 12
    assert f"; {done} of 12 photos" in stopped.stderr
    assert list(stage.out.glob("*.tmp")) == []
    again = stage.commands.run(*words)
    assert f"{done} of 12 photos had been done before" in again.stderr
    return stopped


@case(
    "D8",
    "Segment Anything out of memory, on the CPU too",
    r"^error: out of memory at '.*' with one point at a time at 1/4 of its size; free some",
    5,
    "nothing unfinished",
)
def _(stage: Stage) -> Outcome:
    network = NETWORKS["kornia"]("mobile_sam")
    fill_randomly(network)
    weights = stage.root / "mine.pt"
    torch.save(network.state_dict(), weights)
    words = ("masks.__main__", "-s", str(stage.scene), "-o", str(stage.out), "--kind", "mobile_sam")
    words += ("--sam-checkpoint", str(weights), "--points-per-side", "1", "--device", "cpu")
    ended = stage.commands.run(*words, more_memory=300 << 20)
    assert ended.stderr.count("out of memory at 'img_0000.jpg'") > 3
    assert list(stage.out.glob("*.tmp")) == []
    return ended


# ---- E. Numbers; more in test_numbers.py


@case("E3", "no Gaussian in view", r"done in", 0)
def _(stage: Stage) -> Outcome:
    rows = make_rows()
    for point in rows.points:
        point.xyz[2] = -50.0
    write_binary(rows, stage.scene / "sparse" / "0")
    return stage.train()


def injected(stage: Stage, fault: str, *extra: str) -> Outcome:
    """A short run as a process of its own, with `fault` done to `run` whenever it saves."""
    script = (
        "import torch\n"
        "from arguments.cli import run_command\n"
        "from train import command\n"
        "from training.loop import Run\n"
        "save = Run.save\n"
        "def spoilt(run):\n"
        "    path = save(run)\n"
        f"    {fault}\n"
        "    return path\n"
        "Run.save = spoilt\n"
        "run_command(command)\n"
    )
    words = ["-s", str(stage.scene), "-m", str(stage.out), "--method", "single", "--device", "cpu"]
    words += ["--iterations", str(LAST), "--checkpoint_every", "5", *extra]
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True
    )
    return Outcome(ended.returncode, ended.stderr, 0, time.perf_counter() - began, 0)


@case("E2", "a Gaussian without size", r"done in \d+ s: 199 Gaussians", 0, "count in run.json")
def _(stage: Stage) -> Outcome:
    spoil = "run.parts.state.result.log_scales.data[5] -= 99 * (run.parts.state.step == 5)"
    rounds = ("--densification_interval", "2", "--densify_from_iter", "1", "--densify_until_iter")
    ended = injected(stage, spoil, *rounds, "12", "--densify_grad_threshold", "1e9")
    assert stage.record()["num_degenerate"] == 1
    return ended


@case("E5", "more Gaussians than may be", r"^warning: step 12: 230 Gaussians, as many as may be", 0)
def _(stage: Stage) -> Outcome:
    growing = ("--densify_grad_threshold", "1e-12", "--densification_interval", "2")
    ended = stage.train("--max_gaussians", "230", "--densify_from_iter", "1", *growing)
    assert len(read_ply(next(stage.out.glob("point_cloud/*/*.ply"))).means) == 230
    assert stage.record()["max_gaussians"] == 230
    assert sum("as many as may be" in text for text in stage.record()["warnings"]) == 1
    return ended


@case(
    "E4",
    "all Gaussians become transparent",
    r"error: step 9: 200 of 200 Gaussians .* transparent, for 3 rounds now; look at the",
    7,
    "the last checkpoint, no model",
)
def _(stage: Stage) -> Outcome:
    rounds = ("--densify_from_iter", "1", "--densification_interval", "3", "--densify_until_iter")
    faint = ("--prune_opacity", "0.999", "--densify_grad_threshold", "1e9")
    ended = stage.train(*rounds, "12", *faint, "--checkpoint_every", "5")
    assert (stage.out / "checkpoints" / "step_000005.json").is_file()
    assert not any(stage.out.glob("point_cloud/*/*"))
    assert (stage.record()["status"], stage.record()["step"]) == ("failed", 9)
    return ended


@case("E6", "everything masked", r"keep no pixel of any image; --invert-masks\?", 3)
def _(stage: Stage) -> Outcome:
    make_masks((WIDTH, HEIGHT), 0, count=12)(stage.scene)
    return stage.train("--masks", "mymasks")


@case("E8", "a scene of a million units, or of a few ten-thousandths", r"the scene's extent is", 0)
def _(stage: Stage) -> Outcome:
    ended = stage.train("--quiet")
    for scale in (1e6, 1e-4):
        rows = make_rows()
        for point in rows.points:
            point.xyz = [scale * value for value in point.xyz]
        for image in rows.images:
            image.translation = [scale * value for value in image.translation]
        write_binary(rows, stage.scene / "sparse" / "0")
        ended = stage.train("--overwrite")
        assert ended.code == 0, ended.stderr
        means = read_ply(next(stage.out.glob("point_cloud/*/*.ply"))).means
        assert len(means) > 100
        assert 0.5 * scale < float(means.abs().max()) < 10 * scale
    return ended


@case("E8", "a scene far from its origin", r"lose digits there, move the model", 0)
def _(stage: Stage) -> Outcome:
    rows = make_rows()
    for point in rows.points:
        point.xyz[1] += 1e5
    for image in rows.images:  # rotations are about the second axis, so it stays what it is
        image.translation[1] -= 1e5
    write_binary(rows, stage.scene / "sparse" / "0")
    return stage.train()


@case("E9", "photos of 2x1 to 17x33", r"done in", 0)
def _(stage: Stage) -> Outcome:
    rows = make_rows()
    sizes = [(2, 1), (1, 3), (16, 16), (17, 33), (15, 1)]
    rows.cameras = [
        type(rows.cameras[0])(i, "PINHOLE", w, h, [30.0, 30.0, w / 2, h / 2])
        for i, (w, h) in enumerate(sizes, start=1)
    ]
    for number, image in enumerate(rows.images):
        image.camera_id, image.keypoints = 1 + number % len(sizes), []
    make_scene(stage.root / "scene", rows)
    return stage.train()


# ---- F. Resources


@case("F1", "memory too small by forecast", r"^warning: plan: 300000 Gaussians, .*; using cap", 0)
def _(stage: Stage) -> Outcome:
    with_points(stage.scene, 300_000)
    ended = stage.train(more_memory=600 << 20)
    record = stage.record()
    plan = record["plan"]
    assert plan["num_gaussians"] == record["max_gaussians"] < 300_000
    parts = ("gaussians", "photos", "masks", "pictures", "lists", "reserve")
    assert 0 < sum(plan[name] for name in parts) <= plan["free"] <= 600 << 20
    lines = ended.stderr.splitlines()
    (said,) = (i for i, line in enumerate(lines) if "plan: " in line and "tile lists" in line)
    assert "time: about" in lines[said + 1]
    return ended


@case("F4", "host memory short", r"error: .*out of memory", 5, "no model under a final name")
def _(stage: Stage) -> Outcome:
    ended = stage.train("-r", "3000", more_memory=400 << 20)  # the photos take 240 MB twice
    assert not any(stage.out.glob("point_cloud/*/point_cloud.ply"))
    assert stage.record()["code"] == 5
    return ended


@case("F4", "photos that do not fit into memory", r"12 photos take [\d.]+ GB, .* are free", 5, "")
def _(stage: Stage) -> Outcome:
    return stage.train("-r", "60000")


@case("F5", "a GPU is asked for and there is none", r"--device cuda", 4, "run.json")
def _(stage: Stage) -> Outcome:
    ended = stage.train("--device", "cuda", environment={"CUDA_VISIBLE_DEVICES": ""})
    assert stage.record()["status"] == "failed"
    assert stage.record()["code"] == 4
    return ended


@case(
    "F7",
    "a kernel fails (its error, raised on a CPU)",
    r"^error: a bug in this program: AcceleratorError: CUDA error: an illegal memory access .*; "
    r"this process cannot use the GPU any more; .*--resume .*--check_kernels.*; report /",
    1,
    "the last checkpoint, no model; test_faults.py on a GPU",
)
def _(stage: Stage) -> Outcome:
    error = "torch.AcceleratorError('CUDA error: an illegal memory access was encountered')"
    throw = f"(_ for _ in ()).throw({error}) if run.parts.state.step == 5 else None"
    ended = injected(stage, throw)
    assert (stage.record()["status"], stage.record()["code"]) == ("failed", 1)
    assert "illegal memory access" in str(stage.record()["reason"])
    assert (stage.out / "checkpoints" / "step_000005.json").is_file()
    assert not any(stage.out.glob("point_cloud/*/*"))
    return ended


@case(
    "F8",
    "disk full during a checkpoint",
    r"checkpoint 5 not saved: No space left on device \(\d+ MB free\); keeping the one before",
    0,
    "the older checkpoint; the next is saved",
)
def _(stage: Stage) -> Outcome:
    full = Fault(str(stage.out / "checkpoints" / "step_000005"), 1, int(ALL), errno.ENOSPC, True)
    ended = stage.train("--checkpoint_every", "5", fault=full)
    kept = sorted(path.name for path in (stage.out / "checkpoints").glob("*.json"))
    assert kept == ["step_000010.json", "step_000012.json"]
    return ended


@case("F9", "disk full at the model", r"No space left on device", 6, "checkpoint, no partial PLY")
def _(stage: Stage) -> Outcome:
    full = Fault(str(stage.out / "point_cloud"), 1, int(Operations.WRITE), errno.ENOSPC, True)
    ended = stage.train(fault=full)
    assert not any(p.is_file() for p in stage.out.glob("point_cloud/**/*"))
    assert stage.record()["code"] == 6
    assert (stage.out / "checkpoints" / f"step_{LAST:06d}.json").is_file()
    return ended


@case("F10", "the disk fails", r"Input/output error in '.*'; check the disk", 6, "as F8")
def _(stage: Stage) -> Outcome:
    broken = Fault(str(stage.out / "config.json"), 1, int(ALL), errno.EIO, True)
    return stage.train(fault=broken)


@case("F11", "no home and no temporary folder", r"done in", 0)
def _(stage: Stage) -> Outcome:
    gone = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCH_HOME"), "/nonexistent")
    return stage.train(environment=gone)


@case(
    "F12",
    "no network at all",
    r"written: .*metrics.json",
    0,
    "model, pictures, metrics; lpips: null",
)
def _(stage: Stage) -> Outcome:
    ended = stage.train("--eval", "--method", "dual", has_network=False)
    assert ended.code == 0, ended.stderr
    shown = stage.commands.run("render", "-m", str(stage.out), has_network=False)
    assert shown.code == 0, shown.stderr
    measured = evaluated(stage, has_network=False)
    metrics = json.loads((stage.out / "metrics.json").read_text())
    assert metrics["psnr"] > 0
    assert metrics["lpips_reason"]
    assert list(stage.out.glob("renders/test/*/*.png"))
    return measured


# ---- G. Interruption and checkpoints


@case("G1", "killed, then resumed", r"resuming from step \d+ \(verified\)", 0, "exact: test_kills")
def _(stage: Stage) -> Outcome:
    killed = stage.train("--checkpoint_every", "5", fault=Fault(str(stage.out / "point_cloud"), 2))
    assert killed.code == -signal.SIGKILL
    assert stage.record()["status"] == "running"
    return stage.train("--resume")


@case("G2", "killed inside a checkpoint write", r"ignored unfinished step_\d+", 0, "no *.tmp")
def _(stage: Stage) -> Outcome:
    inside = Fault(str(stage.out / "checkpoints" / "step_000010"), 4)
    killed = stage.train("--checkpoint_every", "5", fault=inside)
    assert killed.code == -signal.SIGKILL
    ended = stage.train("--resume")
    assert list(stage.out.rglob("*.tmp")) == []
    return ended


def _stopped_by(number: int, code: int) -> Play:
    def play(stage: Stage) -> Outcome:
        send = signalled(number, "checkpoints/step_000005.json")(stage.out)
        ended = stage.train(
            *("--iterations", FOREVER, "--checkpoint_every", "5", "--test_iterations", "1"),
            meanwhile=send,
        )
        record = stage.record()
        assert (record["status"], record["code"]) == ("stopped", code)
        assert f"step {record['step']}," in str(record["reason"])
        saved = stage.out / "checkpoints" / f"step_{record['step']:06d}.json"
        assert saved.is_file()
        return ended

    return play


STOPPED = r"stopped at step \d+, saved .*; go on with --resume"
for name, number, code in (
    ("SIGTERM", signal.SIGTERM, 143),
    ("SIGUSR1", signal.SIGUSR1, 143),
    ("SIGINT", signal.SIGINT, 130),
):
    case("G3", name, STOPPED, code, "checkpoint of that step")(_stopped_by(number, code))
case("G5", "SIGHUP", STOPPED, 129, "checkpoint of that step")(_stopped_by(signal.SIGHUP, 129))


@case("G4", "SIGTERM before the first step", r"stopped by SIGTERM before", 143, "run.json")
def _(stage: Stage) -> Outcome:
    send = signalled(signal.SIGTERM, "run.json")(stage.out)
    ended = stage.train("--iterations", FOREVER, meanwhile=send)
    assert stage.record()["status"] == "stopped"
    assert stage.record()["code"] == 143
    return ended


@case(
    "G6", "newest checkpoint damaged", r"digest differs in '.*'; trying the one before", 0, "*.bad"
)
def _(stage: Stage) -> Outcome:
    stage.trained("--checkpoint_every", "5")
    newest = stage.out / "checkpoints" / f"step_{LAST:06d}.safetensors"
    content = bytearray(newest.read_bytes())
    content[-9] ^= 4
    newest.write_bytes(content)
    ended = stage.train("--resume")
    assert newest.with_suffix(".safetensors.bad").is_file()
    return ended


@case("G6", "all checkpoints damaged", r"no checkpoint in '.*' is intact", 8, "*.bad")
def _(stage: Stage) -> Outcome:
    stage.trained()
    for path in (stage.out / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    return stage.train("--resume")


@case(
    "G7",
    "resumed with other settings",
    r"made with another --sh_degree 3 \(now 2\), --opacity_lr 0.1 \(now 0.05\); give the old",
    8,
    "untouched",
)
def _(stage: Stage) -> Outcome:
    stage.trained()
    changed = ("--resume", "--iterations", "20", "--opacity_lr", "0.05", "--sh_degree", "2")
    return stage.untouched(lambda: stage.train(*changed))


@case("G8", "resumed with other data", r"COLMAP model changed since; bring the old", 8, "untouched")
def _(stage: Stage) -> Outcome:
    stage.trained()
    rows = make_rows()
    rows.images[0].translation[0] += 0.1
    write_binary(rows, stage.scene / "sparse" / "0")
    return stage.untouched(lambda: stage.train("--resume", "--iterations", "20"))


@case("G9", "resumed past the old end", r"--iterations 12 \(now 20\): schedules are those of", 0)
def _(stage: Stage) -> Outcome:
    stage.trained()
    ended = stage.train("--resume", "--iterations", "20")
    assert stage.record()["step"] == 20
    return ended


@case("G9", "resumed when finished", r"already at step 12", 0)
def _(stage: Stage) -> Outcome:
    stage.trained()
    return stage.train("--resume")


@case("G10", "a PLY given as a checkpoint", r"a PLY has no optimizer state", 8, "untouched")
def _(stage: Stage) -> Outcome:
    (stage.root / "x.ply").write_bytes(b"ply\n")
    return stage.train("--start_checkpoint", str(stage.root / "x.ply"))


@case(
    "G11", "a pickle from a stranger", r"a pickle can run code and is never opened", 8, "no effect"
)
def _(stage: Stage) -> Outcome:
    canary = stage.root / "canary"
    code = f"cposix\nmkdir\n(V{canary}\nI511\ntR.".encode()
    (stage.root / "chkpnt7000.pth").write_bytes(code)
    ended = stage.train("--start_checkpoint", str(stage.root / "chkpnt7000.pth"))
    assert not canary.exists()
    return ended


@case("G12", "a hostile tensor file", r"the header is not JSON; trying", 8, "as G6")
def _(stage: Stage) -> Outcome:
    stage.trained()
    path = stage.out / "checkpoints" / f"step_{LAST:06d}.safetensors"
    path.write_bytes((100_000).to_bytes(8, "little") + b"[" * 200_000)
    return stage.train("--resume")


@case("G13", "two runs in one OUT", r"is in use by pid \d+ on host", 2, "first run untouched")
def _(stage: Stage) -> Outcome:
    stage.trained()
    with (stage.out / "run.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("pid 4711 on host somewhere\n")
        held.flush()
        return stage.untouched(lambda: stage.train("--overwrite"))


@case("G13", "stale lock of a crashed run", r"after step \d+", 0)
def _(stage: Stage) -> Outcome:
    killed = stage.train(fault=Fault(str(stage.out / "point_cloud"), 2))
    assert killed.code == -signal.SIGKILL
    return stage.train("--resume")


@case("G14", "resumed with another number of threads", r"resuming from step 12", 0, "same bytes")
def _(stage: Stage) -> Outcome:
    last = stage.out / "checkpoints" / "step_000020.safetensors"
    contents = []
    for threads in (1, 2):
        shutil.rmtree(stage.out, ignore_errors=True)
        stage.trained("--sh_interval", "4", "--position_lr_max_steps", "99")
        ended = stage.train(
            *("--resume", "--iterations", "20", "--sh_interval", "4"),
            *("--position_lr_max_steps", "99"),
            threads=threads,
        )
        contents.append(last.read_bytes())
    assert contents[0] == contents[1]
    return ended


# ---- I. Evaluation


def evaluated(stage: Stage, *extra: str, **options: object) -> Outcome:
    """evaluate.py on the stage's run."""
    words = ("evaluate", "-m", str(stage.out), *extra)
    return stage.commands.run(*words, **options)  # type: ignore[arg-type]


@case("I1", "metrics after training and from disk", r"written: .*metrics.json", 0, "the same PSNR")
def _(stage: Stage) -> Outcome:
    ended = stage.train("--eval", "--test_iterations", str(LAST))
    (said,) = re.findall(r"step 12: test PSNR ([\d.]+) dB", ended.stderr)
    measured = evaluated(stage)
    metrics = json.loads((stage.out / "metrics.json").read_text())
    assert said == f"{metrics['psnr']:.2f}"
    assert metrics["protocol"]["name"].startswith("nerfbaselines")
    return measured


@case("I3", "no test photos", r"the test split is empty", 0, "no metrics.json")
def _(stage: Stage) -> Outcome:
    stage.trained()
    ended = evaluated(stage)
    assert not (stage.out / "metrics.json").exists()
    return ended


@case("I4", "no LPIPS weights", r"written: .*metrics.json", 0, "lpips: null and the reason")
def _(stage: Stage) -> Outcome:
    stage.trained("--eval")
    ended = evaluated(stage, environment={"HOME": "/nonexistent", "TORCH_HOME": "/nonexistent"})
    metrics = json.loads((stage.out / "metrics.json").read_text())
    assert metrics["lpips"] is None
    assert metrics["lpips_reason"]
    return ended


@case("H3", "no model in OUT", r"no run in '.*': config.json is missing", 3)
def _(stage: Stage) -> Outcome:
    stage.out.mkdir()
    return evaluated(stage)


@case("H5", "the model's PLY is cut short", r"ends inside row \d+ of \d+ of 'vertex'", 3)
def _(stage: Stage) -> Outcome:
    stage.trained("--eval")
    path = next(stage.out.glob("point_cloud/*/point_cloud.ply"))
    path.write_bytes(path.read_bytes()[:-3])
    return evaluated(stage)


# ---- K. Surroundings


def doctor(**environment: str) -> Outcome:
    """The doctor as a process of its own."""
    words = [sys.executable, "-m", "arguments.doctor"]
    environment = {"CUDA_VISIBLE_DEVICES": "", **environment}
    ended = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    return Outcome(ended.returncode, ended.stderr, 0, 0.0, 0)


def before_all(folder: Path) -> str:
    """A PYTHONPATH that has a folder before all others."""
    return os.pathsep.join([str(folder), *filter(None, sys.path)])


def copied_rasterizer(stage: Stage) -> Path:
    """A folder with the rasterizer's package less its compiled library."""
    package = Path(diff_gaussian_rasterization.__file__).parent
    hidden = shutil.ignore_patterns("*.so", "__pycache__")
    return shutil.copytree(package, stage.root / "site" / package.name, ignore=hidden)


@case("K1", "doctor on a machine without compiler and GPU", r"^CPU only: ok", 0, "nothing")
def _(stage: Stage) -> Outcome:
    only_python = stage.root / "bin"
    only_python.mkdir()
    return doctor(PATH=str(only_python))


@case("K1", "operators from a wheel, on a machine without compiler", r"done in", 0)
def _(stage: Stage) -> Outcome:
    site = stage.root / "site"
    without_compiler = {"PATH": str(stage.root), "PYTHONPATH": before_all(site)}

    def python(*words: str) -> Outcome:
        ended = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, **without_compiler, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        return Outcome(ended.returncode, ended.stderr + ended.stdout, 0, 0.0, 0)

    wheel = str(packed_wheel(stage.root / "wheels"))
    installed = python("-m", "pip", "install", "-q", "--no-deps", "--target", str(site), wheel)
    assert installed.code == 0, installed.stderr
    loaded = python("-c", "import diff_gaussian_rasterization as d; print(d.__file__)")
    assert str(site) in loaded.stderr
    checked = doctor(**without_compiler)
    assert checked.code == 0, checked.stderr
    words = ["-s", str(stage.scene), "-m", str(stage.out), "--method", "single"]
    return python("train.py", *words, "--iterations", str(LAST))


def packed_wheel(folder: Path) -> Path:
    """The operators that these tests run with as a wheel, as scripts/wheels.sh packs them."""
    library = Path(diff_gaussian_rasterization.__file__).parent / "_C.so"
    words = ["pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(folder)]
    subprocess.run(
        [sys.executable, "-m", *words, str(RASTERIZER)],
        env={**os.environ, "TWINSPLAT_LIBRARY": str(library)},
        check=True,
    )
    return next(folder.glob("*-py3-none-linux_*.whl"))


@case("K2", "doctor: the rasterizer is not built", r"rasterizer is not built; run: ", 4)
def _(stage: Stage) -> Outcome:
    return doctor(PYTHONPATH=before_all(copied_rasterizer(stage).parent))


@case("K2", "doctor: built for another torch", r"built for another torch or system", 4)
def _(stage: Stage) -> Outcome:
    package = copied_rasterizer(stage)
    (package / "_C.so").write_bytes(b"not for this system")
    return doctor(PYTHONPATH=before_all(package.parent))


@case("K2", "doctor: two copies of torch", r"two copies of torch: .* is used, .*; run: ", 4)
def _(stage: Stage) -> Outcome:
    other = stage.root / "site" / "torch"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    return doctor(PYTHONPATH=os.pathsep.join([*filter(None, sys.path), str(other.parent)]))


@case("K2", "doctor: a GPU, and a torch without CUDA", r"a GPU \(NVIDIA H200\), but torch", 4)
def _(stage: Stage) -> Outcome:
    path = os.pathsep.join([str(fake_driver(stage.root / "bin")), os.environ["PATH"]])
    return doctor(PATH=path, CUDA_VISIBLE_DEVICES="0", PYTHONPATH=before_all(hidden_cuda(stage)))


def hidden_cuda(stage: Stage) -> Path:
    """A folder whose start-up file makes torch one without CUDA, whatever is installed."""
    folder = stage.root / "start"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import torch.version\ntorch.version.cuda = None\n")
    return folder


@case("K3", "spaces and other letters in paths", r"done in", 0)
def _(stage: Stage) -> Outcome:
    odd = Stage(stage.root / "Orte mit Lücken 場所", stage.commands)
    odd.root.mkdir()
    return odd.train()


@case("K5", "locale C", r"done in", 0)
def _(stage: Stage) -> Outcome:
    return stage.train(environment={"LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "7"})


@case("A7", "too many photos missing", r"3 images missing .*--allow-missing 1.0", 3, "run.json")
def _(stage: Stage) -> Outcome:
    remove_photos(3)(stage.scene)
    ended = stage.train()
    assert stage.record()["status"] == "failed"
    return ended


@case("A6", "no image folder", r"0 found in .*; --images DIR", 3, "run.json")
def _(stage: Stage) -> Outcome:
    rename("images", "photos")(stage.scene)
    return stage.train()
