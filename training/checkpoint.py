"""Checkpoints: a TrainState on disk, whole and verified, or not at all.

Two files: the tensors (safetensors) and, written after them, a manifest (JSON) with a digest of
each tensor and of itself. A checkpoint without its manifest does not exist. Nothing is ever
unpickled.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import from_plain, to_plain
from scene.atomic import make_folder, remove_stale, write_atomic
from scene.tensor_file import TensorFileError, digest, read_tensors, write_tensors
from training.state import TrainState

FORMAT = 3
READABLE = (2, FORMAT)  # 2 did not say what was pruned; it is counted anew
FOLDER = "checkpoints"
SUFFIX = ".safetensors"
MAX_MANIFEST_BYTES = 1 << 20
PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl", ".bin")


class DamagedError(UserError):
    """A checkpoint that was whole once; an older one may still be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.CHECKPOINT)


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        step: updates done.
        seconds: training time until then, over all sessions.
        rollbacks: how often the run has gone back because of bad numbers; each halves its rates.
        dataset: digest of the data.
        config: of the run; its max_gaussians is the cap that growth went by, never None.
        digests: crc32 of each tensor's bytes, dtype and shape.
    """

    step: int
    seconds: float
    rollbacks: int
    dataset: str
    config: TrainConfig
    digests: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified."""

    path: Path
    manifest: Manifest
    tensors: dict[str, Tensor]


def save(
    model_path: Path,
    state: TrainState,
    config: TrainConfig,
    dataset: str,
    seconds: float,
    rollbacks: int = 0,
) -> Path:
    """Write a checkpoint of the present step and drop the oldest beyond `keep_checkpoints`.

    The one of step 0 only stands in until there is another.

    Raises:
        OSError: the file system refused; older checkpoints are untouched.
    """
    folder = model_path / FOLDER
    make_folder(folder)
    path = path_of(model_path, state.step)
    tensors = state.tensors()
    digests = _digests_on_disk(path)
    if digests is None or digests != {name: digest(tensor) for name, tensor in tensors.items()}:
        path.with_suffix(".json").unlink(missing_ok=True)  # of other tensors of the same step
        digests = write_tensors(path, tensors)
    manifest = Manifest(state.step, seconds, rollbacks, dataset, config, digests)
    write_atomic(path.with_suffix(".json"), _text({"format": FORMAT, **to_plain(manifest)}))
    kept = _by_age(folder)[: config.run.keep_checkpoints]
    for old in _by_age(folder):
        if old in kept and (_step_of(old) > 0 or len(kept) == 1):
            continue
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def _digests_on_disk(path: Path) -> dict[str, int] | None:
    """Those of a whole checkpoint that is there already; None where there is none.

    What is there is not written again: the only checkpoint of a run must never be away.
    """
    try:
        manifest = _read_manifest(path.with_suffix(".json"))
        for _ in _verified(path, manifest):
            pass
    except UserError:
        return None
    return manifest.digests


def path_of(model_path: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates is."""
    return model_path / FOLDER / f"step_{step:06d}{SUFFIX}"


def _text(plain: dict[str, Any]) -> bytes:
    """A manifest as it lies on disk: its last entry is a digest of all others."""
    body = json.dumps(plain, indent=1)
    own = hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
    return (json.dumps({**plain, "digest": own}, indent=1) + "\n").encode()


def _by_age(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    found = [path.with_suffix(SUFFIX) for path in folder.glob("step_*.json")]
    return sorted((path for path in found if path.is_file()), key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def exists(model_path: Path) -> bool:
    """Whether a run has saved anything that it could go on from."""
    return bool(_by_age(model_path / FOLDER))


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        DamagedError: it is cut short or changed; names the tensor.
        UserError: it is none, of another version, or cannot be read.
    """
    if path.suffix != SUFFIX:
        raise _of_another_kind(path)
    manifest = _read_manifest(path.with_suffix(".json"))
    return Checkpoint(path, manifest, dict(_verified(path, manifest)))


def verify(path: Path) -> None:
    """Read a checkpoint back without keeping it.

    Raises:
        UserError: as `load`.
    """
    for _ in _verified(path, _read_manifest(path.with_suffix(".json"))):
        pass


def _verified(path: Path, manifest: Manifest) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint, each held against its digest."""
    names = set()
    try:
        for name, tensor in read_tensors(path):
            names.add(name)
            if digest(tensor) != manifest.digests.get(name, digest(tensor)):
                raise DamagedError(f"{path}: digest differs in '{name}'")
            yield name, tensor
    except TensorFileError as damage:
        raise DamagedError(f"{path}: {damage}") from None
    except OSError as failure:
        raise _unreadable(path, failure) from None
    if names != set(manifest.digests):
        odd = min(names ^ set(manifest.digests))
        raise DamagedError(f"{path}: tensor '{odd}' missing or unexpected")


def _refused(text: str) -> UserError:
    return UserError(text, ExitCode.CHECKPOINT)


def _unreadable(path: Path, failure: OSError) -> UserError:
    is_gone = isinstance(failure, FileNotFoundError)
    code = ExitCode.CHECKPOINT if is_gone else ExitCode.FILE_SYSTEM
    return UserError(f"{path}: not readable: {failure.strerror}; check the path", code)


def _of_another_kind(path: Path) -> UserError:
    what = f"'{path}' is not a checkpoint of this program"
    if path.suffix == ".ply":
        return _refused(f"{what}: a PLY has no optimizer state; give a {SUFFIX} file")
    if path.suffix in PICKLE_SUFFIXES:
        return _refused(f"{what}: a pickle can run code and is never opened; give a {SUFFIX} file")
    return _refused(f"{what}: expected a {SUFFIX} file")


def _read_manifest(path: Path) -> Manifest:
    """The manifest beside a checkpoint, whole to the last byte."""
    try:
        if not path.is_file():
            raise _refused(f"{path}: no manifest beside the checkpoint")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise DamagedError(f"{path}: {path.stat().st_size} bytes are too many for a manifest")
        raw = path.read_bytes()
        plain = json.loads(raw)
    except (ValueError, RecursionError):
        raise DamagedError(f"{path}: the manifest is not JSON") from None
    except OSError as failure:
        raise _unreadable(path, failure) from None
    if not isinstance(plain, dict):
        raise DamagedError(f"{path}: the manifest is not an object")
    is_whole = "digest" in plain and raw == _text({k: v for k, v in plain.items() if k != "digest"})
    said = plain.get("format")
    if (is_whole or "digest" not in plain) and type(said) is int and said not in READABLE:
        raise _refused(f"{path}: written in format {said}, this program reads {FORMAT}")
    if not is_whole:
        raise DamagedError(f"{path}: the manifest's own digest differs")
    return _manifest(plain, str(path))


def _manifest(plain: dict[str, Any], where: str) -> Manifest:
    """A manifest from JSON that verifies; only one that another program wrote can fail here."""
    kinds = {"step": int, "seconds": float, "rollbacks": int, "dataset": str, "digests": dict}
    for name, kind in kinds.items():
        if type(plain.get(name)) is not kind:
            raise _refused(f"{where}: '{name}' is {str(plain.get(name))[:40]!r}")
    config = from_plain(TrainConfig, plain.get("config"), f"{where}: config")
    return Manifest(config=config, **{name: plain[name] for name in kinds})


def load_newest(model_path: Path, messages: Messages) -> Checkpoint | None:
    """The newest checkpoint that verifies; damaged ones are renamed `.bad` and reported.

    Raises:
        UserError: there are checkpoints, but none verifies.
    """
    folder = model_path / FOLDER
    for name in (*remove_stale(folder), *_remove_unfinished(folder)):
        messages.note(f"ignored unfinished {name}")
    candidates = _by_age(folder)
    for path in candidates:
        try:
            return load(path)
        except DamagedError as damage:
            messages.warn(f"{damage}; trying the one before")
            path.with_suffix(".json").rename(path.with_suffix(".json.bad"))
            path.rename(path.with_suffix(f"{SUFFIX}.bad"))
    if candidates:
        raise _refused(f"no checkpoint in '{folder}' is intact; the damaged ones are now *.bad")
    return None


def _remove_unfinished(folder: Path) -> list[str]:
    """Remove tensors whose manifest was never written, or was removed before them."""
    unfinished = [
        path
        for path in sorted(folder.glob(f"step_*{SUFFIX}"))
        if not path.with_suffix(".json").is_file()
    ]
    for path in unfinished:
        path.unlink()
    return [path.name for path in unfinished]


def restore(found: Checkpoint, state: TrainState) -> None:
    """Give a fresh state what a checkpoint holds, once every tensor is known to fit.

    Raises:
        UserError: a tensor is missing or unexpected, of another kind or shape, or not finite.
    """
    fresh, saved = state.tensors(), found.tensors
    # Masks learn photo by photo, so a fresh one has less to say.
    missing = {n for n in set(fresh) - set(saved) if _part(n) != "pruned"}
    odd = sorted(missing | {n for n in set(saved) - set(fresh) if not _is_of_mask(n)})
    if odd:
        what = "missing" if odd[0] in fresh else "unexpected"
        raise _refused(f"{found.path}: made with another --method or masks: '{odd[0]}' is {what}")
    for name, tensor in saved.items():
        rule = _broken_rule(name, tensor, fresh, saved)
        if rule:
            raise _refused(f"{found.path}: '{name}' {rule}")
    state.load(saved, found.manifest.step)


def _part(name: str) -> str:
    """What a tensor belongs to: `a/adam/exp_avg/means` to `adam`."""
    return name.split("/", 2)[1] if name.count("/") > 1 else ""


def _is_of_mask(name: str) -> bool:
    return _part(name).startswith("mask")


def _broken_rule(
    name: str, tensor: Tensor, fresh: dict[str, Tensor], saved: dict[str, Tensor]
) -> str | None:
    """What a tensor of a checkpoint violates; None where it fits into the fresh state."""
    if tensor.is_floating_point() and not math.isfinite(float(tensor.sum(dtype=torch.float64))):
        return "is not finite"
    if name not in fresh:
        return None
    expected = fresh[name]
    means = f"{name.split('/')[0]}/gaussians/means"
    shape = list(expected.shape)
    if shape and shape[0] == len(fresh[means]) and not _is_of_mask(name):  # a row per Gaussian
        shape[0] = len(saved[means])
    if tensor.dtype != expected.dtype or list(tensor.shape) != shape:
        return f"is {tensor.dtype} {list(tensor.shape)}, expected {expected.dtype} {shape}"
    return None
