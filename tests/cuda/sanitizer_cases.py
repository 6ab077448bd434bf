r"""Every compiled operator on small inputs in one process, for NVIDIA's compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --kernel-regex kns=raster \
        --error-exitcode 1 python -m tests.cuda.sanitizer_cases
    compute-sanitizer --tool racecheck --kernel-regex kns=raster --error-exitcode 1 \
        python -m tests.cuda.sanitizer_cases

With `--device cpu` it checks the cases themselves. It fails where a result is not finite, and where
an operator is registered for the device that no case has called.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from diff_gaussian_rasterization import (
    GaussianRasterizer,
    SegmentRule,
    TileLists,
    TrustBank,
    activate,
    adam_rates,
    adam_step_,
    color_residual,
    count_step_,
    instruction_set,
    kth_smallest,
    kth_smallest_of_each,
    mean_difference,
    observe_,
    photometric_loss,
    photometric_losses,
    rasterization,
    ssim_map,
    trust_loss,
    trust_step_,
    watch_,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from masks.candidates import Candidates
from masks.features import FeatureSettings, PatchFilterBank
from masks.segment_bank import Residuals, SegmentBank
from tests.ops.scenes import Scene, make_scene
from tests.ops.test_inria_face import camera_scene, training_settings

Work = Callable[[torch.device], Iterator[Tensor | None]]
NAMESPACE = "twinsplat_raster::"
CASES: list[tuple[str, Work]] = []


def case(work: Work) -> Work:
    """Enter a function into the list; it yields what must be finite."""
    CASES.append((work.__name__.strip("_").replace("_", " "), work))
    return work


def numbers(*shape: int, seed: int = 0, device: torch.device) -> Tensor:
    """Standard normal."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def flags(values: list[int], device: torch.device) -> Tensor:
    """A small int32 tensor."""
    return torch.tensor(values, dtype=torch.int32, device=device)


# ---- The rasterizer


def learn(scene: Scene, **options: object) -> Iterator[Tensor | None]:
    """A render, everything that it shows, and every gradient."""
    leaves = scene.to(torch.float32, scene.means.device)
    render = rasterization(*leaves.arguments, **options)
    yield from (render.color, render.alpha, render.depth)
    loss = render.color.square().sum() + render.alpha.sum()
    if render.depth is not None:
        loss = loss + 0.1 * render.depth.sum()
    loss.backward()
    yield from (leaf.grad for leaf in leaves.leaves)
    yield render.means2d.grad
    yield None if render.absgrad is None else render.absgrad.grad


@case
def features_of_any_number_of_channels(device: torch.device) -> Iterator[Tensor | None]:
    for channels in (1, 2, 3, 4, 5, 8, 13, 32, 64):
        scene = make_scene(channels=channels, device=device)
        for geometry in (True, False):
            yield from learn(scene, geometry_grad=geometry, depth="expected")


@case
def harmonics_of_every_degree_whole_and_in_two_parts(
    device: torch.device,
) -> Iterator[Tensor | None]:
    for stored, used in ((0, 0), (1, 0), (1, 1), (2, 2), (3, 1), (3, 3)):
        scene = make_scene(sh_degree=stored, cameras=2, device=device)
        yield from learn(scene, sh_degree=used)
        parts = [scene.colors[:, :1].clone(), scene.colors[:, 1:].clone()]
        halves = tuple(part.requires_grad_() for part in parts)
        geometry = (scene.means, scene.quats, scene.scales, scene.opacities)
        view = (scene.viewmats, scene.Ks, scene.width, scene.height)
        rasterization(*geometry, halves, *view, sh_degree=used).color.sum().backward()
        yield from (half.grad for half in halves)


@case
def every_depth_filter_and_background(device: torch.device) -> Iterator[Tensor | None]:
    scene = make_scene(cameras=2, device=device)
    backgrounds = (None, numbers(3, device=device), numbers(2, 3, device=device))
    for depth, mode, background, absgrad in product(
        ("none", "accumulated", "expected"),
        ("classic", "antialiased"),
        backgrounds,
        (True, False),
    ):
        yield from learn(
            scene, depth=depth, rasterize_mode=mode, backgrounds=background, absgrad=absgrad
        )


@case
def pictures_of_every_shape(device: torch.device) -> Iterator[Tensor | None]:
    for size in ((1, 1), (7, 5), (16, 16), (17, 33), (32, 8), (48, 40)):
        for principal in ((0.5, 0.5), (-0.3, 1.2)):
            scene = make_scene(cameras=3, size=size, principal=principal, device=device)
            yield from learn(scene, absgrad=True)


@case
def few_gaussians_opaque_ones_and_many_out_of_view(
    device: torch.device,
) -> Iterator[Tensor | None]:
    for count in (0, 1, 2, 31, 33, 40):
        yield from learn(make_scene(count, device=device), absgrad=True, depth="accumulated")
    for count in (40, 400):  # several batches of a tile
        scene = make_scene(count, opaque=True, cameras=2, device=device)
        yield from learn(scene, sh_degree=None, absgrad=True)
    yield from learn(make_scene(spread=20, cameras=3, device=device), absgrad=True)
    far = make_scene(cameras=2, device=device)
    far.means.add_(1000)
    yield from learn(far, absgrad=True)


@case
def sets_of_one_size_and_ragged_ones(device: torch.device) -> Iterator[Tensor | None]:
    for sizes in ([40], [20, 20], [1, 0, 39], [0, 40], [5, 33, 2]):
        for cameras in (1, 3):
            scene = make_scene(sum(sizes), sh_degree=1, cameras=cameras, device=device)
            yield from learn(scene, sh_degree=1, set_sizes=sizes, absgrad=True, depth="expected")


@case
def fixed_room_ample_exact_and_too_little(device: torch.device) -> Iterator[Tensor | None]:
    scene = make_scene(cameras=2, size=(48, 40), device=device)
    pairs = int(rasterization(*scene.arguments).counts[1])
    for room in (100_000, pairs, pairs - 1, pairs // 2, 1, 0):
        for sizes in (None, [17, 23]):
            yield from learn(scene, pair_capacity=room, set_sizes=sizes, absgrad=True)


@case
def rows_that_are_not_finite(device: torch.device) -> Iterator[Tensor | None]:
    if device.type == "cpu":  # which refuses them
        return
    for name in ("means", "quats", "scales", "opacities"):
        scene = make_scene(device=device)
        getattr(scene, name)[13] = float("nan")
        render = rasterization(*scene.arguments, pair_capacity=10_000)
        if int(render.counts[2]) != 13:
            raise RuntimeError(f"{name}: row 13 is not finite, told {render.counts.tolist()}")
        yield None


@case
def lists_of_another_call(device: torch.device) -> Iterator[Tensor | None]:
    for sizes, room, channels in product(([40], [15, 25]), (None, 10_000), (3, 7)):
        scene = make_scene(cameras=2, channels=channels, device=device).to(torch.float32, device)
        first = rasterization(*scene.arguments, set_sizes=sizes, pair_capacity=room)
        lists = TileLists(first.tile_lists.state, 40)
        with torch.no_grad():
            for depth in ("none", "expected"):
                shown = rasterization(
                    *scene.arguments, set_sizes=sizes, tile_lists=lists, depth=depth
                )
                yield from (shown.color, shown.alpha, shown.depth)


@case
def the_face_of_the_inria_package(device: torch.device) -> Iterator[Tensor | None]:
    scene = camera_scene(device).to(torch.float32, device)
    rotations = torch.nn.functional.normalize(scene.quats)
    covariances = numbers(len(scene.means), 6, device=device).mul_(0.01)
    covariances[:, [0, 3, 5]] = 0.1
    covariances.requires_grad_()
    for antialiasing, options in product(
        (None, False, True),  # scripts that know it get the inverse depth too
        (
            {"shs": scene.colors, "scales": scene.scales, "rotations": rotations},
            {"shs": scene.colors, "cov3D_precomp": covariances},
            {"colors_precomp": scene.colors[:, 0].abs(), "cov3D_precomp": covariances},
        ),
    ):
        told = {} if antialiasing is None else {"antialiasing": antialiasing}
        centres = torch.zeros_like(scene.means, requires_grad=True)
        color, _, *inverse_depth = GaussianRasterizer(training_settings(scene, **told))(
            means3D=scene.means, means2D=centres, opacities=scene.opacities[:, None], **options
        )
        loss = color.square().sum() + sum(depth.sum() for depth in inverse_depth)
        loss.backward(retain_graph=True)
        yield from (color, *inverse_depth, centres.grad, covariances.grad, scene.means.grad)


# ---- What a step does beside


@case
def activations_with_and_without_a_filter(device: torch.device) -> Iterator[Tensor | None]:
    for rows in (0, 1, 40):
        for filtered in (False, True):
            scales = numbers(rows, 3, device=device).requires_grad_()
            logits = numbers(rows, seed=1, device=device).requires_grad_()
            filter_3d = numbers(rows, seed=2, device=device).abs() if filtered else None
            out = activate(scales, logits, filter_3d)
            (out.scales.sum() + out.opacities.sum()).backward()
            yield from (*out, scales.grad, logits.grad)


@case
def adam_with_everything_that_it_can_be_told(device: torch.device) -> Iterator[Tensor | None]:
    shapes = [(39, 3), (39,), (39, 4), (39, 15, 3), (39, 1, 3)]
    rates = adam_rates([1e-3] * len(shapes), 3)
    visible = flags([i % 3 for i in range(39)], device)
    for averaged, seen, frozen, on_device in product(
        (False, True), (None, visible, visible > 0), (None, 0, 1), (False, True)
    ):
        made = [[numbers(*s, seed=n, device=device) for s in shapes] for n in range(5)]
        params, grads, means, squares, averages = made
        adam_step_(
            params,
            grads,
            means,
            [square.square_() for square in squares],
            rates=rates.to(device) if on_device else rates,
            averages=averages if averaged else None,
            decay=0.8,
            visible=seen,
            frozen=None if frozen is None else flags([frozen], device),
        )
        yield from (*params, *means, *squares, *averages)


@case
def statistics_and_the_guard(device: torch.device) -> Iterator[Tensor | None]:
    for rows, absolute, frozen in product((0, 1, 40), (False, True), (None, 0, 1)):
        sums = [torch.zeros(rows, device=device) for _ in range(3)]
        gradient = numbers(rows, 2, device=device)
        radii = flags([i % 4 for i in range(rows)], device)
        flag = None if frozen is None else flags([frozen], device)
        pair = (sums[1], gradient.abs()) if absolute else (None, None)
        observe_(sums[0], pair[0], sums[2], gradient, pair[1], radii, 48, 40, flag)
        yield from sums
    guard, frozen_flag = flags([0, -1, 0, 0], device), flags([0], device)
    for counts in ([4, 9, -1], [4, 11, -1], [4, 9, 3]):
        watch_(guard, flags(counts, device), 10, frozen_flag)
        for loss in (0.5, torch.nan):
            count_step_(guard, frozen_flag, torch.tensor(loss, device=device))
    yield guard


@case
def ranks(device: torch.device) -> Iterator[Tensor | None]:
    for rows, columns in ((1, 1), (3, 40), (2, 1920), (1, 5000)):
        values = numbers(rows, columns, device=device)
        yield from (kth_smallest(values, k) for k in {1, (columns + 1) // 2, columns})
        yield kth_smallest_of_each([values, -values, values], [1, columns, (columns + 1) // 2])
        yield kth_smallest(torch.zeros_like(values), columns)


@case
def photometric_of_one_picture_and_of_several(device: torch.device) -> Iterator[Tensor | None]:
    for cameras, height, width in ((1, 1, 1), (2, 26, 33)):
        size = (cameras, height, width, 3)
        exact = numbers(*size, seed=1, device=device).sigmoid()
        weight = numbers(*size[:3], seed=2, device=device).sigmoid()
        for target, weighted, valued, composite, count in product(
            (exact, (255 * exact).to(torch.uint8)), (False, True), (False, True), (False, True),
            (1, 2, 3),
        ):  # fmt: skip
            colors = [numbers(*size, seed=3 + i, device=device).sigmoid() for i in range(count)]
            colors = [color.requires_grad_() for color in colors]
            values = photometric_losses(
                colors,
                target,
                gradient_weights=[weight] * count if weighted else None,
                value_weights=[weight] * count if valued else None,
                composite=composite,
            )
            sum(values, start=torch.zeros((), device=device)).backward()
            yield from (*values, *(color.grad for color in colors))
        with torch.no_grad():
            yield photometric_loss(exact, exact)
        yield ssim_map(exact, (255 * exact).to(torch.uint8))


@case
def the_mean_difference(device: torch.device) -> Iterator[Tensor | None]:
    for count, learns_a, learns_b in product((1, 3, 5760), (False, True), (False, True)):
        a = numbers(count, device=device).requires_grad_(learns_a)
        b = numbers(count, seed=1, device=device).requires_grad_(learns_b)
        value = mean_difference(a, b)
        if learns_a or learns_b:
            value.backward()
        yield from (value.detach(), a.grad, b.grad)


@case
def residuals_by_colour_and_by_patch(device: torch.device) -> Iterator[Tensor | None]:
    for height, width in ((1, 1), (9, 5), (40, 48), (28, 42)):
        photos = numbers(2, height, width, 3, device=device).sigmoid()
        pictures = [numbers(*photos.shape, seed=i, device=device).sigmoid() for i in (1, 2)]
        for photo in (photos, (255 * photos).to(torch.uint8)):
            if device.type == "cuda":
                yield color_residual(pictures, photo)
            for patch, frequencies in ((14, 5), (1, 1), (7, 3), (16, 6)):
                settings = FeatureSettings(patch=patch, frequencies=frequencies)
                yield PatchFilterBank(settings).residual(pictures, photo)


@case
def segments_that_a_picture_contradicts(device: torch.device) -> Iterator[Tensor | None]:
    for height, width in ((1, 1), (40, 48), (9, 21)):
        blocks = 1 + torch.arange(height)[:, None] // 9 * 30 + torch.arange(width) // 11
        layers = torch.stack([blocks, blocks * (blocks % 2), torch.zeros_like(blocks)]).int()
        bank = SegmentBank.of([Candidates(layers), Candidates(layers[2:])], device)
        color = numbers(3, height, width, device=device).sigmoid()
        level = torch.full((3, 1, 1), 0.5, device=device)
        seen = Residuals(color, color.flip(2), level, level - 0.1, level - 0.3)
        rows = torch.tensor([0, 1, 0], device=device)
        yield bank.trust(rows, seen, SegmentRule(0.15, 0.3, 0.4))


@case
def the_learnt_trust(device: torch.device) -> Iterator[Tensor | None]:
    if device.type == "cpu":  # which has torch's own operators for it
        return
    for height, width in ((1, 1), (40, 48), (5, 33)):
        bank = TrustBank(
            *(numbers(4, height, width, seed=n, device=device).abs() for n in range(3)),
            torch.tensor([0, 3, 1, 70], device=device),
        )
        rates = torch.cat([adam_rates([0.1], step) for step in range(1, 9)]).to(device)
        logits = bank.logits[:3].clone().requires_grad_()
        low = torch.full((3,), 0.2, device=device)
        value, trust = trust_loss(logits, torch.rand_like(logits), low=low, span=low, sharpness=8.0)
        value.backward()
        yield from (value, trust, logits.grad)
        for rows, frozen in product(([0, 1, 2], [3, 3, 0]), (None, 0, 1)):
            trust_step_(
                bank,
                torch.tensor(rows, device=device),
                numbers(3, height, width, device=device),
                rates,
                beta1=0.9,
                beta2=0.999,
                eps=1e-15,
                most=1.5,
                frozen=None if frozen is None else flags([frozen], device),
            )
            yield from (bank.logits, bank.exp_avg, bank.exp_avg_sq)


# ---- Running them


class Called(TorchDispatchMode):
    """Which of our operators were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operator and run it."""
        self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def registered(device: torch.device) -> set[str]:
    """Our operators that have a kernel for the device."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    ours = {name for name in found if name.startswith(NAMESPACE)}
    return {name for name in ours if has_kernel(name, device.type.upper())}


def run(device: torch.device, chosen: str = "") -> list[str]:
    """Run the cases whose names hold `chosen`; what went wrong, in words."""
    wrong = []
    # On one thread, so that operators called on the way back are noted too.
    with Called() as called, torch.autograd.set_multithreading_enabled(False):
        for name, work in CASES:
            if chosen not in name:
                continue
            began = time.perf_counter()
            outcomes = [seen for seen in work(device) if seen is not None]
            bad = sum(not bool(seen.detach().isfinite().all()) for seen in outcomes)
            if bad:
                wrong.append(f"{name}: {bad} of {len(outcomes)} results are not finite")
            seconds = time.perf_counter() - began
            sys.stdout.write(f"{seconds:6.2f} s  {len(outcomes):5} results  {name}\n")
            sys.stdout.flush()
    if not chosen:
        wrong += [f"{name} was never called" for name in sorted(registered(device) - called.names)]
    return wrong


def main() -> int:
    """Run them all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    told = parser.parse_args()
    wrong = run(torch.device(told.device), told.only)
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    sys.stdout.write(f"{instruction_set()}, {len(wrong)} things went wrong\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
