"""The version of a build: what it was compiled from, for which torch and which device.

As a command it prints the version that fits the installed torch: `python version.py cpu|cuda`.
scripts/setup.sh asks for a wheel by it, so that no wheel of other sources is taken for this one.
"""

import hashlib
import sys
from pathlib import Path

RELEASE = "0.1.0"
ROOT = Path(__file__).resolve().parent
KINDS = ("cpu", "cuda")


def digest() -> str:
    """Of every file that a build is made from."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("diff_gaussian_rasterization/*.py")]
    files += [path for path in ROOT.glob("csrc/**/*") if path.is_file()]
    seen = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        seen.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return seen.hexdigest()[:8]


def version(torch_version: str, cuda: str | None) -> str:
    """Such as 0.1.0+pt213.cu130.s1a2b3c4d.

    torch's C++ interface changes with each minor release, so a build serves just one of them.

    Args:
        cuda: the CUDA release that the kernels are built with; None for the CPU alone.
    """
    kind = "cpu" if cuda is None else "cu" + "".join(cuda.split(".")[:2])
    return f"{RELEASE}+pt{''.join(torch_version.split('.')[:2])}.{kind}.s{digest()}"


def main() -> None:
    """Prints the version, or fails with one line."""
    import torch

    kind = " ".join(sys.argv[1:])
    if kind not in KINDS:
        sys.exit(f"error: say which build, {' or '.join(KINDS)}, not '{kind}'")
    if kind == "cuda" and torch.version.cuda is None:
        sys.exit(f"error: torch {torch.__version__} is a build without CUDA")
    cuda = torch.version.cuda if kind == "cuda" else None
    sys.stdout.write(f"{version(torch.__version__, cuda)}\n")


if __name__ == "__main__":
    main()
