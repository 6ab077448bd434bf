"""What a checkpoint file may not do: be wrong in silence, take memory, run code, or get lost."""

import dataclasses
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch

from arguments.config import ModelConfig, RunConfig, TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from scene.tensor_file import TensorFileError, read_tensors, write_tensors
from tests.faults.bit_flips import refusals, save_state
from training import checkpoint

TENSORS = {
    "a/means": torch.arange(12.0).reshape(4, 3),
    "seen": torch.tensor([True, False, True]),
    "half": torch.linspace(0, 1, 5).bfloat16(),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 3),
}


def test_every_flipped_bit_is_refused_and_a_tensor_named(tmp_path: Path) -> None:
    said = list(refusals(save_state(tmp_path)[0], count=1000, seed=0))
    assert [number for number, text in enumerate(said) if not text] == []
    of_tensors = said[1::2]
    assert sum("differs in '" in text for text in of_tensors) > 0.95 * len(of_tensors)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path, _ = save_state(tmp_path)
    for target in (path, path.with_suffix(".json")):
        whole = target.read_bytes()
        for size in range(0, len(whole), max(1, len(whole) // 200)):
            target.write_bytes(whole[:size])
            with pytest.raises(checkpoint.DamagedError):
                checkpoint.load(path)
        target.write_bytes(whole)


def test_files_are_those_of_the_safetensors_package(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours", TENSORS)
    theirs = safetensors.torch.load_file(tmp_path / "ours")
    safetensors.torch.save_file(TENSORS, tmp_path / "theirs")
    ours = dict(read_tensors(tmp_path / "theirs"))
    for name, tensor in TENSORS.items():
        assert torch.equal(theirs[name], tensor)
        assert torch.equal(ours[name], tensor)
        assert ours[name].dtype == tensor.dtype


def file_of(header: object, rest: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + rest


def entry(dtype: object = "F32", shape: object = (2,), place: object = (0, 8)) -> dict[str, object]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


ATTACKS = {
    "empty": (b"", "ends inside its header"),
    "header longer than the file": (file_of({}, length=2**63), "ends inside its header"),
    "header of 100 MB": (file_of(b" " * 100_000_000), "header of 100000000 bytes"),
    "a million entries": (
        file_of(b"{" + b",".join(b'"%d":1' % i for i in range(90_000)) + b"}"),
        "90000 tensors",
    ),
    "deep header": (file_of(b"[" * 500_000), "not JSON"),
    "huge number": (file_of(b'{"a":' + b"9" * 500_000 + b"}"), "not JSON"),
    "list": (file_of([1]), "a list, expected an object"),
    "twins": (file_of(b'{"a":1,"a":2}'), "names a tensor twice"),
    "no entry": (file_of({"a": 3}), "'a' needs dtype"),
    "dtype": (file_of({"a": entry("OBJECT")}, bytes(8)), "'a' has the dtype 'OBJECT'"),
    "unhashable dtype": (file_of({"a": entry([])}, bytes(8)), "'a' has the dtype"),
    "shape too large": (file_of({"a": entry(shape=[2**62, 2**62])}, bytes(8)), "'a': shape and"),
    "negative shape": (file_of({"a": entry(shape=[-2])}, bytes(8)), "'a' has an impossible shape"),
    "true shape": (file_of({"a": entry(shape=[True])}, bytes(8)), "'a' has an impossible shape"),
    "fractional shape": (file_of({"a": entry(shape=[2.0])}, bytes(8)), "'a' has an impossible"),
    "nine dimensions": (file_of({"a": entry(shape=[1] * 9)}, bytes(8)), "'a' has an impossible"),
    "backwards": (file_of({"a": entry(place=[8, 0])}, bytes(8)), "'a' has impossible data_offsets"),
    "overlap": (
        file_of({"a": entry(), "b": entry(place=[4, 12])}, bytes(12)),
        "'b' begins at 4, the one before ends at 8",
    ),
    "gap": (file_of({"a": entry(place=[8, 16])}, bytes(16)), "'a' begins at 8"),
    "beyond the end": (file_of({"a": entry()}, bytes(4)), "take 8 bytes, the file has 4"),
    "trailing": (file_of({"a": entry()}, bytes(9)), "take 8 bytes, the file has 9"),
    "long name": (file_of({"x" * 100_000: entry("F64")}, bytes(8)), r"^'x{57}\.\.\.': shape"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_tensor_files_are_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    content, says = ATTACKS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TensorFileError, match=says) as refusal:
        list(read_tensors(path))
    assert len(str(refusal.value)) < 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_pipe_in_place_of_a_tensor_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TensorFileError, match="not a regular file"):
        list(read_tensors(tmp_path / "pipe"))


class Canary:
    """What unpickles into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        """Code that a careless reader runs."""
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [*checkpoint.PICKLE_SUFFIXES, ".safetensors"])
def test_pickles_run_no_code_under_any_name(suffix: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"step_000001{suffix}"
    pickle.loads(pickle.dumps(Canary(canary)))  # noqa: S301 - this is what must not happen
    canary.rmdir()
    for protocol in range(6):
        for manifest in (b"", pickle.dumps(Canary(canary), protocol)):
            path.write_bytes(pickle.dumps(Canary(canary), protocol))
            path.with_suffix(".json").write_bytes(manifest)
            with pytest.raises(UserError) as refusal:
                checkpoint.load(path)
            assert refusal.value.code == ExitCode.CHECKPOINT
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("point_cloud.ply", "a PLY has no optimizer state"),
        ("chkpnt7000.pth", "a pickle can run code and is never opened"),
        ("notes.txt", "expected a .safetensors file"),
        ("step_000003.safetensors", "no manifest beside the checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_kind(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"ply\n")
    with pytest.raises(UserError, match=says) as refusal:
        checkpoint.load(tmp_path / name)
    assert refusal.value.code == ExitCode.CHECKPOINT


@pytest.mark.parametrize("number", [min(checkpoint.READABLE) - 1, checkpoint.FORMAT + 1])
def test_other_formats_are_refused_and_left_alone(number: int, tmp_path: Path) -> None:
    path, _ = save_state(tmp_path)
    manifest = path.with_suffix(".json")
    plain = json.loads(manifest.read_text()) | {"format": number}
    plain.pop("digest")
    manifest.write_text(json.dumps(plain))
    before = sorted(path.parent.iterdir())
    with pytest.raises(UserError, match=f"written in format {number}, this program reads 3"):
        checkpoint.load_newest(tmp_path, Messages(quiet=True))
    assert sorted(path.parent.iterdir()) == before


def test_only_the_newest_checkpoints_stay_and_the_last_good_one_always(tmp_path: Path) -> None:
    _, state = save_state(tmp_path)
    config = TrainConfig(ModelConfig(Path("scene")), run=RunConfig(keep_checkpoints=2))
    for state.step in (8, 9, 1_000_000, 10_000_000):
        checkpoint.save(tmp_path, state, config, "digest", 0.0)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    kept = (f"step_{step}" for step in (1_000_000, 10_000_000))
    assert names == sorted(
        f"{stem}.{suffix}" for stem in kept for suffix in ("json", "safetensors")
    )
    newest = checkpoint.path_of(tmp_path, 10_000_000)
    newest.write_bytes(newest.read_bytes()[:-1])
    found = checkpoint.load_newest(tmp_path, Messages(quiet=True))
    assert found is not None
    assert found.manifest.step == 1_000_000


def test_tensors_without_manifest_are_removed_and_said(tmp_path: Path) -> None:
    path, state = save_state(tmp_path)
    write_tensors(checkpoint.path_of(tmp_path, 9), state.tensors())
    (path.parent / "step_000009.json.77.tmp").write_bytes(b"{")
    messages = Messages(quiet=True)
    found = checkpoint.load_newest(tmp_path, messages)
    assert found is not None
    assert found.path == path
    assert messages.notes == [
        "ignored unfinished step_000009.json.77.tmp",
        "ignored unfinished step_000009.safetensors",
    ]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        path.with_suffix(".json").name,
        path.name,
    ]


def changed(found: checkpoint.Checkpoint, name: str, tensor: torch.Tensor) -> checkpoint.Checkpoint:
    """The checkpoint with another tensor under a name."""
    return dataclasses.replace(found, tensors=found.tensors | {name: tensor})


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("a/gaussians/sh0", torch.zeros(299, 1, 3), r"sh0' is torch.float32 \[299, 1, 3\]"),
        ("a/gaussians/means", torch.zeros(300, 3).double(), "means' is torch.float64"),
        ("b/gaussians/means", torch.full((300, 3), torch.nan), "'b/gaussians/means' is not finite"),
        ("c/gaussians/means", torch.zeros(300, 3), "'c/gaussians/means' is unexpected"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name_before_any_is_taken(
    name: str, tensor: torch.Tensor, says: str, tmp_path: Path
) -> None:
    path, state = save_state(tmp_path)
    state.step = 3
    with pytest.raises(UserError, match=says):
        checkpoint.restore(changed(checkpoint.load(path), name, tensor), state)
    assert state.step == 3
