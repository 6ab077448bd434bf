"""COLMAP's own commands through pycolmap, with the words that the `colmap` program takes.

    python -m scene.preparation.pycolmap_commands mapper --database_path FILE ...

A process of its own: pycolmap brings image codecs that clash with Pillow's, and a model that
crashes it must not take the caller along. Imports nothing of this project.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pycolmap

MAPPER_SEED = 0  # with one seed, the same photos give the same model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pycolmap_commands", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("feature_extractor", "exhaustive_matcher", "sequential_matcher", "mapper"):
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("--database_path", type=Path, required=True)
        if name == "feature_extractor":
            command.add_argument("--image_path", type=Path, required=True)
            command.add_argument("--image_list_path", type=Path)
            command.add_argument("--ImageReader.single_camera", dest="single", type=int, default=0)
            command.add_argument(
                "--ImageReader.camera_model", dest="model", default="SIMPLE_RADIAL"
            )
            command.add_argument(
                "--ImageReader.existing_camera_id", dest="camera", type=int, default=-1
            )
            command.add_argument("--FeatureExtraction.use_gpu", dest="gpu", type=int, default=1)
        elif name == "mapper":
            command.add_argument("--image_path", type=Path, required=True)
            command.add_argument("--output_path", type=Path, required=True)
        else:
            command.add_argument("--FeatureMatching.use_gpu", dest="gpu", type=int, default=1)
    command = commands.add_parser("image_undistorter", allow_abbrev=False)
    for name in ("--image_path", "--input_path", "--output_path", "--image_list_path"):
        command.add_argument(name, type=Path, required=name != "--image_list_path")
    command.add_argument("--max_image_size", type=int, default=-1)
    return parser


def _device(gpu: int) -> pycolmap.Device:
    return pycolmap.Device.auto if gpu else pycolmap.Device.cpu


def _names(words: argparse.Namespace) -> list[str]:
    path = words.image_list_path
    return path.read_text("utf-8").splitlines() if path else []


def _undistort(words: argparse.Namespace) -> None:
    options = pycolmap.UndistortCameraOptions()
    options.max_image_size = words.max_image_size
    pycolmap.undistort_images(
        words.output_path,
        words.input_path,
        words.image_path,
        image_names=_names(words),
        undistort_options=options,
    )


def main(arguments: Sequence[str]) -> None:
    """Run one command."""
    words = _parser().parse_args(arguments)
    if words.command == "image_undistorter":
        _undistort(words)
    elif words.command == "mapper":
        options = pycolmap.IncrementalPipelineOptions()
        options.random_seed = MAPPER_SEED
        pycolmap.incremental_mapping(
            words.database_path, words.image_path, words.output_path, options=options
        )
    elif words.command == "feature_extractor":
        mode = pycolmap.CameraMode.SINGLE if words.single else pycolmap.CameraMode.AUTO
        pycolmap.extract_features(
            words.database_path,
            words.image_path,
            image_names=_names(words),
            camera_mode=mode,
            reader_options=pycolmap.ImageReaderOptions(
                camera_model=words.model, existing_camera_id=words.camera
            ),
            device=_device(words.gpu),
        )
    elif words.command == "exhaustive_matcher":
        pycolmap.match_exhaustive(words.database_path, device=_device(words.gpu))
    else:
        pycolmap.match_sequential(words.database_path, device=_device(words.gpu))


if __name__ == "__main__":
    main(sys.argv[1:])
