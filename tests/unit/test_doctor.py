"""The doctor: one verdict and one command for each way in which an installation is broken."""

import dataclasses
import re
from pathlib import Path

import pytest

from arguments.doctor import findings, is_supported, summary
from arguments.installation import (
    Gpu,
    Installation,
    Loaded,
    Torch,
    listed_gpu,
    numbers_of,
    unmet_requirements,
)
from arguments.messages import MAX_LINE

CPU = Installation(
    python="3.11.7",
    glibc="2.36",
    torch_folders=(Path("/venv/torch"),),
    torch=Torch("2.13.0+cpu", None, False, "", ()),
    torch_failure="",
    unmet=(),
    compiler="/usr/bin/g++",
    libraries=(Path("_C.so"),),
    rasterizer=Loaded(has_cuda=False),
    rasterizer_failure="",
    toolkit_failure="",
    gpu=None,
    render_failure="",
)
WITH_CUDA = Torch("2.13.0", "13.0", True, "9.0", ("sm_80", "sm_90", "compute_90"))
GPU = dataclasses.replace(
    CPU, torch=WITH_CUDA, rasterizer=Loaded(has_cuda=True), gpu=Gpu("NVIDIA H200", "13.0")
)
NO_NVCC = "torch uses CUDA 13.0, but there is no nvcc in PATH: install CUDA 13.0 or set CUDA_HOME"
OTHER_NVCC = "torch uses CUDA 13.0, but the nvcc here is 12.4 in /usr/local/cuda: install CUDA 13.0"
NO_KERNEL = "torch.AcceleratorError: CUDA error: no kernel image is available for execution"


def changed(seen: Installation, **facts: object) -> Installation:
    """The same machine but for some facts."""
    return dataclasses.replace(seen, **facts)  # type: ignore[arg-type]


def seeing(**facts: object) -> Torch:
    """A torch with CUDA but for some facts."""
    return dataclasses.replace(WITH_CUDA, **facts)  # type: ignore[arg-type]


BROKEN = {
    "old Python": (
        changed(CPU, python="3.9.2"),
        r"^Python 3\.9\.2 is older than 3\.11; run: PYTHON",
    ),
    "old glibc": (
        changed(CPU, glibc="2.17"),
        r"^glibc 2\.17 is older than 2\.28.*; run: docker run",
    ),
    "no torch": (
        changed(CPU, torch=None, torch_failure="ModuleNotFoundError: No module named 'torch'"),
        r"^torch does not work \(ModuleNotFoundError.*\); run: bash scripts/setup\.sh$",
    ),
    "old torch": (
        changed(CPU, torch=Torch("2.9.1", None, False, "", ())),
        r"^torch 2\.9\.1 is older than 2\.10; run: .*pip install --upgrade 'torch>=2\.10'$",
    ),
    "two copies of torch": (
        changed(CPU, torch_folders=(Path("/venv/torch"), Path("/home/u/.local/torch"))),
        r"^two copies of torch: /venv/torch is used, /home/u/\.local/torch is there too; run: rm",
    ),
    "missing packages": (
        changed(CPU, unmet=("tyro", "pillow>=12.3")),
        r"^packages are missing or too old: tyro, pillow>=12\.3; run: bash scripts/setup\.sh$",
    ),
    "not built": (
        changed(CPU, libraries=(), rasterizer=None),
        r"^the rasterizer is not built; run: .*pip install --no-build-isolation .*-e submodules/",
    ),
    "no compiler": (
        changed(CPU, libraries=(), rasterizer=None, compiler=None),
        r"not built, and there is no C\+\+ compiler.*; run: sudo apt install g\+\+ python3-dev && ",
    ),
    "another torch's": (
        changed(
            CPU, rasterizer=None, rasterizer_failure="OSError: _C.so: undefined symbol: _ZN3c1"
        ),
        r"^the rasterizer was built for another torch or system than torch 2\.13\.0\+cpu here",
    ),
    "torch without CUDA": (
        changed(CPU, gpu=Gpu("NVIDIA H200", "13.0")),
        r"a GPU \(NVIDIA H200\), but torch 2\.13\.0\+cpu is .* without CUDA; run: .* --cuda$",
    ),
    "old driver": (
        changed(GPU, torch=seeing(sees_gpu=False), gpu=Gpu("Tesla T4", "12.4")),
        r"driver is too old: it runs CUDA 12\.4, .* needs 13\.0 .*; run: .*nvidia-driver-580",
    ),
    "unseen GPU": (
        changed(GPU, torch=seeing(sees_gpu=False)),
        r"sees no GPU, though the driver lists NVIDIA H200; run: sudo modprobe -r nvidia_uvm",
    ),
    "no nvcc": (
        changed(GPU, rasterizer=Loaded(has_cuda=False), toolkit_failure=NO_NVCC),
        r"built for the CPU only: torch uses CUDA 13\.0, but there is no nvcc in PATH; run: ",
    ),
    "another nvcc": (
        changed(GPU, rasterizer=Loaded(has_cuda=False), toolkit_failure=OTHER_NVCC),
        r"the nvcc here is 12\.4 in /usr/local/cuda; run: .*env -u CUDA_HOME bash .* --cuda$",
    ),
    "built for the CPU": (
        changed(GPU, rasterizer=Loaded(has_cuda=False)),
        r"^the rasterizer was built for the CPU only; run: .*pip install --no-build-isolation",
    ),
    "GPU newer than the rasterizer": (
        changed(GPU, torch=seeing(capability="9.0"), render_failure=NO_KERNEL),
        r"is sm_90, the rasterizer was built for others; run: TORCH_CUDA_ARCH_LIST=9\.0 python",
    ),
    "GPU unknown to torch": (
        changed(
            GPU,
            torch=seeing(capability="12.0", architectures=("sm_80", "sm_90")),
            render_failure=NO_KERNEL,
        ),
        r"is sm_120, torch 2\.13\.0 has sm_80, sm_90; run: .*pip install --upgrade torch",
    ),
    "broken kernels": (
        changed(GPU, render_failure="CUDA error: an illegal memory access was encountered"),
        r"a render on the GPU \(sm_90\) failed: CUDA error: an illegal",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_installation_has_one_verdict_and_one_command(name: str) -> None:
    seen, says = BROKEN[name]
    found = [str(finding) for finding in findings(seen)]
    assert len(found) == 1
    assert re.search(says, found[0]), found[0]
    assert len(found[0]) <= MAX_LINE


def test_sound_machines_are_told_what_they_run_on() -> None:
    assert findings(CPU) == findings(GPU) == []
    assert summary(CPU).startswith("CPU only: ok")
    assert summary(GPU).startswith("GPU NVIDIA H200: ok")


def test_faults_that_follow_from_others_are_not_told() -> None:
    seen = changed(CPU, torch=None, torch_failure="x", unmet=("tyro",), libraries=())
    assert len(findings(seen)) == 1


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ("9.0", ("sm_90",), True),
        ("8.9", ("sm_80",), True),
        ("8.0", ("sm_86",), False),
        ("12.0", ("sm_90",), False),
        ("12.0", ("sm_90", "compute_90"), True),
        ("9.0", ("sm_90a",), True),
        ("9.0", (), False),
    ],
)
def test_kernels_run_on_their_own_generation_and_intermediate_code_on_later_ones(
    capability: str, architectures: tuple[str, ...], runs: bool
) -> None:
    assert is_supported(capability, architectures) is runs


def test_versions_are_compared_as_numbers() -> None:
    assert numbers_of("2.13.0+cpu") == (2, 13, 0)
    assert numbers_of("2.9") < numbers_of("2.10")


def test_requirements_are_read_from_the_project(tmp_path: Path) -> None:
    listed = '"numpy>=1.0", "pillow>=9999", "torch>=99", "no-such-package"'
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = [{listed}]\n")
    assert unmet_requirements(tmp_path / "pyproject.toml") == ("pillow>=9999", "no-such-package")


NVIDIA_SMI = """#!/bin/sh
if [ "$1" = -L ]; then
  echo "GPU 0: NVIDIA H200 (UUID: GPU-0d5ae8c4)"
else
  echo "| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: 13.0     |"
fi
"""


def fake_driver(folder: Path) -> Path:
    """A folder with an nvidia-smi that prints what that of a machine with an H200 prints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    return folder


def test_gpu_is_the_one_that_the_driver_lists_unless_it_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_driver(tmp_path)), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert listed_gpu() == Gpu("NVIDIA H200", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert listed_gpu() is None
