"""A run compares pictures with photos by the features that it is told."""

from pathlib import Path

import pytest
import torch

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from masks.dino import DinoV2
from masks.dino_features import DinoFeatures
from masks.features import PatchFilterBank
from tests.random_weights import fill_randomly
from training.graph import EagerStepper
from training.loop import Run
from training.run import prepare
from training.run_folder import RunRecord


def prepared(scene: Path, out: Path, *extra: str) -> Run:
    out.mkdir(exist_ok=True)
    line = ["-s", str(scene), "-m", str(out), "--quiet", "--method", "single"]
    line += ["--branch_masks", "soft", "--iterations", "2", *extra]
    return prepare(parse_train(line)[0], RunRecord("running", 0), Messages(quiet=True))


def test_dinov2_serves_a_run_that_asks_for_it(tiny_capture: Path, tmp_path: Path) -> None:
    network = DinoV2()
    fill_randomly(network)
    weights = tmp_path / "dinov2_vits14_reg4_pretrain.pth"
    torch.save(network.state_dict(), weights)
    options = ("--features", "embedding", "--dino_checkpoint", str(weights))
    run = prepared(tiny_capture, tmp_path / "out", *options)
    assert isinstance(run.parts.context.features, DinoFeatures)
    assert list(run.parts.context.features._known) == [(48, 64)]  # all photos were shown to it
    stats = EagerStepper(run.parts.state, run.views, run.parts.context).advance(1)
    assert "mask/a" in [term.name for term in stats.terms]


def test_filters_are_the_default_and_the_screen_says_so(tiny_capture: Path, tmp_path: Path) -> None:
    line = ["-s", str(tiny_capture), "-m", str(tmp_path), "--branch_masks", "soft", "soft"]
    messages = Messages(quiet=True)
    run = prepare(parse_train(line)[0], RunRecord("running", 0), messages)
    assert isinstance(run.parts.context.features, PatchFilterBank)
    assert any("features by patch filters" in note for note in messages.notes)


def test_missing_weights_are_named_before_the_first_step(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("TWINSPLAT_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(UserError, match="dinov2_vits14_reg4_pretrain") as refusal:
        prepared(tiny_capture, tmp_path, "--features", "tokens")
    assert refusal.value.code == ExitCode.ENVIRONMENT
