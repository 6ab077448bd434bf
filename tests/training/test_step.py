"""One step: who renders what, who learns from what, and what masks do to gradients."""

from pathlib import Path

import pytest
import torch

from arguments.cli import parse_train
from arguments.config import ProxyLists
from arguments.messages import Messages
from training.branches import RenderSettings, render_branches
from training.graph import EagerStepper
from training.loop import Run
from training.losses import Lesson, agreement_term, color_terms, only_where_distrusted
from training.run import prepare
from training.run_folder import RunRecord
from training.setup import agreement_weight
from training.step import StepStats


def prepared(scene: Path, out: Path, *extra: str) -> Run:
    """A run before its first step, without hard masks so that no candidates are needed."""
    out.mkdir(exist_ok=True)
    line = ["-s", str(scene), "-m", str(out), "--quiet", "--iterations", "20", *extra]
    return prepare(parse_train(line)[0], RunRecord("running", 0), Messages(quiet=True))


def one_step(run: Run) -> StepStats:
    """Train one step."""
    state = run.parts.state
    return EagerStepper(state, run.views, run.parts.context).advance(state.step + 1)


def terms(stats: StepStats) -> list[str]:
    """Names of the loss terms."""
    return [term.name for term in stats.terms]


def test_branches_agree_only_after_the_warm_up(tiny_capture: Path, tmp_path: Path) -> None:
    masks = ("--branch_masks", "none", "soft")
    run = prepared(tiny_capture, tmp_path, *masks, "--agreement_from_iter", "1")
    assert terms(one_step(run)) == ["color/a", "color/b", "mask/b"]
    assert "agreement" in terms(one_step(run))


@pytest.mark.parametrize(("supervision", "photos"), [("own", 1), ("all", 2)])
def test_supervision_says_how_many_photos_teach_a_branch(
    supervision: str, photos: int, tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(
        tiny_capture, tmp_path, "--branch_masks", "none", "none", "--agreement_from_iter", "0",
        "--supervision", supervision,
    )  # fmt: skip
    weights = {term.name: term.weight for term in one_step(run).terms}
    assert weights["color/a"] == weights["color/b"] == photos


def test_both_branches_of_dual_learn_and_differ(tiny_capture: Path, tmp_path: Path) -> None:
    run = prepared(tiny_capture, tmp_path, "--branch_masks", "none", "soft")
    for _ in range(5):
        one_step(run)
    first, second = (branch.gaussians.means for branch in run.parts.state.trained)
    assert not torch.equal(first, second)


def test_proxy_gets_no_gradient_and_follows(tiny_capture: Path, tmp_path: Path) -> None:
    run = prepared(
        tiny_capture, tmp_path, "--method", "ema", "--branch_masks", "none",
        "--agreement_from_iter", "0",
    )  # fmt: skip
    live, proxy = run.parts.state.branches
    before = proxy.gaussians.means.clone()
    one_step(run)
    assert proxy.gaussians.means.grad is None
    torch.testing.assert_close(
        proxy.gaussians.means, torch.lerp(before, live.gaussians.means.detach(), 0.2)
    )


@pytest.mark.parametrize("proxy_lists", ["shared", "own"])
def test_proxy_is_drawn_in_the_live_order_only_if_the_settings_say_so(
    proxy_lists: ProxyLists, tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(tiny_capture, tmp_path, "--method", "ema", "--branch_masks", "none")
    live, average = run.parts.state.branches
    average.gaussians.means[:, 2] *= -1  # nothing of the live branch's order or tiles fits
    device = average.gaussians.device
    settings = RenderSettings(torch.zeros(3, device=device), 0, "mip", None, proxy_lists)
    camera = run.parts.context.cameras[0].rows(torch.tensor([0], device=device))
    together = render_branches([live, average], camera, settings)[1].color
    alone = average.render(camera, settings).color
    assert torch.equal(together, alone) == (proxy_lists == "own")


@pytest.mark.parametrize("rows", ["all", "visible"])
def test_momentum_moves_unseen_gaussians_only_if_adam_moves_all(
    rows: str, tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(tiny_capture, tmp_path, "--method", "single", "--adam_rows", rows)
    branch = run.parts.state.trained[0]
    with torch.no_grad():
        branch.gaussians.means[0] = 1000.0  # no camera sees it
    branch.optimizer.exp_avg["sh0"].fill_(1.0)
    before = branch.gaussians.sh0.detach().clone()
    one_step(run)
    moved = (branch.gaussians.sh0.detach() != before).flatten(1).any(1)
    assert moved[1:].any()
    assert bool(moved[0]) == (rows == "all")


def test_same_seed_same_result_and_other_seed_other_result(
    tiny_capture: Path, tmp_path: Path
) -> None:
    means = []
    for seed in ("1", "1", "2"):
        folder = tmp_path / str(len(means))
        run = prepared(tiny_capture, folder, "--method", "single", "--seed", seed)
        for _ in range(3):
            one_step(run)
        means.append(run.parts.state.result.means.detach())
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_agreement_weight_follows_the_length_of_the_run() -> None:
    def weight(line: str) -> float:
        return agreement_weight(parse_train(["-s", "x", *line.split()])[0])

    assert weight("--iterations 30000") == weight("--iterations 100000") == 1.0
    assert weight("--iterations 3000") == pytest.approx(0.1)
    assert weight("--iterations 3000 --method ema") == 0.1
    assert weight("--iterations 3000 --agreement_weight 1") == 1.0


def pictures(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A render, a photo, and a mask that distrusts the left half."""
    color = torch.rand(1, 24, 24, 3, generator=generator, requires_grad=True)
    image = torch.randint(256, (1, 24, 24, 3), generator=generator, dtype=torch.uint8)
    weight = torch.ones(1, 24, 24)
    weight[:, :, :12] = 0
    return color, image, weight


@pytest.mark.parametrize("composite", [False, True])
def test_distrusted_pixels_get_no_gradient(composite: bool, generator: torch.Generator) -> None:
    color, image, weight = pictures(generator)
    (term,) = color_terms([Lesson("a", color, image, weight)], 0.2, composite=composite)
    term.value.backward()
    assert color.grad is not None
    assert not color.grad[:, :, :12].any()
    assert color.grad[:, :, 12:].any()


def test_composite_target_hides_the_distractor_from_the_pixels_beside_it(
    generator: torch.Generator,
) -> None:
    color, image, weight = pictures(generator)
    other = image.clone()
    other[:, :, :12] = 255 - other[:, :, :12]
    for composite in (True, False):
        grads = []
        for photo in (image, other):
            color.grad = None
            (term,) = color_terms([Lesson("a", color, photo, weight)], 0.2, composite=composite)
            term.value.backward()
            grads.append(color.grad)
        assert torch.equal(*grads) == composite


def test_lessons_of_the_same_and_of_other_photos_are_all_learnt(
    generator: torch.Generator,
) -> None:
    color, image, weight = pictures(generator)
    other = image.flip(2)
    lessons = [
        Lesson("a", color, image, weight),
        Lesson("b", color.flip(1), image, 1 - weight),
        Lesson("b", color, other, weight),
    ]
    together = color_terms(lessons, 0.2, composite=True)
    alone = [color_terms([lesson], 0.2, composite=True)[0] for lesson in lessons]
    assert [term.name for term in together] == ["color/a", "color/b", "color/b"]
    for term, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(term.value, expected.value)
    assert len({float(term.value.detach()) for term in together}) == 3


def test_agreement_is_zero_between_equal_pictures_and_unmasked(
    generator: torch.Generator,
) -> None:
    first, second = torch.rand(2, 3, 8, 8, 3, generator=generator)
    assert float(agreement_term([first, first], 1.0).value) == 0
    gap = agreement_term([first, second], 0.5)
    torch.testing.assert_close(gap.value, (first - second).abs().mean())
    assert gap.weight == 0.5 * 3  # views


def test_pull_only_where_distrusted_leaves_the_value(generator: torch.Generator) -> None:
    color, _, weight = pictures(generator)
    same = only_where_distrusted(color, weight)
    assert torch.equal(same.detach(), color.detach())
    same.sum().backward()
    assert color.grad is not None
    assert color.grad[:, :, :12].eq(1).all()
    assert not color.grad[:, :, 12:].any()


def test_paper_rule_stretches_the_soft_mask_of_every_photo(
    tiny_capture: Path, tmp_path: Path
) -> None:
    losses = []
    for rule in ("paper", "refined"):
        run = prepared(
            tiny_capture, tmp_path / rule, "--method", "single", "--branch_masks", "soft",
            "--mask_rule", rule,
        )  # fmt: skip
        stats = one_step(run)
        losses += [float(term.value) for term in stats.terms if term.name == "mask/a"]
    assert losses[0] > losses[1]  # the first trusts all; the paper's target never does


def test_masks_of_the_user_take_pixels_out_of_the_lesson(
    tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(
        tiny_capture, tmp_path, "--method", "single", "--masks", "gt_distractors",
        "--invert_masks",
    )  # fmt: skip
    drawn = [run.views.batches(run.views.draw(step, ["a"]))[0] for step in range(20)]
    trusted = [1.0 if view.keep is None else float(view.keep.float().mean()) for view in drawn]
    assert min(trusted) < 1
    state, context = run.parts.state, run.parts.context
    state.step = trusted.index(min(trusted))
    stats = EagerStepper(state, run.views, context).advance(state.step + 1)
    assert float(stats.trusted) == pytest.approx(min(trusted))


def test_absolute_gradients_are_collected_only_while_growth_is_watched(
    tiny_capture: Path, tmp_path: Path
) -> None:
    run = prepared(tiny_capture, tmp_path, "--method", "single")
    branch, camera = run.parts.state.trained[0], run.parts.context.cameras[0]
    assert branch.strategy.needs_absgrad
    background = torch.zeros(3, device=branch.gaussians.device)
    one = camera.rows(torch.tensor([0], device=background.device))
    for observes in (True, False):
        settings = RenderSettings(background, 0, "mip", observes=observes)
        assert (branch.render(one, settings).absgrad is not None) == observes
