"""Models filled with random numbers, so that official layouts can be tested without their files."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from masks.sam import SegmentAnything


def fill_randomly(model: nn.Module, seed: int = 0) -> None:
    """Random tensors under which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or (tensor.ndim < 2 and name.endswith("weight")):
                tensor.copy_(1.0 + 0.1 * normal(tensor).abs())
            elif tensor.ndim < 2 or name.endswith("bias"):
                tensor.copy_(0.1 * normal(tensor))
            else:
                tensor.copy_(normal(tensor) / tensor[0].numel() ** 0.5)


def spread_answers(model: SegmentAnything, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Change the last layers of a randomly filled model so that its masks are blobs that differ.

    Logits vary from patch to patch, not inside, are positive in the highest tenth of the photo and
    have a spread of 12; promised IoUs have one of 0.1 around 0.8.
    """
    decoder: Any = model.network.mask_decoder
    embedding = model.encode(image)
    height, width = embedding.photo_size
    places = torch.tensor([[0.2, 0.3], [0.7, 0.4], [0.5, 0.8], [0.9, 0.9]]).double()
    points = places * torch.tensor([width, height])
    features: list[Tensor] = []
    with torch.no_grad():
        for layer in decoder.output_upscaling:
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.copy_(2 * layer.weight.mean(dim=(2, 3), keepdim=True))
        hook = decoder.output_upscaling.register_forward_hook(lambda *io: features.append(io[2]))
        heads = [head.layers[-1] for head in decoder.output_hypernetworks_mlps[1:]]
        for _ in range(3):  # a shift of the logits changes their spread a little
            logits, _ = model.decode(embedding, points)
            mean = features.pop().mean(dim=(0, 2, 3))
            for head, planes in zip(heads, logits.unbind(1), strict=True):
                head.bias.sub_(planes.flatten()[::17].quantile(0.9) * mean / mean.square().sum())
                scale = 12.0 / planes.std()
                head.weight.mul_(scale)
                head.bias.mul_(scale)
        hook.remove()
        _, iou = model.decode(embedding, points)
        last = decoder.iou_prediction_head.layers[-1]
        factor = 0.1 / iou.std()
        last.weight.mul_(factor)
        last.bias.mul_(factor).add_(0.8 - iou.mean() * factor)
