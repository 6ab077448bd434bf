"""A few of the combinations that `python -m tests.faults.combinations` tries."""

from pathlib import Path

from tests.faults.combinations import results


def test_random_settings_keep_the_promises_of_resume_and_roll_back(tmp_path: Path) -> None:
    done = results(tmp_path, num_runs=4, seed=5)
    assert [one for one in done if one.wrong] == []
    assert not all(one.refused for one in done)
