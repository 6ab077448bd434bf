"""Times work on a device, records it into a CUDA graph, and says which kernels it spends time in.

Knows nothing of what is timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


def clock(work: Work, device: torch.device, repeats: int, warmups: int) -> float:
    """Median milliseconds of one call, the device idle before and after each.

    On a GPU between two CUDA events, so the host's gaps count and the wait at the end does not.
    """
    for _ in range(warmups):
        work()
    return median(_once(work, device) for _ in range(repeats))


def _once(work: Work, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last)


def record(work: Work, device: torch.device) -> Work:
    """The replay of a CUDA graph of `work`; on the CPU, which has no graphs, `work` itself."""
    if device.type != "cuda":
        return work
    # What is made once must be made before, and on a stream of its own, or it would be recorded.
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass(frozen=True)
class Share:
    """One kernel's part in a call; on the CPU, one operator's.

    Attributes:
        microseconds: of one call, all launches together.
        launches: of one call.
    """

    name: str
    microseconds: float
    launches: float


def shares(work: Work, device: torch.device, calls: int) -> list[Share]:
    """What a call spends its time in, the largest first."""
    on_gpu = device.type == "cuda"
    wanted = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    work()
    with profile(activities=[wanted]) as profiler:
        for _ in range(calls):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        Share(
            event.key,
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / calls,
            event.count / calls,
        )
        for event in profiler.key_averages()
        if event.device_type == kind
    ]
    return sorted(found, key=lambda share: -share.microseconds)


def peak_mib(work: Work, device: torch.device) -> float:
    """Most memory on the GPU during a call, all that was there before included; 0 on the CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20
