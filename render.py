"""Save what a trained run shows: `python render.py -m OUT` writes OUT/renders/SPLIT/*/*.png."""

import os
import sys
from collections.abc import Sequence

# Read when torch is loaded: a waiting thread that spins takes the core that another needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from arguments.cli import parse, run_command
from arguments.messages import ExitCode, Messages
from evaluation.commands import RenderCommand
from evaluation.renders import write_renders
from evaluation.run_views import open_views


def main(arguments: Sequence[str]) -> ExitCode:
    """Parse, render, report."""
    command = parse(RenderCommand, arguments, "render.py", "Save what a trained run shows.")
    messages = Messages(quiet=command.quiet)
    views = open_views(command.request(), messages)
    for split in command.splits():
        if not views.ids(split):
            messages.warn(f"the {split} split is empty ({views.capture.split_rule}); no pictures")
            continue
        record = write_renders(views, split, messages)
        masks = " and their masks" if record.has_masks else ""
        folder = command.model_path / "renders" / split
        messages.note(f"written: {len(record.names)} {split} views{masks} in {folder}")
    return ExitCode.OK


if __name__ == "__main__":
    run_command(lambda arguments: sys.exit(main(arguments)))
