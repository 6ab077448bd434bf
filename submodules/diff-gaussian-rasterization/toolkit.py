"""Where a CUDA compiler lies that fits the installed torch.

As a command it prints the folder, with --architectures what to build for. Knows nothing of what is
compiled. setup.py and scripts/setup.sh ask the same question here.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Ampere, Ada, Hopper, Blackwell in data centres and in desktops; newer ones compile the PTX.
EVERY_ARCHITECTURE = ("8.0", "8.9", "9.0", "10.0", "12.0")


class NoToolkitError(Exception):
    """No CUDA toolkit is installed; the message is one line with the cure."""


class WrongToolkitError(Exception):
    """Only toolkits that cannot build for this torch are installed; one line with the cure."""


@dataclass(frozen=True)
class Toolkit:
    """An installed CUDA toolkit: its folder and its release, such as 13.0."""

    home: Path
    release: str

    @property
    def major(self) -> str:
        return self.release.split(".")[0]

    def architectures(self) -> str:
        """What to build for where no GPU says it, as TORCH_CUDA_ARCH_LIST has it."""
        listing = _output(self.home / "bin" / "nvcc", "--list-gpu-code")
        known = [a for a in EVERY_ARCHITECTURE if f"sm_{a.replace('.', '')}" in listing.split()]
        return ";".join(known) + "+PTX"


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _folders() -> list[Path]:
    """Where a toolkit may lie: the named one, else on PATH, in /usr/local, in site-packages."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return [Path(named)]
    nvcc = shutil.which("nvcc")
    on_path = [Path(nvcc).resolve().parents[1]] if nvcc else []
    usual = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    packages = [folder for path in sys.path for folder in sorted(Path(path).glob("nvidia/cu*"))]
    return list(dict.fromkeys(path.resolve() for path in [*on_path, *usual, *packages]))


def installed() -> list[Toolkit]:
    """Every toolkit with a compiler and the runtime's headers."""
    toolkits = []
    for home in _folders():
        nvcc, header = home / "bin" / "nvcc", home / "include" / "cuda_runtime.h"
        if nvcc.is_file() and header.is_file():
            release = re.search(r"release (\d+\.\d+)", _output(nvcc, "--version"))
            if release:
                toolkits.append(Toolkit(home, release[1]))
    return toolkits


def find(wanted: str) -> Toolkit:
    """The first toolkit whose major release is that of `wanted`, torch's own CUDA release.

    Raises:
        NoToolkitError: there is no toolkit at all.
        WrongToolkitError: there are others only.
    """
    toolkits = installed()
    for toolkit in toolkits:
        if toolkit.major == wanted.split(".")[0]:
            return toolkit
    cure = f"install CUDA {wanted} or set CUDA_HOME to it (TWINSPLAT_CPU_ONLY=1 builds for the CPU)"
    if not toolkits:
        where = os.environ.get("CUDA_HOME") or "PATH, /usr/local or the Python packages"
        raise NoToolkitError(f"torch uses CUDA {wanted}, but there is no nvcc in {where}: {cure}")
    seen = ", ".join(f"{t.release} in {t.home}" for t in toolkits)
    raise WrongToolkitError(f"torch uses CUDA {wanted}, but the nvcc here is {seen}: {cure}")


def main() -> None:
    """Prints the folder of the toolkit that fits torch, or its architectures; or fails."""
    import torch

    wants_architectures = sys.argv[1:] == ["--architectures"]
    if torch.version.cuda is None:
        sys.exit(f"error: torch {torch.__version__} is a build without CUDA")
    try:
        toolkit = find(torch.version.cuda)
        sys.stdout.write(f"{toolkit.architectures() if wants_architectures else toolkit.home}\n")
    except (NoToolkitError, WrongToolkitError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
