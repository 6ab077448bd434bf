"""Make a scene from photos or a video: `python convert.py -s PHOTOS -o SCENE`."""

from collections.abc import Sequence

from arguments.cli import parse, run_command
from arguments.messages import Messages
from scene.preparation.own_photos import ConvertArguments, convert


def command(arguments: Sequence[str]) -> None:
    """Parse, register, report."""
    words = parse(ConvertArguments, arguments, "convert.py", "Make a scene from photos or a video.")
    print(convert(words, Messages(quiet=words.quiet)))


if __name__ == "__main__":
    run_command(command)
