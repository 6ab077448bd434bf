"""The same mutated COLMAP models for our reader and for pycolmap's, each read in its own process.

Run it as: python -m tests.faults.peer_colmap --mutations 600 [--seed 0]; needs the extra `prep`.
"""

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from arguments.messages import Messages, UserError
from scene.colmap import read_model
from tests.faults.fuzz import MEMORY_FLOOR, colmap_targets, mutate

ADDRESS_SPACE = 4 << 30
LONGEST_SECONDS = 10
FILES = ("cameras.bin", "images.bin", "points3D.bin")


def outcome(read: Callable[[], object], refusals: tuple[type[Exception], ...]) -> str:
    """How one read ends, in a child with bounded memory and time."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        _read_and_exit(read, refusals)
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.perf_counter() - began > LONGEST_SECONDS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    grown = usage.ru_maxrss * 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if time.perf_counter() - began > LONGEST_SECONDS:
        return "hang"
    if grown > 2 * MEMORY_FLOOR:
        return "memory blow-up"
    code = os.waitstatus_to_exitcode(status)
    return {0: "accepted", 3: "refused"}.get(code, "crash or bug")


def _read_and_exit(read: Callable[[], object], refusals: tuple[type[Exception], ...]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        read()
    except refusals:
        os._exit(3)
    except BaseException:  # noqa: BLE001 - it is counted
        os._exit(4)
    os._exit(0)


def main() -> int:
    """Print how both readers fare."""
    import pycolmap  # its codecs clash with Pillow's: never in the process of another test

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    rng = random.Random(told.seed)
    ours, theirs = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        targets = [t for t in colmap_targets(Path(folder)) if t.name in FILES]
        for number in range(told.mutations):
            path = targets[number % len(targets)].path
            whole = path.read_bytes()
            path.write_bytes(mutate(whole, False, rng))
            model = path.parent
            ours[outcome(lambda m=model: read_model(m, Messages(quiet=True)), (UserError,))] += 1
            theirs[outcome(lambda m=model: pycolmap.Reconstruction(m), (Exception,))] += 1
            path.write_bytes(whole)
    for name, counts in (("ours", ours), (f"pycolmap {pycolmap.__version__}", theirs)):
        sys.stdout.write(f"{name}: {dict(counts.most_common())}\n")
    return int(set(ours) > {"accepted", "refused"})


if __name__ == "__main__":
    sys.exit(main())
