"""Random files in the layouts that LPIPS is made of: torchvision's classifiers, linear heads."""

import torch
from torch import Tensor

from evaluation.lpips import Network

# Names and shapes in torchvision's files, read in its model definitions: place of each convolution
# in `features`, channels out and in, side of its kernel.
OFFICIAL = {
    "alex": [
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ],
    "vgg": [
        *((0, 64, 3, 3), (2, 64, 64, 3), (5, 128, 64, 3), (7, 128, 128, 3), (10, 256, 128, 3)),
        *((12, 256, 256, 3), (14, 256, 256, 3), (17, 512, 256, 3), (19, 512, 512, 3)),
        *((21, 512, 512, 3), (24, 512, 512, 3), (26, 512, 512, 3), (28, 512, 512, 3)),
    ],
}
CHANNELS = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512]}


def backbone(network: Network) -> dict[str, Tensor]:
    """A random file of torchvision's layout, with one of the layers that LPIPS does not use."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.6.bias": torch.zeros(7)}
    for place, out, into, side in OFFICIAL[network]:
        weight = torch.randn(out, into, side, side, generator=generator)
        state[f"features.{place}.weight"] = weight * (2 / (into * side * side)) ** 0.5
        state[f"features.{place}.bias"] = 0.05 * torch.randn(out, generator=generator)
    return state


def heads(network: Network) -> dict[str, Tensor]:
    """A random file of the layout of the official linear heads."""
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{number}.model.1.weight": torch.rand(1, count, 1, 1, generator=generator)
        for number, count in enumerate(CHANNELS[network])
    }
