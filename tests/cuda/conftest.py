"""Without a GPU one skipped test says so, and the other files of this folder stay out of sight."""

from pathlib import Path

from tests import devices

HERE = Path(__file__).parent
OTHERS = [path.name for path in HERE.glob("test_*.py") if path.name != "test_device.py"]
collect_ignore = [] if "cuda" in devices.names() else OTHERS
