"""The demo, at its smallest: the same commands, the same table, the same report."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_demo_ends_with_a_table_of_three_methods_and_a_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/demo.py", "--out", str(tmp_path), "--preset", "tiny",
         "--iterations", "6"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    table = {row[0]: row[1:] for row in rows if row and row[0] in ("single", "dual", "ema")}
    assert set(table) == {"single", "dual", "ema"}
    assert all(float(row[0]) > 5 for row in table.values())
    assert f"pictures: {tmp_path / 'report.html'}" in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 1000
