"""The bars of long commands: lively on a terminal, and a line now and then in a file of a job."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


def progress_bar(items: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """A tqdm bar on stderr that does not fill the log of a run whose stderr nobody watches."""
    if not sys.stderr.isatty():
        settings = {
            "mininterval": SECONDS_BETWEEN_LINES,
            "maxinterval": SECONDS_BETWEEN_LINES,
        } | settings
    return tqdm(items, file=sys.stderr, **settings)
