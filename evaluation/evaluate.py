"""Measures a trained run on its held-out views and writes metrics.json; trains nothing."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from arguments.messages import Messages, UserError, one_line
from arguments.serialization import from_plain, to_json
from evaluation.lpips import NAMES, Lpips, Network, load_lpips, why_not
from evaluation.metrics import (
    WINDOW,
    WINDOW_SIGMA,
    Overlap,
    mask_overlap,
    psnr,
    ssim,
    without_masked,
)
from evaluation.renders import picture_path, rendered_mask_step
from evaluation.run_views import RunViews, Split
from scene.atomic import write_atomic
from scene.capture import View
from training.setup import masks_of

METRICS = "metrics.json"
TRUE_MASKS = "gt_distractors"


@dataclass(frozen=True)
class Protocol:
    """How the numbers were taken: numbers of two protocols cannot be compared.

    Attributes:
        resize: how photos were brought to the measured size.
        masked: a user's mask blackened part of picture and photo before the metrics.
    """

    name: str
    quantisation: str
    ssim_window: str
    averaging: str
    resize: str
    resolution: int
    masked: bool


@dataclass(frozen=True)
class ViewMetrics:
    """The numbers of one view; its pictures are called `stem`.png."""

    name: str
    stem: str
    width: int
    height: int
    psnr: float
    ssim: float
    lpips: float | None = None
    ssim_reflected: float | None = None


@dataclass(frozen=True)
class Failure:
    """A view that could not be measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """What metrics.json says.

    Attributes:
        psnr: dB, mean over the views.
        lpips: None with its reason where there are no weights.
        lpips_name: of the metric, with its network; numbers of two networks cannot be compared.
        ssim_reflected: SSIM over all pixels of mirrored pictures, as torchmetrics has it.
        num_views: views measured.
        failures: views of the split that are not in the means.
        mask_iou: of the first branch's masks on the training photos, over all pixels of all
            photos; None with its reason.
        seconds: training time; None where run.json does not say it.
        evaluation_seconds: time of this measurement.
    """

    protocol: Protocol
    split: Split
    step: int
    psnr: float
    ssim: float
    lpips: float | None
    lpips_reason: str
    num_gaussians: int
    num_views: int
    failures: tuple[Failure, ...]
    mask_iou: float | None
    mask_iou_reason: str
    seconds: float | None
    evaluation_seconds: float
    per_image: tuple[ViewMetrics, ...]
    lpips_name: str = NAMES["alex"]
    ssim_reflected: float | None = None


@dataclass(frozen=True)
class MaskQuality:
    """Intersection over union of masks and truth, or why there is none."""

    iou: float | None
    reason: str = ""


@dataclass(frozen=True)
class PerceptualSettings:
    """Which LPIPS, and where its weights lie."""

    network: Network = "alex"
    """Network of LPIPS: alex as nerfbaselines and gsplat report it, vgg as the 3DGS code does."""

    folder: Path | None = None
    """Folder of its two files of weights; None is $TWINSPLAT_WEIGHTS, ~/.cache/twinsplat/weights
    and the folder of torch hub."""


def evaluate(
    views: RunViews,
    split: Split,
    messages: Messages,
    perceptual: PerceptualSettings | None = None,
) -> Evaluation | None:
    """Measure every view of a split; None, with a warning, where the split is empty.

    A view that cannot be measured is reported and left out of the means.

    Raises:
        UserError: no view at all could be measured.
    """
    began = time.perf_counter()
    ids = views.ids(split)
    if not ids:
        messages.warn(f"the {split} split is empty ({views.capture.split_rule}); no metrics")
        return None
    perceptual = perceptual or PerceptualSettings()
    reason = why_not(perceptual.network, perceptual.folder)
    cpu = torch.device("cpu")  # where pictures are compared
    lpips = None if reason else load_lpips(perceptual.network, perceptual.folder, cpu)
    measured: list[ViewMetrics] = []
    failures: list[Failure] = []
    for view_id in ids:
        try:
            measured.append(_measure(views, view_id, lpips))
        except ValueError as failure:
            name = views.capture.views[view_id].name
            failures.append(Failure(name, one_line(str(failure))))
            messages.warn(f"view '{name}' not measured: {failure}")
    if not measured:
        raise UserError(
            f"none of {len(ids)} {split} views could be measured; first: {failures[0].name}: "
            f"{failures[0].reason}"
        )
    quality = mask_quality(views)
    return Evaluation(
        protocol=_protocol(views, ids, perceptual.network if lpips else None),
        split=split,
        step=views.run.step,
        psnr=float(np.mean([m.psnr for m in measured])),
        ssim=float(np.mean([m.ssim for m in measured])),
        lpips=float(np.mean([m.lpips for m in measured if m.lpips is not None])) if lpips else None,
        lpips_reason=reason,
        num_gaussians=len(views.gaussians),
        num_views=len(measured),
        failures=tuple(failures),
        mask_iou=quality.iou,
        mask_iou_reason=quality.reason,
        seconds=_training_seconds(views.run.model_path),
        evaluation_seconds=time.perf_counter() - began,
        per_image=tuple(measured),
        lpips_name=NAMES[perceptual.network],
        ssim_reflected=float(
            np.mean([m.ssim_reflected for m in measured if m.ssim_reflected is not None])
        ),
    )


def write_metrics(model_path: Path, evaluation: Evaluation) -> Path:
    """Replace OUT/metrics.json.

    Raises:
        OSError: the file system refused.
    """
    path = model_path / METRICS
    write_atomic(path, to_json(evaluation).encode())
    return path


def read_metrics(model_path: Path) -> Evaluation:
    """What the last measurement of a run said.

    Raises:
        UserError: there was none, or its file is damaged.
    """
    path = model_path / METRICS
    if not path.is_file():
        raise UserError(f"no {METRICS} in '{model_path}'; run evaluate.py -m {model_path}")
    try:
        plain = json.loads(path.read_text("utf-8"))
        return from_plain(Evaluation, plain, str(path))
    except (ValueError, TypeError) as failure:
        raise UserError(f"{path} is damaged: {failure}; run evaluate.py again") from None


def mask_quality(views: RunViews) -> MaskQuality:
    """How well the rendered masks of the training photos match the true ones of the scene."""
    truth = views.run.config.model.source_path / TRUE_MASKS
    if not truth.is_dir():
        return MaskQuality(None, f"the scene has no true masks ({TRUE_MASKS}/)")
    if set(masks_of(views.run.config)[0]) == {"none"}:
        return MaskQuality(None, "the run has learnt without masks")
    step = rendered_mask_step(views.run.model_path)
    if step != views.run.step:
        have = "no masks" if step is None else f"masks of step {step}"
        return MaskQuality(
            None, f"{have} in renders/train; run render.py for step {views.run.step}"
        )
    total = Overlap(0, 0)
    for view_id in views.capture.train:
        view = views.capture.views[view_id]
        path = truth / f"{view.stem}.png"
        if not path.is_file():
            return MaskQuality(None, f"{TRUE_MASKS}/{path.name} is missing")
        written = picture_path(views.run.model_path, "train", "mask", view.stem)
        weight = torch.from_numpy(_gray(written)).float() / 255
        total += mask_overlap(weight, _true_distractor(path, view))
    return MaskQuality(total.iou)


def _measure(views: RunViews, view_id: int, lpips: Lpips | None) -> ViewMetrics:
    view = views.capture.views[view_id]
    keep = views.capture.mask(view_id)
    picture = without_masked(views.picture(view_id), keep)
    photo = without_masked(views.capture.image(view_id), keep)
    width, height = view.camera.size
    return ViewMetrics(
        view.name,
        view.stem,
        width,
        height,
        psnr(picture, photo),
        ssim(picture, photo),
        lpips(picture, photo) if lpips else None,
        ssim(picture, photo, "reflect"),
    )


def _protocol(views: RunViews, ids: tuple[int, ...], network: Network | None) -> Protocol:
    return Protocol(
        name=f"nerfbaselines default, {f'with {NAMES[network]}' if network else 'without LPIPS'}",
        quantisation="both as 8-bit sRGB, fractions of a level cut off",
        ssim_window=f"{WINDOW}x{WINDOW} gaussian, sigma {WINDOW_SIGMA}, valid region",
        averaging="each image alone, then the mean over images",
        resize="area average, or the scene's own images_2, _4, _8 where they fit",
        resolution=views.run.config.model.resolution,
        masked=any(views.capture.mask(view_id) is not None for view_id in ids),
    )


def _training_seconds(model_path: Path) -> float | None:
    try:
        return float(json.loads((model_path / "run.json").read_text("utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _true_distractor(path: Path, view: View) -> Bool[Tensor, "H W"]:
    """The scene's own mask at the size of the view; a pixel counts when half of it moves."""
    with Image.open(path, formats=("PNG",)) as image:
        sized = image.convert("L").resize(view.camera.size, Image.Resampling.BOX)
    return torch.from_numpy(np.array(sized)) > 127


def _gray(path: Path) -> UInt8[np.ndarray, "H W"]:
    with Image.open(path, formats=("PNG",)) as image:
        return np.array(image.convert("L"))
