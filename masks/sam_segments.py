"""Segment Anything as a source of segments: settings, weights, memory and remembered embeddings."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Int32, UInt8
from numpy import ndarray
from safetensors import SafetensorError
from safetensors import torch as safetensors

from arguments.failures import is_out_of_memory
from arguments.messages import ExitCode, Messages, UserError
from masks.layers import stack_masks
from masks.sam import (
    RELEASES,
    Backend,
    Embedding,
    SamKind,
    SegmentAnything,
    build_sam,
    input_size,
)
from masks.sam_generator import GridSettings, find_masks
from masks.segmenter import Photo
from masks.weights import read_weights, require_weights
from scene.atomic import write_atomic
from scene.images import resize, resize_nearest

POINTS_PER_SIDE = {"cuda": 32, "cpu": 8}  # 4^n: a CPU needs seconds for each batch of points
POINTS_PER_BATCH = {"cuda": 64, "cpu": 8}  # a point needs about 70 MB
LARGEST_REDUCTION = 4  # of the sides of a photo that memory does not suffice for

LayerLabels = Int32[ndarray, "L H W"]


@dataclass(frozen=True)
class SamSettings:
    """Segment Anything: which weights, how densely it is asked, which answers count."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(name="sam-checkpoint")] = None
    """Official file of weights; None looks for it by its name in $TWINSPLAT_WEIGHTS,
    ~/.cache/twinsplat/weights and the folder of torch hub."""

    backend: Annotated[Backend, tyro.conf.arg(name="sam-backend")] = "kornia"
    """Whose implementation of the networks."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU when there is one."""

    points_per_side: int | None = None
    """Points along each side of the photo at which it is asked; None is 32 on a GPU, 8 on a CPU."""

    points_per_batch: int | None = None
    """Points at a time; None is 64 on a GPU, 8 on a CPU; halved when memory runs out."""

    levels: Annotated[tuple[int, ...], tyro.conf.arg(name="sam-levels")] = (1, 2)
    """Which of the three masks at a point: 0 parts and textures, 1 larger parts, 2 wholes."""

    min_iou: float = 0.88
    """Quality that the model must promise for a mask."""

    min_stability: float = 0.92
    """IoU of a mask with itself when its threshold moves by one logit up and down."""

    max_box_iou: float = 0.7
    """Of two masks whose boxes overlap by more, the better one stays."""

    crop_layers: int = 0
    """Layer n looks at 4^n overlapping crops as well: finds smaller objects, takes 4^n times as
    long."""

    min_region: int = 10
    """Holes and islands of fewer pixels are filled and removed."""

    keep_embeddings: bool = False
    """Keep what the encoder makes of each photo (4 MB) in embeddings/ beside the candidates, so
    that other thresholds need no second encoding."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        counts = {
            "points_per_side": self.points_per_side,
            "points_per_batch": self.points_per_batch,
        }
        for name, count in counts.items():
            if count is not None and not 1 <= count <= 256:
                raise UserError(f"--{name} is {count}; it must lie in [1, 256]", ExitCode.USAGE)
        if not self.levels or not set(self.levels) <= {0, 1, 2}:
            raise UserError(
                f"--sam-levels are {self.levels}; name some of 0, 1 and 2", ExitCode.USAGE
            )
        if not 0 <= self.crop_layers <= 3:
            raise UserError(
                f"--crop_layers is {self.crop_layers}; it must lie in [0, 3]", ExitCode.USAGE
            )

    def grid(self, device: torch.device) -> GridSettings:
        """What the generator needs to know, with the defaults of a device filled in."""
        return GridSettings(
            points_per_side=self.points_per_side or POINTS_PER_SIDE[device.type],
            points_per_batch=self.points_per_batch or POINTS_PER_BATCH[device.type],
            levels=self.levels,
            min_iou=self.min_iou,
            min_stability=self.min_stability,
            max_box_iou=self.max_box_iou,
            crop_layers=self.crop_layers,
            min_region=self.min_region,
        )


class SamSegmenter:
    """Layers of the objects that Segment Anything finds in a photo."""

    def __init__(
        self, kind: SamKind, settings: SamSettings, folder: Path, messages: Messages
    ) -> None:
        """Load the weights.

        Args:
            folder: where embeddings are kept, if they are.

        Raises:
            UserError: weights or backend are missing or unusable, or there is no such device.
        """
        device = _device(settings.device)
        weights = read_weights(require_weights(RELEASES[kind], settings.checkpoint), RELEASES[kind])
        self._model = build_sam(kind, settings.backend, weights, device)
        self._grid = settings.grid(device)
        self._messages = messages
        self.description = f"{kind} ({settings.backend}, weights {weights.path}) on {device.type}"
        relevant = replace(self._grid, points_per_batch=0)  # changes memory, not masks
        self._identity = f"{kind} {weights.sha256} {relevant}"
        self._cache = folder / "embeddings" if settings.keep_embeddings else None
        self._weights_digest = weights.sha256

    def identity(self, name: str) -> str:  # noqa: ARG002 - the same for every photo
        """Model, weights and settings."""
        return self._identity

    def __call__(self, photo: Photo) -> LayerLabels:
        """The layers of one photo.

        As memory ends: fewer points at a time, then this photo smaller, then everything on the CPU.

        Raises:
            UserError: even that is too much, or the cache cannot be written.
        """
        reduction = 1
        while (layers := self._tried(photo.image, reduction)) is None:
            reduction = self._use_less_memory(photo.name, reduction)
        return layers

    def _tried(self, image: UInt8[ndarray, "H W 3"], reduction: int) -> LayerLabels | None:
        """The layers, found in the photo with its sides divided; None where memory has ended."""
        try:
            return self._layers(image, reduction)
        except (MemoryError, RuntimeError) as failure:
            if not is_out_of_memory(failure):
                raise
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return None

    def _layers(self, image: UInt8[ndarray, "H W 3"], reduction: int) -> LayerLabels:
        height, width = image.shape[:2]
        grid = replace(self._grid, min_region=self._grid.min_region // reduction**2)
        small = resize(image, max(1, width // reduction), max(1, height // reduction))
        layers = stack_masks(find_masks(self._model, small, grid, self._encoder()).masks)
        if reduction == 1:
            return layers
        return np.stack([resize_nearest(layer, width, height) for layer in layers])

    def _use_less_memory(self, name: str, reduction: int) -> int:
        """Take the next way out; by what the sides of the photo are divided from here on."""
        what, batch = f"out of memory at '{name}'", self._grid.points_per_batch
        if batch > 1:
            self._grid = replace(self._grid, points_per_batch=batch // 2)
            self._messages.note(f"{what}: {batch // 2} points at a time now")
            return reduction
        if reduction < LARGEST_REDUCTION:
            self._messages.note(f"{what}: its segments come from 1/{2 * reduction} of its size")
            return 2 * reduction
        if self._model.device.type == "cpu":
            raise UserError(
                f"{what} with one point at a time at 1/{reduction} of its size; free some memory "
                "and run it again (finished photos are kept), or reduce the photos with -r",
                ExitCode.MEMORY,
            )
        self._messages.note(f"{what} with one point at a time: on the CPU now")
        network = self._model.network
        for part in (network.image_encoder, network.prompt_encoder, network.mask_decoder):
            part.cpu()
        self._model = SegmentAnything(network, torch.device("cpu"))
        self._grid = replace(self._grid, points_per_batch=POINTS_PER_BATCH["cpu"])
        return 1

    def _encoder(self) -> Callable[[UInt8[ndarray, "H W 3"]], Embedding]:
        folder = self._cache
        if folder is None:
            return self._model.encode
        return lambda image: remembered(self._model, image, folder, self._weights_digest)


def remembered(
    model: SegmentAnything, image: UInt8[ndarray, "H W 3"], folder: Path, weights_digest: str
) -> Embedding:
    """`model.encode(image)`, kept in a file named after photo and weights; a broken one is redone.

    Raises:
        UserError: the folder cannot be written.
    """
    state = hashlib.blake2b(weights_digest.encode(), digest_size=16)
    state.update(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes())
    path = folder / f"{state.hexdigest()}.safetensors"
    photo_size = (image.shape[0], image.shape[1])
    try:
        features = safetensors.load(path.read_bytes())["features"]
        return Embedding(features.to(model.device), photo_size, input_size(photo_size))
    except (OSError, SafetensorError, KeyError):
        embedding = model.encode(image)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, safetensors.save({"features": embedding.features.cpu().contiguous()}))
    except OSError as failure:
        raise UserError(
            f"cannot write {path}: {failure.strerror}; free space or drop --keep-embeddings",
            ExitCode.FILE_SYSTEM,
        ) from failure
    return embedding


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but there is no GPU; use auto or cpu", ExitCode.ENVIRONMENT)
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(asked)
