"""What went wrong, as the one line and exit code that the user gets; knows no subsystem."""

import errno
import sys
import tempfile
import traceback
from typing import TextIO

from arguments.messages import ExitCode, UserError, one_line
from arguments.signals import Stopped

ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "choose another folder",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.ENOENT: "check the path",
}
OTHER_ADVICE = "check the disk or the network share"
# How torch says that an allocation failed; it is never imported for that.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
# How torch begins when CUDA, or a library on it, has failed.
CUDA_FAILED = ("cuda error", "cuda driver error", "cudnn error")
# What CUDA says where this installation cannot use this GPU at all: no kernel has run.
UNUSABLE_GPU = (
    *("no kernel image", "driver version is insufficient", "no cuda-capable device"),
    *("forward compatibility", "unsupported toolchain", "devices unavailable"),
)
LOST_GPU = (
    "this process cannot use the GPU any more; train.py --resume goes on from the last checkpoint, "
    "with --check_kernels it names the kernel"
)


def refusal_of(failure: BaseException) -> UserError | None:
    """The failure in words that the user can act on; None where it is a bug of this program."""
    if isinstance(failure, UserError):
        return failure
    if isinstance(failure, OSError) and failure.errno is not None:
        where = f" in '{failure.filename}'" if failure.filename else ""
        advice = ADVICE.get(failure.errno, OTHER_ADVICE)
        return UserError(f"{failure.strerror}{where}; {advice}", ExitCode.FILE_SYSTEM)
    if isinstance(failure, ImportError) or _is_broken_library(failure):
        return UserError(
            f"{str(failure)[:200]}; the installation is broken or lacks it: bash scripts/setup.sh",
            ExitCode.ENVIRONMENT,
        )
    if is_out_of_memory(failure):
        return UserError(
            "out of memory; lower --max_gaussians, or give smaller photos with -r",
            ExitCode.MEMORY,
        )
    if _is_of_cuda(failure) and _says(failure, UNUSABLE_GPU):
        return UserError(
            f"{_first_line(failure)}; python -m arguments.doctor says what to install",
            ExitCode.ENVIRONMENT,
        )
    return None


def _is_broken_library(failure: BaseException) -> bool:
    """Whether a compiled library could not be loaded, as one that another torch was built for."""
    return isinstance(failure, OSError) and failure.errno is None and ".so" in str(failure)


def is_out_of_memory(failure: BaseException | None) -> bool:
    """Whether an allocation failed, of the host or of a GPU, or led to the failure.

    A GPU that runs out of memory while a step is recorded fails once more when recording ends.
    """
    if failure is None:
        return False
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return True
    is_torch = isinstance(failure, RuntimeError) and _says(failure, OUT_OF_MEMORY)
    return is_torch or is_out_of_memory(failure.__context__)


def is_lost_gpu(failure: BaseException) -> bool:
    """Whether a kernel has failed: every later call of CUDA in this process fails too."""
    return (
        _is_of_cuda(failure) and not is_out_of_memory(failure) and not _says(failure, UNUSABLE_GPU)
    )


def _is_of_cuda(failure: BaseException) -> bool:
    """Whether CUDA reported it; torch has a type for that, but not for the libraries on CUDA."""
    is_typed = type(failure).__name__ == "AcceleratorError"
    return isinstance(failure, RuntimeError) and (is_typed or _says(failure, CUDA_FAILED))


def _says(failure: BaseException, phrases: tuple[str, ...]) -> bool:
    said = str(failure).lower()
    return any(words in said for words in phrases)


def _first_line(failure: BaseException) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:160]


def report(failure: BaseException) -> int:
    """Say on stderr in one line how a command failed; returns the exit code.

    The traceback of a bug goes to a file of its own.
    """
    if isinstance(failure, Stopped):
        sys.stderr.write(f"{failure}\n")
        return failure.code
    refusal = refusal_of(failure)
    if refusal is not None:
        sys.stderr.write(f"error: {one_line(str(refusal))}\n")
        return int(refusal.code)
    told = one_line(f"{type(failure).__name__}: {_first_line(failure)}")[:160]
    if is_lost_gpu(failure):
        told = f"{told[:80]}; {LOST_GPU}"
    sys.stderr.write(f"error: a bug in this program: {told}; {_crash_report(failure)}\n")
    return int(ExitCode.BUG)


def _crash_report(failure: BaseException) -> str:
    """Write the traceback to a file; says where it is."""
    text = "".join(traceback.format_exception(failure))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="twinsplat-crash-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError as refused:
        return f"no report, {refused.strerror}"
    return f"report {file.name}"


class LastingStream:
    """A stream that a run outlives: once nobody reads it any more, what is written is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def write(self, text: str) -> int:
        """Write while somebody reads."""
        try:
            if self._stream is not None:
                self._stream.write(text)
        except (OSError, ValueError):  # a closed pipe, terminal or file
            self._stream = None
        return len(text)

    def flush(self) -> None:
        """Flush while somebody reads."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's own handle.

        Raises:
            OSError: nobody reads any more.
        """
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """How text becomes bytes."""
        return self._stream.encoding if self._stream is not None else "utf-8"
