"""Fixtures shared by every test."""

from pathlib import Path

import pytest
import torch

from scene.synthetic import PRESETS, make_capture

ROOT = Path(__file__).resolve().parents[1]


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
