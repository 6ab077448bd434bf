"""Builds the compiled operators; everything else about the package is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).resolve().parent


def sources() -> list[str]:
    """The glue in csrc/ and the kernels in csrc/cpu/, relative to this file."""
    files = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/cpu/*.cpp")]
    return sorted(str(path.relative_to(ROOT)) for path in files)


setup(
    ext_modules=[
        CppExtension(
            "diff_gaussian_rasterization._C",
            sources(),
            # Results must not depend on how a compiler fuses: kernels say where they want FMA.
            extra_compile_args=[
                "-O3",
                "-g0",
                "-std=c++20",
                "-fopenmp",
                "-fno-math-errno",
                "-ffp-contract=off",
                "-fvisibility=hidden",
                "-Wall",
                "-Wno-maybe-uninitialized",  # false alarms inside GCC 12's AVX-512 headers
            ],
            extra_link_args=["-fopenmp"],
            libraries=[],
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(no_python_abi_suffix=True)},
)
