"""What the official downloads of the benchmarks hold, and what of it is missing in a folder.

Reads lists, models and the photos that COLMAP will read; writes nothing.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arguments.messages import Messages, UserError
from scene.colmap import is_model, read_model
from scene.colmap_records import ColmapModel
from scene.images import BadPhotoError, decode_photo
from scene.photo_files import list_photos
from scene.preparation.protocols import DatasetProtocol, SceneProtocol
from scene.splits import Names, Split, choose_split

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
MOST_NAMED = 4  # of missing things, in one line
QUIET = Messages(quiet=True)


@dataclass(frozen=True)
class Download:
    """One complete scene of a download.

    Attributes:
        images: folder of the photos.
        model: folder of the COLMAP model; None where photos come without poses.
        split: which photos train and which test.
    """

    scene: SceneProtocol
    images: Path
    model: Path | None
    split: Split


class _Gap(Exception):  # noqa: N818 - it is no error until all gaps are known
    """What a scene lacks, in words."""


def find_downloads(
    protocol: DatasetProtocol, root: Path, scenes: Sequence[SceneProtocol], messages: Messages
) -> list[Download]:
    """The chosen scenes of a download.

    Raises:
        UserError: something is missing or damaged; one line names it.
    """
    if not root.is_dir():
        raise UserError(f"download '{root}' not found; {protocol.title} is at {protocol.origin}")
    found, gaps = [], []
    for scene in scenes:
        try:
            found.append(_find(protocol, root, scene, messages))
        except _Gap as gap:
            gaps.append(f"{scene.folder}{gap}")
        except UserError as damage:
            raise UserError(f"{scene.folder}: {damage}", damage.code) from None
    if gaps:
        shown = ", ".join(gaps[:MOST_NAMED])
        more = f" and {len(gaps) - MOST_NAMED} more" if len(gaps) > MOST_NAMED else ""
        packed = sorted(p.name for p in root.iterdir() if p.name.endswith(ARCHIVES))
        hint = f"unpack {packed[0]}" if packed else f"it is at {protocol.origin}"
        raise UserError(
            f"'{root}' is no complete {protocol.title} download, missing: {shown}{more}; {hint}, "
            "or choose with --scenes"
        )
    return found


def _find(
    protocol: DatasetProtocol, root: Path, scene: SceneProtocol, messages: Messages
) -> Download:
    folder = _scene_folder(root, scene)
    if protocol.name == "onthego":
        return _onthego(folder, scene)
    if protocol.name == "robustnerf":
        return _robustnerf(folder, scene, messages)
    return _phototourism(root, folder, scene, messages)


def _scene_folder(root: Path, scene: SceneProtocol) -> Path:
    """The scene's folder in the download, or one level deeper where archives were unpacked.

    Raises:
        _Gap: there is none.
    """
    names = {scene.folder, scene.folder.replace("_", "-"), scene.folder.replace("-", "_")}
    inner = sorted(folder for folder in root.iterdir() if folder.is_dir())
    for place in (root, *inner):
        for name in sorted(names):
            if (place / name).is_dir():
                return place / name
    raise _Gap("")


def _photos(folder: Path, where: str) -> tuple[str, ...]:
    names = list_photos(folder) if folder.is_dir() else ()
    if not names:
        raise _Gap(where)
    return names


def _need_all(wanted: Iterable[str], photos: Sequence[str], where: str) -> None:
    """Refuse photos that a list or a model names and the folder lacks."""
    present = set(photos)
    absent = sorted(name for name in wanted if name not in present)
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise _Gap(f"{where}/{absent[0]}{more}")


def _onthego(folder: Path, scene: SceneProtocol) -> Download:
    """Photos without a model, the names of all frames, and index lists over them."""
    for name in ("split.json", "transforms.json"):
        if not (folder / name).is_file():
            raise _Gap(f"/{name}")
    photos = _photos(folder / "images", "/images")
    split = choose_split(folder, Names(photos, ()), hold_out=False, messages=QUIET)
    for name in photos:
        check_photo(folder / "images" / name)
    return Download(scene, folder / "images", None, split)


def _robustnerf(folder: Path, scene: SceneProtocol, messages: Messages) -> Download:
    """Photos of all kinds with a model of distorted cameras; the names say which trains."""
    inner = folder / "0"  # a capture's number; the photos lie there or in the scene itself
    place = inner if (inner / "images").is_dir() else folder
    photos = _photos(place / "images", "/images")
    model = _model(place, ("sparse/0", "sparse"), "", messages)
    names = [image.name for image in model.images]
    _need_all(names, photos, "/images")
    _check_sizes(model, place / "images")
    split = choose_split(place, Names(tuple(sorted(names)), ()), hold_out=False, messages=QUIET)
    if not split.test:
        raise UserError(
            f"{place / 'images'}: {split.rule}; photos of clutter and of extra are needed, by name"
        )
    return Download(scene, place / "images", model.folder, split)


def _phototourism(root: Path, folder: Path, scene: SceneProtocol, messages: Messages) -> Download:
    """Undistorted photos with their model in dense/, and a list of its own."""
    dense = folder / "dense"
    photos = _photos(dense / "images", "/dense/images")
    model = _model(dense, ("sparse", "sparse/0"), "/dense", messages)
    name = scene.split_file or ""
    places = (root / name, folder / name, dense / name, folder.parent / name)
    listed = next((path for path in places if path.is_file()), None)
    if listed is None:
        raise _Gap(f" (its list {name})")
    split = read_tsv(listed, {image.name for image in model.images})
    _need_all((*split.train, *split.test), photos, "/dense/images")
    return Download(scene, dense / "images", model.folder, split)


def _model(place: Path, choices: Sequence[str], where: str, messages: Messages) -> ColmapModel:
    """The model in the first of the folders that has one; `where` is the place in words."""
    folder = next((place / name for name in choices if is_model(place / name)), None)
    if folder is None:
        raise _Gap(f"{where}/{choices[0]}/cameras.bin and images.bin")
    return read_model(folder, messages)


def check_photo(path: Path) -> tuple[int, int]:
    """Width and height of a photo that decodes to its end: COLMAP would fill the rest with gray.

    Raises:
        UserError: it does not.
    """
    try:
        pixels = decode_photo(path.read_bytes(), background=0).rgb
    except BadPhotoError as reason:
        raise UserError(f"{path}: {reason}; get it again") from None
    return pixels.shape[1], pixels.shape[0]


def _check_sizes(model: ColmapModel, folder: Path) -> None:
    """Refuse photos of another size than their camera's: COLMAP would stop in the middle."""
    for image in model.images:
        camera = model.cameras[image.camera_id]
        width, height = check_photo(folder / image.name)
        if (width, height) != (camera.width, camera.height):
            raise UserError(
                f"{folder / image.name} is {width}x{height}, its camera says "
                f"{camera.width}x{camera.height}; use the photos at full size"
            )


def read_tsv(path: Path, posed: set[str]) -> Split:
    """NeRF-W's list: file name, id, split, dataset; rows without an id were left out there.

    Args:
        posed: names in the model; others cannot be used.

    Raises:
        UserError: it is no such list, or names nothing that has a pose.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    if not rows or rows[0][:3] != ["filename", "id", "split"]:
        head = "\\t".join(rows[0])[:60] if rows else "nothing"
        raise UserError(f"{path}: begins with '{head}', expected filename, id, split; get it again")
    by_split: dict[str, list[str]] = {"train": [], "test": []}
    for row in rows[1:]:
        if len(row) > 2 and row[1] and row[2] in by_split and row[0] in posed:
            by_split[row[2]].append(row[0])
    for name, names in by_split.items():
        if not names:
            raise UserError(f"{path}: no {name} photo of it has a pose; is it another scene's?")
    return Split(tuple(sorted(by_split["train"])), tuple(sorted(by_split["test"])), path.name)
