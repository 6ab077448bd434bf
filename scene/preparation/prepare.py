"""From a scene of a download to a folder that train.py and nerfbaselines load as it is.

The folder gets its final name when it is complete. The download is only read.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import to_json
from scene.atomic import sync_folder
from scene.colmap import read_model
from scene.preparation.colmap_tool import ColmapTool, Reconstruction, reconstruct, undistort
from scene.preparation.downloads import Download
from scene.preparation.protocols import DatasetProtocol
from scene.preparation.subset import write_subset

RECORD = "preparation.json"
FEWEST_REGISTERED = 0.8  # share of the listed photos


@dataclass(frozen=True)
class Preparation:
    """How a folder was made; a folder with the same record need not be made again.

    Attributes:
        longest_side: of the photos in pixels; None as they came.
        colmap: what undistorted, and registered, the photos; empty where neither was needed.
    """

    dataset: str
    scene: str
    download: str
    longest_side: int | None
    colmap: str
    num_train: int
    num_test: int


def prepare_scene(
    protocol: DatasetProtocol,
    download: Download,
    out: Path,
    tool: ColmapTool | None,
    messages: Messages,
) -> Path:
    """Make `out`/SCENE; what is there and complete stays.

    Args:
        tool: COLMAP; None where nothing has to be registered or undistorted.

    Raises:
        UserError: COLMAP failed, too few photos could be registered, or another preparation is
            in the way.
    """
    scene = download.scene
    final = out / scene.name
    if _is_done(final, protocol, download):
        messages.note(f"{scene.name}: prepared already in {final}")
        return final
    work = out / f".{scene.name}.partial"  # kept when COLMAP is interrupted: it goes on from there
    work.mkdir(parents=True, exist_ok=True)
    ready = work / "scene"
    shutil.rmtree(ready, ignore_errors=True)
    messages.note(f"{scene.name}: {download.images}")
    if tool is None:
        _copy_as_delivered(download, ready)
    else:
        _undistorted(download, tool, work, ready, messages)
    train, test = _write_lists(download, ready, messages)
    _write_benchmark(protocol, scene.name, ready)
    record = Preparation(
        protocol.name,
        scene.name,
        str(download.images.resolve()),
        scene.longest_side,
        "" if tool is None else tool.name,
        train,
        test,
    )
    (ready / RECORD).write_text(to_json(record), "utf-8")
    ready.rename(final)
    sync_folder(out)
    shutil.rmtree(work)
    messages.note(f"{scene.name}: {train} train, {test} test photos in {final}")
    return final


def _is_done(final: Path, protocol: DatasetProtocol, download: Download) -> bool:
    """Whether the scene has been prepared in this way before.

    Raises:
        UserError: the folder is something else.
    """
    if not final.exists():
        return False
    try:
        record = json.loads((final / RECORD).read_text("utf-8"))
        made = (record["dataset"], record["scene"], record["longest_side"], record["download"])
    except (OSError, ValueError, KeyError, TypeError):
        made = None
    scene = download.scene
    place = str(download.images.resolve())
    if made != (protocol.name, scene.name, scene.longest_side, place):
        what = "is not from this command" if made is None else f"was prepared from {made[3]}"
        raise UserError(
            f"'{final}' exists and {what}; remove it or give another -o", ExitCode.FILE_SYSTEM
        )
    return True


def _undistorted(
    download: Download, tool: ColmapTool, work: Path, ready: Path, messages: Messages
) -> None:
    """Photos and model as COLMAP undistorts them, at the size of the protocol."""
    model = download.model
    if model is None:
        model = reconstruct(
            tool, download.images, work / "reconstruction", Reconstruction(), messages
        )
    names = sorted(image.name for image in read_model(model, messages).images)
    made = work / "undistorted"
    side = download.scene.longest_side
    undistort(tool, download.images, model, names, side, made, messages)
    (ready / "sparse").mkdir(parents=True)
    (made / "images").rename(ready / "images")
    (made / "sparse").rename(ready / "sparse" / "0")


def _copy_as_delivered(download: Download, ready: Path) -> None:
    """The listed photos and their part of the model."""
    names = (*download.split.train, *download.split.test)
    if download.model is None:
        raise ValueError("photos without poses cannot be taken as they are")
    (ready / "sparse").mkdir(parents=True)
    write_subset(download.model, set(names), ready / "sparse" / "0")
    for name in names:
        path = ready / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(download.images / name, path)


def _write_lists(download: Download, ready: Path, messages: Messages) -> tuple[int, int]:
    """train_list.txt and test_list.txt with the photos that have a pose; how many each has.

    Raises:
        UserError: too many listed photos have none.
    """
    posed = {image.name for image in read_model(ready / "sparse" / "0", messages).images}
    counts = []
    for label, names in (("train", download.split.train), ("test", download.split.test)):
        kept = [name for name in names if name in posed]
        lost = sorted(set(names) - posed)
        if len(kept) < FEWEST_REGISTERED * len(names):
            raise UserError(
                f"{download.scene.name}: COLMAP registered {len(kept)} of {len(names)} {label} "
                f"photos (missing: {lost[0]}); look at its log, or give --colmap the other program"
            )
        if lost:
            messages.warn(
                f"{download.scene.name}: {len(lost)} of {len(names)} {label} photos were not "
                f"registered (first: {lost[0]}); left out"
            )
        (ready / f"{label}_list.txt").write_text("".join(f"{n}\n" for n in kept), "utf-8")
        counts.append(len(kept))
    return counts[0], counts[1]


def _write_benchmark(protocol: DatasetProtocol, scene: str, ready: Path) -> None:
    """nb-info.json: what nerfbaselines reads of a local folder."""
    info = {
        "loader": "colmap",
        "loader_kwargs": {"images_path": "images", "colmap_path": "sparse/0"},
        "id": protocol.benchmark_id,
        "scene": scene.replace("_", "-"),
        "type": None,
        "evaluation_protocol": protocol.evaluation,
    }
    (ready / "nb-info.json").write_text(json.dumps(info, indent=1) + "\n", "utf-8")


def check_output(out: Path, download: Path) -> None:
    """Refuse to write into the download.

    Raises:
        UserError: the folder lies in it, or cannot be made.
    """
    if out.resolve().is_relative_to(download.resolve()):
        raise UserError(
            f"-o '{out}' lies in the download '{download}', which is only read; give another",
            ExitCode.USAGE,
        )
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise UserError(f"cannot write '{out}'; give another -o", ExitCode.FILE_SYSTEM)
