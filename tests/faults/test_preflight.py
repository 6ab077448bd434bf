"""`train.py --preflight`: one screen from headers alone, quickly and without a trace on disk."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from scene.capture import CaptureSettings, survey_capture
from tests.faults.scene_cases import CASES, Case, masks, snapshot
from tests.scene_builder import make_rows, make_scene, write_binary
from training.run import train

LONGEST_SCREEN = 24
# Found by decoding photos or masks; their headers are sound.
NEEDS_PIXELS = ("C1-truncated", "C6-", "C7-", "D4-shape", "D5-", "D1-", "D4-scaled")


def preflight(root: Path, *extra: str) -> tuple[int, Messages]:
    """The exit code and what was said."""
    messages = Messages(quiet=True)
    words = ["-s", str(root), "-m", str(root.parent / "out"), "--preflight", *extra]
    return train(parse_train(words)[0], messages), messages


def test_screen_says_what_was_found_and_writes_nothing(tmp_path: Path) -> None:
    root = make_scene(tmp_path / "data")
    masks((64, 48), 255)(root)
    (root / "images" / "extra.jpg").write_bytes((root / "images" / "img_0000.jpg").read_bytes())
    before = snapshot(tmp_path)
    code, messages = preflight(root, "--masks", "mymasks", "--eval")
    assert code == ExitCode.OK
    assert snapshot(tmp_path) == before
    screen = "\n".join(messages.notes)
    for said in (
        "1 photos in ", "have no pose in the model; unused", "masks: 10/12, white = keep",
        "split: every 8th by name: 10 train, 2 test", "views: 10 train, 2 test", "64x48",
        "points: 200, scene extent ", "candidates: 0/10 in ", "photos: 0.00 GB in memory",
        "no Segment Anything weights in ", "thin model: ",
        "method: dual, masks: hard; soft", "growth: asymmetric", "plan: 1000 Gaussians, ",
        "mask banks ", "tile lists ", "time: about ",
    ):  # fmt: skip
        assert said in screen, screen
    assert len(messages.notes) + len(messages.warnings) <= LONGEST_SCREEN


def test_screen_does_not_decode_photos(tmp_path: Path) -> None:
    """2 ms a photo cannot be enough to decode 6 megapixels."""
    rows = make_rows("PINHOLE", [3000.0, 3000.0, 1500.0, 1000.0])
    rows.cameras[0].width, rows.cameras[0].height = 3000, 2000
    for image in rows.images:
        image.keypoints = []
    root = tmp_path / "data"
    noise = np.random.default_rng(0).integers(256, size=(2000, 3000, 3), dtype=np.uint8)
    (root / "images").mkdir(parents=True)
    first = root / "images" / "img_0000.jpg"
    Image.fromarray(noise).save(first, quality=90)
    for image in rows.images[1:]:
        (root / "images" / image.name).write_bytes(first.read_bytes())
    write_binary(rows, root / "sparse" / "0")
    began = time.perf_counter()
    code, messages = preflight(root)
    assert code == ExitCode.OK
    assert time.perf_counter() - began < 4.0
    assert any("12 photos are wider than 1600 px" in note for note in messages.notes)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name[0] in "ABCD" and not case.name.startswith(NEEDS_PIXELS)],
    ids=lambda case: case.name,
)
def test_every_fault_of_a_scene_is_found_before_anything_is_decoded(
    case: Case, tmp_path: Path
) -> None:
    root = make_scene(tmp_path / "data")
    case.change(root)
    messages = Messages(quiet=True)
    if case.code is None:
        survey_capture(CaptureSettings(root, **case.settings), messages)
        said = "\n".join(getattr(messages, case.voice))
    else:
        with pytest.raises(UserError) as refusal:
            survey_capture(CaptureSettings(root, **case.settings), messages)
        assert refusal.value.code == case.code
        said = str(refusal.value)
    assert re.search(case.says, said, re.MULTILINE), said
