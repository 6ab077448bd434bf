"""The picture of the README, from the runs of scripts/demo.sh.

    python scripts/make_teaser.py --demo output/demo --name walk_012

A photo, what a single model and what dual make of that view, and the pixels that dual distrusted.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

GAP = 6  # pixels between the pictures


@dataclass(frozen=True)
class Teaser:
    """Which view of which demo."""

    demo: Path = Path("output/demo")
    """Folder of the demo."""

    name: str = "walk_012"
    """A training photo."""

    out: Path = Path("docs/images/teaser.jpg")
    """The picture."""


def main() -> None:
    """Lay four pictures side by side."""
    teaser = tyro.cli(Teaser)
    views = {run: teaser.demo / run / "renders" / "train" for run in ("single", "dual")}
    file = f"{teaser.name}.png"
    paths = [
        views["dual"] / "gt" / file,
        views["single"] / "render" / file,
        views["dual"] / "render" / file,
        views["dual"] / "mask" / file,
    ]
    pictures = [Image.open(path).convert("RGB") for path in paths]
    width, height = pictures[0].size
    sheet = Image.new("RGB", ((width + GAP) * len(pictures) - GAP, height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * (width + GAP), 0))
    teaser.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(teaser.out, quality=90)


if __name__ == "__main__":
    main()
