"""Train a clean Gaussian reconstruction: `python train.py -s SCENE -m OUT`."""

import sys
from collections.abc import Sequence

from arguments.cli import parse_train, run_command
from arguments.messages import Messages
from training.run import train

if __name__ == "__main__":

    def command(arguments: Sequence[str]) -> None:
        """Parse, train, report."""
        config, notes = parse_train(arguments)
        messages = Messages(quiet=config.run.quiet)
        for text in notes:
            messages.note(text)
        sys.exit(train(config, messages))

    run_command(command)
