"""Steps from static buffers: the bits of steps from the host, whatever room they were given."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from arguments.cli import parse_train
from arguments.messages import ExitCode, Messages, UserError
from scene.capture import Capture, load_capture
from training.graph import EagerStepper, StaticStepper
from training.loop import Run
from training.losses import NonFiniteError
from training.photos import ViewSource
from training.run import capture_settings, prepare
from training.run_folder import RunRecord
from training.setup import build, no_candidates

GROWING = (
    "--densify_grad_threshold", "1e-9", "--densify_from_iter", "2", "--densification_interval",
    "6", "--densify_until_iter", "20", "--sh_interval", "8", "--agreement_from_iter", "5",
    "--prune_opacity", "1e-6", "--max_gaussians", "450", "--mask_from_iter", "3",
)  # fmt: skip
LAST = 26


@pytest.fixture(scope="module")
def candidates(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distractor candidates, made once."""
    out = tmp_path_factory.mktemp("candidates")
    prepared(tiny_capture, out, torch.device("cpu"))
    return out / "candidates"


def prepared(scene: Path, out: Path, device: torch.device, *extra: str) -> Run:
    """A run before its first step."""
    out.mkdir(exist_ok=True)
    line = ["-s", str(scene), "-m", str(out), "--quiet", "--iterations", str(LAST)]
    line += ["--device", device.type, *extra]
    return prepare(parse_train(line)[0], RunRecord("running", 0), Messages(quiet=True))


def static(run: Run, least_room: int = 1 << 18) -> StaticStepper:
    """A stepper with room for no more than it has seen."""
    parts = run.parts
    return StaticStepper(
        parts.state, run.views, parts.context, least_room=least_room, spare_room=1.0
    )


def eager(run: Run) -> EagerStepper:
    """A stepper that runs each step as it comes."""
    return EagerStepper(run.parts.state, run.views, run.parts.context)


def stops(run: Run, stride: int) -> list[int]:
    """Where a run with this stride pauses."""
    schedule = run.parts.context.schedule
    return [s for s in range(1, LAST + 1) if s % stride == 0 or schedule.refines_at(s) or s == LAST]


def assert_equal(first: Run, second: Run) -> None:
    """Everything that is learnt is the same to the last bit."""
    mine, theirs = first.parts.state.tensors(), second.parts.state.tensors()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("least_room", [1 << 18, 1])
@pytest.mark.parametrize("method", ["dual", "ema", "single"])
def test_static_buffers_change_no_bit_and_too_little_room_neither(
    method: str,
    least_room: int,
    device: torch.device,
    tiny_capture: Path,
    candidates: Path,
    tmp_path: Path,
) -> None:
    options = ("--method", method, "--candidates", str(candidates), *GROWING)
    plain, buffered = (prepared(tiny_capture, tmp_path / n, device, *options) for n in ("a", "b"))
    one_by_one, stepper = eager(plain), static(buffered, least_room)
    for stop in stops(plain, 1):
        expected = one_by_one.advance(stop)
    for stop in stops(buffered, 7):
        stats = stepper.advance(stop)
        assert buffered.parts.state.step == stop
    assert len(plain.parts.state.result) == 450
    assert_equal(plain, buffered)
    assert torch.equal(stats.loss, expected.loss)
    assert torch.equal(stats.squared_error, expected.squared_error)
    assert (stepper.num_frozen > 0) == (least_room == 1)


def test_random_backgrounds_come_through_the_static_buffers(
    device: torch.device, tiny_capture: Path, tmp_path: Path
) -> None:
    options = ("--method", "single", "--random_background")
    plain, buffered = (prepared(tiny_capture, tmp_path / n, device, *options) for n in ("a", "b"))
    eager(plain).advance(4)
    static(buffered).advance(4)
    assert_equal(plain, buffered)
    other = prepared(tiny_capture, tmp_path / "c", device, "--method", "single")
    eager(other).advance(4)
    assert not torch.equal(other.parts.state.result.means, plain.parts.state.result.means)


def test_bad_row_ends_the_run_with_its_step(
    device: torch.device, tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(tiny_capture, tmp_path, device, "--method", "single")
    stepper = static(run)
    stepper.advance(3)
    stepper._guard.counters[1] = 17  # as a render on a GPU reports it
    stepper._guard.frozen.fill_(1)
    before = run.parts.state.result.means.detach().clone()
    with pytest.raises(UserError, match="step 3: row 17") as refusal:
        stepper.advance(6)
    assert refusal.value.code == ExitCode.NUMERICAL
    assert torch.equal(run.parts.state.result.means, before)


def test_step_with_a_bad_loss_teaches_nothing_and_is_named(
    device: torch.device, tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(tiny_capture, tmp_path, device, "--method", "single")
    stepper = static(run)
    stepper.advance(3)
    learnt = {name: tensor.clone() for name, tensor in run.parts.state.tensors().items()}
    bad = replace(run.parts.context.config.optimization, lambda_dssim=float("nan"))
    config = replace(run.parts.context.config, optimization=bad)
    run.parts = replace(run.parts, context=replace(run.parts.context, config=config))
    with pytest.raises(NonFiniteError, match="the loss is not finite"):
        static(run).advance(6)
    assert run.parts.state.step == 3
    now = run.parts.state.tensors()
    assert [name for name in now if not torch.equal(now[name], learnt[name])] == []


def with_lower_photos(capture: Capture) -> Capture:
    """The capture with the lowest rows of every second photo cut off."""
    images, views = list(capture.images), list(capture.views)
    for i in range(0, len(views), 2):
        camera = replace(views[i].camera, height=views[i].camera.height - 8)
        images[i], views[i] = images[i][:-8], replace(views[i], camera=camera)
    return replace(capture, images=tuple(images), views=tuple(views))


@pytest.mark.parametrize("supervision", ["own", "all"])
def test_photos_of_several_sizes_teach_both_branches(
    supervision: str, device: torch.device, tiny_capture: Path, tmp_path: Path
) -> None:
    line = ["-s", str(tiny_capture), "-m", str(tmp_path), "--branch_masks", "soft", "soft"]
    line += ["--agreement_from_iter", "0", "--supervision", supervision, "--device", device.type]
    config, _ = parse_train(line)
    quiet = Messages(quiet=True)
    capture = with_lower_photos(load_capture(capture_settings(config), quiet))
    parts = build(config, capture, no_candidates, quiet)
    views = ViewSource(capture, config, device)
    assert len(views.banks) == 2
    stepper = EagerStepper(parts.state, views, parts.context)
    seen = [stepper.advance(step) for step in range(1, 30)]
    names = {"color/a", "color/b", "mask/a", "mask/b", "agreement"}
    assert all({term.name for term in stats.terms} == names for stats in seen)
    errors = torch.stack([stats.squared_error for stats in seen])
    assert errors[-8:].mean() < 0.7 * errors[:8].mean()


def test_steps_pause_wherever_the_host_has_something_to_do(
    tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(
        tiny_capture, tmp_path, torch.device("cpu"), "--method", "single", *GROWING,
        "--checkpoint_every", "9",
        "--checkpoint_iterations", "11", "--test_iterations", "5", "--save_iterations", "25",
    )  # fmt: skip
    state, stops = run.parts.state, []
    while state.step < LAST:
        state.step = run._next_stop(20)
        stops.append(state.step)
    growth = {6, 12, 18}
    filters = set(range(20, LAST - 1))  # after growth, up to an interval before the end
    assert set(stops) == growth | {9, 18} | {11, 5, 25} | {20, LAST} | filters
    state.step = 0
    assert run._next_stop(1) == 1
