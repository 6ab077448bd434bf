"""What is installed on this machine, as plain facts; judges nothing.

Imports the standard library only, and asks other processes about the rest: it may be broken.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from arguments.messages import UserError
from arguments.serialization import from_plain

ROOT = Path(__file__).resolve().parents[1]
RASTERIZER = ROOT / "submodules" / "diff-gaussian-rasterization"
PACKAGES = ("diff_gaussian_rasterization", "simple_knn")
LONGEST_PROBE = 120.0  # seconds
Kind = TypeVar("Kind")

TORCH_PROBE = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "sees_gpu": there,
    "capability": "%d.%d" % torch.cuda.get_device_capability() if there else "",
    "architectures": torch.cuda.get_arch_list(),
}))
"""
RASTERIZER_PROBE = """
import json, diff_gaussian_rasterization as d
print(json.dumps({"has_cuda": d.supports_device("cuda")}))
"""
RENDER_PROBE = """
import torch
from diff_gaussian_rasterization import rasterization
def on_gpu(*numbers):
    return torch.tensor(numbers, device="cuda")
torch.ones(2, device="cuda").add(1).tolist()
means = on_gpu([0.0, 0.0, 2.0]).requires_grad_()
color = rasterization(
    means, on_gpu([1.0, 0.0, 0.0, 0.0]), on_gpu([0.1, 0.1, 0.1]), on_gpu(0.5),
    on_gpu([1.0, 1.0, 1.0]), torch.eye(4, device="cuda")[None],
    on_gpu([[20.0, 0.0, 16.0], [0.0, 20.0, 16.0], [0.0, 0.0, 1.0]]), 32, 32,
).color
color.sum().backward()
torch.cuda.synchronize()
print("{}")
"""


@dataclass(frozen=True)
class Torch:
    """What torch says of itself.

    Attributes:
        cuda: the CUDA release that it was built for; None without CUDA.
        capability: of the GPU that it sees, such as 9.0; empty where it sees none.
        architectures: that it was built for, such as sm_90.
    """

    version: str
    cuda: str | None
    sees_gpu: bool
    capability: str
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """What the rasterizer says of itself once it is loaded."""

    has_cuda: bool


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU that the driver lists.

    Attributes:
        cuda: the newest CUDA release that the driver runs.
    """

    name: str
    cuda: str


@dataclass(frozen=True)
class Installation:
    """The facts.

    Attributes:
        glibc: release of the C library; empty where there is another one.
        torch_folders: every copy of torch on the path of modules, the one in use first.
        torch: None where there is none, or it cannot be imported.
        torch_failure: why not.
        unmet: requirements of pyproject.toml that are missing or too old.
        compiler: path of the C++ compiler; None where there is none.
        libraries: the rasterizer's compiled operators; none where they were never built.
        rasterizer: None where it does not load.
        rasterizer_failure: why not.
        toolkit_failure: why there is no CUDA compiler that fits torch; empty where there is one.
        gpu: None where the driver lists none, or CUDA_VISIBLE_DEVICES hides all.
        render_failure: why a render on the GPU failed.
    """

    python: str
    glibc: str
    torch_folders: tuple[Path, ...]
    torch: Torch | None
    torch_failure: str
    unmet: tuple[str, ...]
    compiler: str | None
    libraries: tuple[Path, ...]
    rasterizer: Loaded | None
    rasterizer_failure: str
    toolkit_failure: str
    gpu: Gpu | None
    render_failure: str


@dataclass(frozen=True)
class Answer:
    """What a probe printed, and the last line that it failed with."""

    printed: str
    failure: str


def look() -> Installation:
    """All facts of this machine; takes some seconds."""
    asked = _ask(TORCH_PROBE)
    torch = None if asked.failure else _parsed(Torch, asked)
    loads = _ask(RASTERIZER_PROBE) if torch else Answer("", "")
    rasterizer = _parsed(Loaded, loads) if torch and not loads.failure else None
    gpu = listed_gpu()
    has_cuda = torch is not None and torch.cuda is not None
    renders = rasterizer is not None and rasterizer.has_cuda and torch is not None
    return Installation(
        python=platform.python_version(),
        glibc=platform.libc_ver()[1] if platform.libc_ver()[0] == "glibc" else "",
        torch_folders=copies_of("torch"),
        torch=torch,
        torch_failure=asked.failure,
        unmet=unmet_requirements(ROOT / "pyproject.toml"),
        compiler=shutil.which(os.environ.get("CXX", "g++")),
        libraries=compiled_libraries(),
        rasterizer=rasterizer,
        rasterizer_failure=loads.failure,
        toolkit_failure=_toolkit_failure() if has_cuda else "",
        gpu=gpu,
        render_failure=_ask(RENDER_PROBE).failure if gpu and renders else "",
    )


def _ask(script: str) -> Answer:
    """Run a probe as a process of its own, which may fail in any way."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_PROBE,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"no answer in {LONGEST_PROBE:.0f} s")
    if done.returncode == 0:
        return Answer(done.stdout, "")
    said = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return Answer("", (errors or said or [f"ended with {done.returncode}"])[-1].strip())


def _parsed(kind: type[Kind], answer: Answer) -> Kind | None:
    """The last line that a probe printed; packages may print others before."""
    try:
        return from_plain(kind, json.loads(answer.printed.splitlines()[-1]), "probe")
    except (ValueError, IndexError, UserError):
        return None


def copies_of(package: str) -> tuple[Path, ...]:
    """Every folder of that name on the path of modules, without twins by links."""
    found = [Path(entry or ".") / package for entry in sys.path]
    return tuple(dict.fromkeys(f.resolve() for f in found if (f / "__init__.py").is_file()))


def numbers_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def unmet_requirements(pyproject: Path) -> tuple[str, ...]:
    """What pyproject.toml asks for and this Python lacks or has too old, torch aside."""
    import tomllib  # Python 3.11; an older one is a finding, no reason to stop

    wanted = tomllib.loads(pyproject.read_text("utf-8"))["project"]["dependencies"]
    unmet = []
    for text in wanted:
        name, _, least = (part.strip() for part in text.partition(">="))
        if name == "torch":
            continue
        try:
            if numbers_of(metadata.version(name)) < numbers_of(least):
                unmet.append(text)
        except metadata.PackageNotFoundError:
            unmet.append(text)
    unmet += [name for name in PACKAGES if find_spec(name) is None]
    return tuple(unmet)


def compiled_libraries() -> tuple[Path, ...]:
    """The rasterizer's operators, where the package that Python would load has them."""
    spec = find_spec(PACKAGES[0])
    folders = spec.submodule_search_locations if spec else None
    return tuple(path for folder in folders or () for path in sorted(Path(folder).glob("_C*.so")))


def listed_gpu() -> Gpu | None:
    """The first GPU that the driver lists, unless all are hidden from CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return None
    listing, summary = (_printed_by("nvidia-smi", *words) for words in (("-L",), ()))
    name = re.search(r"^GPU \d+: (.+?)(?: \(UUID|$)", listing, re.MULTILINE)
    cuda = re.search(r"CUDA Version:\s*(\d+\.\d+)", summary)
    return Gpu(name[1], cuda[1] if cuda else "") if name else None


def _printed_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _toolkit_failure() -> str:
    """Why no CUDA compiler fits torch, in the words of the rasterizer's build."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(RASTERIZER / "toolkit.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.strip().removeprefix("error: ")
