"""A process that has torch loaded and forks a child for every command, with faults on request.

Speaks JSON lines on stdin and stdout; `Commands` is the other end. A child is a command of this
project like any that a user starts: same arguments, same exit codes, same files.
"""

import ctypes
import enum
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from arguments.cli import parse, run_command
from arguments.messages import Messages

ROOT = Path(__file__).resolve().parents[2]
LONGEST_COMMAND = 120.0  # seconds
LOADED = ("train", "evaluate", "render", "training.run", "evaluation.commands", "masks.__main__")


class Operations(enum.IntFlag):
    """Kinds of file operations, as in shim.c."""

    OPEN = 1
    WRITE = 2
    FSYNC = 4
    RENAME = 8
    MKDIR = 16


ALL = Operations(31)


@dataclass(frozen=True)
class Fault:
    """What the file system does to a command.

    Attributes:
        folder: only files below it are hit.
        nth: which operation is hit, from 1; 0 only counts.
        error: errno of the operation; 0 kills the process there.
        is_lasting: every later operation of these kinds fails too.
        log: file that keeps a record of all operations below the folder; empty keeps none.
    """

    folder: str
    nth: int = 0
    kinds: int = int(ALL)
    error: int = 0
    is_lasting: bool = False
    log: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code; negative is the signal that killed it.
        stderr: all that it said.
        operations: how many file operations the shim saw; 0 where it was killed.
        peak_bytes: the most memory that it held.
    """

    code: int
    stderr: str
    operations: int
    seconds: float
    peak_bytes: int

    @property
    def error(self) -> str:
        """The `error:` line, empty where there is none."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class Request:
    """One command: `train -s ...` runs train.py's command on the arguments.

    Attributes:
        more_memory: bytes of address space beyond what the loaded program has; None is no limit.
        gpu_memory: bytes that torch may take of the GPU; None is no limit.
        has_network: whether connections can be made.
    """

    words: tuple[str, ...]
    fault: Fault | None = None
    threads: int = 1
    more_memory: int | None = None
    gpu_memory: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    has_network: bool = True


class Commands:
    """Runs commands in forked children of one server process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shim = self.shim = folder / "shim.so"
        compiler = os.environ.get("CC", "cc")
        source = str(Path(__file__).with_name("shim.c"))
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", str(shim), source, "-ldl"], check=True
        )
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(shim), "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """The commands themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self._server.communicate("", timeout=30)

    def run(
        self,
        *words: str,
        fault: Fault | None = None,
        threads: int = 1,
        more_memory: int | None = None,
        gpu_memory: int | None = None,
        environment: dict[str, str] | None = None,
        has_network: bool = True,
        meanwhile: Callable[[int], None] = lambda pid: None,
    ) -> Outcome:
        """Run a command; `meanwhile` gets its process id as soon as it runs."""
        request = Request(
            words, fault, threads, more_memory, gpu_memory, environment or {}, has_network
        )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asdict(request)) + "\n")
        self._server.stdin.flush()
        meanwhile(int(self._server.stdout.readline()))
        return Outcome(**json.loads(self._server.stdout.readline()))


def main() -> None:
    """Serve until stdin ends."""
    sys.path.insert(0, str(ROOT))
    for name in LOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        plain = json.loads(line)
        fault = Fault(**plain.pop("fault")) if plain["fault"] else plain.pop("fault")
        request = Request(fault=fault, **plain)
        with tempfile.TemporaryFile("w+") as stderr, tempfile.TemporaryFile() as report:
            began = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                _become(request, stderr.fileno(), report.fileno())
            answers.write(f"{pid}\n")
            status, usage = _waited(pid)
            stderr.seek(0)
            report.seek(0)
            outcome = Outcome(
                code=os.waitstatus_to_exitcode(status),
                stderr=stderr.read(),
                operations=int(report.read() or b"0"),
                seconds=time.perf_counter() - began,
                peak_bytes=usage.ru_maxrss * 1024,
            )
        answers.write(json.dumps(asdict(outcome)) + "\n")


def _waited(pid: int) -> tuple[int, resource.struct_rusage]:
    """The child's end, which is forced when it takes too long."""
    deadline = time.perf_counter() + LONGEST_COMMAND
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        if time.perf_counter() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _become(request: Request, stderr: int, report: int) -> None:
    """Turn the forked child into the command; never returns."""
    os.dup2(stderr, 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.environ.update(request.environment)
    code = 1
    try:
        code = _run(request)
    finally:
        sys.stderr.flush()
        os.write(report, str(ctypes.CDLL(None).fault_count()).encode())
        os._exit(code)


def _run(request: Request) -> int:
    import torch

    torch.set_num_threads(request.threads)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = list(request.words)
    if request.more_memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + request.more_memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if request.gpu_memory is not None:
        limit_gpu_memory(request.gpu_memory)
    if not request.has_network:
        ctypes.CDLL(None).network_cut()
    if request.fault is not None:
        fault = request.fault
        if fault.log:
            ctypes.CDLL(None).fault_log(fault.log.encode())
        ctypes.CDLL(None).fault_arm(
            fault.folder.encode(),
            fault.kinds,
            ctypes.c_long(fault.nth),
            fault.error,
            int(fault.is_lasting),
        )
    try:
        run_command(_command(request.words[0]))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def limit_gpu_memory(most: int) -> None:
    """Let torch's allocator take that many bytes of the GPU in all; says no at once beyond them."""
    import torch

    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.mem_get_info()[1])


def _command(name: str) -> Callable[[Sequence[str]], None]:
    """What the script of that name does with its arguments."""
    module = importlib.import_module(name)
    if name == "train":
        return module.command
    if name == "masks.__main__":
        return lambda words: module.find_candidates(
            parse(module.MaskArguments, words, prog=name, description=""), Messages()
        )
    return lambda words: sys.exit(module.main(words))


if __name__ == "__main__":
    main()
