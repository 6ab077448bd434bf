"""What only a GPU can get wrong: races, streams, graphs, room for lists, scenes of many tiles."""

import pytest
import torch
from diff_gaussian_rasterization import (
    Rasterization,
    activate,
    adam_rates,
    adam_step_,
    photometric_loss,
    rasterization,
)
from torch import Tensor

from scripts import workload
from tests.ops.scenes import Scene, make_scene


def scene_of(count: int, width: int, height: int, device: torch.device | str) -> Scene:
    """A benchmark's workload as a scene with gradients."""
    work = workload.make(count, width, height)
    splats = (work.means, work.quats, work.scales, work.opacities, work.sh)
    scene = Scene(*splats, work.viewmat[None], work.K[None], width, height)
    return scene.to(torch.float32, device)


def learn(scene: Scene, pair_capacity: int | None = None) -> Rasterization:
    """A render and its gradients under a fixed upstream gradient."""
    for leaf in scene.leaves:
        leaf.grad = None
    render = rasterization(
        *scene.arguments, sh_degree=3, absgrad=True, depth="expected", pair_capacity=pair_capacity
    )
    weight = torch.linspace(-1, 1, render.color.numel(), device=scene.means.device)
    loss = (render.color.flatten() * weight).sum() + 1e-2 * render.depth.sum()
    loss.backward()
    return render


def outcome(scene: Scene, render: Rasterization) -> list[Tensor]:
    """All values and gradients, on the CPU."""
    tensors = [render.color, render.alpha, render.depth, render.means2d.grad, render.absgrad.grad]
    tensors += [leaf.grad for leaf in scene.leaves]
    return [tensor.detach().cpu() for tensor in tensors]


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


def test_a_large_scene_looks_and_learns_as_on_the_cpu(cuda: torch.device) -> None:
    ours, theirs = scene_of(30_000, 410, 305, cuda), scene_of(30_000, 410, 305, "cpu")
    found, expected = (outcome(scene, learn(scene)) for scene in (ours, theirs))
    # A few pixels lie so near to a threshold that rounding decides them either way.
    errors = [relative(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors[:3]) < 1e-3, errors
    assert max(errors[3:]) < 1e-2, errors


def test_ten_runs_of_a_large_scene_give_the_same_bytes(cuda: torch.device) -> None:
    scene = scene_of(30_000, 410, 305, cuda)
    first = outcome(scene, learn(scene))
    for _ in range(9):
        for a, b in zip(first, outcome(scene, learn(scene)), strict=True):
            assert torch.equal(a, b)


def test_room_for_more_pairs_changes_no_bit(cuda: torch.device) -> None:
    scene = scene_of(30_000, 410, 305, cuda)
    exact = learn(scene)
    expected, pairs = outcome(scene, exact), int(exact.counts[1])
    for room in (pairs, 2 * pairs):
        render = learn(scene, room)
        assert render.counts.tolist() == exact.counts.tolist()
        for a, b in zip(expected, outcome(scene, render), strict=True):
            assert torch.equal(a, b)


def test_too_little_room_is_told_and_harms_nothing(cuda: torch.device) -> None:
    scene = scene_of(30_000, 410, 305, cuda)
    pairs = int(learn(scene).counts[1])
    for room in (0, 1, pairs // 2, pairs - 1):
        render = learn(scene, room)
        assert int(render.counts[1]) == pairs
        found = outcome(scene, render)
        assert all(tensor.isfinite().all() for tensor in found)
        is_complete = room == pairs - 1  # room is made in chunks
        assert is_complete or all((gradient == 0).all() for gradient in found[3:])


def test_a_bad_row_is_told_without_waiting(cuda: torch.device) -> None:
    scene = make_scene(50, device=cuda)
    scene.scales[13] = float("nan")
    scene.means[31] = float("inf")
    render = rasterization(*scene.arguments, pair_capacity=10_000)
    assert int(render.counts[2]) == 13


def test_work_runs_on_the_current_stream(cuda: torch.device) -> None:
    scene = scene_of(2_000, 120, 90, cuda)
    expected = rasterization(*scene.arguments, sh_degree=3).color
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    held = scene.colors.detach().clone()
    with torch.no_grad():
        scene.colors.zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # some 50 ms, in which another stream would read the zeros
        with torch.no_grad():
            scene.colors.copy_(held)
        color = rasterization(*scene.arguments, sh_degree=3, pair_capacity=1_000_000).color
    stream.synchronize()
    assert torch.equal(color, expected)


def test_tensors_on_two_devices_are_refused(cuda: torch.device) -> None:
    scene = make_scene(20, device=cuda)
    arguments = [scene.means.cpu(), *scene.arguments[1:]]
    with pytest.raises((RuntimeError, ValueError), match=r"cpu|CPU|device"):
        rasterization(*arguments)


def train(scene: Scene, target: Tensor, state: list[list[Tensor]], rates: Tensor) -> None:
    """One step as the trainer does it, from raw parameters."""
    for leaf in scene.leaves:
        leaf.grad = None
    scales, opacities = activate(scene.scales, scene.opacities)
    arguments = (scene.means, scene.quats, scales, opacities, *scene.arguments[4:])
    color = rasterization(*arguments, sh_degree=3, pair_capacity=500_000).color
    photometric_loss(color, target).backward()
    grads = [leaf.grad for leaf in scene.leaves]
    adam_step_(scene.leaves, grads, *state, rates=rates)


def test_a_replayed_graph_learns_what_the_host_learns(cuda: torch.device) -> None:
    parameters = []
    for replayed in (False, True):
        scene = scene_of(5_000, 160, 120, cuda)
        with torch.no_grad():
            scene.scales.log_()
            scene.opacities.logit_(eps=1e-6)
        target = torch.full((1, 120, 160, 3), 0.5, device=cuda)
        state = [[torch.zeros_like(leaf) for leaf in scene.leaves] for _ in range(2)]
        rates = torch.empty(len(scene.leaves), 2, device=cuda)
        lrs = [1e-4, 1e-3, 5e-3, 1e-2, 2.5e-3]
        graph = torch.cuda.CUDAGraph()
        for step in range(1, 9):
            rates.copy_(adam_rates(lrs, step))
            if not replayed or step <= 3:
                aside = torch.cuda.Stream()
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    train(scene, target, state, rates)
                torch.cuda.current_stream().wait_stream(aside)
                continue
            if step == 4:
                with torch.cuda.graph(graph):
                    train(scene, target, state, rates)
            graph.replay()
        parameters.append([leaf.detach().clone() for leaf in scene.leaves])
    for eager, recorded in zip(*parameters, strict=True):
        assert torch.equal(eager, recorded)
