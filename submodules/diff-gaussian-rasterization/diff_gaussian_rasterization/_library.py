"""Loads the compiled operators into `torch.ops.twinsplat_raster`; knows none of them."""

from pathlib import Path

import torch

NAME = "twinsplat_raster"


def load() -> None:
    """Register the operators with torch.

    Raises:
        ImportError: the package was never built, or was built for another torch.
    """
    folder = Path(__file__).resolve().parent
    library = next(iter(sorted(folder.glob("_C*.so"))), None)
    is_checkout = (folder.parent / "setup.py").is_file()
    cure = (
        f"run: pip install --no-build-isolation -e {folder.parent}"
        if is_checkout
        else "install a wheel that scripts/wheels.sh made for this torch"
    )
    if library is None:
        raise ImportError(f"the compiled operators are missing in {folder}; {cure}")
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(
            f"{library} does not load with torch {torch.__version__}: {error}; {cure}"
        ) from error


load()


def supports_device(kind: str) -> bool:
    """Whether the compiled operators run on devices of this kind, `cpu` or `cuda`."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAME}::project", kind.upper())
