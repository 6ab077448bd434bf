"""Whatever ends a command is one line and the right exit code; only bugs get a report."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from arguments.failures import LastingStream, is_lost_gpu, report
from arguments.messages import MAX_LINE, ExitCode, UserError
from arguments.signals import Stopped


def out_of_memory() -> BaseException:
    """What torch's allocator raises."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    return raised.value


def failed_recording() -> BaseException:
    """What a CUDA graph raises when its recording is ended by a lack of memory."""

    def record() -> None:
        try:
            torch.empty(1 << 60, dtype=torch.uint8)
        finally:
            raise RuntimeError("CUDA error: operation failed due to an error during capture")

    with pytest.raises(RuntimeError) as raised:
        record()
    return raised.value


def wrong_library(folder: Path) -> BaseException:
    """What loading a compiled library for another system raises."""
    (folder / "_C.so").write_bytes(b"not a library")
    with pytest.raises(OSError, match=r"_C\.so") as raised:
        torch.ops.load_library(str(folder / "_C.so"))
    return raised.value


def cuda(what: str) -> BaseException:
    """What torch raises where a call of CUDA has failed: its type and its many lines."""
    advice = "CUDA kernel errors might be asynchronously reported at some other API call."
    return torch.AcceleratorError(f"CUDA error: {what}\n{advice}\nFor debugging consider ...\n")


LOST = r"CUD.*; this process cannot use the GPU any more; .*--resume.*--check_kernels.*; report /"


def test_kernel_that_fails_is_told_from_all_that_can_be_gone_on_from() -> None:
    lost = [cuda("unspecified launch failure"), cuda("misaligned address")]
    lost.append(RuntimeError("CUDA driver error: unknown error"))
    assert all(is_lost_gpu(failure) for failure in lost)
    others = [out_of_memory(), MemoryError(), cuda("out of memory"), ZeroDivisionError()]
    others += [RuntimeError("shapes differ"), ValueError("CUDA error: said by a bug of ours")]
    assert not any(is_lost_gpu(failure) for failure in others)


def test_each_failure_has_its_line_and_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (UserError("no", ExitCode.CHECKPOINT), 8, r"^error: no$"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 6, r"No space left in '/x/y'; free some"),
        (OSError(errno.EACCES, "Permission denied", "/x"), 6, r"'/x'; check the permissions$"),
        (OSError(errno.ESTALE, "Stale file handle"), 6, r"Stale file handle; check the disk"),
        (MemoryError(), 5, r"out of memory; lower --max_gaussians"),
        (out_of_memory(), 5, r"out of memory; lower"),
        (failed_recording(), 5, r"out of memory; lower"),
        (ImportError("No module named 'tyro'"), 4, r"No module named 'tyro'; the installation"),
        (wrong_library(tmp_path), 4, r"_C\.so.*bash scripts/setup\.sh$"),
        (Stopped("stopped by SIGTERM", 143), 143, r"^stopped by SIGTERM$"),
        (cuda("no kernel image is available for execution on the device"), 4, r"arguments\.doctor"),
        (cuda("CUDA driver version is insufficient for CUDA runtime version"), 4, r"doctor says"),
        (cuda("out of memory"), 5, r"out of memory; lower"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), 5, r"out of mem"),
        (cuda("an illegal memory access was encountered"), 1, LOST),
        (cuda("device-side assert triggered"), 1, LOST),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling x"), 1, LOST),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), 1, LOST),
    ]
    for failure, code, says in cases:
        assert report(failure) == code
        line = capsys.readouterr().err
        assert re.search(says, line.rstrip("\n")), line
        assert line.count("\n") == 1
        assert len(line) <= len("error: ") + MAX_LINE + 1


def test_bug_is_one_line_and_a_report_with_the_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError) as raised:
        _ = 1 / 0
    assert report(raised.value) == ExitCode.BUG
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    found = re.search(r"report (\S+)$", line.strip())
    assert found is not None
    assert "Traceback" in Path(found[1]).read_text()


def test_closed_stream_is_written_to_without_end() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = LastingStream(os.fdopen(writing, "w", buffering=1, closefd=False))
    assert stream.write("abc\n") == 4
    assert stream.write("abc") == 3
    stream.flush()
    assert not stream.isatty()
    os.close(writing)
