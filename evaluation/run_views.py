"""A trained run with its photos: pictures and masks of its views, as they are measured and saved.

Knows no metrics and writes no files.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from arguments.messages import Messages, UserError
from evaluation.metrics import quantise
from gaussian_renderer import render_image
from gaussian_renderer.device import choose_device
from masks.evidence import Comparison
from masks.features import FeatureExtractor
from masks.maskers import Masker
from scene.capture import Capture, load_capture
from scene.gaussians import Gaussians
from training import checkpoint
from training.photos import photo_sets
from training.run import candidates_for, capture_settings
from training.run_folder import TrainedRun, load_run
from training.setup import BRANCH_NAMES, build_maskers, camera_batch, features_of, masks_of

Split = Literal["test", "train"]
LAST = -1  # INRIA's number of the last iteration


@dataclass(frozen=True)
class RunRequest:
    """Which run is to be opened, and where.

    Attributes:
        source_path: the scene, where it is no longer where the run found it.
        iteration: which of the run's models; LAST is the newest.
    """

    model_path: Path
    source_path: Path | None = None
    iteration: int = LAST
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class RunViews:
    """A trained model on a device, in the world of the capture that it was trained on."""

    run: TrainedRun
    capture: Capture
    gaussians: Gaussians

    def ids(self, split: Split) -> tuple[int, ...]:
        """The views of a split."""
        return self.capture.test if split == "test" else self.capture.train

    def color(self, view_id: int) -> Float[Tensor, "H W 3"]:
        """What the model shows in a view, in [0, 1]."""
        device = self.gaussians.device
        white = float(self.run.config.model.white_background)
        return render_image(
            self.gaussians,
            camera_batch(self.capture, view_id, device),
            torch.full((3,), white, device=device),
            filter_2d=self.run.config.optimization.filter,
        )[0]

    def picture(self, view_id: int) -> UInt8[Tensor, "H W 3"]:
        """The same as 8-bit sRGB in host memory: what is measured is what is saved."""
        return quantise(self.color(view_id)).cpu()

    def mask(self, view_id: int, judge: "Judge") -> Float[Tensor, "H W"]:
        """The trust in a training photo, given what the model shows there."""
        color = self.color(view_id)[None]
        image = self.capture.image(view_id).to(color.device)[None].float() / 255
        row = torch.tensor([self._row(view_id)], device=color.device)
        seen = Comparison([color], image, judge.features).of(0)
        return judge.masker(seen, row).weight[0].cpu()

    def _row(self, view_id: int) -> int:
        """Where a photo is among those of its size, by which a masker knows it."""
        ids = (photos.view_ids for photos in photo_sets(self.capture))
        return next(found.index(view_id) for found in ids if view_id in found)


@dataclass(frozen=True)
class Judge:
    """A mask of a run, and what it compares pictures with photos by."""

    masker: Masker
    features: FeatureExtractor


def open_views(request: RunRequest, messages: Messages) -> RunViews:
    """Load a run's model and its photos.

    Raises:
        UserError: there is no such run, model or scene, or no such device.
    """
    iteration = None if request.iteration == LAST else request.iteration
    run = load_run(request.model_path, iteration)
    # The run may have been moved since, and so may the scene.
    source_path = request.source_path or run.config.model.source_path
    if not source_path.is_dir():
        raise UserError(
            f"scene of the run in '{request.model_path}' not found: '{source_path}'; "
            "give its place with -s"
        )
    model = replace(run.config.model, model_path=request.model_path, source_path=source_path)
    run = replace(run, config=replace(run.config, model=model))
    device = choose_device(request.device, messages)
    capture = load_capture(capture_settings(run.config), messages)
    gaussians = run.gaussians.scaled(1 / capture.unit).map(lambda tensor: tensor.to(device))
    return RunViews(run, capture, gaussians)


def open_masker(views: RunViews, messages: Messages) -> Judge | None:
    """The first mask of the run's first branch, as learnt; None where it is no longer known.

    Raises:
        UserError: its candidates, its checkpoint or the weights of its features cannot be read.
    """
    config = views.run.config
    kinds = masks_of(config)[0]
    candidates = candidates_for(config, views.capture, messages)
    masker = build_maskers(config, kinds[:1], photo_sets(views.capture), candidates)[0]
    judge = Judge(masker, features_of(config, views.gaussians.device))
    if kinds[0] != "soft":
        return judge
    path = views.run.model_path / checkpoint.FOLDER / f"step_{views.run.step:06d}.safetensors"
    if not path.is_file():
        messages.warn(f"{path} is not there, and the learnt masks with it; no masks")
        return None
    head = f"{BRANCH_NAMES[0]}/mask0/"
    saved = checkpoint.load(path).tensors
    learnt = {k.removeprefix(head): t for k, t in saved.items() if k.startswith(head)}
    masker.load_state(learnt)
    return judge
