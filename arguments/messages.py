"""What a run says to its user: one-line refusals, and notes and warnings that are counted.

The exit codes are an interface: scripts and job queues read them (docs/messages.md).
"""

import enum
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MAX_LINE = 300


class ExitCode(enum.IntEnum):
    """Why a command ended."""

    OK = 0
    BUG = 1
    USAGE = 2
    BAD_INPUT = 3
    ENVIRONMENT = 4
    MEMORY = 5
    FILE_SYSTEM = 6
    NUMERICAL = 7
    CHECKPOINT = 8


class UserError(Exception):
    """A refusal that the user can act on: what, in which file, the value seen, what to do.

    It ends the command with one `error:` line on stderr and `code` as the exit status.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def one_line(text: str) -> str:
    """`text` with control characters escaped, cut to the length that one message may have."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    clean = clean.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_LINE else clean[: MAX_LINE - 3] + "..."


def to_stderr(line: str) -> None:
    """Print one line for the user."""
    print(line, file=sys.stderr)  # noqa: T201 - this is the command's voice


@dataclass
class Messages:
    """Collects the notes and warnings of one run; prints each warning once, when it happens."""

    quiet: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    say: Callable[[str], None] = to_stderr

    def note(self, text: str) -> None:
        """Something the user may want to know; shown in the preflight report and in run.json."""
        self.notes.append(one_line(text))
        if not self.quiet:
            self.say(f"  {self.notes[-1]}")

    def warn(self, text: str) -> None:
        """Something is wrong but the run goes on; repeated in the closing summary."""
        self.warnings.append(one_line(text))
        self.say(f"warning: {self.warnings[-1]}")

    @contextmanager
    def through(self, say: Callable[[str], None]) -> Iterator[None]:
        """Let something else print the lines, as a progress bar that they would spoil."""
        before, self.say = self.say, say
        try:
            yield
        finally:
            self.say = before
