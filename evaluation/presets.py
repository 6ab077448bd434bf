"""What a benchmark's runs need beside the defaults, by what its prepared folder says it is."""

import json
from collections.abc import Sequence
from pathlib import Path

from scene.preparation.protocols import DATASETS

LARGEST_INFO = 1 << 20  # bytes of nb-info.json


def flags_of_benchmark(benchmark_id: str | None) -> tuple[str, ...]:
    """Flags of train.py, each followed by its value, for nerfbaselines' name of a dataset."""
    found = (p.training for p in DATASETS if p.benchmark_id == benchmark_id)
    return next(found, ())


def benchmark_of(scene: Path) -> str | None:
    """The id in a scene's nb-info.json; None where it has none."""
    path = scene / "nb-info.json"
    if not path.is_file() or path.stat().st_size > LARGEST_INFO:
        return None
    try:
        info = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    found = info.get("id") if isinstance(info, dict) else None
    return found if isinstance(found, str) else None


def without_repeated(preset: Sequence[str], given: Sequence[str]) -> list[str]:
    """The pairs of a preset whose flag is not among the given words: what is said last holds."""
    said = {word.split("=", 1)[0].replace("-", "_") for word in given if word.startswith("--")}
    pairs = zip(preset[::2], preset[1::2], strict=True)
    return [word for pair in pairs if pair[0].replace("-", "_") not in said for word in pair]
