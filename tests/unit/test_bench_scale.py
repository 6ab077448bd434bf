"""The capture that long runs are timed on: complete, and its candidates those of the command."""

import subprocess
import sys
from pathlib import Path

from arguments.messages import Messages
from masks.proposals import CandidateFolder, ProposalSettings, propose
from scene.capture import CaptureSettings, load_capture

ROOT = Path(__file__).resolve().parents[2]


def test_capture_is_complete_and_its_candidates_are_those_of_one_process(tmp_path: Path) -> None:
    scene, quiet = tmp_path / "scene", Messages(quiet=True)
    words = ["scripts/bench_scale.py", scene, "--views", "8", "--test-views", "2", "--width", "64"]
    words += ["--height", "48", "--points", "400", "--texels-per-metre", "24", "--jobs", "2"]
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)
    capture = load_capture(CaptureSettings(scene), quiet)
    assert (len(capture.train), len(capture.test)) == (8, 2)
    assert CandidateFolder(scene / "candidates", capture).missing(capture.train) == []
    propose(capture, tmp_path / "alone", ProposalSettings(), quiet)
    alone = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (scene / "candidates").iterdir()) == alone
    for name in alone:
        assert (scene / "candidates" / name).read_bytes() == (
            tmp_path / "alone" / name
        ).read_bytes()
