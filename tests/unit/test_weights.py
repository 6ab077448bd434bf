"""Files of weights: found where the documentation says, and never trusted."""

import hashlib
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from arguments.messages import ExitCode, UserError
from masks.weights import (
    Release,
    fill,
    find_weights,
    read_weights,
    require_weights,
    weight_folders,
)

RELEASE = Release("tiny.pth", "https://example.org/tiny.pth")


def write(path: Path, model: nn.Module | None = None) -> Path:
    torch.save((model or nn.Linear(3, 2)).state_dict(), path)
    return path


def refusal_of(path: Path, release: Release = RELEASE) -> UserError:
    with pytest.raises(UserError) as refusal:
        read_weights(path, release)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert refusal.value.code == ExitCode.ENVIRONMENT
    return refusal.value


def test_weights_are_found_by_name_in_the_named_folder_then_in_torch_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPLAT_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert find_weights(RELEASE, None) is None
    for folder in reversed(weight_folders()):
        folder.mkdir(parents=True)
        path = write(folder / RELEASE.name)
        assert find_weights(RELEASE, None) == path
    assert weight_folders()[0] == tmp_path / "own"


def test_half_downloads_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINSPLAT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    for name in ("tiny.pth.part", "tiny.pth.1.tmp", "tiny.crdownload"):
        write(tmp_path / name)
    assert find_weights(RELEASE, None) is None


def test_missing_weights_are_refused_with_the_command_that_gets_them(tmp_path: Path) -> None:
    release = Release("tiny.pth", "https://example.org/tiny.pth", 375, "01ec64")
    with pytest.raises(UserError) as refusal:
        require_weights(release, tmp_path / "away.pth")
    assert refusal.value.code == ExitCode.ENVIRONMENT
    for part in ("away.pth", "375 MB", "01ec64", "curl", release.url):
        assert part in str(refusal.value)


def test_files_cut_short_or_empty_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.pth").read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pth").write_bytes(whole[:length])
        assert f"{length} bytes" in str(refusal_of(tmp_path / "a.pth"))


def test_a_file_under_the_official_name_must_have_the_official_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.pth")
    content = path.read_bytes()
    for digest in (hashlib.md5(content), hashlib.sha256(content)):
        named = Release("tiny.pth", RELEASE.url, digest=digest.hexdigest()[:6])
        assert read_weights(path, named).sha256 == hashlib.sha256(content).hexdigest()
    other = Release("tiny.pth", RELEASE.url, digest="zzzzzz")
    assert "digest" in str(refusal_of(path, other))
    assert "375 MB" in str(refusal_of(path, Release("tiny.pth", RELEASE.url, 375)))
    path.rename(tmp_path / "mine.pth")
    assert read_weights(tmp_path / "mine.pth", other).tensors


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch malice_was_here",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Malice()}, tmp_path / "a.pth")
    refusal_of(tmp_path / "a.pth")
    assert not (tmp_path / "malice_was_here").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"weight": "text"}, {"state": {"a": torch.ones(1)}}]
)
def test_other_things_than_named_tensors_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    refusal_of(tmp_path / "a.pth")


def test_a_model_takes_its_own_tensors_and_no_others(tmp_path: Path) -> None:
    model, source = nn.Linear(3, 2), nn.Linear(3, 2)
    fill(model, read_weights(write(tmp_path / "a.pth", source), RELEASE), RELEASE)
    assert torch.equal(model.weight, source.weight)
    assert not model.weight.requires_grad
    others = {
        "bias": nn.Linear(3, 2, bias=False),
        "weight": nn.Linear(4, 2),
        "extra": nn.ParameterDict(
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "extra": torch.ones(1)}
        ),
    }
    for key, other in others.items():
        weights = read_weights(write(tmp_path / "b.pth", other), RELEASE)
        with pytest.raises(UserError, match=key):
            fill(nn.Linear(3, 2), weights, RELEASE)


@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "older"])
def test_endless_names_are_refused_before_torch_searches_them(tmp_path: Path, is_new: bool) -> None:
    """100,000 characters would take its reader minutes."""
    path = tmp_path / "x.pth"
    torch.save({"w" * 100_000: torch.ones(2)}, path, _use_new_zipfile_serialization=is_new)
    began = time.perf_counter()
    assert "a name of 100000 characters" in str(refusal_of(path))
    assert time.perf_counter() - began < 1


def test_damage_in_the_older_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(nn.Linear(3, 2).state_dict(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert read_weights(path, RELEASE).tensors["weight"].shape == (2, 3)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        refusal_of(path)
