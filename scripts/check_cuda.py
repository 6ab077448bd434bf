"""Compiles the CUDA code for every architecture and fails on an error or a register spill.

    bash scripts/check_cuda.sh -v

No GPU is needed: kernels go through nvcc, their glue through the C++ compiler's syntax check.
Nothing is kept but the reports, in build/check_cuda under a hash of all that they depend on, so
that a second run reads them. Without nvcc nothing is checked, and a line says so.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import tyro
from tyro.conf import arg

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "submodules" / "diff-gaussian-rasterization" / "csrc"
REPORTS = ROOT / "build" / "check_cuda"
ARCHITECTURES = (80, 89, 90, 100, 120)


class CompileError(Exception):
    """A file does not compile; the message holds what the compiler said."""


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture.

    Attributes:
        kernel: its mangled name.
        spilled: bytes stored to and loaded from local memory for want of registers.
    """

    architecture: str
    kernel: str
    registers: int
    spilled: int


def parse(log: str) -> list[Usage]:
    """The kernels in what `ptxas -v` prints, without those of NVIDIA's own templates."""
    usages, architecture, kernel, spilled = [], "", "", 0
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            kernel, architecture, spilled = entry[1], entry[2], 0
        elif frame := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled += int(frame[1]) + int(frame[2])
        elif (used := re.search(r"Used (\d+) registers", line)) and not re.search(
            r"\d(cub|thrust)", kernel
        ):
            usages.append(Usage(architecture, kernel, int(used[1]), spilled))
    return usages


@dataclass(frozen=True)
class Compilers:
    """nvcc, where its headers lie, and a folder for what torch's CPU wheel lacks."""

    nvcc: Path
    headers: Path
    scratch: Path

    def kernel(self, file: Path) -> str:
        """What ptxas says of a .cu file."""
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        target = self.scratch / f"{file.name}.o"
        flags = ["-O3", "-std=c++20", "-Xptxas", "-v", *codes]
        return _compile(self.nvcc, *flags, "-c", file, "-o", target)

    def glue(self, file: Path) -> str:
        """Nothing, if a .cpp file beside the kernels is sound."""
        folder = Path(torch.__path__[0]) / "include"
        own = self.scratch / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.touch()  # made by the build of torch's CUDA wheel, absent from the CPU one
        api = folder / "torch" / "csrc" / "api" / "include"
        includes = [f"-isystem{path}" for path in (folder, api, self.scratch, self.headers)]
        compiler = os.environ.get("CXX", "g++")
        return _compile(compiler, "-std=c++20", "-fsyntax-only", "-Wall", *includes, file)


def _compile(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode:
        raise CompileError("\n".join(s for s in said.splitlines() if "ptxas info" not in s))
    return said


def find_compilers(scratch: Path) -> Compilers | None:
    """Nvcc of PATH or CUDA_HOME, if any."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")
    if nvcc is None:
        return None
    included = _compile(nvcc, "-M", "-x", "cu", os.devnull).split()
    header = next(Path(path) for path in included if path.endswith("/cuda_runtime.h"))
    return Compilers(Path(nvcc), header.parent, scratch)


def sources_of(file: Path) -> set[Path]:
    """The file and every file of ours that it includes, directly or not."""
    found, waiting = set(), [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            names = re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)
            waiting += [(path.parent / name).resolve() for name in names]
    return found


def _key(file: Path, compilers: Compilers) -> str:
    """A hash of all that a report depends on."""
    version = _compile(compilers.nvcc, "--version") + torch.__version__
    files = [Path(__file__), *sorted(sources_of(file))]
    parts = [version.encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def report(file: Path, compilers: Compilers) -> str:
    """What the compiler says of a file, now or when it last looked like this."""
    path = REPORTS / f"{file.name}.{_key(file, compilers)}"
    if not path.is_file():
        said = compilers.kernel(file) if file.suffix == ".cu" else compilers.glue(file)
        REPORTS.mkdir(parents=True, exist_ok=True)
        for old in REPORTS.glob(f"{file.name}.*"):
            old.unlink()
        path.write_text(said)
    return path.read_text()


def summary(file: Path, usages: Iterable[Usage]) -> str:
    """One line: the most registers that a kernel of the file takes, by architecture."""
    usages = list(usages)
    most = {u.architecture: 0 for u in usages}
    for usage in usages:
        most[usage.architecture] = max(most[usage.architecture], usage.registers)
    each = ", ".join(f"{name} {count}" for name, count in most.items())
    return f"{file.name}: {len({u.kernel for u in usages})} kernels, most registers {each}"


def details(usages: Iterable[Usage]) -> list[str]:
    """One line a kernel: its registers by architecture."""
    rows: dict[str, list[str]] = {}
    for usage in usages:
        rows.setdefault(usage.kernel, []).append(f"{usage.architecture} {usage.registers}")
    names = list(rows)
    if filt := shutil.which("c++filt"):
        names = _compile(filt, "-p", *names).splitlines()
    return [f"  {n}: {', '.join(r)}" for n, r in zip(names, rows.values(), strict=True)]


def check(files: list[Path], compilers: Compilers, *, verbose: bool) -> int:
    """Prints a line a file; the number of files that fail."""
    failures = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(file, pool.submit(report, file, compilers)) for file in files]
        for file, job in jobs:
            try:
                usages = parse(job.result())
            except CompileError as error:
                print(f"error: {file.relative_to(ROOT)} does not compile\n{error}", file=sys.stderr)
                failures += 1
                continue
            print(summary(file, usages) if usages else f"{file.name}: sound", flush=True)
            if verbose:
                print(*details(usages), sep="\n")
            for usage in usages:
                if usage.spilled:
                    told = f"{usage.kernel} spills {usage.spilled} bytes for {usage.architecture}"
                    print(f"error: {told}; let it hold less", file=sys.stderr)
            failures += any(u.spilled for u in usages)
    return failures


@dataclass(frozen=True)
class Options:
    """What is printed."""

    verbose: Annotated[bool, arg(aliases=["-v"])] = False
    """The registers of each kernel."""


def main() -> None:
    """Checks everything; exits with 1 if something fails."""
    options = tyro.cli(Options, description=__doc__)
    files = [*sorted(CSRC.glob("cuda/kernels/*.cu")), *sorted(CSRC.glob("cuda/*.cpp"))]
    with TemporaryDirectory() as scratch:
        compilers = find_compilers(Path(scratch))
        if compilers is None:
            print("check_cuda: skipped, there is no nvcc on PATH or in CUDA_HOME")
            return
        if check(files, compilers, verbose=options.verbose):
            sys.exit(1)


if __name__ == "__main__":
    main()
