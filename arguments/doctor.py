"""What keeps this installation from working, and the command that mends it.

    python -m arguments.doctor

Ends with 0 and one line where all is well, else with 4 and a line for each finding.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from arguments.installation import RASTERIZER, ROOT, Installation, look, numbers_of
from arguments.messages import ExitCode, one_line

OLDEST_PYTHON, OLDEST_TORCH = "3.11", "2.10"
OLDEST_GLIBC = "2.28"  # of torch's wheels (manylinux_2_28)
OLDEST_DRIVER = {11: "470", 12: "525", 13: "580"}  # by the major release of CUDA
SETUP = "bash scripts/setup.sh"
BUILD = (
    "python -m pip install --no-build-isolation --no-deps --force-reinstall "
    f"-e {RASTERIZER.relative_to(ROOT)}"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and one command that mends it."""

    verdict: str
    command: str

    def __str__(self) -> str:
        """As the user reads it."""
        return f"{self.verdict}; run: {self.command}"


def findings(seen: Installation) -> list[Finding]:
    """All that is wrong on the first level that has something wrong: the next ones rest on it."""
    levels: tuple[Callable[[Installation], list[Finding]], ...] = (
        *(of_system, of_torch, of_packages, of_rasterizer),
        *(of_driver, of_gpu_build, of_gpu_render),
    )
    return next((found for level in levels if (found := level(seen))), [])


def of_system(seen: Installation) -> list[Finding]:
    """Python and the C library."""
    found = []
    if numbers_of(seen.python) < numbers_of(OLDEST_PYTHON):
        found.append(
            Finding(
                f"Python {seen.python} is older than {OLDEST_PYTHON}",
                f"PYTHON=python{OLDEST_PYTHON} {SETUP}",
            )
        )
    if seen.glibc and numbers_of(seen.glibc) < numbers_of(OLDEST_GLIBC):
        found.append(
            Finding(
                f"glibc {seen.glibc} is older than {OLDEST_GLIBC}, which torch needs: use a newer "
                "system, or a container",
                "docker run --rm -it -v .:/work -w /work python:3.11 bash",
            )
        )
    return found


def of_torch(seen: Installation) -> list[Finding]:
    """One torch, new enough, that can be imported."""
    if len(seen.torch_folders) > 1:
        first, second = seen.torch_folders[:2]
        return [
            Finding(
                f"two copies of torch: {first} is used, {second} is there too",
                f"rm -rf .venv && PYTHONPATH= PYTHONNOUSERSITE=1 {SETUP}",
            )
        ]
    if seen.torch is None:
        return [Finding(f"torch does not work ({seen.torch_failure[:90]})", SETUP)]
    if numbers_of(seen.torch.version) < numbers_of(OLDEST_TORCH):
        return [
            Finding(
                f"torch {seen.torch.version} is older than {OLDEST_TORCH}",
                f"python -m pip install --upgrade 'torch>={OLDEST_TORCH}'",
            )
        ]
    return []


def of_packages(seen: Installation) -> list[Finding]:
    """The other packages."""
    if not seen.unmet:
        return []
    return [Finding(f"packages are missing or too old: {', '.join(seen.unmet)}", SETUP)]


def of_rasterizer(seen: Installation) -> list[Finding]:
    """The compiled operators are there and load with this torch."""
    if seen.rasterizer is not None or seen.torch is None:
        return []
    if not seen.libraries and seen.compiler is None:
        return [
            Finding(
                "the rasterizer is not built, and there is no C++ compiler to build it",
                f"sudo apt install g++ python3-dev && {BUILD}",
            )
        ]
    if not seen.libraries:
        return [Finding("the rasterizer is not built", BUILD)]
    return [
        Finding(
            f"the rasterizer was built for another torch or system than torch "
            f"{seen.torch.version} here",
            BUILD,
        )
    ]


def of_driver(seen: Installation) -> list[Finding]:
    """Where there is a GPU, torch can use it."""
    torch, gpu = seen.torch, seen.gpu
    if gpu is None or torch is None:
        return []
    if torch.cuda is None:
        return [
            Finding(
                f"there is a GPU ({gpu.name}), but torch {torch.version} is a build without CUDA",
                f"{SETUP} --cuda",
            )
        ]
    if numbers_of(gpu.cuda)[:1] < numbers_of(torch.cuda)[:1]:
        driver = OLDEST_DRIVER.get(numbers_of(torch.cuda)[0], "")
        return [
            Finding(
                f"the driver is too old: it runs CUDA {gpu.cuda}, torch {torch.version} needs "
                f"{torch.cuda} (driver {driver or 'of that release'} or newer)",
                f"sudo apt install nvidia-driver-{driver or 'NUMBER'} && sudo reboot",
            )
        ]
    if not torch.sees_gpu:
        return [
            Finding(
                f"torch {torch.version} sees no GPU, though the driver lists {gpu.name}",
                "sudo modprobe -r nvidia_uvm; sudo modprobe nvidia_uvm",
            )
        ]
    return []


def of_gpu_build(seen: Installation) -> list[Finding]:
    """Where torch uses the GPU, the rasterizer was built for it, or a compiler could do so."""
    torch, rasterizer = seen.torch, seen.rasterizer
    if torch is None or not torch.sees_gpu or rasterizer is None or rasterizer.has_cuda:
        return []
    what = "the rasterizer was built for the CPU only"
    if seen.toolkit_failure:
        short = seen.toolkit_failure.split(": install")[0]
        return [
            Finding(f"{what}: {short}", f"rm -f .venv/stamp; env -u CUDA_HOME {SETUP} --cuda"),
        ]
    return [Finding(what, BUILD)]


def of_gpu_render(seen: Installation) -> list[Finding]:
    """The kernels run on this GPU."""
    torch = seen.torch
    if torch is None or not torch.sees_gpu or not seen.render_failure:
        return []
    name = f"sm_{torch.capability.replace('.', '')}"
    if "no kernel image" not in seen.render_failure:
        return [
            Finding(f"a render on the GPU ({name}) failed: {seen.render_failure[:90]}", BUILD),
        ]
    if not is_supported(torch.capability, torch.architectures):
        built = ", ".join(torch.architectures)
        return [
            Finding(
                f"the GPU is {name}, torch {torch.version} has {built}",
                f"python -m pip install --upgrade torch && {BUILD}",
            )
        ]
    return [
        Finding(
            f"the GPU is {name}, the rasterizer was built for others",
            f"TORCH_CUDA_ARCH_LIST={torch.capability} {BUILD}",
        )
    ]


def is_supported(capability: str, architectures: tuple[str, ...]) -> bool:
    """Whether kernels for these architectures run on a GPU of that capability.

    Machine code runs on the same major capability from its own minor one on; intermediate code
    (compute_NN) is compiled for every later one.
    """
    major, minor = numbers_of(capability)
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = int("".join(c for c in digits if c.isdigit()) or 0)
        own = (number // 10, number % 10)
        if own == (major, minor) or (own[0] == major and own[1] < minor):
            return True
        if kind == "compute" and own < (major, minor):
            return True
    return False


def summary(seen: Installation) -> str:
    """What works, in one line."""
    torch = seen.torch
    version = "" if torch is None else f" (torch {torch.version}, Python {seen.python})"
    if torch is not None and torch.sees_gpu and seen.gpu is not None:
        return f"GPU {seen.gpu.name}: ok{version}"
    return f"CPU only: ok{version}"


def main() -> int:
    """Look, say what is wrong; the exit code."""
    if len(sys.argv) > 1:
        sys.stderr.write("error: python -m arguments.doctor takes no arguments\n")
        return int(ExitCode.USAGE)
    seen = look()
    found = findings(seen)
    for finding in found:
        sys.stderr.write(f"error: {one_line(str(finding))}\n")
    if found:
        return int(ExitCode.ENVIRONMENT)
    sys.stderr.write(f"{summary(seen)}\n")
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
