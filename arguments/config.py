"""What a training run can be told: nested frozen dataclasses, one per concern.

A step-valued setting that is None follows the schedule of the paper, which is written for 30,000
iterations and scales with `iterations` (training/schedule.py). A number is taken as it is.
Knows nothing of the command line; arguments/cli.py turns these classes into flags.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.messages import ExitCode, UserError

Method = Literal["dual", "ema", "single"]
AdamRows = Literal["all", "visible"]
ProxyLists = Literal["shared", "own"]
MaskFeatures = Literal["filters", "embedding", "tokens"]
MaskKind = Literal["none", "hard", "soft"]
StrategyName = Literal["asymmetric", "default"]

FIRST_SH_DEGREE, LAST_SH_DEGREE = 0, 3


def _aliased(*names: str) -> object:
    return tyro.conf.arg(aliases=list(names))


@dataclass(frozen=True)
class ModelConfig:
    """What is reconstructed, from which photos, and where the result goes."""

    source_path: Annotated[Path, _aliased("-s")]
    """Scene folder with images/ and a COLMAP model in sparse/0 or sparse."""

    model_path: Annotated[Path, _aliased("-m")] = Path("output")
    """Folder of the run: models, checkpoints, renders, metrics."""

    images: Annotated[str, _aliased("-i")] = "images"
    """Image folder inside the scene."""

    resolution: Annotated[int, _aliased("-r")] = -1
    """1, 2, 4 or 8 divides the photo size; another number is the width to train at; -1 keeps the
    photos and reduces those wider than 1600 pixels."""

    white_background: Annotated[bool, _aliased("-w")] = False
    """White instead of black behind the scene and under transparent photos."""

    eval: bool = False
    """Hold every 8th photo back for testing when the scene brings no split of its own."""

    sh_degree: int = 3
    """Highest degree of the spherical harmonics of the colours, 0 to 3."""

    colmap_model: str | None = None
    """Folder of the COLMAP model inside the scene when there are several, e.g. sparse/1."""

    allow_missing: float = 0.2
    """Share of the model's photos that may be missing or unreadable."""

    alpha: Literal["composite", "mask"] = "composite"
    """Transparent photos: lay them over the background, or read their alpha as a mask."""

    masks: Path | None = None
    """Folder of your own masks, white = keep; `masks/` inside the scene is not read unasked."""

    invert_masks: bool = False
    """Your masks are black where the photo is to be trusted."""

    init: Literal["auto", "points"] = "auto"
    """points: refuse a model without points; auto: start from random ones and say so."""

    keep_outliers: bool = False
    """Use cameras that lie absurdly far from all others."""

    max_mp: float = 178.0
    """Megapixels that may be decoded of one photo. A larger JPEG is decoded at a half, a quarter or
    an eighth where -r allows it; other photos beyond it are left out."""

    follow_links: bool = False
    """Photos may be links to files outside of the scene."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if not FIRST_SH_DEGREE <= self.sh_degree <= LAST_SH_DEGREE:
            raise UserError(
                f"--sh_degree is {self.sh_degree}; it can be 0, 1, 2 or 3", ExitCode.USAGE
            )
        if not self.max_mp > 0:
            raise UserError(f"--max_mp is {self.max_mp}; it must be above 0", ExitCode.USAGE)
        if self.resolution == 0 or self.resolution < -1:
            raise UserError(
                f"--resolution is {self.resolution}; give 1, 2, 4, 8 or a width", ExitCode.USAGE
            )


@dataclass(frozen=True)
class RunConfig:
    """How long, on what, and what is written on the way."""

    method: Method = "dual"
    """dual: two models that must agree; ema: one model and its moving average; single: one."""

    iterations: int = 30_000
    """Number of steps; every schedule scales with it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one and says so."""

    data_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the photos are kept; auto is where the training runs."""

    cuda_graphs: Literal["auto", "off"] = "auto"
    """auto records a step once and replays it on a GPU, where all photos have one size and are
    kept there; off starts every operation of every step from the host."""

    check_kernels: bool = False
    """Wait for each operation on the GPU, so that one that fails is named; slow."""

    seed: int = 0
    """All randomness follows from this number and the step."""

    max_gaussians: int | None = None
    """No branch ever has more Gaussians than this; None is one for every 64 pixels of the training
    photos, or as many as fit in the free memory."""

    checkpoint_every: int | None = None
    """Steps between checkpoints; None saves by time and at the end."""

    checkpoint_minutes: float = 10.0
    """Minutes after which a checkpoint is saved, whatever else says so; 0 is never."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""

    checkpoint_iterations: tuple[int, ...] = ()
    """Steps after which a checkpoint is saved, beside those of checkpoint_every."""

    start_checkpoint: Path | None = None
    """A checkpoint of another run to go on from, written into this model folder."""

    save_iterations: tuple[int, ...] = ()
    """Steps after which the model is also written as PLY; the last step always is."""

    test_iterations: tuple[int, ...] = ()
    """Steps after which the test views are measured and printed."""

    resume: bool = False
    """Go on from the newest valid checkpoint in the model folder."""

    accept_changed_data: bool = False
    """Go on from a checkpoint though photos, masks, model or split have changed since."""

    overwrite: bool = False
    """Replace a run that is already in the model folder."""

    preflight: bool = False
    """Print what was found and what it would cost, from headers alone, and write nothing."""

    tensorboard: bool = False
    """Write TensorBoard events into the model folder."""

    quiet: bool = False
    """Print warnings and errors only."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if self.iterations < 1:
            raise UserError(
                f"--iterations is {self.iterations}; it must be 1 or more", ExitCode.USAGE
            )
        for name, value in (
            ("max_gaussians", self.max_gaussians),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints),
        ):
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; it must be 1 or more", ExitCode.USAGE)
        if not self.checkpoint_minutes >= 0:
            raise UserError(
                f"--checkpoint_minutes is {self.checkpoint_minutes}; it must be 0 or more",
                ExitCode.USAGE,
            )
        if self.resume and self.overwrite:
            raise UserError(
                "--resume and --overwrite exclude each other; choose one", ExitCode.USAGE
            )


@dataclass(frozen=True)
class OptimizationConfig:
    """Learning rates and the colour loss (notes of the paper: its section on implementation)."""

    position_lr_init: float = 1.6e-4
    """Learning rate of the means at the first step, times the scene's extent."""

    position_lr_final: float = 1.6e-6
    """Learning rate of the means at position_lr_max_steps, times the scene's extent."""

    position_lr_max_steps: int | None = None
    """Step at which the learning rate of the means has come down; None is the last."""

    feature_lr: float = 2.5e-3
    """Learning rate of the base colour; the higher harmonics learn at a twentieth of it."""

    opacity_lr: float = 0.1
    """Learning rate of the opacity logits."""

    scaling_lr: float = 5e-3
    """Learning rate of the log scales."""

    rotation_lr: float = 1e-3
    """Learning rate of the quaternions."""

    lambda_dssim: float = 0.2
    """Weight of 1 - SSIM against the absolute colour error."""

    sh_interval: int | None = None
    """Steps between two degrees of the harmonics; None is 1,000 of 30,000."""

    filter: Literal["mip", "classic"] = "mip"
    """mip: 3D smoothing and the 0.1 px Mip filter on screen; classic: 0.3 px dilation."""

    random_background: bool = False
    """A new random background colour at each step instead of black or white."""

    adam_rows: AdamRows = "all"
    """Gaussians that Adam moves: all, or only those that the step's cameras see. The latter moves
    less memory, but lets the momentum of the others rest instead of running out."""


@dataclass(frozen=True)
class DensificationConfig:
    """When and where Gaussians are added and removed."""

    strategy: StrategyName = "asymmetric"
    """asymmetric: the paper's rule with absolute gradients and no opacity reset; default: 3DGS."""

    densify_from_iter: int | None = None
    """First step that may grow; None is 500 of 30,000."""

    densify_until_iter: int | None = None
    """Last step that may grow; None is 15,000 of 30,000."""

    densification_interval: int | None = None
    """Steps between two rounds; None is the strategy's: 1,000 or 100 of 30,000."""

    opacity_reset_interval: int | None = None
    """Steps between two opacity resets of `default`; None is 3,000 of 30,000."""

    densify_grad_threshold: float = 2e-4
    """Mean screen gradient, in units of half the image, above which a Gaussian grows."""

    percent_dense: float = 0.01
    """Gaussians larger than this share of the scene's extent are split, smaller ones cloned."""

    prune_opacity: float = 0.005
    """Gaussians more transparent than this are removed."""


@dataclass(frozen=True)
class AgreementConfig:
    """What ties the branches together."""

    agreement_weight: float | None = None
    """Weight of the L1 difference between the branches; None is 0.1 for ema, and for dual 1.0 at
    30,000 iterations, less in proportion for shorter runs, which it would slow too much."""

    agreement_gradient: Literal["all", "distrusted"] = "all"
    """Where a branch is pulled towards the others at its own view: everywhere, as in the paper, or
    only where its mask distrusts the photo."""

    agreement_from_iter: int | None = None
    """Step from which branches must agree; None is 1,000 of 30,000."""

    supervision: Literal["own", "all"] = "all"
    """Photos that a branch of dual learns from in a step: that of its own view, as in the paper,
    or of every view that it renders for the agreement anyway."""

    ema_decay: float = 0.8
    """Share of itself that the averaged branch keeps at each step."""

    proxy_lists: ProxyLists = "shared"
    """How the averaged branch of ema is drawn: in the order and the tiles of the live one, which
    differs by less than the two pictures do; or with lists of its own, exactly."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if not 0.0 <= self.ema_decay < 1.0:
            raise UserError(
                f"--ema_decay is {self.ema_decay}; it must lie in [0, 1)", ExitCode.USAGE
            )


@dataclass(frozen=True)
class MaskConfig:
    """Which pixels may teach which branch."""

    branch_masks: tuple[MaskKind, ...] | None = None
    """dual: one mask a branch; ema and single: the masks used in turn. None is `hard soft`, and
    `none` for single."""

    hard_quantile: float | None = None
    """Share of a photo's pixels below the residual threshold of the hard mask; None is 0.90, and
    0.95 for ema."""

    mask_lr: float = 0.1
    """Learning rate of the soft mask's logits."""

    mask_weight: float = 1.0
    """Weight of the soft mask's own loss."""

    mask_from_iter: int | None = None
    """First step of the soft mask's learning; None is 0, and 1,000 of 30,000 for ema."""

    mask_target: Literal["photo", "composite"] = "composite"
    """What a distrusted pixel is compared with: the photo, as in the paper, so that SSIM windows
    beside it still see the distractor; or the render itself, so that they see no difference."""

    mask_dilation: int = 0
    """Pixels by which a hard mask's distractors grow."""

    mask_rule: Literal["refined", "paper"] = "refined"
    """paper: the published rules of the hard and the soft mask; refined: both also ask for a clear
    absolute difference, so that photos without distractors keep their pixels."""

    features: MaskFeatures = "filters"
    """What neighbourhoods are compared by: fixed filters, which need no download; or DINOv2
    ViT-S/14 with registers, by its patch embedding as in the paper or by its tokens."""

    dino_checkpoint: Path | None = None
    """Official file of DINOv2's weights; None looks for it by its name (docs/masks.md)."""

    candidates: Path | None = None
    """Folder of distractor candidates made by `python -m masks`; None looks in the scene and the
    model folder and makes them when they are missing."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        share = self.hard_quantile
        if share is not None and not 0.0 < share < 1.0:
            raise UserError(f"--hard_quantile is {share}; it must lie in (0, 1)", ExitCode.USAGE)
        if self.mask_dilation < 0:
            raise UserError(
                f"--mask_dilation is {self.mask_dilation}; it must be 0 or more", ExitCode.USAGE
            )


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run can be told."""

    model: ModelConfig
    run: RunConfig = field(default_factory=RunConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    densification: DensificationConfig = field(default_factory=DensificationConfig)
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        """Check the rules that span groups."""
        kinds = self.mask.branch_masks
        if kinds is not None and self.run.method == "dual" and len(kinds) != 2:
            raise UserError(
                f"--branch_masks has {len(kinds)} values; dual needs one for each of 2 branches",
                ExitCode.USAGE,
            )
        if kinds is not None and not kinds:
            raise UserError("--branch_masks is empty; give none, hard or soft", ExitCode.USAGE)
