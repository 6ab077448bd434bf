"""The op is the reference, in every value and every gradient, with every option."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import rasterization
from torch import Tensor

from gaussian_renderer import reference
from tests.ops.scenes import Scene, make_scene


@dataclass(frozen=True)
class Tolerances:
    """Relative L2 errors: float32 sums of dozens of terms of order 1.

    A lone round Gaussian has a quaternion gradient near 0, hence the room for gradients.
    """

    value: float
    gradient: float


TOLERANCES = {
    "cpu": Tolerances(2e-5, 3e-4),
    "cuda": Tolerances(4e-5, 5e-4),  # ex2.approx and contracted multiply-adds round differently
}


@dataclass(frozen=True)
class Case:
    """A scene and the options that it is rendered with."""

    name: str
    scene: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("plain"),
    *(Case(f"sh{d}", {"sh_degree": d, "cameras": 2}, {"sh_degree": d}) for d in range(4)),
    Case("sh-in-use-below-stored", {"sh_degree": 3}, {"sh_degree": 1}),
    *(Case(f"features{d}", {"channels": d}) for d in (1, 2, 4, 5, 16, 35)),
    Case("antialiased", {}, {"rasterize_mode": "antialiased", "eps2d": 0.1}),
    Case("antialiased-sh", {"sh_degree": 2}, {"rasterize_mode": "antialiased", "sh_degree": 2}),
    Case("background", {}, {"backgrounds": torch.tensor([0.2, 0.7, 1.0])}),
    Case(
        "backgrounds", {"cameras": 2}, {"backgrounds": torch.tensor([[0.2, 0.7, 1], [1, 0, 0.5]])}
    ),
    Case("cameras", {"cameras": 3}),
    Case("principal", {"principal": (0.2, 0.9), "cameras": 2}),
    Case("principal-outside", {"principal": (-0.3, 1.2)}),
    Case("wide-cloud", {"spread": 3.0, "cameras": 3, "count": 80, "seed": 3}),
    Case("sets", {"cameras": 2}, {"set_sizes": [13, 0, 20, 7]}),
    Case("one-set", {"cameras": 2}, {"set_sizes": [40]}),
    Case("accumulated", {"cameras": 2}, {"depth": "accumulated"}),
    Case("expected", {}, {"depth": "expected"}),
    Case(
        "depth-sets-sh",
        {"sh_degree": 1},
        {"depth": "expected", "set_sizes": [21, 19], "sh_degree": 1},
    ),
    Case("absgrad", {"cameras": 2}, {"absgrad": True}),
    Case("absgrad-sets", {"cameras": 2}, {"absgrad": True, "set_sizes": [5, 35]}),
    Case("planes", {"spread": 2.0}, {"near_plane": 2.5, "far_plane": 4.0}),
    Case("opaque", {"opaque": True, "count": 60}),
    Case("opaque-depth", {"opaque": True, "seed": 4}, {"depth": "accumulated", "absgrad": True}),
    Case("colors-only", {"sh_degree": 1}, {"geometry_grad": False, "sh_degree": 1}),
    Case("features-only", {"channels": 7}, {"geometry_grad": False}),
    Case("many", {"count": 600, "size": (50, 40), "cameras": 2, "sh_degree": 1}, {"sh_degree": 1}),
    *(Case(f"{w}x{h}", {"size": (w, h)}) for w, h in ((1, 1), (1, 9), (16, 16), (17, 1), (17, 33))),
]


@dataclass(frozen=True)
class Outcome:
    """Images and gradients of one rasterizer under one random upstream gradient, on the CPU."""

    values: dict[str, Tensor]
    gradients: dict[str, Tensor]


def _outcome(rasterize: Any, scene: Scene, options: dict[str, Any]) -> Outcome:
    options = dict(options)
    if "backgrounds" in options:
        copy = options["backgrounds"].to(scene.means, copy=True)
        options["backgrounds"] = copy.requires_grad_()
    result = rasterize(*scene.arguments, **options)
    values = {"color": result.color, "alpha": result.alpha}
    if result.depth is not None:
        values["depth"] = result.depth
    generator = torch.Generator().manual_seed(5)
    loss = scene.means.new_zeros(())
    for value in values.values():
        cotangent = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        loss = loss + (value * cotangent.to(value)).sum()
    loss.backward()
    names = ["means", "quats", "scales", "opacities", "colors"]
    gradients = {n: leaf.grad for n, leaf in zip(names, scene.leaves, strict=True)}
    gradients["means2d"] = result.means2d.grad
    if options.get("absgrad"):
        gradients["absgrad"] = result.absgrad.grad
    if "backgrounds" in options:
        gradients["backgrounds"] = options["backgrounds"].grad
    values = {name: value.detach().cpu() for name, value in values.items()}
    return Outcome(values, {n: g.cpu() for n, g in gradients.items() if g is not None})


def _relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm().clamp_min(1e-4))


def _random_case(seed: int) -> Case:
    """A scene and options that nobody thought of."""
    random = Random(seed)
    count, sh_degree = random.choice([1, 5, 40, 120]), random.choice([None, 0, 1, 2, 3])
    scene = {
        "count": count,
        "sh_degree": sh_degree,
        "channels": random.choice([1, 3, 4, 8, 9]),
        "cameras": random.choice([1, 2, 3]),
        "size": (random.randint(1, 60), random.randint(1, 60)),
        "principal": (random.uniform(-0.2, 1.2), random.uniform(-0.2, 1.2)),
        "opaque": random.random() < 0.3,
        "spread": random.choice([0.5, 1.0, 2.0, 4.0]),
        "seed": random.randint(0, 10**6),
    }
    options: dict[str, Any] = {
        "sh_degree": sh_degree,
        "rasterize_mode": random.choice(["classic", "antialiased"]),
        "eps2d": random.choice([0.3, 0.1, 0.01]),
        "absgrad": random.random() < 0.5,
        "depth": random.choice(["none", "accumulated", "expected"]),
    }
    if random.random() < 0.3:
        first = random.randint(0, count)
        options["set_sizes"] = [first, count - first]
    return Case(f"random{seed}", scene, options)


@pytest.mark.parametrize(
    "case", [*CASES, *map(_random_case, range(20))], ids=lambda case: case.name
)
def test_values_and_gradients_equal_the_reference(case: Case, device: torch.device) -> None:
    tolerances = TOLERANCES[device.type]
    scene = make_scene(**case.scene)
    ours = _outcome(rasterization, scene.to(torch.float32, device), case.options)
    exact = _outcome(reference.rasterization, scene.to(torch.float64), case.options)
    assert ours.values.keys() == exact.values.keys()
    for name, value in exact.values.items():
        assert ours.values[name].shape == value.shape, name
    assert ours.gradients.keys() == exact.gradients.keys()
    wrong = {n: _relative(ours.values[n], v) for n, v in exact.values.items()}
    failures = [f"{n}: {e:.1e}" for n, e in wrong.items() if not e < tolerances.value]
    wrong = {n: _relative(ours.gradients[n], g) for n, g in exact.gradients.items()}
    failures += [f"d{n}: {e:.1e}" for n, e in wrong.items() if not e < tolerances.gradient]
    assert not failures, failures


def test_a_pair_of_coefficients_is_their_concatenation(device: torch.device) -> None:
    scene = make_scene(sh_degree=3)
    whole = scene.to(torch.float32, device)
    rasterization(*whole.arguments, sh_degree=3).color.square().sum().backward()
    split = scene.to(torch.float32, device)
    sh0 = split.colors[:, :1].detach().clone().requires_grad_()
    shN = split.colors[:, 1:].detach().clone().requires_grad_()
    arguments = (*split.leaves[:4], (sh0, shN), split.viewmats, split.Ks, split.width, split.height)
    rasterization(*arguments, sh_degree=3).color.square().sum().backward()
    assert torch.equal(torch.cat([sh0.grad, shN.grad], 1), whole.colors.grad)


def test_unused_coefficients_get_a_zero_gradient(device: torch.device) -> None:
    scene = make_scene(sh_degree=3).to(torch.float32, device)
    rasterization(*scene.arguments, sh_degree=1).color.sum().backward()
    assert (scene.colors.grad[:, 4:] == 0).all()
    assert (scene.colors.grad[:, :4] != 0).any()


def test_the_absolute_gradient_bounds_the_signed_one(device: torch.device) -> None:
    scene = make_scene(cameras=2).to(torch.float32, device)
    result = rasterization(*scene.arguments, absgrad=True)
    result.color.square().sum().backward()
    assert (result.absgrad.grad >= result.means2d.grad.abs() * (1 - 1e-4) - 1e-5).all()


def test_geometry_gradients_can_be_left_out(device: torch.device) -> None:
    scene = make_scene().to(torch.float32, device)
    result = rasterization(*scene.arguments, geometry_grad=False)
    result.color.sum().backward()
    assert scene.colors.grad is not None
    assert all(leaf.grad is None for leaf in scene.leaves[:4])


def test_colors_learn_the_same_with_and_without_geometry(device: torch.device) -> None:
    grads = []
    for geometry_grad in (True, False):
        scene = make_scene(sh_degree=2).to(torch.float32, device)
        result = rasterization(*scene.arguments, sh_degree=2, geometry_grad=geometry_grad)
        result.color.square().sum().backward()
        grads.append(scene.colors.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)


def test_radii_tell_who_can_be_seen(device: torch.device) -> None:
    scene = make_scene(80, spread=3.0, cameras=3, seed=3).to(torch.float32, device)
    result = rasterization(*scene.arguments)
    result.color.sum().backward()
    hidden = result.radii == 0
    assert hidden.any()
    assert (~hidden).any()
    assert (result.means2d.grad[hidden] == 0).all()
    exact = reference.rasterization(*make_scene(80, spread=3.0, cameras=3, seed=3).arguments)
    # A Gaussian that the reference cannot place on the image must not be seen by the op.
    assert not ((result.radii.cpu() > 0) & (exact.radii == 0)).any()


def test_screen_positions_are_those_of_the_pinhole(device: torch.device) -> None:
    scene = make_scene(cameras=2, device=device)
    result = rasterization(*scene.arguments)
    camera = scene.means @ scene.viewmats[:, :3, :3].mT + scene.viewmats[:, None, :3, 3]
    pixels = camera @ scene.Ks.mT
    expected = pixels[..., :2] / pixels[..., 2:]
    seen = result.radii > 0
    torch.testing.assert_close(result.means2d[seen], expected[seen], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_finite_differences_agree_with_the_gradient(mode: str, device: torch.device) -> None:
    # Wide, faint Gaussians in front of the camera: no alpha is near 1/255 or 0.99 on this image.
    generator = torch.Generator().manual_seed(2)
    scene = make_scene(4, size=(8, 8), spread=0.3, seed=2)
    scene.scales.copy_(1.2 + 0.3 * torch.rand(4, 3, generator=generator))
    scene.opacities.copy_(0.3 + 0.3 * torch.rand(4, generator=generator))
    cotangent = torch.randn(1, 8, 8, 3, generator=generator)

    def loss(at: Scene) -> Tensor:
        result = rasterization(*at.arguments, rasterize_mode=mode)
        return (result.color.double() * cotangent.to(device)).sum()

    live = scene.to(torch.float32, device)
    loss(live).backward()
    step, failures = 1e-2, []
    for k, name in enumerate(["means", "quats", "scales", "opacities", "colors"]):
        direction = torch.randn(live.leaves[k].shape, generator=generator).to(device)
        values = []
        for sign in (1, -1):
            moved = scene.to(torch.float32, device, requires_grad=False)
            moved.leaves[k].add_(sign * step * direction)
            values.append(loss(moved))
        numeric = float(values[0] - values[1]) / (2 * step)
        analytic = float((live.leaves[k].grad * direction).sum())
        if abs(numeric - analytic) > 5e-3 * max(1, abs(analytic)):
            failures.append(f"{name}: {numeric:.4f} against {analytic:.4f}")
    assert not failures, failures


def test_the_number_of_threads_changes_no_bit() -> None:
    outcomes = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        scene = make_scene(300, size=(70, 50), cameras=2, sh_degree=2).to(torch.float32)
        options = {"sh_degree": 2, "absgrad": True, "depth": "expected"}
        outcomes.append(_outcome(rasterization, scene, options))
    torch.set_num_threads(1)
    for other in outcomes[1:]:
        for name, value in outcomes[0].values.items():
            assert torch.equal(other.values[name], value), name
        for name, gradient in outcomes[0].gradients.items():
            assert torch.equal(other.gradients[name], gradient), name


def test_the_same_call_twice_gives_the_same_bytes(device: torch.device) -> None:
    scene = make_scene(200, cameras=2)
    first, second = (_outcome(rasterization, scene.to(torch.float32, device), {}) for _ in range(2))
    for name, gradient in first.gradients.items():
        assert torch.equal(second.gradients[name], gradient), name
