"""Mutated files of every format that the project reads: each is read or refused, in little memory.

Run it as: python -m tests.faults.fuzz --mutations 1000000 [--seed 0] [--only NAME] [--keep FOLDER].

A reader may return, or raise UserError or the exception that its caller turns into a warning. Any
other exception, a crash, more than a second, or more memory than 64 MiB + 8 times the file is a
fault.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from arguments.config import ModelConfig, TrainConfig
from arguments.messages import MAX_LINE, Messages, UserError, one_line
from arguments.serialization import to_json
from masks.candidates import CandidateFile, read_candidates, write_candidates
from masks.imported import DAMAGE, read_segments
from masks.static_evidence import SegmentVerdicts
from masks.weights import Release, read_weights
from scene import colmap_text
from scene.colmap import read_model
from scene.colmap_database import ColmapDatabase
from scene.images import BadPhotoError, decode_mask, decode_photo, read_header
from scene.ply import Splats, read_ply, write_ply
from scene.splits import Names, choose_split
from scene.tensor_file import TensorFileError, read_tensors, write_tensors
from tests.colmap_database import true_matches, write_database
from tests.faults.bit_flips import save_state
from tests.scene_builder import SceneRows, make_rows, write_binary, write_text
from training import checkpoint
from training.run_folder import RunRecord, read_config, read_record

MEMORY_FLOOR = 64 << 20
MEMORY_PER_BYTE = 8
LONGEST_SECONDS = 1.0
REFUSALS = (UserError, BadPhotoError, TensorFileError)
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
COLMAP_GOLDEN = GOLDEN / "colmap_rig"
DATABASE_GOLDEN = GOLDEN / "colmap_database" / "database.db"


@dataclass(frozen=True)
class Target:
    """A file that is mutated, and what reads it.

    Attributes:
        path: the sound file; it is put back after each mutation.
        read: reads it, or what it is part of.
        is_text: mutations keep to text more often than not.
    """

    name: str
    path: Path
    read: Callable[[], object]
    is_text: bool = False


@dataclass(frozen=True)
class Fault:
    """A mutation that a reader did not survive."""

    target: str
    what: str
    content: bytes


@dataclass
class Tally:
    """What happened to the mutations of one target."""

    read: int = 0
    refused: int = 0
    peak_bytes: int = 0
    seconds: float = 0.0


def colmap_targets(root: Path) -> list[Target]:
    """The files of COLMAP models, binary and text, with and without rigs."""
    targets = []
    rows = small_rows()
    for suffix, write in ((".bin", write_binary), (".txt", write_text)):
        folder = root / f"colmap{suffix}"
        write(rows, folder)
        for stem in ("cameras", "images", "points3D"):
            targets.append(_colmap(folder, stem, suffix))
    for kind in ("bin", "txt"):
        folder = root / f"rigs-{kind}"
        folder.mkdir()
        for path in (COLMAP_GOLDEN / kind).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        targets += [_colmap(folder, stem, f".{kind}") for stem in ("rigs", "frames")]
    count = root / "count.txt"
    count.write_bytes((root / "colmap.txt" / "images.txt").read_bytes())
    targets.append(Target("count.txt", count, lambda: colmap_text.count_records(count, 2), True))
    return targets


def small_rows() -> SceneRows:
    """4 images of at most 30 keypoints, and 40 points whose tracks are theirs."""
    rows = make_rows()
    del rows.images[4:], rows.points[40:]
    point_by_id = {point.point_id: point for point in rows.points}
    for point in rows.points:
        point.track = []
    for image in rows.images:
        image.keypoints = [k for k in image.keypoints if k[2] in point_by_id][:30]
        for index, (_, _, point_id) in enumerate(image.keypoints):
            point_by_id[point_id].track.append((image.image_id, index))
    return rows


def _colmap(folder: Path, stem: str, suffix: str) -> Target:
    def read() -> object:
        return read_model(folder, Messages(quiet=True))

    return Target(f"{stem}{suffix}", folder / f"{stem}{suffix}", read, suffix == ".txt")


def image_targets(root: Path) -> list[Target]:
    """Photos of every format, read by their header and then to the end; masks."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
    targets = []
    kinds = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "PPM": "ppm"}
    for kind, suffix in kinds.items():
        path = root / f"photo.{suffix}"
        Image.fromarray(pixels).save(path, format=kind)
        targets.append(Target(f"{kind} photo", path, _photo_reader(path)))
    mask = root / "mask.png"
    Image.fromarray(pixels[..., 0]).save(mask)
    targets.append(Target("mask", mask, lambda: decode_mask(mask)))
    deep = root / "deep.png"
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(deep)
    return [*targets, Target("16-bit PNG photo", deep, _photo_reader(deep))]


def _photo_reader(path: Path) -> Callable[[], object]:
    def read() -> object:
        read_header(path, megapixels=32 * 24 / 1e6)
        return decode_photo(path.read_bytes(), 0)

    return read


def file_targets(root: Path) -> list[Target]:
    """PLY, tensors, manifests, candidates, splits and the JSON of a run."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": ()}
    shapes |= {"sh0": (1, 3), "shN": (3, 3)}
    splats = Splats(**{n: torch.randn(20, *s, generator=draw) for n, s in shapes.items()})
    ply, text_ply = root / "x.ply", root / "text.ply"
    write_ply(ply, splats)
    _write_text_ply(ply, text_ply)
    tensors = root / "x.safetensors"
    write_tensors(tensors, {"a": torch.ones(3, 2), "b": torch.ones(5, dtype=torch.int64)})
    manifest, _ = save_state(root)
    candidates = root / "x.npz"
    byte, whole, part = (np.ones(2, kind) for kind in (np.uint8, np.int32, np.float32))
    verdicts = SegmentVerdicts(
        **dict.fromkeys(("layer", "verdict"), byte),
        **dict.fromkeys(("label", "area"), whole),
        **dict.fromkeys(("found", "expected", "agreeing", "comparable"), part),
    )
    write_candidates(candidates, CandidateFile(np.ones((1, 6, 8), np.int32), verdicts, "abc"))
    run = root / "run"
    run.mkdir()
    (run / "config.json").write_text(to_json(TrainConfig(ModelConfig(Path("scene")))))
    (run / "run.json").write_text(to_json(RunRecord("running", 3, notes=["a"], warnings=["b"])))
    return [
        Target("binary PLY", ply, lambda: read_ply(ply)),
        Target("text PLY", text_ply, lambda: read_ply(text_ply), True),
        Target("safetensors", tensors, lambda: list(read_tensors(tensors))),
        Target("manifest", manifest.with_suffix(".json"), lambda: checkpoint.load(manifest), True),
        Target("candidates", candidates, lambda: read_candidates(candidates)),
        Target("config.json", run / "config.json", lambda: read_config(run), True),
        Target("run.json", run / "run.json", lambda: read_record(run), True),
        *split_targets(root),
    ]


def _write_text_ply(binary: Path, path: Path) -> None:
    import plyfile  # only to write the other format

    data = plyfile.PlyData.read(binary)
    plyfile.PlyData(list(data.elements), text=True).write(path)


def database_targets(root: Path) -> list[Target]:
    """COLMAP's database, as version 3.8 and as version 4 lays it out, read to the last match."""
    rows = small_rows()
    del rows.images[3:]
    for image in rows.images:
        image.keypoints = image.keypoints[:10]
    old, new = root / "3.8.db", root / "4.db"
    write_database(old, rows, true_matches(rows))
    new.write_bytes(DATABASE_GOLDEN.read_bytes())

    def reader(path: Path) -> Callable[[], object]:
        def read() -> object:
            database = ColmapDatabase(path)
            for image in list(database.images.values())[:2]:
                database.keypoints(image.image_id)
                database.matches(image.image_id)
            return database

        return read

    return [Target(f"database {path.stem}", path, reader(path)) for path in (old, new)]


def split_targets(root: Path) -> list[Target]:
    """Lists of names, and On-the-go's JSON."""
    names = Names(tuple(f"img_{i}.jpg" for i in range(12)), ())
    lists, otg = root / "lists", root / "otg"
    for folder in (lists, otg):
        folder.mkdir()
    (lists / "train_list.txt").write_text("\n".join(names.usable[:8]))
    (lists / "test_list.txt").write_text("\n".join(names.usable[8:]))
    (otg / "split.json").write_text(json.dumps({"clutter": [0, 1, 2], "extra": [3, 4]}))
    frames = [{"file_path": f"./images/{name}", "m": [1.0, 0.5]} for name in names.usable]
    (otg / "transforms.json").write_text(json.dumps({"frames": frames}))

    def reader(folder: Path) -> Callable[[], object]:
        return lambda: choose_split(folder, names, False, Messages(quiet=True))

    return [
        Target("train_list.txt", lists / "train_list.txt", reader(lists), True),
        Target("split.json", otg / "split.json", reader(otg), True),
        Target("transforms.json", otg / "transforms.json", reader(otg), True),
    ]


def segment_targets(root: Path) -> list[Target]:
    """Segments that other tools made."""
    folder = root / "segments"
    folder.mkdir()
    labels = np.zeros((24, 32), np.uint8)
    labels[4:9, 5:20] = 3
    Image.fromarray(labels).save(folder / "a.png")
    np.savez_compressed(folder / "b.npz", labels=labels)
    code = {"size": [24, 32], "counts": [100, 20, 648]}
    images = [{"id": 4, "file_name": "c.jpg"}]
    content = {"images": images, "annotations": [{"image_id": 4, "segmentation": code}]}
    (folder / "c.json").write_text(json.dumps(content))

    def reader(name: str) -> Callable[[], object]:
        def read() -> object:
            try:
                return read_segments(folder / name, f"{name[0]}.jpg")
            except DAMAGE as damage:  # as the importer does
                raise UserError(f"segments cannot be used: {damage}") from damage

        return read

    return [
        Target(f"segments .{name[2:]}", folder / name, reader(name), name.endswith("json"))
        for name in ("a.png", "b.npz", "c.json")
    ]


def weight_targets(root: Path) -> list[Target]:
    """Trained weights that users bring, as torch.save writes them now and wrote them before 1.6."""
    release = Release("official.pth", "https://example.org")
    tensors = {"a.weight": torch.ones(3, 2), "b.bias": torch.zeros(5, dtype=torch.int64)}
    targets = []
    for name, is_zip in (("new.pth", True), ("old.pth", False)):
        path = root / name
        torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
        targets.append(Target(f"weights {name}", path, partial(read_weights, path, release)))
    return targets


WORDS = (
    *(b"-1", b"0", b"1e999", b"nan", b"-inf", b"99999999999999999999", b"0x10", b"1_0", b"", b"\0"),
    *(b"null", b"true", b"{}", b"[]", b"[" * 3000, b'"', b"../../etc/passwd", b"\xff\xfe", b"\r\n"),
    *(b"\xd9\xa3", b"A" * 5000, b"1" * 5000),
)
INTEGERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**40, 2**63 - 1, 2**63, 2**64 - 1, 10**9)


def mutate(whole: bytes, is_text: bool, rng: random.Random) -> bytes:
    """One of the ways in which files go wrong."""
    data = bytearray(whole)
    kind = rng.randrange(7)
    at = rng.randrange(len(data) + 1)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 3 and is_text:
        words = bytes(data).split(b" ")
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        return b" ".join(words)
    elif kind == 3:
        size = rng.choice((4, 8))
        number = rng.choice(INTEGERS) % 2 ** (8 * size)
        at = rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))
        data[at : at + size] = number.to_bytes(size, "little")
    elif kind == 4:
        other = rng.randrange(len(data) + 1)
        del data[min(at, other) : min(max(at, other), min(at, other) + 64)]
    elif kind == 5:
        start = rng.randrange(len(data))
        data[at:at] = data[start : start + rng.randint(1, 200)]
    else:
        data[at:at] = rng.choice(WORDS)
    return bytes(data)


def check(target: Target, content: bytes, tally: Tally) -> str:
    """Read one mutation; what is wrong with how that went, empty where nothing is."""
    target.path.write_bytes(content)
    before = _resident_after_reset()
    began = time.perf_counter()
    try:
        target.read()
        tally.read += 1
    except REFUSALS as refusal:
        tally.refused += 1
        if len(one_line(str(refusal))) > MAX_LINE or not str(refusal):
            return f"says {str(refusal)[:100]!r}"
    except BaseException as bug:  # noqa: BLE001 - whatever else it is, it is what is looked for
        return f"{type(bug).__name__}: {str(bug)[:200]}"
    seconds, grown = time.perf_counter() - began, _peak() - before
    tally.seconds, tally.peak_bytes = max(tally.seconds, seconds), max(tally.peak_bytes, grown)
    if seconds > LONGEST_SECONDS:
        return f"took {seconds:.1f} s"
    if grown > MEMORY_FLOOR + MEMORY_PER_BYTE * len(content):
        return f"took {grown >> 20} MiB for {len(content)} bytes"
    return ""


def _resident_after_reset() -> int:
    """Memory in use now, in bytes; the peak is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _from_status("VmRSS")


def _peak() -> int:
    return _from_status("VmHWM")


def _from_status(name: str) -> int:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) * 1024


def all_targets(root: Path) -> list[Target]:
    """Everything that the project reads from files of others."""
    return [
        *colmap_targets(root),
        *image_targets(root),
        *file_targets(root),
        *segment_targets(root),
        *weight_targets(root),
        *database_targets(root),
    ]


def fuzz(
    targets: list[Target], count: int, seed: int, keep: Path | None = None
) -> tuple[dict[str, Tally], list[Fault]]:
    """Mutate the targets in turn, `count` times in all; faulty contents go to the folder `keep`."""
    rng = random.Random(seed)
    sound = {target.name: target.path.read_bytes() for target in targets}
    tallies = {target.name: Tally() for target in targets}
    faults = []
    for number in range(count):
        target = targets[number % len(targets)]
        content = mutate(sound[target.name], target.is_text, rng)
        what = check(target, content, tallies[target.name])
        target.path.write_bytes(sound[target.name])
        if what:
            faults.append(Fault(target.name, what, content))
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                name = f"{target.path.name}-{hashlib.sha256(content).hexdigest()[:12]}"
                (keep / name).write_bytes(content)
    return tallies, faults


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings that the readers print."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def main() -> int:
    """Mutate, and print what each reader did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=Path)
    told = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, quiet():
        targets = [t for t in all_targets(Path(folder)) if told.only in t.name]
        for target in targets:
            target.read()  # loads what is loaded once
        tallies, faults = fuzz(targets, told.mutations, told.seed, told.keep)
    for name, tally in tallies.items():
        sys.stdout.write(
            f"{name:18} read {tally.read:7} refused {tally.refused:7} longest "
            f"{1000 * tally.seconds:6.1f} ms, most memory {tally.peak_bytes / 2**20:5.1f} MiB\n"
        )
    for fault in faults[:40]:
        sys.stdout.write(f"FAULT {fault.target}: {fault.what}\n")
    sys.stdout.write(
        f"{told.mutations} mutations in {time.perf_counter() - began:.0f} s: {len(faults)} faults\n"
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
