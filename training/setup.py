"""From a configuration and a capture to a state that can be trained; decides no schedule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from simple_knn import mean_squared_distance

from arguments.config import MaskKind, TrainConfig
from arguments.messages import Messages
from gaussian_renderer.device import choose_device
from masks.candidates import Candidates
from masks.dino_features import make_extractor
from masks.features import FeatureExtractor
from masks.maskers import (
    CandidateSource,
    Masker,
    MaskerSettings,
    PhotoSet,
    build_masker,
    paper_rule,
)
from scene.cameras import Cameras
from scene.capture import Capture
from scene.gaussians import Gaussians, select_rows, smoothing_filter
from training.branches import Branch, TrainedBranch
from training.densification import build_strategy
from training.memory import (
    GIGA,
    MemoryPlan,
    Workload,
    free_bytes,
    most_gaussians,
    plan_memory,
)
from training.optimizers import GaussianAdam
from training.photos import cameras_of, photo_sets
from training.randomness import generator
from training.rows import morton_order
from training.schedule import REFERENCE_ITERATIONS, Schedule
from training.state import TrainState, link_proxies
from training.step import StepContext

BRANCH_NAMES = ("a", "b")
DUAL_AGREEMENT, EMA_AGREEMENT = 1.0, 0.1
DUAL_QUANTILE, EMA_QUANTILE = 0.90, 0.95
SMALLEST_CAP = 1000
# For each pixel of all training photos; every pixel is taken to lie in one candidate segment.
BANK_BYTES: Mapping[MaskKind, int] = MappingProxyType({"none": 0, "hard": 8, "soft": 12})
PIXELS_PER_GAUSSIAN = 64  # of all training photos; with fewer a Gaussian is not determined


def masks_of(config: TrainConfig) -> list[tuple[MaskKind, ...]]:
    """For each trained branch the masks that it uses in turn."""
    method = config.run.method
    usual: tuple[MaskKind, ...] = ("none",) if method == "single" else ("hard", "soft")
    kinds = usual if config.mask.branch_masks is None else config.mask.branch_masks
    return [(kind,) for kind in kinds] if method == "dual" else [kinds]


def num_branches(config: TrainConfig) -> tuple[int, int]:
    """How many branches are trained, and how many are proxies."""
    return len(masks_of(config)), int(config.run.method == "ema")


def plan_of(
    config: TrainConfig, capture: Capture, device: torch.device, messages: Messages
) -> MemoryPlan:
    """How many Gaussians a branch may have, and what that takes: as told, else as memory allows.

    Where memory decides, and where what is told does not fit, it is said.
    """
    workload, free = workload_of(config, capture, device), free_bytes(device)
    told, most = config.run.max_gaussians, max(most_gaussians(workload, free), SMALLEST_CAP)
    pixels = sum(_pixels(capture, capture.train))
    wanted = max(pixels // PIXELS_PER_GAUSSIAN, len(capture.points.xyz), SMALLEST_CAP)
    plan = plan_memory(told or wanted, workload, free)
    if plan.num_gaussians <= most:
        return plan
    what = f"plan: {plan.num_gaussians} Gaussians, {plan.total / GIGA:.1f} GB of {free / GIGA:.1f}"
    if told is not None:
        messages.warn(f"{what} GB free; they may not fit, try --max_gaussians {most}")
        return plan
    room = "" if most > SMALLEST_CAP else "; smaller photos (-r) or --data_device cpu make room"
    messages.warn(f"{what} GB free; using cap {most} (--max_gaussians){room}")
    return plan_memory(most, workload, free)


def workload_of(config: TrainConfig, capture: Capture, device: torch.device) -> Workload:
    """What the run will hold and compute beside Gaussians."""
    pixels = _pixels(capture, capture.train)
    is_kept = config.run.data_device in ("auto", device.type)
    has_masks = config.model.masks is not None or config.model.alpha == "mask"
    photos = sum(pixels) * (3 + has_masks) if is_kept else 0
    if device.type == "cpu" and not capture.images:  # they are still to be read
        photos += sum(_pixels(capture, range(len(capture.views)))) * (3 + has_masks)
    kinds = [kind for kinds in masks_of(config) for kind in kinds]
    banks = sum(BANK_BYTES[kind] for kind in kinds)
    masks = sum(pixels) * banks
    return Workload(*num_branches(config), max(pixels), photos, masks, device.type)


def _pixels(capture: Capture, view_ids: Iterable[int]) -> list[int]:
    """Pixels of each photo."""
    cameras = [capture.views[view_id].camera for view_id in view_ids]
    return [camera.width * camera.height for camera in cameras]


def camera_batch(capture: Capture, view_id: int, device: torch.device) -> Cameras:
    """The camera of one view as a batch on the device."""
    return Cameras.of([capture.views[view_id].camera]).to(device)


@dataclass(frozen=True)
class Parts:
    """What the training loop runs on."""

    state: TrainState
    context: StepContext
    plan: MemoryPlan

    @property
    def max_gaussians(self) -> int:
        """No branch ever has more."""
        return self.plan.num_gaussians


def initial_gaussians(
    config: TrainConfig, capture: Capture, cap: int, device: torch.device, messages: Messages
) -> Gaussians:
    """Gaussians at the points of the capture, at most `cap` of them."""
    xyz, rgb = capture.points.xyz, capture.points.rgb
    if len(xyz) > cap:
        messages.warn(f"{len(xyz)} points, {cap} allowed (--max_gaussians); a random part is used")
        order = torch.randperm(len(xyz), generator=generator(config.run.seed, 0, "points"))
        rows = order[:cap].sort().values
        xyz, rgb = xyz[rows], rgb[rows]
    distances = mean_squared_distance(xyz)  # of those that are left: they have to fill the gaps
    gaussians = Gaussians.from_points(xyz, rgb.float() / 255, distances, config.model.sh_degree)
    gaussians = select_rows(gaussians, morton_order(gaussians.means))
    return gaussians.map(lambda tensor: tensor.to(device))


def build(
    config: TrainConfig, capture: Capture, candidates: CandidateSource, messages: Messages
) -> Parts:
    """Branches, strategies, maskers and the step's context for a fresh run."""
    device = choose_device(config.run.device, messages)
    schedule = Schedule.of(config)
    plan = plan_of(config, capture, device, messages)
    cap = plan.num_gaussians
    photos = photo_sets(capture)
    cameras = [cameras_of(capture, one, device) for one in photos]
    start = initial_gaussians(config, capture, cap, device, messages)
    if config.optimization.filter == "mip":
        start.filter_3d = smoothing_filter(start.means, cameras)
    strategy = build_strategy(config.densification, schedule, capture.scene_scale, cap)
    ema = config.run.method == "ema"
    branches: list[Branch] = []
    for name, kinds in zip(BRANCH_NAMES, masks_of(config), strict=False):
        gaussians = start.map(lambda tensor: tensor.clone()).requires_grad_()
        branches.append(
            TrainedBranch(
                name=name,
                gaussians=gaussians,
                optimizer=GaussianAdam(gaussians),
                strategy=strategy,
                growth=strategy.initialize_state(gaussians),
                maskers=build_maskers(config, kinds, photos, candidates),
                has_filter=config.optimization.filter == "mip",
            )
        )
    if ema and isinstance(branches[0], TrainedBranch):
        branches.append(link_proxies(branches[0], config.agreement.ema_decay))
    context = StepContext(
        config=config,
        schedule=schedule,
        scene_scale=capture.scene_scale,
        agreement_weight=agreement_weight(config),
        cameras=cameras,
        features=features_of(config, device),
    )
    state = TrainState(branches)
    state.lay_out()
    return Parts(state, context, plan)


def features_of(config: TrainConfig, device: torch.device) -> FeatureExtractor:
    """What masks compare pictures with photos by.

    Raises:
        UserError: weights that it needs are missing, damaged or of another model.
    """
    return make_extractor(config.mask.features, config.mask.dino_checkpoint, device)


def agreement_weight(config: TrainConfig) -> float:
    """How strongly the branches are tied together.

    The pull towards another branch slows the learning of detail; a run of a twentieth of the
    paper's length that pulled as hard ended 1.3 dB lower (docs/results/bonsai-agreement.csv).
    """
    if config.agreement.agreement_weight is not None:
        return config.agreement.agreement_weight
    if config.run.method == "ema":
        return EMA_AGREEMENT
    return DUAL_AGREEMENT * min(1.0, config.run.iterations / REFERENCE_ITERATIONS)


def build_maskers(
    config: TrainConfig,
    kinds: tuple[MaskKind, ...],
    photos: Sequence[PhotoSet],
    candidates: CandidateSource,
) -> tuple[Masker, ...]:
    """One masker for each kind."""
    quantile = config.mask.hard_quantile
    if quantile is None:
        quantile = EMA_QUANTILE if config.run.method == "ema" else DUAL_QUANTILE
    settings = MaskerSettings(
        quantile=quantile,
        dilation=config.mask.mask_dilation,
        learning_rate=config.mask.mask_lr,
    )
    if config.mask.mask_rule == "paper":
        settings = paper_rule(settings)
    return tuple(build_masker(kind, settings, photos, candidates) for kind in kinds)


def no_candidates(view_id: int) -> Candidates:
    """The source of a run that has asked for no hard mask.

    Raises:
        LookupError: always.
    """
    raise LookupError(f"view {view_id}: this run has no distractor candidates")
