"""Builds the compiled operators; everything else about the package is in pyproject.toml.

With CUDA where torch has it and a compiler of the same major release is installed; for the CPU
alone with TWINSPLAT_CPU_ONLY=1. The GPUs are those of TORCH_CUDA_ARCH_LIST, else of this machine,
else all that `toolkit.EVERY_ARCHITECTURE` names.
"""

import os
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build does not look here by itself

from toolkit import NoToolkitError, Toolkit, WrongToolkitError, find  # noqa: E402

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


def build_command() -> type:
    """The build_ext of torch, with the name that the package loads."""
    from torch.utils.cpp_extension import BuildExtension

    return BuildExtension.with_options(no_python_abi_suffix=True)


toolkit = wanted_toolkit()
setup(
    ext_modules=[cuda_extension(toolkit) if toolkit else cpu_extension()],
    cmdclass={"build_ext": build_command()},
)
