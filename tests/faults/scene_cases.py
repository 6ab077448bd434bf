"""The faults of a dataset that a user can bring, with the line and exit code that he gets.

One row a case: what is done to a sound scene of 12 photos, how it is loaded, and what must be said.
`test_cases.py` runs them.
"""

import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from arguments.messages import ExitCode, Messages
from scene.capture import Capture, CaptureSettings, load_capture
from tests.scene_builder import SceneRows, make_rows, write_binary, write_text

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        change: done to a sound dataset folder.
        says: regular expression that the error, a warning or a note must hold.
        code: exit code; None where the run goes on.
        voice: where it is said when the run goes on.
        settings: fields of CaptureSettings.
    """

    name: str
    change: Change
    says: str
    code: ExitCode | None = ExitCode.BAD_INPUT
    voice: str = "warnings"
    settings: Mapping[str, object] = field(default_factory=dict)
    num_views: int = 12


def model(root: Path) -> Path:
    """The model's folder."""
    return root / "sparse" / "0"


def cut(name: str, size: int) -> Change:
    """Keep the first bytes of a model file."""
    return lambda root: (model(root) / name).write_bytes((model(root) / name).read_bytes()[:size])


def poke(name: str, offset: int, layout: str, *numbers: float) -> Change:
    """Overwrite numbers in a model file."""

    def change(root: Path) -> None:
        data = bytearray((model(root) / name).read_bytes())
        struct.pack_into("<" + layout, data, offset, *numbers)
        (model(root) / name).write_bytes(data)

    return change


def append(name: str, rest: bytes) -> Change:
    """Put bytes after a model file's last record."""
    return lambda root: (model(root) / name).write_bytes((model(root) / name).read_bytes() + rest)


def rows(edit: Callable[[SceneRows], object], text: bool = False) -> Change:
    """Write the model again from edited rows."""

    def change(root: Path) -> None:
        edited = make_rows()
        edit(edited)
        for path in model(root).iterdir():
            path.unlink()
        (write_text if text else write_binary)(edited, model(root))

    return change


def of(target: Callable[[SceneRows], object], name: str, value: object) -> Change:
    """Set one field of one row."""
    return rows(lambda edited: setattr(target(edited), name, value))


def first_camera(edited: SceneRows) -> object:
    return edited.cameras[0]


def third_image(edited: SceneRows) -> object:
    return edited.images[2]


def photo(root: Path, index: int = 0) -> Path:
    """One of the photos."""
    return root / "images" / f"img_{index:04d}.jpg"


def remove_photos(count: int) -> Change:
    return lambda root: [photo(root, index).unlink() for index in range(count)]


def rename(old: str, new: str) -> Change:
    def change(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return change


def replace_folder(root: Path) -> None:
    """A file where the dataset should be."""
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    root.write_text("no folder")


def second_model(num_images: int) -> Change:
    """The sound model moves to sparse/1, a small one becomes sparse/0."""

    def change(root: Path) -> None:
        model(root).rename(root / "sparse" / "1")
        small = make_rows()
        del small.images[num_images:]
        write_binary(small, model(root))

    return change


def add_text(keep_images: int = 12) -> Change:
    """A text model beside the binary one."""

    def change(root: Path) -> None:
        text = make_rows()
        del text.images[keep_images:]
        write_text(text, model(root))

    return change


def half_photo(root: Path) -> None:
    """A JPEG that ends early."""
    noise = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photo(root, 3), quality=95)
    data = photo(root, 3).read_bytes()
    photo(root, 3).write_bytes(data[: int(len(data) * 0.6)])


def save_photo(index: int, size: tuple[int, int], **options: object) -> Change:
    return lambda root: Image.new("RGB", size, (9, 9, 9)).save(photo(root, index), **options)


def turned_photo(root: Path) -> None:
    """A photo stored upright whose model was made lying, with the EXIF flag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(photo(root, 1), exif=exif)


def transparent_photos(root: Path) -> None:
    """PNG content with an alpha channel under the old names."""
    for index in range(12):
        rgba = np.full((48, 64, 4), 200, np.uint8)
        rgba[:, :32, 3] = 0
        rgba[:, 32:, 3] = 255
        Image.fromarray(rgba).save(photo(root, index), format="PNG")


def bomb(root: Path) -> None:
    """A PNG header that claims 3600 megapixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    data += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT"
    photo(root, 5).write_bytes(data + struct.pack(">I", zlib.crc32(b"IDAT")))


def masks(
    shape: tuple[int, int], level: int, name: str = "img_{:04d}.png", count: int = 10
) -> Change:
    """Masks of one gray level in mymasks/."""

    def change(root: Path) -> None:
        (root / "mymasks").mkdir()
        for index in range(count):
            path = root / "mymasks" / name.format(index)
            Image.new("L", shape, level).save(path)

    return change


def far_camera(edited: SceneRows) -> None:
    edited.images[4].translation = [0.0, 0.0, 5e5]


def few_views(count: int) -> Change:
    def edit(edited: SceneRows) -> None:
        del edited.images[count:]

    def change(root: Path) -> None:
        rows(edit)(root)
        for index in range(count, 12):
            photo(root, index).unlink()

    return change


def lists(train: str, test: str) -> Change:
    def change(root: Path) -> None:
        (root / "train_list.txt").write_text(train)
        (root / "test_list.txt").write_text(test)

    return change


def rigs_file(root: Path) -> None:
    (model(root) / "frames.bin").write_bytes(struct.pack("<Q", 0))


MASKED = {"masks": Path("mymasks")}
BAD = ExitCode.BAD_INPUT
CASES = [
    Case("A1-missing", lambda root: root.rename(root.parent / "gone"), r"^dataset '.*' not found"),
    Case("A1-file", replace_folder, r"is a file, expected a folder with images/ and sparse/"),
    Case(
        "A2-elsewhere",
        rename("sparse", "distorted/sparse"),
        r"looked in sparse/0.*found distorted/sparse/0: did you mean -s .*/distorted\?",
    ),
    Case(
        "A2-nowhere", rename("sparse/0/cameras.bin", "sparse/0/c"), r"no COLMAP model in .*looked"
    ),
    Case(
        "A3-several",
        second_model(2),
        r"sparse/0 has 2 images, sparse/1 has 12; using sparse/1 \(--colmap-model to choose\)",
        None,
    ),
    Case(
        "A3-chosen",
        second_model(4),
        "split: all",
        None,
        "notes",
        {"colmap_model": "0"},
        num_views=4,
    ),
    Case("A4-both", add_text(), "binary and a text model; using the binary", None, "notes"),
    Case("A4-differ", add_text(11), r"images.bin has 12 records, images.txt has 11", None),
    Case("A5-half", rigs_file, r"frames.bin without rigs.bin"),
    Case(
        "A6-no-folder",
        rename("images", "photos"),
        r"^12 images named in images.bin, 0 found in .*/images; --images DIR",
    ),
    Case("A6-named", rename("images", "photos"), "split", None, "notes", {"images": "photos"}),
    Case(
        "A7-some",
        remove_photos(2),
        r"^2 images missing \(first: img_0000.jpg\); skipped",
        None,
        num_views=10,
    ),
    Case("A7-many", remove_photos(3), r"^3 images missing .*--allow-missing 1.0"),
    Case(
        "A7-allowed",
        remove_photos(10),
        "10 images missing",
        None,
        settings={"allow_missing": 1.0},
        num_views=2,
    ),
    Case(
        "A8-extra",
        lambda root: photo(root).with_name("extra.jpg").write_bytes(photo(root).read_bytes()),
        r"^1 photos in .* have no pose in the model; unused",
        None,
        "notes",
    ),
    Case("A12-case", rename("images/img_0003.jpg", "images/IMG_0003.JPG"), "differ in case", None),
    Case(
        "A13-id",
        lambda root: rows(lambda e: setattr(e.images[5], "image_id", 4))(root),
        r"images.bin record 5: image id 4 already used by 'img_0003.jpg'",
    ),
    Case(
        "B1-empty",
        cut("images.bin", 0),
        r"^images.bin ends inside its header \(offset 0, needs 8\)",
    ),
    Case(
        "B1-images",
        cut("images.bin", 20_000),
        r"^images.bin ends inside record \d+ of 12 \(offset 20 000, needs 2\d \d{3}\); "
        "copy it again or re-export",
    ),
    Case("B1-points", cut("points3D.bin", 60), r"^points3D.bin ends inside record 0 of 200"),
    Case("B1-cameras", cut("cameras.bin", 40), r"^cameras.bin ends inside record 0 of 1"),
    Case(
        "B2-points",
        poke("points3D.bin", 0, "Q", 1_000_000_000),
        r"^points3D.bin says 1000000000 points but the file can hold at most \d+",
    ),
    Case(
        "B2-images",
        poke("images.bin", 0, "Q", 2**63 - 1),
        r"^images.bin says 9223372036854775807 images",
    ),
    Case(
        "B2-cameras", poke("cameras.bin", 0, "Q", 2**64 - 1), r"^cameras.bin says \d+ cameras but"
    ),
    Case(
        "B3-keypoints",
        poke("images.bin", 8 + 64 + 13, "Q", 10**12),
        r"^images.bin record 0 says 1000000000000 2D points but the file can hold at most \d+",
    ),
    Case(
        "B3-track",
        poke("points3D.bin", 8 + 43, "Q", 2**61),
        r"^points3D.bin record 0 says \d+ track",
    ),
    Case(
        "B4-trailing",
        append("cameras.bin", b"12345"),
        r"cameras.bin has 5 trailing bytes",
        None,
    ),
    Case(
        "B5-id",
        of(first_camera, "model_id", 99),
        r"^camera 1 uses model id 99 \(unknown\); supported: SIMPLE",
    ),
    Case(
        "B5-name",
        rows(lambda e: setattr(e.cameras[0], "model", "PINHOLES"), text=True),
        r"^camera 1 uses model 'PINHOLES' \(unknown\); supported: SIMPLE",
    ),
    Case(
        "B7-panorama",
        rows(lambda e: e.cameras[0].__init__(1, "EQUIRECTANGULAR", 64, 48, [64.0, 48.0])),
        r"camera 1 uses EQUIRECTANGULAR.*colmap \w+ --",
    ),
    Case(
        "B8-camera",
        of(third_image, "camera_id", 77),
        r"^image 'img_0002.jpg' refers to camera 77, cameras.bin has 1",
    ),
    Case("B9-zero", of(first_camera, "width", 0), r"camera 1 has size 0x48"),
    Case("B9-huge", of(first_camera, "height", 2**40), r"camera 1 has size 64x1099511627776"),
    Case(
        "B9-scale",
        rows(lambda e: e.cameras[0].__init__(1, "PINHOLE", 128, 96, [120.0, 120.0, 64.0, 48.0])),
        r"12 photos are 0.5 x the size of their camera .*intrinsics scaled",
        None,
    ),
    Case(
        "B9-unlike",
        save_photo(2, (60, 60)),
        r"img_0002.jpg: photo is 60x60, camera 1 says 64x48; excluded",
        None,
        num_views=11,
    ),
    Case(
        "B10-focal",
        of(first_camera, "params", [0.0, 60.0, 32.0, 24.0]),
        r"camera 1 has focal length 0",
    ),
    Case(
        "B10-nan",
        of(first_camera, "params", [np.nan, 60.0, 32.0, 24.0]),
        r"camera 1 has parameters nan",
    ),
    Case(
        "B10-centre", of(first_camera, "params", [60.0, 60.0, 400.0, 24.0]), "principal point", None
    ),
    Case(
        "B11-nan",
        of(third_image, "quat", [np.nan, 0, 0, 0]),
        r"image 'img_0002.jpg' has the rotation nan",
    ),
    Case(
        "B11-zero",
        of(third_image, "quat", [0.0, 0, 0, 0]),
        r"image 'img_0002.jpg' has the rotation 0",
    ),
    Case(
        "B11-norm",
        of(third_image, "quat", [2.0, 0, 0, 0]),
        r"1 rotations are not unit.*normalised",
        None,
    ),
    Case(
        "B12-nan",
        of(third_image, "translation", [0.0, np.inf, 0.0]),
        r"'img_0002.jpg' has the translation",
    ),
    Case(
        "B12-far",
        rows(far_camera),
        r"camera 'img_0004.jpg' is [\d ]+x farther than the median; excluded",
        None,
        num_views=11,
    ),
    Case("B12-kept", rows(far_camera), "split", None, "notes", {"keep_outliers": True}),
    Case(
        "B13-points",
        rows(lambda e: setattr(e.points[0], "xyz", [np.nan, 0, 1e9])),
        "1 of 200 points",
        None,
    ),
    Case(
        "B14-no-points",
        rows(lambda e: e.points.clear()),
        r"^no initial points; starting from 50 000 random points in view "
        r"\(--init points to require them\)",
        None,
    ),
    Case(
        "B14-required",
        rows(lambda e: e.points.clear()),
        r"0 points \(--init points\)",
        settings={"require_points": True},
    ),
    Case(
        "B15-three",
        rows(lambda e: e.points.__delitem__(slice(3, None))),
        "only 3 points; adding 50 000",
        None,
    ),
    Case("B17-one", few_views(1), r"^1 view: geometry is not determined", None, num_views=1),
    Case(
        "B17-one-place",
        rows(lambda e: [setattr(i, "translation", [0.0, 0, 0]) for i in e.images]),
        r"cameras at one place: geometry is not determined",
        None,
    ),
    Case("B18-two", few_views(2), "no test images", None, settings={"eval": True}, num_views=2),
    *(
        Case(
            f"B19-{label}",
            of(third_image, "name", name),
            r"images.bin record 2: name '.*' leaves the image folder",
        )
        for label, name in (
            ("dots", "../../../../etc/passwd"),
            ("absolute", "/etc/passwd"),
            ("backslash", "..\\a.jpg"),
            ("drive", "C:a.jpg"),
        )
    ),
    Case(
        "B19-long",
        of(third_image, "name", "a" * 5000),
        r"images.bin record 2: the name has more than 4096",
    ),
    Case(
        "B19-link",
        lambda root: (photo(root).unlink(), photo(root).symlink_to("/etc/passwd")),
        r"name 'img_0000.jpg' leaves the image folder by a link; --follow-links",
    ),
    Case(
        "B20-fifo",
        lambda root: (photo(root).unlink(), os.mkfifo(photo(root))),
        "not a regular file",
        None,
        num_views=11,
    ),
    Case(
        "B21-comma",
        lambda root: (
            add_text()(root),
            [path.unlink() for path in model(root).glob("*.bin")],
            (model(root) / "images.txt").write_text("# a\n1 1 0 0 0 0,5 0 5 1 img_0000.jpg\n\n"),
        ),
        r"^images.txt line 2: '0,5' is not a number",
    ),
    Case(
        "C1-truncated",
        half_photo,
        r"^img_0003.jpg: truncated after \d+ %; excluded",
        None,
        num_views=11,
    ),
    Case(
        "C1-header",
        lambda root: photo(root).write_bytes(b"\xff\xd8\xff\xe0junk"),
        r"img_0000.jpg: not a readable photo \(JPEG\)",
        None,
        num_views=11,
    ),
    Case(
        "C1-many",
        lambda root: [photo(root, i).write_bytes(b"") for i in range(3)],
        r"^3 images unusable.*--allow-missing",
    ),
    Case("C2-zero", lambda root: photo(root).write_bytes(b""), r"empty file", None, num_views=11),
    Case(
        "C2-html",
        lambda root: photo(root).write_bytes(b"<html></html>"),
        r"HTML",
        None,
        num_views=11,
    ),
    Case(
        "C3-bomb",
        bomb,
        r"img_0005.jpg: claims 3 600 MP, camera says 0.00307 MP; excluded",
        None,
        num_views=11,
    ),
    Case(
        "C4-JPEG-beyond-max_mp",
        lambda root: None,
        r"^12 photos of more than 0.002 MP \(--max_mp\) are decoded at a half, a quarter or",
        None,
        "notes",
        {"max_mp": 0.002, "resolution": 4},
    ),
    Case(
        "C4-PNG-beyond-max_mp",
        save_photo(0, (64, 48), format="PNG"),
        r"^img_0000.jpg: 0.003072 MP to decode, 0.002 are allowed; smaller photos \(-r, for",
        None,
        settings={"max_mp": 0.002, "resolution": 4},
        num_views=11,
    ),
    Case(
        "C5-turned",
        turned_photo,
        r"image is turned by EXIF, COLMAP model is for the other orientation",
        None,
        num_views=11,
    ),
    Case(
        "C6-gray",
        lambda root: Image.new("L", (64, 48), 7).save(photo(root)),
        "1 images: gray",
        None,
        "notes",
    ),
    Case(
        "C7-alpha",
        transparent_photos,
        "12 images: an alpha channel, composited on black",
        None,
        "notes",
    ),
    Case(
        "C8-heic",
        lambda root: photo(root).write_bytes(b"\0\0\0\x18ftypheic" + bytes(64)),
        r"1 HEIC files in .*, no decoder",
        ExitCode.ENVIRONMENT,
    ),
    Case(
        "C11-gif",
        lambda root: Image.new("P", (64, 48)).save(photo(root), format="GIF"),
        r"not a readable photo \(GIF\)",
        None,
        num_views=11,
    ),
    Case(
        "D1-masks",
        masks((64, 48), 255),
        r"masks: 10/12, white = keep, 0.0 % removed",
        None,
        "notes",
        MASKED,
    ),
    Case(
        "D1-double",
        masks((64, 48), 255, "img_{:04d}.jpg.png"),
        r"masks: 10/12",
        None,
        "notes",
        MASKED,
    ),
    Case(
        "D2-none",
        masks((64, 48), 255, "m_{}.png"),
        r"0 of 12 images have a mask in .*; first expected 'img_0000.png' or "
        "'img_0000.jpg.png', folder has 'm_0.png'",
        settings=MASKED,
    ),
    Case("D2-folder", lambda root: None, "mask folder 'mymasks' not found", settings=MASKED),
    Case("D4-scaled", masks((32, 24), 255), r"masks: 10/12", None, "notes", MASKED),
    Case("D4-shape", masks((48, 48), 255), r"is 48x48, its photo 64x48", settings=MASKED),
    Case(
        "D5-black",
        masks((64, 48), 0, count=2),
        r"2 masks keep no pixel \(first: img_0000.jpg\)",
        None,
        settings=MASKED,
        num_views=10,
    ),
    Case(
        "D5-inverted",
        masks((64, 48), 0, count=2),
        r"masks remove 100 %: inverted\? --invert-masks",
        None,
        settings=MASKED,
        num_views=10,
    ),
    Case(
        "I3-unknown",
        lists("img_0000.jpg\nnope.jpg\n", ""),
        r"train_list.txt: 1 of 2 names .*first: 'nope.jpg'",
    ),
    Case(
        "I3-both",
        lists("img_0000\nimg_0001\n", "img_0001\n"),
        r"1 images are in train and in test \(first: img_0001.jpg\)",
    ),
    Case("I3-no-test", lists("img_0000.jpg\n", ""), "no test images", None),
]


def load(root: Path, settings: Mapping[str, object], messages: Messages) -> Capture:
    """Load quietly, with the cache outside of the dataset."""
    chosen = CaptureSettings(source=root, cache_dir=root.parent / "cache", **settings)
    return load_capture(chosen, messages)


def snapshot(root: Path) -> list[tuple[str, int]]:
    """Every name below the dataset and when it was last changed."""
    return sorted((str(path), path.lstat().st_mtime_ns) for path in root.rglob("*"))
