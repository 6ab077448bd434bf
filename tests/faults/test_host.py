"""What the machine allows: the container's memory, and the files that a hostile scene may open."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scene import host_memory
from tests.faults.server import Commands
from tests.scene_builder import make_rows, make_scene, write_binary

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", [2, 1])
def test_memory_is_that_of_the_container_less_what_it_uses(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = dict(zip((2, 1), host_memory.CGROUP_FILES, strict=True))[version]
    for name, number in zip(names, (64 << 20, 40 << 20), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{number}\n")
    stat = (tmp_path / names[0]).with_name("memory.stat")
    stat.write_text(f"anon {1 << 20}\ninactive_file {5 << 20}\nactive_file {3 << 20}\n")
    monkeypatch.setattr(host_memory, "CGROUP_ROOT", tmp_path)
    assert host_memory.host_memory() == host_memory.Memory(64 << 20, (64 - 40 + 5 + 3) << 20)


def test_container_without_a_limit_has_the_memory_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = host_memory.host_memory()
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(host_memory, "CGROUP_ROOT", tmp_path)
    assert host_memory.host_memory().total >= usual.total


def test_run_without_network_is_one_without_network(commands: Commands) -> None:
    """The cut itself: a connection that a listening server would take is refused."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = (
            "import ctypes, socket\n"
            f"try_it = lambda: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))\n"
            "try_it().close()\n"
            "ctypes.CDLL(None).network_cut()\n"
            "try_it()\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "LD_PRELOAD": str(commands.shim)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert re.search(r"gaierror|Network is unreachable", ended.stderr.splitlines()[-1])
    assert "line 5" in ended.stderr


@pytest.mark.parametrize("how", ["name", "link"])
def test_hostile_scene_opens_nothing_outside_of_it(how: str, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    root, secret = make_scene(tmp_path / "data"), tmp_path / "secret.jpg"
    secret.write_bytes((root / "images" / "img_0000.jpg").read_bytes())
    if how == "name":
        rows = make_rows()
        rows.images[3].name = "../../secret.jpg"
        write_binary(rows, root / "sparse" / "0")
    else:
        (root / "images" / "img_0003.jpg").unlink()
        (root / "images" / "img_0003.jpg").symlink_to(secret)
    words = [sys.executable, "train.py", "-s", str(root), "-m", str(tmp_path / "out")]
    ended = subprocess.run(
        [strace, "-f", "-e", "trace=open,openat", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    assert "leaves the image folder" in ended.stderr
    assert re.findall(r"open(?:at)?\(.*secret\.jpg.*", ended.stderr) == []
    assert re.findall(r"open(?:at)?\(.*images\.bin.*", ended.stderr) != []
