"""A number that is none is found within a step, named, kept, and got rid of; twice at most."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from scene.gaussians import select_rows
from scene.host_memory import Memory
from scene.tensor_file import read_tensors, write_tensors
from tests.faults.combinations import state_is_that_of_its_checkpoint
from training import checkpoint
from training.health import IDLE_STEPS, Health, diagnose
from training.loop import REPORT_EVERY, Run
from training.optimizers import GaussianAdam
from training.recovery import RATE_SHARE, slowed
from training.run import prepare
from training.run_folder import RunRecord

LAST, INJECTED = 45, 20
ROW = 5
PARAMETERS = ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN")


@pytest.fixture
def make(tiny_capture: Path, tmp_path: Path, device: torch.device) -> Callable[..., Run]:
    """Prepares runs that save a checkpoint every 15 steps."""

    def prepared(*extra: str) -> Run:
        line = ["-s", str(tiny_capture), "-m", str(tmp_path), "--iterations", str(LAST), "--quiet"]
        line += ["--checkpoint_every", "15", "--device", device.type, *extra]
        tmp_path.mkdir(exist_ok=True)
        return prepare(parse_train(line)[0], RunRecord("running", 0), Messages(quiet=True))

    return prepared


def spoil(run: Run, tensor: Callable[[Run], torch.Tensor], value: float, times: int = 1) -> None:
    """Put a bad number into a tensor at the first looks that the run takes at itself."""
    left = [times]

    def inject(_: object) -> None:
        if left[0] > 0 and run.parts.state.step >= INJECTED:
            left[0] -= 1
            with torch.no_grad():
                tensor(run)[ROW] = value

    run.hooks = dataclasses.replace(run.hooks, progress=inject)


def gaussians(run: Run, branch: int, name: str) -> torch.Tensor:
    """A parameter of a branch."""
    return getattr(run.parts.state.branches[branch].gaussians, name)


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_bad_parameter_is_named_with_gaussian_and_photo_and_the_run_recovers(
    name: str, value: float, make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make("--method", "single")
    spoil(run, lambda r: gaussians(r, 0, name), value)
    run.train()
    warning = next(text for text in run.messages.warnings if "is not finite" in text)
    found_at, named = warning.split(": ", 1)
    # The next step; where no photo shows the bad number, the parameter's turn, or on a GPU the next
    # look, here that before the checkpoint.
    step = int(found_at.removeprefix("step "))
    is_cpu = run.parts.state.result.device.type == "cpu"
    assert INJECTED <= step < INJECTED + (len(PARAMETERS) if is_cpu else REPORT_EVERY)
    assert named.startswith(f"{name} of Gaussian {ROW} (branch a) is not finite")
    assert "photo '" in warning
    assert "back to step 15 with half the learning rates" in warning
    assert (run.parts.state.step, run.record.rollbacks) == (LAST, 1)
    assert all(t.isfinite().all() for t in run.parts.state.tensors().values())
    replay = tmp_path / f"nonfinite_{step:06d}.safetensors"
    assert not dict(read_tensors(replay))[f"a/gaussians/{name}"][ROW].isfinite().all()
    assert json.loads(replay.with_suffix(".json").read_text())["photos"]


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_bad_moment_is_found_within_a_step(moment: str, make: Callable[..., Run]) -> None:
    run = make("--method", "single")
    spoil(run, lambda r: getattr(r.parts.state.trained[0].optimizer, moment)["means"], torch.nan)
    run.train()
    warning = next(text for text in run.messages.warnings if "is not finite" in text)
    assert f"Gaussian {ROW} (branch a) is not finite" in warning
    assert int(warning.removeprefix("step ").split(":")[0]) <= INJECTED + 1
    assert run.parts.state.step == LAST


@pytest.mark.parametrize("branch", [0, 1], ids=["live", "average"])
def test_every_branch_of_ema_is_watched(branch: int, make: Callable[..., Run]) -> None:
    run = make("--method", "ema", "--branch_masks", "none", "--agreement_from_iter", "2")
    spoil(run, lambda r: gaussians(r, branch, "means"), torch.nan)
    run.train()
    name = run.parts.state.branches[branch].name
    assert any(f"means of Gaussian {ROW} (branch {name})" in w for w in run.messages.warnings)
    assert (run.parts.state.step, run.record.rollbacks) == (LAST, 1)


@pytest.mark.parametrize("saved_at", [0, 6, 15], ids=["before", "early", "late"])
@pytest.mark.parametrize("method", ["dual", "ema"])
def test_run_with_learnt_masks_goes_back_to_all_that_its_checkpoint_holds(
    method: str,
    saved_at: int,
    make: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The photos that masks have learnt from are more than at the checkpoint, where some were none.
    run = make(
        *("--method", method, "--mask_from_iter", "2", "--agreement_from_iter", "4"),
        *("--checkpoint_every", str(saved_at or LAST + 1)),
    )
    spoil(run, lambda r: gaussians(r, 0, "means"), torch.nan)
    warn = run.messages.warn
    gone_back = []

    def look(text: str) -> None:
        if "back to step" in text:
            gone_back.append(state_is_that_of_its_checkpoint(run, tmp_path))
        warn(text)

    monkeypatch.setattr(run.messages, "warn", look)
    run.train()
    assert gone_back == [True]
    assert (run.parts.state.step, run.record.rollbacks) == (LAST, 1)


def test_bad_number_that_no_photo_shows_is_in_no_checkpoint(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    # An infinite logit is an opacity of 1; its turn comes at step 27.
    run = make(
        *("--method", "dual", "--branch_masks", "none", "none", "--checkpoint_iterations", "21")
    )
    spoil(run, lambda r: gaussians(r, 0, "opacity_logits"), torch.inf)
    run.train()
    warning = next(text for text in run.messages.warnings if "is not finite" in text)
    assert warning.startswith(f"step 21: opacity_logits of Gaussian {ROW} (branch a)")
    assert "back to step 15" in warning
    assert (run.parts.state.step, run.record.rollbacks) == (LAST, 1)


def test_third_time_ends_the_run_and_leaves_the_last_good_checkpoint(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make("--method", "single")
    spoil(run, lambda r: gaussians(r, 0, "means"), torch.nan, times=3)
    with pytest.raises(UserError, match="gave up after 2 returns, the last good") as end:
        run.train()
    assert end.value.code == ExitCode.NUMERICAL
    assert run.record.rollbacks == 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.json")) == [
        "step_000015.json"
    ]


def test_lower_rates_outlive_a_resume(make: Callable[..., Run]) -> None:
    run = make("--method", "single")
    spoil(run, lambda r: gaussians(r, 0, "means"), torch.nan)
    run.train()
    again = make("--method", "single", "--resume", "--iterations", "50")
    assert again.record.rollbacks == 1
    slow = slowed(again.parts.context, again.record.rollbacks).config.optimization
    assert slow.opacity_lr == RATE_SHARE * again.config.optimization.opacity_lr


def test_out_of_memory_goes_back_with_a_lower_cap_and_ends_with_5_the_third_time(
    make: Callable[..., Run],
) -> None:
    run = make("--method", "single", "--cuda_graphs", "off")  # a replayed step calls no hook
    count = len(run.parts.state.result)

    def fail(_: object) -> None:
        if run.parts.state.step >= INJECTED:
            gaussians(run, 0, "means").register_hook(no_memory)

    def no_memory(_: torch.Tensor) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)  # the allocator's own words

    run.hooks = dataclasses.replace(run.hooks, progress=fail)
    with pytest.raises(UserError, match=r"out of memory with .* gave up after 2 returns") as end:
        run.train()
    assert end.value.code == ExitCode.MEMORY
    assert run.record.backoffs == 2
    assert run.config.run.max_gaussians == int(0.8 * count)
    assert run.parts.state.trained[0].strategy.max_gaussians == int(0.8 * count)


def test_growth_that_ran_out_of_memory_half_way_is_undone(make: Callable[..., Run]) -> None:
    run = make("--method", "single", "--cuda_graphs", "off")
    count = len(run.parts.state.result)
    failures = [1]

    def grow_and_fail(_: object) -> None:
        if run.parts.state.step < INJECTED or not failures:
            return
        failures.clear()
        branch = run.parts.state.trained[0]
        twice = torch.arange(count, device=branch.gaussians.device).repeat(2)
        branch.gaussians = select_rows(branch.gaussians, twice).requires_grad_()
        branch.optimizer = GaussianAdam(select_rows(branch.gaussians, twice[: count // 2]))
        branch.gaussians.means.register_hook(no_memory)

    def no_memory(_: torch.Tensor) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    run.hooks = dataclasses.replace(run.hooks, progress=grow_and_fail)
    run.train()
    assert run.record.backoffs == 1
    assert run.parts.state.step == LAST
    assert len(run.parts.state.result) == count


def test_other_errors_are_not_taken_for_bad_numbers(make: Callable[..., Run]) -> None:
    run = make("--method", "single")

    def fail(_: torch.Tensor) -> None:
        raise ZeroDivisionError("a bug")

    gaussians(run, 0, "means").register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert run.record.rollbacks == 0


def test_gpu_that_is_lost_is_not_asked_again_and_nothing_is_rolled_back(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make("--method", "single", "--cuda_graphs", "off")  # a replayed step calls no hook
    failure = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def fail(_: torch.Tensor) -> None:
        raise failure

    gaussians(run, 0, "means").register_hook(fail)
    with torch.no_grad():  # a look at the numbers would find this
        gaussians(run, 0, "sh0")[ROW] = torch.nan
    assert diagnose(failure, run.parts.state) is None
    with pytest.raises(torch.AcceleratorError):
        run.train()
    assert (run.record.rollbacks, run.record.backoffs) == (0, 0)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.json")] == ["step_000000.json"]


def grows_every(steps: int) -> tuple[str, ...]:
    """Rounds of growth in which nothing grows."""
    return (
        *("--densification_interval", str(steps), "--densify_from_iter", "2"),
        *("--densify_until_iter", "40", "--densify_grad_threshold", "1e9"),
    )


def test_set_that_would_vanish_is_not_pruned_and_said(make: Callable[..., Run]) -> None:
    run = make("--method", "single", "--prune_opacity", "0.99", *grows_every(15))
    before = len(run.parts.state.result)
    run.train()
    assert len(run.parts.state.result) == before
    said = [text for text in run.messages.warnings if "none are pruned" in text]
    assert len(said) == 1
    assert "look at the scene's scale, the share of masked pixels and outlying" in said[0]


def test_set_that_stays_transparent_ends_the_run_with_its_checkpoint(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make("--method", "single", "--prune_opacity", "0.99", *grows_every(10))
    with pytest.raises(UserError, match=r"step 30: \d+ of \d+ .* transparent, for 3 rounds") as end:
        run.train()
    assert end.value.code == ExitCode.NUMERICAL
    assert (tmp_path / "checkpoints" / "step_000015.json").is_file()
    assert not list(tmp_path.glob("point_cloud/*"))


def test_rounds_that_prune_nothing_are_counted_beyond_a_resume(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    words = ("--method", "single", "--prune_opacity", "0.99", *grows_every(10))
    with pytest.raises(UserError, match="step 30"):
        make(*words).train()
    again = make(*words)
    checkpoint.restore(checkpoint.load(checkpoint.path_of(tmp_path, 15)), again.parts.state)
    with pytest.raises(UserError, match=r"step 30: .* transparent, for 3 rounds"):
        again.train()


def test_checkpoint_of_the_format_before_is_gone_on_from(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    # Format 2 had all but what was pruned.
    make("--method", "single").train()
    path = checkpoint.path_of(tmp_path, LAST)
    kept = {name: t for name, t in read_tensors(path) if "/pruned/" not in name}
    manifest = path.with_suffix(".json")
    plain = json.loads(manifest.read_text()) | {"format": 2, "digests": write_tensors(path, kept)}
    plain.pop("digest")
    manifest.write_bytes(checkpoint._text(plain))
    again = make("--method", "single")
    checkpoint.restore(checkpoint.load(path), again.parts.state)
    now = again.parts.state.tensors()
    assert all(torch.equal(now[name].cpu(), tensor) for name, tensor in kept.items())
    assert now.keys() - kept.keys() == {"a/pruned/degenerate", "a/pruned/spared_rounds"}


def test_degenerate_gaussians_are_pruned_counted_and_said(
    make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.health.CLEAN_EVERY", 20)
    run = make("--method", "single", *grows_every(10))
    before = len(run.parts.state.result)
    spoil(run, lambda r: gaussians(r, 0, "log_scales"), -50.0)  # a number, so no roll-back
    run.train()
    run.note_progress()
    assert len(run.parts.state.result) == before - 1
    assert json.loads((tmp_path / "run.json").read_text())["num_degenerate"] == 1
    assert run.record.rollbacks == 0
    said = [text for text in run.messages.warnings if "nothing can draw" in text]
    assert said == ["steps 20 to 40: 1 Gaussians that nothing can draw were pruned"]


def test_few_gaussians_are_said_once(make: Callable[..., Run]) -> None:
    run = make("--method", "single", "--max_gaussians", "50")
    run.train()
    said = [text for text in run.messages.warnings if "Gaussians are left" in text]
    assert len(said) == 1


def test_full_set_is_said_once(make: Callable[..., Run]) -> None:
    state, messages = make("--method", "single").parts.state, Messages(quiet=True)
    health = Health(state, len(state.result), messages)
    health.at_report()
    health.at_report()
    assert len(messages.warnings) == 1
    assert "as many as may be" in messages.warnings[0]


def test_idle_gaussians_are_said(make: Callable[..., Run]) -> None:
    run = make("--method", "single")
    state, messages = run.parts.state, Messages(quiet=True)
    health = Health(state, 10**6, messages)
    growth = state.trained[0].growth
    growth.count += 1
    growth.grad_sum[: int(0.4 * len(growth.count))] = 1e-9
    state.step += IDLE_STEPS - 1
    health.at_report()
    assert messages.warnings == []
    state.step += 1
    health.at_report()
    health.at_report()
    assert [text.split(" of the visible")[0] for text in messages.warnings] == ["step 500: 60%"]


def test_run_that_nears_the_end_of_host_memory_saves_and_ends_with_5(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make("--method", "single")
    monkeypatch.setattr("training.health.host_memory", lambda: Memory(10**9, 10**7))
    with pytest.raises(UserError, match=r"host memory: 0\.01 of 1\.00 GB free") as end:
        run.train()
    assert end.value.code == ExitCode.MEMORY
    assert (tmp_path / "checkpoints" / "step_000020.json").is_file()
