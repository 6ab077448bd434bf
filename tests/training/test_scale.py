"""A scene may be measured in any unit: it is learnt as well, and written in its own."""

import shutil
import struct
from pathlib import Path

import pytest

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages
from evaluation.evaluate import evaluate
from evaluation.run_views import RunRequest, open_views
from scene.ply import read_ply
from training.run import train
from training.run_folder import read_record

STEPS = 60


def scaled(source: Path, target: Path, factor: float) -> Path:
    """A copy of a capture whose model is so many times as large."""
    shutil.copytree(source, target)
    images, points = (target / "sparse" / "0" / name for name in ("images.bin", "points3D.bin"))
    content = bytearray(images.read_bytes())
    at = 8
    for _ in range(struct.unpack_from("<Q", content)[0]):
        translation = struct.unpack_from("<3d", content, at + 36)
        struct.pack_into("<3d", content, at + 36, *(factor * value for value in translation))
        at = content.index(b"\0", at + 64) + 1
        at += 8 + 24 * struct.unpack_from("<Q", content, at)[0]
    images.write_bytes(content)
    content = bytearray(points.read_bytes())
    at = 8
    for _ in range(struct.unpack_from("<Q", content)[0]):
        place = struct.unpack_from("<3d", content, at + 8)
        struct.pack_into("<3d", content, at + 8, *(factor * value for value in place))
        at += 51 + 8 * struct.unpack_from("<Q", content, at + 43)[0]
    points.write_bytes(content)
    return target


def outcome(scene: Path, out: Path) -> tuple[float, float, float]:
    """PSNR of the test views, the median size of a Gaussian, and how far they reach."""
    words = ["-s", str(scene), "-m", str(out), "--quiet", "--iterations", str(STEPS)]
    assert train(parse_train([*words, "--method", "single"])[0], Messages(True)) == ExitCode.OK
    measured = evaluate(open_views(RunRequest(out), Messages(True)), "test", Messages(True))
    assert measured is not None
    splats = read_ply(next(out.glob("point_cloud/*/*.ply")))
    size = float(splats.log_scales.exp().median())
    return measured.psnr, size, float(splats.means.abs().max())


@pytest.mark.parametrize("factor", [1e-4, 1e6])
def test_scene_of_any_unit_is_learnt_as_well_and_written_in_it(
    factor: float, tiny_capture: Path, tmp_path: Path
) -> None:
    psnr, size, reach = outcome(tiny_capture, tmp_path / "usual")
    scene = scaled(tiny_capture, tmp_path / "scene", factor)
    other_psnr, other_size, other_reach = outcome(scene, tmp_path / "other")
    assert other_psnr == pytest.approx(psnr, abs=0.3)
    assert other_size / factor == pytest.approx(size, rel=0.1)
    assert other_reach / factor == pytest.approx(reach, rel=0.1)
    record = read_record(tmp_path / "other")
    assert record is not None
    assert (record.unit < 1) is (factor < 1)
