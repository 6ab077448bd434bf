"""Segments of other tools: every layout gives the same segments, and what is odd is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arguments.messages import ExitCode, Messages, UserError
from masks.imported import ImportedSegmenter, ImportSettings
from masks.layers import stack_masks
from masks.rle import decode_rle, letters_to_runs
from masks.segmenter import Photo
from masks.static_evidence import StaticEvidence
from scene.camera_models import MODEL_BY_NAME, undistort_points
from scene.capture import Capture, CaptureSettings, load_capture
from tests.scene_builder import make_rows, make_scene

HEIGHT, WIDTH = 12, 20


def photo(name: str = "a.jpg", height: int = HEIGHT, width: int = WIDTH) -> Photo:
    nothing = np.zeros((height, width), dtype=np.float32)
    return Photo(name, np.zeros((height, width, 3), np.uint8), StaticEvidence(nothing, nothing))


def objects() -> np.ndarray:
    """Two masks that do not touch, the larger one first."""
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 2:9, 1:8] = True
    masks[1, 3:6, 12:17] = True
    return masks


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths column by column, the obvious way."""
    runs, inside = [0], False
    for value in mask.T.ravel():
        if bool(value) != inside:
            runs.append(0)
            inside = not inside
        runs[-1] += 1
    return runs


def letters_of(runs: list[int]) -> str:
    """COCO's letters, the obvious way."""
    letters = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            bits, value = value & 0x1F, value >> 5
            done = value == (-1 if bits & 0x10 else 0)
            letters += chr(48 + (bits if done else bits | 0x20))
            if done:
                break
    return letters


def annotations(letters: bool) -> list[dict[str, object]]:
    found = []
    for mask in objects():
        runs = runs_of(mask)
        counts = letters_of(runs) if letters else runs
        found.append({"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}})
    return found


def write(folder: Path, layout: str) -> None:
    masks = objects()
    labels = (masks[0] * 1 + masks[1] * 2).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    if layout == "gray":
        Image.fromarray(labels * 100).save(folder / "a.png")
    elif layout == "deep":
        Image.fromarray(labels.astype(np.uint16) * 1000).save(folder / "a.png")
    elif layout == "palette":
        image = Image.fromarray(labels, mode="P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(folder / "a.png")
    elif layout == "color":
        Image.fromarray(np.stack([labels * 90, labels * 3, labels], axis=-1)).save(folder / "a.png")
    elif layout == "labels":
        np.savez(folder / "a.npz", labels=labels)
    elif layout == "masks":
        np.savez_compressed(folder / "a.npz", masks=masks)
    elif layout == "list":
        (folder / "a.json").write_text(json.dumps(annotations(letters=True)))
    elif layout == "coco":
        entries = [a | {"image_id": 3} for a in annotations(letters=False)]
        entries.append({"image_id": 4, "segmentation": {"size": [1, 1], "counts": [0, 1]}})
        images = [{"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "b.jpg"}]
        (folder / "a.json").write_text(json.dumps({"images": images, "annotations": entries}))
    else:
        (folder / "a").mkdir()
        for number, mask in enumerate(masks):
            Image.fromarray(mask).save(folder / "a" / f"{number}.png")


LAYOUTS = "gray deep palette color labels masks list coco folder".split()


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_segments(tmp_path: Path, layout: str) -> None:
    write(tmp_path / "s", layout)
    segmenter = ImportedSegmenter(ImportSettings(tmp_path / "s"), ["a.jpg"], Messages(quiet=True))
    layers = segmenter(photo())
    assert layers.shape == (1, HEIGHT, WIDTH)
    got = {np.packbits(layers[0] == label).tobytes() for label in np.unique(layers) if label}
    assert got == {np.packbits(mask).tobytes() for mask in objects()}


@given(st.lists(st.booleans(), min_size=1, max_size=120), st.integers(1, 12))
def test_run_lengths_and_letters_give_back_the_mask(pixels: list[bool], height: int) -> None:
    width = -(-len(pixels) // height)
    mask = np.zeros(height * width, dtype=bool)
    mask[: len(pixels)] = pixels
    mask = mask.reshape(height, width)
    runs = runs_of(mask)
    assert letters_to_runs(letters_of(runs)) == runs
    assert (decode_rle(height, width, runs) == mask).all()
    assert (decode_rle(height, width, letters_of(runs)) == mask).all()


def test_the_letters_of_a_published_example_are_read() -> None:
    # 6 rows of 9: the mask of the comment in COCO's maskApi.h, M=[0 0 1 1 1 0 1] -> [2 3 1 1].
    assert letters_to_runs(letters_of([2, 3, 1, 1])) == [2, 3, 1, 1]
    assert letters_to_runs("231N") == [2, 3, 1, 1]


@pytest.mark.parametrize("counts", ["0", "P", "é", [5], [-1, 241], "o" * 40])
def test_broken_run_lengths_are_refused(counts: str | list[int]) -> None:
    with pytest.raises(ValueError, match=r"run|letters|ascii"):
        decode_rle(HEIGHT, WIDTH, counts)


@pytest.mark.parametrize("name", ["a.png", "a.jpg.png", "sub/a.png"])
def test_files_are_found_by_name_with_and_without_suffix_and_in_folders(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(objects()[0]).save(path)
    names = ["sub/a.jpg"] if "/" in name else ["a.jpg"]
    segmenter = ImportedSegmenter(ImportSettings(tmp_path), names, Messages(quiet=True))
    assert segmenter(photo(names[0])).any()


def test_photos_without_a_file_have_no_segments_and_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "s", "gray")
    settings = ImportSettings(tmp_path / "s")
    segmenter = ImportedSegmenter(settings, ["a.jpg", "b.jpg"], Messages(quiet=True))
    assert "1/2 photos" in segmenter.description
    assert not segmenter(photo("b.jpg")).any()


def test_a_folder_in_which_nothing_matches_is_refused_with_an_example(tmp_path: Path) -> None:
    Image.fromarray(objects()[0]).save(tmp_path / "a_mask_0.png")
    with pytest.raises(UserError, match=r"0 of 2 .*'a\.png'.*'a_mask_0\.png'") as refusal:
        ImportedSegmenter(ImportSettings(tmp_path), ["a.jpg", "b.jpg"], Messages(quiet=True))
    assert refusal.value.code == ExitCode.BAD_INPUT


@pytest.mark.parametrize("size", [(WIDTH * 2, HEIGHT * 2), (WIDTH // 2, HEIGHT // 2)])
def test_another_size_is_scaled_where_the_proportions_fit(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.fromarray(objects()[0]).resize(size, Image.Resampling.NEAREST).save(tmp_path / "a.png")
    segmenter = ImportedSegmenter(ImportSettings(tmp_path), ["a.jpg"], Messages(quiet=True))
    assert segmenter(photo()).shape == (1, HEIGHT, WIDTH)


def test_other_proportions_are_refused(tmp_path: Path) -> None:
    Image.fromarray(objects()[0].T).save(tmp_path / "a.png")
    segmenter = ImportedSegmenter(ImportSettings(tmp_path), ["a.jpg"], Messages(quiet=True))
    with pytest.raises(UserError, match=r"12x20, the photo a\.jpg is 20x12"):
        segmenter(photo())


BARREL = [50.0, 50.0, 32.0, 24.0, 0.8]  # of a FOV camera


def stripes(rays: np.ndarray) -> np.ndarray:
    """Labels 300 and 2 in turns, 6 pixels wide, from rays (x/z, y/z)."""
    return np.where(np.floor(10 * rays[..., 0]) % 2 == 0, 300, 2)


def seen_by_barrel() -> np.ndarray:
    """`stripes` in the pixels of the distorted photo file."""
    at = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5), axis=-1)
    distorted = (at.reshape(-1, 2) - BARREL[2:4]) / BARREL[:2]
    rays = undistort_points(MODEL_BY_NAME["FOV"], np.array(BARREL[4:]), distorted)
    return stripes(np.nan_to_num(rays)).reshape(48, 64)


def photo_of(capture: Capture) -> Photo:
    view, image = capture.views[0], capture.image(0).numpy()
    nothing = np.zeros(image.shape[:2], dtype=np.float32)
    return Photo(view.name, image, StaticEvidence(nothing, nothing), view.lens)


@pytest.mark.parametrize("resolution", [-1, 2])
@pytest.mark.parametrize("layout", ["labels", "runs"])
def test_segments_of_a_distorted_photo_are_undistorted_with_it(
    tmp_path: Path, resolution: int, layout: str
) -> None:
    root = make_scene(tmp_path / "data", make_rows("FOV", BARREL))
    capture = load_capture(CaptureSettings(root, resolution=resolution), Messages(quiet=True))
    labels = seen_by_barrel()
    (tmp_path / "s").mkdir()
    if layout == "labels":
        Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "s" / "img_0000.png")
    else:
        codes = [{"size": [48, 64], "counts": runs_of(labels == value)} for value in (2, 300)]
        content = json.dumps([{"segmentation": code} for code in codes])
        (tmp_path / "s" / "img_0000.json").write_text(content)
    segmenter = ImportedSegmenter(
        ImportSettings(tmp_path / "s"), ["img_0000.jpg"], Messages(quiet=True)
    )
    shown = photo_of(capture)
    layers = segmenter(shown)
    camera = capture.views[0].camera
    K = camera.K.double().numpy()
    x = (np.arange(camera.width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(camera.height) + 0.5 - K[1, 2]) / K[1, 1]
    expected = stripes(np.stack(np.meshgrid(x, y), axis=-1))
    assert layers.shape == (1, camera.height, camera.width)
    assert layers.min() > 0
    is_first, should_be = layers[0] == layers[0, 0, 0], expected == expected[0, 0]
    assert (is_first != should_be).mean() < (0.02 if resolution == -1 else 0.1)  # nearest pixels
    if resolution == -1:  # as they lie in the file they would be wrong
        assert (labels != expected).mean() > 0.05


def test_segments_of_another_shape_than_the_distorted_photo_are_refused(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data", make_rows("FOV", BARREL))
    capture = load_capture(CaptureSettings(root, resolution=2), Messages(quiet=True))
    Image.fromarray(np.ones((48, 48), np.uint8)).save(tmp_path / "img_0000.png")
    segmenter = ImportedSegmenter(ImportSettings(tmp_path), ["img_0000.jpg"], Messages(quiet=True))
    with pytest.raises(UserError, match=r"48x48, the photo img_0000\.jpg is 64x48"):
        segmenter(photo_of(capture))


def test_single_masks_that_cover_nearly_everything_are_questioned_and_can_be_inverted(
    tmp_path: Path,
) -> None:
    almost = np.ones((HEIGHT, WIDTH), dtype=bool)
    almost[:2, :3] = False
    Image.fromarray(almost).save(tmp_path / "a.png")
    messages = Messages(quiet=True)
    ImportedSegmenter(ImportSettings(tmp_path), ["a.jpg"], messages)(photo())
    assert ["inverted?" in warning for warning in messages.warnings] == [True]
    messages = Messages(quiet=True)
    inverted = ImportSettings(tmp_path, invert_segments=True)
    layers = ImportedSegmenter(inverted, ["a.jpg"], messages)(photo())
    assert ((layers[0] > 0) == ~almost).all()
    assert not messages.warnings


def test_an_empty_file_of_labels_is_said(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)).save(tmp_path / "a.png")
    messages = Messages(quiet=True)
    assert not ImportedSegmenter(ImportSettings(tmp_path), ["a.jpg"], messages)(photo()).any()
    assert "no segment" in messages.warnings[0]


def damaged(folder: Path, kind: str) -> None:
    masks = objects()
    if kind == "truncated png":
        Image.fromarray(masks[0]).save(folder / "a.png")
        content = (folder / "a.png").read_bytes()
        (folder / "a.png").write_bytes(content[: len(content) // 2])
    elif kind == "jpeg named png":
        Image.fromarray(masks[0]).convert("L").save(folder / "a.png", format="JPEG")
    elif kind == "objects":
        np.savez(folder / "a.npz", masks=np.array([{}], dtype=object))
    elif kind == "other arrays":
        np.savez(folder / "a.npz", x=np.ones((3, 3)), y=np.ones(3))
    elif kind == "text":
        (folder / "a.npz").write_text("<html>")
    elif kind == "polygons":
        (folder / "a.json").write_text(json.dumps([{"segmentation": [[1, 2, 3, 4]]}]))
    elif kind == "no json":
        (folder / "a.json").write_text("{")
    elif kind == "other keys":
        (folder / "a.json").write_text("{}")
    elif kind == "sizes":
        (folder / "a").mkdir()
        Image.fromarray(masks[0]).save(folder / "a" / "0.png")
        Image.fromarray(masks[0].T).save(folder / "a" / "1.png")
    else:
        (folder / "a").mkdir()


DAMAGES = [
    "truncated png",
    "jpeg named png",
    "objects",
    "other arrays",
    "text",
    "polygons",
    "no json",
    "other keys",
    "sizes",
    "empty folder",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    damaged(tmp_path, kind)
    segmenter = ImportedSegmenter(ImportSettings(tmp_path), ["a.jpg"], Messages(quiet=True))
    with pytest.raises(UserError, match=r"segments in .*cannot be used"):
        segmenter(photo())


def test_the_identity_of_a_photo_changes_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "s", "gray")
    settings = ImportSettings(tmp_path / "s")
    segmenter = ImportedSegmenter(settings, ["a.jpg"], Messages(quiet=True))
    before = segmenter.identity("a.jpg")
    assert before == segmenter.identity("a.jpg") != segmenter.identity("b.jpg")
    Image.fromarray(objects()[1]).save(tmp_path / "s" / "a.png")
    assert segmenter.identity("a.jpg") != before


def test_masks_lie_in_layers_without_overlap_and_lose_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((15, 40, 60), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, 30), rng.integers(0, 45)
        mask[top : top + rng.integers(3, 20), left : left + rng.integers(3, 25)] = True
    layers = stack_masks(masks)
    pieces = [layer == label for layer in layers for label in np.unique(layer) if label]
    assert len(pieces) == len(masks)
    for mask in masks:
        overlap = [(mask & piece).sum() / (mask | piece).sum() for piece in pieces]
        assert max(overlap) > 0.85
    assert (layers[-1] > 0).sum() >= (layers[0] > 0).sum()


def test_no_masks_give_one_empty_layer() -> None:
    assert stack_masks(np.zeros((0, 3, 4), dtype=bool)).shape == (1, 3, 4)
    assert not stack_masks(np.zeros((2, 3, 4), dtype=bool)).any()
