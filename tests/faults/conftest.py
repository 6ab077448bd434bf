"""A server of commands that every test of this folder shares."""

from collections.abc import Iterator

import pytest

from tests.faults.server import Commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs commands as a user does, with faults on request."""
    with Commands(tmp_path_factory.mktemp("commands")) as server:
        yield server
