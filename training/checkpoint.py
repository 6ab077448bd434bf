"""Checkpoints: a TrainState on disk, whole and verified, or not at all.

Two files: the tensors (safetensors) and, written after them, a manifest (JSON) with a digest of
each tensor. A checkpoint without its manifest does not exist. Nothing is ever unpickled.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import to_plain
from scene.atomic import remove_stale, write_atomic
from training.state import TrainState

FORMAT = 1
FOLDER = "checkpoints"
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        config: the run's configuration as plain JSON.
        seconds: training time until then, over all sessions.
        digests: crc32 of each tensor's bytes.
    """

    format: int
    step: int
    seconds: float
    dataset: str
    config: dict[str, Any]
    digests: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified."""

    path: Path
    manifest: Manifest
    tensors: dict[str, Tensor]


def digest(tensor: Tensor) -> int:
    """crc32 of the bytes, dtype and shape of a tensor."""
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return zlib.crc32(
        tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data, zlib.crc32(head)
    )


def save(
    model_path: Path, state: TrainState, config: TrainConfig, dataset: str, seconds: float
) -> Path:
    """Write a checkpoint of the present step and drop the oldest beyond `keep_checkpoints`.

    Raises:
        OSError: the file system refused; older checkpoints are untouched.
    """
    folder = model_path / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.cpu().contiguous() for name, t in state.tensors().items()}
    manifest = Manifest(
        FORMAT,
        state.step,
        seconds,
        dataset,
        to_plain(config),
        {name: digest(t) for name, t in tensors.items()},
    )
    path = folder / f"step_{state.step:06d}.safetensors"
    write_atomic(path, safetensors.torch.save(tensors))
    write_atomic(path.with_suffix(".json"), json.dumps(to_plain(manifest)).encode())
    for old in _by_age(folder)[config.run.keep_checkpoints :]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def _by_age(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    found = [path.with_suffix(".safetensors") for path in folder.glob("step_*.json")]
    return sorted((path for path in found if path.is_file()), reverse=True)


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        UserError: it is not one, of another version, or damaged; names the tensor.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"'{path}' is not a checkpoint of this program: expected a .safetensors file",
            ExitCode.CHECKPOINT,
        )
    manifest = _read_manifest(path.with_suffix(".json"))
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as failure:
        raise UserError(f"{path}: not readable: {failure}", ExitCode.CHECKPOINT) from None
    if set(tensors) != set(manifest.digests):
        odd = sorted(set(tensors) ^ set(manifest.digests))[0]
        raise UserError(f"{path}: tensor '{odd}' missing or unexpected", ExitCode.CHECKPOINT)
    for name, tensor in tensors.items():
        if digest(tensor) != manifest.digests[name]:
            raise UserError(f"{path}: digest differs in '{name}'", ExitCode.CHECKPOINT)
    return Checkpoint(path, manifest, tensors)


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise UserError(f"{path}: no manifest beside the checkpoint", ExitCode.CHECKPOINT)
    try:
        plain = json.loads(path.read_text("utf-8"))
        manifest = Manifest(**plain)
    except (ValueError, TypeError) as failure:
        raise UserError(f"{path}: not a manifest: {failure}", ExitCode.CHECKPOINT) from None
    if manifest.format != FORMAT:
        raise UserError(
            f"{path}: format {manifest.format}, this program reads {FORMAT}", ExitCode.CHECKPOINT
        )
    return manifest


def load_newest(model_path: Path, messages: Messages) -> Checkpoint | None:
    """The newest checkpoint that verifies; damaged ones are renamed `.bad` and reported.

    Raises:
        UserError: there are checkpoints, but none verifies.
    """
    folder = model_path / FOLDER
    for name in remove_stale(folder):
        messages.note(f"ignored unfinished {name}")
    candidates = _by_age(folder)
    for path in candidates:
        try:
            return load(path)
        except UserError as damage:
            messages.warn(f"{damage}; trying the one before")
            path.with_suffix(".json").rename(path.with_suffix(".json.bad"))
            path.rename(path.with_suffix(".safetensors.bad"))
    if candidates:
        raise UserError(f"no checkpoint in '{folder}' is intact", ExitCode.CHECKPOINT)
    return None
