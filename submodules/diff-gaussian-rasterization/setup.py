"""Builds the compiled operators; everything else about the package is in pyproject.toml.

With CUDA where torch has it and a compiler of the same major release is installed; for the CPU
alone with TWINSPLAT_CPU_ONLY=1. The GPUs are those of TORCH_CUDA_ARCH_LIST, else of this machine,
else all that `toolkit.EVERY_ARCHITECTURE` names. TWINSPLAT_LIBRARY is a library for the CPU that
was built from the same files: it is packed as it is.
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build does not look here by itself

from toolkit import NoToolkitError, Toolkit, WrongToolkitError, find  # noqa: E402
from version import version  # noqa: E402

# Results must not depend on how a compiler fuses: kernels say where they want FMA.
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++20",
    "-fopenmp",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-maybe-uninitialized",  # false alarms inside GCC 12's AVX-512 headers
]
# No --use_fast_math: it would make every division, root and exponential approximate and flush
# denormals, in all kernels at once; a kernel says itself where ex2.approx and the like are enough.
NVCC_FLAGS = ["-O3", "-std=c++20", "-Xfatbin", "-compress-all"]


def sources(*patterns: str) -> list[str]:
    """Files of csrc/, relative to this file."""
    files = [path for pattern in patterns for path in ROOT.glob(f"csrc/{pattern}")]
    return sorted(str(path.relative_to(ROOT)) for path in files)


def wanted_toolkit() -> Toolkit | None:
    """The CUDA toolkit to build with, or None for the CPU alone, which it says where it must."""
    if os.environ.get("TWINSPLAT_CPU_ONLY") or torch.version.cuda is None:
        return None
    try:
        return find(torch.version.cuda)
    except WrongToolkitError as error:
        sys.exit(f"error: {error}")
    except NoToolkitError as error:
        sys.stderr.write(f"warning: building for the CPU alone: {error}\n")
        return None


def cpu_extension() -> Extension:
    """The glue in csrc/ and the kernels in csrc/cpu/."""
    from torch.utils.cpp_extension import CppExtension

    return CppExtension(
        "diff_gaussian_rasterization._C",
        sources("*.cpp", "cpu/*.cpp"),
        extra_compile_args={"cxx": CXX_FLAGS},
        extra_link_args=["-fopenmp"],
    )


def cuda_extension(toolkit: Toolkit) -> Extension:
    """The same with csrc/cuda/ and its kernels."""
    # torch looks for the toolkit when this module is loaded.
    os.environ["CUDA_HOME"] = str(toolkit.home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and torch.cuda.device_count() == 0:
        os.environ["TORCH_CUDA_ARCH_LIST"] = toolkit.architectures()
    from torch.utils.cpp_extension import CUDAExtension

    extension = CUDAExtension(
        "diff_gaussian_rasterization._C",
        sources("*.cpp", "cpu/*.cpp", "cuda/*.cpp", "cuda/kernels/*.cu"),
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
        extra_link_args=["-fopenmp"],
    )
    if not any(Path(folder, "libcudart.so").exists() for folder in extension.library_dirs):
        # pip's packages of the toolkit have the library under its full name only.
        extension.libraries.remove("cudart")
        extension.extra_link_args.append(f"-l:libcudart.so.{toolkit.major}")
    return extension


def build_command(library: str | None) -> type:
    """The build_ext of torch, with the name that the package loads; or one that takes a library."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension.with_options(no_python_abi_suffix=True)):
        def build_extensions(self) -> None:
            if library is None:
                super().build_extensions()
                return
            for extension in self.extensions:
                target = Path(self.get_ext_fullpath(extension.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(library, target)

    return Build


class Wheel(bdist_wheel):
    """The library knows torch and no Python, so that a wheel serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


library = os.environ.get("TWINSPLAT_LIBRARY") or None
toolkit = None if library else wanted_toolkit()
setup(
    version=version(torch.__version__, torch.version.cuda if toolkit else None),
    install_requires=[f"torch=={'.'.join(torch.__version__.split('.')[:2])}.*"],
    ext_modules=[cuda_extension(toolkit) if toolkit else cpu_extension()],
    cmdclass={"build_ext": build_command(library), "bdist_wheel": Wheel},
)
