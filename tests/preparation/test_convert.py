"""convert.py on photos and on a video; which pictures of a video are taken."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from arguments.cli import parse
from arguments.messages import ExitCode, Messages, UserError
from masks.database_source import DatabaseSource, find_database
from scene.capture import CaptureSettings, load_capture
from scene.colmap import read_model
from scene.preparation.colmap_tool import Reconstruction, find_tool, reconstruct
from scene.preparation.frames import Frame, extract_frames, select_sharp, sharpness, upright
from scene.preparation.own_photos import ConvertArguments, convert
from tests.downloads import walk_photos

QUIET = Messages(quiet=True)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photos of the built-in room, taken on a short arc: COLMAP can register them."""
    return walk_photos(tmp_path_factory.mktemp("walk") / "photos")


def converted(source: Path, out: Path, *extra: str) -> Path:
    words = ["-s", str(source), "-o", str(out), "--quiet", *extra]
    return convert(parse(ConvertArguments, words, prog="convert.py", description=""), QUIET)


def refusal(source: Path, out: Path, *extra: str) -> UserError:
    with pytest.raises(UserError) as refused:
        converted(source, out, *extra)
    return refused.value


def write_video(path: Path, pictures: Sequence[np.ndarray], counterclockwise: int = 0) -> None:
    """A short video, a tenth of a second a picture, that asks players to turn it."""
    av = pytest.importorskip("av")
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 20_000_000
        if counterclockwise:
            stream.set_display_rotation(counterclockwise)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def noise(seed: int) -> Image.Image:
    grains = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return Image.fromarray(grains).resize((320, 240), Image.Resampling.NEAREST)


@pytest.mark.slow
def test_photos_become_a_scene_that_trains_and_are_not_touched(walk: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    before = {path.name: path.stat().st_mtime_ns for path in walk.iterdir()}
    scene = converted(walk, tmp_path / "scene", "--longest_side", "160")
    model = read_model(scene / "sparse" / "0", QUIET)
    (camera,) = model.cameras.values()
    assert (camera.model.name, max(camera.width, camera.height)) == ("PINHOLE", 160)
    capture = load_capture(CaptureSettings(scene), QUIET)
    assert len(capture.train) >= 10
    assert len(capture.points.xyz) > 100
    assert {path.name: path.stat().st_mtime_ns for path in walk.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]  # no work folder is left
    assert not (scene / "distorted").exists()


@pytest.mark.slow
def test_a_database_that_is_kept_is_evidence_for_the_undistorted_photos(
    walk: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycolmap")
    scene = converted(walk, tmp_path / "scene", "--longest_side", "160", "--keep_database")
    found = CaptureSettings(scene)
    capture = load_capture(found, QUIET)
    source = DatabaseSource(find_database(scene), capture, found, 3)
    for view in capture.views[4:6]:
        proved = source(view).xy
        apart = np.linalg.norm(view.keypoints[:, None] - proved[None], axis=2).min(axis=1)
        assert len(proved) > 50
        assert np.median(apart) < 0.05  # pixels: the same keypoints, by way of the other model


@pytest.mark.slow
def test_a_video_becomes_a_scene(walk: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    pictures = []
    for path in sorted(walk.iterdir()):
        with Image.open(path) as image:
            still = image.convert("RGB")
            pictures += [np.asarray(still.filter(ImageFilter.GaussianBlur(4))), np.asarray(still)]
    write_video(tmp_path / "walk.mp4", pictures)
    scene = converted(tmp_path / "walk.mp4", tmp_path / "scene", "--frames", "12")
    assert len(load_capture(CaptureSettings(scene), QUIET).train) >= 10


def test_an_interrupted_registration_goes_on_with_the_same_camera(
    walk: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycolmap")
    tool = find_tool("pycolmap", use_gpu=False, messages=QUIET)
    names = sorted(path.name for path in walk.iterdir())
    chosen = tmp_path / "names.txt"  # as if the call before had come to the third photo
    chosen.write_text("\n".join(names[:3]) + "\n")
    work = tmp_path / "work"
    work.mkdir()
    words = ["--database_path", work / "database.db", "--image_path", walk]
    words += ["--ImageReader.single_camera", "1", "--image_list_path", chosen]
    tool.run("feature_extractor", words, work / "colmap.log", QUIET)
    model = reconstruct(tool, walk, work, Reconstruction(), QUIET)
    assert len(read_model(model, QUIET).cameras) == 1


def test_a_broken_photo_is_left_out_and_named(walk: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(walk.iterdir())[:2]:
        (photos / path.name).write_bytes(path.read_bytes())
    (photos / "half.png").write_bytes(sorted(walk.iterdir())[2].read_bytes()[:2000])
    pytest.importorskip("pycolmap")
    messages = Messages(quiet=True)
    arguments = ConvertArguments(photos, tmp_path / "scene", quiet=True)
    with pytest.raises(UserError, match="2 usable photos"):
        convert(arguments, messages)
    assert len(messages.warnings) == 1
    assert "half.png" in messages.warnings[0]


def test_photos_that_show_nothing_in_common_end_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        Image.new("RGB", (64, 48), (seed * 40, 90, 90)).save(photos / f"{seed}.png")
    refused = refusal(photos, tmp_path / "scene")
    assert refused.code == ExitCode.BAD_INPUT
    assert "registered" in str(refused) or "failed" in str(refused)
    assert not (tmp_path / "scene").exists()


def test_an_existing_scene_is_never_replaced(walk: Path, tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    assert refusal(walk, tmp_path / "scene").code == ExitCode.FILE_SYSTEM


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nowhere" in str(refusal(tmp_path / "nowhere", tmp_path / "scene"))


def test_one_camera_for_photos_of_two_sizes_is_refused(walk: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    for number in range(3):
        Image.new("RGB", (64 + number, 48)).save(tmp_path / f"{number}.png")
    refused = refusal(tmp_path, tmp_path / "out" / "scene", "--camera_mode", "single")
    assert "3 sizes" in str(refused)


@pytest.mark.parametrize("wrong", [["--frames", "1"], ["--longest_side", "3"], ["--matcher", "x"]])
def test_a_wrong_command_line_is_a_usage_error(wrong: list[str], tmp_path: Path) -> None:
    assert refusal(tmp_path, tmp_path / "scene", *wrong).code == ExitCode.USAGE


def test_without_pyav_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match="pip install av") as refused:
        extract_frames(tmp_path / "a.mp4", tmp_path / "out", 3, QUIET)
    assert refused.value.code == ExitCode.ENVIRONMENT


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(UserError, match=r"a\.mp4' is no video"):
        extract_frames(tmp_path / "a.mp4", tmp_path / "out", 3, QUIET)


def test_the_sharp_pictures_of_a_video_are_taken_one_for_each_stretch(tmp_path: Path) -> None:
    pictures = []
    for number in range(6):  # of five pictures in a row only the fourth is sharp
        sharp = noise(number)
        blurred = np.asarray(sharp.filter(ImageFilter.GaussianBlur(6)))
        pictures += [blurred] * 3 + [np.asarray(sharp)] + [blurred]
    write_video(tmp_path / "a.mp4", pictures)
    names = extract_frames(tmp_path / "a.mp4", tmp_path / "out", 6, QUIET)
    assert names == [f"frame_{i:04d}.jpg" for i in range(1, 7)]
    for number, name in enumerate(names):
        with Image.open(tmp_path / "out" / name) as image:
            error = np.abs(np.asarray(image).astype(float) - np.asarray(noise(number)))
        assert np.median(error) < 12  # two lossy codecs; another picture is off by 80


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_a_video_of_a_turned_phone_comes_out_upright(turn: int, tmp_path: Path) -> None:
    upright_scene = np.asarray(noise(0))
    stored = np.ascontiguousarray(np.rot90(upright_scene, k=-turn // 90))
    write_video(tmp_path / "a.mp4", [stored] * 3, turn)
    (name,) = extract_frames(tmp_path / "a.mp4", tmp_path / "out", 1, QUIET)
    with Image.open(tmp_path / "out" / name) as image:
        assert np.median(np.abs(np.asarray(image).astype(float) - upright_scene)) < 12


def test_selection_takes_the_best_of_each_stretch_and_skips_empty_ones() -> None:
    scores = [(0.0, 1.0), (0.4, 3.0), (1.1, 2.0), (1.9, 5.0), (3.5, 1.0)]
    frames = [Frame(t, s, None) for t, s in scores]
    chosen = select_sharp(frames, 4.0, 4)
    assert [frame.time for frame in chosen] == [0.4, 1.9, 3.5]


def test_blur_lowers_sharpness() -> None:
    sharp = noise(0).convert("L")
    blurred = sharp.filter(ImageFilter.GaussianBlur(2))
    assert sharpness(np.asarray(blurred)) < 0.5 * sharpness(np.asarray(sharp))


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (-90, 3), (180, 2), (-180, 2)])
def test_a_picture_is_turned_as_the_video_asks(degrees: int, turns: int) -> None:
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(upright(rgb, degrees), np.rot90(rgb, turns))
