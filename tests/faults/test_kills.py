"""A run that is killed anywhere and continued ends with the bytes of the uninterrupted one."""

from pathlib import Path

from tests.faults.kills import trials


def test_killed_and_continued_runs_equal_the_uninterrupted_ones(tmp_path: Path) -> None:
    done = list(trials(tmp_path, num_kills=20, num_inside=8, seed=1))
    assert [trial for trial in done if trial.differs or trial.broken] == []
    assert sum(trial.kills for trial in done) >= 20
    assert sum(trial.inside for trial in done) >= 8
