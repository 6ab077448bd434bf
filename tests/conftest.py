"""Fixtures shared by every test."""

from pathlib import Path

import pytest
import torch

from scene.synthetic import PRESETS, make_capture
from tests import devices

ROOT = Path(__file__).resolve().parents[1]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a device runs on each; without a GPU nothing is generated for one."""
    if "device" in metafunc.fixturenames:
        marks = {"cuda": pytest.mark.cuda}
        kinds = [pytest.param(n, marks=marks.get(n, ()), id=n) for n in devices.names()]
        metafunc.parametrize("device", kinds, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that a test runs on: the CPU, and the GPU where there is one.

    With REQUIRE_CUDA=1 tests on a GPU that is missing fail.
    """
    if request.param == "cuda" and (reason := devices.missing_cuda()):
        pytest.fail(f"REQUIRE_CUDA=1, but {reason}")
    return torch.device(request.param)


@pytest.fixture
def cuda() -> torch.device:
    """The GPU, for tests that make no sense elsewhere: skipped, or failed with REQUIRE_CUDA=1."""
    if reason := devices.missing_cuda():
        if devices.IS_REQUIRED:
            pytest.fail(f"REQUIRE_CUDA=1, but {reason}")
        pytest.skip(reason)
    return torch.device("cuda")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors gain nothing from a second thread, and a busy machine loses much."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real captures that lies beside some checkouts; the project stands without."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real captures are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def generator() -> torch.Generator:
    """A seeded source of random numbers, so that no test touches the global one."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in capture at its smallest; read it, never write into it."""
    folder = tmp_path_factory.mktemp("captures") / "tiny"
    make_capture(folder, PRESETS["tiny"], seed=0)
    return folder
