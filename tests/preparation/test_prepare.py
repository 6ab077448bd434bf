"""From the shape of an official download to metrics, one command each; what is refused and how."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arguments.cli import parse
from arguments.messages import ExitCode, Messages, UserError
from scene.capture import Capture, CaptureSettings, load_capture
from scene.colmap import read_model
from scene.preparation.__main__ import PrepareArguments, prepare
from scene.preparation.downloads import read_tsv
from scene.preparation.protocols import DATASETS
from scene.preparation.subset import write_subset
from scene.synthetic import CaptureSize, make_capture
from tests.downloads import Photos, make_onthego, make_phototourism, make_robustnerf, some_photos
from tests.scene_builder import make_rows, make_scene, ray_color, write_text

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "bonsai_clutter"
QUIET = Messages(quiet=True)
OPENCV = [60.0, 61.0, 31.0, 24.5, -0.08, 0.03, 0.004, -0.003]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """Real photos where there are some, else those of a capture that COLMAP can register."""
    if SHARED.is_dir():
        return some_photos(SHARED, 14, 2)
    folder = tmp_path_factory.mktemp("captures") / "room"
    make_capture(folder, CaptureSize(views=40, test_views=8, width=320, height=240), seed=0)
    return some_photos(folder, 14, 2)


@pytest.fixture
def robustnerf(tmp_path: Path) -> Path:
    """The RobustNeRF shape of 12 tiny photos of a strongly distorted camera."""
    return make_robustnerf(tmp_path, distorted_photos(tmp_path / "capture"))


@pytest.fixture
def phototourism(tmp_path: Path) -> Path:
    """The PhotoTourism shape of 12 tiny photos."""
    return make_phototourism(tmp_path, distorted_photos(tmp_path / "capture"))


def distorted_photos(folder: Path) -> Photos:
    make_scene(folder, make_rows("OPENCV", OPENCV))
    names = [f"img_{i:04d}.jpg" for i in range(12)]
    return Photos(folder, tuple(names[:10]), tuple(names[10:]))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """One command in the checkout."""
    return subprocess.run(
        [*map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHON": sys.executable},
    )


def prepared(name: str, download: Path, out: Path, *extra: str) -> list[Path]:
    words = [name, "-s", str(download), "-o", str(out), "--quiet", *extra]
    return prepare(parse(PrepareArguments, words, prog="prepare", description=""), QUIET)


def refusal(name: str, download: Path, out: Path, *extra: str) -> UserError:
    with pytest.raises(UserError) as refused:
        prepared(name, download, out, *extra)
    assert len(str(refused.value)) < 400
    return refused.value


def loaded(scene: Path) -> Capture:
    return load_capture(CaptureSettings(scene), QUIET)


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its time and bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onthego", "robustnerf", "phototourism"])
def test_a_download_goes_through_prepare_masks_train_and_evaluate_with_a_command_each(
    name: str, photos: Photos, tmp_path: Path
) -> None:
    pytest.importorskip("pycolmap")
    make = {
        "onthego": make_onthego, "robustnerf": make_robustnerf, "phototourism": make_phototourism,
    }[name]  # fmt: skip
    download = make(tmp_path, photos)
    before = content(download)
    protocol = next(p for p in DATASETS if p.name == name)
    chosen = next(s for s in protocol.scenes if list(download.glob(f"{s.folder}*")))
    out, model = tmp_path / "prepared", tmp_path / "run"
    scene = out / chosen.name
    script = f"scripts/prepare_{name}.sh"
    commands = [
        ["bash", script, "-s", download, "-o", out, "--scenes", chosen.name],
        [sys.executable, "-m", "masks", "-s", scene],
        [sys.executable, "train.py", "-s", scene, "-m", model, "--iterations", "4", "-r", "160"],
        [sys.executable, "evaluate.py", "-m", model],
    ]
    for command in commands:
        done = run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    metrics = json.loads((model / "metrics.json").read_text())
    assert metrics["num_views"] == 2
    assert (
        "train_list.txt and test_list.txt"
        in json.loads((model / "run.json").read_text())["split_rule"]
    )
    record = json.loads((scene / "preparation.json").read_text())
    assert (record["num_train"], record["num_test"]) == (12 if name == "phototourism" else 14, 2)
    assert content(download) == before  # a dataset is only read


def test_photos_become_pinhole_photos_of_the_protocols_size(
    robustnerf: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycolmap")
    (scene,) = prepared("robustnerf", robustnerf, tmp_path / "out", "--scenes", "statue")
    model = read_model(scene / "sparse" / "0", QUIET)
    (camera,) = model.cameras.values()
    assert camera.model.name == "PINHOLE"
    with Image.open(scene / "images" / "1clutter003.jpg") as image:
        assert image.size == (camera.width, camera.height)
        shown = np.asarray(image.convert("RGB")).astype(float)
    at = np.stack(
        np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5), axis=-1
    )
    expected = ray_color((at - camera.principal) / camera.focal)
    error = np.abs(shown - expected)[2:-2, 2:-2]
    assert error.mean() < 2  # JPEG and the interpolation
    with Image.open(robustnerf / "statue" / "0" / "images" / "1clutter003.jpg") as image:
        untouched = np.asarray(image.resize((camera.width, camera.height))).astype(float)
    assert np.abs(untouched - expected)[2:-2, 2:-2].mean() > 2 * error.mean()


def test_large_photos_get_the_longest_side_that_the_benchmark_measures_at(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    rows = make_rows("OPENCV", OPENCV)
    capture = make_scene(tmp_path / "capture", rows)
    for camera in rows.cameras:
        camera.width, camera.height = 640, 480
        camera.params = [10 * p for p in camera.params[:4]] + camera.params[4:]
    shutil.rmtree(capture)
    capture = make_scene(tmp_path / "capture", rows)
    names = tuple(f"img_{i:04d}.jpg" for i in range(12))
    download = make_robustnerf(tmp_path, Photos(capture, names[:10], names[10:]))
    shutil.copytree(download / "statue", download / "crab2")
    made = prepared("robustnerf", download, tmp_path / "out", "--scenes", "statue", "crab2")
    for scene, side in zip(made, (504, 432), strict=True):
        capture_views = loaded(scene).views
        assert {max(view.camera.size) for view in capture_views} == {side}


def test_the_colmap_program_stands_in_for_pycolmap(
    robustnerf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap")
    program = tmp_path / "bin" / "colmap"  # the same words, answered by pycolmap
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m scene.preparation.pycolmap_commands "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (scene,) = prepared(
        "robustnerf", robustnerf, tmp_path / "out", "--scenes", "statue", "--colmap", "colmap"
    )
    assert json.loads((scene / "preparation.json").read_text())["colmap"] == "colmap"
    assert len(loaded(scene).train) == 10


def test_without_any_colmap_one_line_says_what_to_install(
    robustnerf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = refusal(
        "robustnerf", robustnerf, tmp_path / "out", "--scenes", "statue", "--colmap", "colmap"
    )
    assert refused.code == ExitCode.ENVIRONMENT
    assert "pip install" in str(refused)


def test_a_truncated_photo_is_named_before_colmap_fills_it_with_gray(
    robustnerf: Path, tmp_path: Path
) -> None:
    path = robustnerf / "statue" / "0" / "images" / "1clutter000.jpg"
    path.write_bytes(path.read_bytes()[:-700])
    text = str(refusal("robustnerf", robustnerf, tmp_path / "out", "--scenes", "statue"))
    assert "1clutter000.jpg: " in text
    assert "get it again" in text
    assert not (tmp_path / "out").exists()


def test_phototourism_is_copied_as_delivered_less_the_photos_that_no_list_names(
    phototourism: Path, tmp_path: Path
) -> None:
    (scene,) = prepared("phototourism", phototourism, tmp_path / "out", "--scenes", "sacre-coeur")
    names = sorted(path.name for path in (scene / "images").iterdir())
    assert len(names) == 10  # 8 of the 10 train photos have an id, and 2 test
    source = phototourism / "sacre_coeur" / "dense" / "images"
    for name in names:
        assert (scene / "images" / name).read_bytes() == (source / name).read_bytes()
    capture = loaded(scene)
    assert (len(capture.views), len(capture.train), len(capture.test)) == (10, 8, 2)
    info = json.loads((scene / "nb-info.json").read_text())
    assert (info["id"], info["evaluation_protocol"]) == ("phototourism", "nerfw")


def test_a_subset_of_a_model_opens_in_colmap_and_keeps_its_points(tmp_path: Path) -> None:
    rows = make_rows()
    scene = make_scene(tmp_path / "scene", rows)
    names = {"img_0003.jpg", "img_0007.jpg"}
    write_subset(scene / "sparse" / "0", names, tmp_path / "part")
    part = read_model(tmp_path / "part", QUIET)
    whole = read_model(scene / "sparse" / "0", QUIET)
    assert {image.name for image in part.images} == names
    assert np.array_equal(part.points.xyz, whole.points.xyz)
    kept = {image.image_id for image in part.images}
    for row, length in zip(rows.points, part.points.track_lengths, strict=True):
        assert length == sum(image_id in kept for image_id, _ in row.track)
    pytest.importorskip("pycolmap")
    asked = "import pycolmap, sys; print(pycolmap.Reconstruction(sys.argv[1]).num_reg_images())"
    done = run(sys.executable, "-c", asked, tmp_path / "part")
    assert done.stdout.split()[-1:] == ["2"], done.stderr


def test_a_subset_of_a_text_model_says_the_same_as_that_of_a_binary_one(tmp_path: Path) -> None:
    rows = make_rows()
    scene = make_scene(tmp_path / "scene", rows)
    write_text(rows, tmp_path / "text")
    names = {"img_0000.jpg", "img_0011.jpg"}
    write_subset(scene / "sparse" / "0", names, tmp_path / "a")
    write_subset(tmp_path / "text", names, tmp_path / "b")
    a, b = (read_model(tmp_path / which, QUIET) for which in "ab")
    assert [image.name for image in a.images] == [image.name for image in b.images]
    assert np.array_equal(a.points.track_lengths, b.points.track_lengths)


def test_a_model_that_ends_early_is_named(tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "scene")
    path = scene / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"images\.bin ends early"):
        write_subset(path.parent, {"img_0000.jpg"}, tmp_path / "part")


@pytest.mark.parametrize(
    ("name", "gone", "words"),
    [
        ("onthego", "mountain/split.json", "mountain/split.json"),
        ("onthego", "mountain/transforms.json", "mountain/transforms.json"),
        ("onthego", "mountain/images", "mountain/images"),
        ("onthego", "mountain", "missing: mountain;"),
        ("robustnerf", "statue/0/images/1clutter004.jpg", "images/1clutter004.jpg"),
        ("robustnerf", "statue/0/sparse/0/images.bin", "sparse/0"),
        ("phototourism", "sacre.tsv", "its list sacre.tsv"),
        ("phototourism", "sacre_coeur/dense/sparse", "sacre_coeur/dense/sparse"),
        ("phototourism", "sacre_coeur/dense/images/10000077.jpg", "dense/images/10000077.jpg"),
    ],
)
def test_what_a_download_lacks_is_named_in_one_line_before_anything_is_written(
    name: str, gone: str, words: str, tmp_path: Path
) -> None:
    make = {
        "onthego": make_onthego, "robustnerf": make_robustnerf, "phototourism": make_phototourism,
    }[name]  # fmt: skip
    download = make(tmp_path, distorted_photos(tmp_path / "capture"))
    path = download / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    scene = {"onthego": "mountain", "robustnerf": "statue", "phototourism": "sacre_coeur"}[name]
    refused = refusal(name, download, tmp_path / "out", "--scenes", scene)
    assert words in str(refused)
    assert refused.code == ExitCode.BAD_INPUT
    assert not (tmp_path / "out").exists()


def test_all_missing_scenes_are_named_at_once_and_a_packed_archive_is_noticed(
    robustnerf: Path, tmp_path: Path
) -> None:
    (robustnerf / "robustnerf.tar.gz").write_bytes(b"")
    text = str(refusal("robustnerf", robustnerf, tmp_path / "out"))
    assert "missing: android, yoda, crab2; unpack robustnerf.tar.gz" in text


def test_a_photo_of_another_size_than_its_camera_is_named(robustnerf: Path, tmp_path: Path) -> None:
    path = robustnerf / "statue" / "0" / "images" / "2extra001.jpg"
    Image.new("RGB", (32, 24)).save(path)
    text = str(refusal("robustnerf", robustnerf, tmp_path / "out", "--scenes", "statue"))
    assert "2extra001.jpg is 32x24, its camera says 64x48" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with 'nothing'"),
        ("name,id\n", "begins with 'name,id'"),
        ("filename\tid\tsplit\tdataset\nx.jpg\t1\ttrain\ty\n", "no train photo"),
        ("filename\tid\tsplit\tdataset\na.jpg\t1\ttrain\ty\n", "no test photo"),
    ],
)
def test_a_wrong_list_of_photos_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "sacre.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_tsv(path, {"a.jpg"})


def test_a_scene_is_made_once_and_another_folder_is_never_replaced(
    phototourism: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (scene,) = prepared("phototourism", phototourism, out, "--scenes", "sacre_coeur")
    before = content(scene)
    prepared("phototourism", phototourism, out, "--scenes", "sacre_coeur")
    assert content(scene) == before
    (scene / "preparation.json").unlink()
    refused = refusal("phototourism", phototourism, out, "--scenes", "sacre_coeur")
    assert refused.code == ExitCode.FILE_SYSTEM


def test_nothing_is_ever_written_into_the_download(phototourism: Path) -> None:
    inside = phototourism / "prepared"
    refused = refusal("phototourism", phototourism, inside, "--scenes", "sacre_coeur")
    assert refused.code == ExitCode.USAGE
    assert not inside.exists()


def test_an_unknown_scene_is_a_usage_error_that_names_the_known(tmp_path: Path) -> None:
    refused = refusal("onthego", tmp_path, tmp_path / "out", "--scenes", "valley")
    assert refused.code == ExitCode.USAGE
    assert "it has mountain, fountain, corner, patio, spot, patio-high" in str(refused)


def test_the_ready_made_undistorted_on_the_go_set_loads_as_it_is(tmp_path: Path) -> None:
    # jkulhanek/nerfonthego-undistorted: a COLMAP folder a scene, lists, nb-info.json
    scene = make_scene(tmp_path / "corner", make_rows("PINHOLE"))
    names = [f"img_{i:04d}.jpg" for i in range(12)]
    (scene / "train_list.txt").write_text("\n".join(names[:9]) + "\n")
    (scene / "test_list.txt").write_text("\n".join(names[9:]) + "\n")
    (scene / "nb-info.json").write_text(json.dumps({"id": "nerfonthego-undistorted"}))
    capture = loaded(scene)
    assert (len(capture.train), len(capture.test)) == (9, 3)


def test_the_ready_made_robustnerf_set_of_pinhole_photos_loads_as_it_is(tmp_path: Path) -> None:
    # fcy99/RobustSplat-data: a COLMAP folder a scene, what a photo is for stands in its name
    rows = make_rows("PINHOLE")
    for i, image in enumerate(rows.images):
        image.name = f"{'1extra' if i > 8 else '0clutter'}{i:03d}.jpg"
    capture = loaded(make_scene(tmp_path / "statue", rows))
    assert (len(capture.train), len(capture.test)) == (9, 3)
    assert capture.split_rule.startswith("file names")
