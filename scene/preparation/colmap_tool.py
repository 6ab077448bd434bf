"""COLMAP as a program that is called: pycolmap in a process of its own, or the `colmap` binary.

Knows the steps of a reconstruction and of an undistortion, and nothing of datasets.
"""

import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arguments.messages import ExitCode, Messages, UserError
from scene.colmap import count_images, is_model

ToolName = Literal["auto", "pycolmap", "colmap"]
Matcher = Literal["exhaustive", "sequential"]

LAST_LINES = 3  # of what a failed command said
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ColmapTool:
    """How to call COLMAP.

    Attributes:
        name: what is called, in words.
        command: the words before the name of a step.
        use_gpu: find and match features on a GPU where there is one.
    """

    name: str
    command: tuple[str, ...]
    use_gpu: bool = True

    def run(self, step: str, words: Sequence[str | Path], log: Path, messages: Messages) -> None:
        """Run one step to its end; what it says goes to the end of `log`.

        Raises:
            UserError: the step failed; with its last words.
        """
        began = time.perf_counter()
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": paths}
        with log.open("ab") as out:
            done = subprocess.run(
                [*self.command, step, *map(str, words)],
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
                env=environment,
            )
        if done.returncode:
            said = " | ".join(_last_lines(log)) or "nothing"
            raise UserError(
                f"{self.name} {step} failed ({done.returncode}), all of it in {log}: {said[-150:]}"
            )
        messages.note(f"{self.name} {step}: {time.perf_counter() - began:.0f} s")

    def gpu_words(self, step: str, group: str) -> list[str]:
        """The flag that keeps a step off the GPU, as this version of COLMAP spells it.

        Args:
            group: `Extraction` or `Matching`.
        """
        if self.use_gpu:
            return []
        asked = subprocess.run(
            [*self.command, step, "-h"], capture_output=True, text=True, check=False, cwd=ROOT
        )
        flags = [f"--{family}{group}.use_gpu" for family in ("Feature", "Sift")]
        said = asked.stdout + asked.stderr
        known = next((flag for flag in flags if flag in said), flags[0])
        return [known, "0"]


def find_tool(choice: ToolName, use_gpu: bool, messages: Messages) -> ColmapTool:
    """The COLMAP to call: pycolmap where it is installed, else the binary.

    Raises:
        UserError: there is none, or not the one that was asked for.
    """
    has_package = importlib.util.find_spec("pycolmap") is not None
    binary = shutil.which("colmap")
    if has_package and choice in ("auto", "pycolmap"):
        words = (sys.executable, "-m", "scene.preparation.pycolmap_commands")
        tool = ColmapTool("pycolmap", words, use_gpu)
    elif binary and choice in ("auto", "colmap"):
        tool = ColmapTool("colmap", (binary,), use_gpu)
    else:
        what = {"auto": "neither pycolmap nor colmap is", "pycolmap": "pycolmap is not"}
        raise UserError(
            f"{what.get(choice, 'no program colmap is')} installed; pip install 'pycolmap>=4.2', "
            "or install COLMAP and put it on the PATH",
            ExitCode.ENVIRONMENT,
        )
    messages.note(f"COLMAP: {tool.name}")
    return tool


@dataclass(frozen=True)
class Reconstruction:
    """How photos are to be registered.

    Attributes:
        camera_model: COLMAP's name of the model.
        single_camera: one camera took all photos.
        matcher: exhaustive compares every pair; sequential only photos near in name.
        names: the photos to use, relative to their folder; all when empty.
    """

    camera_model: str = "SIMPLE_RADIAL"
    single_camera: bool = True
    matcher: Matcher = "exhaustive"
    names: tuple[str, ...] = ()


def reconstruct(
    tool: ColmapTool, images: Path, work: Path, how: Reconstruction, messages: Messages
) -> Path:
    """Features, matches and poses of the photos in `images`; the folder of the largest model.

    What an interrupted call left in `work` is used again by COLMAP itself.

    Raises:
        UserError: a step failed, or no two photos could be registered.
    """
    work.mkdir(parents=True, exist_ok=True)
    log, database = work / "colmap.log", work / "database.db"
    words: list[str | Path] = ["--database_path", database, "--image_path", images]
    words += ["--ImageReader.single_camera", str(int(how.single_camera))]
    words += ["--ImageReader.camera_model", how.camera_model]
    known = _first_camera(database) if how.single_camera else None
    if known is not None:  # COLMAP would make another one for the photos that are left
        words += ["--ImageReader.existing_camera_id", str(known)]
    if how.names:
        words += ["--image_list_path", _list_file(work / "names.txt", how.names)]
    words += tool.gpu_words("feature_extractor", "Extraction")
    tool.run("feature_extractor", words, log, messages)
    matcher = f"{how.matcher}_matcher"
    words = ["--database_path", database, *tool.gpu_words(matcher, "Matching")]
    tool.run(matcher, words, log, messages)
    models = work / "sparse"
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir()
    words = ["--database_path", database, "--image_path", images, "--output_path", models]
    tool.run("mapper", words, log, messages)
    found = sorted(folder for folder in models.iterdir() if is_model(folder))
    if not found:
        raise UserError(
            f"no photos of {images} could be registered with each other, see {log}; take more "
            "photos of the same place, with more overlap and texture"
        )
    best = max(found, key=count_images)
    if len(found) > 1:
        counts = ", ".join(str(count_images(folder)) for folder in found)
        messages.warn(
            f"the photos fall into {len(found)} models ({counts} photos); the largest is used"
        )
    return best


def undistort(
    tool: ColmapTool,
    images: Path,
    model: Path,
    names: Sequence[str],
    longest_side: int | None,
    out: Path,
    messages: Messages,
) -> None:
    """Pinhole photos in `out`/images and their model in `out`/sparse, as COLMAP makes them.

    Args:
        names: the photos to undistort; the model keeps all.
        longest_side: of the new photos in pixels; None keeps the size.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    chosen = _list_file(out / "names.txt", names)
    words: list[str | Path] = ["--image_path", images, "--input_path", model]
    words += ["--output_path", out, "--image_list_path", chosen]
    if longest_side is not None:
        words += ["--max_image_size", str(longest_side)]
    tool.run("image_undistorter", words, out.with_suffix(".log"), messages)


def _first_camera(database: Path) -> int | None:
    """The id of a camera in COLMAP's database; None where there is none yet."""
    if not database.is_file():
        return None
    with closing(sqlite3.connect(database)) as connection:
        try:
            row = connection.execute("SELECT MIN(camera_id) FROM cameras").fetchone()
        except sqlite3.DatabaseError:  # it was interrupted before it had its tables
            return None
    return None if row[0] is None else int(row[0])


def _list_file(path: Path, names: Sequence[str]) -> Path:
    path.write_text("".join(f"{name}\n" for name in names), "utf-8")
    return path


def _last_lines(log: Path) -> list[str]:
    lines = log.read_text("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()][-LAST_LINES:]
