"""Segment Anything as a function of a photo and points; knows nothing of grids, filters or files.

The networks are kornia's, or those of the package segment-anything where that is installed. Both
take the official files of weights, key for key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from arguments.messages import ExitCode, UserError
from masks.weights import Release, Weights, fill

SamKind = Literal["mobile_sam", "sam_vit_b", "sam_vit_l", "sam_vit_h"]
Backend = Literal["kornia", "segment_anything"]

SIDE = 1024  # pixels; photos are brought to this longest side and padded to a square
PIXEL_MEAN = (123.675, 116.28, 103.53)  # of photographs on the web, in levels of 8 bits
PIXEL_STD = (58.395, 57.12, 57.375)
THRESHOLD = 0.0  # of the logits

META = "https://dl.fbaipublicfiles.com/segment_anything"
RELEASES: dict[SamKind, Release] = {
    "mobile_sam": Release(
        "mobile_sam.pt",
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
    ),
    "sam_vit_b": Release(
        "sam_vit_b_01ec64.pth", f"{META}/sam_vit_b_01ec64.pth", 375, digest="01ec64"
    ),
    "sam_vit_l": Release("sam_vit_l_0b3195.pth", f"{META}/sam_vit_l_0b3195.pth", digest="0b3195"),
    "sam_vit_h": Release("sam_vit_h_4b8939.pth", f"{META}/sam_vit_h_4b8939.pth", digest="4b8939"),
}


@runtime_checkable
class SamNetwork(Protocol):
    """The three parts that every implementation of the model has."""

    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module


@dataclass(frozen=True)
class Embedding:
    """What the decoder knows of a photo.

    Attributes:
        features: of the padded square.
        photo_size: (height, width) of the photo.
        input_size: (height, width) that the photo has inside the square.
    """

    features: Float[Tensor, "1 256 64 64"]
    photo_size: tuple[int, int]
    input_size: tuple[int, int]


def input_size(photo_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a photo whose longest side is brought to `SIDE`, halves rounded up."""
    scale = SIDE / max(photo_size)
    height, width = (int(side * scale + 0.5) for side in photo_size)
    return max(1, height), max(1, width)


class SegmentAnything:
    """The model on a device, ready to be asked."""

    def __init__(self, network: SamNetwork, device: torch.device) -> None:
        self.network = network
        self.device = device

    @torch.no_grad()
    def encode(self, image: UInt8[ndarray, "H W 3"]) -> Embedding:
        """The slow half: once for each photo."""
        photo_size = (image.shape[0], image.shape[1])
        height, width = input_size(photo_size)
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).to(self.device).permute(2, 0, 1).float()
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
        square = F.pad((pixels - mean) / std, (0, SIDE - width, 0, SIDE - height))
        return Embedding(self.network.image_encoder(square[None]), photo_size, (height, width))

    @torch.no_grad()
    def decode(
        self, embedding: Embedding, points: Float[Tensor, "P 2"]
    ) -> tuple[Float[Tensor, "P 3 256 256"], Float[Tensor, "P 3"]]:
        """Logits of three masks at each point (part, larger part, whole) and their promised IoU.

        Args:
            points: (x, y) in pixels of the photo.
        """
        (height, width), (small_height, small_width) = embedding.photo_size, embedding.input_size
        scale = points.new_tensor([small_width / width, small_height / height])
        prompts = (points * scale).to(self.device)[:, None]
        labels = torch.ones(len(points), 1, dtype=torch.int, device=self.device)
        sparse, dense = self.network.prompt_encoder((prompts, labels), None, None)
        logits, iou = self.network.mask_decoder(
            image_embeddings=embedding.features,
            image_pe=self.network.prompt_encoder.get_dense_pe(),  # type: ignore[operator]
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return logits, iou

    @torch.no_grad()
    def enlarge(
        self, embedding: Embedding, logits: Float[Tensor, "K 256 256"]
    ) -> Float[Tensor, "K H W"]:
        """Logits of the square at the size of the photo."""
        square = _resize(logits[:, None], (SIDE, SIDE))
        height, width = embedding.input_size
        return _resize(square[..., :height, :width], embedding.photo_size)[:, 0]


def _resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(planes, size, mode="bilinear", align_corners=False)


def _kornia_network(kind: SamKind) -> nn.Module:
    from kornia.models.sam import Sam, SamConfig  # type: ignore[attr-defined]

    return Sam.from_config(SamConfig(kind.removeprefix("sam_")))


def _original_network(kind: SamKind) -> nn.Module:
    if kind == "mobile_sam":
        raise UserError(
            "the package segment-anything has no mobile_sam; use --sam-backend kornia",
            ExitCode.USAGE,
        )
    try:
        from segment_anything import sam_model_registry  # type: ignore[import-not-found]
    except (ImportError, RuntimeError) as failure:  # a torchvision of another build: RuntimeError
        raise UserError(
            f"--sam-backend segment_anything cannot be imported: {failure}; pip install "
            "segment-anything and a torchvision that fits torch, or use --sam-backend kornia",
            ExitCode.ENVIRONMENT,
        ) from failure
    return sam_model_registry[kind.removeprefix("sam_")]()


NETWORKS: dict[Backend, Callable[[SamKind], nn.Module]] = {
    "kornia": _kornia_network,
    "segment_anything": _original_network,
}


def build_sam(
    kind: SamKind, backend: Backend, weights: Weights, device: torch.device
) -> SegmentAnything:
    """The model with `weights` in it.

    Raises:
        UserError: the backend is not installed, or the weights are those of another model.
    """
    network = NETWORKS[backend](kind)
    fill(network, weights, RELEASES[kind])
    return SegmentAnything(network.to(device), device)  # type: ignore[arg-type]
