"""The bars of long commands."""

import io
import sys
import time

import pytest

from arguments.progress import progress_bar


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_log_of_a_run_that_nobody_watches_is_not_filled_with_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    for _ in progress_bar(range(100)):
        time.sleep(0.01)
    assert said.getvalue().count("/100 [") <= 2
    assert said.getvalue().count("100/100") == 1


def test_terminal_shows_progress_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", said := Terminal())
    for _ in progress_bar(range(100)):
        time.sleep(0.01)
    assert said.getvalue().count("/100 [") > 4
