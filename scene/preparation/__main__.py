"""Prepare a benchmark: `python -m scene.preparation onthego -s DOWNLOAD -o OUT`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.cli import parse, run_command
from arguments.messages import ExitCode, Messages, UserError
from scene.preparation.colmap_tool import ToolName, find_tool
from scene.preparation.downloads import find_downloads
from scene.preparation.prepare import check_output, prepare_scene
from scene.preparation.protocols import DatasetName, SceneProtocol, dataset


@dataclass(frozen=True)
class PrepareArguments:
    """What the command can be told."""

    dataset: tyro.conf.Positional[DatasetName]
    """Which benchmark."""

    source_path: Annotated[Path, tyro.conf.arg(aliases=["-s"])]
    """Folder of the official download, unpacked; it is only read."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the prepared scenes, a folder each."""

    scenes: tuple[str, ...] = ()
    """Which scenes; all of the benchmark when none is given."""

    colmap: ToolName = "auto"
    """What registers and undistorts photos: auto takes pycolmap, else the colmap program."""

    device: Literal["auto", "cpu"] = "auto"
    """Where COLMAP finds and matches features; auto takes a GPU when it can."""

    quiet: bool = False
    """Print warnings and errors only."""

    def chosen(self) -> tuple[SceneProtocol, ...]:
        """The scenes that are asked for.

        Raises:
            UserError: the benchmark has no scene of a name.
        """
        protocol = dataset(self.dataset)
        chosen = []
        for name in self.scenes:
            scene = protocol.scene(name)
            if scene is None:
                known = ", ".join(s.name for s in protocol.scenes)
                raise UserError(
                    f"--scenes: {protocol.title} has no '{name}'; it has {known}", ExitCode.USAGE
                )
            chosen.append(scene)
        return tuple(chosen) or protocol.scenes


def prepare(arguments: PrepareArguments, messages: Messages) -> list[Path]:
    """Check everything first, then make a folder for each scene; the folders."""
    protocol = dataset(arguments.dataset)
    downloads = find_downloads(protocol, arguments.source_path, arguments.chosen(), messages)
    check_output(arguments.output, arguments.source_path)
    needs_colmap = any(download.scene.longest_side is not None for download in downloads)
    tool = (
        find_tool(arguments.colmap, arguments.device != "cpu", messages) if needs_colmap else None
    )
    return [
        prepare_scene(protocol, download, arguments.output, tool, messages)
        for download in downloads
    ]


if __name__ == "__main__":

    def command(words: Sequence[str]) -> None:
        """Parse, prepare, report."""
        arguments = parse(
            PrepareArguments,
            words,
            prog="python -m scene.preparation",
            description="Make scenes that train.py loads from the download of a benchmark.",
        )
        messages = Messages(quiet=arguments.quiet)
        for folder in prepare(arguments, messages):
            print(folder)  # noqa: T201 - the command's result

    run_command(command)
