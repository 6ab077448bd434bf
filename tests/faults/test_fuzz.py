"""10,000 mutated files: each is read or refused in one line, fast and in little memory."""

import warnings
from pathlib import Path

from tests.faults.fuzz import all_targets, fuzz, quiet


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    targets = all_targets(tmp_path)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in targets:
            target.read()
        tallies, faults = fuzz(targets, 10_000, seed=0)
    assert [(fault.target, fault.what) for fault in faults] == []
    # A reader that refuses everything, or nothing, would prove nothing.
    idle = [name for name, tally in tallies.items() if tally.read == 0]
    assert idle == []
    assert [n for n, tally in tallies.items() if tally.refused == 0] == ["count.txt"]
