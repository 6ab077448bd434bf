"""Train a clean Gaussian reconstruction: `python train.py -s SCENE -m OUT`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from arguments.cli import parse_train, run_command
from arguments.messages import Messages


def command(arguments: Sequence[str]) -> None:
    """Parse, train, report."""
    config, notes = parse_train(arguments)
    messages = Messages(quiet=config.run.quiet)
    for text in notes:
        messages.note(text)
    # Read when torch is loaded: a waiting thread that spins takes the core that another needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A model that grows would leave holes of every size between blocks of fixed sizes.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if config.run.check_kernels:
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
        config = replace(config, run=replace(config.run, cuda_graphs="off"))
    from training.run import train

    sys.exit(train(config, messages))


if __name__ == "__main__":
    run_command(command)
