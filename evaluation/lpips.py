"""LPIPS, the distance of pictures in the features of an image classifier, with weights of the user.

Zhang et al. 2018 (The Unreasonable Effectiveness of Deep Features), version 0.1 with learned linear
heads. AlexNet and VGG-16 give different numbers, so a value is never without its network's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from arguments.messages import UserError
from masks.weights import (
    Release,
    Weights,
    fill,
    find_weights,
    read_weights,
    require_weights,
    weight_folders,
)

Network = Literal["alex", "vgg"]

NAMES: dict[Network, str] = {"alex": "LPIPS (AlexNet)", "vgg": "LPIPS (VGG-16)"}
SMALLEST_SIDE = 32  # pixels; below it a pooling layer has nothing left
SHIFT = (-0.030, -0.088, -0.188)  # of pixels in [-1, 1], before the network
SCALE = (0.458, 0.448, 0.450)
SMALLEST_NORM = 1e-10

BACKBONES: dict[Network, Release] = {
    "alex": Release(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        digest="7be5be79",
    ),
    "vgg": Release(
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        digest="397923af",
    ),
}
HEAD_SOURCE = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"
HEADS: dict[Network, Release] = {
    "alex": Release("lpips_alex.pth", f"{HEAD_SOURCE}/alex.pth", digest="df73285e"),
    "vgg": Release("lpips_vgg.pth", f"{HEAD_SOURCE}/vgg.pth", digest="a78928a0"),
}


@dataclass(frozen=True)
class _Conv:
    """One convolution with ReLU, by its place in the classifier's `features`."""

    place: int
    channels: int
    size: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class _Pool:
    """Maximum over windows, two pixels apart."""

    size: int


TAP = "tap"  # features are compared here
STACKS: dict[Network, tuple[_Conv | _Pool | str, ...]] = {
    "alex": (
        *(_Conv(0, 64, 11, 4, 2), TAP, _Pool(3), _Conv(3, 192, 5, 1, 2), TAP, _Pool(3)),
        *(_Conv(6, 384), TAP, _Conv(8, 256), TAP, _Conv(10, 256), TAP),
    ),
    "vgg": (
        *(_Conv(0, 64), _Conv(2, 64), TAP, _Pool(2), _Conv(5, 128), _Conv(7, 128), TAP, _Pool(2)),
        *(_Conv(10, 256), _Conv(12, 256), _Conv(14, 256), TAP, _Pool(2)),
        *(_Conv(17, 512), _Conv(19, 512), _Conv(21, 512), TAP, _Pool(2)),
        *(_Conv(24, 512), _Conv(26, 512), _Conv(28, 512), TAP),
    ),
}


class Stack(nn.Module):
    """The convolutions of a classifier up to the last that is compared."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._plan = STACKS[network]
        self.features = nn.ModuleDict()
        channels = 3
        for step in self._plan:
            if isinstance(step, _Conv):
                self.features[str(step.place)] = nn.Conv2d(
                    channels, step.channels, step.size, step.stride, step.padding
                )
                channels = step.channels

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Features [B, C, h, w] at each tap."""
        taps = []
        for step in self._plan:
            if isinstance(step, _Conv):
                pixels = self.features[str(step.place)](pixels).relu()
            elif isinstance(step, _Pool):
                pixels = nn.functional.max_pool2d(pixels, step.size, 2)
            else:
                taps.append(pixels)
        return taps

    def tapped(self) -> list[int]:
        """Channels at each tap."""
        before = zip(self._plan, self._plan[1:], strict=False)
        return [step.channels for step, after in before if after == TAP and isinstance(step, _Conv)]


class Heads(nn.Module):
    """One weight for each channel of each tap."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        for number, count in enumerate(channels):
            self.add_module(f"lin{number}", _Head(count))

    def forward(self, differences: list[Tensor]) -> Float[Tensor, " B"]:
        """Sum over the taps of the weighted channels' mean over pixels."""
        heads = list(self.children())
        return torch.stack(
            [head(d).mean(dim=(1, 2, 3)) for head, d in zip(heads, differences, strict=True)]
        ).sum(dim=0)


class _Head(nn.Module):
    """Named as in the official file, where a dropout comes first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})

    def forward(self, difference: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 h w"]:
        """Weighted sum over the channels."""
        return self.model["1"](difference)


@dataclass(frozen=True)
class Lpips:
    """The distance, with the network that it is measured in."""

    network: Network
    stack: Stack
    heads: Heads

    @torch.no_grad()
    def __call__(self, picture: UInt8[Tensor, "H W 3"], photo: UInt8[Tensor, "H W 3"]) -> float:
        """Distance of two pictures; 0 for equal ones.

        Raises:
            ValueError: the picture is too small for the network's strides.
        """
        if min(picture.shape[:2]) < SMALLEST_SIDE:
            height, width = picture.shape[:2]
            raise ValueError(f"LPIPS needs {SMALLEST_SIDE} pixels a side, got {width}x{height}")
        both = torch.stack([picture, photo]).permute(0, 3, 1, 2).float() / 127.5 - 1
        shift, scale = (both.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        taps = self.stack((both - shift) / scale)
        differences = []
        for tap in taps:
            unit = tap / (tap.square().sum(dim=1, keepdim=True).sqrt() + SMALLEST_NORM)
            differences.append((unit[:1] - unit[1:]).square())
        return float(self.heads(differences))


def load_lpips(network: Network, folder: Path | None, device: torch.device) -> Lpips:
    """LPIPS with the classifier of torchvision and the official linear heads.

    Args:
        folder: where both files lie; None looks where `masks.weights` looks.

    Raises:
        UserError: a file is missing, damaged or of another model.
    """
    stack = Stack(network)
    heads = Heads(stack.tapped())
    for model, release in ((stack, BACKBONES[network]), (heads, HEADS[network])):
        given = folder / release.name if folder else None
        weights = read_weights(require_weights(release, given), release)
        fill(model, _convolutions(weights), release)
    return Lpips(network, stack.to(device), heads.to(device))


def why_not(network: Network, folder: Path | None) -> str:
    """Which file LPIPS lacks, in words; empty where it lacks none."""
    for release in (BACKBONES[network], HEADS[network]):
        try:
            path = find_weights(release, folder / release.name if folder else None)
        except UserError:
            path = None
        if path is None:
            where = folder or weight_folders()[0]
            return f"no {release.name} weights in {where} ({release.url}); none are downloaded"
    return ""


def _convolutions(weights: Weights) -> Weights:
    """Without the classifier's fully connected layers, which LPIPS does not use."""
    kept: Mapping[str, Tensor] = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if not name.startswith("classifier.")
    }
    return Weights(weights.path, kept, weights.sha256)
