"""What the build finds and checks: CUDA toolkits of the right release, kernels that spill."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_cuda import Usage, details, parse, sources_of, summary
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "submodules" / "diff-gaussian-rasterization"))

import toolkit


def make_toolkit(home: Path, release: str, codes: str = "sm_80") -> Path:
    """A folder that looks like an installed toolkit, with a compiler that only says what it is."""
    (home / "bin").mkdir(parents=True)
    (home / "include").mkdir()
    (home / "include" / "cuda_runtime.h").touch()
    nvcc = home / "bin" / "nvcc"
    version = f"Cuda compilation tools, release {release}, V{release}.1"
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" || echo "{codes}"\n')
    nvcc.chmod(0o755)
    return home


def test_the_named_toolkit_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_toolkit(tmp_path / "cuda", "13.1")
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert toolkit.find("13.0") == toolkit.Toolkit(home, "13.1")


def test_a_toolkit_of_another_major_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_toolkit(tmp_path / "cuda", "12.4")
    monkeypatch.setenv("CUDA_HOME", str(home))
    with pytest.raises(toolkit.WrongToolkitError, match=rf"CUDA 13.0, .* 12.4 in {home}"):
        toolkit.find("13.0")


def test_a_compiler_without_headers_is_no_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_toolkit(tmp_path / "cuda", "13.0")
    (home / "include" / "cuda_runtime.h").unlink()
    monkeypatch.setenv("CUDA_HOME", str(home))
    with pytest.raises(toolkit.NoToolkitError, match=r"no nvcc .* set CUDA_HOME"):
        toolkit.find("13.0")


def test_the_toolkit_that_fits_is_found_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    older = make_toolkit(tmp_path / "older", "12.4")
    monkeypatch.setenv("PATH", str(older / "bin"), prepend=":")
    packages = make_toolkit(tmp_path / "site-packages" / "nvidia" / "cu97", "97.0")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert toolkit.find("97.2").home == packages


def test_architectures_are_those_that_the_compiler_knows(tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "cuda", "12.4", codes="sm_80\nsm_89\nsm_90")
    assert toolkit.Toolkit(home, "12.4").architectures() == "8.0;8.9;9.0+PTX"


LOG = """
ptxas info    : Compiling entry function '_Z5twicePKfPfi' for 'sm_80'
ptxas info    : Function properties for _Z5twicePKfPfi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 372 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN3cub9RadixSortEv' for 'sm_80'
    64 bytes stack frame, 64 bytes spill stores, 64 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
ptxas info    : Compiling entry function '_Z5twicePKfPfi' for 'sm_90'
    48 bytes stack frame, 40 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 372 bytes cmem[0]
"""


def test_registers_and_spills_are_read_from_the_assembler() -> None:
    name = "_Z5twicePKfPfi"
    assert parse(LOG) == [Usage("sm_80", name, 10, 0), Usage("sm_90", name, 32, 84)]


def test_a_file_is_summed_up_in_a_line() -> None:
    line = "twice.cu: 1 kernels, most registers sm_80 10, sm_90 32"
    assert summary(Path("twice.cu"), parse(LOG)) == line
    assert details(parse(LOG))[0].endswith(": sm_80 10, sm_90 32")


def test_a_report_depends_on_what_is_included_indirectly(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    kernel, header, other = (tmp_path / n for n in ("kernels/a.cu", "kernels/a.h", "b.h"))
    kernel.write_text('#include "a.h"\n#include <vector>\n')
    header.write_text('#include "../b.h"\n')
    other.write_text('#include "kernels/a.h"\n')
    (tmp_path / "c.h").touch()
    assert sources_of(kernel) == {kernel, header, other}


def test_a_second_setup_waits_for_the_first(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "setup.sh"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", script)
    environment = os.environ | {"PYTHON": "false"}  # it ends with the first question to Python
    with (tmp_path / ".venv.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen(
            ["bash", script, "--cpu"], env=environment, stderr=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=1)
    _, said = second.communicate(timeout=20)
    assert said.splitlines()[0] == (
        "setup: another one is at work in this checkout; waiting for it"
    )
    assert second.returncode == 4
