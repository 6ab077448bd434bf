"""The method that nerfbaselines trains and renders: a face of the same core that train.py runs.

nerfbaselines calls one step at a time and keeps time, evaluation and files to itself.
"""

import shutil
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import nerfbaselines
import numpy as np
import torch
from torch import Tensor

from arguments.cli import parse_train
from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from arguments.serialization import to_plain
from evaluation.nerfbaselines_dataset import NerfbaselinesDataset, camera_of, capture_of
from gaussian_renderer import MIP_VARIANCE, render
from gaussian_renderer.device import choose_device
from scene.cameras import Cameras
from scene.gaussians import Gaussians
from training import checkpoint
from training.graph import Stepper, choose_stepper
from training.health import Health, diagnose
from training.photos import ViewSource
from training.resume import check_data, check_settings
from training.run import candidates_for
from training.run_folder import splats_of
from training.setup import BRANCH_NAMES, build
from training.state import TrainState

# Where photos come from and files go is decided by nerfbaselines; checkpoints must not tell.
PLACE = Path("nerfbaselines")
NOT_OURS = frozenset(
    (
        *("source_path", "model_path", "images", "resolution", "eval", "masks", "invert_masks"),
        *("alpha", "colmap_model", "resume", "overwrite", "start_checkpoint", "preflight"),
        *("tensorboard", "method"),
    )
)
FEATURES = (
    *("color", "points3D_xyz", "points3D_rgb"),
    *("images_points3D_indices", "images_points2D_xy"),
)
METRICS_EVERY = 20  # steps; reading a loss waits for the device


def config_of(method: str, overrides: Mapping[str, Any] | None) -> TrainConfig:
    """The configuration of a method with the settings of presets and of `--set`.

    Raises:
        UserError: a setting does not exist, is none of the method's, or has a wrong value.
    """
    words = ["-s", str(PLACE), "-m", str(PLACE), "--method", method, "--quiet"]
    for name, value in (overrides or {}).items():
        if name.replace("-", "_") in NOT_OURS:
            raise UserError(f"--set {name}: nerfbaselines decides it; leave it out", ExitCode.USAGE)
        words += _words(name, value)
    return parse_train(words)[0]


def _words(name: str, value: Any) -> list[str]:
    """A setting as on the command line; `--set` gives text, presets give values."""
    flag = f"--{name}"
    if str(value).lower() in ("true", "false"):
        return [flag] if str(value).lower() == "true" else []
    if isinstance(value, (list, tuple)):
        return [flag, *map(str, value)]
    return [flag, *str(value).split()]


@dataclass
class _Training:
    """What only a model that trains has."""

    stepper: Stepper
    state: TrainState
    health: Health
    dataset: str
    seconds: float


class TwinSplat(nerfbaselines.Method):  # type: ignore[misc]  # nerfbaselines has no types for mypy
    """Two models that learn through different masks and must agree (arXiv 2506.03538)."""

    method: ClassVar[str] = "dual"

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        train_dataset: Any = None,
        config_overrides: dict[str, Any] | None = None,
    ) -> None:
        """Start anew from a dataset, go on from a checkpoint with it, or only render."""
        super().__init__()
        self._messages = Messages(quiet=True)
        self._loaded = _load(checkpoint) if checkpoint is not None else None
        self._loaded_path = checkpoint
        self._training: _Training | None = None
        self._cleanup: Callable[[], object] = lambda: None
        self._metrics: dict[str, float] = {}
        if train_dataset is not None:
            self._config = config_of(self.method, config_overrides)
            self._begin(train_dataset)
        elif self._loaded is not None:
            self._config = self._loaded.manifest.config
            device = choose_device(self._config.run.device, self._messages)
            self._gaussians = _result(self._loaded.tensors).map(lambda t: t.to(device))
        else:
            raise UserError("give a checkpoint, a train dataset, or both", ExitCode.USAGE)

    def _begin(self, train_dataset: Mapping[str, Any]) -> None:
        """Build the state from the dataset, and take it from the checkpoint if there is one."""
        messages = self._messages
        capture = capture_of(NerfbaselinesDataset.of(train_dataset), messages)
        found = self._loaded
        if found is not None:
            before = found.manifest.config
            if self._config.run.max_gaussians is None:
                self._config = _capped(self._config, before.run.max_gaussians)
            where = str(self._loaded_path)
            check_settings(where, before, self._config, is_other_run=False, messages=messages)
            check_data(where, found.manifest.dataset, capture.digest, False, messages)
        folder = Path(mkdtemp(prefix="twinsplat-"))  # of the candidates
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        model = replace(self._config.model, model_path=folder)
        candidates = candidates_for(replace(self._config, model=model), capture, messages)
        parts = build(self._config, capture, candidates, messages)
        self._config = _capped(self._config, parts.max_gaussians)
        views = ViewSource(capture, self._config, parts.state.result.device)
        views.show_all_to(parts.context.features)
        if found is not None:
            checkpoint.restore(found, parts.state)
        stepper = choose_stepper(parts.state, views, parts.context, messages)
        seconds = found.manifest.seconds if found is not None else 0.0
        health = Health(parts.state, parts.max_gaussians, messages)
        self._training = _Training(stepper, parts.state, health, capture.digest, seconds)

    @classmethod
    def get_method_info(cls) -> Any:
        """What the method can do; asked before there is a model."""
        return {
            "method_id": "",  # nerfbaselines fills it in
            "required_features": frozenset(FEATURES),
            "supported_camera_models": frozenset(("pinhole",)),
            "supported_outputs": ("color", "accumulation"),
            "can_resume_training": True,
            "viewer_default_resolution": 768,
        }

    def get_info(self) -> Any:
        """What this model is."""
        return {
            **self.get_method_info(),
            "num_iterations": self._config.run.iterations,
            "loaded_step": None if self._loaded is None else self._loaded.manifest.step,
            "loaded_checkpoint": self._loaded_path,
            "batch_size": 1,
            "eval_batch_size": 1,
            "hparams": _flat(to_plain(self._config)),
        }

    def train_iteration(self, step: int) -> dict[str, float]:
        """One step; `step` counts those done before.

        Raises:
            UserError: it is not the next step, a number is not finite, or memory ends.
        """
        training = self._training
        if training is None or training.state.step != step:
            at = "not training" if training is None else f"at step {training.state.step}"
            raise UserError(f"step {step} asked for, the model is {at}", ExitCode.USAGE)
        is_due = step % METRICS_EVERY == 0 or not self._metrics
        try:
            stats = training.stepper.advance(step + 1)
            if is_due or training.state.result.device.type == "cpu":
                training.health.after_step(stats)
        except Exception as failure:
            trouble = diagnose(failure, training.state)
            if trouble is None:
                raise
            raise UserError(
                f"step {step}: {trouble.what}; go on from the last checkpoint with lower learning "
                "rates or --set max_gaussians",
                trouble.code,
            ) from failure
        if is_due:
            error = max(float(stats.squared_error), 1e-10)
            self._metrics = {
                "loss": float(stats.loss),
                "psnr": float(-10 * np.log10(error)),
                "num_gaussians": float(len(training.state.result)),
                "masked": 1 - float(stats.trusted),
            }
        return dict(self._metrics)

    @torch.no_grad()
    def render(self, camera: Any, *, options: Any = None) -> Any:
        """The result from one camera: color [h, w, 3] in [0, 1] and accumulation [h, w]."""
        del options  # nerfbaselines converts what is asked for; there is no appearance yet
        one = camera.item()
        width, height = (int(side) for side in one.image_sizes)
        view = camera_of(
            np.asarray(one.poses, np.float32)[:3],
            np.asarray(one.intrinsics, np.float32),
            width,
            height,
        )
        gaussians = self._result
        white = float(self._config.model.white_background)
        shown = render(
            gaussians,
            Cameras.of([view]).to(gaussians.device),
            torch.full((3,), white, device=gaussians.device),
            sh_degree=gaussians.sh_degree,
            filter_2d=self._config.optimization.filter,
        )
        return {
            "color": shown.color[0].clamp(0, 1).cpu().numpy(),
            "accumulation": shown.alpha[0].cpu().numpy(),
        }

    @property
    def _result(self) -> Gaussians:
        return self._gaussians if self._training is None else self._training.state.result

    def save(self, path: str) -> None:
        """Write a checkpoint that trains on; saving what was loaded gives the same bytes."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if self._training is not None:
            training = self._training
            checkpoint.save(
                folder, training.state, self._config, training.dataset, training.seconds
            )
        elif self._loaded is not None:
            shutil.copytree(
                self._loaded.path.parent, folder / checkpoint.FOLDER, dirs_exist_ok=True
            )

    def export_gaussian_splats(self, *, options: Any = None) -> dict[str, Any]:
        """The result for viewers, with its 3D filter: activated values, harmonics [N, 3, K]."""
        del options  # there is no appearance to choose yet
        splats = splats_of(self._result)
        is_mip = self._config.optimization.filter == "mip"
        return {
            "antialias_2D_kernel_size": MIP_VARIANCE if is_mip else None,
            "means": splats.means.numpy(),
            "scales": splats.log_scales.exp().numpy(),
            "opacities": splats.opacity_logits.sigmoid().numpy(),
            "quaternions": splats.quats.numpy(),
            "spherical_harmonics": torch.cat([splats.sh0, splats.shN], 1).mT.numpy(),
        }

    def close(self) -> None:
        """Remove what training kept on disk."""
        self._cleanup()


class TwinSplatEma(TwinSplat):
    """One model and its moving average: faster, nearly as good."""

    method: ClassVar[str] = "ema"


def _load(path: str) -> checkpoint.Checkpoint:
    """The checkpoint in a folder that `save` wrote."""
    found = checkpoint.load_newest(Path(path), Messages(quiet=True))
    if found is None:
        raise UserError(f"no checkpoint in '{path}'; check the path", ExitCode.CHECKPOINT)
    return found


def _result(tensors: Mapping[str, Tensor]) -> Gaussians:
    """The Gaussians of the first branch: what a run is for."""
    head = f"{BRANCH_NAMES[0]}/gaussians/"
    return Gaussians(**{n.removeprefix(head): t for n, t in tensors.items() if n.startswith(head)})


def _capped(config: TrainConfig, max_gaussians: int | None) -> TrainConfig:
    return replace(config, run=replace(config.run, max_gaussians=max_gaussians))


def _flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all groups by name, without places."""
    settings = {name: value for group in plain.values() for name, value in group.items()}
    return {name: value for name, value in settings.items() if name not in NOT_OURS - {"method"}}
